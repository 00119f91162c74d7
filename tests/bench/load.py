"""Closed-loop load: N connections, each of which sends its next request when it has its answer, whole and right.

Knows what a right answer of the fake engine is, and nothing of what it measures beyond a port and a key.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import orjson
import uvloop

from tests.bench.engine import CHUNKS, TEXT
from tests.bench.wire import Message, Reader

PATH = "/v1/chat/completions"
_DONE = b"data: [DONE]\n\n"
_EVENTS = CHUNKS + 2  # usage and [DONE]
_GIVE_UP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked for: the form of the answer and the length of the prompt, in characters."""

    stream: bool
    prompt_characters: int = 0

    def body(self, model: str) -> bytes:
        """The request's body."""
        prompt = "What is the capital of France? ".ljust(self.prompt_characters, "x")
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": CHUNKS,
            "temperature": 0,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return orjson.dumps(body)

    def fault(self, answer: Message) -> str | None:
        """What is wrong with an answer, in words that are few; None when nothing is."""
        if answer.status != 200:
            return f"status {answer.status}"
        if not self.stream:
            return None if TEXT.encode() in answer.body and answer.body.endswith(b"}") else "wrong answer"
        if not answer.body.endswith(_DONE):
            return "no [DONE] at the end"
        events = answer.body.count(b"\n\n")
        return None if events == _EVENTS else f"{events} events instead of {_EVENTS}"


def request_bytes(port: int, body: bytes, key: str) -> bytes:
    """A whole chat request."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Result:
    """What a run saw. Times in seconds, one entry for each good answer.

    Attributes:
        first: until the first byte of the answer's body.
        whole: until its last byte.
        failures: how often each fault was seen.
        cpu_seconds: what the measured processes used.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


class _Connection(asyncio.Protocol):
    """One connection with one request on it at a time."""

    _transport: asyncio.Transport

    def __init__(self, load: _Load) -> None:
        self.lost = False
        self._load = load
        self._reader = Reader()
        self._busy = False
        self._sent_at = self._first_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which is none of asyncio's

    def send(self) -> None:
        self._busy, self._first_at = True, 0.0
        self._sent_at = time.perf_counter()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._reader.feed(data)
        if not self._first_at and self._reader.in_body:
            self._first_at = now
        try:
            answer = self._reader.next()
        except ValueError:
            self._give_up("malformed chunks")
            return
        if answer is None:
            return
        fault = self._load.shape.fault(answer)
        if self._reader.rest:
            self._give_up(fault or "bytes after the answer's end")
            return
        self._busy = False
        if fault is None:
            self._load.result.first.append((self._first_at or now) - self._sent_at)
            self._load.result.whole.append(now - self._sent_at)
        self._load.answered(self, fault)

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up("connection lost")

    def close(self) -> None:
        self._transport.close()

    def _give_up(self, fault: str) -> None:
        self.lost = True
        self._transport.close()
        if self._busy:
            self._busy = False
            self._load.answered(self, fault)


class _Load:
    """Hands out requests to connections until all are answered."""

    def __init__(self, port: int, shape: Shape, request: bytes) -> None:
        self.shape, self.request = shape, request
        self.result = Result()
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._to_send = self._to_come = 0

    async def run(self, connections: int, requests: int) -> None:
        """Send that many requests and wait for their answers; `result` is this run's."""
        self.result = Result()
        self._done = self._loop.create_future()
        self._to_send = self._to_come = requests
        waiting = [connection for connection in self._idle if not connection.lost]
        self._idle = []
        for connection in waiting:
            self._next(connection)
        for _ in range(connections - len(waiting)):
            self._open()
        try:
            await asyncio.wait_for(self._done, _GIVE_UP_SECONDS)
        except TimeoutError:
            self.result.failures[f"no answer within {_GIVE_UP_SECONDS:.0f} s"] += self._to_come

    def answered(self, connection: _Connection, fault: str | None) -> None:
        """One request has ended, with or without a fault."""
        self._count(fault)
        if not connection.lost:
            self._next(connection)
        elif self._to_send:
            self._open()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _count(self, fault: str | None, requests: int = 1) -> None:
        if fault is not None:
            self.result.failures[fault] += requests
        self._to_come -= requests
        if self._to_come <= 0 and not self._done.done():
            self._done.set_result(None)

    def _next(self, connection: _Connection) -> None:
        if self._to_send:
            self._to_send -= 1
            connection.send()
        else:
            self._idle.append(connection)

    def _open(self) -> None:
        task = self._loop.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            # Nobody listens: what is left can't be sent either.
            left, self._to_send = self._to_send, 0
            self._count("connection refused", left)
        else:
            self._next(connection)


def measure(
    port: int,
    shape: Shape,
    *,
    model: str,
    key: str,
    connections: int,
    requests: int,
    cpu_seconds: Callable[[], float] = lambda: 0.0,
) -> Result:
    """Send `requests` over `connections`, after one unmeasured round that opens and warms them."""

    async def work() -> Result:
        load = _Load(port, shape, request_bytes(port, shape.body(model), key))
        await load.run(connections, connections)
        warm_up = load.result.failures
        cpu_before, started = cpu_seconds(), time.perf_counter()
        await load.run(connections, requests)
        load.result.seconds = time.perf_counter() - started
        load.result.cpu_seconds = cpu_seconds() - cpu_before
        load.result.failures += warm_up
        load.close()
        return load.result

    gc.collect()
    gc.disable()  # its pauses would be read as the gateway's
    try:
        return uvloop.run(work())
    finally:
        gc.enable()
