"""A home of a test's own, and the handbook in it with an embedder that needs no model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.demo import handbook
from deploy.demo.place import Place
from gateway.app import open_knowledge
from gateway.database import connect, migrate
from gateway.tenants import Tenants
from retrieval.embedding import HashingEmbedder
from retrieval.files import FileStore
from retrieval.knowledge import Knowledge
from retrieval.stores import Stores


@dataclass(frozen=True)
class Desk:
    """Retrieval in a home, and the tenant whose handbook it is."""

    knowledge: Knowledge
    stores: Stores
    files: FileStore
    tenant: str
    home: Path

    def ingest(self, pages: Path = handbook.PAGES) -> str:
        return handbook.ingest(self.stores, self.files, self.tenant, lambda *_: None, pages)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A home that does not exist yet, and an environment that says nothing of another."""
    for name in [name for name in os.environ if name.startswith("REPERTORY_")]:
        monkeypatch.delenv(name)
    return Place(tmp_path / "home")


def _open_desk(home: Path) -> Iterator[Desk]:
    home.mkdir(parents=True)
    db = connect(f"sqlite:///{home / 'repertory.db'}")
    migrate(db)
    tenant = Tenants(db, pepper=b"pepper").ensure("globex").id
    yield Desk(*open_knowledge(db, HashingEmbedder(), home, b"lessons"), tenant, home)
    db.dispose()


@pytest.fixture
def desk(place: Place) -> Iterator[Desk]:
    yield from _open_desk(place.home)


@pytest.fixture(scope="session")
def handbook_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk to read from only; ask `handbook_store` for the whole handbook in it."""
    yield from _open_desk(tmp_path_factory.mktemp("handbook") / "home")


@pytest.fixture(scope="session")
def handbook_store(handbook_desk: Desk) -> str:
    return handbook_desk.ingest()


@pytest.fixture
def pages(tmp_path: Path) -> Callable[..., Path]:
    """Makes a small handbook: pages by name."""

    def make(**texts: str) -> Path:
        folder = tmp_path / "pages"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.md").write_text(text)
        return folder

    return make
