"""The seam for search indexes: one `VectorStore` per vector store, made or reloaded by a `Backend`.

An index is a cache of the `chunks` table: it may be thrown away at any time. It knows ids and vectors, no
text, no tenants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a snapshot must agree with to be trusted."""

    generation: int
    dimension: int
    embedder_digest: str


class VectorStore(Protocol):
    """Searches by cosine. Every method may be called from any thread; a search sees one consistent state."""

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        """Add `vectors`, shape (len(ids), dimension), L2-normalised. An id already present is replaced."""

    def remove(self, ids: Sequence[int]) -> None:
        """Forget `ids`; unknown ones are ignored."""

    def search(self, vector: Vector, k: int) -> list[tuple[int, float]]:
        """The `k` nearest as (id, cosine in [-1, 1]), best first; fewer when fewer exist.

        `vector` has shape (dimension,) and is L2-normalised.
        """

    def save(self, folder: Path, stamp: Stamp) -> None:
        """Write a snapshot that `Backend.load` accepts for the same stamp; nothing where none is kept."""

    def __len__(self) -> int: ...


class Backend(Protocol):
    """Makes the indexes of one kind."""

    def create(self, dimension: int) -> VectorStore:
        """An empty index."""

    def load(self, folder: Path, stamp: Stamp) -> VectorStore | None:
        """The snapshot in `folder`, or None where there is none.

        Raises IndexCorrupt when it cannot be trusted.
        """


def check_shapes(ids: Sequence[int], vectors: Vectors, dimension: int) -> None:
    """Raises ValueError unless there is one vector of `dimension` for each id."""
    if vectors.shape != (len(ids), dimension):
        raise ValueError(f"expected vectors of shape {(len(ids), dimension)}, got {vectors.shape}")
