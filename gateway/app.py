"""The composition root: the only file that names concrete classes. Settings in, an ASGI application out."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from adapters.registry import Registry
from adapters.releases import Releases
from adapters.store import AdapterStore
from gateway import __version__, secret, telemetry
from gateway.api import embeddings, models, ops
from gateway.api.answers import REQUEST_ID, error_headers
from gateway.api.body import ClientLeft
from gateway.api.chat import ModelEndpoint
from gateway.api.edge import Edge, unexpected
from gateway.catalog import Catalog
from gateway.database import connect, migrate
from gateway.declare import Declared, declare
from gateway.dispatch import Dispatcher
from gateway.engines.base import Engine
from gateway.engines.echo import EchoEngine
from gateway.engines.local import LocalEngine, LocalSpec, has_gpu
from gateway.engines.pool import EnginePool
from gateway.engines.vllm import VLLMEngine
from gateway.errors import ApiError, ConfigurationError, InvalidRequest, MethodNotAllowed, NotFound
from gateway.exchange import Settler
from gateway.pipeline import Pipeline
from gateway.policy import auth
from gateway.policy.auth import Scope
from gateway.policy.pricing import FREE, Price
from gateway.protocol import ENGINE_PATHS
from gateway.relay import Relay
from gateway.settings import (
    EchoEngineSettings,
    EmbeddingSettings,
    EngineSettings,
    LocalEngineSettings,
    PriceSettings,
    Settings,
    VLLMEngineSettings,
)
from gateway.tenants import Tenants
from gateway.tokens import LengthCounter, RememberingCounter, TokenCounter, TokenizerCounter, WordCounter
from retrieval.embedding import Embedder, HashingEmbedder, SentenceTransformerEmbedder
from retrieval.files import FileStore
from retrieval.gate import HASHING, MINILM
from retrieval.knowledge import Knowledge
from retrieval.stores import Stores

_WORKERS = 4
_OUR_PACKAGES = ("gateway", "retrieval", "adapters")


@dataclass(frozen=True, slots=True)
class Gateway:
    """An assembled gateway. `pool` and `catalog` are there for whoever embeds or tests it."""

    app: Edge
    pool: EnginePool
    catalog: Catalog
    pipeline: Pipeline


def build(settings: Settings, *, engines: list[Engine] | None = None) -> Gateway:
    """Open the database, apply the configuration, and wire everything. Starts nothing.

    Args:
        engines: instead of those the settings describe; a test's own, say.

    Raises:
        ConfigurationError: something in the settings can't be.
    """
    refuse_foreign_packages(importlib.metadata.packages_distributions())
    state = _open(settings)
    metrics = telemetry.Telemetry(log=telemetry.request_log(settings.log_requests))
    catalog = Catalog(state.db, state.tenants, state.releases, state.store)
    catalog.refresh()
    pool = EnginePool(
        [engine_of(entry, settings.home) for entry in settings.engines] if engines is None else engines,
        wanted=catalog.wanted,
        telemetry=metrics,
    )
    executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="retrieval")
    embedder = _embedder(settings.embedding)
    clock = time.perf_counter
    prices = {name: _price(price) for name, price in settings.prices.items()}
    settler = Settler(metrics, prices, clock)
    pipeline = Pipeline(
        catalog=catalog,
        dispatcher=Dispatcher(pool, secret=state.secret),
        relay=Relay(settler, clock),
        settler=settler,
        counters={entry.base_model: RememberingCounter(_counter(entry)) for entry in settings.engines},
        knowledge=open_knowledge(state.db, embedder, settings.home, state.secret)[0] if embedder else None,
        executor=executor,
        secret=state.secret,
        clock=clock,
        wall_clock=time.time,
    )
    service = embeddings.EmbeddingService(
        pipeline=pipeline,
        embedder=embedder,
        executor=executor,
        telemetry=metrics,
        price=prices.get(embedder.name, FREE) if embedder else FREE,
        max_body_bytes=settings.server.max_body_bytes,
    )
    direct = {
        path: ModelEndpoint(endpoint, pipeline=pipeline, max_body_bytes=settings.server.max_body_bytes)
        for endpoint, path in ENGINE_PATHS.items()
    }
    routers = [
        models.router(pipeline, catalog, embedder.name if embedder else None),
        embeddings.router(service),
        ops.router(metrics, pool.unready),
    ]
    app = _application(direct, routers, metrics, _lifespan(pool, catalog, metrics, executor, state.db))
    return Gateway(Edge(app, metrics, direct), pool, catalog, pipeline)


@dataclass(frozen=True, slots=True)
class _State:
    """What outlives the process, opened."""

    db: sa.Engine
    secret: bytes
    tenants: Tenants
    releases: Releases
    store: AdapterStore


def _open(settings: Settings) -> _State:
    """The database at its newest schema, with what the configuration declares and the administrator's key."""
    home = settings.home
    pepper = (settings.secret or secret.keep(home / "secret", secrets.token_urlsafe)).encode()
    db = connect(settings.sql_url)
    migrate(db)
    state = _State(db, pepper, Tenants(db, pepper=pepper), Releases(db), AdapterStore(home / "adapters"))
    declare(settings, Declared(db, state.tenants, state.releases, Registry(db), state.store))
    admin_key = settings.admin_key or secret.keep(home / "admin.key", lambda: auth.generate()[1])
    state.tenants.ensure_key(None, "admin", admin_key, [Scope.ADMIN, Scope.MANAGE])
    return state


def _application(
    direct: Mapping[str, ModelEndpoint],
    routers: list[APIRouter],
    metrics: telemetry.Telemetry,
    lifespan: Any,
) -> FastAPI:
    app = FastAPI(
        title="Repertory",
        docs_url=None,
        redoc_url=None,
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for path, handler in direct.items():
        app.router.routes.append(Route(path, handler, methods=["POST"]))
    for router in routers:
        app.include_router(router)
    # Raised on instead, they would meet Starlette's own 500 before they reach the edge.
    for kind in (ApiError, ClientLeft, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answering(metrics))
    return app


def engine_of(entry: EngineSettings, home: Path) -> Engine:
    """The engine that a settings entry describes."""
    if isinstance(entry, EchoEngineSettings):
        return EchoEngine(
            name=entry.name,
            base_model=entry.base_model,
            seconds_per_token=entry.seconds_per_token,
            max_model_len=entry.max_model_len,
        )
    if isinstance(entry, VLLMEngineSettings):
        return VLLMEngine(
            name=entry.name,
            base_model=entry.base_model,
            url=entry.url,
            api_key=entry.api_key,
            timeout_seconds=entry.timeout_seconds,
        )
    device = ("gpu" if has_gpu() else "cpu") if entry.device == "auto" else entry.device
    return LocalEngine(
        LocalSpec(
            name=entry.name,
            base_model=entry.base_model,
            model_path=entry.model_path,
            device=device,
            log_file=home.resolve() / "logs" / f"engine-{entry.name}.log",
            python=str(entry.python or sys.executable),
            port=entry.port,
            max_model_len=entry.max_model_len,
            max_loras=entry.max_loras,
            max_cpu_loras=entry.max_cpu_loras,
            max_lora_rank=entry.max_lora_rank,
            kv_cache_gib=entry.kv_cache_gib,
            gpu_memory_utilization=entry.gpu_memory_utilization,
            extra_args=entry.extra_args,
            timeout_seconds=entry.timeout_seconds,
        )
    )


def refuse_foreign_packages(owners: Mapping[str, list[str]]) -> None:
    """ConfigurationError when another distribution owns one of our import names (PyPI has an `adapters`)."""
    for name in _OUR_PACKAGES:
        foreign = [owner for owner in owners.get(name, []) if owner != "repertory"]
        if foreign:
            raise ConfigurationError(
                f"the installed package {foreign[0]} provides a module named {name}, which is one of ours: "
                f"uninstall {foreign[0]}, or use a virtual environment of its own"
            )


def _counter(entry: EngineSettings) -> TokenCounter:
    if isinstance(entry, EchoEngineSettings):
        return WordCounter()
    folder = Path(entry.model_path) if isinstance(entry, LocalEngineSettings) else entry.tokenizer
    return TokenizerCounter(folder) if folder is not None and folder.is_dir() else LengthCounter()


def _embedder(entry: EmbeddingSettings | None) -> Embedder | None:
    if entry is None:
        return None
    if entry.kind == "hashing":
        return HashingEmbedder()
    assert entry.path is not None
    if not entry.path.is_dir():
        raise ConfigurationError(f"embedding.path: there is no folder {entry.path}")
    return SentenceTransformerEmbedder(entry.path, threads=entry.threads)


def open_knowledge(
    db: sa.Engine, embedder: Embedder, home: Path, pepper: bytes
) -> tuple[Knowledge, Stores, FileStore]:
    """Retrieval as the gateway uses it, and the stores and files below it."""
    from retrieval.store_faiss import FaissBackend

    files = FileStore(db, home / "files")
    stores = Stores(db, embedder, home / "indexes", files=files, backend=FaissBackend())
    thresholds = HASHING if isinstance(embedder, HashingEmbedder) else MINILM
    return Knowledge(stores, embedder, secret=pepper, thresholds=thresholds), stores, files


def _price(entry: PriceSettings) -> Price:
    return Price.per_million(entry.input, entry.cached_input, entry.output)


async def _flush(metrics: telemetry.Telemetry) -> None:
    """Log lines are written in blocks; none waits in memory for longer than a second."""
    while True:
        await asyncio.sleep(1)
        metrics.flush()


def _lifespan(
    pool: EnginePool,
    catalog: Catalog,
    metrics: telemetry.Telemetry,
    executor: ThreadPoolExecutor,
    db: sa.Engine,
) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await pool.start()
        tasks = [
            asyncio.create_task(catalog.watch(pool.reconcile_soon), name="catalog"),
            asyncio.create_task(_flush(metrics), name="log"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await pool.stop()
            executor.shutdown(wait=False, cancel_futures=True)
            db.dispose()

    return lifespan


def _answering(metrics: telemetry.Telemetry) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The framework's errors, and ours on its routes, as the edge would answer them."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientLeft):
            return Response(status_code=499)  # nobody reads it
        ours = translate(request.method, request.url.path, error, request.scope[REQUEST_ID])
        metrics.count_error(ours.code)
        headers = dict(getattr(error, "headers", None) or {})  # Allow, with a 405
        headers |= {name.decode(): value.decode() for name, value in error_headers(ours)}
        return Response(orjson.dumps(ours.body()), ours.status, headers, "application/json")

    return answer


def translate(method: str, path: str, error: Exception, request_id: str) -> ApiError:
    """The error of ours that says what another one says."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException) and error.status_code == 405:
        return MethodNotAllowed(f"{path[:80]} does not answer to {method}.")
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFound(f"There is no {path[:80]} here.", code="unknown_url")
    if isinstance(error, HTTPException | RequestValidationError):
        return InvalidRequest(f"The request is not valid: {error}.")
    return unexpected(request_id)
