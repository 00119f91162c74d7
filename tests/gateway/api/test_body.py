"""Reading bodies: limits, pieces, and clients that leave."""

import asyncio
from collections.abc import Iterator

import pytest

from gateway.api.body import CancelledWhenClientLeaves, ClientLeft, read_body
from gateway.errors import PayloadTooLarge
from tests.fakes.house import House
from tests.fakes.serving import chat


class Messages:
    """An ASGI `receive` that says what it was given, and then nothing for ever."""

    def __init__(self, *messages: dict[str, object]) -> None:
        self._messages = list(messages)
        self.never = asyncio.Event()

    async def __call__(self) -> dict[str, object]:
        if not self._messages:
            await self.never.wait()
        return self._messages.pop(0)


def part(body: bytes, *, more: bool = False) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


LEFT = {"type": "http.disconnect"}


async def test_a_body_in_one_piece() -> None:
    assert await read_body(Messages(part(b"abc")), b"3", 3) == b"abc"


async def test_a_body_in_pieces() -> None:
    pieces = Messages(part(b"a", more=True), part(b"", more=True), part(b"bc", more=True), part(b""))
    assert await read_body(pieces, None, 3) == b"abc"


async def test_no_body_at_all() -> None:
    assert await read_body(Messages({"type": "http.request"}), None, 3) == b""


async def test_a_declared_size_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(PayloadTooLarge, match=r"\(3 bytes\)"):
        await asyncio.wait_for(read_body(Messages(), b"4", 3), 5)


@pytest.mark.parametrize("declared", [None, b"1", b"nonsense", b"-1"])
async def test_a_body_over_the_limit_is_refused_whatever_was_declared(declared: bytes | None) -> None:
    for messages in (Messages(part(b"abcd")), Messages(part(b"ab", more=True), part(b"cd", more=True))):
        with pytest.raises(PayloadTooLarge):
            await asyncio.wait_for(read_body(messages, declared, 3), 5)


async def test_a_body_that_breaks_off_is_a_client_that_left() -> None:
    for messages in (Messages(LEFT), Messages(part(b"a", more=True), LEFT)):
        with pytest.raises(ClientLeft):
            await read_body(messages, None, 3)


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    cancelled = False
    with pytest.raises(ClientLeft):  # noqa: PT012  the block is what is tested
        async with CancelledWhenClientLeaves(Messages(LEFT)):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled = True
                raise
    assert cancelled
    assert asyncio.current_task().cancelling() == 0


async def test_work_that_ends_first_is_left_alone() -> None:
    async with CancelledWhenClientLeaves(Messages()):
        result = "done"
    await asyncio.sleep(0)
    assert result == "done"


async def test_a_message_that_is_no_farewell_ends_nothing() -> None:
    async with CancelledWhenClientLeaves(Messages(part(b""))):
        for _ in range(5):
            await asyncio.sleep(0)


async def test_an_error_of_the_work_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="own"):
        async with CancelledWhenClientLeaves(Messages()):
            raise ValueError("its own")


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    """A server that shuts down is not a client that left."""
    begun = asyncio.Event()

    async def work() -> None:
        async with CancelledWhenClientLeaves(Messages()):
            begun.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


def test_a_chunked_body_is_read(house: House) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"model": "smol", "messages": [{"role": "user", '
        yield b'"content": "in pieces"}]}'

    with house.http() as client:
        response = client.post("/v1/chat/completions", content=pieces())
        assert response.request.headers["transfer-encoding"] == "chunked"
        assert response.json()["choices"][0]["message"]["content"] == "in pieces"


def test_a_chunked_body_over_the_limit_is_refused_on_the_way(house: House) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    with house.http() as client:
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            response = client.post(path, content=pieces())
            assert response.status_code == 413
    assert house.post(chat()).status_code == 200


def test_a_body_of_exactly_the_limit_is_read(house: House) -> None:
    import json

    frame = len(json.dumps(chat("")).encode())
    body = json.dumps(chat("x" * (200_000 - frame))).encode()
    assert len(body) == 200_000
    assert house.post(body).status_code == 200
    assert house.post(body + b" ").status_code == 413
