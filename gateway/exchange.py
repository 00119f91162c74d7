"""One request and what it has become so far, and the settlement that ends it: tokens, cost, metrics, log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.catalog import Plan, ServedModel
from gateway.policy import pricing
from gateway.policy.pricing import FREE, PartSize, Price, Usage
from gateway.protocol import ModelRequest
from gateway.receipt import Receipt, dollars
from gateway.telemetry import Telemetry
from gateway.tenants import Tenant
from retrieval.packing import Source

NO_TOKENS = Usage(0, 0)


@dataclass(slots=True)
class Call:
    """What the edge knows of a request. `started` is a reading of the clock, in seconds."""

    request_id: str
    body: bytes
    started: float
    session: str | None = None
    traceparent: str | None = None


@dataclass(slots=True)
class Exchange:
    """A request on its way. Each stage of the pipeline fills in its part.

    Attributes:
        sizes: what is known of the length of each part of the prompt.
        stages: seconds by stage.
        usage: the engine's report; before it came, or where it never did, None.
        seen_events: content events passed on, the measure of an answer that was cut short.
    """

    call: Call
    tenant: Tenant
    request: ModelRequest
    model: ServedModel
    plan: Plan
    sizes: dict[str, PartSize] = field(default_factory=dict)
    saved_tokens: int = 0
    sources: tuple[Source, ...] = ()
    decision: str = "skip; reason=no_store"
    decided: str | None = None
    engine: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    usage: Usage | None = None
    first_token_at: float | None = None
    seen_events: int = 0
    receipt: Receipt | None = None


class Settler:
    """Ends requests: each exactly once."""

    def __init__(self, telemetry: Telemetry, prices: Mapping[str, Price], clock: Callable[[], float]) -> None:
        self._telemetry = telemetry
        self._prices = prices
        self._clock = clock

    def settle(self, exchange: Exchange, outcome: str) -> Receipt:
        """Split tokens and cost by part and record them; a second call returns the first one's receipt."""
        if exchange.receipt is not None:
            return exchange.receipt
        now = self._clock()
        usage = exchange.usage or NO_TOKENS
        parts = pricing.split_prompt(usage.prompt, exchange.sizes)
        picodollars = pricing.cost(parts, usage, self._prices.get(exchange.plan.base_model, FREE))
        parts["completion"] = usage.completion
        parts["cached"] = min(usage.cached, usage.prompt)
        first = exchange.first_token_at
        receipt = exchange.receipt = Receipt(
            outcome=outcome,
            tokens=parts,
            picodollars=picodollars,
            dollars=dollars(sum(picodollars.values())),
            seconds=now - exchange.call.started,
            stages=exchange.stages,
            first_token_seconds=None if first is None else first - exchange.call.started,
            completion_seconds=None if first is None else now - first,
            saved_tokens=exchange.saved_tokens,
        )
        self._record(exchange, receipt)
        return receipt

    def cut(self, exchange: Exchange, outcome: str) -> None:
        """Settle a request that did not reach its end by what was seen of it. Nothing, if it is settled."""
        if exchange.receipt is not None:
            return
        if exchange.usage is None and exchange.seen_events:
            sent = sum(size.tokens or -(-size.characters // 4) for size in exchange.sizes.values())
            exchange.usage = Usage(sent, exchange.seen_events)
        self.settle(exchange, outcome)

    def refuse(self, tenant: str) -> None:
        """Count a request that was refused before its model was known."""
        self._telemetry.count_refused(tenant)

    def _record(self, exchange: Exchange, receipt: Receipt) -> None:
        meters = self._telemetry.meters(exchange.tenant.name, exchange.model.name)
        meters.settle(receipt)
        if exchange.decided is not None:
            meters.decided(exchange.decided)
        self._telemetry.log_request(
            {
                "request_id": exchange.call.request_id,
                "tenant": exchange.tenant.name,
                "model": exchange.model.name,
                "release": exchange.plan.release_id,
                "engine": exchange.engine,
                "outcome": receipt.outcome,
                "stream": exchange.request.stream,
                "retrieval": exchange.decision,
                "tokens": receipt.tokens,
                "cost_dollars": receipt.dollars,
                "seconds": round(receipt.seconds, 4),
                "stages": receipt.stages,
            }
        )
