"""The pool: adapters before traffic, again after every restart, and no place that is never given back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.engines.echo import EchoEngine
from gateway.engines.pool import EnginePool
from gateway.engines.vllm import VLLMEngine
from gateway.errors import EngineRefused, Unavailable
from gateway.telemetry import Telemetry
from tests.fakes.serving import Metrics, eventually_async
from tests.fakes.vllm import FakeVLLM

WANTED = {"a@1": Path("/adapters/a"), "b@2": Path("/adapters/b")}


class Open:
    """Pools of a test, stopped after it, with what they want and report."""

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self.wanted: dict[str, Path] = {}
        self.pools: list[EnginePool] = []

    def over(self, *engines) -> EnginePool:
        pool = EnginePool(list(engines), wanted=lambda _base: dict(self.wanted), telemetry=self.telemetry)
        self.pools.append(pool)
        return pool

    async def ready(self, *engines) -> EnginePool:
        pool = self.over(*engines)
        await pool.start()
        await eventually_async(lambda: not pool.unready(), what="readiness")
        return pool

    def metric(self, name: str, **labels: str) -> float:
        return Metrics.parse(self.telemetry.exposition().decode()).sum(name, **labels)


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    opened = Open()
    yield opened
    for pool in opened.pools:
        await pool.stop()


def vllm(fake: FakeVLLM, name: str = "v") -> VLLMEngine:
    return VLLMEngine(name=name, base_model="smol", url=fake.url)


async def test_before_its_start_an_engine_is_starting(opened: Open) -> None:
    pool = opened.over(EchoEngine(base_model="smol"))
    assert pool.unready() == {"engine echo": "not started"}
    with pytest.raises(Unavailable) as caught:
        pool.lease("smol", None)
    assert caught.value.code == "engine_starting"


async def test_adapters_are_loaded_before_the_engine_is_ready(
    opened: Open, start_vllm: Callable[..., FakeVLLM]
) -> None:
    fake = start_vllm()
    opened.wanted = WANTED
    pool = await opened.ready(vllm(fake))
    assert fake.history[:4] == ["health", "models", "load a@1", "load b@2"]
    assert pool.members["v"].held == set(WANTED)
    assert opened.metric("repertory_engine_ready", engine="v") == 1
    assert opened.metric("repertory_adapters_loaded", engine="v") == 2


async def test_adapters_it_holds_already_are_not_loaded_again(
    opened: Open, start_vllm: Callable[..., FakeVLLM]
) -> None:
    fake = start_vllm()
    fake.adapters = {name: str(path) for name, path in WANTED.items()}
    opened.wanted = WANTED
    await opened.ready(vllm(fake))
    assert not [entry for entry in fake.history if entry.startswith("load")]


async def test_a_new_adapter_is_loaded_when_the_catalogue_says_so(
    opened: Open, start_vllm: Callable[..., FakeVLLM]
) -> None:
    fake = start_vllm()
    pool = await opened.ready(vllm(fake))
    with pytest.raises(Unavailable, match="a@1") as caught:
        pool.lease("smol", "a@1")
    assert caught.value.code == "adapter_not_loaded"
    opened.wanted = WANTED
    pool.reconcile_soon()
    await eventually_async(lambda: pool.members["v"].held == set(WANTED), within=5, what="the load")
    pool.lease("smol", "a@1").release()


async def test_a_restarted_engine_holds_its_adapters_before_it_gets_traffic(
    opened: Open, start_vllm: Callable[..., FakeVLLM], background
) -> None:
    fake = start_vllm()
    opened.wanted = WANTED
    pool = await opened.ready(vllm(fake))
    await asyncio.to_thread(background.run, fake.stop())
    await eventually_async(pool.unready, what="the loss")
    with pytest.raises(Unavailable) as caught:
        pool.lease("smol", "a@1")
    assert caught.value.code == "engine_unavailable"
    assert opened.metric("repertory_engine_losses_total", engine="v") == 1
    fake.history.clear()
    await asyncio.to_thread(background.run, fake.start())
    await eventually_async(lambda: pool.members["v"].ready, what="its return")
    assert fake.history[:4] == ["health", "models", "load a@1", "load b@2"]
    pool.lease("smol", "a@1").release()


async def test_an_engine_replaced_between_two_looks_is_filled_again(
    opened: Open, start_vllm: Callable[..., FakeVLLM]
) -> None:
    fake = start_vllm()
    opened.wanted = WANTED
    await opened.ready(vllm(fake))
    fake.restart_in_place()
    await eventually_async(lambda: set(fake.adapters) == set(WANTED), within=5, what="the reload")


@pytest.mark.parametrize("status", [400, 500])
async def test_a_refused_adapter_is_reported_and_does_not_take_the_engine_down(
    opened: Open, start_vllm: Callable[..., FakeVLLM], status: int
) -> None:
    fake = start_vllm()
    fake.switches.refuse_load = (status, "rank 999 is too large")
    opened.wanted = WANTED
    pool = opened.over(vllm(fake))
    await pool.start()
    await eventually_async(lambda: pool.members["v"].ready, what="readiness")
    assert pool.unready() == {f"adapter {name} on engine v": "rank 999 is too large" for name in WANTED}
    assert opened.metric("repertory_adapter_loads_total", engine="v", outcome="refused") == 2
    pool.lease("smol", None).release()
    with pytest.raises(Unavailable) as caught:
        pool.lease("smol", "a@1")
    assert caught.value.code == "adapter_refused"


async def test_a_refused_adapter_is_tried_again_later_but_not_at_every_look(
    opened: Open, start_vllm: Callable[..., FakeVLLM]
) -> None:
    fake = start_vllm()
    fake.switches.refuse_load = (500, "no")
    opened.wanted = {"a@1": Path("/a")}
    pool = opened.over(vllm(fake))
    await pool.start()
    member = pool.members["v"]
    await eventually_async(lambda: member.refusals, what="the refusal")
    fake.switches.refuse_load = None
    looks = fake.history.count("models")
    pool.reconcile_soon()
    await eventually_async(lambda: fake.history.count("models") > looks, what="another look")
    assert fake.history.count("refuse a@1") == 1
    assert member.refusals["a@1"].again_at > asyncio.get_running_loop().time()
    # The pause is over, as if half a minute had passed.
    refusal = member.refusals["a@1"]
    member.refusals["a@1"] = type(refusal)(refusal.reason, 0.0)
    pool.reconcile_soon()
    await eventually_async(lambda: member.held == {"a@1"}, what="the load")
    assert pool.unready() == {}


async def test_an_adapter_no_longer_wanted_is_no_longer_reported(
    opened: Open, start_vllm: Callable[..., FakeVLLM]
) -> None:
    fake = start_vllm()
    fake.switches.refuse_load = (400, "no")
    opened.wanted = dict(WANTED)
    pool = opened.over(vllm(fake))
    await pool.start()
    await eventually_async(lambda: len(pool.unready()) == 2)
    opened.wanted = {}
    pool.reconcile_soon()
    await eventually_async(lambda: not pool.unready(), what="silence")


async def test_an_engine_whose_models_cannot_be_listed_is_not_ready(
    opened: Open, start_vllm: Callable[..., FakeVLLM]
) -> None:
    fake = start_vllm(api_key="secret")
    pool = opened.over(vllm(fake))
    await pool.start()
    await eventually_async(lambda: "401" in pool.unready().get("engine v", ""), what="the reason")


async def test_a_watcher_outlives_whatever_an_engine_does(opened: Open) -> None:
    class Odd(EchoEngine):
        odd = True

        async def adapters(self) -> frozenset[str]:
            if self.odd:
                raise KeyError("data")
            return await super().adapters()

    engine = Odd(base_model="smol")
    pool = opened.over(engine)
    await pool.start()
    await eventually_async(lambda: "the log has the trace" in pool.unready().get("engine echo", ""))
    engine.odd = False
    await eventually_async(lambda: not pool.unready(), what="its recovery")


async def test_the_least_busy_engine_gets_the_request_and_places_come_back(opened: Open) -> None:
    one, two = EchoEngine(name="one", base_model="smol"), EchoEngine(name="two", base_model="smol")
    pool = await opened.ready(one, two)
    first, second = pool.lease("smol", None), pool.lease("smol", None)
    assert {first.engine.name, second.engine.name} == {"one", "two"}
    first.release()
    first.release()
    assert pool.lease("smol", None).engine is first.engine
    assert [member.inflight for member in pool.members.values()] == [1, 1]


async def test_an_engine_that_was_tried_is_not_leased_again(opened: Open) -> None:
    pool = await opened.ready(EchoEngine(base_model="smol"))
    assert pool.can_serve("smol", None, frozenset())
    assert not pool.can_serve("smol", None, frozenset({"echo"}))
    assert not pool.can_serve("large", None, frozenset())


async def test_a_suspect_gets_nothing_until_it_was_looked_at(opened: Open) -> None:
    pool = await opened.ready(EchoEngine(base_model="smol"))
    pool.suspect("echo")
    with pytest.raises(Unavailable):
        pool.lease("smol", None)
    await eventually_async(lambda: pool.can_serve("smol", None, frozenset()), within=5, what="its return")
    assert opened.metric("repertory_engine_losses_total", engine="echo") == 1


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_that_meets_a_nudge_still_stops(opened: Open, turns: int) -> None:
    """However many turns of the loop lie between the two."""
    pool = await opened.ready(EchoEngine(base_model="smol"))
    pool.reconcile_soon()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await pool.stop()


async def test_a_base_that_nobody_serves_is_unavailable(opened: Open) -> None:
    pool = await opened.ready(EchoEngine(base_model="smol"))
    with pytest.raises(Unavailable, match="No engine that serves large is up") as caught:
        pool.lease("large", None)
    assert caught.value.retry_after is not None


async def test_the_echo_engine_returns_with_its_adapters(opened: Open) -> None:
    engine = EchoEngine(base_model="smol")
    opened.wanted = WANTED
    pool = await opened.ready(engine)
    engine.broken = True
    await eventually_async(pool.unready, what="the loss")
    engine.broken = False
    await eventually_async(lambda: not pool.unready(), what="its return")
    assert await engine.adapters() == set(WANTED)


async def test_a_refusing_engine_of_the_contract(opened: Open) -> None:
    """A refusal is the engine's word on one adapter; the others are still loaded."""

    class Picky(EchoEngine):
        async def load_adapter(self, adapter_id: str, path: Path) -> None:
            if adapter_id == "a@1":
                raise EngineRefused(self.name, 400, "not this one")
            await super().load_adapter(adapter_id, path)

    opened.wanted = WANTED
    pool = opened.over(Picky(base_model="smol"))
    await pool.start()
    await eventually_async(lambda: pool.members["echo"].held == {"b@2"})
    assert pool.unready() == {"adapter a@1 on engine echo": "not this one"}
