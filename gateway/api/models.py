"""GET /v1/models and /v1/models/{name}: what this key may use, and nothing of anyone else's."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.catalog import Catalog, ServedModel
from gateway.errors import NotFound
from gateway.pipeline import Pipeline


def router(pipeline: Pipeline, catalog: Catalog, embedding_model: str | None) -> APIRouter:
    """The routes, bound to what they read."""
    routes = APIRouter(tags=["models"])

    def visible(request: Request) -> dict[str, dict[str, Any]]:
        caller = pipeline.identify(_authorization(request))
        entries = {m.name: _entry(m, caller.tenant.name) for m in catalog.snapshot.visible(caller.tenant.id)}
        if embedding_model is not None:
            entries.setdefault(embedding_model, _object(embedding_model, 0, "repertory"))
        return entries

    @routes.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """Every model this key may name, shared ones included."""
        return {"object": "list", "data": list(visible(request).values())}

    @routes.get("/v1/models/{name:path}")
    async def get_model(request: Request, name: str) -> dict[str, Any]:
        """One of them."""
        entry = visible(request).get(name)
        if entry is None:
            raise NotFound(
                f"The model `{name[:80]}` does not exist or this key may not use it: see /v1/models.",
                code="model_not_found",
                param="model",
            )
        return entry

    return routes


def _authorization(request: Request) -> bytes | None:
    header = request.headers.get("authorization")
    return None if header is None else header.encode("latin-1")


def _entry(model: ServedModel, tenant: str) -> dict[str, Any]:
    return _object(model.name, model.created_at, "repertory" if model.tenant_id is None else tenant)


def _object(name: str, created: int, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}
