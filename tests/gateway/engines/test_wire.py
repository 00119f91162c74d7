"""HTTP to an engine, byte by byte: framing, reuse, and each way in which a connection can fail."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engines.wire import Wire, WireError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
COUNTED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"


class Server:
    """Answers every request as told; keeps what it was sent."""

    def __init__(self, answers: list[list[bytes]], *, then_close: bool = False) -> None:
        self.answers = answers
        self.then_close = then_close
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0.01)

    def wire(self, *, silence: float = 5.0) -> Wire:
        return Wire(f"http://127.0.0.1:{self.port}", headers={"x-common": "1"}, silence_seconds=silence)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                self.asked.set()
                for piece in self.answers[min(len(self.requests), len(self.answers)) - 1]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the end of the test, or of the client
        finally:
            self.closed.set()
            writer.close()


async def test_a_request_is_sent_whole_with_common_and_own_headers() -> None:
    async with Server([[COUNTED]]) as server:
        wire = server.wire()
        answer = await wire.send("POST", "/v1/x", b"body", {"x-own": "2"})
        assert (answer.status, await answer.read()) == (200, b"hello")
        wire.close()
    head, body = server.requests[0].split(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /v1/x HTTP/1.1",
        f"host: 127.0.0.1:{server.port}".encode(),
        b"x-common: 1",
        b"x-own: 2",
        b"content-length: 4",
    ]
    assert body == b"body"


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, len(CHUNKED) - 1), max_size=4))
def test_a_chunked_answer_is_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted(set(cuts)), len(CHUNKED)]
    pieces = [CHUNKED[a:b] for a, b in pairwise(bounds)]

    async def read() -> bytes:
        async with Server([pieces]) as server:
            wire = server.wire()
            answer = await wire.send("GET", "/")
            body = await answer.read()
            wire.close()
            return body

    assert asyncio.run(read()) == b"hello"


async def test_a_connection_is_used_again_after_an_answers_end() -> None:
    async with Server([[COUNTED], [CHUNKED]]) as server:
        wire = server.wire()
        for _ in range(3):
            assert await (await wire.send("GET", "/")).read() == b"hello"
        assert server.connections == 1
        wire.close()


async def test_requests_side_by_side_have_connections_of_their_own() -> None:
    async with Server([[COUNTED]]) as server:
        wire = server.wire()
        answers = await asyncio.gather(*(wire.send("GET", "/") for _ in range(3)))
        assert [await answer.read() for answer in answers] == [b"hello"] * 3
        assert server.connections == 3
        wire.close()


async def test_a_connection_that_the_engine_closes_is_not_used_again() -> None:
    closing = COUNTED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    for answers, then_close in (([[closing]], False), ([[COUNTED]], True)):
        async with Server(answers, then_close=then_close) as server:
            wire = server.wire()
            for _ in range(2):
                assert await (await wire.send("GET", "/")).read() == b"hello"
                await asyncio.sleep(0.05)
            assert server.connections == 2
            wire.close()


async def test_an_answer_that_is_left_drops_its_connection() -> None:
    async with Server([[CHUNKED[:-12]]]) as server:
        wire = server.wire()
        answer = await wire.send("GET", "/")
        assert await answer.piece()
        answer.abort()
        answer.abort()
        async with asyncio.timeout(2):
            await server.closed.wait()


async def test_a_cancelled_request_drops_its_connection() -> None:
    async with Server([[]]) as server:
        task = asyncio.create_task(server.wire().send("GET", "/"))
        async with asyncio.timeout(2):
            await server.asked.wait()
            task.cancel()
            await server.closed.wait()
        assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_nobody_listening_is_told_from_a_connection_that_broke() -> None:
    async with Server([[COUNTED]]) as server:
        pass
    with pytest.raises(WireError) as nobody:
        await server.wire().send("GET", "/")
    assert not nobody.value.connected
    for cut in (b"", COUNTED[:10], COUNTED[:-2], CHUNKED[:-8]):
        async with Server([[cut]], then_close=True) as server:
            with pytest.raises(WireError) as broke:
                await (await server.wire().send("GET", "/")).read()
            assert broke.value.connected
            assert not broke.value.timed_out


async def test_silence_is_given_up_on() -> None:
    async with Server([[CHUNKED[:-12]]]) as server:
        answer = await server.wire(silence=0.2).send("GET", "/")
        assert await answer.piece()
        with pytest.raises(WireError, match="nothing came") as silent:
            await answer.piece()
        assert silent.value.timed_out


async def test_what_is_not_http_is_an_error_and_not_a_hang() -> None:
    async with Server([[b"SSH-2.0-OpenSSH_9.9\r\n"]]) as server:
        with pytest.raises(WireError, match="not HTTP"):
            await server.wire().send("GET", "/")


async def test_a_slow_reader_holds_the_engine_back() -> None:
    megabytes = b"HTTP/1.1 200 OK\r\ncontent-length: 33554432\r\n\r\n"
    sent = [megabytes, *[b"x" * 65536] * 512]
    async with Server([sent]) as server:
        wire = server.wire()
        answer = await wire.send("GET", "/")
        await asyncio.sleep(0.3)
        first = await answer.piece()
        assert len(first) < 8 * 2**20, "everything was read ahead"
        assert len(first) + len(await answer.read()) == 33554432
        wire.close()


async def test_a_header_cannot_smuggle_another_line() -> None:
    async with Server([[COUNTED]]) as server:
        with pytest.raises(ValueError, match="x-evil"):
            await server.wire().send("GET", "/", headers={"x-evil": "1\r\nx-more: 2"})
        assert server.connections == 0
