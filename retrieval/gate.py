"""Whether a request gets retrieved context: the decision and its reasons.

Pure: knows no store and does no I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from retrieval.hits import Hit
from retrieval.words import content_words

Mode = Literal["auto", "always", "never"]
Reason = Literal[
    "relevant",  # auto: what was found fits the question
    "always",  # the release injects whatever is found
    "forced",  # the request asked for retrieval
    "never",  # the release, or the request, forbids it
    "no_store",  # there is nowhere to search
    "no_need",  # the turn can be answered from itself
    "not_found",  # nothing found fits the question
    "no_room",  # what was found does not fit the token budget
]

# The words of this many best chunks are compared with the question's.
COVERAGE_CHUNKS = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """`score` is in [0, 1] where something was searched.

    `detail` is a low-cardinality note for logs and metrics.
    """

    inject: bool
    reason: Reason
    score: float | None = None
    detail: str = ""

    @property
    def header(self) -> str:
        """For `x-repertory-retrieval`: `inject; reason=relevant; score=0.71` or `skip; reason=no_need`."""
        score = "" if self.score is None else f"; score={self.score:.2f}"
        return f"{'inject' if self.inject else 'skip'}; reason={self.reason}{score}"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How signals become one score, for one embedding model; inject from `inject_at` on.

    score = clip(top + margin_weight * margin + coverage_weight * coverage, 0, 1). Of what was found, only
    hits within `keep_within` of the best cosine are worth their tokens.
    """

    inject_at: float
    margin_weight: float
    coverage_weight: float
    keep_within: float


MINILM = Thresholds(inject_at=0.32, margin_weight=0.25, coverage_weight=0.05, keep_within=0.2)
"""For all-MiniLM-L6-v2. Measured by `python tests/bench/bench_gate.py path/to/all-MiniLM-L6-v2`."""

HASHING = Thresholds(inject_at=0.44, margin_weight=0.25, coverage_weight=0.3, keep_within=0.3)
"""For `HashingEmbedder`, whose cosines say less, so that words count for more.

For demos: on the dev rows of the same benchmark it misses 27 of 96 answerable questions and injects on 7 of
40 off-topic ones.
"""


@dataclass(frozen=True, slots=True)
class Signals:
    """`top`: best cosine. `margin`: its distance to the median hit. `coverage`: see `signals_of`."""

    top: float
    margin: float
    coverage: float


def signals_of(hits: Sequence[Hit], query: str) -> Signals:
    """What the search says about `query`; `hits` come best first, the more of them the better the median.

    `coverage` is the share of the query's content words found in the best chunks, in [0, 1].
    """
    scores = [hit.score for hit in hits]
    wanted = set(content_words(query))
    seen = {
        word
        for hit in hits[:COVERAGE_CHUNKS]
        for word in content_words(f"{hit.title} {hit.heading} {hit.text}")
    }
    return Signals(
        top=scores[0],
        margin=scores[0] - median(scores),
        coverage=len(wanted & seen) / len(wanted) if wanted else 0.0,
    )


def judge(hits: Sequence[Hit], query: str, thresholds: Thresholds) -> Decision:
    """Decide after a search whether its hits are about `query`."""
    if not hits:
        return Decision(False, "not_found", 0.0)
    signals = signals_of(hits, query)
    bonus = thresholds.margin_weight * signals.margin + thresholds.coverage_weight * signals.coverage
    score = min(max(signals.top + bonus, 0.0), 1.0)
    if score >= thresholds.inject_at:
        return Decision(True, "relevant", score)
    return Decision(False, "not_found", score)
