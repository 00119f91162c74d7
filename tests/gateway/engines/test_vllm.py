"""vLLM over HTTP: each way it can fail is told apart."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.engines.vllm import VLLMEngine, error_message
from gateway.errors import EngineRefused, EngineUnreachable
from tests.fakes.serving import chat, eventually_async
from tests.fakes.vllm import FakeVLLM

CHAT = "/v1/chat/completions"


@pytest.fixture
def fake(start_vllm: Callable[..., FakeVLLM]) -> FakeVLLM:
    return start_vllm(api_key="engine-secret")


@pytest.fixture
async def engine(fake: FakeVLLM) -> AsyncIterator[VLLMEngine]:
    made = VLLMEngine(name="v", base_model="smol", url=fake.url, api_key="engine-secret", timeout_seconds=0.5)
    await made.start()
    yield made
    await made.stop()


async def post(engine: VLLMEngine, **fields: object):
    return await engine.post(CHAT, json.dumps(chat(**fields)).encode(), {"x-request-id": "abc"})


async def test_it_sends_its_own_key_and_the_request_id(engine: VLLMEngine, fake: FakeVLLM) -> None:
    await (await post(engine)).read()
    headers = fake.last.headers
    assert (headers["authorization"], headers["x-request-id"]) == ("Bearer engine-secret", "abc")
    assert headers["content-type"] == "application/json"
    assert "user-agent" not in headers


async def test_a_wrong_key_is_a_refusal(fake: FakeVLLM) -> None:
    engine = VLLMEngine(name="v", base_model="smol", url=fake.url, api_key="wrong")
    await engine.start()
    with pytest.raises(EngineRefused, match="engine v answered 401: Unauthorized") as caught:
        await engine.adapters()
    assert caught.value.status == 401
    await engine.stop()


async def test_before_its_start_and_after_its_stop_it_is_unreachable(fake: FakeVLLM) -> None:
    engine = VLLMEngine(name="v", base_model="smol", url=fake.url)
    with pytest.raises(EngineUnreachable, match="not started"):
        await post(engine)
    await engine.start()
    await engine.stop()
    await engine.stop()
    with pytest.raises(EngineUnreachable, match="not started"):
        await engine.adapters()


async def test_nobody_listening_is_not_connected(engine: VLLMEngine, fake: FakeVLLM, background) -> None:
    background.run(fake.stop())
    with pytest.raises(EngineUnreachable) as caught:
        await post(engine)
    assert (caught.value.connected, caught.value.timed_out) == (False, False)
    for attempt in (engine.adapters(), engine.load_adapter("a", Path("/a")), engine.unload_adapter("a")):
        with pytest.raises(EngineUnreachable):
            await attempt
    health = await engine.health()
    assert not health.ready
    assert not health.starting


async def test_silence_is_a_timeout(engine: VLLMEngine, fake: FakeVLLM) -> None:
    fake.switches.delay = 10
    with pytest.raises(EngineUnreachable) as caught:
        await post(engine)
    assert (caught.value.connected, caught.value.timed_out) == (True, True)


async def test_silence_within_a_stream_is_a_timeout(engine: VLLMEngine, fake: FakeVLLM) -> None:
    fake.switches.delay = 10
    answer = await post(engine, stream=True)
    with pytest.raises(EngineUnreachable) as caught:
        async for _ in answer.chunks():
            pass
    assert caught.value.timed_out
    answer.abort()


@pytest.mark.parametrize("stream", [True, False])
async def test_breaking_off_is_neither(engine: VLLMEngine, fake: FakeVLLM, stream: bool) -> None:
    fake.switches.die_in_json, fake.switches.die_after = True, 2
    answer = await post(engine, stream=stream)
    with pytest.raises(EngineUnreachable) as caught:  # noqa: PT012  the loop is what raises
        if stream:
            async for _ in answer.chunks():
                pass
        else:
            await answer.read()
    answer.abort()
    assert (caught.value.connected, caught.value.timed_out) == (True, False)


async def test_a_server_that_closes_without_a_word_was_connected() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = VLLMEngine(name="v", base_model="smol", url=f"http://127.0.0.1:{port}")
    await engine.start()
    with pytest.raises(EngineUnreachable) as caught:
        await post(engine)
    assert caught.value.connected
    await engine.stop()
    server.close()
    await server.wait_closed()


async def test_a_server_that_speaks_no_http_is_unreachable() -> None:
    def babble(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    engine = VLLMEngine(
        name="v", base_model="smol", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    )
    await engine.start()
    assert not (await engine.health()).ready
    with pytest.raises(EngineUnreachable):
        await post(engine)
    await engine.stop()
    server.close()
    await server.wait_closed()


async def test_an_unwell_server_says_so(engine: VLLMEngine, fake: FakeVLLM) -> None:
    fake.switches.refuse_health = 503
    assert (await engine.health()).reason == "/health answered 503"


@pytest.mark.parametrize(
    ("status", "message"), [(400, "bad adapter"), (500, "The size of tensor a (576) must match")]
)
async def test_a_refused_load_carries_the_engines_words(
    engine: VLLMEngine, fake: FakeVLLM, status: int, message: str
) -> None:
    fake.switches.refuse_load = (status, message)
    with pytest.raises(EngineRefused) as caught:
        await engine.load_adapter("a@1", Path("/a"))
    assert (caught.value.status, caught.value.message) == (status, message)


async def test_unloading_what_it_does_not_hold_is_refused(engine: VLLMEngine) -> None:
    with pytest.raises(EngineRefused) as caught:
        await engine.unload_adapter("nobody")
    assert caught.value.status == 404


async def test_an_adapter_is_loaded_by_name_and_path(engine: VLLMEngine, fake: FakeVLLM) -> None:
    await engine.load_adapter("a@1", Path("/adapters/abc"))
    assert fake.adapters == {"a@1": "/adapters/abc"}
    assert await engine.adapters() == {"a@1"}


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_an_answer_that_is_dropped_stops_the_engine(
    engine: VLLMEngine, fake: FakeVLLM, how: str
) -> None:
    fake.switches.delay = 0.2
    if how == "abort":
        answer = await post(engine, stream=True, text="w " * 50)
        answer.abort()
    else:
        asking = asyncio.create_task(post(engine, text="w " * 50))
        await eventually_async(lambda: fake.running == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await eventually_async(lambda: fake.running == 0 and fake.aborted == 1, within=3, what="the abort")


async def test_an_address_that_drops_every_packet_is_given_up_on() -> None:
    """A full backlog neither accepts nor refuses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        engine = VLLMEngine(name="v", base_model="smol", url=f"http://127.0.0.1:{port}", timeout_seconds=1)
        await engine.start()
        with pytest.raises(EngineUnreachable) as caught:
            await asyncio.wait_for(post(engine), 20)
        assert not caught.value.connected or caught.value.timed_out
        await engine.stop()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "inner"}}', "inner"),
        (b'{"message": "flat"}', "flat"),
        (b'{"detail": "fastapi"}', "fastapi"),
        (b'{"error": "text"}', "text"),
        (b'{"error": {"code": 1}}', "{'code': 1}"),
        (b'"words"', "words"),
        (b"plain words", "plain words"),
        (b"", "no reason given"),
        (b"\xff" * 400, "\ufffd" * 300),
    ],
)
def test_the_words_of_an_error_are_found_whatever_its_shape(body: bytes, message: str) -> None:
    assert error_message(body) == message
