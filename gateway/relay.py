"""From an engine's answer to the client's: usage, citations, errors, and settlement before the last byte.

A stream without sources passes as the bytes it came in; only the bounds of events are looked at, the usage
event, and errors. Knows no HTTP server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import orjson

from gateway.engines.base import EngineAnswer
from gateway.engines.vllm import error_message
from gateway.errors import (
    ApiError,
    EngineFault,
    EngineTimeout,
    EngineUnreachable,
    InvalidRequest,
    Unavailable,
)
from gateway.exchange import Exchange, Settler
from gateway.policy.pricing import Usage
from gateway.protocol import DONE, sse
from gateway.receipt import Receipt
from retrieval import prompt

# These cannot stand inside a JSON string, where the quotes would be escaped.
_USAGE_MARK = b'"choices":[]'
_ERROR_MARK = b'data: {"error"'
_DONE_MARK = DONE[:-2]
_END = b"\n\n"
# What reading an answer raises when the engine is not the vLLM it should be.
_NOT_THE_SHAPE = (AttributeError, KeyError, TypeError, ValueError)
_CONTEXT_WORDS = ("maximum context length", "max_model_len", "longer than the maximum model length")


class Relay:
    """Reads engine answers on behalf of clients."""

    def __init__(self, settler: Settler, clock: Callable[[], float]) -> None:
        self._settler = settler
        self._clock = clock

    async def whole(self, exchange: Exchange, answer: EngineAnswer) -> tuple[bytes, Receipt]:
        """The JSON answer and its receipt.

        Raises:
            ApiError: the engine refused, or broke off.
        """
        try:
            data = await answer.read()
        except EngineUnreachable as error:
            raise broken(error) from error
        if answer.status != 200:
            raise engine_error(answer.status, data)
        body = _parse(data)
        exchange.stages["engine"] = self._clock() - exchange.call.started - sum(exchange.stages.values())
        try:
            exchange.usage = _usage(body)
            if exchange.sources:
                for choice in body["choices"]:
                    message = choice["message"]
                    message["annotations"] = prompt.annotations(
                        message.get("content") or "", exchange.sources
                    )
                data = orjson.dumps(body)
        except _NOT_THE_SHAPE as error:
            raise EngineFault("The engine's answer did not have OpenAI's shape: try again.") from error
        return data, self._settler.settle(exchange, "ok")

    async def stream(self, exchange: Exchange, answer: EngineAnswer) -> AsyncGenerator[bytes, None]:
        """The events for the client, in pieces that end on an event's end; settled before `[DONE]`.

        An engine that breaks off ends the stream with one error event and no `[DONE]`. Closing the iterator
        early is how a client's leaving reaches the engine; it settles as `aborted`.
        """
        reader = _StreamReader(exchange, self._settler)
        outcome = "aborted"
        try:
            async for data in answer.chunks():
                if exchange.first_token_at is None:
                    self._first_event(exchange)
                if piece := reader.take(data):
                    yield piece
                if reader.outcome is not None:
                    outcome = reader.outcome
                    return
            raise EngineUnreachable(exchange.engine, "the answer ended before its end")
        except EngineUnreachable as error:
            outcome = "error"
            yield sse(broken(error).body())
        except _NOT_THE_SHAPE:
            outcome = "error"
            yield sse(EngineFault("The engine sent an event that could not be read: try again.").body())
        finally:
            self._settler.cut(exchange, outcome)

    def _first_event(self, exchange: Exchange) -> None:
        now = self._clock()
        exchange.first_token_at = now
        exchange.stages["engine"] = now - exchange.call.started - sum(exchange.stages.values())


class _StreamReader:
    """What of a stream's bytes goes to the client, piece by piece: one out for one in, as each is a system call.

    Attributes:
        outcome: None until the stream has ended, then `ok` or `error`.
    """

    def __init__(self, exchange: Exchange, settler: Settler) -> None:
        self.outcome: str | None = None
        self._exchange = exchange
        self._settler = settler
        self._citations = _Citations(exchange) if exchange.sources else None
        self._usage_event: dict[str, Any] | None = None
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """The whole events that `data` completes, as the client gets them."""
        block, self._rest = _cut(self._rest + data if self._rest else data)
        plain = 0 if self._citations else _plain_length(block)
        self._exchange.seen_events += block.count(_END, 0, plain)
        if plain == len(block):
            return block
        out = [block[:plain]]
        for event in block[plain:].split(_END)[:-1]:
            out.append(self._one(event))
            if self.outcome is not None:
                break
        return b"".join(out)

    def _one(self, event: bytes) -> bytes:
        if event == _DONE_MARK:
            self.outcome = "ok"
            return self._ending()
        if event.startswith(_ERROR_MARK):
            self.outcome = "error"
            return sse(engine_error(500, event[6:]).body())
        if _USAGE_MARK in event:
            self._usage_event = orjson.loads(event[6:])
            self._exchange.usage = _usage(self._usage_event)
            return b""
        self._exchange.seen_events += 1
        return self._citations.annotate(event) if self._citations else event + _END

    def _ending(self) -> bytes:
        receipt = self._settler.settle(self._exchange, "ok")
        if self._usage_event is None or not self._exchange.request.wants_usage:
            return DONE
        return sse({**self._usage_event, "repertory": receipt.extension()}) + DONE


class _Citations:
    """Adds a stream's citations to its events.

    The first delta lists every source given, so that a client sees them before the text. The last delta of
    each choice maps the markers to their offsets.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._sources = exchange.sources
        self._texts: dict[int, str] = {}

    def annotate(self, event: bytes) -> bytes:
        """The event with its annotations; bytes that are no JSON event pass as they are."""
        if not event.startswith(b"data: {"):
            return event + _END
        chunk = orjson.loads(event[6:])
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta")
            if delta is None:
                continue
            index = choice["index"]
            if index not in self._texts:
                self._texts[index] = ""
                delta["annotations"] = self._given()
            self._texts[index] += delta.get("content") or ""
            if choice.get("finish_reason"):
                delta["annotations"] = delta.get("annotations", []) + self._located(self._texts[index])
        return sse(chunk)

    def _given(self) -> list[dict[str, Any]]:
        # Distinct indexes: the openai package's stream helper merges list entries that share one.
        return [
            {"type": "file_citation", "file_id": source.file_id, "filename": source.filename, "index": number}
            for number, source in enumerate(self._sources)
        ]

    def _located(self, text: str) -> list[dict[str, Any]]:
        # For the same reason a marker at an offset that the first list took is not repeated.
        taken = len(self._sources)
        return [
            entry
            for entry in prompt.annotations(text, self._sources)
            if taken <= int(entry["index"]) < len(text)
        ]


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """(whole events, the beginning of the next one)."""
    if data.endswith(_END):
        return data, b""
    end = data.rfind(_END) + 2
    return (data[:end], data[end:]) if end > 1 else (b"", data)


def _plain_length(block: bytes) -> int:
    """How many of the block's bytes are events to pass on unread: all up to the first that is not content."""
    first = len(block)
    for mark in (_USAGE_MARK, _DONE_MARK, _ERROR_MARK):
        found = block.find(mark, 0, first)
        if found >= 0:
            first = found
    if first == len(block):
        return first
    end = block.rfind(_END, 0, first)
    return 0 if end < 0 else end + len(_END)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EngineFault("The engine's answer was not valid JSON.") from error
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise EngineFault("The engine's answer had no choices.")
    return body


def _usage(body: dict[str, Any]) -> Usage | None:
    usage = body.get("usage")
    if not usage:
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        details.get("cached_tokens") or 0,
    )


def broken(error: EngineUnreachable) -> ApiError:
    """What the client is told when an engine did not answer."""
    if error.timed_out:
        return EngineTimeout("The engine said nothing for too long and was given up on: try again.")
    if not error.connected:
        return Unavailable("The engine could not be reached: try again in a few seconds.", retry_after=5)
    return EngineFault("The engine broke off while it worked on this request: try again.")


def engine_error(status: int, data: bytes) -> ApiError:
    """An engine's error answer in the gateway's words. A refusal of what was asked keeps its message."""
    message = error_message(data)
    if status in (400, 413, 422):
        if any(words in message for words in _CONTEXT_WORDS):
            return InvalidRequest(message, code="context_length_exceeded", param="messages")
        return InvalidRequest(f"The engine refused the request: {message}", code="engine_refused_request")
    if status in (429, 503):
        return Unavailable(
            "The engine is overloaded: try again in a few seconds.", code="engine_overloaded", retry_after=2
        )
    # The rest is between gateway and engine; the engine's own words may name other tenants' adapters.
    return EngineFault(f"The engine answered {status} to this request: try again.")
