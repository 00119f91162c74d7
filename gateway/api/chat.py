"""POST /v1/chat/completions and /v1/completions, as raw ASGI: these two carry nearly all the traffic."""

from __future__ import annotations

import time

from gateway.api.answers import (
    BEGUN,
    REQUEST_ID,
    STREAM_HEADERS,
    Receive,
    Scope,
    Send,
    exchange_headers,
    receipt_headers,
    send_json,
)
from gateway.api.body import CancelledWhenClientLeaves, ClientLeft, read_body
from gateway.api.edge import header_map
from gateway.exchange import Call
from gateway.pipeline import Answer, Caller, Pipeline
from gateway.protocol import Endpoint


class ModelEndpoint:
    """One of the two endpoints. Starlette takes an object with `__call__` as an ASGI application."""

    def __init__(self, endpoint: Endpoint, *, pipeline: Pipeline, max_body_bytes: int) -> None:
        self._endpoint = endpoint
        self._pipeline = pipeline
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = header_map(scope)
        # Before the body: a stranger's megabytes are not read.
        caller = self._pipeline.identify(headers.get(b"authorization"))
        try:
            body = await read_body(receive, headers.get(b"content-length"), self._max_body_bytes)
            call = Call(
                request_id=scope[REQUEST_ID],
                body=body,
                started=started,
                session=_text(headers.get(b"x-session-id")),
                traceparent=_text(headers.get(b"traceparent")),
            )
            async with CancelledWhenClientLeaves(receive):
                await self._answer(caller, call, scope, send)
        except ClientLeft:
            return

    async def _answer(self, caller: Caller, call: Call, scope: Scope, send: Send) -> None:
        answer = await self._pipeline.answer(self._endpoint, caller, call)
        scope[BEGUN] = True
        head = exchange_headers(answer.exchange)
        if answer.receipt is not None:
            await send_json(send, 200, answer.body, head + receipt_headers(answer.receipt))
        else:
            await self._stream(answer, [*STREAM_HEADERS, *head], send)

    async def _stream(self, answer: Answer, headers: list[tuple[bytes, bytes]], send: Send) -> None:
        assert answer.events is not None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            ended = False
            async for event in answer.events:
                # A settled request has nothing more to come: its last event ends the body in the same write.
                ended = answer.exchange.receipt is not None
                await send({"type": "http.response.body", "body": event, "more_body": not ended})
            if not ended:
                await send({"type": "http.response.body", "body": b""})
        finally:
            try:
                await answer.events.aclose()
            finally:
                answer.close()


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")
