"""Fixtures for the retrieval tests: a database and folders that vanish, a model-free embedder, two tenants'
worth.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from retrieval import tables
from retrieval.embedding import HashingEmbedder, SentenceTransformerEmbedder
from retrieval.files import FileStore
from retrieval.hits import Hit
from retrieval.store_memory import MemoryBackend
from retrieval.stores import Stores


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/test.db")
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def embedder() -> HashingEmbedder:
    return HashingEmbedder()


@pytest.fixture
def files(db: sa.Engine, tmp_path: Path) -> FileStore:
    return FileStore(db, tmp_path / "files")


@pytest.fixture
def stores(db: sa.Engine, embedder: HashingEmbedder, tmp_path: Path, files: FileStore) -> Stores:
    return Stores(db, embedder, tmp_path / "indexes", files=files, backend=MemoryBackend())


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformerEmbedder:
    path = os.environ.get("REPERTORY_TEST_EMBEDDER")
    if not path:
        pytest.skip("REPERTORY_TEST_EMBEDDER names no embedding model folder")
    return SentenceTransformerEmbedder(Path(path), threads=1)


@pytest.fixture
def hit() -> Callable[..., Hit]:
    """Makes a hit of which only the fields that matter need to be said."""

    def make(text: str = "Some text.", score: float = 0.5, **fields: object) -> Hit:
        values: dict[str, object] = {
            "chunk_id": 1,
            "tenant_id": "acme",
            "store_id": "vs_1",
            "file_id": "file-1",
            "filename": "leave.md",
            "ordinal": 0,
            "title": "Leave",
            "heading": "",
            "text": text,
            "score": score,
        }
        return Hit(**(values | fields))

    return make
