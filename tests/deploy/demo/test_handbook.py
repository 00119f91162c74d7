"""The handbook as a vector store: all of it, current or made anew, and gone without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.demo import handbook
from retrieval.embedding import HashingEmbedder
from retrieval.errors import FileMissing, StoreNotFound
from tests.deploy.demo.conftest import Desk


def test_every_page_is_read_into_the_store(handbook_desk: Desk, handbook_store: str) -> None:
    attached = handbook_desk.stores.list_files(handbook_desk.tenant, handbook_store)
    names = {handbook_desk.files.get(handbook_desk.tenant, file.file_id).filename for file in attached}
    assert names == {page.name for page in handbook.PAGES.glob("*.md")}
    assert {file.status for file in attached} == {"completed"}


def test_progress_counts_files_to_the_last(desk: Desk, pages: Callable[..., Path]) -> None:
    told: list[tuple[int, int, int]] = []
    folder = pages(a="# A\n\nAlpha.\n", b="# B\n\nBeta.\n")
    handbook.ingest(desk.stores, desk.files, desk.tenant, lambda *counts: told.append(counts), folder)
    assert told[-1] == (2, 2, 2)
    assert told == sorted(told)


def test_a_store_is_current_while_it_is_there_for_this_tenant_and_embedder(
    desk: Desk, pages: Callable[..., Path]
) -> None:
    digest = HashingEmbedder().digest
    store = desk.ingest(pages(a="# A\n\nAlpha.\n"))
    assert handbook.is_current(desk.stores, desk.tenant, store, digest)
    assert not handbook.is_current(desk.stores, desk.tenant, store, HashingEmbedder(64).digest)
    assert not handbook.is_current(desk.stores, "another", store, digest)
    assert not handbook.is_current(desk.stores, desk.tenant, "vs_unknown", digest)
    assert not handbook.is_current(desk.stores, desk.tenant, None, digest)


def test_a_forgotten_store_leaves_no_file_behind(desk: Desk, pages: Callable[..., Path]) -> None:
    folder = pages(a="# A\n\nAlpha.\n", b="# B\n\nBeta.\n")
    old, new = desk.ingest(folder), desk.ingest(folder)
    ids = [file.file_id for file in desk.stores.list_files(desk.tenant, old)]
    handbook.forget(desk.stores, desk.files, desk.tenant, old)
    with pytest.raises(StoreNotFound):
        desk.stores.get(desk.tenant, old)
    for file_id in ids:
        with pytest.raises(FileMissing):
            desk.files.get(desk.tenant, file_id)
    kept = {file.file_id for file in desk.stores.list_files(desk.tenant, new)}
    assert {path.name for path in (desk.home / "files").rglob("file-*")} == kept


def test_the_digest_changes_with_a_page_its_name_and_their_number(pages: Callable[..., Path]) -> None:
    folder = pages(a="# A\n", b="# B\n")
    seen = [handbook.digest(folder)]
    assert handbook.digest(folder) == seen[0]
    pages(a="# A!\n")
    seen.append(handbook.digest(folder))
    (folder / "a.md").rename(folder / "c.md")
    seen.append(handbook.digest(folder))
    (folder / "c.md").unlink()
    seen.append(handbook.digest(folder))
    assert len(set(seen)) == 4
