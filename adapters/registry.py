"""Which tenant may use which stored adapter: rows of the `adapters` table. Knows no files and no engine."""

from dataclasses import dataclass

import sqlalchemy as sa

from adapters.errors import AdapterNotFound
from adapters.manifest import AdapterManifest
from adapters.tables import SHARED, adapters


@dataclass(frozen=True, slots=True)
class Registered:
    """An adapter as one tenant sees it; `tenant_id` is None when every tenant may use it."""

    tenant_id: str | None
    manifest: AdapterManifest


class Registry:
    """The adapters in the database; every method blocks on SQL."""

    def __init__(self, db: sa.Engine) -> None:
        self._db = db

    def register(self, tenant_id: str | None, manifest: AdapterManifest) -> Registered:
        """Let a tenant (None: every tenant) use an adapter; registering it again changes nothing."""
        row = {
            "tenant_id": tenant_id or SHARED,
            "id": manifest.id,
            "name": manifest.name,
            "sha256": manifest.sha256,
            "base_model": manifest.base_model,
            "rank": manifest.rank,
            "size_bytes": manifest.size_bytes,
            "manifest": manifest.to_json(),
            "created_at": manifest.created_at,
        }
        try:
            with self._db.begin() as connection:
                connection.execute(sa.insert(adapters).values(row))
        except sa.exc.IntegrityError:
            # Someone registered it before, perhaps this very moment; theirs stands.
            return self._own(tenant_id, manifest.id)
        return Registered(tenant_id, manifest)

    def get(self, tenant_id: str | None, adapter_id: str) -> Registered:
        """Return what the tenant may use under this id, its own before the shared one.

        Raises AdapterNotFound, the same for an adapter of another tenant.
        """
        visible = [found for found in self.for_tenant(tenant_id) if found.manifest.id == adapter_id]
        if not visible:
            raise AdapterNotFound(adapter_id)
        return max(visible, key=lambda found: found.tenant_id is not None)

    def for_tenant(self, tenant_id: str | None) -> tuple[Registered, ...]:
        """Return the tenant's own adapters and the shared ones, ordered by id."""
        query = (
            sa.select(adapters)
            .where(adapters.c.tenant_id.in_({tenant_id or SHARED, SHARED}))
            .order_by(adapters.c.id, adapters.c.tenant_id)
        )
        with self._db.connect() as connection:
            return tuple(_registered(row) for row in connection.execute(query))

    def _own(self, tenant_id: str | None, adapter_id: str) -> Registered:
        query = sa.select(adapters).where(
            adapters.c.tenant_id == (tenant_id or SHARED), adapters.c.id == adapter_id
        )
        with self._db.connect() as connection:
            return _registered(connection.execute(query).one())


def _registered(row: sa.Row[tuple[object, ...]]) -> Registered:
    return Registered(row.tenant_id or None, AdapterManifest.from_json(row.manifest))
