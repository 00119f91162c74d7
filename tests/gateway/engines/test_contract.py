"""What the gateway asks of an engine, of every engine: the echo engine and vLLM over HTTP."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.engines.base import Engine
from gateway.engines.echo import EchoEngine
from gateway.engines.vllm import VLLMEngine
from tests.fakes.serving import chat
from tests.fakes.vllm import FakeVLLM

CHAT = "/v1/chat/completions"


@pytest.fixture(params=["echo", "vllm"])
async def engine(
    request: pytest.FixtureRequest, start_vllm: Callable[..., FakeVLLM]
) -> AsyncIterator[Engine]:
    made: Engine
    if request.param == "echo":
        made = EchoEngine(base_model="smol", max_model_len=100)
    else:
        made = VLLMEngine(name="v", base_model="smol", url=start_vllm(max_model_len=100).url)
    await made.start()
    yield made
    await made.stop()


async def ask(engine: Engine, body: dict[str, object], path: str = CHAT):
    return await engine.post(path, json.dumps(body).encode(), {"x-request-id": "1"})


async def test_it_says_what_it_is(engine: Engine) -> None:
    assert engine.kind in ("echo", "vllm")
    assert engine.pid is None
    assert (await engine.health()).ready


async def test_an_answer_is_json_with_usage(engine: Engine) -> None:
    answer = await ask(engine, chat("a b c"))
    body = json.loads(await answer.read())
    assert (answer.status, body["model"]) == (200, "smol")
    assert body["choices"][0]["message"]["content"] == "a b c"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 3
    answer.abort()
    answer.abort()


@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream_is_events_and_done(engine: Engine, usage: bool) -> None:
    answer = await ask(engine, chat("a b c", stream=True, stream_options={"include_usage": usage}))
    text = b"".join([piece async for piece in answer.chunks()])
    assert text.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(event[6:]) for event in text.split(b"\n\n")[:-2]]
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]]
    assert "".join(said) == "a b c"
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if not chunk["choices"]] == [3] * usage


async def test_a_text_completion(engine: Engine) -> None:
    answer = await ask(engine, {"model": "smol", "prompt": "a b"}, "/v1/completions")
    assert json.loads(await answer.read())["choices"][0]["text"] == "a b"


async def test_max_tokens_cuts_the_answer(engine: Engine) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        answer = await ask(engine, chat("a b c", **{field: 2}))
        body = json.loads(await answer.read())
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 2


async def test_an_unknown_model_is_a_404(engine: Engine) -> None:
    answer = await ask(engine, chat(model="nobody"))
    assert (answer.status, json.loads(await answer.read())["error"]["code"]) == (404, 404)


async def test_too_long_a_prompt_is_a_400_that_names_the_limit(engine: Engine) -> None:
    answer = await ask(engine, chat("w " * 101))
    assert answer.status == 400
    assert "maximum context length is 100 tokens" in json.loads(await answer.read())["error"]["message"]


async def test_an_adapter_comes_and_goes(engine: Engine) -> None:
    assert await engine.adapters() == frozenset()
    await engine.load_adapter("a@1", Path("/adapters/a"))
    assert await engine.adapters() == {"a@1"}
    answer = await ask(engine, chat(model="a@1"))
    assert json.loads(await answer.read())["model"] == "a@1"
    await engine.unload_adapter("a@1")
    assert await engine.adapters() == frozenset()
