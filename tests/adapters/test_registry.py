from dataclasses import replace

import pytest

from adapters.errors import AdapterNotFound
from adapters.manifest import AdapterManifest
from adapters.registry import Registry

MANIFEST = AdapterManifest("triage", "ab" * 32, "smollm2", 16, 32, ("q_proj",), 1234, 1000, {"seed": 1})


@pytest.fixture
def registry(db):
    return Registry(db)


def test_a_tenant_finds_its_own_and_the_shared_adapters_only(registry):
    own = registry.register("acme", MANIFEST)
    shared = registry.register(None, replace(MANIFEST, name="style"))
    registry.register("globex", replace(MANIFEST, name="secret"))

    assert registry.for_tenant("acme") == (shared, own)
    assert registry.for_tenant(None) == (shared,)
    assert own.manifest == MANIFEST


def test_registering_again_changes_nothing(registry):
    first = registry.register("acme", MANIFEST)

    assert registry.register("acme", replace(MANIFEST, created_at=2000)) == first
    assert registry.for_tenant("acme") == (first,)


def test_a_tenants_own_adapter_comes_before_the_shared_one(registry):
    registry.register(None, MANIFEST)
    assert registry.get("acme", MANIFEST.id).tenant_id is None

    registry.register("acme", MANIFEST)
    assert registry.get("acme", MANIFEST.id).tenant_id == "acme"


def test_another_tenants_adapter_is_not_found(registry):
    registry.register("globex", MANIFEST)

    for tenant in ("acme", None):
        with pytest.raises(AdapterNotFound):
            registry.get(tenant, MANIFEST.id)
