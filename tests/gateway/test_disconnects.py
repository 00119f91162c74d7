"""Clients that leave: the engine stops within a second, the request settles as aborted, no lease is left."""

import asyncio
import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes.house import House
from tests.fakes.serving import chat, eventually, eventually_async
from tests.fakes.vllm import FakeVLLM

SOON = 3.0  # "within a second", on a machine that may be busy
LONG = "word " * 400


def outcomes(house: House) -> dict[str, float]:
    return house.server.metrics().by("repertory_requests_total", "outcome", tenant="acme", model="smol")


@pytest.fixture
def aborted(house: House, engine: FakeVLLM) -> Iterator[None]:
    """Checks, after the test, that exactly one request was aborted everywhere it shows."""
    before = outcomes(house)
    yield
    eventually(
        lambda: engine.aborted == 1 and engine.running == 0, within=SOON, what="the engine's end of work"
    )
    eventually(lambda: house.server.inflight == 0, within=SOON, what="the lease's return")
    eventually(lambda: outcomes(house).get("aborted", 0) == before.get("aborted", 0) + 1, what="the count")
    assert outcomes(house).get("ok", 0) == before.get("ok", 0)
    eventually(
        lambda: house.server.metrics().sum("repertory_inflight_requests") == 1, what="the gauge's fall"
    )
    engine.reset()
    assert house.post(chat()).status_code == 200


def send(house: House, body: dict[str, object]) -> socket.socket:
    """A request on a bare socket, which can be closed at any moment."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", house.server.port), timeout=10)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (house.keys["acme"].encode(), len(data), data)
    )
    return connection


def test_a_client_that_leaves_a_stream(house: House, engine: FakeVLLM, aborted: None) -> None:
    engine.switches.delay = 0.02
    with (
        house.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(LONG, stream=True)) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert engine.running == 1
        assert house.server.inflight == 1


def test_a_client_that_leaves_before_its_json(house: House, engine: FakeVLLM, aborted: None) -> None:
    engine.switches.delay = 0.02
    with send(house, chat(LONG)):
        eventually(lambda: engine.running == 1, what="the engine's work")


def test_a_client_that_leaves_before_the_first_event(house: House, engine: FakeVLLM, aborted: None) -> None:
    engine.switches.delay = 5
    with send(house, chat(LONG, stream=True)):
        eventually(lambda: engine.running == 1, what="the engine's work")


def test_a_client_that_resets_its_connection(house: House, engine: FakeVLLM, aborted: None) -> None:
    engine.switches.delay = 0.02
    with send(house, chat(LONG, stream=True)) as connection:
        assert connection.recv(100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def test_an_async_client_that_is_cancelled(house: House, engine: FakeVLLM, aborted: None) -> None:
    engine.switches.delay = 0.02
    async with house.async_openai() as client:
        asking = asyncio.create_task(
            client.chat.completions.create(model="smol", messages=[{"role": "user", "content": LONG}])
        )
        await eventually_async(lambda: engine.running == 1, what="the engine's work")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def test_the_openai_clients_closed_stream(house: House, engine: FakeVLLM, aborted: None) -> None:
    engine.switches.delay = 0.02
    with house.openai() as client:
        stream = client.chat.completions.create(
            model="smol", messages=[{"role": "user", "content": LONG}], stream=True
        )
        next(stream)
        stream.close()


def test_what_was_generated_for_who_left_is_counted(house: House, engine: FakeVLLM) -> None:
    """The engine never said how many tokens it made; the events passed on are the measure."""
    engine.switches.delay = 0.01
    before = house.server.metrics().sum("repertory_tokens_total", model="support-triage", part="completion")
    seen = 0
    body = chat(LONG, model="support-triage", stream=True)
    with house.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            seen += line.startswith("data: ")
            if seen == 20:
                break

    def counted() -> float:
        now = house.server.metrics().sum("repertory_tokens_total", model="support-triage", part="completion")
        return now - before

    eventually(lambda: counted() > 0, what="the count")
    assert 18 <= counted() < 400


def test_a_client_that_leaves_in_the_middle_of_its_body(house: House, engine: FakeVLLM) -> None:
    """Nothing reached an engine, and nothing failed."""
    before = house.server.metrics().sum("repertory_errors_total")
    for path in (b"/v1/chat/completions", b"/v1/embeddings"):
        with socket.create_connection(("127.0.0.1", house.server.port), timeout=10) as connection:
            connection.sendall(
                b"POST %b HTTP/1.1\r\nhost: t\r\nauthorization: Bearer %b\r\ncontent-length: 100\r\n\r\n{"
                % (path, house.keys["acme"].encode())
            )
            eventually(
                lambda: house.server.metrics().sum("repertory_inflight_requests") == 2, what="the request"
            )
        eventually(lambda: house.server.metrics().sum("repertory_inflight_requests") == 1, what="its end")
    assert house.server.metrics().sum("repertory_errors_total") == before
    assert engine.requests == []


def test_many_who_leave_at_once_leave_nothing_behind(house: House, engine: FakeVLLM) -> None:
    engine.switches.delay = 0.02

    async def all_leave() -> None:
        headers = {"authorization": f"Bearer {house.keys['acme']}"}
        async with httpx.AsyncClient(
            base_url=house.url, headers=headers, trust_env=False, timeout=30
        ) as client:

            async def ask(stream: bool) -> None:
                async with client.stream("POST", "/v1/chat/completions", json=chat(LONG, stream=stream)):
                    await asyncio.sleep(30)

            asking = [asyncio.create_task(ask(n % 2 == 0)) for n in range(20)]
            await eventually_async(lambda: engine.running == 20, what="the engine's work")
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(all_leave())
    eventually(lambda: engine.running == 0, within=SOON, what="the engine's end of work")
    eventually(lambda: house.server.inflight == 0, within=SOON, what="the leases' return")
    assert engine.aborted == 20
