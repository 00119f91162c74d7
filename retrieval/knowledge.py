"""What the gateway calls: decide, search, pack and render the knowledge for one request.

Knows no HTTP and no model.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from retrieval.embedding import Embedder
from retrieval.errors import IsolationBreach
from retrieval.gate import MINILM, Decision, Mode, Thresholds, judge
from retrieval.hits import Hit
from retrieval.intent import needs_no_knowledge, search_text
from retrieval.packing import Source, pack
from retrieval.prompt import boundary_for, render
from retrieval.stores import Stores

SEARCHED_HITS = 32
"""More than are ever packed: the gate compares the best with the typical."""


@dataclass(frozen=True, slots=True)
class Query:
    """`turns` are the user's, oldest first.

    `count` counts tokens as the served model does; `forced` overrides mode.
    """

    tenant_id: str
    store_ids: tuple[str, ...]
    mode: Mode
    turns: tuple[str, ...]
    budget_tokens: int
    count: Callable[[str], int]
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Retrieval:
    """`message` replaces the last user message, None where nothing is injected.

    `context_tokens` is what that adds to the prompt; `timings` are seconds by step: embed, search, pack.
    """

    decision: Decision
    sources: tuple[Source, ...]
    message: str | None
    context_tokens: int
    timings: dict[str, float]


class Knowledge:
    """Safe from any thread. `secret` keys the boundary around sources and must outlive a restart."""

    def __init__(
        self, stores: Stores, embedder: Embedder, *, secret: bytes, thresholds: Thresholds = MINILM
    ) -> None:
        self._stores = stores
        self._embedder = embedder
        self._secret = secret
        self._thresholds = thresholds

    def triage(self, query: Query) -> Decision | None:
        """What can be decided at once, without blocking; None means that it takes `retrieve`."""
        if query.mode == "never" and not query.forced:
            return Decision(False, "never")
        if not query.store_ids:
            return Decision(False, "no_store")
        if not query.turns or not query.turns[-1].strip():
            return Decision(False, "no_need", detail="no_question")
        if query.mode == "auto" and not query.forced and (need := needs_no_knowledge(query.turns[-1])):
            return Decision(False, "no_need", detail=need)
        return None

    def retrieve(self, query: Query) -> Retrieval:
        """Search and decide. Blocks: call it in a worker thread.

        Raises StoreNotFound, EmbeddingMismatch and IsolationBreach, which means that nothing may be answered.
        """
        early = self.triage(query)
        if early is not None:
            return Retrieval(early, (), None, 0, {})
        timings: dict[str, float] = {}
        text = search_text(query.turns)
        hits = self._search(query, text, timings)
        decision, hits = self._decide(query, text, hits)
        if not decision.inject:
            return Retrieval(decision, (), None, 0, timings)
        started = time.perf_counter()
        question = query.turns[-1]
        boundary = boundary_for(self._secret, query.tenant_id, question, *(str(hit.chunk_id) for hit in hits))
        asked = query.count(question)
        frame = query.count(render((), question, boundary)) - asked
        sources = pack(hits, budget_tokens=query.budget_tokens - frame, count=query.count)
        message = render(sources, question, boundary) if sources else None
        timings["pack"] = time.perf_counter() - started
        if message is None:
            return Retrieval(Decision(False, "no_room", decision.score), (), None, 0, timings)
        return Retrieval(decision, sources, message, query.count(message) - asked, timings)

    def _search(self, query: Query, text: str, timings: dict[str, float]) -> list[Hit]:
        stores = [self._stores.get(query.tenant_id, store_id) for store_id in dict.fromkeys(query.store_ids)]
        started = time.perf_counter()
        vector = self._embedder.embed([text])[0]
        embedded = time.perf_counter()
        hits = [hit for store in stores for hit in self._stores.search(store, vector, SEARCHED_HITS)]
        for hit in hits:
            if hit.tenant_id != query.tenant_id:
                raise IsolationBreach(query.tenant_id, hit.chunk_id)
        timings["embed"] = embedded - started
        timings["search"] = time.perf_counter() - embedded
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))

    def _decide(self, query: Query, text: str, hits: list[Hit]) -> tuple[Decision, list[Hit]]:
        """The decision and the hits worth packing."""
        if query.mode == "auto" and not query.forced:
            near = [hit for hit in hits if hits[0].score - hit.score <= self._thresholds.keep_within]
            return judge(hits, text, self._thresholds), near
        if not hits:
            return Decision(False, "not_found", 0.0), hits
        score = min(max(hits[0].score, 0.0), 1.0)
        return Decision(True, "forced" if query.forced else "always", score), hits
