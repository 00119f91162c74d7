"""Tenants and keys as rows."""

import pytest
import sqlalchemy as sa

from gateway.errors import ConfigurationError
from gateway.policy import auth
from gateway.policy.auth import Scope
from gateway.tables import api_keys
from gateway.tables import tenants as tenants_table
from gateway.tenants import Tenants, bump, version

PEPPER = b"pepper"


@pytest.fixture
def tenants(db: sa.Engine) -> Tenants:
    return Tenants(db, pepper=PEPPER)


def test_a_tenant_is_made_once(tenants: Tenants) -> None:
    acme = tenants.ensure("acme")
    assert tenants.ensure("acme") == acme
    assert tenants.ensure("globex").id != acme.id
    assert [tenant.name for tenant in tenants.list_all()] == ["acme", "globex"]


def test_a_key_is_stored_without_its_secret(tenants: Tenants, db: sa.Engine) -> None:
    acme = tenants.ensure("acme")
    public_id, key = auth.generate()
    tenants.ensure_key(acme.id, "default", key, [Scope.MANAGE, Scope.INFERENCE])
    tenants.ensure_key(acme.id, "default", key, [Scope.MANAGE, Scope.INFERENCE])
    (stored,) = tenants.list_keys()
    assert (stored.public_id, stored.tenant_id) == (public_id, acme.id)
    assert stored.scopes == {Scope.INFERENCE, Scope.MANAGE}
    assert auth.verify(key, {public_id: stored}, pepper=PEPPER, now=0.0) == stored
    with db.connect() as connection:
        row = connection.execute(sa.select(api_keys)).one()
    assert key.rpartition("-")[2].encode() not in row.digest


def test_a_malformed_key_is_refused_with_the_command_that_makes_one(tenants: Tenants) -> None:
    with pytest.raises(ConfigurationError, match="repertory keygen"):
        tenants.ensure_key(None, "default", "secret", [])


def test_an_id_belongs_to_one_key_of_one_tenant(tenants: Tenants) -> None:
    acme, globex = tenants.ensure("acme"), tenants.ensure("globex")
    public_id, key = auth.generate()
    tenants.ensure_key(acme.id, "default", key, [])
    for owner, other in [(globex.id, key), (acme.id, f"sk-rep-{public_id}-{'0' * 48}"), (None, key)]:
        with pytest.raises(ConfigurationError, match="has the id of another key"):
            tenants.ensure_key(owner, "second", other, [])


def test_revoked_and_expired_keys_are_listed_as_such(tenants: Tenants, db: sa.Engine) -> None:
    _public_id, key = auth.generate()
    tenants.ensure_key(None, "admin", key, [Scope.ADMIN])
    with db.begin() as connection:
        connection.execute(api_keys.update().values(revoked_at=5.0, expires_at=6.5))
    (stored,) = tenants.list_keys()
    assert (stored.revoked, stored.expires_at, stored.tenant_id) == (True, 6.5, None)


def test_a_disabled_tenant_is_listed_as_such(tenants: Tenants, db: sa.Engine) -> None:
    tenants.ensure("acme")
    with db.begin() as connection:
        connection.execute(tenants_table.update().values(disabled=True))
    assert tenants.ensure("acme").disabled
    assert [tenant.disabled for tenant in tenants.list_all()] == [True]


def test_each_change_raises_the_version_and_nothing_else_does(tenants: Tenants, db: sa.Engine) -> None:
    assert version(db) == 0
    acme = tenants.ensure("acme")
    _, key = auth.generate()
    tenants.ensure_key(acme.id, "default", key, [])
    assert version(db) == 2
    tenants.ensure("acme")
    tenants.ensure_key(acme.id, "default", key, [])
    assert version(db) == 2
    with db.begin() as connection:
        bump(connection)
    assert version(db) == 3


def test_a_change_that_is_rolled_back_raises_nothing(db: sa.Engine) -> None:
    with db.connect() as connection:
        bump(connection)
        connection.rollback()
    assert version(db) == 0
