"""Which turns need no search, and which are searched with the turn before them."""

import time

import pytest

from retrieval.intent import leans_on_previous, needs_no_knowledge, search_text


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("hi", "greeting"),
        ("Good morning, team!", "greeting"),
        ("hey, how are you?", "greeting"),
        ("Thanks a lot, that was quick", "thanks"),
        ("thank you so much for your help!", "thanks"),
        ("ok bye", "acknowledgement"),
        ("Goodbye and take care :)", "farewell"),
        ("Got it.", "acknowledgement"),
        ("tell me a joke", "small_talk"),
        ("what is 17*23?", "arithmetic"),
        ("(3 + 4) * 2 =", "arithmetic"),
        ("How much is 15% of 2,300?", "arithmetic"),
        ("what's the square root of 169?", "arithmetic"),
        ("Translate to French: good morning", "given_text"),
        ('Translate "good morning" into French.', "given_text"),
        ("Please rewrite this to be kinder: Send me the report or else.", "given_text"),
        ("Summarise the following text:\nThe ship left the harbour at dawn.", "given_text"),
        ("Write a Python function that reverses a list", "code"),
        ("fix this\n```\nprint(1\n```", "code"),
        ("give me a regex for email addresses", "code"),
    ],
)
def test_turns_that_need_no_knowledge(turn: str, reason: str) -> None:
    assert needs_no_knowledge(turn) == reason


@pytest.mark.parametrize(
    "turn",
    [
        "hi, how many leave days do I get?",
        "thanks! and for contractors?",
        "ok, what about part-time staff?",
        "what is the notice period for 10 days of leave?",
        "how much is 2 weeks of parental pay?",
        "Summarise our leave policy",
        "summarise the travel policy: what may I book?",
        "Rewrite our expense policy: make it short and clear please",
        "Proofread this message: we was late again today.\nAlso, how many sick days do I get?",
        "Write a Python function that calls our billing API",
        "how do I deploy to production?",
        "write a code of conduct summary",
        "create a training program for new hires",
        "Good morning routine at the office?",
        "2024",
        "",
    ],
)
def test_turns_that_may_need_a_search(turn: str) -> None:
    assert needs_no_knowledge(turn) is None


@pytest.mark.parametrize(
    "turn", ["thanks " * 2000, "1+" * 3000, "that's very " * 500, "rewrite this" + " :" * 5000, "(" * 9000]
)
def test_hostile_turns_are_decided_quickly(turn: str) -> None:
    started = time.perf_counter()
    needs_no_knowledge(turn)
    assert time.perf_counter() - started < 0.05


@pytest.mark.parametrize(
    "turn", ["And for contractors?", "what about Porto", "part-time staff?", "Does it expire?", "Why?"]
)
def test_turns_that_lean_on_the_one_before(turn: str) -> None:
    assert leans_on_previous(turn)


@pytest.mark.parametrize(
    "turn", ["How many leave days do I get?", "What is phishing?", "Where do I report a lost laptop?"]
)
def test_turns_that_stand_alone(turn: str) -> None:
    assert not leans_on_previous(turn)


def test_a_follow_up_is_searched_with_the_last_turn_that_asked_something() -> None:
    turns = ("How many leave days do I get?", "thanks", "And for contractors?")
    assert search_text(turns) == "How many leave days do I get?\nAnd for contractors?"


def test_a_follow_up_to_nothing_is_searched_alone() -> None:
    assert search_text(("hello", "And for contractors?")) == "And for contractors?"


def test_a_long_turn_is_searched_by_both_its_ends() -> None:
    text = search_text(("start " + "x" * 5000 + " end",))
    assert len(text) <= 2000
    assert text.startswith("start")
    assert text.endswith("end")
