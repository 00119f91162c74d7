"""Files belong to one tenant, and names never reach the disk."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from retrieval.errors import FileInUse, FileMissing
from retrieval.files import FileStore
from retrieval.stores import Stores


def test_what_was_put_is_read_back(files: FileStore) -> None:
    stored = files.put("acme", "a.md", b"hello", "assistants")
    assert files.get("acme", stored.id) == stored
    assert files.read("acme", stored.id) == b"hello"
    assert stored.bytes == 5


def test_another_tenants_file_is_missing(files: FileStore) -> None:
    stored = files.put("acme", "a.md", b"hello", "assistants")
    with pytest.raises(FileMissing):
        files.read("globex", stored.id)


@pytest.mark.parametrize("filename", ["../../evil.md", "/etc/passwd", "a/b.md", "..", "con\n.md"])
def test_a_filename_never_chooses_the_path(files: FileStore, tmp_path: Path, filename: str) -> None:
    stored = files.put("acme", filename, b"x", "assistants")
    assert [p for p in (tmp_path / "files").rglob("*") if p.is_file()] == [
        tmp_path / "files" / "acme" / stored.id
    ]


def test_a_tenant_id_with_separators_stays_one_folder(files: FileStore, tmp_path: Path) -> None:
    files.put("../acme", "a.md", b"x", "assistants")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["..%2Facme"]


@pytest.mark.parametrize("tenant_id", ["", ".", ".."])
def test_a_tenant_id_of_dots_is_refused(files: FileStore, tenant_id: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        files.put(tenant_id, "a.md", b"x", "assistants")


def test_deleting_leaves_neither_row_nor_bytes(files: FileStore, tmp_path: Path) -> None:
    stored = files.put("acme", "a.md", b"secret", "assistants")
    files.delete("acme", stored.id)
    with pytest.raises(FileMissing):
        files.get("acme", stored.id)
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_a_file_in_a_store_cannot_be_deleted(files: FileStore, stores: Stores) -> None:
    store = stores.create("acme", "s")
    stored = files.put("acme", "a.md", b"hello", "assistants")
    stores.add_file("acme", store.id, stored.id)
    with pytest.raises(FileInUse) as caught:
        files.delete("acme", stored.id)
    assert caught.value.store_ids == (store.id,)


def test_bytes_that_vanished_are_a_missing_file(files: FileStore, tmp_path: Path) -> None:
    stored = files.put("acme", "a.md", b"x", "assistants")
    (tmp_path / "files" / "acme" / stored.id).unlink()
    with pytest.raises(FileMissing):
        files.read("acme", stored.id)


def test_a_row_that_cannot_be_written_leaves_no_bytes(db: sa.Engine, tmp_path: Path) -> None:
    with db.begin() as connection:
        connection.execute(sa.text("DROP TABLE files"))
    with pytest.raises(sa.exc.OperationalError):
        FileStore(db, tmp_path / "files").put("acme", "a.md", b"x", "assistants")
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
