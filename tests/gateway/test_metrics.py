"""What `/metrics` says equals what the engine said, and grows with the catalogue, never with requests."""

from decimal import Decimal

import httpx
import pytest

from tests.fakes.house import QUESTION, SHORT_PROMPT, House
from tests.fakes.serving import Metrics, chat, events_of
from tests.fakes.vllm import FakeVLLM

LONG_PROMPT = {"role": "system", "content": "A long prompt of the client's own. " * 30}
PROMPT_PARTS = ("system", "history", "context", "user")


def growth(before: Metrics, after: Metrics, name: str, label: str, **labels: str) -> dict[str, float]:
    old = before.by(name, label, **labels)
    return {key: value - old.get(key, 0) for key, value in after.by(name, label, **labels).items()}


def bodies() -> list[dict[str, object]]:
    turns = [
        LONG_PROMPT,
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hello to you"},
        {"role": "user", "content": QUESTION},
    ]
    ask = {"model": "handbook-assistant", "messages": turns}
    return [
        ask,
        {**ask, "stream": True},
        {**ask, "stream": True, "stream_options": {"include_usage": True}},
        {**ask, "n": 3},
    ]


@pytest.mark.parametrize("cached", [0, 9, 100_000])
def test_the_parts_add_up_to_the_engines_own_count(house: House, engine: FakeVLLM, cached: int) -> None:
    engine.switches.cached_tokens = cached
    engine.switches.reply = "It is 27 days [1]."
    who = {"tenant": "globex", "model": "handbook-assistant"}
    before = house.server.metrics()
    for body in bodies():
        assert house.post(body, tenant="globex").status_code == 200
    parts = growth(before, house.server.metrics(), "repertory_tokens_total", "part", **who)
    assert sum(parts[part] for part in PROMPT_PARTS) == engine.prompt_tokens
    assert parts["completion"] == engine.generation_tokens
    assert parts["cached"] <= sum(parts[part] for part in PROMPT_PARTS)
    assert all(parts[part] > 0 for part in PROMPT_PARTS)


def test_the_headers_equal_the_metrics(house: House, engine: FakeVLLM) -> None:
    engine.switches.cached_tokens = 3
    who = {"tenant": "globex", "model": "handbook-assistant"}
    before = house.server.metrics()
    answer = house.post(bodies()[0], tenant="globex")
    after = house.server.metrics()
    tokens = dict(entry.split("=") for entry in answer.headers["x-repertory-tokens"].split(", "))
    counted = growth(before, after, "repertory_tokens_total", "part", **who)
    assert {part: float(count) for part, count in tokens.items()} == counted
    cost = growth(before, after, "repertory_cost_dollars_total", "part", **who)
    assert sum(cost.values()) == pytest.approx(float(answer.headers["x-repertory-cost"]), abs=1e-12)
    usage = answer.json()["usage"]
    exact = (
        Decimal("0.10") * (usage["prompt_tokens"] - 3)
        + Decimal("0.025") * 3
        + Decimal("0.40") * usage["completion_tokens"]
    ) / 10**6
    assert Decimal(answer.headers["x-repertory-cost"]) == exact


def test_a_stream_carries_the_same_in_its_usage_event(house: House, engine: FakeVLLM) -> None:
    import json

    json_answer = house.post(bodies()[0], tenant="globex")
    events = events_of(house.post(bodies()[2], tenant="globex").text)
    extension = json.loads(events[-2])["repertory"]
    assert events[-1] == "[DONE]"
    assert extension["cost_dollars"] == json_answer.headers["x-repertory-cost"]
    assert (
        ", ".join(f"{k}={v}" for k, v in extension["tokens"].items())
        == json_answer.headers["x-repertory-tokens"]
    )
    assert {"admit", "retrieval", "engine"} <= set(extension["milliseconds"])


def test_a_request_that_is_refused_costs_nothing(house: House, engine: FakeVLLM) -> None:
    before = house.server.metrics()
    house.post(chat("w " * 5000))
    after = house.server.metrics()
    assert sum(growth(before, after, "repertory_tokens_total", "part", tenant="acme").values()) == 0
    assert (
        growth(before, after, "repertory_requests_total", "outcome", tenant="acme", model="smol")["refused"]
        == 1
    )


def test_what_the_short_prompt_saved_is_counted(house: House, engine: FakeVLLM) -> None:
    before = house.server.metrics().sum("repertory_prompt_tokens_saved_total", tenant="globex")
    house.post(bodies()[0], tenant="globex")
    assert engine.last.body["messages"][0] == {"role": "system", "content": SHORT_PROMPT}
    saved = house.server.metrics().sum("repertory_prompt_tokens_saved_total", tenant="globex") - before
    assert saved == -(-len(LONG_PROMPT["content"]) // 4) - -(-len(SHORT_PROMPT) // 4)


def test_retrieval_decisions_are_counted(house: House, engine: FakeVLLM) -> None:
    before = house.server.metrics()
    for text in (QUESTION, "hi", "What is the boiling point of tungsten?"):
        house.post(chat(text, model="handbook-assistant"), tenant="globex")
    grown = growth(
        before, house.server.metrics(), "repertory_retrieval_decisions_total", "decision", tenant="globex"
    )
    assert {key: value for key, value in grown.items() if value} == {
        "relevant": 1,
        "no_need": 1,
        "not_found": 1,
    }


def test_embeddings_are_counted_and_charged(house: House) -> None:
    who = {"tenant": "acme", "model": "hashing"}
    before = house.server.metrics()
    house.post({"model": "hashing", "input": "one two three"}, path="/v1/embeddings")
    after = house.server.metrics()
    assert growth(before, after, "repertory_tokens_total", "part", **who)["user"] == 3
    cost = growth(before, after, "repertory_cost_dollars_total", "part", **who)
    assert sum(cost.values()) == pytest.approx(3 * 0.02e-6)


def test_time_is_measured_for_streams(house: House) -> None:
    house.post(chat(stream=True))
    metrics = house.server.metrics()
    for name in ("time_to_first_token", "time_per_output_token", "request_duration"):
        assert metrics.sum(f"repertory_{name}_seconds_count", model="smol") > 0
    for stage in ("admit", "engine"):
        assert metrics.sum("repertory_stage_duration_seconds_count", stage=stage) > 0


def test_engines_and_adapters_show(house: House) -> None:
    metrics = house.server.metrics()
    assert metrics.sum("repertory_engine_ready", engine="one") == 1
    assert metrics.sum("repertory_adapters_loaded", engine="one") == 2
    assert metrics.sum("repertory_adapter_loads_total", engine="one", outcome="loaded") == 2


def test_a_thousand_invented_models_make_no_new_series(house: House) -> None:
    house.post(chat(model="nobody"))
    house.post(b"{")
    house.post(chat(), path="/v1/nowhere")

    def series() -> int:
        return sum(len(found) for found in house.server.metrics().samples.values())

    before = series()
    refused = house.server.metrics().sum(
        "repertory_requests_total", tenant="acme", model="other", outcome="refused"
    )
    with house.http() as client:
        for number in range(1000):
            response: httpx.Response = client.post(
                "/v1/chat/completions", json=chat(model=f"invented-{number}")
            )
            assert response.status_code == 404
        for number in range(50):
            client.get(f"/v1/models/invented-{number}")
            client.get(f"/invented/{number}")
            client.post("/v1/embeddings", json={"model": f"invented-{number}", "input": "x"})
    assert series() == before
    after = house.server.metrics()
    assert (
        after.sum("repertory_requests_total", tenant="acme", model="other", outcome="refused")
        == refused + 1000
    )
    assert "invented" not in house.get("/metrics").text
