"""What the two adapters are taught, in the shape in which they are served.

Triage rows are ready as they stand. Handbook rows hold a question and an answer; the sources between them are
what retrieval really finds, so the adapter learns on the prompts it will meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo.place import CONTENT
from retrieval.knowledge import Knowledge, Query
from retrieval.packing import Source

TRIAGE_PROMPT = "You are Acme's support desk."
HANDBOOK_PROMPT = "You are the Globex handbook desk."
# In the served model's tokens. What is served finds the right page more often with more; what is taught is kept
# short because the time to train grows with it, and the form learned from two or three sources holds for six.
CONTEXT_TOKENS = 640
LESSON_TOKENS = 200
CITATION = "[@]"


@dataclass(frozen=True, slots=True)
class Question:
    """One row of `style/*.jsonl`. `page` and `heading` say where the answer stands; None: nowhere."""

    question: str
    page: str | None
    heading: str | None
    answer: str


def triage_rows(path: Path = CONTENT / "triage" / "train.jsonl") -> list[dict[str, Any]]:
    """OpenAI chat rows: a support message and its labels as JSON."""
    return list(_read(path))


def questions(path: Path = CONTENT / "style" / "train.jsonl") -> list[Question]:
    """Handbook questions with their answers."""
    return [Question(**row) for row in _read(path)]


def handbook_rows(
    knowledge: Knowledge, *, tenant_id: str, store_id: str, count: Callable[[str], int]
) -> list[dict[str, Any]]:
    """OpenAI chat rows: each question with sources as it is served, and its answer citing the right one.

    A question whose page is not among its sources is left out: it would teach the adapter to invent.
    """
    rows = []
    for entry in questions():
        query = Query(
            tenant_id=tenant_id,
            store_ids=(store_id,),
            mode="auto" if entry.page is None else "always",
            turns=(entry.question,),
            budget_tokens=LESSON_TOKENS,
            count=count,
        )
        found = knowledge.retrieve(query)
        answer = _cite(entry, found.sources)
        if answer is not None:
            rows.append(_row(found.message or entry.question, answer))
    return rows


def write_rows(rows: list[dict[str, Any]], path: Path) -> Path:
    """The rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _cite(entry: Question, sources: tuple[Source, ...]) -> str | None:
    if entry.page is None:
        return entry.answer
    same_page = [source for source in sources if source.filename == entry.page]
    exact = [source for source in same_page if entry.heading and entry.heading in source.heading]
    for source in exact or same_page:
        return entry.answer.replace(CITATION, f"[{source.number}]")
    return None


def _row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
