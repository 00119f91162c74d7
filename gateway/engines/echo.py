"""The engine without a model: it answers with the last user message, word by word, always the same.

It ships in the product for quick starts, tests and overhead benchmarks. A token is a word. It keeps vLLM's
manners: the answer names the model, streams end with a usage event, too long a prompt is a 400.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from gateway.engines.base import EngineAnswer, Health
from gateway.errors import EngineUnreachable
from gateway.protocol import DONE, sse, text_of

_CREATED = 1_700_000_000  # fixed, so that the same request gets the same bytes


class EchoAnswer:
    """An answer that is made while it is read."""

    def __init__(self, engine: EchoEngine, status: int, pieces: AsyncIterator[bytes]) -> None:
        self.status = status
        self._engine = engine
        self._pieces = pieces
        self._first = b""
        self._open = True
        engine.running += 1

    async def begin(self) -> None:
        self._first = await anext(self._checked(), b"")

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            if self._first:
                yield self._first
            async for piece in self._checked():
                yield piece
        finally:
            self.abort()

    async def _checked(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            if self._engine.broken:
                raise EngineUnreachable(self._engine.name, "stopped in the middle of an answer")
            yield piece

    def abort(self) -> None:
        if self._open:
            self._open = False
            self._engine.running -= 1


class EchoEngine:
    """Deterministic, in this process, without a model.

    Attributes:
        running: answers begun and neither ended nor aborted.
        broken: set to True, it behaves as an engine that died; set back, as one that returned, empty.
        requests: bodies received, oldest first, the last 100.
    """

    def __init__(
        self,
        *,
        name: str = "echo",
        base_model: str = "echo",
        seconds_per_token: float = 0.0,
        max_model_len: int = 8192,
    ) -> None:
        self.name = name
        self.base_model = base_model
        self.running = 0
        self.requests: list[dict[str, Any]] = []
        self._broken = False
        self._seconds_per_token = seconds_per_token
        self._max_model_len = max_model_len
        self._adapters: set[str] = set()

    @property
    def kind(self) -> str:
        return "echo"

    @property
    def pid(self) -> int | None:
        return None

    @property
    def broken(self) -> bool:
        return self._broken

    @broken.setter
    def broken(self, value: bool) -> None:
        self._broken = value
        self._adapters.clear()

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def health(self) -> Health:
        return Health(False, "broken") if self._broken else Health(True)

    async def adapters(self) -> frozenset[str]:
        self._check()
        return frozenset(self._adapters)

    async def load_adapter(self, adapter_id: str, path: Path) -> None:
        self._check()
        self._adapters.add(adapter_id)

    async def unload_adapter(self, adapter_id: str) -> None:
        self._check()
        self._adapters.discard(adapter_id)

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> EngineAnswer:
        self._check()
        request: dict[str, Any] = orjson.loads(body)
        self.requests = [*self.requests[-99:], request]
        if request["model"] != self.base_model and request["model"] not in self._adapters:
            return self._error(404, f"The model `{request['model']}` does not exist.")
        words, prompt_tokens = _read(request)
        if prompt_tokens > self._max_model_len:
            return self._error(
                400,
                f"This model's maximum context length is {self._max_model_len} tokens. "
                f"However, your request has {prompt_tokens} input tokens.",
            )
        limit = request.get("max_completion_tokens") or request.get("max_tokens")
        cut = limit is not None and limit < len(words)
        reply = _Reply(
            request, words[:limit] if cut else words, prompt_tokens, "length" if cut else "stop", path
        )
        pieces = self._stream(reply) if request.get("stream") else self._whole(reply)
        return EchoAnswer(self, 200, pieces)

    async def _whole(self, reply: _Reply) -> AsyncIterator[bytes]:
        if self._seconds_per_token:
            await asyncio.sleep(self._seconds_per_token * len(reply.words))
        yield orjson.dumps(reply.whole())

    async def _stream(self, reply: _Reply) -> AsyncIterator[bytes]:
        for index in range(len(reply.words)):
            # A turn of the loop per token, as a real engine takes.
            await asyncio.sleep(self._seconds_per_token)
            yield sse(reply.chunk(index))
        yield sse(reply.last_chunk())
        if (reply.request.get("stream_options") or {}).get("include_usage"):
            yield sse(reply.usage_chunk())
        yield DONE

    def _error(self, status: int, message: str) -> EchoAnswer:
        body = orjson.dumps({"error": {"message": message, "type": "error", "param": None, "code": status}})

        async def pieces() -> AsyncIterator[bytes]:
            yield body

        return EchoAnswer(self, status, pieces())

    def _check(self) -> None:
        if self._broken:
            raise EngineUnreachable(self.name, "broken", connected=False)


class _Reply:
    """The one answer to one request, whole or in chunks."""

    def __init__(
        self, request: dict[str, Any], words: list[str], prompt_tokens: int, finish_reason: str, path: str
    ) -> None:
        self.request = request
        self.words = words
        self._finish_reason = finish_reason
        self._chat = path.endswith("/chat/completions")
        self._usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(words),
            "total_tokens": prompt_tokens + len(words),
            "prompt_tokens_details": None,
        }
        digest = hashlib.sha256(" ".join(words).encode()).hexdigest()[:24]
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{digest}",
            "created": _CREATED,
            "model": request["model"],
        }

    def whole(self) -> dict[str, Any]:
        text = " ".join(self.words)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._finish_reason}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return {**self._head, "object": self._object(""), "choices": [choice], "usage": self._usage}

    def chunk(self, index: int) -> dict[str, Any]:
        text = self.words[index] if index == 0 else f" {self.words[index]}"
        delta = {"role": "assistant", "content": text} if index == 0 else {"content": text}
        return self._chunk({"delta": delta} if self._chat else {"text": text}, None)

    def last_chunk(self) -> dict[str, Any]:
        return self._chunk({"delta": {}} if self._chat else {"text": ""}, self._finish_reason)

    def usage_chunk(self) -> dict[str, Any]:
        return {**self._head, "object": self._object(".chunk"), "choices": [], "usage": self._usage}

    def _chunk(self, content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self._object(".chunk"), "choices": [choice]}

    def _object(self, suffix: str) -> str:
        return f"chat.completion{suffix}" if self._chat else "text_completion"


def _read(request: dict[str, Any]) -> tuple[list[str], int]:
    """(the words to repeat, prompt tokens)."""
    if "messages" in request:
        texts = [text_of(message) for message in request["messages"]]
        users = [text_of(m) for m in request["messages"] if m.get("role") == "user"]
        words = (users or texts)[-1].split()
        return words or ["…"], sum(len(text.split()) for text in texts)
    prompt = request["prompt"]
    words = (prompt if isinstance(prompt, str) else str(prompt)).split()
    return words or ["…"], len(words)
