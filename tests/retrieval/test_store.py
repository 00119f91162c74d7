"""The contract every `VectorStore` keeps, run over each backend."""

import threading
from pathlib import Path

import numpy as np
import pytest

from retrieval.store import Backend, Stamp, Vectors
from retrieval.store_faiss import FaissBackend
from retrieval.store_memory import MemoryBackend

DIMENSION = 8
STAMP = Stamp(generation=3, dimension=DIMENSION, embedder_digest="d")


def unit(number: int, seed: int = 0) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(number, DIMENSION)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(params=[MemoryBackend, FaissBackend])
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param()
    return made


def test_an_empty_store_finds_nothing(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    assert (len(store), store.search(unit(1)[0], 5)) == (0, [])


def test_a_vector_finds_itself_first_with_cosine_one(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    vectors = unit(20)
    store.add(range(100, 120), vectors)
    found = store.search(vectors[7], 5)
    assert found[0] == (107, pytest.approx(1.0, abs=1e-5))
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert all(-1.0 <= score <= 1.0 for _, score in found)


def test_it_agrees_with_numpy(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    vectors, query = unit(50), unit(1, seed=1)[0]
    store.add(range(50), vectors)
    exact = vectors @ query
    assert [id_ for id_, _ in store.search(query, 10)] == list(np.argsort(-exact)[:10])


def test_fewer_are_found_when_fewer_exist(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    store.add([1, 2], unit(2))
    assert len(store.search(unit(1)[0], 10)) == 2
    assert store.search(unit(1)[0], 0) == []


def test_an_id_added_again_is_replaced(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    store.add([1], unit(1, seed=1))
    store.add([1], unit(1, seed=2))
    assert len(store) == 1
    assert store.search(unit(1, seed=2)[0], 1)[0][1] == pytest.approx(1.0, abs=1e-5)


def test_removed_ids_are_gone_and_unknown_ones_ignored(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    store.add([1, 2], unit(2))
    store.remove([1, 99])
    assert [id_ for id_, _ in store.search(unit(1)[0], 5)] == [2]


def test_adding_nothing_changes_nothing(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    store.add([], np.empty((0, DIMENSION), np.float32))
    assert len(store) == 0


def test_vectors_of_another_shape_are_refused(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    with pytest.raises(ValueError, match="shape"):
        store.add([1, 2], unit(1))


def test_a_folder_without_a_snapshot_loads_nothing(backend: Backend, tmp_path: Path) -> None:
    assert backend.load(tmp_path, STAMP) is None


def test_saving_keeps_it_searchable(backend: Backend, tmp_path: Path) -> None:
    store = backend.create(DIMENSION)
    store.add([1], unit(1))
    store.save(tmp_path, STAMP)
    loaded = backend.load(tmp_path, STAMP) or store
    assert loaded.search(unit(1)[0], 1) == store.search(unit(1)[0], 1)


def test_searches_run_while_a_writer_changes_it(backend: Backend) -> None:
    store = backend.create(DIMENSION)
    vectors = unit(40)
    store.add([0], vectors[:1])
    wrong: list[object] = []

    def search() -> None:
        for _ in range(200):
            found = store.search(vectors[0], 1)
            if [id_ for id_, _ in found] != [0]:
                wrong.append(found)

    readers = [threading.Thread(target=search) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(1, 40):
        store.add([i], vectors[i : i + 1])
        store.remove([i])
    for reader in readers:
        reader.join()
    assert wrong == []
