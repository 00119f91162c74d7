"""The SQL behind `Stores`: every change is one transaction that also raises the store's generation.

Trusts its caller: it authorises nobody and opens no index.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from retrieval import tables
from retrieval.errors import FileNotUsable
from retrieval.files import StoredFile
from retrieval.hits import Hit
from retrieval.ingest import EmbeddedFile
from retrieval.store import Vectors
from retrieval.tables import FileStatus

_stores = tables.vector_stores
_attached = tables.vector_store_files
_chunks = tables.chunks


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """A vector store as of `generation`. `created_at` is in seconds since 1970."""

    id: str
    tenant_id: str
    name: str
    embedder_name: str
    embedder_digest: str
    dimension: int
    generation: int
    created_at: int


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file's state in a store; `last_error_code` is set when `status` is failed."""

    vector_store_id: str
    file_id: str
    status: FileStatus
    last_error_code: str | None
    last_error_message: str | None
    usage_bytes: int


@dataclass(frozen=True, slots=True)
class Change:
    """A committed change of a store's chunks: the generation it made and the chunk ids it touched."""

    generation: int
    chunk_ids: tuple[int, ...]


_STORE_COLUMNS = [_stores.c[name] for name in StoreRecord.__slots__]
_ATTACHED_COLUMNS = [_attached.c[name] for name in AttachedFile.__slots__]
_HIT_COLUMNS = [column for column in _chunks.c if column.name not in ("vector", "embedding_tokens")]


class Catalog:
    """Queries over `vector_stores`, `vector_store_files` and `chunks`."""

    def __init__(self, db: sa.Engine) -> None:
        self._db = db

    def insert_store(self, record: StoreRecord) -> None:
        row = {name: getattr(record, name) for name in StoreRecord.__slots__} | {"metadata": {}}
        with self._db.begin() as connection:
            connection.execute(sa.insert(_stores).values(row))

    def find_store(self, tenant_id: str, store_id: str) -> StoreRecord | None:
        query = sa.select(*_STORE_COLUMNS).where(_stores.c.id == store_id, _stores.c.tenant_id == tenant_id)
        with self._db.connect() as connection:
            row = connection.execute(query).one_or_none()
        return StoreRecord(*row) if row else None

    def delete_store(self, store_id: str) -> None:
        with self._db.begin() as connection:
            # Attachments first: an ingest that is committing holds one of these rows and still adds chunks.
            connection.execute(sa.delete(_attached).where(_attached.c.vector_store_id == store_id))
            connection.execute(sa.delete(_chunks).where(_chunks.c.vector_store_id == store_id))
            connection.execute(sa.delete(_stores).where(_stores.c.id == store_id))

    def attached(self, store_id: str, file_id: str) -> AttachedFile | None:
        query = sa.select(*_ATTACHED_COLUMNS).where(_is(store_id, file_id))
        with self._db.connect() as connection:
            row = connection.execute(query).one_or_none()
        return AttachedFile(*row) if row else None

    def list_attached(self, store_id: str) -> list[AttachedFile]:
        query = sa.select(*_ATTACHED_COLUMNS).where(_attached.c.vector_store_id == store_id)
        with self._db.connect() as connection:
            return [AttachedFile(*row) for row in connection.execute(query.order_by(_attached.c.file_id))]

    def same_content(self, store_id: str, file: StoredFile) -> AttachedFile | None:
        """A completed file of the store with this one's name and bytes."""
        query = (
            sa.select(*_ATTACHED_COLUMNS)
            .join(tables.files, tables.files.c.id == _attached.c.file_id)
            .where(
                _attached.c.vector_store_id == store_id,
                _attached.c.status == "completed",
                tables.files.c.sha256 == file.sha256,
                tables.files.c.filename == file.filename,
            )
            .limit(1)
        )
        with self._db.connect() as connection:
            row = connection.execute(query).one_or_none()
        return AttachedFile(*row) if row else None

    def begin(self, store_id: str, file_id: str) -> None:
        """Mark the file in progress, also after an earlier failure."""
        fresh: dict[str, object] = {
            "status": "in_progress",
            "last_error_code": None,
            "last_error_message": None,
            "usage_bytes": 0,
        }
        row = {
            "vector_store_id": store_id,
            "file_id": file_id,
            "attributes": {},
            "created_at": int(time.time()),
        }
        try:
            with self._db.begin() as connection:
                connection.execute(sa.insert(_attached).values(row | fresh))
        except sa.exc.IntegrityError:
            unfinished = _is(store_id, file_id) & (_attached.c.status != "completed")
            with self._db.begin() as connection:
                connection.execute(sa.update(_attached).where(unfinished).values(fresh))

    def fail(self, store_id: str, file_id: str, error: FileNotUsable) -> None:
        values = {"status": "failed", "last_error_code": error.code, "last_error_message": error.detail}
        with self._db.begin() as connection:
            connection.execute(sa.update(_attached).where(_is(store_id, file_id)).values(values))

    def complete(self, store: StoreRecord, file_id: str, embedded: EmbeddedFile) -> Change | None:
        """Commit chunks, state and generation together; None when the file is no longer waiting for them."""
        waiting = _is(store.id, file_id) & (_attached.c.status == "in_progress")
        done = {"status": "completed", "usage_bytes": embedded.usage_bytes}
        insert = sa.insert(_chunks).returning(_chunks.c.id, sort_by_parameter_order=True)
        with self._db.begin() as connection:
            if connection.execute(sa.update(_attached).where(waiting).values(done)).rowcount == 0:
                return None
            ids = connection.scalars(insert, _rows(store, file_id, embedded)).all()
            return Change(_raise_generation(connection, store.id), tuple(ids))

    def detach(self, store_id: str, file_id: str) -> Change | None:
        """Delete the file's chunks from the store; None when it was not there."""
        delete = sa.delete(_chunks).where(_chunks.c.vector_store_id == store_id, _chunks.c.file_id == file_id)
        with self._db.begin() as connection:
            if connection.execute(sa.delete(_attached).where(_is(store_id, file_id))).rowcount == 0:
                return None
            ids = connection.scalars(delete.returning(_chunks.c.id)).all()
            return Change(_raise_generation(connection, store_id), tuple(ids))

    def hits(self, store_id: str, scored: Sequence[tuple[int, float]]) -> list[Hit]:
        """The chunks behind (id, score), in that order; one deleted since the search is left out."""
        query = (
            sa.select(*_HIT_COLUMNS, tables.files.c.filename)
            .join(tables.files, tables.files.c.id == _chunks.c.file_id)
            .where(_chunks.c.vector_store_id == store_id, _chunks.c.id.in_([id_ for id_, _ in scored]))
        )
        with self._db.connect() as connection:
            rows = {row["id"]: row for row in connection.execute(query).mappings()}
        return [_hit(store_id, rows[id_], score) for id_, score in scored if id_ in rows]


def _is(store_id: str, file_id: str) -> sa.ColumnElement[bool]:
    return (_attached.c.vector_store_id == store_id) & (_attached.c.file_id == file_id)


def _hit(store_id: str, row: sa.RowMapping, score: float) -> Hit:
    return Hit(
        chunk_id=row["id"],
        tenant_id=row["tenant_id"],
        store_id=store_id,
        file_id=row["file_id"],
        filename=row["filename"],
        ordinal=row["ordinal"],
        title=row["title"],
        heading=row["heading"],
        text=row["text"],
        score=score,
    )


def _raise_generation(connection: sa.Connection, store_id: str) -> int:
    update = sa.update(_stores).where(_stores.c.id == store_id)
    raised = update.values(generation=_stores.c.generation + 1).returning(_stores.c.generation)
    return int(connection.scalars(raised).one())


def _rows(store: StoreRecord, file_id: str, embedded: EmbeddedFile) -> list[dict[str, object]]:
    return [
        {
            "tenant_id": store.tenant_id,
            "vector_store_id": store.id,
            "file_id": file_id,
            "ordinal": ordinal,
            "title": chunk.title,
            "heading": chunk.heading,
            "text": chunk.text,
            "embedding_tokens": tokens,
            "vector": _bytes(vector),
        }
        for ordinal, (chunk, tokens, vector) in enumerate(
            zip(embedded.chunks, embedded.tokens, embedded.vectors, strict=True)
        )
    ]


def _bytes(vector: Vectors) -> bytes:
    return vector.astype(np.dtype("<f4")).tobytes()
