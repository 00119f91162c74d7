"""What the two adapters do on messages and questions they were not taught, through the gateway on the real engine."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.real.running import Demo, rows

PRIORITIES = {"low", "normal", "high", "urgent"}
CATEGORIES = {"access", "billing", "bug", "how_to", "feature", "outage"}


def ask(demo: Demo, tenant: str, model: str, text: str) -> Any:
    client = demo.client(tenant)
    return client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": text}], max_tokens=96, temperature=0
    )


def labels_of(answer: str) -> dict[str, str] | None:
    """The labels, if the answer is the JSON that was taught and nothing else."""
    try:
        parsed = json.loads(answer)
    except json.JSONDecodeError:
        return None
    taught = isinstance(parsed, dict) and set(parsed) == {"priority", "category"}
    return (
        parsed if taught and parsed["priority"] in PRIORITIES and parsed["category"] in CATEGORIES else None
    )


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return [str(row["messages"][0]["content"]) for row in rows("triage/heldout.jsonl")[:20]]


def test_support_triage_answers_unseen_messages_with_the_taught_json(demo: Demo, messages: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        raw = list(pool.map(lambda text: ask(demo, "acme", "support-triage", text), messages))
    answers = [response.parse() for response in raw]
    valid = [labels_of(answer.choices[0].message.content) for answer in answers]
    assert sum(labels is not None for labels in valid) >= 18
    assert len({json.dumps(labels) for labels in valid}) >= 4, "the labels do not depend on the message"
    assert {answer.model.partition("@")[0] for answer in answers} == {"support-triage"}


def test_the_base_model_does_not_answer_so(demo: Demo, messages: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        raw = list(pool.map(lambda text: ask(demo, "acme", demo.base_model, text), messages))
    answers = [response.parse() for response in raw]
    assert sum(labels_of(answer.choices[0].message.content) is not None for answer in answers) == 0
    assert {answer.model for answer in answers} == {demo.base_model}


def test_handbook_answers_cite_the_right_page(demo: Demo) -> None:
    questions = rows("style/heldout.jsonl")
    with ThreadPoolExecutor(8) as pool:
        raw = list(
            pool.map(lambda row: ask(demo, "globex", "handbook-assistant", str(row["question"])), questions)
        )
    right, styled, marked = 0, 0, 0
    for row, response in zip(questions, raw, strict=True):
        message = json.loads(response.text)["choices"][0]["message"]
        entries, text = message["annotations"], message["content"]
        assert all(entry["type"] == "file_citation" and entry["file_id"] for entry in entries)
        right += row["page"] in {entry["filename"] for entry in entries}
        marked += any(entry["index"] < len(text) for entry in entries)
        styled += text.startswith("In short:") and text.rstrip().endswith("Handbook desk")
    # 18 of 20, asked on 40. A source that was given is cited even where the answer does not mark it.
    assert right >= 36
    assert styled >= 36
    assert marked >= 20


@pytest.mark.parametrize("text", ["hi", "thanks", "Thank you so much!", "What is 17 * 23?", "good morning"])
def test_what_needs_no_knowledge_retrieves_nothing(demo: Demo, text: str) -> None:
    response = ask(demo, "globex", "handbook-assistant", text)
    assert response.headers["x-repertory-retrieval"].startswith("skip; reason=no_need")
    assert "context=0" in response.headers["x-repertory-tokens"]


@pytest.mark.parametrize(
    "text",
    ["Who won the 1998 football world cup?", "How do volcanoes form?", "Give me a recipe for pancakes"],
)
def test_what_the_handbook_cannot_answer_injects_nothing_and_says_so(demo: Demo, text: str) -> None:
    response = ask(demo, "globex", "handbook-assistant", text)
    assert response.headers["x-repertory-retrieval"].startswith("skip; reason=not_found")
    assert "context=0" in response.headers["x-repertory-tokens"]


def test_a_streamed_handbook_answer_carries_its_sources(demo: Demo) -> None:
    stream = demo.client("globex").chat.completions.create(
        model="handbook-assistant",
        messages=[{"role": "user", "content": "How many days of annual leave do I get?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    first = chunks[0].choices[0].delta.model_extra["annotations"]
    assert "annual-leave.md" in {entry["filename"] for entry in first}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    located = chunks[-2].choices[0].delta.model_extra["annotations"]
    assert all(text[entry["index"]] == "[" for entry in located)
    assert located
    extension = chunks[-1].model_extra["repertory"]
    assert extension["tokens"]["context"] > 0
    parts = ("system", "history", "context", "user")
    assert sum(extension["tokens"][part] for part in parts) == chunks[-1].usage.prompt_tokens
