"""Exact search in NumPy: the reference that other indexes are compared with, and enough for a demo.

Keeps no files.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.store import Stamp, Vector, Vectors, VectorStore, check_shapes


class MemoryStore:
    """Searches read one immutable (ids, matrix) pair; writers build the next and swap it in."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._writing = threading.Lock()
        self._state: tuple[NDArray[np.int64], Vectors] = (
            np.empty(0, np.int64),
            np.empty((0, dimension), np.float32),
        )

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        check_shapes(ids, vectors, self._dimension)
        with self._writing:
            kept_ids, kept = self._without(ids)
            self._state = (
                np.concatenate([kept_ids, np.asarray(ids, np.int64)]),
                np.concatenate([kept, np.asarray(vectors, np.float32)]),
            )

    def remove(self, ids: Sequence[int]) -> None:
        with self._writing:
            self._state = self._without(ids)

    def search(self, vector: Vector, k: int) -> list[tuple[int, float]]:
        ids, matrix = self._state
        scores = np.clip(matrix @ vector, -1.0, 1.0)
        order = np.argsort(-scores, kind="stable")[: max(k, 0)]
        return [(int(ids[i]), float(scores[i])) for i in order]

    def save(self, folder: Path, stamp: Stamp) -> None:
        """Nothing to keep: the database rebuilds it."""

    def __len__(self) -> int:
        return len(self._state[0])

    def _without(self, ids: Sequence[int]) -> tuple[NDArray[np.int64], Vectors]:
        held, matrix = self._state
        keep = ~np.isin(held, np.asarray(ids, np.int64))
        return held[keep], matrix[keep]


class MemoryBackend:
    """Makes NumPy indexes."""

    def create(self, dimension: int) -> VectorStore:
        return MemoryStore(dimension)

    def load(self, folder: Path, stamp: Stamp) -> VectorStore | None:  # noqa: ARG002 - keeps none
        return None
