"""The outermost layer: a request id, the count of requests being worked on, and one shape for every error."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any

from gateway.api.answers import (
    BEGUN,
    ENDED,
    REQUEST_ID,
    Message,
    Receive,
    Scope,
    Send,
    request_id_header,
    send_error,
)
from gateway.errors import ApiError, InternalError
from gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

# What a client may choose as its request id: it ends up in logs and in the engine's header.
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")


class Edge:
    """Pure ASGI. Whatever is raised inside becomes an error answer, if none has begun.

    Args:
        app: the FastAPI application, with every route.
        direct: its busiest POST routes by path, reached without the framework's layers, each of which wraps
            every message of an answer. They mark their own answers with the request id.
    """

    def __init__(self, app: Any, telemetry: Telemetry, direct: Mapping[str, Any]) -> None:
        self._app = app
        self._telemetry = telemetry
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID] = _request_id(scope["headers"])
        endpoint = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        self._telemetry.active += 1
        try:
            if endpoint is not None:
                await endpoint(scope, receive, send)
            else:
                await self._app(scope, receive, _marking(scope, send))
        except ApiError as error:
            await self._refuse(scope, send, error)
        except Exception:
            log.exception("request %s failed", request_id)
            if scope.get(ENDED):
                return  # the framework's error handler has answered
            if scope.get(BEGUN):
                raise  # the answer's head is out: let the server cut the connection, as the only honest end
            await self._refuse(scope, send, unexpected(request_id))
        finally:
            self._telemetry.active -= 1

    async def _refuse(self, scope: Scope, send: Send, error: ApiError) -> None:
        self._telemetry.count_error(error.code)
        await send_error(send, error, [request_id_header(scope)])


def _marking(scope: Scope, send: Send) -> Send:
    """`send` that adds the request id to the answer's head."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            scope[BEGUN] = True
            message["headers"] = [*message["headers"], request_id_header(scope)]
        elif not message.get("more_body"):
            scope[ENDED] = True
        await send(message)

    return marked


def unexpected(request_id: str) -> InternalError:
    """What a client is told of a fault of ours."""
    return InternalError(f"The gateway failed on this request; its log has the details under {request_id}.")


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return value.decode()
    return f"req_{secrets.token_hex(12)}"


def header_map(scope: Scope) -> Mapping[bytes, bytes]:
    """The request's headers by lower-case name; the last of several wins."""
    return dict(scope["headers"])
