"""Models, their immutable releases and the traffic over them, in the database.

Knows no adapter files, no engine and no request; it decides nothing about who may change what.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from adapters.errors import ModelNotFound, ReleaseNotFound, TrafficConflict, TrafficInvalid
from adapters.tables import SHARED, models, releases, traffic

PromptPolicy = Literal["replace", "prepend", "keep"]
RetrievalMode = Literal["auto", "always", "never"]

CREATE_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Model:
    """A public name for clients; `tenant_id` is None when shared, `created_at` is Unix seconds."""

    id: str
    tenant_id: str | None
    name: str
    base_model: str
    created_at: int


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """The release's instructions, and what becomes of the client's: dropped, put after them, kept instead."""

    text: str
    policy: PromptPolicy = "replace"


@dataclass(frozen=True, slots=True)
class RetrievalBinding:
    """Where a release looks for facts, when, and how many tokens of them a request gets at most."""

    vector_store_ids: tuple[str, ...]
    mode: RetrievalMode = "auto"
    max_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class ReleaseSpec:
    """What makes a release; without an adapter it serves the base, `sampling` holds OpenAI request fields."""

    adapter_id: str | None = None
    system_prompt: SystemPrompt | None = None
    retrieval: RetrievalBinding | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the sha256 of the canonical content; two equal specs are one release."""
        content = {**_columns(self), "adapter_id": self.adapter_id}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable version of a model; `number` counts from 1 within it, `created_at` is Unix seconds."""

    id: str
    model_id: str
    number: int
    adapter_id: str | None
    system_prompt: SystemPrompt | None
    retrieval: RetrievalBinding | None
    sampling: Mapping[str, Any]
    digest: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a model's requests spread: whole percents by release id. At generation 0 it has no traffic yet."""

    model_id: str
    generation: int
    splits: Mapping[str, int]


class Releases:
    """The models, releases and traffic in one database; every method blocks on SQL."""

    def __init__(self, db: sa.Engine, *, now: Callable[[], float] = time.time) -> None:
        self._db = db
        self._now = now

    def ensure_model(self, tenant_id: str | None, name: str, base_model: str) -> Model:
        """Return the tenant's model of this name, made if missing; an existing one keeps its base."""
        row = {
            "id": f"mdl_{secrets.token_hex(12)}",
            "tenant_id": tenant_id or SHARED,
            "name": name,
            "base_model": base_model,
            "created_at": int(self._now()),
        }
        query = sa.select(models).where(models.c.tenant_id == row["tenant_id"], models.c.name == name)
        with self._db.connect() as connection:
            found = connection.execute(query).one_or_none()
        if found is None:
            try:
                with self._db.begin() as connection:
                    connection.execute(sa.insert(models).values(row))
            except sa.exc.IntegrityError:
                pass  # another gateway made it since; read theirs
            with self._db.connect() as connection:
                found = connection.execute(query).one()
        return _model(found)

    def list_models(self) -> tuple[Model, ...]:
        """Return every tenant's models, ordered by tenant and name."""
        with self._db.connect() as connection:
            rows = connection.execute(sa.select(models).order_by(models.c.tenant_id, models.c.name))
            return tuple(_model(row) for row in rows)

    def create_release(self, model_id: str, spec: ReleaseSpec) -> Release:
        """Return the model's release with this content, made if it is missing. Raises ModelNotFound."""
        for attempt in range(CREATE_ATTEMPTS):
            try:
                with self._db.begin() as connection:
                    return self._create(connection, model_id, spec)
            except sa.exc.IntegrityError:
                # Another gateway took the number or made the same release; look again.
                if attempt == CREATE_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def get_release(self, model_id: str, release_id: str) -> Release:
        """Raises ReleaseNotFound, the same for a release of another model."""
        query = sa.select(releases).where(releases.c.id == release_id, releases.c.model_id == model_id)
        with self._db.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise ReleaseNotFound(release_id)
        return _release(row)

    def list_releases(self, model_id: str) -> tuple[Release, ...]:
        """Return a model's releases, oldest first."""
        query = sa.select(releases).where(releases.c.model_id == model_id).order_by(releases.c.number)
        with self._db.connect() as connection:
            return tuple(_release(row) for row in connection.execute(query))

    def get_traffic(self, model_id: str) -> Traffic:
        """Return the traffic as it is now. Raises ModelNotFound."""
        with self._db.connect() as connection:
            return _read_traffic(connection, model_id)

    def set_traffic(self, model_id: str, splits: Mapping[str, int], expected_generation: int) -> Traffic:
        """Replace the whole split if the generation is still the one the caller read.

        Raises TrafficInvalid, ModelNotFound, ReleaseNotFound, TrafficConflict.
        """
        if sum(splits.values()) != 100 or any(type(part) is not int or part < 1 for part in splits.values()):
            raise TrafficInvalid(f"percents must be whole, from 1 to 100, and add up to 100: {dict(splits)}")
        for release_id in splits:
            self.get_release(model_id, release_id)
        change = {
            "generation": expected_generation + 1,
            "splits": dict(splits),
            "updated_at": int(self._now()),
        }
        try:
            with self._db.begin() as connection:
                if expected_generation == 0:
                    connection.execute(sa.insert(traffic).values(model_id=model_id, **change))
                    swapped = True
                else:
                    # One statement compares and swaps, so no isolation level is asked for.
                    query = sa.update(traffic).where(
                        traffic.c.model_id == model_id, traffic.c.generation == expected_generation
                    )
                    swapped = connection.execute(query.values(change)).rowcount == 1
        except sa.exc.IntegrityError:
            swapped = False
        if not swapped:
            actual = self.get_traffic(model_id).generation
            raise TrafficConflict(model_id, expected=expected_generation, actual=actual)
        return Traffic(model_id, expected_generation + 1, dict(splits))

    def served(self) -> list[tuple[Model, tuple[Release, ...], tuple[tuple[str, int], ...]]]:
        """Return each model that has traffic, the releases taking part, and their (id, percent).

        Reads in one transaction, so a split never names a release that is not returned with it.
        """
        live = sa.select(models, traffic.c.splits).join(traffic).order_by(models.c.tenant_id, models.c.name)
        result = []
        with self._db.begin() as connection:
            for row in connection.execute(live).all():
                query = sa.select(releases).where(releases.c.id.in_(row.splits)).order_by(releases.c.number)
                taking_part = tuple(_release(found) for found in connection.execute(query))
                splits = tuple((release.id, int(row.splits[release.id])) for release in taking_part)
                result.append((_model(row), taking_part, splits))
        return result

    def _create(self, connection: sa.Connection, model_id: str, spec: ReleaseSpec) -> Release:
        if connection.execute(sa.select(models.c.id).where(models.c.id == model_id)).first() is None:
            raise ModelNotFound(model_id)
        own = releases.c.model_id == model_id
        same = connection.execute(
            sa.select(releases).where(own, releases.c.digest == spec.digest())
        ).one_or_none()
        if same is not None:
            return _release(same)
        last = connection.execute(sa.select(sa.func.max(releases.c.number)).where(own)).scalar() or 0
        release_id = f"rel_{secrets.token_hex(12)}"
        connection.execute(
            sa.insert(releases).values(
                id=release_id,
                model_id=model_id,
                number=last + 1,
                adapter_id=spec.adapter_id,
                digest=spec.digest(),
                created_at=int(self._now()),
                **_columns(spec),
            )
        )
        return _release(connection.execute(sa.select(releases).where(releases.c.id == release_id)).one())


def _columns(spec: ReleaseSpec) -> dict[str, Any]:
    return {
        "system_prompt": asdict(spec.system_prompt) if spec.system_prompt else None,
        "retrieval": asdict(spec.retrieval) if spec.retrieval else None,
        "sampling": dict(spec.sampling),
    }


def _read_traffic(connection: sa.Connection, model_id: str) -> Traffic:
    query = (
        sa.select(models.c.id, traffic.c.generation, traffic.c.splits)
        .join_from(models, traffic, isouter=True)
        .where(models.c.id == model_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise ModelNotFound(model_id)
    return Traffic(model_id, row.generation or 0, row.splits or {})


def _model(row: sa.Row[Any]) -> Model:
    return Model(row.id, row.tenant_id or None, row.name, row.base_model, row.created_at)


def _release(row: sa.Row[Any]) -> Release:
    prompt, binding = row.system_prompt, row.retrieval
    return Release(
        id=row.id,
        model_id=row.model_id,
        number=row.number,
        adapter_id=row.adapter_id,
        system_prompt=SystemPrompt(**prompt) if prompt else None,
        retrieval=RetrievalBinding(**{**binding, "vector_store_ids": tuple(binding["vector_store_ids"])})
        if binding
        else None,
        sampling=row.sampling,
        digest=row.digest,
        created_at=row.created_at,
    )
