"""A fake vLLM that costs almost nothing: canned answers on a raw asyncio protocol.

    python -m tests.bench.engine PORT

Each answer has the same text: as JSON, or as a stream of 32 chunks, each written in a turn of the event loop of
its own, as an engine's steps would, and a usage event where it was asked for.
"""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from typing import Any, cast

import orjson
import uvloop

from tests.bench.wire import Message, Reader, chunk, last_chunk

BASE_MODEL = "bench-base"
CHUNKS = 32
WORDS = tuple(f"word{number} " for number in range(CHUNKS - 1))
TEXT = "".join(WORDS)
PROMPT_TOKENS = 64
USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": CHUNKS,
    "total_tokens": PROMPT_TOKENS + CHUNKS,
    "prompt_tokens_details": None,
}
_JSON = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def whole_answer(model: str) -> bytes:
    """The JSON answer's body."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": TEXT, "refusal": None, "tool_calls": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    return orjson.dumps({**_envelope("chat.completion", model), "choices": [choice], "usage": USAGE})


def stream_events(model: str, *, usage: bool) -> list[bytes]:
    """The stream's events, `[DONE]` included."""
    envelope = _envelope("chat.completion.chunk", model)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in WORDS]
    payloads = [
        {
            **envelope,
            "choices": [
                {
                    "index": 0,
                    "delta": delta,
                    "logprobs": None,
                    "finish_reason": "stop" if number == CHUNKS - 1 else None,
                }
            ],
        }
        for number, delta in enumerate(deltas)
    ]
    if usage:
        payloads.append({**envelope, "choices": [], "usage": USAGE})
    return [b"data: " + orjson.dumps(payload) + b"\n\n" for payload in payloads] + [b"data: [DONE]\n\n"]


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-6f1c02d9b8a7e345", "object": kind, "created": 1767225600, "model": model}


@cache
def _frames(model: str, usage: bool) -> tuple[bytes, ...]:
    *events, done = stream_events(model, usage=usage)
    return (*(chunk(event) for event in events), chunk(done) + last_chunk())


@cache
def _whole(model: str) -> bytes:
    return _json(whole_answer(model))


def _json(body: bytes, status: int = 200, reason: bytes = b"OK") -> bytes:
    return _JSON % (status, reason, len(body), body)


class FakeEngine(asyncio.Protocol):
    """One connection. A request that comes while a stream is running waits for its end."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._streaming = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which is none of asyncio's

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._work()

    def _work(self) -> None:
        while not self._streaming and (message := self._reader.next()) is not None:
            self._answer(message)

    def _answer(self, message: Message) -> None:
        method, path, _ = message.start_line.split(b" ", 2)
        if (method, path) == (b"POST", b"/v1/chat/completions"):
            request = orjson.loads(message.body)
            if request.get("stream"):
                usage = bool((request.get("stream_options") or {}).get("include_usage"))
                self._transport.write(_STREAM)
                self._streaming = True
                self._loop.call_soon(self._step, _frames(request["model"], usage), 0)
            else:
                self._transport.write(_whole(request["model"]))
        elif path == b"/v1/models":
            entry = {"id": BASE_MODEL, "object": "model", "root": BASE_MODEL, "parent": None}
            self._transport.write(_json(orjson.dumps({"object": "list", "data": [entry]})))
        elif path == b"/health":
            self._transport.write(_json(b""))
        else:
            self._transport.write(_json(b'{"error":{"message":"not here"}}', 404, b"Not Found"))

    def _step(self, frames: tuple[bytes, ...], number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(frames[number])
        if number + 1 < len(frames):
            self._loop.call_soon(self._step, frames, number + 1)
        else:
            self._streaming = False
            self._work()


async def serve(port: int) -> None:
    """Serve on loopback until cancelled."""
    server = await asyncio.get_running_loop().create_server(FakeEngine, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
