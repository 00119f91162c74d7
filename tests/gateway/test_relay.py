"""From an engine's bytes to the client's: whatever the pieces they arrive in."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import Plan, ServedModel
from gateway.errors import ApiError, EngineFault, EngineUnreachable
from gateway.exchange import Call, Exchange, Settler
from gateway.policy.pricing import PartSize, Price
from gateway.protocol import parse_request
from gateway.relay import Relay, broken, engine_error
from gateway.telemetry import Telemetry
from gateway.tenants import Tenant
from retrieval.packing import Source

SOURCES = (
    Source(1, "file-a", "leave.md", "Leave", "27 days", 0.9, 5),
    Source(2, "file-b", "pay.md", "Pay", "monthly", 0.5, 5),
)
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 2,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
}


class Answer:
    """An engine's answer in given pieces; with an error, it breaks off after them."""

    def __init__(self, *pieces: bytes, status: int = 200, error: Exception | None = None) -> None:
        self.status = status
        self._pieces = pieces
        self._error = error

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._error:
            raise self._error

    def abort(self) -> None:
        """Nothing to stop."""


def exchange(*, usage: bool = False, sources: tuple[Source, ...] = (), stream: bool = True) -> Exchange:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
        "stream_options": {"include_usage": usage},
    }
    plan = Plan("rel_1", "digest", "smol", "smol")
    made = Exchange(
        call=Call("req_1", b"", 0.0),
        tenant=Tenant("tnt_1", "acme"),
        request=parse_request("chat", json.dumps(body).encode()),
        model=ServedModel("m", None, "smol", 0, (("rel_1", 100),), {"rel_1": plan}),
        plan=plan,
        engine="one",
        sources=sources,
    )
    made.sizes = {"user": PartSize(characters=8)}
    return made


def relay() -> Relay:
    ticks = iter(range(10**6))

    def clock() -> float:
        return float(next(ticks))

    return Relay(Settler(Telemetry(), {"smol": Price(1, 1, 1)}, clock), clock)


def event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, *, index: int = 0, finish: str | None = None) -> bytes:
    content = {"content": text} if text else {}
    return event({"id": "c", "choices": [{"index": index, "delta": content, "finish_reason": finish}]})


USAGE_EVENT = event({"id": "c", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
TRICKY = 'a "choices":[] data: [DONE]\n\n data: {"error" é 漢'
CONTENT = delta("It is ") + delta("27 [1]") + delta(TRICKY) + delta("", finish="stop")
STREAM = CONTENT + USAGE_EVENT + DONE


async def relayed(made: Exchange, *pieces: bytes, error: Exception | None = None) -> bytes:
    return b"".join([piece async for piece in relay().stream(made, Answer(*pieces, error=error))])


def parsed(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(part[6:]) for part in stream.split(b"\n\n") if part and part != DONE[:-2]]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds) if a != b]


async def test_a_stream_passes_as_it_came_without_the_usage_nobody_asked_for() -> None:
    made = exchange()
    assert await relayed(made, STREAM) == CONTENT + DONE
    assert made.receipt.outcome == "ok"
    assert (made.receipt.tokens["completion"], made.receipt.tokens["cached"]) == (2, 4)
    assert made.seen_events == 4


async def test_every_single_cut_gives_the_same_stream() -> None:
    for place in range(1, len(STREAM)):
        made = exchange()
        assert await relayed(made, STREAM[:place], STREAM[place:]) == CONTENT + DONE, place
        assert made.receipt.tokens["completion"] == 2


async def test_byte_by_byte_gives_the_same_stream() -> None:
    assert await relayed(exchange(), *cut(STREAM, list(range(len(STREAM))))) == CONTENT + DONE


@given(
    places=st.lists(st.integers(1, len(STREAM) - 1), max_size=12),
    usage=st.booleans(),
    sources=st.sampled_from([(), SOURCES]),
)
async def test_the_client_sees_no_cut(places: list[int], usage: bool, sources: tuple[Source, ...]) -> None:
    """Usage or none, citations or none: reads are the network's business."""
    whole = parsed(await relayed(exchange(usage=usage, sources=sources), STREAM))
    made = exchange(usage=usage, sources=sources)
    pieces = parsed(await relayed(made, *cut(STREAM, places)))
    for chunk in (*whole, *pieces):
        chunk.get("repertory", {}).pop("milliseconds", None)
    assert pieces == whole
    assert made.receipt.outcome == "ok"


@given(
    places=st.lists(st.integers(1, len(CONTENT) - 1), max_size=8),
    end=st.integers(0, len(STREAM) - 1),
    sources=st.sampled_from([(), SOURCES]),
)
async def test_a_truncated_stream_ends_in_one_error_event(
    places: list[int], end: int, sources: tuple[Source, ...]
) -> None:
    """Whole events pass, the torn one does not, and nothing claims that all went well."""
    made = exchange(sources=sources)
    out = await relayed(made, *cut(STREAM[:end], [place for place in places if place < end]))
    *before, last = parsed(out)
    assert out.endswith(b"\n\n")
    assert DONE not in out
    assert last["error"]["code"] == "engine_error"
    assert len(before) == min(STREAM[:end].count(b"\n\n"), 4)
    assert made.receipt.outcome == "error"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineUnreachable("one", "reset"), "engine_error"),
        (EngineUnreachable("one", "silence", timed_out=True), "engine_timeout"),
        (EngineUnreachable("one", "refused", connected=False), "engine_unavailable"),
    ],
)
async def test_an_engine_that_breaks_off_is_named_for_what_it_did(
    error: EngineUnreachable, code: str
) -> None:
    made = exchange()
    *before, last = parsed(await relayed(made, delta("a"), error=error))
    assert (len(before), last["error"]["code"]) == (1, code)
    assert made.receipt.tokens["completion"] == 1


async def test_usage_goes_to_who_asked_and_says_what_it_cost() -> None:
    *_, last = parsed(await relayed(exchange(usage=True), STREAM))
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert last["repertory"]["cost_dollars"] == "0.000000000014"
    assert last["repertory"]["tokens"]["user"] == 12


async def test_an_engine_that_sends_no_usage_still_ends_well() -> None:
    made = exchange(usage=True)
    assert await relayed(made, CONTENT + DONE) == CONTENT + DONE
    assert made.receipt.outcome == "ok"


async def test_what_follows_done_is_not_passed_on() -> None:
    assert await relayed(exchange(), STREAM + delta("after the end")) == CONTENT + DONE


async def test_an_error_event_of_the_engine_is_put_in_our_words() -> None:
    words = {"error": {"message": "CUDA error on adapter other@1", "code": 500}}
    made = exchange()
    out = await relayed(made, delta("a"), b"data: " + json.dumps(words).encode() + b"\n\n", DONE)
    assert b"other@1" not in out
    assert parsed(out)[-1]["error"]["code"] == "engine_error"
    assert DONE not in out
    assert made.receipt.outcome == "error"


async def test_an_event_that_cannot_be_read_is_the_engines_fault() -> None:
    for bad, sources in [
        (b'data: {"choices":[],"usage":', ()),
        (b'data: {"usage', SOURCES),
        (b'data: {"choices":[1]}', SOURCES),
    ]:
        made = exchange(sources=sources)
        out = await relayed(made, delta("a") + bad + b"\n\n", DONE)
        assert parsed(out)[-1]["error"]["code"] == "engine_error"
        assert made.receipt.outcome == "error"


async def test_a_stream_that_is_left_settles_as_aborted_by_what_was_seen() -> None:
    made = exchange()
    stream = relay().stream(made, Answer(delta("a"), delta("b"), STREAM))
    async for _ in stream:
        break
    await stream.aclose()
    assert made.receipt.outcome == "aborted"
    assert made.receipt.tokens["completion"] == 1
    assert made.receipt.tokens["user"] == 2


async def test_the_first_event_is_timed_once() -> None:
    made = exchange()
    await relayed(made, *cut(STREAM, [10, 200]))
    assert made.receipt.first_token_seconds is not None
    assert made.receipt.completion_seconds > 0
    assert set(made.receipt.stages) == {"engine"}


async def test_a_streams_citations_come_first_as_given_and_last_as_used() -> None:
    text = [delta("It is 27 days, says the book "), delta("[1]."), delta("", finish="stop")]
    chunks = parsed(await relayed(exchange(sources=SOURCES), *text, DONE))
    first = chunks[0]["choices"][0]["delta"]["annotations"]
    assert [(entry["file_id"], entry["index"]) for entry in first] == [("file-a", 0), ("file-b", 1)]
    last = chunks[-1]["choices"][0]["delta"]["annotations"]
    assert last == [{"type": "file_citation", "file_id": "file-a", "filename": "leave.md", "index": 29}]
    assert "annotations" not in chunks[1]["choices"][0]["delta"]


async def test_each_choice_has_citations_of_its_own() -> None:
    pieces = [
        delta("The first one says this: [1]", index=0),
        delta("The second says something else: [2]", index=1),
        delta("", index=0, finish="stop"),
        delta("", index=1, finish="stop"),
    ]
    chunks = parsed(await relayed(exchange(sources=SOURCES), *pieces, USAGE_EVENT, DONE))
    assert len(chunks) == 4
    ends = {chunk["choices"][0]["index"]: chunk["choices"][0]["delta"]["annotations"] for chunk in chunks[2:]}
    assert [entry["file_id"] for entry in ends[0]] == ["file-a"]
    assert [entry["file_id"] for entry in ends[1]] == ["file-b"]


async def test_comments_pass_through_a_stream_with_citations() -> None:
    out = await relayed(exchange(sources=SOURCES), b": ping\n\n" + delta("a") + DONE)
    assert out.startswith(b": ping\n\n")


def whole_answer(**fields: Any) -> bytes:
    return json.dumps(
        {
            "choices": [
                {"index": 0, "message": {"content": "27 [1]"}},
                {"index": 1, "message": {"content": None}},
            ],
            "usage": USAGE,
            **fields,
        }
    ).encode()


async def test_json_without_sources_passes_as_the_bytes_it_came_in() -> None:
    made = exchange(stream=False)
    data, receipt = await relay().whole(made, Answer(whole_answer()))
    assert data == whole_answer()
    assert (receipt.outcome, receipt.tokens["user"], receipt.tokens["cached"]) == ("ok", 12, 4)


async def test_json_with_sources_is_annotated_choice_by_choice() -> None:
    made = exchange(stream=False, sources=SOURCES)
    data, _ = await relay().whole(made, Answer(whole_answer()))
    first, second = (choice["message"]["annotations"] for choice in json.loads(data)["choices"])
    assert {"type": "file_citation", "file_id": "file-a", "filename": "leave.md", "index": 3} in first
    assert [entry["index"] for entry in second] == [0, 0]


async def test_json_without_usage_costs_nothing() -> None:
    _, receipt = await relay().whole(exchange(stream=False), Answer(whole_answer(usage=None)))
    assert receipt.dollars == "0"


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b'{"choices": 5}', b'{"choices": [], "usage": "x"}'])
async def test_json_of_another_shape_is_the_engines_fault(data: bytes) -> None:
    with pytest.raises(EngineFault):
        await relay().whole(exchange(stream=False), Answer(data))


async def test_json_that_breaks_off_is_the_engines_fault() -> None:
    with pytest.raises(EngineFault, match="broke off"):
        await relay().whole(exchange(stream=False), Answer(b"{", error=EngineUnreachable("one", "reset")))


@pytest.mark.parametrize(
    ("status", "message", "answered", "code"),
    [
        (400, "This model's maximum context length is 5 tokens.", 400, "context_length_exceeded"),
        (400, "max_tokens cannot exceed max_model_len", 400, "context_length_exceeded"),
        (422, "is longer than the maximum model length", 400, "context_length_exceeded"),
        (400, "temperature must be non-negative", 400, "engine_refused_request"),
        (413, "too much", 400, "engine_refused_request"),
        (404, "The model `other@1` does not exist.", 502, "engine_error"),
        (429, "busy", 503, "engine_overloaded"),
        (503, "busy", 503, "engine_overloaded"),
        (500, "secret", 502, "engine_error"),
        (401, "Unauthorized", 502, "engine_error"),
    ],
)
def test_an_engines_error_answer_in_our_words(status: int, message: str, answered: int, code: str) -> None:
    error: ApiError = engine_error(status, json.dumps({"error": {"message": message}}).encode())
    assert (error.status, error.code) == (answered, code)
    assert (message in error.message) == (answered == 400)


def test_an_unreachable_engine_in_our_words() -> None:
    errors = [
        broken(EngineUnreachable("one", "x", timed_out=True)),
        broken(EngineUnreachable("one", "x", connected=False)),
        broken(EngineUnreachable("one", "x")),
    ]
    assert [(error.status, error.code) for error in errors] == [
        (504, "engine_timeout"),
        (503, "engine_unavailable"),
        (502, "engine_error"),
    ]
    assert errors[1].retry_after
