"""Reads a request's body, up to a limit, and notices a client that leaves."""

from __future__ import annotations

import asyncio

from gateway.api.answers import Receive
from gateway.errors import PayloadTooLarge


class ClientLeft(Exception):
    """The client closed the connection before its answer was complete."""


async def read_body(receive: Receive, declared: bytes | None, limit: int) -> bytes:
    """The whole body.

    Raises:
        PayloadTooLarge: it has more than `limit` bytes, declared or sent.
        ClientLeft: it broke off.
    """
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


class CancelledWhenClientLeaves:
    """`async with` whose body is cancelled when the client goes; the cancellation comes out as ClientLeft."""

    __slots__ = ("_left", "_receive", "_task", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(_until_disconnect(self._receive))
        self._watcher.add_done_callback(self._on_end)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._watcher.remove_done_callback(self._on_end)
        self._watcher.cancel()
        if self._left and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientLeft

    def _on_end(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled():
            self._left = True
            self._task.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than this gateway accepts ({limit} bytes): send less.")
