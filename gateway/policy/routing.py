"""Which release a request gets, and which engine. The state of the world is an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

C = TypeVar("C", bound="Candidate")


class Candidate(Protocol):
    """An engine as routing sees it."""

    @property
    def name(self) -> str: ...

    @property
    def base_model(self) -> str: ...

    @property
    def ready(self) -> bool: ...

    @property
    def held(self) -> frozenset[str]:
        """The adapters it holds."""

    @property
    def inflight(self) -> int: ...


def choose_release(splits: Sequence[tuple[str, int]], subject: str) -> str:
    """The release id for a subject (a user, session or key), which stays on its side of a split.

    Args:
        splits: (release id, percent); the percents add up to 100.
    """
    if len(splits) == 1:
        return splits[0][0]
    point = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:4]) % 100
    for release_id, percent in splits:
        point -= percent
        if point < 0:
            return release_id
    return splits[-1][0]


def choose_engine(
    candidates: Iterable[C],
    *,
    base_model: str,
    adapter: str | None,
    tried: frozenset[str] = frozenset(),
) -> C | None:
    """The least busy engine that is ready, serves the base and holds the adapter; None when there is none."""
    best: C | None = None
    for candidate in candidates:
        if not candidate.ready or candidate.base_model != base_model or candidate.name in tried:
            continue
        if adapter is not None and adapter not in candidate.held:
            continue
        if best is None or candidate.inflight < best.inflight:
            best = candidate
    return best
