"""Uploaded files: a row in the database, the bytes in a folder.

Knows no formats and no vector stores' contents.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from retrieval import tables
from retrieval.durable import write_atomic
from retrieval.errors import FileInUse, FileMissing


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One uploaded file. `created_at` is in seconds since 1970, `bytes` its size."""

    id: str
    tenant_id: str
    filename: str
    bytes: int
    purpose: str
    sha256: str
    created_at: int
    status: str


class FileStore:
    """Keeps every tenant's files apart under `root/<tenant>/<file id>`; a filename never reaches a path."""

    def __init__(self, db: sa.Engine, root: Path) -> None:
        self._db = db
        self._root = root

    def put(self, tenant_id: str, filename: str, data: bytes, purpose: str) -> StoredFile:
        """Store `data`.

        The row is committed only once the bytes are safe on disk. Raises OSError, ValueError.
        """
        stored = StoredFile(
            id=tables.new_id("file-"),
            tenant_id=tenant_id,
            filename=filename,
            bytes=len(data),
            purpose=purpose,
            sha256=hashlib.sha256(data).hexdigest(),
            created_at=int(time.time()),
            status="processed",
        )
        path = self._path(tenant_id, stored.id)
        write_atomic(path, data)
        row = {column.name: getattr(stored, column.name) for column in tables.files.c}
        try:
            with self._db.begin() as connection:
                connection.execute(sa.insert(tables.files).values(row))
        except sa.exc.SQLAlchemyError:
            path.unlink(missing_ok=True)
            raise
        return stored

    def get(self, tenant_id: str, file_id: str) -> StoredFile:
        """Raises FileMissing, the same for an unknown id and for another tenant's."""
        query = sa.select(tables.files).where(
            tables.files.c.id == file_id, tables.files.c.tenant_id == tenant_id
        )
        with self._db.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise FileMissing(file_id)
        values: dict[str, Any] = dict(row)
        return StoredFile(**values)

    def read(self, tenant_id: str, file_id: str) -> bytes:
        """The bytes as uploaded. Raises FileMissing."""
        stored = self.get(tenant_id, file_id)
        try:
            return self._path(stored.tenant_id, stored.id).read_bytes()
        except FileNotFoundError:
            raise FileMissing(file_id) from None

    def delete(self, tenant_id: str, file_id: str) -> None:
        """Remove the row, then the bytes. Raises FileMissing, FileInUse."""
        stored = self.get(tenant_id, file_id)
        attached = sa.select(tables.vector_store_files.c.vector_store_id).where(
            tables.vector_store_files.c.file_id == file_id
        )
        with self._db.begin() as connection:
            store_ids = tuple(connection.scalars(attached.order_by("vector_store_id")))
            if store_ids:
                raise FileInUse(file_id, store_ids)
            connection.execute(sa.delete(tables.files).where(tables.files.c.id == file_id))
        self._path(stored.tenant_id, stored.id).unlink(missing_ok=True)

    def _path(self, tenant_id: str, file_id: str) -> Path:
        # Percent-encoding leaves no separator, so a tenant id is one folder name; dots alone would climb.
        folder = quote(tenant_id, safe="")
        if not folder.strip("."):
            raise ValueError(f"tenant id {tenant_id!r} cannot name a folder")
        return self._root / folder / file_id
