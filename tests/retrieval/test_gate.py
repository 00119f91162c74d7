"""The decision after a search, and how it is told."""

from collections.abc import Callable

import pytest

from retrieval.gate import MINILM, Decision, judge, signals_of
from retrieval.hits import Hit

MakeHit = Callable[..., Hit]


def test_nothing_found_is_not_injected() -> None:
    assert judge([], "leave", MINILM) == Decision(False, "not_found", 0.0)


def test_a_near_hit_is_relevant_and_a_far_one_is_not(hit: MakeHit) -> None:
    assert judge([hit("Annual leave days", 0.7)], "annual leave", MINILM).reason == "relevant"
    assert judge([hit("Annual leave days", 0.1)], "capital of France", MINILM).reason == "not_found"


def test_signals_are_the_best_its_lead_and_the_words_covered(hit: MakeHit) -> None:
    hits = [hit("Leave days", 0.6), hit("Pay", 0.3), hit("Pension", 0.2)]
    signals = signals_of(hits, "How many days of leave in Porto?")
    assert signals.top == 0.6
    assert signals.margin == pytest.approx(0.3)
    assert signals.coverage == pytest.approx(2 / 3)


def test_a_question_without_content_words_covers_nothing(hit: MakeHit) -> None:
    assert signals_of([hit()], "what about it?").coverage == 0.0


def test_scores_stay_in_zero_to_one(hit: MakeHit) -> None:
    assert judge([hit("leave", 1.0), hit("x", -1.0)], "leave", MINILM).score == 1.0
    assert judge([hit("x", -1.0)], "leave", MINILM).score == 0.0


@pytest.mark.parametrize(
    ("decision", "header"),
    [
        (Decision(True, "relevant", 0.712), "inject; reason=relevant; score=0.71"),
        (Decision(False, "no_need", detail="greeting"), "skip; reason=no_need"),
        (Decision(False, "not_found", 0.18), "skip; reason=not_found; score=0.18"),
    ],
)
def test_the_header_says_what_was_decided(decision: Decision, header: str) -> None:
    assert decision.header == header
