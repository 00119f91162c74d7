"""Writes answers as ASGI messages: JSON, errors, the headers every answer carries."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.receipt import Receipt

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

# Keys in the ASGI scope: the request's id, and whether its answer's head is out, and its last byte.
REQUEST_ID = "repertory.request_id"
BEGUN = "repertory.begun"
ENDED = "repertory.ended"

_JSON: Header = (b"content-type", b"application/json")
STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx and its kin would otherwise hold events back until a buffer is full.
    (b"x-accel-buffering", b"no"),
)


async def send_json(send: Send, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
    """A complete JSON answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError, headers: Iterable[Header] = ()) -> None:
    """An error in OpenAI's shape."""
    await send_json(send, error.status, orjson.dumps(error.body()), [*headers, *error_headers(error)])


def error_headers(error: ApiError) -> list[Header]:
    """When to try again, where that helps."""
    if error.retry_after is None:
        return []
    return [
        (b"retry-after", b"%d" % math.ceil(error.retry_after)),
        (b"retry-after-ms", b"%d" % round(error.retry_after * 1000)),
    ]


def request_id_header(scope: Scope) -> Header:
    """The id the edge gave the request, or took from the client."""
    request_id: str = scope[REQUEST_ID]
    return (b"x-request-id", request_id.encode())


def exchange_headers(exchange: Exchange) -> list[Header]:
    """Which request, model, release, engine and retrieval decision the answer is from."""
    return [
        (b"x-request-id", exchange.call.request_id.encode()),
        (b"x-repertory-model", exchange.model.name.encode()),
        (b"x-repertory-release", exchange.plan.release_id.encode()),
        (b"x-repertory-engine", exchange.engine.encode()),
        (b"x-repertory-retrieval", exchange.decision.encode()),
    ]


def receipt_headers(receipt: Receipt) -> list[Header]:
    """What a JSON answer cost, in dollars and tokens by part, and where its time went (milliseconds)."""
    tokens = ", ".join([f"{part}={count}" for part, count in receipt.tokens.items()])
    timing = ", ".join([f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in receipt.stages.items()])
    return [
        (b"x-repertory-cost", receipt.dollars.encode()),
        (b"x-repertory-tokens", tokens.encode()),
        (b"server-timing", timing.encode()),
    ]
