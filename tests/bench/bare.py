"""The floor of this stack: FastAPI, a raw ASGI endpoint, aiohttp and uvicorn, and no policy at all.

    python -m tests.bench.bare PORT ENGINE_URL

It reads the body, names the engine's model, and passes the answer back. What the gateway costs beyond this is
what its policy costs.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import orjson
import uvicorn
from fastapi import FastAPI
from starlette.routing import Route

from tests.bench.engine import BASE_MODEL
from tests.bench.load import PATH

_SENT = {"content-type": "application/json"}

Message = MutableMapping[str, Any]


class Passing:
    """Posts what it gets to the engine and sends back what comes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
            )
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        request = orjson.loads(b"".join(parts))
        request["model"] = BASE_MODEL
        async with self._session.post(self._url, data=orjson.dumps(request), headers=_SENT) as answer:
            kind = (b"content-type", answer.headers["content-type"].encode())
            if request.get("stream"):
                await send({"type": "http.response.start", "status": answer.status, "headers": [kind]})
                async for data in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            else:
                body = await answer.read()
                length = (b"content-length", b"%d" % len(body))
                await send(
                    {"type": "http.response.start", "status": answer.status, "headers": [kind, length]}
                )
                await send({"type": "http.response.body", "body": body})


def main(port: int, engine_url: str) -> None:
    app = FastAPI()
    app.router.routes.insert(0, Route(PATH, Passing(engine_url + PATH), methods=["POST"]))
    uvicorn.run(app, host="127.0.0.1", port=port, log_config=None, access_log=False, ws="none")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
