"""Exact search in FAISS, with a snapshot on disk that is verified before use.

Good to about 50,000 chunks a store.
"""

import hashlib
import importlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.durable import write_atomic
from retrieval.errors import IndexCorrupt
from retrieval.store import Stamp, Vector, Vectors, VectorStore, check_shapes

_INDEX = "index.faiss"
_MANIFEST = "manifest.json"


class FaissStore:
    """Searches share one immutable FAISS index; a writer changes a clone and swaps it in."""

    def __init__(self, faiss: Any, index: Any, threads: int) -> None:
        self._faiss = faiss
        self._index = index
        self._threads = threads
        self._writing = threading.Lock()

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        check_shapes(ids, vectors, self._index.d)
        if not ids:
            return
        labels = np.asarray(ids, np.int64)
        with self._writing:
            changed = self._faiss.clone_index(self._index)
            changed.remove_ids(labels)
            changed.add_with_ids(np.ascontiguousarray(vectors, np.float32), labels)
            self._index = changed

    def remove(self, ids: Sequence[int]) -> None:
        with self._writing:
            changed = self._faiss.clone_index(self._index)
            changed.remove_ids(np.asarray(ids, np.int64))
            self._index = changed

    def search(self, vector: Vector, k: int) -> list[tuple[int, float]]:
        index = self._index
        k = min(k, int(index.ntotal))
        if k <= 0:
            return []
        # OpenMP keeps this number per calling thread, so it is set here and not once at start.
        self._faiss.omp_set_num_threads(self._threads)
        scores, ids = index.search(np.ascontiguousarray(vector[None, :], np.float32), k)
        scores = np.clip(scores[0], -1.0, 1.0)
        return [(int(id_), float(score)) for id_, score in zip(ids[0], scores, strict=True)]

    def save(self, folder: Path, stamp: Stamp) -> None:
        """Write the index, then the manifest that vouches for it. Raises OSError."""
        index = self._index
        data = self._faiss.serialize_index(index).tobytes()
        manifest = _manifest(stamp, int(index.ntotal), data)
        write_atomic(folder / _INDEX, data)
        write_atomic(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())

    def __len__(self) -> int:
        return int(self._index.ntotal)


class FaissBackend:
    """Makes flat inner-product indexes (cosine, as vectors are normalised).

    `threads` caps OpenMP in a search.
    """

    def __init__(self, threads: int = 1) -> None:
        self._faiss: Any = importlib.import_module("faiss")
        self._threads = threads

    def create(self, dimension: int) -> VectorStore:
        index = self._faiss.IndexIDMap2(self._faiss.IndexFlatIP(dimension))
        return FaissStore(self._faiss, index, self._threads)

    def load(self, folder: Path, stamp: Stamp) -> VectorStore | None:
        """Verify before parsing:

        FAISS trusts its input, so only bytes that the manifest vouches for reach it.
        """
        path = folder / _INDEX
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise IndexCorrupt(str(folder), f"cannot be read: {error}") from error
        if not isinstance(manifest, dict) or manifest != _manifest(stamp, manifest.get("ntotal"), data):
            raise IndexCorrupt(str(path), "does not match its manifest or the store's state")
        index = self._faiss.deserialize_index(np.frombuffer(data, np.uint8))
        if index.ntotal != manifest["ntotal"] or index.d != stamp.dimension:
            raise IndexCorrupt(str(path), "holds another number or size of vectors than its manifest says")
        return FaissStore(self._faiss, index, self._threads)


def _manifest(stamp: Stamp, ntotal: object, data: bytes) -> dict[str, object]:
    return {
        "format": 1,
        "generation": stamp.generation,
        "ntotal": ntotal,
        "dimension": stamp.dimension,
        "embedder_digest": stamp.embedder_digest,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
