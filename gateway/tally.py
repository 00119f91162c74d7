"""Plain counts for the hot path, shown to prometheus_client when it scrapes.

prometheus_client takes a lock for every increment, which at some fifteen a request was a tenth of the gateway's
CPU. Requests are counted on the event loop alone, so integers do; a scrape runs there too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.receipt import PICODOLLARS, Receipt

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
STAGE_SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

_WHO = ("tenant", "model")


class Tally:
    """A histogram: how many values fell at or below each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def show(self, family: HistogramMetricFamily, labels: Iterable[str]) -> None:
        """Add it to a family as one series; nothing, if nothing was counted."""
        total, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound), total))  # type: ignore[no-untyped-call]
        if total:
            family.add_metric(list(labels), buckets, self._sum)


class Meters:
    """Everything counted of one tenant's requests to one model."""

    __slots__ = (
        "_stages",
        "completion",
        "cost",
        "decisions",
        "duration",
        "first",
        "outcomes",
        "saved",
        "tokens",
    )

    def __init__(self, stages: dict[str, Tally]) -> None:
        self._stages = stages
        self.outcomes: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.cost: dict[str, int] = {}
        self.decisions: dict[str, int] = {}
        self.saved = 0
        self.duration = Tally(SECONDS)
        self.first = Tally(SECONDS)
        self.completion = Tally(TOKEN_SECONDS)

    def settle(self, receipt: Receipt) -> None:
        """Count a request that has ended."""
        self.outcomes[receipt.outcome] = self.outcomes.get(receipt.outcome, 0) + 1
        self.duration.observe(receipt.seconds)
        _add(self.tokens, receipt.tokens)
        _add(self.cost, receipt.picodollars)
        for stage, seconds in receipt.stages.items():
            self._stages[stage].observe(seconds)
        self.saved += receipt.saved_tokens
        if receipt.first_token_seconds is not None:
            self.first.observe(receipt.first_token_seconds)
            completion = receipt.tokens["completion"]
            if receipt.completion_seconds is not None and completion > 1:
                self.completion.observe(receipt.completion_seconds / (completion - 1))

    def decided(self, reason: str) -> None:
        """Count a retrieval decision; `reason` is one of the gate's closed set."""
        self.decisions[reason] = self.decisions.get(reason, 0) + 1


class RequestMetrics(Collector):
    """The meters of every tenant and model, and the stages of all requests together."""

    def __init__(self, stages: Iterable[str]) -> None:
        self._stages = {stage: Tally(STAGE_SECONDS) for stage in stages}
        self._meters: dict[tuple[str, str], Meters] = {}

    def meters(self, tenant: str, model: str) -> Meters:
        """One tenant's and model's, made when first asked for."""
        found = self._meters.get((tenant, model))
        if found is None:
            found = self._meters[tenant, model] = Meters(self._stages)
        return found

    def collect(self) -> Iterator[Metric]:
        """What a scrape shows."""
        yield self._counts("repertory_requests", "Requests, by outcome.", "outcome", "outcomes")
        yield self._counts(
            "repertory_tokens",
            "Tokens by part; system, history, context, user add up to the prompt, cached is a share of it.",
            "part",
            "tokens",
        )
        yield self._counts(
            "repertory_cost_dollars",
            "Dollars by part; all parts add up. A cached token is charged under `cached` only.",
            "part",
            "cost",
            unit=PICODOLLARS,
        )
        yield self._saved()
        yield self._decisions()
        yield self._histogram(
            "repertory_request_duration_seconds", "From the first byte in to the last byte out.", "duration"
        )
        yield self._histogram(
            "repertory_time_to_first_token_seconds", "Streams: until the first event.", "first"
        )
        yield self._histogram(
            "repertory_time_per_output_token_seconds", "Streams: mean time between tokens.", "completion"
        )
        stages = HistogramMetricFamily(
            "repertory_stage_duration_seconds", "Time in one stage of the path.", labels=["stage"]
        )
        for stage, tally in self._stages.items():
            tally.show(stages, [stage])
        yield stages

    def _counts(self, name: str, words: str, label: str, of: str, unit: int = 1) -> Metric:
        family = CounterMetricFamily(name, words, labels=[*_WHO, label])
        for who, meters in self._meters.items():
            counts: dict[str, int] = getattr(meters, of)
            for key, count in counts.items():
                family.add_metric([*who, key], count / unit)
        return family

    def _saved(self) -> Metric:
        family = CounterMetricFamily(
            "repertory_prompt_tokens_saved", "Prompt tokens not sent to an engine.", labels=[*_WHO, "reason"]
        )
        for who, meters in self._meters.items():
            family.add_metric([*who, "system_prompt"], meters.saved)
        return family

    def _decisions(self) -> Metric:
        family = CounterMetricFamily(
            "repertory_retrieval_decisions", "What the gate decided.", labels=["tenant", "decision"]
        )
        totals: dict[tuple[str, str], int] = {}
        for (tenant, _), meters in self._meters.items():
            for reason, count in meters.decisions.items():
                totals[tenant, reason] = totals.get((tenant, reason), 0) + count
        for labels, count in totals.items():
            family.add_metric(list(labels), count)
        return family

    def _histogram(self, name: str, words: str, of: str) -> Metric:
        family = HistogramMetricFamily(name, words, labels=_WHO)
        for who, meters in self._meters.items():
            tally: Tally = getattr(meters, of)
            tally.show(family, who)
        return family


def _add(totals: dict[str, int], more: Any) -> None:
    for key, count in more.items():
        totals[key] = totals.get(key, 0) + count
