"""One request, in order: who asks, which release, system prompt, retrieval, engine, answer. Nothing else.

Each stage is a method that fills in its part of the Exchange. HTTP is above, decisions are in `policy`, I/O
is in what the constructor is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from gateway.catalog import Catalog, Plan, ServedModel
from gateway.dispatch import Dispatcher
from gateway.engines.base import EngineAnswer
from gateway.engines.pool import Lease
from gateway.errors import ApiError, AuthenticationError, InvalidRequest, NotFound
from gateway.exchange import Call, Exchange, Settler
from gateway.policy import auth, prompting
from gateway.policy.auth import ApiKey, Scope
from gateway.policy.pricing import PartSize
from gateway.policy.routing import choose_release
from gateway.protocol import Endpoint, ModelRequest, parse_request, text_of
from gateway.receipt import Receipt
from gateway.relay import Relay
from gateway.tenants import Tenant
from gateway.tokens import LengthCounter, TokenCounter
from retrieval.errors import StoreNotFound
from retrieval.gate import Decision
from retrieval.knowledge import Query, Retrieval

# A longer client prompt is not worth a tokenizer's time on the event loop; its length is known.
_COUNTED_CHARACTERS = 8192
_RETRIED = (502, 503, 504)
_DEFAULT_BUDGET = 512
_GUESS = LengthCounter()


class KnowledgeSource(Protocol):
    """Where context comes from: `retrieval.knowledge.Knowledge`, or a test's own."""

    def triage(self, query: Query) -> Decision | None:
        """An instant decision, or None: search."""

    def retrieve(self, query: Query) -> Retrieval:
        """Search and pack. Blocks."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request this is."""

    key: ApiKey
    tenant: Tenant


@dataclass(slots=True)
class Answer:
    """What the edge sends: `body` and its `receipt` for JSON, `events` for a stream.

    `close` must be called when a stream has ended, however it ended: it gives the engine's place back and, if
    the stream was left early, stops the engine's work and settles. More than once is harmless.
    """

    exchange: Exchange
    body: bytes = b""
    receipt: Receipt | None = None
    events: AsyncGenerator[bytes, None] | None = None
    close: Callable[[], None] = lambda: None


class Pipeline:
    """The request path. One instance, shared by all requests."""

    def __init__(  # noqa: PLR0913  the path's parts, each named once, in the composition root
        self,
        *,
        catalog: Catalog,
        dispatcher: Dispatcher,
        relay: Relay,
        settler: Settler,
        counters: Mapping[str, TokenCounter],
        knowledge: KnowledgeSource | None,
        executor: Executor,
        secret: bytes,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._relay = relay
        self._settler = settler
        self._counters = counters
        self._knowledge = knowledge
        self._executor = executor
        self._secret = secret
        self._clock = clock
        self._wall_clock = wall_clock

    def identify(self, authorization: bytes | None, scope: Scope = Scope.INFERENCE) -> Caller:
        """The caller behind an Authorization header. Raises AuthenticationError or PermissionDenied."""
        snapshot = self._catalog.snapshot
        key = auth.verify(
            auth.bearer(authorization), snapshot.keys, pepper=self._secret, now=self._wall_clock()
        )
        auth.require(key, scope)
        tenant = snapshot.tenants.get(key.tenant_id) if key.tenant_id else None
        if tenant is None or tenant.disabled:
            raise AuthenticationError("This API key's tenant is disabled: ask your administrator.")
        return Caller(key, tenant)

    async def answer(self, endpoint: Endpoint, caller: Caller, call: Call) -> Answer:
        """Work on a request until its answer begins (stream) or is complete (JSON).

        Raises:
            ApiError: for the edge to answer with. Cancelling aborts the engine's work.
        """
        try:
            request = parse_request(endpoint, call.body)
            exchange = self._route(caller, call, request)
        except ApiError:
            self._settler.refuse(caller.tenant.name)
            raise
        try:
            self._prompt(exchange)
            exchange.stages["admit"] = self._clock() - call.started
            await self._retrieve(exchange)
            lease, upstream = await self._dispatcher.engage(exchange)
            if request.stream and upstream.status == 200:
                return self._begin_stream(exchange, lease, upstream)
            return await self._whole(exchange, lease, upstream)
        except asyncio.CancelledError:
            self._settler.cut(exchange, "aborted")
            raise
        except ApiError as error:
            self._settler.cut(exchange, "refused" if error.status < 500 else "error")
            raise
        except Exception:
            self._settler.cut(exchange, "error")
            raise

    def _route(self, caller: Caller, call: Call, request: ModelRequest) -> Exchange:
        model = self.model(caller, request.model)
        user = request.body.get("user")
        subject = call.session or (user if isinstance(user, str) else None) or caller.key.public_id
        plan = model.plans[choose_release(model.splits, subject)]
        return Exchange(call=call, tenant=caller.tenant, request=request, model=model, plan=plan)

    def model(self, caller: Caller, name: str) -> ServedModel:
        """The caller's model of that name; NotFound for an unknown one and for another tenant's alike."""
        model = self._catalog.snapshot.resolve(caller.tenant.id, name)
        if model is None:
            raise NotFound(
                f"The model `{name[:80]}` does not exist or this key may not use it: see /v1/models.",
                code="model_not_found",
                param="model",
            )
        return model

    def _prompt(self, exchange: Exchange) -> None:
        """The release's system prompt and sampling defaults; the size of each part of the prompt."""
        request, plan = exchange.request, exchange.plan
        body = request.body
        for name, value in plan.sampling.items():
            body.setdefault(name, value)
        if request.endpoint != "chat":
            exchange.sizes["user"] = PartSize(characters=request.size)
            return
        counter = self._counter(plan)
        prompted = prompting.apply(request.messages, plan.system_text, plan.system_policy)
        body["messages"] = prompted.messages
        system, history, last = prompting.split_roles(prompted.messages)
        exchange.sizes = {
            "system": _size("\n".join(map(text_of, system)), counter),
            "history": PartSize(characters=sum(len(text_of(message)) for message in history)),
            "user": PartSize(characters=len(text_of(last)) if last else 0),
        }
        if prompted.dropped:
            dropped = _size("\n".join(map(text_of, prompted.dropped)), counter)
            sent = exchange.sizes["system"].tokens or 0
            exchange.saved_tokens = max(0, (dropped.tokens or dropped.characters // 4) - sent)

    async def _retrieve(self, exchange: Exchange) -> None:
        """Decide, search, and put what was found into the last user message."""
        query = self._query(exchange)
        if query is None or self._knowledge is None:
            return
        started = self._clock()
        decision = self._knowledge.triage(query)
        if decision is None:
            loop = asyncio.get_running_loop()
            try:
                found = await loop.run_in_executor(self._executor, self._knowledge.retrieve, query)
            except StoreNotFound as error:
                raise NotFound(
                    f"There is no vector store {error.store_id}.", param="vector_store_ids"
                ) from error
            decision = found.decision
            if found.message is not None:
                body = exchange.request.body
                body["messages"] = prompting.with_last_user_message(body["messages"], found.message)
                exchange.sources = found.sources
                exchange.sizes["context"] = PartSize(tokens=found.context_tokens)
        exchange.decision = decision.header
        exchange.decided = decision.reason
        exchange.stages["retrieval"] = self._clock() - started

    def _query(self, exchange: Exchange) -> Query | None:
        binding, wish = exchange.plan.retrieval, exchange.request.retrieval
        if exchange.request.endpoint != "chat" or (binding is None and wish is None):
            return None
        stores = (wish.vector_store_ids if wish else ()) or (binding.vector_store_ids if binding else ())
        if wish is not None and wish.mode != "never":
            self._check_wish(stores)
        mode = wish.mode if wish else binding.mode if binding else "auto"
        budget = (wish.max_tokens if wish else None) or (binding.max_tokens if binding else _DEFAULT_BUDGET)
        return Query(
            tenant_id=exchange.tenant.id,
            store_ids=stores,
            mode=mode,
            turns=tuple(text_of(m) for m in exchange.request.messages if m["role"] == "user"),
            budget_tokens=budget,
            count=self._counter(exchange.plan).count,
            forced=wish is not None and wish.mode == "always",
        )

    def _check_wish(self, stores: tuple[str, ...]) -> None:
        if self._knowledge is None:
            raise InvalidRequest(
                "This gateway has no embedding model, so it cannot retrieve.", param="retrieval"
            )
        if not stores:
            raise InvalidRequest(
                "Retrieval was asked for, but neither the request nor the model names a vector store.",
                param="vector_store_ids",
            )

    def _counter(self, plan: Plan) -> TokenCounter:
        # A model of a base that no engine serves any more is still known; it gets its 503 further on.
        return self._counters.get(plan.base_model, _GUESS)

    async def _whole(self, exchange: Exchange, lease: Lease, upstream: EngineAnswer) -> Answer:
        try:
            body, receipt = await self._relay.whole(exchange, upstream)
        finally:
            upstream.abort()
            lease.release()
        return Answer(exchange, body=body, receipt=receipt)

    def _begin_stream(self, exchange: Exchange, lease: Lease, upstream: EngineAnswer) -> Answer:
        def close() -> None:
            upstream.abort()
            lease.release()
            self._settler.cut(exchange, "aborted")

        return Answer(exchange, events=self._relay.stream(exchange, upstream), close=close)


def _size(text: str, counter: TokenCounter) -> PartSize:
    if not text:
        return PartSize(tokens=0)
    if len(text) > _COUNTED_CHARACTERS:
        return PartSize(characters=len(text))
    return PartSize(tokens=counter.count(text), characters=len(text))
