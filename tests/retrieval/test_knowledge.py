"""The facade: who gets which context, and what it costs."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from retrieval import tables
from retrieval.embedding import HashingEmbedder
from retrieval.errors import IsolationBreach, StoreNotFound
from retrieval.files import FileStore
from retrieval.gate import HASHING, Decision
from retrieval.knowledge import Knowledge, Query
from retrieval.stores import Stores


def count(text: str) -> int:
    return len(text.split())


@pytest.fixture
def knowledge(stores: Stores, embedder: HashingEmbedder) -> Knowledge:
    return Knowledge(stores, embedder, secret=b"secret", thresholds=HASHING)


@pytest.fixture
def query(stores: Stores, files: FileStore) -> Query:
    store = stores.create("acme", "handbook")
    pages = {
        "leave.md": b"# Annual leave\n\nEmployees get 27 days of annual leave per year.",
        "contractors.md": b"# Contractors\n\nContractors get no paid annual leave days.",
        "pay.md": b"# Pay\n\nSalaries arrive on the 25th of the month.",
    }
    ids = [files.put("acme", name, data, "assistants").id for name, data in pages.items()]
    stores.add_files("acme", store.id, ids)
    return Query("acme", (store.id,), "auto", ("How many days of annual leave?",), 300, count)


def test_a_question_the_store_answers_gets_its_sources(knowledge: Knowledge, query: Query) -> None:
    found = knowledge.retrieve(query)
    assert found.decision.reason == "relevant"
    assert found.sources[0].filename == "leave.md"
    assert found.message is not None
    assert found.message.endswith("\n\nHow many days of annual leave?")
    assert found.context_tokens == count(found.message) - count(query.turns[-1]) <= query.budget_tokens
    assert set(found.timings) == {"embed", "search", "pack"}


def test_the_same_request_gets_the_same_message(knowledge: Knowledge, query: Query) -> None:
    assert knowledge.retrieve(query).message == knowledge.retrieve(query).message


@pytest.mark.parametrize(
    ("change", "decision"),
    [
        ({"turns": ("hi",)}, Decision(False, "no_need", detail="greeting")),
        ({"turns": ()}, Decision(False, "no_need", detail="no_question")),
        ({"turns": (" ",)}, Decision(False, "no_need", detail="no_question")),
        ({"store_ids": ()}, Decision(False, "no_store")),
        ({"mode": "never"}, Decision(False, "never")),
        ({"turns": ("hi",), "mode": "always"}, None),
        ({"turns": ("hi",), "forced": True}, None),
        ({"mode": "never", "forced": True}, None),
        ({}, None),
    ],
)
def test_triage(
    knowledge: Knowledge, query: Query, change: dict[str, object], decision: Decision | None
) -> None:
    asked = replace(query, **change)
    assert knowledge.triage(asked) == decision
    if decision is not None:
        found = knowledge.retrieve(asked)
        assert (found.decision, found.message, found.timings) == (decision, None, {})


def test_a_question_about_something_else_gets_nothing(knowledge: Knowledge, query: Query) -> None:
    found = knowledge.retrieve(replace(query, turns=("Who painted the Mona Lisa?",)))
    assert (found.decision.reason, found.sources, found.message) == ("not_found", (), None)
    assert found.context_tokens == 0


@pytest.mark.parametrize(("change", "reason"), [({"mode": "always"}, "always"), ({"forced": True}, "forced")])
def test_always_and_forced_inject_whatever_is_found(
    knowledge: Knowledge, query: Query, change: dict[str, object], reason: str
) -> None:
    found = knowledge.retrieve(replace(query, turns=("Who painted the Mona Lisa?",), **change))
    assert (found.decision.inject, found.decision.reason) == (True, reason)
    assert len(found.sources) == 3


def test_always_finds_nothing_in_an_empty_store(knowledge: Knowledge, query: Query, stores: Stores) -> None:
    empty = stores.create("acme", "empty")
    found = knowledge.retrieve(replace(query, store_ids=(empty.id,), mode="always"))
    assert found.decision == Decision(False, "not_found", 0.0)


def test_a_budget_too_small_for_any_source_injects_nothing(knowledge: Knowledge, query: Query) -> None:
    found = knowledge.retrieve(replace(query, budget_tokens=10))
    assert (found.decision.reason, found.message) == ("no_room", None)


def test_a_follow_up_is_searched_with_the_turn_before(knowledge: Knowledge, query: Query) -> None:
    turns = ("How many days of annual leave?", "And for contractors?")
    found = knowledge.retrieve(replace(query, turns=turns))
    assert found.sources[0].filename == "contractors.md"
    assert found.message is not None
    assert found.message.endswith("\n\nAnd for contractors?")


def test_several_stores_are_searched_as_one(
    knowledge: Knowledge, query: Query, stores: Stores, files: FileStore
) -> None:
    other = stores.create("acme", "other")
    file = files.put(
        "acme", "more.md", b"# Leave\n\nBuying more annual leave days is possible.", "assistants"
    )
    stores.add_file("acme", other.id, file.id)
    found = knowledge.retrieve(replace(query, store_ids=(*query.store_ids, other.id, other.id)))
    assert {"leave.md", "more.md"} <= {source.filename for source in found.sources}


def test_another_tenants_store_is_not_found(knowledge: Knowledge, query: Query) -> None:
    with pytest.raises(StoreNotFound):
        knowledge.retrieve(replace(query, tenant_id="globex"))


def test_a_foreign_chunk_in_an_own_store_stops_everything(
    knowledge: Knowledge, query: Query, db: sa.Engine
) -> None:
    with db.begin() as connection:
        connection.execute(
            sa.update(tables.chunks).where(tables.chunks.c.ordinal == 0).values(tenant_id="globex")
        )
    with pytest.raises(IsolationBreach) as caught:
        knowledge.retrieve(query)
    assert caught.value.tenant_id == "acme"
