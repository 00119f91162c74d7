"""An unmodified `openai` client, sync and async, against the running gateway."""

import json
import math

import openai
import pytest
from pydantic import BaseModel

from tests.fakes.house import QUESTION, House
from tests.fakes.vllm import FakeVLLM

HI = [{"role": "user", "content": "one two three"}]
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def test_a_chat_completion(house: House, engine: FakeVLLM) -> None:
    with house.openai() as client:
        answer = client.chat.completions.create(model="support-triage", messages=HI)
    assert answer.choices[0].message.content == "one two three"
    assert answer.model == house.adapters["triage"]
    assert answer.usage.completion_tokens == 3


def test_a_text_completion(house: House, engine: FakeVLLM) -> None:
    with house.openai() as client:
        answer = client.completions.create(model="smol", prompt="say this", max_tokens=5)
        streamed = client.completions.create(model="smol", prompt="say this", stream=True)
        text = "".join(chunk.choices[0].text for chunk in streamed)
    assert answer.choices[0].text == text == "say this"
    assert engine.requests[0].path == "/v1/completions"


def test_a_stream_without_usage(house: House) -> None:
    with (
        house.openai() as client,
        client.chat.completions.create(model="smol", messages=HI, stream=True) as stream,
    ):
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_with_usage_ends_with_it_and_its_cost(house: House) -> None:
    options = {"include_usage": True}
    with house.openai() as client:
        chunks = list(
            client.chat.completions.create(model="smol", messages=HI, stream=True, stream_options=options)
        )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].model_extra["repertory"]["tokens"]["completion"] == 3
    assert float(chunks[-1].model_extra["repertory"]["cost_dollars"]) > 0
    assert all(chunk.choices for chunk in chunks[:-1])


def test_the_stream_helper(house: House) -> None:
    with house.openai() as client, client.chat.completions.stream(model="smol", messages=HI) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.delta") >= 3
    assert kinds[-1] == "content.done"
    assert final.choices[0].message.content == "one two three"


def test_the_stream_helper_with_citations(house: House, engine: FakeVLLM) -> None:
    engine.switches.reply = "It is 27 days [1]."
    ask = [{"role": "user", "content": QUESTION}]
    with (
        house.openai("globex") as client,
        client.chat.completions.stream(model="handbook-always", messages=ask) as stream,
    ):
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.content == "It is 27 days [1]."
    cited = message.model_extra["annotations"] if message.annotations is None else message.annotations
    assert "annual-leave.md" in json.dumps(cited, default=str)


def test_structured_output(house: House, engine: FakeVLLM) -> None:
    class Triage(BaseModel):
        priority: str

    engine.switches.reply = '{"priority":"high"}'
    with house.openai() as client:
        answer = client.chat.completions.parse(model="support-triage", messages=HI, response_format=Triage)
    assert answer.choices[0].message.parsed == Triage(priority="high")
    assert engine.last.body["response_format"]["json_schema"]["name"] == "Triage"


def test_tools_pass_to_the_engine_and_calls_come_back(house: House, engine: FakeVLLM) -> None:
    engine.switches.message = {"content": None, "tool_calls": [CALL]}
    with house.openai() as client:
        answer = client.chat.completions.create(model="smol", messages=HI, tools=TOOLS, tool_choice="auto")
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    assert engine.last.body["tools"] == TOOLS
    assert engine.last.body["tool_choice"] == "auto"


def test_tool_calls_stream(house: House, engine: FakeVLLM) -> None:
    engine.switches.message = {"tool_calls": [CALL]}
    engine.switches.reply = ""
    with (
        house.openai() as client,
        client.chat.completions.stream(model="smol", messages=HI, tools=TOOLS) as stream,
    ):
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls[0].function.name == "weather"


def test_what_vllm_understands_passes_through(house: House, engine: FakeVLLM) -> None:
    fields = {
        "temperature": 0.3,
        "seed": 7,
        "stop": ["END"],
        "logprobs": True,
        "n": 2,
        "presence_penalty": 0.1,
    }
    with house.openai() as client:
        answer = client.chat.completions.create(
            model="smol",
            messages=HI,
            **fields,
            extra_body={"top_k": 5, "structured_outputs": {"choice": ["a"]}},
        )
    assert len(answer.choices) == 2
    assert answer.choices[0].logprobs.content[0].logprob == -0.5
    sent = engine.last.body
    assert {name: sent[name] for name in fields} == fields
    assert (sent["top_k"], sent["structured_outputs"]) == (5, {"choice": ["a"]})


def test_models_list_and_retrieve(house: House) -> None:
    with house.openai("globex") as client:
        names = [model.id for model in client.models.list()]
        one = client.models.retrieve("handbook-assistant")
    assert sorted(names) == ["handbook-always", "handbook-assistant", "hashing", "smol"]
    assert (one.id, one.owned_by) == ("handbook-assistant", "globex")


def test_embeddings_in_the_clients_own_format(house: House) -> None:
    """The package asks for base64 unless told otherwise, and decodes it."""
    with house.openai() as client:
        answer = client.embeddings.create(model="hashing", input=["annual leave", "expenses"])
        plain = client.embeddings.create(model="hashing", input="annual leave", encoding_format="float")
    assert [entry.index for entry in answer.data] == [0, 1]
    assert answer.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert math.hypot(*answer.data[1].embedding) == pytest.approx(1)
    assert answer.usage.prompt_tokens == 3


def test_the_request_id_is_the_clients_own(house: House) -> None:
    with house.openai() as client:
        raw = client.chat.completions.with_raw_response.create(
            model="smol", messages=HI, extra_headers={"x-request-id": "mine-1"}
        )
        other = client.chat.completions.create(model="smol", messages=HI)
    assert raw.request_id == "mine-1"
    assert other._request_id.startswith("req_")


@pytest.mark.parametrize(
    ("key", "body", "kind", "code"),
    [
        ("sk-rep-wrong", {}, openai.AuthenticationError, "invalid_api_key"),
        (None, {"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        (None, {"model": "handbook-assistant"}, openai.NotFoundError, "model_not_found"),
        (None, {"messages": []}, openai.BadRequestError, "invalid_request"),
        (
            None,
            {"messages": [{"role": "user", "content": "w " * 5000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (None, {"max_tokens": 5000}, openai.BadRequestError, "context_length_exceeded"),
        (
            None,
            {"messages": [{"role": "user", "content": "w" * 210_000}]},
            openai.APIStatusError,
            "request_too_large",
        ),
    ],
)
def test_each_mistake_has_the_clients_error_class(
    house: House, key: str | None, body: dict[str, object], kind: type[openai.APIStatusError], code: str
) -> None:
    with house.openai() as client, pytest.raises(kind) as caught:
        client.with_options(api_key=key or client.api_key).chat.completions.create(
            **{"model": "smol", "messages": HI, **body}
        )
    assert caught.value.code == code
    assert caught.value.request_id.startswith("req_")


@pytest.mark.parametrize("status", [500, 503])
def test_an_engines_fault_is_an_internal_server_error(house: House, engine: FakeVLLM, status: int) -> None:
    engine.switches.status = status
    with house.openai() as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="smol", messages=HI)
    assert caught.value.status_code == {500: 502, 503: 503}[status]


def test_a_stream_that_breaks_raises_in_the_client(house: House, engine: FakeVLLM) -> None:
    engine.switches.die_after = 2
    with house.openai() as client, pytest.raises(openai.APIError, match="broke off") as caught:
        for _ in client.chat.completions.create(model="smol", messages=HI, stream=True):
            pass
    assert caught.value.code == "engine_error"


async def test_the_async_client(house: House) -> None:
    async with house.async_openai() as client:
        answer = await client.chat.completions.create(model="smol", messages=HI)
        stream = await client.chat.completions.create(model="smol", messages=HI, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        names = [model.id async for model in client.models.list()]
        vectors = await client.embeddings.create(model="hashing", input="leave")
    assert answer.choices[0].message.content == "".join(pieces) == "one two three"
    assert "support-triage" in names
    assert len(vectors.data[0].embedding) == 256


async def test_the_async_stream_helper(house: House) -> None:
    async with (
        house.async_openai() as client,
        client.chat.completions.stream(model="smol", messages=HI) as stream,
    ):
        kinds = [event.type async for event in stream]
    assert kinds[-1] == "content.done"


async def test_the_async_clients_errors(house: House) -> None:
    async with house.async_openai() as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nobody", messages=HI)
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("handbook-assistant")
        with pytest.raises(openai.BadRequestError):
            await client.embeddings.create(model="hashing", input="")


def test_the_echo_engine_serves_the_client_too(echo_house: House) -> None:
    with echo_house.openai() as client:
        answer = client.chat.completions.create(model="smol", messages=HI)
        with client.chat.completions.stream(model="support-triage", messages=HI) as stream:
            stream.until_done()
            final = stream.get_final_completion()
    assert answer.choices[0].message.content == final.choices[0].message.content == "one two three"
