"""Metrics, and the log line a request leaves. Labels come from the catalogue, never from a request's text.

Metric names are stable: dashboards and alerts are written against them. Money is exported in dollars; the
exact integers stay in the gateway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.receipt import PICODOLLARS, Receipt

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
_STAGE_SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

STAGES = ("admit", "retrieval", "engine")
PARTS = ("system", "history", "context", "user", "completion", "cached")
OTHER = "other"


class Telemetry:
    """The process's metrics. One instance, made by the composition root."""

    def __init__(self, *, log: BinaryIO | None = None) -> None:
        # They would be a second series for each counter, which nothing here reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        reg = self.registry
        who = ("tenant", "model")
        self._requests = Counter(
            "repertory_requests", "Requests, by outcome.", (*who, "outcome"), registry=reg
        )
        self._duration = Histogram(
            "repertory_request_duration_seconds",
            "From the first byte in to the last byte out.",
            who,
            buckets=_SECONDS,
            registry=reg,
        )
        self._first_token = Histogram(
            "repertory_time_to_first_token_seconds",
            "Streams: until the first event.",
            who,
            buckets=_SECONDS,
            registry=reg,
        )
        self._per_token = Histogram(
            "repertory_time_per_output_token_seconds",
            "Streams: mean time between tokens of one answer.",
            who,
            buckets=_TOKEN_SECONDS,
            registry=reg,
        )
        self._stage = Histogram(
            "repertory_stage_duration_seconds",
            "Time in one stage of the path.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=reg,
        )
        self._tokens = Counter(
            "repertory_tokens",
            "Tokens by part; system, history, context, user add up to the prompt, cached is a share of it.",
            (*who, "part"),
            registry=reg,
        )
        self._cost = Counter(
            "repertory_cost_dollars",
            "Dollars by part; all parts add up. A cached token is charged under `cached` only.",
            (*who, "part"),
            registry=reg,
        )
        self._saved = Counter(
            "repertory_prompt_tokens_saved",
            "Prompt tokens not sent to an engine.",
            (*who, "reason"),
            registry=reg,
        )
        self._retrieval = Counter(
            "repertory_retrieval_decisions",
            "What the injection gate decided.",
            ("tenant", "decision"),
            registry=reg,
        )
        self._errors = Counter("repertory_errors", "Errors answered, by code.", ("code",), registry=reg)
        self.inflight = Gauge("repertory_inflight_requests", "Requests being worked on.", registry=reg)
        self.engine_ready = Gauge(
            "repertory_engine_ready", "1 when an engine takes traffic.", ("engine",), registry=reg
        )
        self.engine_losses = Counter(
            "repertory_engine_losses", "Times a ready engine was lost.", ("engine",), registry=reg
        )
        self.adapter_loads = Counter(
            "repertory_adapter_loads", "Adapter loads.", ("engine", "outcome"), registry=reg
        )
        self.adapters_loaded = Gauge(
            "repertory_adapters_loaded", "Adapters an engine holds.", ("engine",), registry=reg
        )
        self.stages = {stage: self._stage.labels(stage) for stage in STAGES}
        self._meters: dict[tuple[str, str], Meters] = {}
        self._log = log

    def meters(self, tenant: str, model: str) -> Meters:
        """The metrics of one tenant and model, resolved once. Both names must come from the catalogue."""
        found = self._meters.get((tenant, model))
        if found is None:
            found = self._meters[tenant, model] = Meters(self, tenant, model)
        return found

    def count_error(self, code: str) -> None:
        """Count an error answer. `code` is from the error tree, so its values are few."""
        self._errors.labels(code).inc()

    def count_refused(self, tenant: str) -> None:
        """Count a request that was refused before its model was known."""
        self._requests.labels(tenant, OTHER, "refused").inc()

    def log_request(self, fields: Mapping[str, Any]) -> None:
        """One JSON line; no prompt text, no secret."""
        if self._log is not None:
            line = {"time": round(time.time(), 3), **fields}
            self._log.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


@dataclass(slots=True)
class Meters:
    """The labelled metrics of one tenant and model, so that the hot path resolves no label."""

    telemetry: Telemetry
    tenant: str
    model: str
    _outcomes: dict[str, Counter] = field(default_factory=dict)
    _tokens: dict[str, Counter] = field(default_factory=dict)
    _cost: dict[str, Counter] = field(default_factory=dict)
    _decisions: dict[str, Counter] = field(default_factory=dict)
    _duration: Any = None
    _first_token: Any = None
    _per_token: Any = None
    _saved: Any = None

    def __post_init__(self) -> None:
        who = (self.tenant, self.model)
        of = self.telemetry
        self._tokens = {part: of._tokens.labels(*who, part) for part in PARTS}
        self._cost = {part: of._cost.labels(*who, part) for part in PARTS}
        self._duration = of._duration.labels(*who)
        self._first_token = of._first_token.labels(*who)
        self._per_token = of._per_token.labels(*who)
        self._saved = of._saved.labels(*who, "system_prompt")

    def settle(self, settled: Receipt) -> None:
        """Record a request that has ended."""
        self._outcome(settled.outcome).inc()
        self._duration.observe(settled.seconds)
        for part, count in settled.tokens.items():
            if count:
                self._tokens[part].inc(count)
        for part, amount in settled.picodollars.items():
            if amount:
                self._cost[part].inc(amount / PICODOLLARS)
        stages = self.telemetry.stages
        for stage, seconds in settled.stages.items():
            stages[stage].observe(seconds)
        if settled.first_token_seconds is not None:
            self._first_token.observe(settled.first_token_seconds)
            completion = settled.tokens.get("completion", 0)
            if settled.completion_seconds is not None and completion > 1:
                self._per_token.observe(settled.completion_seconds / (completion - 1))
        if settled.saved_tokens:
            self._saved.inc(settled.saved_tokens)

    def decided(self, decision: str) -> None:
        """Count a retrieval decision; `decision` is one of the gate's closed set."""
        counter = self._decisions.get(decision)
        if counter is None:
            counter = self._decisions[decision] = self.telemetry._retrieval.labels(self.tenant, decision)
        counter.inc()

    def _outcome(self, outcome: str) -> Counter:
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self.telemetry._requests.labels(
                self.tenant, self.model, outcome
            )
        return counter


def request_log(enabled: bool) -> BinaryIO | None:
    """Where request lines go: standard output, or nowhere."""
    return sys.stdout.buffer if enabled else None
