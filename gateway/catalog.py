"""What the request path looks up, held in memory: keys, tenants, models, their releases and adapters.

A snapshot is immutable; a change in the database makes a new one within half a second, on every gateway.
No request waits for SQL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from adapters.errors import AdapterNotFound
from adapters.releases import Model, Release, Releases
from adapters.store import AdapterStore
from gateway.policy.auth import ApiKey
from gateway.policy.prompting import Policy
from gateway.tenants import Tenant, Tenants, version
from retrieval.gate import Mode

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Binding:
    """A release's retrieval binding."""

    vector_store_ids: tuple[str, ...]
    mode: Mode
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A release as the request path needs it.

    Attributes:
        engine_model: the name the engine knows: `name@sha12` of the adapter, or the base model.
        digest: sha256 of the release's content.
    """

    release_id: str
    digest: str
    base_model: str
    engine_model: str
    adapter_id: str | None = None
    system_text: str | None = None
    system_policy: Policy = "replace"
    retrieval: Binding | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A public model name with the releases its traffic goes to.

    Attributes:
        tenant_id: None for a model that all tenants share.
        splits: (release id, percent), adding up to 100.
    """

    name: str
    tenant_id: str | None
    base_model: str
    created_at: int
    splits: tuple[tuple[str, int], ...]
    plans: Mapping[str, Plan]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent view."""

    version: int = -1
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    models: Mapping[tuple[str | None, str], ServedModel] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)
    adapter_bases: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, tenant_id: str | None, name: str) -> ServedModel | None:
        """The tenant's model of that name, else the shared one."""
        return self.models.get((tenant_id, name)) or self.models.get((None, name))

    def visible(self, tenant_id: str | None) -> list[ServedModel]:
        """Every model the tenant may name, each name once, its own before a shared one."""
        shared = {model.name: model for (owner, _), model in self.models.items() if owner is None}
        own = {model.name: model for (owner, _), model in self.models.items() if owner == tenant_id}
        return sorted({**shared, **own}.values(), key=lambda model: model.name)

    def wanted(self, base_model: str) -> dict[str, Path]:
        """Adapters that an engine of this base should hold, with their folders."""
        return {name: path for name, path in self.adapters.items() if self.adapter_bases[name] == base_model}


class Catalog:
    """Holds the newest snapshot and keeps it new."""

    def __init__(self, db: sa.Engine, tenants: Tenants, releases: Releases, store: AdapterStore) -> None:
        self._db = db
        self._tenants = tenants
        self._releases = releases
        self._store = store
        self.snapshot = Snapshot()

    def refresh(self) -> bool:
        """Read anew if the database changed; whether it did. Blocks on SQL."""
        current = version(self._db)
        if current == self.snapshot.version:
            return False
        # The version is read first: a change made while we read makes the next poll read again.
        self.snapshot = self._read(current)
        return True

    def wanted(self, base_model: str) -> Mapping[str, Path]:
        """Adapters, with their folders, that an engine of this base should hold now."""
        return self.snapshot.wanted(base_model)

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Poll for ever. What can't be read, or an adapter not yet here, leaves the last snapshot in force."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                changed = await asyncio.to_thread(self.refresh)
            except (sa.exc.SQLAlchemyError, AdapterNotFound):
                log.exception("the catalogue could not be read; the last one stays in force")
                continue
            if changed:
                on_change()

    def _read(self, current: int) -> Snapshot:
        tenants = {tenant.id: tenant for tenant in self._tenants.list_all()}
        models: dict[tuple[str | None, str], ServedModel] = {}
        paths: dict[str, Path] = {}
        bases: dict[str, str] = {}
        for model, releases, splits in self._releases.served():
            plans = {release.id: _plan(model, release) for release in releases}
            for plan in plans.values():
                if plan.adapter_id is not None:
                    paths[plan.adapter_id] = self._store.path(plan.adapter_id)
                    bases[plan.adapter_id] = plan.base_model
            served = ServedModel(
                model.name,
                model.tenant_id,
                model.base_model,
                model.created_at,
                splits,
                MappingProxyType(plans),
            )
            models[model.tenant_id, model.name] = served
        return Snapshot(
            version=current,
            keys=MappingProxyType({key.public_id: key for key in self._tenants.list_keys()}),
            tenants=MappingProxyType(tenants),
            models=MappingProxyType(models),
            adapters=MappingProxyType(paths),
            adapter_bases=MappingProxyType(bases),
        )


def _plan(model: Model, release: Release) -> Plan:
    prompt, binding = release.system_prompt, release.retrieval
    return Plan(
        release_id=release.id,
        digest=release.digest,
        base_model=model.base_model,
        engine_model=release.adapter_id or model.base_model,
        adapter_id=release.adapter_id,
        system_text=prompt.text if prompt else None,
        system_policy=prompt.policy if prompt else "replace",
        retrieval=Binding(tuple(binding.vector_store_ids), binding.mode, binding.max_tokens)
        if binding
        else None,
        sampling=MappingProxyType(dict(release.sampling)),
    )
