"""Real servers for tests: an event loop in a thread of its own, and on it a gateway behind a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
import uvloop

from gateway.app import Gateway, build
from gateway.engines.base import Engine
from gateway.settings import parse

T = TypeVar("T")


class Background:
    """An event loop in a thread, so that blocking tests can talk to servers on it."""

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self._ready = threading.Event()
        self._factory = factory
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._ready.set()
        await self._end.wait()

    def run(self, work: Coroutine[Any, Any, T], *, within: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(within)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)


def eventually(fact: Callable[[], object], *, within: float = 10.0, what: str = "it") -> None:
    """Wait until `fact()` is true. Deadlines are for broken code, not for slow machines."""
    end = time.monotonic() + within
    while not fact():
        assert time.monotonic() < end, f"{what} did not come about within {within} s"
        time.sleep(0.01)


async def eventually_async(fact: Callable[[], object], *, within: float = 10.0, what: str = "it") -> None:
    """As `eventually`, on the test's own loop."""
    end = time.monotonic() + within
    while not fact():
        assert time.monotonic() < end, f"{what} did not come about within {within} s"
        await asyncio.sleep(0.01)


class GatewayServer:
    """A gateway from plain settings, served by uvicorn as `repertory serve` does, on a free port of loopback."""

    def __init__(self, raw: dict[str, Any], *, engines: list[Engine] | None = None) -> None:
        self.settings = parse(raw)
        self._loop = Background(uvloop.new_event_loop)
        try:
            self.gateway: Gateway = self._loop.run(self._build(engines))
            self._listener = socket.socket()
            self._listener.bind(("127.0.0.1", 0))
            self.port: int = self._listener.getsockname()[1]
            config = uvicorn.Config(
                self.gateway.app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=1,
            )
            self._server = uvicorn.Server(config)
            self._serving = asyncio.run_coroutine_threadsafe(
                self._server.serve(sockets=[self._listener]), self._loop.loop
            )
            eventually(lambda: self._server.started or self._serving.done(), what="the gateway's start")
        except BaseException:
            self._loop.close()
            raise

    async def _build(self, engines: list[Engine] | None) -> Gateway:
        return build(self.settings, engines=engines)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def inflight(self) -> int:
        """Leases not given back, over all engines."""
        return sum(member.inflight for member in self.gateway.pool.members.values())

    def until_ready(self) -> None:
        eventually(lambda: not self.gateway.pool.unready(), what=f"readiness {self.gateway.pool.unready()}")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the gateway's own loop."""
        return self._loop.run(work)

    def metrics(self) -> Metrics:
        return Metrics.parse(httpx.get(f"{self.url}/metrics", timeout=30).text)

    def close(self) -> None:
        self._server.should_exit = True
        with contextlib.suppress(Exception):
            self._serving.result(30)
        self._listener.close()
        self._loop.close()


@dataclass(frozen=True)
class Metrics:
    """The samples of one scrape: `metrics[name]` is {labels: value}, labels as a frozenset of pairs."""

    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Metrics:
        from prometheus_client.parser import text_string_to_metric_families

        samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return cls(samples)

    def sum(self, name: str, **labels: str) -> float:
        """The sum over all series of `name` that carry these labels."""
        wanted = set(labels.items())
        return sum(value for found, value in self.samples.get(name, {}).items() if wanted <= found)

    def series(self, name: str) -> int:
        return len(self.samples.get(name, {}))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """{label's value: value} over the series of `name` that carry `labels`."""
        wanted = set(labels.items())
        return {
            dict(found)[label]: value
            for found, value in self.samples.get(name, {}).items()
            if wanted <= found
        }


@contextlib.contextmanager
def served(raw: dict[str, Any], *, engines: list[Engine] | None = None) -> Iterator[GatewayServer]:
    server = GatewayServer(raw, engines=engines)
    try:
        yield server
    finally:
        server.close()


def chat(text: str = "one two three", *, model: str = "smol", **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def events_of(text: str) -> list[str]:
    """The payloads of a stream's events; asserts that it is made of nothing else."""
    pieces = text.split("\n\n")
    assert pieces[-1] == "", f"the stream ends in the middle of an event: {pieces[-1]!r}"
    assert all(piece.startswith("data: ") for piece in pieces[:-1]), pieces
    return [piece.removeprefix("data: ") for piece in pieces[:-1]]


def log_file(home: Path) -> Path:
    return home / "logs"
