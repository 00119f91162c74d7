"""The handbook as a vector store of its tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from deploy.demo.place import CONTENT
from retrieval.errors import StoreNotFound
from retrieval.files import FileStore
from retrieval.stores import Stores

PAGES = CONTENT / "handbook"


def digest(pages: Path = PAGES) -> str:
    """Of every page's name and bytes."""
    total = hashlib.sha256()
    for page in sorted(pages.glob("*.md")):
        data = page.read_bytes()
        total.update(f"{page.name}\0{len(data)}\0".encode() + data)
    return total.hexdigest()


def is_current(stores: Stores, tenant_id: str, store_id: str | None, embedder_digest: str) -> bool:
    """Whether the store is still there and was built with this embedding model."""
    if store_id is None:
        return False
    try:
        return stores.get(tenant_id, store_id).embedder_digest == embedder_digest
    except StoreNotFound:
        return False


def ingest(
    stores: Stores,
    files: FileStore,
    tenant_id: str,
    on_progress: Callable[[int, int, int], None],
    pages: Path = PAGES,
) -> str:
    """A new store with every page; its id. Progress is (files done, chunks done, chunks in all so far)."""
    store = stores.create(tenant_id, "handbook")
    ids = [
        files.put(tenant_id, page.name, page.read_bytes(), "assistants").id
        for page in sorted(pages.glob("*.md"))
    ]
    stores.add_files(tenant_id, store.id, ids, on_progress)
    return store.id


def forget(stores: Stores, files: FileStore, tenant_id: str, store_id: str) -> None:
    """Delete a store and its files."""
    ids = [attached.file_id for attached in stores.list_files(tenant_id, store_id)]
    stores.delete(tenant_id, store_id)
    for file_id in ids:
        files.delete(tenant_id, file_id)
