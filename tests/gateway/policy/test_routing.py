"""Releases by sticky split, engines by load."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.routing import choose_engine, choose_release


@dataclass
class Engine:
    name: str
    base_model: str = "smol"
    ready: bool = True
    held: frozenset[str] = frozenset()
    inflight: int = 0


def test_one_release_takes_all() -> None:
    assert choose_release([("a", 100)], "anyone") == "a"


def test_a_split_is_kept_over_many_subjects() -> None:
    counts = Counter(choose_release([("stable", 90), ("canary", 10)], f"user-{n}") for n in range(20_000))
    assert 0.09 < counts["canary"] / 20_000 < 0.11


@given(st.text())
def test_a_subject_stays_on_its_side(subject: str) -> None:
    splits = [("a", 50), ("b", 30), ("c", 20)]
    assert choose_release(splits, subject) == choose_release(splits, subject)


@given(st.text(), st.integers(1, 98))
def test_who_has_the_canary_keeps_it_when_it_grows(subject: str, percent: int) -> None:
    before = choose_release([("canary", percent), ("stable", 100 - percent)], subject)
    after = choose_release([("canary", percent + 1), ("stable", 99 - percent)], subject)
    assert (before, after) != ("canary", "stable")


def test_the_least_busy_engine_is_chosen() -> None:
    engines = [Engine("a", inflight=2), Engine("b", inflight=1), Engine("c", inflight=1)]
    assert choose_engine(engines, base_model="smol", adapter=None) is engines[1]


def test_only_engines_that_can_serve_are_chosen() -> None:
    engines = [
        Engine("away", ready=False, held=frozenset({"x"})),
        Engine("other base", base_model="large", held=frozenset({"x"})),
        Engine("without the adapter"),
        Engine("busy", held=frozenset({"x"}), inflight=9),
    ]
    assert choose_engine(engines, base_model="smol", adapter="x") is engines[3]
    assert choose_engine(engines, base_model="smol", adapter="x", tried=frozenset({"busy"})) is None
    assert choose_engine(engines, base_model="smol", adapter=None) is engines[2]
    assert choose_engine([], base_model="smol", adapter=None) is None
