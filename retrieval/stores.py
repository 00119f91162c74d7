"""Vector stores of all tenants: who may open one, what is in it, and searching it.

The one place that authorises: every other method starts from `get`. Knows no questions and no prompts.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from retrieval import tables
from retrieval.catalog import AttachedFile, Catalog, StoreRecord
from retrieval.embedding import Embedder
from retrieval.errors import EmbeddingMismatch, FileNotUsable, StoreNotFound
from retrieval.files import FileStore
from retrieval.hits import Hit
from retrieval.indexes import Indexes
from retrieval.ingest import EmbeddedFile, chunks_of, embed_chunks
from retrieval.store import Backend, Stamp, Vector, VectorStore

Progress = Callable[[int, int, int], None]
"""Called with (files_done, chunks_done, chunks_total); the total grows as each file is read."""


class Stores:
    """Safe from any thread and beside other processes: the database's generation says when an index is old.

    Snapshots of indexes are kept under `root`. Every method that takes a tenant and a store id raises
    StoreNotFound, the same for an unknown id and for another tenant's.
    """

    def __init__(
        self, db: sa.Engine, embedder: Embedder, root: Path, *, files: FileStore, backend: Backend
    ) -> None:
        self._catalog = Catalog(db)
        self._embedder = embedder
        self._files = files
        self._indexes = Indexes(db, backend, root)

    def create(self, tenant_id: str, name: str) -> StoreRecord:
        """A new, empty store, bound to the running embedding model for good."""
        record = StoreRecord(
            id=tables.new_id("vs_"),
            tenant_id=tenant_id,
            name=name,
            embedder_name=self._embedder.name,
            embedder_digest=self._embedder.digest,
            dimension=self._embedder.dimension,
            generation=0,
            created_at=int(time.time()),
        )
        self._catalog.insert_store(record)
        return record

    def get(self, tenant_id: str, store_id: str) -> StoreRecord:
        """The store, if it is this tenant's."""
        record = self._catalog.find_store(tenant_id, store_id)
        if record is None:
            raise StoreNotFound(store_id)
        return record

    def delete(self, tenant_id: str, store_id: str) -> None:
        """Delete the store with its chunks, index and snapshot; its files stay."""
        record = self.get(tenant_id, store_id)
        self._catalog.delete_store(record.id)
        self._indexes.drop(record.id)

    def open(self, store: StoreRecord) -> VectorStore:
        """The store's index, loaded or rebuilt if need be. Raises EmbeddingMismatch."""
        self._check_embedder(store)
        stamp = Stamp(store.generation, store.dimension, store.embedder_digest)
        return self._indexes.open(store.id, stamp)

    def search(self, store: StoreRecord, vector: Vector, k: int) -> list[Hit]:
        """The `k` nearest chunks, best first. Raises EmbeddingMismatch."""
        return self._catalog.hits(store.id, self.open(store).search(vector, k))

    def add_file(
        self, tenant_id: str, store_id: str, file_id: str, progress: Progress | None = None
    ) -> AttachedFile:
        """Chunk, embed and commit one file. The same name and bytes again change nothing.

        Raises FileMissing, EmbeddingMismatch, and FileNotUsable after recording the failure in the store.
        """
        store = self.get(tenant_id, store_id)
        self._check_embedder(store)
        return self._add(store, file_id, _Meter(progress))

    def add_files(
        self, tenant_id: str, store_id: str, file_ids: Sequence[str], progress: Progress | None = None
    ) -> list[AttachedFile]:
        """As `add_file` for each; an unusable file is returned as failed and the others go on."""
        store = self.get(tenant_id, store_id)
        self._check_embedder(store)
        meter = _Meter(progress)
        added = []
        for file_id in file_ids:
            try:
                added.append(self._add(store, file_id, meter))
            except FileNotUsable as error:
                failed = AttachedFile(store.id, file_id, "failed", error.code, error.detail, 0)
                added.append(failed)
                meter.file_done()
        return added

    def list_files(self, tenant_id: str, store_id: str) -> list[AttachedFile]:
        """Every file attached to the store, whatever its state."""
        return self._catalog.list_attached(self.get(tenant_id, store_id).id)

    def remove_file(self, tenant_id: str, store_id: str, file_id: str) -> None:
        """Take the file's text and vectors out of the store; nothing happens when it is not there."""
        store = self.get(tenant_id, store_id)
        change = self._catalog.detach(store.id, file_id)
        if change is not None:
            self._indexes.advance(store.id, change.generation, lambda index: index.remove(change.chunk_ids))
            self._indexes.discard_snapshot(store.id)

    def _add(self, store: StoreRecord, file_id: str, meter: "_Meter") -> AttachedFile:
        file = self._files.get(store.tenant_id, file_id)
        same = self._catalog.same_content(store.id, file)
        if same is not None:
            meter.file_done()
            return same
        data = self._files.read(store.tenant_id, file_id)
        self._catalog.begin(store.id, file_id)
        try:
            chunks = chunks_of(file.filename, data, self._embedder)
        except FileNotUsable as error:
            self._catalog.fail(store.id, file_id, error)
            raise
        meter.chunks_found(len(chunks))
        embedded = embed_chunks(chunks, self._embedder, meter.chunks_embedded)
        attached = self._commit(store, file_id, embedded)
        meter.file_done()
        return attached

    def _commit(self, store: StoreRecord, file_id: str, embedded: EmbeddedFile) -> AttachedFile:
        change = self._catalog.complete(store, file_id, embedded)
        if change is not None:
            add = partial(_add_to, ids=change.chunk_ids, embedded=embedded)
            self._indexes.advance(store.id, change.generation, add)
        # Another caller may have finished or removed the file meanwhile; the row says which.
        attached = self._catalog.attached(store.id, file_id)
        return attached or AttachedFile(store.id, file_id, "cancelled", None, None, 0)

    def _check_embedder(self, store: StoreRecord) -> None:
        if store.embedder_digest != self._embedder.digest:
            built_with = f"{store.embedder_name} ({store.embedder_digest[:12]})"
            running = f"{self._embedder.name} ({self._embedder.digest[:12]})"
            raise EmbeddingMismatch(store.id, built_with, running)


def _add_to(index: VectorStore, *, ids: Sequence[int], embedded: EmbeddedFile) -> None:
    index.add(ids, embedded.vectors)


class _Meter:
    """Running totals over one ingest, told to `progress` after each step."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._files_done = self._chunks_done = self._chunks_total = 0

    def chunks_found(self, number: int) -> None:
        self._chunks_total += number
        self._tell()

    def chunks_embedded(self, number: int) -> None:
        self._chunks_done += number
        self._tell()

    def file_done(self) -> None:
        self._files_done += 1
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._files_done, self._chunks_done, self._chunks_total)
