"""Metrics, and the log line a request leaves. Labels come from the catalogue, never from a request's text.

Metric names are stable: dashboards and alerts are written against them. Money is exported in dollars; the
exact integers stay in the gateway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import orjson
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.tally import Meters, RequestMetrics

STAGES = ("admit", "retrieval", "engine")
OTHER = "other"


class Telemetry:
    """The process's metrics. One instance, made by the composition root.

    Attributes:
        active: requests being worked on now.
    """

    def __init__(self, *, log: BinaryIO | None = None) -> None:
        # They would be a second series for each counter, which nothing here reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = reg = CollectorRegistry()
        ProcessCollector(registry=reg)
        PlatformCollector(registry=reg)
        self._requests = RequestMetrics(STAGES)
        reg.register(self._requests)
        self._log = log
        self.active = 0
        inflight = Gauge("repertory_inflight_requests", "Requests being worked on.", registry=reg)
        inflight.set_function(lambda: self.active)
        self._errors = Counter("repertory_errors", "Errors answered, by code.", ("code",), registry=reg)
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

    def meters(self, tenant: str, model: str) -> Meters:
        """The metrics of one tenant and model. Both names must come from the catalogue."""
        return self._requests.meters(tenant, model)

    def count_error(self, code: str) -> None:
        """Count an error answer. `code` is from the error tree, so its values are few."""
        self._errors.labels(code).inc()

    def count_refused(self, tenant: str) -> None:
        """Count a request that was refused before its model was known."""
        outcomes = self.meters(tenant, OTHER).outcomes
        outcomes["refused"] = outcomes.get("refused", 0) + 1

    def log_request(self, fields: Mapping[str, Any]) -> None:
        """One JSON line; no prompt text, no secret."""
        if self._log is not None:
            line = {"time": round(time.time(), 3), **fields}
            self._log.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Hand written log lines to the system."""
        if self._log is not None:
            self._log.flush()

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


def request_log(enabled: bool) -> BinaryIO | None:
    """Where request lines go: standard output, or nowhere."""
    return sys.stdout.buffer if enabled else None
