"""POST /v1/embeddings, from the embedding model that also serves the vector stores."""

from __future__ import annotations

import asyncio
import base64
import time
from concurrent.futures import Executor
from typing import Any

from fastapi import APIRouter, Request

from gateway.api.body import read_body
from gateway.errors import InvalidRequest, NotFound
from gateway.pipeline import Caller, Pipeline
from gateway.policy.pricing import Price, Usage, cost
from gateway.protocol import parse_object, require_str
from gateway.receipt import Receipt, dollars
from gateway.telemetry import Telemetry
from retrieval.embedding import Embedder

_MOST_INPUTS = 2048


class EmbeddingService:
    """Checks a request, embeds in a worker thread, counts the tokens."""

    def __init__(  # noqa: PLR0913  its collaborators, named in the composition root
        self,
        *,
        pipeline: Pipeline,
        embedder: Embedder | None,
        executor: Executor,
        telemetry: Telemetry,
        price: Price,
        max_body_bytes: int,
    ) -> None:
        self._pipeline = pipeline
        self._embedder = embedder
        self._executor = executor
        self._telemetry = telemetry
        self._price = price
        self._max_body_bytes = max_body_bytes

    async def answer(self, request: Request) -> dict[str, Any]:
        """The answer's JSON. Raises ApiError."""
        started = time.perf_counter()
        caller = self._pipeline.identify(_header(request, "authorization"))
        data = await read_body(request.receive, _header(request, "content-length"), self._max_body_bytes)
        body = parse_object(data)
        embedder = self._model(require_str(body, "model"))
        encode = _encoder(body)
        texts = _texts(body)
        loop = asyncio.get_running_loop()
        counts = await loop.run_in_executor(self._executor, lambda: [embedder.count(text) for text in texts])
        for number, count in enumerate(counts):
            if count > embedder.max_tokens:
                raise InvalidRequest(
                    f"input[{number}] has {count} tokens, and {embedder.name} reads {embedder.max_tokens}: "
                    "send shorter texts.",
                    param="input",
                    code="context_length_exceeded",
                )
        vectors = await loop.run_in_executor(self._executor, embedder.embed, texts)
        self._settle(caller, embedder.name, sum(counts), time.perf_counter() - started)
        return {
            "object": "list",
            "model": embedder.name,
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": sum(counts), "total_tokens": sum(counts)},
        }

    def _model(self, name: str) -> Embedder:
        if self._embedder is None or name != self._embedder.name:
            raise NotFound(
                f"The embedding model `{name[:80]}` does not exist: see /v1/models.",
                code="model_not_found",
                param="model",
            )
        return self._embedder

    def _settle(self, caller: Caller, model: str, tokens: int, seconds: float) -> None:
        parts = {"system": 0, "history": 0, "context": 0, "user": tokens}
        picodollars = cost(parts, Usage(tokens, 0), self._price)
        total = dollars(sum(picodollars.values()))
        receipt = Receipt("ok", parts, picodollars, total, seconds, {})
        self._telemetry.meters(caller.tenant.name, model).settle(receipt)


def router(service: EmbeddingService) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["embeddings"])

    @routes.post("/v1/embeddings")
    async def create_embeddings(request: Request) -> dict[str, Any]:
        """Vectors of unit length, one for each input."""
        return await service.answer(request)

    return routes


def _encoder(body: dict[str, Any]) -> Any:
    form = body.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise InvalidRequest("encoding_format must be float or base64.", param="encoding_format")
    if body.get("dimensions") is not None:
        raise InvalidRequest("dimensions can't be chosen with this model: leave it out.", param="dimensions")
    if form == "float":
        return lambda vector: vector.tolist()
    # Little-endian float32, as the openai package asks for by default and decodes.
    return lambda vector: base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _texts(body: dict[str, Any]) -> list[str]:
    value = body.get("input")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest("input must be a non-empty string or a list of them.", param="input")
    if len(texts) > _MOST_INPUTS:
        raise InvalidRequest(
            f"input has more than {_MOST_INPUTS} texts: send fewer at a time.", param="input"
        )
    return texts


def _header(request: Request, name: str) -> bytes | None:
    value = request.headers.get(name)
    return None if value is None else value.encode("latin-1")
