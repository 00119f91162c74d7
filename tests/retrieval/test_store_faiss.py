"""A FAISS snapshot is believed only when its manifest vouches for every byte."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import IndexCorrupt
from retrieval.store import Stamp
from retrieval.store_faiss import FaissBackend

STAMP = Stamp(generation=3, dimension=4, embedder_digest="d")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    store = FaissBackend().create(4)
    store.add([5, 6], np.eye(4, dtype=np.float32)[:2])
    store.save(tmp_path, STAMP)
    return tmp_path


def test_a_sound_snapshot_loads_with_its_vectors(saved: Path) -> None:
    loaded = FaissBackend().load(saved, STAMP)
    assert loaded is not None
    assert loaded.search(np.eye(4, dtype=np.float32)[1], 1) == [(6, 1.0)]


def test_nothing_but_the_two_files_is_left(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["index.faiss", "manifest.json"]


@pytest.mark.parametrize("stale", [{"generation": 4}, {"dimension": 5}, {"embedder_digest": "e"}])
def test_a_snapshot_of_another_state_is_refused(saved: Path, stale: dict[str, object]) -> None:
    with pytest.raises(IndexCorrupt):
        FaissBackend().load(saved, replace(STAMP, **stale))


def test_one_flipped_byte_is_noticed(saved: Path) -> None:
    path = saved / "index.faiss"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IndexCorrupt):
        FaissBackend().load(saved, STAMP)


def test_a_truncated_index_is_noticed(saved: Path) -> None:
    path = saved / "index.faiss"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(IndexCorrupt):
        FaissBackend().load(saved, STAMP)


@pytest.mark.parametrize("text", ["not json", "[]"])
def test_a_manifest_that_says_nothing_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_text(text)
    with pytest.raises(IndexCorrupt):
        FaissBackend().load(saved, STAMP)


def test_a_manifest_that_counts_other_vectors_is_refused(saved: Path) -> None:
    path = saved / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ntotal": 7}))
    with pytest.raises(IndexCorrupt, match="number"):
        FaissBackend().load(saved, STAMP)


def test_an_index_without_its_manifest_is_as_good_as_none(saved: Path) -> None:
    (saved / "manifest.json").unlink()
    assert FaissBackend().load(saved, STAMP) is None
