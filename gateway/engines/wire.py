"""HTTP/1.1 to an engine: one request at a time on a kept-alive connection. Knows bytes, no vLLM.

A general client took about a quarter of the gateway's CPU (`make bench`, with and without); this one does what an
engine needs. The framing is httptools', so chunked and counted bodies are a well-kept parser's concern.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httptools

# vLLM closes an idle connection after 5 s; it is never reused in the moment in which that happens.
_KEEP_IDLE_SECONDS = 4.0
_CONNECT_SECONDS = 5.0
# Beyond this much unread, the engine is told to wait: a client that reads slowly must not fill our memory.
_HIGH_WATER = 256 * 2**10
# HTTP asks for nothing else of a header line; all that reaches it is checked at the edge.
_LINE_BREAKS = ("\r", "\n")


class WireError(Exception):
    """The connection failed.

    Attributes:
        connected: it had been established; False says that nothing listened.
        timed_out: it stands, but nothing came for too long.
    """

    def __init__(self, words: str, *, connected: bool = True, timed_out: bool = False) -> None:
        super().__init__(words)
        self.connected = connected
        self.timed_out = timed_out


class Wire:
    """Connections to one address.

    Args:
        url: scheme, host and port.
        silence_seconds: longest wait for the next bytes of an answer.
    """

    def __init__(self, url: str, *, headers: dict[str, str], silence_seconds: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._common = f"host: {parts.netloc}\r\n{_lines(headers)}"
        self._silence = silence_seconds
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> WireAnswer:
        """Send a request and wait for the head of its answer. Cancelling drops the connection.

        Raises:
            WireError
        """
        head = f"{method} {path} HTTP/1.1\r\n{self._common}{_lines(headers or {})}content-length: {len(body)}\r\n\r\n"
        connection = self._take_idle() or await self._connect()
        try:
            status = await connection.ask(head.encode("latin-1") + body)
        except BaseException:
            connection.drop()
            raise
        return WireAnswer(status, connection)

    def close(self) -> None:
        """Drop every connection, busy ones too."""
        for connection in list(self._open):
            connection.drop()
        self._idle.clear()

    def keep(self, connection: _Connection) -> None:
        """An answer has ended: the connection may serve again."""
        self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(_KEEP_IDLE_SECONDS):
                return connection
            connection.drop()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop, self._silence), self._host, self._port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            raise WireError(str(error) or type(error).__name__, connected=False) from error
        self._open.add(connection)
        return connection


class WireAnswer:
    """The head of an answer, and its body to come."""

    __slots__ = ("_connection", "status")

    def __init__(self, status: int, connection: _Connection) -> None:
        self.status = status
        self._connection: _Connection | None = connection

    async def piece(self) -> bytes:
        """The next bytes of the body, as many as there are; empty at its end. Raises WireError."""
        if self._connection is None:
            return b""
        data = await self._connection.piece()
        if not data:
            self._connection.finish()
            self._connection = None
        return data

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""
        while data := await self.piece():
            yield data

    async def read(self) -> bytes:
        """The rest of the body."""
        return b"".join([data async for data in self.pieces()])

    def abort(self) -> None:
        """Drop the connection, unless the body has ended."""
        if self._connection is not None:
            self._connection.drop()
            self._connection = None


class _Connection(asyncio.Protocol):
    """The parser's callbacks gather; whoever waits is woken once for each read from the socket."""

    def __init__(self, wire: Wire, loop: asyncio.AbstractEventLoop, silence: float) -> None:
        self._wire = wire
        self._loop = loop
        self._silence = silence
        self._transport: Any = None
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._error: WireError | None = None
        self._status = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._paused = False
        self._complete = False
        self._keep = False

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._heard = self._loop.time()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._parser is None:
            self._fail(WireError("the engine spoke unasked"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WireError(f"not HTTP: {error}"))
            return
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(WireError(str(error) if error else "the connection was closed"))

    # httptools

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        # Asked now: after the end of the message the parser has forgotten.
        self._keep = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        self._complete = True

    # One request

    def usable(self, idle_seconds: float) -> bool:
        return self._error is None and self._loop.time() - self._heard < idle_seconds

    async def ask(self, request: bytes) -> int:
        self._status, self._complete = 0, False
        self._parser = httptools.HttpResponseParser(self)
        self._heard = self._loop.time()
        self._transport.write(request)
        self._alarm = self._loop.call_later(self._silence, self._ring)
        while not self._status:
            await self._wait()
        return self._status

    async def piece(self) -> bytes:
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        data = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
        self._pieces, self._size = [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def finish(self) -> None:
        """The answer was read to its end."""
        self._quiet()
        reusable = self._keep and self._error is None
        self._parser = None
        if reusable:
            self._heard = self._loop.time()
            self._wire.keep(self)
        else:
            self.drop()

    def drop(self) -> None:
        self._quiet()
        self._fail(WireError("dropped"))

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: WireError) -> None:
        if self._error is None:
            self._error = error
            self._wire.forget(self)
            if self._transport is not None:
                self._transport.abort()
        self._wake()

    def _ring(self) -> None:
        """Once in a while, rather than a timer for every read."""
        left = self._heard + self._silence - self._loop.time()
        if left > 0:
            self._alarm = self._loop.call_later(left, self._ring)
        else:
            self._fail(WireError(f"nothing came for {self._silence:.0f} s", timed_out=True))

    def _quiet(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def _lines(headers: dict[str, str]) -> str:
    for name, value in headers.items():
        if any(mark in value for mark in _LINE_BREAKS):
            raise ValueError(f"header {name} has a line break")
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
