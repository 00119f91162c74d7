"""The OpenAI wire format, as far as the gateway reads or writes it: a few request fields, server-sent events.

Everything else in a request passes to the engine untouched. Knows no tenant, no engine and no HTTP server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.errors import InvalidRequest

Endpoint = Literal["chat", "completions"]
ENGINE_PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}

DONE = b"data: [DONE]\n\n"

# Fields that vLLM would obey and that reach beyond one tenant's request.
_NOT_FOR_CLIENTS = ("kv_transfer_params", "priority")
RETRIEVAL_MODES = ("auto", "always", "never")


@dataclass(frozen=True, slots=True)
class RetrievalWish:
    """What a request says about retrieval: a mode, and stores of its own when it names some."""

    mode: Literal["auto", "always", "never"]
    vector_store_ids: tuple[str, ...] = ()
    max_tokens: int | None = None


@dataclass(slots=True)
class ModelRequest:
    """A parsed request. `body` is the client's JSON, to be edited and sent on."""

    endpoint: Endpoint
    body: dict[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    retrieval: RetrievalWish | None
    size: int

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Chat messages; empty for /v1/completions."""
        messages: list[dict[str, Any]] = self.body.get("messages", [])
        return messages


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object, or InvalidRequest."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return body


def parse_request(endpoint: Endpoint, data: bytes) -> ModelRequest:
    """Read the fields the gateway acts on and check their types; leave the rest for the engine.

    Raises:
        InvalidRequest: with `param` naming the field.
    """
    body = parse_object(data)
    model = require_str(body, "model")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("stream must be true or false.", param="stream")
    for field in _NOT_FOR_CLIENTS:
        if field in body:
            raise InvalidRequest(
                f"{field} is set by the operator, not by requests: leave it out.", param=field
            )
    if endpoint == "chat":
        _check_messages(body)
    elif "prompt" not in body:
        raise InvalidRequest("prompt is missing.", param="prompt")
    return ModelRequest(
        endpoint=endpoint,
        body=body,
        model=model,
        stream=bool(stream),
        wants_usage=_wants_usage(body),
        retrieval=_take_retrieval(endpoint, body),
        size=len(data),
    )


def require_str(body: dict[str, Any], field: str) -> str:
    """A non-empty string field, or InvalidRequest that names it."""
    value = body.get(field)
    if value is None:
        raise InvalidRequest(f"{field} is missing.", param=field, code="missing_required_parameter")
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{field} must be a non-empty string.", param=field)
    return value


def _check_messages(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    if messages is None:
        raise InvalidRequest("messages is missing.", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list):
        raise InvalidRequest("messages must be a list.", param="messages")
    if not messages:
        raise InvalidRequest("messages is empty: send at least one message.", param="messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(
                f"messages[{number}] must be an object with a string role.", param=f"messages[{number}]"
            )
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidRequest(
                f"messages[{number}].content must be a string or a list of parts.",
                param=f"messages[{number}].content",
            )


def _wants_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object.", param="stream_options")
    return bool(options.get("include_usage"))


def _take_retrieval(endpoint: Endpoint, body: dict[str, Any]) -> RetrievalWish | None:
    """Remove the gateway's own `retrieval` field and `file_search` tools: the engine knows neither."""
    wish = body.pop("retrieval", None)
    found = None if wish is None else _read_wish(wish)
    tools = body.get("tools")
    if isinstance(tools, list):
        searches = [tool for tool in tools if isinstance(tool, dict) and tool.get("type") == "file_search"]
        if searches:
            rest = [tool for tool in tools if tool not in searches]
            found = found or _wish_of_tool(searches[0])
            body["tools"] = rest
            if not rest:
                del body["tools"]
                body.pop("tool_choice", None)
    if found is not None and endpoint != "chat" and found.mode != "never":
        raise InvalidRequest("Retrieval works on chat completions only.", param="retrieval")
    return found


def _read_wish(wish: Any) -> RetrievalWish:
    if isinstance(wish, str):
        wish = {"mode": wish}
    if not isinstance(wish, dict) or set(wish) - {"mode", "vector_store_ids", "max_tokens"}:
        raise InvalidRequest(
            "retrieval must be a mode, or an object with mode, vector_store_ids and max_tokens.",
            param="retrieval",
        )
    mode = wish.get("mode", "auto")
    if mode not in RETRIEVAL_MODES:
        raise InvalidRequest(
            f"retrieval mode must be one of {', '.join(RETRIEVAL_MODES)}.", param="retrieval"
        )
    budget = wish.get("max_tokens")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 32):
        raise InvalidRequest("retrieval.max_tokens must be an integer of at least 32.", param="retrieval")
    return RetrievalWish(mode, _store_ids(wish, "retrieval"), budget)


def _wish_of_tool(tool: dict[str, Any]) -> RetrievalWish:
    known = {"type", "vector_store_ids"}
    if extra := sorted(set(tool) - known):
        raise InvalidRequest(f"file_search option {extra[0]} is not supported.", param="tools")
    return RetrievalWish("always", _store_ids(tool, "tools"))


def _store_ids(holder: dict[str, Any], param: str) -> tuple[str, ...]:
    ids = holder.get("vector_store_ids", [])
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise InvalidRequest("vector_store_ids must be a list of ids.", param=param)
    return tuple(ids)


def text_of(message: dict[str, Any]) -> str:
    """The text of a message's content; parts that are not text are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        )
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def sse(payload: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"
