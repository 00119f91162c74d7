"""Tokens by part of the prompt, and what each part costs. Integers only, so that parts add up to the total.

Money is counted in picodollars (1e-12 dollar): a price of one dollar per million tokens is 1,000,000 of
them per token, and any price with six decimals stays exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from gateway.receipt import PICODOLLARS

PROMPT_PARTS = ("system", "history", "context", "user")


@dataclass(slots=True)
class Usage:
    """What an engine reported, in tokens. `cached` is the share of `prompt` that it had in its cache."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(slots=True)
class PartSize:
    """How large one part of a prompt is: an exact token count where known, else only its length."""

    tokens: int | None = None
    characters: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """Picodollars per token."""

    input: int = 0
    cached_input: int = 0
    output: int = 0

    @classmethod
    def per_million(cls, prompt: Decimal, cached_prompt: Decimal | None, completion: Decimal) -> Price:
        """From dollars per million tokens; without a price of their own, cached tokens cost as the others."""
        cached = prompt if cached_prompt is None else cached_prompt
        unit = PICODOLLARS // 10**6
        return cls(int(prompt * unit), int(cached * unit), int(completion * unit))


FREE = Price()


def split_prompt(total: int, sizes: Mapping[str, PartSize]) -> dict[str, int]:
    """Share `total` prompt tokens among the parts; the shares add up to `total` exactly.

    A part with a known count gets it (as far as the total reaches). What is left, the chat template's own
    tokens included, is shared among the other parts by their length, the rounding going to the last of them;
    with no such part it goes to `user`.
    """
    shares = dict.fromkeys(PROMPT_PARTS, 0)
    left = total
    measured: list[tuple[str, int]] = []
    for part in PROMPT_PARTS:
        size = sizes.get(part)
        if size is None:
            continue
        if size.tokens is not None:
            shares[part] = min(size.tokens, left)
            left -= shares[part]
        elif size.characters:
            measured.append((part, size.characters))
    if not measured:
        shares["user"] += left
        return shares
    length = sum(characters for _, characters in measured)
    for part, characters in measured[:-1]:
        shares[part] += left * characters // length
    shares[measured[-1][0]] += total - sum(shares.values())
    return shares


def cost(parts: Mapping[str, int], usage: Usage, price: Price) -> dict[str, int]:
    """Picodollars by part: the four prompt parts, `cached` and `completion`.

    A cache holds the beginning of a prompt, so cached tokens are taken from the parts in the order they
    stand in it; what they cost is shown under `cached`, and each token is charged once.
    """
    cached = min(usage.cached, usage.prompt)
    costs = {}
    uncached_to_place = cached
    for part in PROMPT_PARTS:
        hit = min(parts[part], uncached_to_place)
        uncached_to_place -= hit
        costs[part] = (parts[part] - hit) * price.input
    costs["cached"] = cached * price.cached_input
    costs["completion"] = usage.completion * price.output
    return costs
