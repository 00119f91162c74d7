"""A vLLM server over HTTP. Knows vLLM's routes and the faults of its LoRA runtime, and no tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gateway.engines.base import EngineAnswer, Health
from gateway.errors import EngineRefused, EngineUnreachable
from gateway.protocol import ENGINE_PATHS

_CONTROL_TIMEOUT = aiohttp.ClientTimeout(total=5)
# A load runs inside the engine's loop, behind whatever step is running.
_LOAD_TIMEOUT = aiohttp.ClientTimeout(total=120)

_BROKEN = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


class VLLMAnswer:
    """An answer in flight on one connection."""

    def __init__(self, engine: str, response: aiohttp.ClientResponse) -> None:
        self._engine = engine
        self._response = response
        self._first = b""

    @property
    def status(self) -> int:
        return self._response.status

    async def begin(self) -> None:
        try:
            self._first = await self._response.content.readany()
        except _BROKEN as error:
            raise unreachable(self._engine, error) from error

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except _BROKEN as error:
            raise unreachable(self._engine, error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        content = self._response.content
        if self._first:
            yield self._first
        try:
            while data := await content.readany():
                yield data
        except _BROKEN as error:
            raise unreachable(self._engine, error) from error

    def abort(self) -> None:
        # Closing the connection is vLLM's signal to stop generating; after the end it is a no-op.
        self._response.close()


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
        self.move(url)
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    @property
    def kind(self) -> str:
        return "vllm"

    def move(self, url: str) -> None:
        """From now on the server is at this address."""
        self.url = url
        self._urls = {path: URL(url + path) for path in ENGINE_PATHS.values()}

    @property
    def pid(self) -> int | None:
        return None

    async def start(self) -> None:
        # limit=0: how many run at once is decided before this layer, never by a hidden queue in the client.
        # Below vLLM's own 5 s: a connection is never reused in the moment in which vLLM closes it.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> EngineAnswer:
        try:
            response = await self._client.post(
                self._urls[path], data=body, headers={**self._headers, **headers}
            )
        except _BROKEN as error:
            raise unreachable(self.name, error) from error
        return VLLMAnswer(self.name, response)

    async def health(self) -> Health:
        try:
            async with self._client.get(self.url + "/health", timeout=_CONTROL_TIMEOUT) as response:
                if response.status == 200:
                    return Health(True)
                return Health(False, f"/health answered {response.status}")
        except _BROKEN as error:
            return Health(False, _words(error))

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
    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EngineUnreachable(self.name, "not started")
        return self._session

    async def _control(self, method: str, path: str, payload: dict[str, str] | None = None) -> bytes:
        data = None if payload is None else orjson.dumps(payload)
        timeout = _LOAD_TIMEOUT if payload else _CONTROL_TIMEOUT
        try:
            async with self._client.request(
                method, self.url + path, data=data, headers=self._headers, timeout=timeout
            ) as response:
                body = await response.read()
        except _BROKEN as error:
            raise unreachable(self.name, error) from error
        if response.status != 200:
            raise EngineRefused(self.name, response.status, error_message(body))
        return body


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


def unreachable(engine: str, error: BaseException) -> EngineUnreachable:
    """What a failure of the HTTP client says about the engine."""
    return EngineUnreachable(
        engine,
        _words(error),
        connected=not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError),
        timed_out=isinstance(error, aiohttp.SocketTimeoutError),
    )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
