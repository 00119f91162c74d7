"""The demo's content keeps the promises of deploy/demo/README.md."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import product
from typing import Any

import pytest

from deploy.demo import handbook, lessons
from deploy.demo.lessons import Question
from deploy.demo.place import CONTENT
from retrieval.words import words

PAGES = {page.name: page.read_text() for page in handbook.PAGES.glob("*.md")}
TRAIN, HELDOUT = lessons.questions(), lessons.questions(CONTENT / "style" / "heldout.jsonl")
PRIORITIES = {"urgent", "high", "normal", "low"}
CATEGORIES = {"access", "billing", "bug", "how_to", "feature", "outage"}


def triage(name: str) -> list[tuple[str, dict[str, str]]]:
    rows = lessons.triage_rows(CONTENT / "triage" / f"{name}.jsonl")
    for row in rows:
        assert [set(turn) for turn in row["messages"]] == [{"role", "content"}] * 2
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
    return [(row["messages"][0]["content"], json.loads(row["messages"][1]["content"])) for row in rows]


def unanswerable() -> list[dict[str, Any]]:
    lines = (CONTENT / "style" / "unanswerable.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def likeness(one: str, other: str) -> float:
    """The share of words that two texts have in common."""
    left, right = set(words(one)), set(words(other))
    return len(left & right) / max(1, len(left | right))


def test_there_is_as_much_as_promised() -> None:
    assert len(PAGES) == 30
    assert [len(triage(name)) for name in ("train", "heldout")] == [160, 40]
    assert [len(TRAIN), len(HELDOUT)] == [110, 40]
    assert Counter(row["kind"] for row in unanswerable()) == {"off_topic": 12, "near_miss": 8, "no_need": 10}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_has_one_title_and_four_to_seven_sections(name: str) -> None:
    lines = PAGES[name].splitlines()
    assert lines[0].startswith("# ")
    assert sum(line.startswith("# ") for line in lines) == 1
    assert 4 <= sum(line.startswith("## ") for line in lines) <= 7


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_triage_answers_are_labels_in_their_exact_form(name: str) -> None:
    for row in lessons.triage_rows(CONTENT / "triage" / f"{name}.jsonl"):
        answer = row["messages"][1]["content"]
        labels = json.loads(answer)
        assert list(labels) == ["priority", "category"]
        assert labels["priority"] in PRIORITIES
        assert labels["category"] in CATEGORIES
        assert answer == json.dumps(labels)


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_every_label_occurs(name: str) -> None:
    labels = [labels for _, labels in triage(name)]
    assert {found["priority"] for found in labels} == PRIORITIES
    assert {found["category"] for found in labels} == CATEGORIES


@pytest.mark.parametrize("entry", TRAIN + HELDOUT, ids=lambda entry: entry.question[:40])
def test_an_answer_has_three_lines_in_house_style(entry: Question) -> None:
    short, step, desk = entry.answer.split("\n")
    citation = r" \[@\]" if entry.page else ""
    assert re.fullmatch(rf"In short: [^\[]+{citation}[.!?]", short), short
    assert re.fullmatch(r"Next step: [^\[]+[.!?]", step), step
    assert desk == "— Handbook desk"
    assert len(short.removeprefix("In short: ").replace("[@]", "").split()) <= 30
    assert len(step.removeprefix("Next step: ").split()) <= 18


def test_every_heading_named_stands_on_its_page() -> None:
    for entry in TRAIN + HELDOUT:
        assert (entry.page is None) == (entry.heading is None)
        if entry.page:
            headings = re.findall(r"^###? (.+)$", PAGES[entry.page], re.M)
            assert headings.count(entry.heading) == 1, entry


def test_fourteen_questions_in_training_have_no_page_and_none_held_out() -> None:
    assert sum(entry.page is None for entry in TRAIN) == 14
    assert all(entry.page for entry in HELDOUT)


def test_held_out_answers_stand_in_sections_that_no_training_row_uses() -> None:
    used = {(entry.page, entry.heading) for entry in TRAIN}
    assert not used & {(entry.page, entry.heading) for entry in HELDOUT}


def test_nothing_held_out_is_nearly_in_training() -> None:
    taught = [text for text, _ in triage("train")]
    kept = [text for text, _ in triage("heldout")]
    asked = [entry.question for entry in HELDOUT] + [row["question"] for row in unanswerable()]
    pairs = [*product(kept, taught), *product(asked, [entry.question for entry in TRAIN])]
    nearest = max(pairs, key=lambda pair: likeness(*pair))
    assert likeness(*nearest) < 0.6, nearest


def test_no_text_occurs_twice() -> None:
    texts = [text for name in ("train", "heldout") for text, _ in triage(name)]
    texts += [entry.question for entry in TRAIN + HELDOUT] + [row["question"] for row in unanswerable()]
    assert [text for text, times in Counter(map(str.casefold, texts)).items() if times > 1] == []
