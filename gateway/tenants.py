"""Tenants and keys as rows. Plain keys pass through here once, on their way to a hash."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from gateway.errors import ConfigurationError
from gateway.policy import auth
from gateway.policy.auth import ApiKey, Scope
from gateway.tables import api_keys, catalog_version, tenants


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who pays and who is isolated."""

    id: str
    name: str
    disabled: bool = False


class Tenants:
    """The rows of tenants and keys. Every change tells the catalogues of all gateways."""

    def __init__(self, db: sa.Engine, *, pepper: bytes) -> None:
        self._db = db
        self._pepper = pepper

    def ensure(self, name: str) -> Tenant:
        """The tenant of that name, made if it is new."""
        with self._db.begin() as connection:
            row = connection.execute(sa.select(tenants).where(tenants.c.name == name)).first()
            if row is not None:
                return Tenant(row.id, row.name, row.disabled)
            tenant = Tenant(f"tnt_{secrets.token_hex(12)}", name)
            connection.execute(
                tenants.insert().values(id=tenant.id, name=name, disabled=False, created_at=int(time.time()))
            )
            bump(connection)
            return tenant

    def ensure_key(self, tenant_id: str | None, name: str, key: str, scopes: Iterable[Scope]) -> None:
        """Make `key` valid for the tenant (None: for administration).

        Raises:
            ConfigurationError: the key is malformed, or its id is another key's.
        """
        parts = auth.split(key)
        if parts is None:
            raise ConfigurationError(
                f"key {name!r} is not of the form sk-rep-<12 hex>-<48 hex>: make one with `repertory keygen`"
            )
        public_id, secret = parts
        digest = auth.digest(self._pepper, secret)
        with self._db.begin() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.public_id == public_id)).first()
            if row is None:
                connection.execute(
                    api_keys.insert().values(
                        public_id=public_id,
                        tenant_id=tenant_id,
                        name=name,
                        digest=digest,
                        scopes=sorted(scopes),
                        created_at=int(time.time()),
                    )
                )
                bump(connection)
            elif row.tenant_id != tenant_id or row.digest != digest:
                raise ConfigurationError(
                    f"key {name!r} has the id of another key ({public_id}): "
                    "make a new one with `repertory keygen`"
                )

    def list_all(self) -> list[Tenant]:
        """Every tenant."""
        with self._db.connect() as connection:
            return [Tenant(row.id, row.name, row.disabled) for row in connection.execute(sa.select(tenants))]

    def list_keys(self) -> list[ApiKey]:
        """Every key, revoked and expired ones included: their owners get a better error than strangers."""
        with self._db.connect() as connection:
            rows = connection.execute(sa.select(api_keys)).all()
        return [
            ApiKey(
                public_id=row.public_id,
                tenant_id=row.tenant_id,
                digest=row.digest,
                scopes=frozenset(Scope(scope) for scope in row.scopes),
                expires_at=row.expires_at,
                revoked=row.revoked_at is not None,
            )
            for row in rows
        ]


def bump(connection: sa.Connection) -> None:
    """Tell every gateway's catalogue that it is out of date; commits with the change itself."""
    changed = connection.execute(
        catalog_version.update()
        .where(catalog_version.c.id == 1)
        .values(version=catalog_version.c.version + 1)
    )
    if changed.rowcount == 0:
        connection.execute(catalog_version.insert().values(id=1, version=1))


def version(db: sa.Engine) -> int:
    """The catalogue's version; 0 before the first change."""
    with db.connect() as connection:
        return connection.execute(sa.select(catalog_version.c.version)).scalar() or 0
