"""What a settled request came to: the record behind metrics, the log line and the answer's headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PICODOLLARS = 10**12  # in a dollar


@dataclass(slots=True)
class Receipt:
    """Tokens and picodollars by part, seconds by stage. Not changed once made.

    Attributes:
        outcome: `ok`, `aborted`, `error` or `refused`.
        dollars: the total cost, exact, as decimal text.
        first_token_seconds: streams only: until the first event.
        completion_seconds: streams only: from the first event to the end.
        saved_tokens: prompt tokens that the release's system prompt made unnecessary.
    """

    outcome: str
    tokens: Mapping[str, int]
    picodollars: Mapping[str, int]
    dollars: str
    seconds: float
    stages: Mapping[str, float]
    first_token_seconds: float | None = None
    completion_seconds: float | None = None
    saved_tokens: int = 0

    def extension(self) -> dict[str, object]:
        """The gateway's addition to a stream's usage chunk."""
        return {
            "cost_dollars": self.dollars,
            "tokens": self.tokens,
            "milliseconds": {stage: round(seconds * 1e3, 3) for stage, seconds in self.stages.items()},
        }


def dollars(picodollars: int) -> str:
    """Exact decimal text: `0.00002475`."""
    whole, fraction = divmod(picodollars, PICODOLLARS)
    return f"{whole}.{fraction:012d}".rstrip("0").rstrip(".")
