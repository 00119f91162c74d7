"""Tokens and money by part: every split adds up to its total, exactly."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.pricing import FREE, PROMPT_PARTS, PartSize, Price, Usage, cost, split_prompt
from gateway.receipt import dollars

_SIZES = st.builds(PartSize, tokens=st.none() | st.integers(0, 10_000), characters=st.integers(0, 100_000))
_PARTS = st.dictionaries(st.sampled_from(PROMPT_PARTS), _SIZES)
_TOKENS = st.integers(0, 200_000)


@given(_TOKENS, _PARTS)
def test_the_parts_of_a_prompt_add_up_exactly(total: int, sizes: dict[str, PartSize]) -> None:
    shares = split_prompt(total, sizes)
    assert set(shares) == set(PROMPT_PARTS)
    assert sum(shares.values()) == total
    assert all(share >= 0 for share in shares.values())


@given(_TOKENS, _PARTS, _TOKENS, _TOKENS, st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_parts_of_a_cost_add_up_exactly(  # noqa: PLR0917  hypothesis fills them in
    total: int, sizes: dict[str, PartSize], cached: int, completion: int, input_: int, hit: int, output: int
) -> None:
    """Each token is charged once: cached ones at their own price, the others at the price of input."""
    usage = Usage(total, completion, cached)
    costs = cost(split_prompt(total, sizes), usage, Price(input_, hit, output))
    hits = min(cached, total)
    assert sum(costs.values()) == (total - hits) * input_ + hits * hit + completion * output
    assert all(amount >= 0 for amount in costs.values())


def test_known_counts_are_kept_and_the_rest_is_shared_by_length() -> None:
    sizes = {
        "system": PartSize(tokens=10, characters=40),
        "history": PartSize(characters=300),
        "context": PartSize(tokens=20),
        "user": PartSize(characters=100),
    }
    assert split_prompt(130, sizes) == {"system": 10, "history": 75, "context": 20, "user": 25}


def test_what_no_part_explains_goes_to_the_user() -> None:
    assert split_prompt(7, {"system": PartSize(tokens=3)})["user"] == 4
    assert split_prompt(7, {})["user"] == 7


def test_a_count_larger_than_the_total_is_cut() -> None:
    shares = split_prompt(5, {"system": PartSize(tokens=9), "context": PartSize(tokens=9)})
    assert shares == {"system": 5, "history": 0, "context": 0, "user": 0}


def test_a_cache_is_taken_from_the_front_of_the_prompt() -> None:
    parts = {"system": 10, "history": 10, "context": 10, "user": 10}
    costs = cost(parts, Usage(40, 5, cached=15), Price(input=2, cached_input=1, output=3))
    assert costs == {"system": 0, "history": 10, "context": 20, "user": 20, "cached": 15, "completion": 15}


def test_prices_are_exact_to_six_decimals_of_a_dollar_a_million() -> None:
    price = Price.per_million(Decimal("0.000001"), None, Decimal("12.345678"))
    assert price == Price(input=1, cached_input=1, output=12_345_678)


def test_cached_tokens_may_have_a_price_of_their_own() -> None:
    assert Price.per_million(Decimal(1), Decimal("0.1"), Decimal(0)).cached_input == 100_000


def test_free_costs_nothing() -> None:
    assert sum(cost(split_prompt(9, {}), Usage(9, 9), FREE).values()) == 0


@pytest.mark.parametrize(
    ("picodollars", "text"),
    [
        (0, "0"),
        (1, "0.000000000001"),
        (24_750_000, "0.00002475"),
        (10**12, "1"),
        (2 * 10**13 + 5 * 10**11, "20.5"),
    ],
)
def test_dollars_are_written_exactly(picodollars: int, text: str) -> None:
    assert dollars(picodollars) == text
    assert Decimal(dollars(picodollars)) * 10**12 == picodollars
