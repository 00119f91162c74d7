"""What the adapters are taught: prompts as they are served, answers that cite the right source."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from adapters.data import load_examples
from deploy.demo import handbook, lessons
from deploy.demo.lessons import Question
from retrieval.embedding import HashingEmbedder
from tests.deploy.demo.conftest import Desk

count = HashingEmbedder().count


def taught(desk: Desk, store: str) -> list[dict[str, str]]:
    """The rows as {"user": …, "assistant": …}."""
    rows = lessons.handbook_rows(desk.knowledge, tenant_id=desk.tenant, store_id=store, count=count)
    return [{turn["role"]: turn["content"] for turn in row["messages"]} for row in rows]


@pytest.fixture(scope="session")
def rows(handbook_desk: Desk, handbook_store: str) -> list[dict[str, str]]:
    return taught(handbook_desk, handbook_store)


def question_of(row: dict[str, str]) -> Question:
    return next(entry for entry in lessons.questions() if row["user"].endswith(entry.question))


def cited(row: dict[str, str]) -> str | None:
    """The header of the source whose number the answer gives, without that number."""
    number = re.search(r"\[(\d+)\]", row["assistant"])
    if number is None:
        return None
    return re.search(rf"^\[{number[1]}\] (.+)$", row["user"], re.M)[1]


def test_an_answer_cites_the_number_under_which_its_page_is_among_the_sources(
    rows: list[dict[str, str]],
) -> None:
    with_page = [(row, entry) for row in rows if (entry := question_of(row)).page]
    assert len(with_page) > 40
    for row, entry in with_page:
        assert cited(row).endswith(f"({entry.page})"), row
        assert lessons.CITATION not in row["assistant"]


def test_where_the_right_section_is_among_the_sources_it_is_the_one_cited(rows: list[dict[str, str]]) -> None:
    exact = 0
    for row in rows:
        entry = question_of(row)
        headers = re.findall(r"^\[\d+\] (.+)$", row["user"], re.M)
        if entry.page and any(entry.heading in header and entry.page in header for header in headers):
            exact += 1
            assert entry.heading in cited(row), row
    assert exact > 20


def test_the_number_cited_is_not_always_the_first(rows: list[dict[str, str]]) -> None:
    numbers = {re.search(r"\[(\d+)\]", row["assistant"])[1] for row in rows if question_of(row).page}
    assert len(numbers) > 1


def test_a_row_without_a_page_is_taught_as_it_stands(rows: list[dict[str, str]]) -> None:
    without = [row for row in rows if question_of(row).page is None]
    assert len(without) == 14
    for row in without:
        assert row["assistant"] == question_of(row).answer
        assert not re.search(r"\[(\d+|@)\]", row["assistant"])


def test_a_question_whose_page_is_not_found_is_left_out(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(handbook.PAGES / "pension.md", folder)
    rows = taught(desk, desk.ingest(folder))
    pages = [question_of(row).page for row in rows]
    assert set(pages) == {"pension.md", None}
    assert pages.count(None) == 14
    assert pages.count("pension.md") == sum(entry.page == "pension.md" for entry in lessons.questions())


def test_sources_are_within_their_budget(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert count(row["user"]) - count(question_of(row).question) <= lessons.LESSON_TOKENS


def test_rows_come_back_from_the_file_as_they_were_and_are_good_training_data(tmp_path: Path) -> None:
    rows = lessons.triage_rows()
    rows[0]["messages"][0]["content"] = "Zoë’s “calendar”\nis\u2028gone 😀"
    path = lessons.write_rows(rows, tmp_path / "deep" / "rows.jsonl")
    assert lessons.triage_rows(path) == rows
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == rows
    assert len(load_examples(path)) == len(rows)
