"""What only the echo engine does: the same bytes each time, and breaking on request."""

import json

import pytest

from gateway.engines.echo import EchoEngine
from gateway.errors import EngineUnreachable
from tests.fakes.serving import chat

CHAT = "/v1/chat/completions"


async def say(engine: EchoEngine, body: dict[str, object], path: str = CHAT) -> bytes:
    return await (await engine.post(path, json.dumps(body).encode(), {})).read()


async def test_the_same_question_gets_the_same_bytes() -> None:
    for stream in (True, False):
        answers = {await say(EchoEngine(base_model="smol"), chat("a b", stream=stream)) for _ in range(2)}
        assert len(answers) == 1


@pytest.mark.parametrize(
    ("body", "path", "reply"),
    [
        ({"messages": [{"role": "user", "content": ""}]}, CHAT, "…"),
        ({"messages": [{"role": "system", "content": "only this"}]}, CHAT, "only this"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "part"}]}]}, CHAT, "part"),
        ({"prompt": ""}, "/v1/completions", "…"),
        ({"prompt": [1, 2]}, "/v1/completions", "[1, 2]"),
    ],
)
async def test_it_repeats_what_there_is(body: dict[str, object], path: str, reply: str) -> None:
    choice = json.loads(await say(EchoEngine(), {"model": "echo", **body}, path))["choices"][0]
    assert (choice.get("text") or choice["message"]["content"]) == reply


async def test_it_remembers_the_last_hundred_requests() -> None:
    engine = EchoEngine(base_model="smol")
    for number in range(105):
        await say(engine, chat(seed=number))
    assert [request["seed"] for request in engine.requests] == list(range(5, 105))


async def test_it_counts_what_runs() -> None:
    engine = EchoEngine(base_model="smol")
    answer = await engine.post(CHAT, json.dumps(chat(stream=True)).encode(), {})
    assert engine.running == 1
    answer.abort()
    answer.abort()
    assert engine.running == 0
    await say(engine, chat())
    assert engine.running == 0


async def test_broken_it_answers_nothing_and_returns_empty() -> None:
    engine = EchoEngine(base_model="smol")
    await engine.load_adapter("a@1", None)
    engine.broken = True
    assert not (await engine.health()).ready
    for attempt in (
        engine.adapters(),
        engine.load_adapter("a", None),
        engine.unload_adapter("a"),
        say(engine, chat()),
    ):
        with pytest.raises(EngineUnreachable) as caught:
            await attempt
        assert not caught.value.connected
    engine.broken = False
    assert await engine.adapters() == frozenset()


async def test_it_can_break_in_mid_answer() -> None:
    engine = EchoEngine(base_model="smol", seconds_per_token=0.001)
    answer = await engine.post(CHAT, json.dumps(chat("a b c", stream=True)).encode(), {})
    with pytest.raises(EngineUnreachable) as caught:  # noqa: PT012  the loop is what raises
        async for _ in answer.chunks():
            engine.broken = True
    assert caught.value.connected
    assert engine.running == 0
