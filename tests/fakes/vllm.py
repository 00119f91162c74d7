"""A vLLM server without a model, over real HTTP: its routes, its error bodies, its events, and its ways to fail.

A token is a word; a chat message costs four tokens more, as a chat template would. Written from
vLLM 0.32, as seen by running it. Switches are plain attributes, read at each request.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Body = dict[str, Any]
TEMPLATE_TOKENS = 4


@dataclass
class Seen:
    """One request as it reached the engine."""

    path: str
    body: Body
    headers: dict[str, str]


@dataclass
class Switches:
    """How the engine misbehaves; the defaults are a well one.

    Attributes:
        delay: seconds before each token.
        die_after: close the socket after this many events of a stream.
        stall_after: say nothing more after this many events of a stream, with the connection open.
        error_after: send vLLM's error event after this many events of a stream.
        die_in_json: close the socket in the middle of a JSON answer.
        answer_with: raw bytes in place of a JSON answer.
        status: answer every generation with this status.
        refuse_load: (status, message) for every adapter load.
        reply: the text, or what makes it from the request; None repeats the last user message.
        message: fields to put into the answer's message (tool calls, say).
        cached_tokens: how much of each prompt was in the prefix cache.
    """

    delay: float = 0.0
    die_after: int | None = None
    stall_after: int | None = None
    error_after: int | None = None
    die_in_json: bool = False
    answer_with: bytes | None = None
    status: int | None = None
    error_message: str = "boom in /srv/adapters/other-tenant"
    refuse_load: tuple[int, str] | None = None
    refuse_health: int | None = None
    reply: str | Callable[[Body], str] | None = None
    message: Body = field(default_factory=dict)
    cached_tokens: int = 0
    stream_tail: bytes = b"data: [DONE]\n\n"


class FakeVLLM:
    """Start and stop it as often as you like; it keeps its port, and forgets its adapters, as a process does.

    Attributes:
        running: requests it works on now.
        aborted: requests whose client went away before the end.
        history: what happened, in order: `health`, `models`, `load NAME`, `chat NAME`, ...
    """

    def __init__(
        self, *, base_model: str = "smol", max_model_len: int = 4096, api_key: str | None = None
    ) -> None:
        self.base_model = base_model
        self.max_model_len = max_model_len
        self.api_key = api_key
        self.port = 0
        self.running = self.aborted = self.prompt_tokens = self.generation_tokens = 0
        self.adapters: dict[str, str] = {}
        self.requests: list[Seen] = []
        self.history: list[str] = []
        self.switches = Switches()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/version", self._version),
                web.get("/v1/models", self._models),
                web.get("/metrics", self._metrics),
                web.post("/v1/load_lora_adapter", self._load),
                web.post("/v1/unload_lora_adapter", self._unload),
                web.post("/v1/chat/completions", self._generate),
                web.post("/v1/completions", self._generate),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End as a killed process does: every connection closes, and the adapters are forgotten."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.adapters.clear()

    def restart_in_place(self) -> None:
        """Forget the adapters, as if the process had been replaced between two looks at it."""
        self.adapters.clear()

    def reset(self) -> None:
        """Well again, and without memory of requests; the adapters stay."""
        self.switches = Switches()
        self.requests.clear()
        self.history.clear()
        self.aborted = self.prompt_tokens = self.generation_tokens = 0

    @property
    def last(self) -> Seen:
        return self.requests[-1]

    async def _health(self, _: web.Request) -> web.Response:
        self.history.append("health")
        return web.Response(status=self.switches.refuse_health or 200)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def _models(self, request: web.Request) -> web.Response:
        if refusal := self._unauthorised(request):
            return refusal
        self.history.append("models")
        cards = [_card(self.base_model, None, "/models/base")]
        cards += [_card(name, self.base_model, path) for name, path in self.adapters.items()]
        return web.json_response({"object": "list", "data": cards})

    async def _metrics(self, _: web.Request) -> web.Response:
        label = f'{{engine="0",model_name="{self.base_model}"}}'
        return web.Response(
            text=f"vllm:num_requests_running{label} {float(self.running)}\n"
            f"vllm:prompt_tokens_total{label} {float(self.prompt_tokens)}\n"
            f"vllm:generation_tokens_total{label} {float(self.generation_tokens)}\n"
        )

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["lora_name"]
        if self.switches.refuse_load:
            self.history.append(f"refuse {name}")
            status, message = self.switches.refuse_load
            return _error(status, message, "BadRequestError" if status == 400 else "InternalServerError")
        if name in self.adapters:
            return _error(
                400,
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, "
                "set 'load_inplace' to True.",
                "InvalidUserInput",
            )
        self.adapters[name] = body["lora_path"]
        self.history.append(f"load {name}")
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        self.history.append(f"unload {name}")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if refusal := self._unauthorised(request):
            return refusal
        body = json.loads(await request.read())
        self.requests.append(Seen(request.path, body, {k.lower(): v for k, v in request.headers.items()}))
        self.history.append(f"generate {body['model']}")
        if self.switches.status:
            return _error(self.switches.status, self.switches.error_message, "InternalServerError")
        if body["model"] != self.base_model and body["model"] not in self.adapters:
            return _error(404, f"The model `{body['model']}` does not exist.", "NotFoundError", "model")
        reply = _Reply(self, body, chat=request.path.endswith("/chat/completions"))
        if refusal := reply.refusal(self.max_model_len):
            return refusal
        self.running += 1
        try:
            answer = await (
                self._stream(request, reply) if body.get("stream") else self._json(request, reply)
            )
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        finally:
            self.running -= 1
        return answer

    async def _json(self, request: web.Request, reply: _Reply) -> web.StreamResponse:
        for _ in reply.words:
            await self._token()
        self._count(reply)
        body = self.switches.answer_with
        if body is None:
            body = json.dumps(reply.whole()).encode()
        if not self.switches.die_in_json:
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers={"content-length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        _cut(request)
        return response

    async def _stream(self, request: web.Request, reply: _Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        switches = self.switches
        for number, event in enumerate(reply.events()):
            if switches.die_after == number:
                _cut(request)
                return response
            if switches.stall_after == number:
                await asyncio.sleep(60)
            if switches.error_after == number:
                failure = {"error": {"message": "EngineCore died on adapter other@1", "code": 500}}
                await response.write(f"data: {json.dumps(failure)}\n\ndata: [DONE]\n\n".encode())
                return response
            await self._token()
            await response.write(event)
        self._count(reply)
        await response.write(switches.stream_tail)
        await response.write_eof()
        return response

    async def _token(self) -> None:
        if self.switches.delay:
            await asyncio.sleep(self.switches.delay)

    def _count(self, reply: _Reply) -> None:
        self.prompt_tokens += reply.usage["prompt_tokens"]
        self.generation_tokens += reply.usage["completion_tokens"]

    def _unauthorised(self, request: web.Request) -> web.Response | None:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return None


class _Reply:
    """The one answer to one request, whole or as events."""

    def __init__(self, engine: FakeVLLM, body: Body, *, chat: bool) -> None:
        switches = engine.switches
        self._body, self._chat, self._n = body, chat, body.get("n") or 1
        self._message = switches.message
        texts = [_text(message) for message in body["messages"]] if chat else [str(body["prompt"])]
        self.prompt_tokens = sum(len(text.split()) + (TEMPLATE_TOKENS if chat else 0) for text in texts)
        said = switches.reply(body) if callable(switches.reply) else switches.reply
        self.words = (texts[-1] if said is None else said).split(" ")
        self._limit = body.get("max_completion_tokens") or body.get("max_tokens")
        self._finish = "tool_calls" if self._message.get("tool_calls") else "stop"
        if self._limit and self._limit < len(self.words):
            self.words, self._finish = self.words[: self._limit], "length"
        completion = len(self.words) * self._n
        self.usage = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": switches.cached_tokens}
            if switches.cached_tokens
            else None,
        }
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{len(engine.requests)}",
            "created": int(time.time()),
            "model": body["model"],
        }

    def refusal(self, longest: int) -> web.Response | None:
        if self.prompt_tokens > longest:
            return _error(
                400,
                f"This model's maximum context length is {longest} tokens. However, your prompt contains at least "
                f"{longest + 1} input tokens, leaving no room for output. Please reduce the length of the input "
                "prompt.",
                "BadRequestError",
                "input_tokens",
            )
        if self._limit and self._limit + self.prompt_tokens > longest:
            return _error(
                400,
                f"'max_tokens' or 'max_completion_tokens' is too large: {self._limit}. This model's maximum context "
                f"length is {longest} tokens and your request has {self.prompt_tokens} input tokens "
                f"({self._limit} > {longest} - {self.prompt_tokens}).",
                "BadRequestError",
                "max_tokens",
            )
        return None

    def whole(self) -> Body:
        choices = [self._choice(index) for index in range(self._n)]
        kind = "chat.completion" if self._chat else "text_completion"
        return {
            **self._head,
            "object": kind,
            "choices": choices,
            "usage": self.usage,
            "kv_transfer_params": None,
        }

    def events(self) -> list[bytes]:
        several = range(self._n)
        events = []
        if self._chat:
            events += [self._event(i, {"role": "assistant", "content": ""}) for i in several]
        for number, word in enumerate(self.words):
            text = word if number == 0 else f" {word}"
            events += [self._event(i, {"content": text}, text=text) for i in several]
        for call in self._message.get("tool_calls", []):
            events += [self._event(i, {"tool_calls": [{"index": 0, **call}]}) for i in several]
        events += [self._event(i, {}, finish=self._finish) for i in several]
        if (self._body.get("stream_options") or {}).get("include_usage"):
            events.append(_sse({**self._head, "object": self._kind, "choices": [], "usage": self.usage}))
        return events

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _event(self, index: int, delta: Body, *, text: str = "", finish: str | None = None) -> bytes:
        content = {"delta": delta} if self._chat else {"text": text}
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        return _sse({**self._head, "object": self._kind, "choices": [choice]})

    def _choice(self, index: int) -> Body:
        text = " ".join(self.words)
        message = (
            {"message": {"role": "assistant", "content": text, **self._message}}
            if self._chat
            else {"text": text}
        )
        logprobs = None
        if self._chat and self._body.get("logprobs"):
            logprobs = {
                "content": [
                    {"token": w, "logprob": -0.5, "bytes": None, "top_logprobs": []} for w in self.words
                ]
            }
        return {
            "index": index,
            **message,
            "logprobs": logprobs,
            "finish_reason": self._finish,
            "stop_reason": None,
        }


def _text(message: Body) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def _sse(payload: Body) -> bytes:
    # vLLM writes events without spaces (pydantic) and JSON answers with or without them.
    return b"data: " + json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _card(name: str, parent: str | None, root: str) -> Body:
    return {"id": name, "object": "model", "created": 1, "owned_by": "vllm", "root": root, "parent": parent}


def _error(status: int, message: str, kind: str, param: str | None = None) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    return web.json_response(body, status=status)
