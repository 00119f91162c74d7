"""From runs to figures, and from figures to verdicts. Knows no process and no table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `share` of all do not exceed."""
    if not values:
        return math.nan
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run's figures. Milliseconds; CPU is None where it was not measured."""

    p50: float
    p99: float
    first_p50: float
    first_p99: float
    requests_per_second: float
    cpu_ms: float | None = None


Figure = Callable[[Sample], float]


def middle(samples: Sequence[Sample], figure: Figure) -> float:
    """The median of a figure over repetitions."""
    return median(figure(sample) for sample in samples) if samples else math.nan


def added(samples: Sequence[Sample], base: Sequence[Sample], figure: Figure) -> float:
    """The median difference to the run of `base` in the same repetition, when the machine was as busy."""
    pairs = list(zip(samples, base, strict=True))
    return median(figure(ours) - figure(theirs) for ours, theirs in pairs) if pairs else math.nan


def ratio(samples: Sequence[Sample], base: Sequence[Sample], figure: Figure) -> float:
    """The median quotient with the run of `base` in the same repetition."""
    pairs = [(figure(ours), figure(theirs)) for ours, theirs in zip(samples, base, strict=True)]
    # A run too short for the clock's ticks has no CPU time to divide by.
    quotients = [ours / theirs for ours, theirs in pairs if theirs > 0]
    return median(quotients) if quotients else math.nan


@dataclass(frozen=True, slots=True)
class Budget:
    """What a figure may be at most, or, for a rate, must be at least."""

    what: str
    unit: str
    limit: float
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        """False for a figure that is not a number."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """A budget beside what was measured.

    Attributes:
        ratio: to the bare baseline, where that has such a figure.
        scaled: what the ratio makes of the baseline's figure on the reference machine.
    """

    budget: Budget
    value: float
    ratio: float | None = None
    scaled: float | None = None

    @property
    def met(self) -> bool:
        return self.budget.met_by(self.value)

    def line(self) -> str:
        """One line for people to read."""
        sign = "≥" if self.budget.at_least else "≤"
        unit = f" {self.budget.unit}" if self.budget.unit else ""
        text = (
            f"{_word(self.met):6} {self.budget.what:43} {_short(self.value):>6}{unit} "
            f"(budget {sign} {_short(self.budget.limit)})"
        )
        if self.ratio is not None:
            text += f"; {self.ratio:.2f} × bare"
        if self.scaled is not None:
            there = _word(self.budget.met_by(self.scaled))
            text += f", so {_short(self.scaled)}{unit} on the reference machine: {there}"
        return text


def judge(
    budget: Budget, value: float, *, ratio: float | None = None, reference: float | None = None
) -> Verdict:
    """A verdict; `reference` is the baseline's figure on the reference machine."""
    scaled = None if ratio is None or reference is None else ratio * reference
    return Verdict(budget, value, ratio, scaled)


def _word(met: bool) -> str:
    return "met" if met else "missed"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}"
