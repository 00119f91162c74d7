"""Vector stores: ownership, ingestion that is all or nothing, and indexes that follow the database."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from retrieval import tables
from retrieval.embedding import HashingEmbedder
from retrieval.errors import EmbeddingMismatch, FileMissing, FileNotUsable, StoreNotFound
from retrieval.files import FileStore
from retrieval.store_faiss import FaissBackend
from retrieval.stores import Stores

LEAVE = b"# Leave\n\nEveryone gets 27 days of annual leave."
PAY = b"# Pay\n\nSalaries arrive on the 25th."


Put = Callable[..., str]


@pytest.fixture
def put(files: FileStore) -> Put:
    """Uploads a file and gives its id."""

    def put(name: str, data: bytes, tenant: str = "acme") -> str:
        return files.put(tenant, name, data, "assistants").id

    return put


def found(stores: Stores, store_id: str, text: str, tenant: str = "acme") -> list[str]:
    vector = HashingEmbedder().embed([text])[0]
    return [hit.filename for hit in stores.search(stores.get(tenant, store_id), vector, 5)]


def test_what_was_added_is_found(stores: Stores, put: Put) -> None:
    store = stores.create("acme", "handbook")
    added = stores.add_file("acme", store.id, put("leave.md", LEAVE))
    stores.add_file("acme", store.id, put("pay.txt", PAY))
    assert added.status == "completed"
    assert added.usage_bytes > len(LEAVE) // 2
    assert found(stores, store.id, "annual leave days")[0] == "leave.md"


def test_a_foreign_or_unknown_store_is_not_found(stores: Stores, put: Put) -> None:
    store = stores.create("acme", "handbook")
    for tenant, store_id in (("globex", store.id), ("acme", "vs_unknown")):
        with pytest.raises(StoreNotFound):
            stores.get(tenant, store_id)
        with pytest.raises(StoreNotFound):
            stores.add_file(tenant, store_id, "file-1")
        with pytest.raises(StoreNotFound):
            stores.remove_file(tenant, store_id, "file-1")
        with pytest.raises(StoreNotFound):
            stores.delete(tenant, store_id)


def test_another_tenants_file_cannot_be_added(stores: Stores, put: Put) -> None:
    store = stores.create("acme", "handbook")
    with pytest.raises(FileMissing):
        stores.add_file("acme", store.id, put("leave.md", LEAVE, "globex"))


def test_the_same_name_and_bytes_again_change_nothing(stores: Stores, put: Put) -> None:
    store = stores.create("acme", "handbook")
    first = stores.add_file("acme", store.id, put("leave.md", LEAVE))
    again = stores.add_file("acme", store.id, put("leave.md", LEAVE))
    assert again == first
    assert stores.get("acme", store.id).generation == 1
    stores.add_file("acme", store.id, put("other-name.md", LEAVE))
    assert stores.get("acme", store.id).generation == 2


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("scan.pdf", b"%PDF", "unsupported_file"),
        ("noname", b"text", "unsupported_file"),
        ("empty.md", b" \n", "invalid_file"),
        ("latin.txt", b"caf\xe9", "invalid_file"),
        ("binary.txt", b"a\0b", "invalid_file"),
    ],
)
def test_an_unusable_file_fails_with_its_reason(
    *, stores: Stores, put: Put, db: sa.Engine, name: str, data: bytes, code: str
) -> None:
    store = stores.create("acme", "handbook")
    file_id = put(name, data)
    with pytest.raises(FileNotUsable) as caught:
        stores.add_file("acme", store.id, file_id)
    assert caught.value.code == code
    with db.connect() as connection:
        row = connection.execute(sa.select(tables.vector_store_files)).mappings().one()
    assert (row["status"], row["last_error_code"]) == ("failed", code)


def test_one_unusable_file_fails_alone_and_progress_is_told(stores: Stores, put: Put) -> None:
    store = stores.create("acme", "handbook")
    steps: list[tuple[int, int, int]] = []
    ids = [put("leave.md", LEAVE), put("x.exe", b"MZ"), put("pay.md", PAY)]
    added = stores.add_files("acme", store.id, ids, lambda *step: steps.append(step))
    assert [file.status for file in added] == ["completed", "failed", "completed"]
    assert steps[-1] == (3, 2, 2)
    assert steps == sorted(steps)


def test_a_failed_file_may_be_tried_again(stores: Stores, put: Put, files: FileStore, tmp_path: Path) -> None:
    store = stores.create("acme", "handbook")
    file_id = put("late.md", b"")
    with pytest.raises(FileNotUsable):
        stores.add_file("acme", store.id, file_id)
    (tmp_path / "files" / "acme" / file_id).write_bytes(LEAVE)
    assert stores.add_file("acme", store.id, file_id).status == "completed"


def test_a_removed_file_is_not_found_again_even_after_a_restart(
    db: sa.Engine, embedder: HashingEmbedder, files: FileStore, tmp_path: Path, put: Put
) -> None:
    def start() -> Stores:
        return Stores(db, embedder, tmp_path / "indexes", files=files, backend=FaissBackend())

    stores = start()
    store = stores.create("acme", "handbook")
    file_id = put("leave.md", LEAVE)
    stores.add_files("acme", store.id, [file_id, put("pay.md", PAY)])
    assert set(found(stores, store.id, "annual leave")) == {"leave.md", "pay.md"}
    stores.remove_file("acme", store.id, file_id)
    stores.remove_file("acme", store.id, file_id)
    assert not (tmp_path / "indexes" / store.id).exists()
    assert found(stores, store.id, "annual leave") == found(start(), store.id, "annual leave") == ["pay.md"]


def test_a_damaged_snapshot_is_rebuilt_from_the_database(
    db: sa.Engine, embedder: HashingEmbedder, files: FileStore, tmp_path: Path, put: Put
) -> None:
    def start() -> Stores:
        return Stores(db, embedder, tmp_path / "indexes", files=files, backend=FaissBackend())

    stores = start()
    store = stores.create("acme", "handbook")
    stores.add_file("acme", store.id, put("leave.md", LEAVE))
    assert found(stores, store.id, "leave") == ["leave.md"]
    assert found(start(), store.id, "leave") == ["leave.md"]
    snapshot = tmp_path / "indexes" / store.id / "index.faiss"
    snapshot.write_bytes(b"garbage")
    assert found(start(), store.id, "leave") == ["leave.md"]
    assert snapshot.read_bytes() != b"garbage"


def test_a_snapshot_that_cannot_be_written_does_not_stop_a_search(
    db: sa.Engine, embedder: HashingEmbedder, files: FileStore, tmp_path: Path, put: Put
) -> None:
    (tmp_path / "indexes").write_text("a file where the folder should be")
    stores = Stores(db, embedder, tmp_path / "indexes", files=files, backend=FaissBackend())
    store = stores.create("acme", "handbook")
    stores.add_file("acme", store.id, put("leave.md", LEAVE))
    assert found(stores, store.id, "leave") == ["leave.md"]


def test_two_processes_see_each_others_changes(
    *, db: sa.Engine, embedder: HashingEmbedder, files: FileStore, tmp_path: Path, put: Put, stores: Stores
) -> None:
    other = Stores(db, embedder, tmp_path / "other", files=files, backend=FaissBackend())
    store = stores.create("acme", "handbook")
    assert found(other, store.id, "leave") == []
    stores.add_file("acme", store.id, put("leave.md", LEAVE))
    assert found(other, store.id, "leave") == ["leave.md"]
    other.add_file("acme", store.id, put("pay.md", PAY))
    assert len(found(stores, store.id, "leave")) == 2


def test_a_store_of_another_embedding_model_is_refused(
    db: sa.Engine, files: FileStore, tmp_path: Path, stores: Stores, put: Put
) -> None:
    store = stores.create("acme", "handbook")
    changed = Stores(db, HashingEmbedder(64), tmp_path / "i", files=files, backend=FaissBackend())
    with pytest.raises(EmbeddingMismatch):
        changed.open(changed.get("acme", store.id))
    with pytest.raises(EmbeddingMismatch):
        changed.add_file("acme", store.id, put("leave.md", LEAVE))


def test_a_file_removed_while_it_is_embedded_leaves_nothing(stores: Stores, put: Put, db: sa.Engine) -> None:
    store = stores.create("acme", "handbook")
    file_id = put("leave.md", LEAVE)

    def remove(files_done: int, chunks_done: int, chunks_total: int) -> None:
        if chunks_done == chunks_total:
            stores.remove_file("acme", store.id, file_id)

    assert stores.add_file("acme", store.id, file_id, remove).status == "cancelled"
    with db.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.chunks)) == 0


def test_deleting_a_store_leaves_its_files_and_nothing_else(
    stores: Stores, put: Put, db: sa.Engine, tmp_path: Path
) -> None:
    store = stores.create("acme", "handbook")
    stores.add_file("acme", store.id, put("leave.md", LEAVE))
    stores.delete("acme", store.id)
    with db.connect() as connection:
        for table, left in ((tables.chunks, 0), (tables.vector_store_files, 0), (tables.files, 1)):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == left
    with pytest.raises(StoreNotFound):
        stores.get("acme", store.id)
