"""The open search indexes, one per vector store, loaded or rebuilt on first use and kept level with the
database.

Knows generations and vectors; authorises nobody.
"""

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from retrieval import tables
from retrieval.errors import IndexCorrupt
from retrieval.store import Backend, Stamp, VectorStore

log = logging.getLogger(__name__)

_STORED = np.dtype("<f4")


@dataclass(slots=True)
class _Entry:
    changing: threading.Lock = field(default_factory=threading.Lock)
    index: VectorStore | None = None
    generation: int = -1


class Indexes:
    """Safe from any thread. Snapshots are written when an index is rebuilt, never on the path of a change."""

    def __init__(self, db: sa.Engine, backend: Backend, root: Path) -> None:
        self._db = db
        self._backend = backend
        self._root = root
        self._entries: dict[str, _Entry] = {}
        self._opening = threading.Lock()

    def open(self, store_id: str, stamp: Stamp) -> VectorStore:
        """The index at `stamp.generation` or later: from memory, else a snapshot, else the database."""
        entry = self._entry(store_id)
        with entry.changing:
            if entry.index is None or entry.generation < stamp.generation:
                entry.index = self._load(store_id, stamp)
                entry.generation = stamp.generation
            return entry.index

    def advance(self, store_id: str, generation: int, change: Callable[[VectorStore], None]) -> None:
        """Apply the committed change that made `generation`, where the index here is exactly one behind.

        Any other index is left: the next `open` sees the newer generation and reloads.
        """
        entry = self._entry(store_id)
        with entry.changing:
            if entry.index is not None and entry.generation == generation - 1:
                change(entry.index)
                entry.generation = generation

    def discard_snapshot(self, store_id: str) -> None:
        """Delete the files, so that nothing removed from the database survives in them."""
        shutil.rmtree(self._root / store_id, ignore_errors=True)

    def drop(self, store_id: str) -> None:
        """Forget a deleted store."""
        with self._opening:
            self._entries.pop(store_id, None)
        self.discard_snapshot(store_id)

    def _entry(self, store_id: str) -> _Entry:
        with self._opening:
            return self._entries.setdefault(store_id, _Entry())

    def _load(self, store_id: str, stamp: Stamp) -> VectorStore:
        folder = self._root / store_id
        try:
            index = self._backend.load(folder, stamp)
        except IndexCorrupt as error:
            log.info("rebuilding the index of %s from the database: %s", store_id, error)
            index = None
        if index is not None:
            return index
        index = self._rebuild(store_id, stamp.dimension)
        try:
            index.save(folder, stamp)
        except OSError as error:
            # A snapshot only saves time at the next start; searching does not depend on it.
            log.warning("no index snapshot for %s: %s", store_id, error)
        return index

    def _rebuild(self, store_id: str, dimension: int) -> VectorStore:
        query = sa.select(tables.chunks.c.id, tables.chunks.c.vector).where(
            tables.chunks.c.vector_store_id == store_id
        )
        with self._db.connect() as connection:
            rows = connection.execute(query.order_by(tables.chunks.c.id)).all()
        vectors = np.frombuffer(b"".join(row.vector for row in rows), _STORED).reshape(len(rows), dimension)
        index = self._backend.create(dimension)
        index.add([row.id for row in rows], vectors.astype(np.float32))
        return index
