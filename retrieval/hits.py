"""What a search found: the row that passes from the stores to the gate and the packing. Knows no index."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk and its cosine to the query, in [-1, 1]. `ordinal` is its place in its file, from 0."""

    chunk_id: int
    tenant_id: str
    store_id: str
    file_id: str
    filename: str
    ordinal: int
    title: str
    heading: str
    text: str
    score: float
