"""GET /healthz, /readyz and /metrics, for operators and probes. None of them calls a model or needs a key."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from gateway.telemetry import Telemetry


def router(telemetry: Telemetry, unready: Callable[[], dict[str, str]]) -> APIRouter:
    """The routes. `unready` gives the reasons, none when all is well."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive; says nothing of what it depends on."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 when every engine is up and holds its adapters, else 503 with the reasons."""
        reasons = unready()
        if reasons:
            return JSONResponse({"status": "unready", "reasons": reasons}, status_code=503)
        return JSONResponse({"status": "ready"})

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
