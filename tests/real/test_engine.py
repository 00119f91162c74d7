"""The request path on the real engine: pass-through, accounting, disconnects, isolation, and the engine's death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time

import openai
import pytest
from pydantic import BaseModel

from tests.real.running import Demo, post

STORY = [{"role": "user", "content": "Tell me a long story about a fox."}]


def until(condition: object, seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_each_tenant_lists_its_own_models_and_the_shared_base(demo: Demo) -> None:
    acme = {model.id for model in demo.client("acme").models.list()}
    globex = {model.id for model in demo.client("globex").models.list()}
    assert {"support-triage", demo.base_model} <= acme
    assert {"handbook-assistant", demo.base_model} <= globex
    assert "handbook-assistant" not in acme
    assert "support-triage" not in globex


def test_another_tenants_model_looks_like_one_that_does_not_exist(demo: Demo) -> None:
    def refused(model: str) -> openai.NotFoundError:
        with pytest.raises(openai.NotFoundError) as caught:
            demo.client("acme").chat.completions.create(model=model, messages=STORY)
        return caught.value

    foreign, unknown = refused("handbook-assistant"), refused("no-such-model")
    assert foreign.code == unknown.code == "model_not_found"
    assert foreign.message.replace("handbook-assistant", "X") == unknown.message.replace("no-such-model", "X")


def test_an_adapters_engine_name_is_not_a_way_around_the_catalogue(demo: Demo) -> None:
    name = (
        demo.client("globex")
        .chat.completions.create(model="handbook-assistant", messages=STORY, max_tokens=1)
        .model
    )
    assert "@" in name
    with pytest.raises(openai.NotFoundError):
        demo.client("acme").chat.completions.create(model=name, messages=STORY, max_tokens=1)


def test_sampling_parameters_reach_the_engine(demo: Demo) -> None:
    client = demo.client("acme")
    answer = client.chat.completions.create(
        model=demo.base_model,
        messages=STORY,
        n=2,
        seed=7,
        temperature=0.9,
        max_tokens=8,
        logprobs=True,
        top_logprobs=2,
        extra_body={"top_k": 5},
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    assert answer.usage.completion_tokens == 16
    stopped = client.chat.completions.create(
        model=demo.base_model, messages=STORY, temperature=0, max_tokens=40, stop=[" "]
    )
    assert " " not in stopped.choices[0].message.content
    assert stopped.choices[0].finish_reason == "stop"


def test_structured_output_follows_the_schema(demo: Demo) -> None:
    class Ticket(BaseModel):
        title: str
        open: bool

    answer = demo.client("acme").chat.completions.parse(
        model=demo.base_model,
        messages=[{"role": "user", "content": "Make a ticket about a broken printer."}],
        response_format=Ticket,
        temperature=0,
        max_tokens=80,
    )
    assert isinstance(answer.choices[0].message.parsed, Ticket)


def test_tool_calls_pass_through(demo: Demo) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Utrecht", "Porto"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    body = {
        "messages": [{"role": "user", "content": "What is the weather in Porto?"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 100,
    }
    answer = demo.client("acme").chat.completions.create(model=demo.base_model, **body)
    call = answer.choices[0].message.tool_calls[0]
    direct = post(f"{demo.engine_url()}/v1/chat/completions", {"model": demo.base_model, **body})
    engines = direct["choices"][0]["message"]["tool_calls"][0]
    assert call.function.name == "get_weather"
    assert call.function.model_dump() == engines["function"]
    assert answer.choices[0].finish_reason == direct["choices"][0]["finish_reason"]


def test_completions_and_embeddings_work_too(demo: Demo) -> None:
    client = demo.client("globex")
    assert client.completions.create(
        model=demo.base_model, prompt="The capital of France is", max_tokens=3
    ).usage
    vectors = client.embeddings.create(
        model="all-minilm-l6-v2", input=["parental leave", "maternity leave", "fox"]
    )
    first, second, third = (vector.embedding for vector in vectors.data)
    near, far = (sum(a * b for a, b in zip(first, other, strict=True)) for other in (second, third))
    assert len(first) == 384
    assert near > far + 0.2


def test_a_prompt_beyond_the_context_window_is_the_clients_mistake(demo: Demo) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            demo.client("acme").chat.completions.create(
                model=demo.base_model, messages=[{"role": "user", "content": "word " * 6000}], stream=stream
            )
        assert caught.value.code == "context_length_exceeded"


async def test_async_streams_run_side_by_side(demo: Demo) -> None:
    async def one(tenant: str, model: str) -> str:
        async with demo.asynchronous(tenant) as client:
            stream = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "The invoice is wrong."}], stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    pairs = [("acme", "support-triage"), ("globex", "handbook-assistant")] * 3
    answers = await asyncio.gather(*(one(*pair) for pair in pairs))
    assert all(json.loads(answer)["category"] for answer in answers[0::2])
    assert not any(answer.startswith("{") for answer in answers[1::2])


def test_usage_by_part_adds_up_to_the_engines_own_counters(demo: Demo) -> None:
    assert until(lambda: demo.engine_metric("vllm:num_requests_running") == 0, 30)
    parts = ("system", "history", "context", "user")

    def ours() -> tuple[float, float]:
        prompt = sum(demo.metric("repertory_tokens_total", part=part) for part in parts)
        return prompt, demo.metric("repertory_tokens_total", part="completion")

    def engines() -> tuple[float, float]:
        return (
            demo.engine_metric("vllm:prompt_tokens_total"),
            demo.engine_metric("vllm:generation_tokens_total"),
        )

    # /v1/embeddings counts tokens that no engine sees; none is asked for in between.
    ours_before, engine_before = ours(), engines()
    conversation = [
        {"role": "system", "content": "You are a pirate. " * 20},
        {"role": "user", "content": "How many days of annual leave do I get?"},
        {"role": "assistant", "content": "In short: read the handbook."},
        {"role": "user", "content": "And how do I book them?"},
    ]
    for tenant, model in (
        ("globex", "handbook-assistant"),
        ("acme", "support-triage"),
        ("acme", demo.base_model),
    ):
        for stream in (False, True):
            answer = demo.client(tenant).chat.completions.create(
                model=model, messages=conversation, max_tokens=12, stream=stream
            )
            if stream:
                list(answer)
    assert until(
        lambda: (
            tuple(now - then for now, then in zip(ours(), ours_before, strict=True))
            == tuple(now - then for now, then in zip(engines(), engine_before, strict=True))
        ),
        10,
    ), f"{ours()} {ours_before} {engines()} {engine_before}"
    assert ours()[0] > ours_before[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_engine_within_a_second(demo: Demo, stream: bool) -> None:
    assert until(lambda: demo.engine_metric("vllm:num_requests_running") == 0, 60)

    async def leave() -> None:
        client = demo.asynchronous("acme")
        request = client.chat.completions.create(
            model=demo.base_model,
            messages=STORY,
            max_tokens=3000,
            stream=stream,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        task = asyncio.create_task(_consume(request))
        await asyncio.sleep(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()

    aborted = demo.metric("repertory_requests_total", outcome="aborted")
    leaver = threading.Thread(target=lambda: asyncio.run(leave()))
    leaver.start()
    assert until(lambda: demo.engine_metric("vllm:num_requests_running") == 1, 3)
    leaver.join()
    assert until(lambda: demo.engine_metric("vllm:num_requests_running") == 0, 1.0)
    assert until(lambda: demo.metric("repertory_requests_total", outcome="aborted") == aborted + 1, 2)


async def _consume(request: object) -> None:
    answer = await request  # type: ignore[misc]
    async for _ in answer:
        pass


def test_an_engine_that_is_killed_ends_streams_with_an_error_and_comes_back_with_its_adapters(
    demo: Demo,
) -> None:
    def label(text: str) -> str:
        answer = demo.client("acme").chat.completions.create(
            model="support-triage", messages=[{"role": "user", "content": text}]
        )
        return f"{answer.model} {answer.choices[0].message.content}"

    before = label("Please cancel my subscription, I was charged twice!")
    engine = demo.engine_pid()
    assert engine is not None
    stream = demo.client("acme").chat.completions.create(
        model=demo.base_model, messages=STORY, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    finish_reasons: list[str | None] = []

    def read_and_kill() -> None:
        for number, chunk in enumerate(stream):
            finish_reasons.extend(choice.finish_reason for choice in chunk.choices)
            if number == 5:
                os.kill(engine, signal.SIGKILL)

    with pytest.raises(openai.APIError) as caught:
        read_and_kill()
    assert "broke off" in caught.value.message
    assert set(finish_reasons) == {None}
    with pytest.raises(openai.InternalServerError) as away:
        label("Is anybody there?")
    assert away.value.status_code == 503
    assert away.value.code in {"engine_unavailable", "engine_starting"}
    assert "retry-after" in away.value.response.headers
    demo.wait_until_ready()
    assert demo.engine_pid() != engine
    assert label("Please cancel my subscription, I was charged twice!") == before
