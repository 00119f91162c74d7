"""A vLLM server over HTTP. Knows vLLM's routes and the faults of its LoRA runtime, and no tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from gateway.engines.base import EngineAnswer, Health
from gateway.engines.wire import Wire, WireAnswer, WireError
from gateway.errors import EngineRefused, EngineUnreachable

_CONTROL_SECONDS = 5.0
# A load runs inside the engine's loop, behind whatever step is running.
_LOAD_SECONDS = 120.0


class VLLMAnswer:
    """An answer in flight on one connection."""

    def __init__(self, engine: str, answer: WireAnswer) -> None:
        self._engine = engine
        self._answer = answer
        self._first = b""

    @property
    def status(self) -> int:
        return self._answer.status

    async def begin(self) -> None:
        try:
            self._first = await self._answer.piece()
        except WireError as error:
            raise unreachable(self._engine, error) from error

    async def read(self) -> bytes:
        try:
            return self._first + await self._answer.read()
        except WireError as error:
            raise unreachable(self._engine, error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._first:
            yield self._first
        try:
            while data := await self._answer.piece():
                yield data
        except WireError as error:
            raise unreachable(self._engine, error) from error

    def abort(self) -> None:
        # Closing the connection is vLLM's signal to stop generating; after the end it is a no-op.
        self._answer.abort()


class VLLMEngine:
    """A vLLM server reached by URL."""

    def __init__(
        self,
        *,
        name: str,
        base_model: str,
        url: str,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        self.name = name
        self.base_model = base_model
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_seconds = timeout_seconds
        self.url = url
        self._wire: Wire | None = None

    @property
    def kind(self) -> str:
        return "vllm"

    @property
    def pid(self) -> int | None:
        return None

    def move(self, url: str) -> None:
        """From now on the server is at this address."""
        self.url = url
        if self._wire is not None:
            self._wire.close()
        self._wire = Wire(url, headers=self._headers, silence_seconds=self._timeout_seconds)

    async def start(self) -> None:
        self.move(self.url)

    async def stop(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> EngineAnswer:
        try:
            answer = await self._client.send("POST", path, body, headers)
        except WireError as error:
            raise unreachable(self.name, error) from error
        return VLLMAnswer(self.name, answer)

    async def health(self) -> Health:
        try:
            status, _ = await self._exchange("GET", "/health", b"", _CONTROL_SECONDS)
        except EngineUnreachable as error:
            return Health(False, error.reason)
        return Health(True) if status == 200 else Health(False, f"/health answered {status}")

    async def adapters(self) -> frozenset[str]:
        body = await self._control("GET", "/v1/models")
        entries: list[dict[str, Any]] = orjson.loads(body)["data"]
        return frozenset(entry["id"] for entry in entries if entry.get("parent"))

    async def load_adapter(self, adapter_id: str, path: Path) -> None:
        await self._control(
            "POST", "/v1/load_lora_adapter", {"lora_name": adapter_id, "lora_path": str(path)}
        )

    async def unload_adapter(self, adapter_id: str) -> None:
        await self._control("POST", "/v1/unload_lora_adapter", {"lora_name": adapter_id})

    @property
    def _client(self) -> Wire:
        if self._wire is None:
            raise EngineUnreachable(self.name, "not started", connected=False)
        return self._wire

    async def _control(self, method: str, path: str, payload: dict[str, str] | None = None) -> bytes:
        data = b"" if payload is None else orjson.dumps(payload)
        status, body = await self._exchange(
            method, path, data, _LOAD_SECONDS if payload else _CONTROL_SECONDS
        )
        if status != 200:
            raise EngineRefused(self.name, status, error_message(body))
        return body

    async def _exchange(self, method: str, path: str, data: bytes, seconds: float) -> tuple[int, bytes]:
        """A whole answer within a time. Raises EngineUnreachable."""
        answer = None
        try:
            async with asyncio.timeout(seconds):
                answer = await self._client.send(method, path, data)
                return answer.status, await answer.read()
        except WireError as error:
            raise unreachable(self.name, error) from error
        except TimeoutError as error:
            raise EngineUnreachable(self.name, f"no answer within {seconds:.0f} s", timed_out=True) from error
        finally:
            if answer is not None:
                answer.abort()


def error_message(body: bytes) -> str:
    """The words of an engine's error body, whatever its shape."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:300].decode("utf-8", "replace").strip() or "no reason given"
    if isinstance(parsed, dict):
        inner = parsed.get("error", parsed)
        if isinstance(inner, dict):
            inner = inner.get("message") or inner.get("detail") or inner
        return str(inner)
    return str(parsed)


def unreachable(engine: str, error: WireError) -> EngineUnreachable:
    """What a failed connection says about the engine."""
    return EngineUnreachable(engine, str(error), connected=error.connected, timed_out=error.timed_out)
