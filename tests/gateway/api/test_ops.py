"""Probes and metrics: without a key, without a model."""

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.house import House
from tests.fakes.serving import eventually
from tests.fakes.vllm import FakeVLLM


def test_probes_need_no_key_and_call_no_model(house: House, engine: FakeVLLM) -> None:
    assert house.get("/healthz", tenant=None).json() == {"status": "ok"}
    assert house.get("/readyz", tenant=None).json() == {"status": "ready"}
    assert house.get("/metrics", tenant=None).status_code == 200
    assert engine.requests == []


def test_metrics_are_prometheus_text_and_ours_have_our_prefix(house: House) -> None:
    response = house.get("/metrics", tenant=None)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    ours = [name for name in families if name.startswith("repertory_")]
    assert {"repertory_requests", "repertory_tokens", "repertory_cost_dollars"} <= set(ours)
    assert all(name.startswith(("repertory_", "process_", "python_")) for name in families)
    assert all(families[name].documentation for name in ours)


def test_readiness_gives_its_reasons(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House], background
) -> None:
    fake = start_vllm()
    fake.switches.refuse_load = (500, "rank 999 is too large")
    house = make_house(fake, ready=False)
    eventually(lambda: len(house.server.gateway.pool.unready()) == 2, what="two refusals")
    response = house.get("/readyz", tenant=None)
    assert response.status_code == 503
    assert response.json() == {
        "status": "unready",
        "reasons": {
            f"adapter {name} on engine engine-1": "rank 999 is too large" for name in house.adapters.values()
        },
    }
    background.run(fake.stop())
    eventually(lambda: "engine engine-1" in house.get("/readyz").json()["reasons"], what="the loss")
    assert house.get("/healthz").status_code == 200
