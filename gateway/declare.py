"""Brings the database to what the configuration file declares: tenants, keys, models, first releases.

Safe to run at every start. Traffic moves only to a release that the file newly describes, so that what an
operator moved since stays moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from adapters.errors import AdapterNotFound, TrafficConflict
from adapters.registry import Registry
from adapters.releases import Releases, ReleaseSpec, RetrievalBinding, SystemPrompt
from adapters.store import AdapterStore
from gateway.errors import ConfigurationError
from gateway.policy.auth import Scope
from gateway.settings import ModelSettings, Settings
from gateway.tables import declared_releases
from gateway.tenants import Tenants, bump

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Declared:
    """Where declarations are written."""

    db: sa.Engine
    tenants: Tenants
    releases: Releases
    registry: Registry
    store: AdapterStore


def declare(settings: Settings, to: Declared) -> None:
    """Apply the file. Raises ConfigurationError, which names what is wrong, before anything is served."""
    for attempt in range(_ATTEMPTS):
        try:
            _declare(settings, to)
            return
        except (sa.exc.IntegrityError, TrafficConflict):
            # Another gateway declares the same at this moment; what it has done is found done.
            if attempt == _ATTEMPTS - 1:
                raise


def _declare(settings: Settings, to: Declared) -> None:
    for model in settings.shared_models:
        _declare_model(model, None, to)
    for entry in settings.tenants:
        tenant = to.tenants.ensure(entry.name)
        for key in entry.keys:
            to.tenants.ensure_key(tenant.id, key.name, key.resolve(), [Scope.INFERENCE, Scope.MANAGE])
        for model in entry.models:
            _declare_model(model, tenant.id, to)
    with to.db.begin() as connection:
        bump(connection)


def _declare_model(entry: ModelSettings, tenant_id: str | None, to: Declared) -> None:
    if entry.adapter is not None:
        try:
            manifest = to.store.get(entry.adapter)
        except AdapterNotFound as error:
            raise ConfigurationError(
                f"model {entry.name} wants the adapter {entry.adapter}, which the adapter store does not hold"
            ) from error
        if manifest.base_model != entry.base_model:
            raise ConfigurationError(
                f"adapter {entry.adapter} was trained on {manifest.base_model}, model {entry.name} is on "
                f"{entry.base_model}"
            )
        to.registry.register(tenant_id, manifest)
    model = to.releases.ensure_model(tenant_id, entry.name, entry.base_model)
    if model.base_model != entry.base_model:
        raise ConfigurationError(
            f"model {entry.name} is on {model.base_model} and stays there, its releases were made for it: give "
            f"the one on {entry.base_model} another name"
        )
    prompt, binding = entry.system_prompt, entry.retrieval
    spec = ReleaseSpec(
        adapter_id=entry.adapter,
        system_prompt=SystemPrompt(prompt.text, prompt.policy) if prompt else None,
        retrieval=RetrievalBinding(binding.vector_store_ids, binding.mode, binding.max_tokens)
        if binding
        else None,
        sampling=dict(entry.sampling),
    )
    release = to.releases.create_release(model.id, spec)
    if _last_declared(to.db, model.id) != release.id:
        traffic = to.releases.get_traffic(model.id)
        if traffic.splits != {release.id: 100}:
            to.releases.set_traffic(model.id, {release.id: 100}, traffic.generation)
        # Last, so that a start cut short here is finished by the next.
        _remember(to.db, model.id, release.id)


def _last_declared(db: sa.Engine, model_id: str) -> str | None:
    query = sa.select(declared_releases.c.release_id).where(declared_releases.c.model_id == model_id)
    with db.connect() as connection:
        found: str | None = connection.execute(query).scalar()
        return found


def _remember(db: sa.Engine, model_id: str, release_id: str) -> None:
    row = {"model_id": model_id, "release_id": release_id}
    with db.begin() as connection:
        connection.execute(sa.delete(declared_releases).where(declared_releases.c.model_id == model_id))
        connection.execute(sa.insert(declared_releases).values(row))
