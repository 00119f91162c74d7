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
        citations = _Citations(exchange) if exchange.sources else None
        usage_event: dict[str, Any] | None = None
        outcome = "aborted"
        rest = b""
        try:
            async for data in answer.chunks():
                block, rest = _cut(rest + data if rest else data)
                if exchange.first_token_at is None:
                    self._first_event(exchange)
                if citations is None and _plain(block):
                    exchange.seen_events += block.count(_END)
                    if block:
                        yield block
                    continue
                for event in block.split(_END)[:-1]:
                    if event == DONE[:-2]:
                        outcome = "ok"
                        yield self._ending(exchange, usage_event)
                        return
                    if event.startswith(_ERROR_MARK):
                        outcome = "error"
                        yield sse(engine_error(500, event[6:]).body())
                        return
                    if _USAGE_MARK in event:
                        usage_event = orjson.loads(event[6:])
                        exchange.usage = _usage(usage_event)
                        continue
                    exchange.seen_events += 1
                    yield citations.annotate(event) if citations else event + _END
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

    def _ending(self, exchange: Exchange, usage_event: dict[str, Any] | None) -> bytes:
        receipt = self._settler.settle(exchange, "ok")
        if usage_event is None or not exchange.request.wants_usage:
            return DONE
        return sse({**usage_event, "repertory": receipt.extension()}) + DONE


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


def _plain(block: bytes) -> bool:
    return _USAGE_MARK not in block and b"data: [DONE]" not in block and _ERROR_MARK not in block


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
