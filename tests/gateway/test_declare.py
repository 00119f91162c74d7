"""The configuration file's declarations: applied at every start, without undoing what an operator did."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from adapters.registry import Registry
from adapters.releases import Model, Releases, ReleaseSpec
from adapters.store import AdapterStore
from gateway.declare import Declared, declare
from gateway.errors import ConfigurationError
from gateway.policy import auth
from gateway.settings import parse
from gateway.tenants import Tenants, version
from tests.fakes.house import adapter_folder

KEY = auth.generate()[1]
ENGINES = [
    {"kind": "echo", "name": "one", "base_model": "smol"},
    {"kind": "echo", "name": "two", "base_model": "large"},
]


@pytest.fixture
def to(db: sa.Engine, tmp_path: Path) -> Declared:
    return Declared(
        db, Tenants(db, pepper=b"pepper"), Releases(db), Registry(db), AdapterStore(tmp_path / "adapters")
    )


@pytest.fixture
def apply(to: Declared) -> Callable[..., None]:
    def apply(*models: dict[str, Any], shared: tuple[dict[str, Any], ...] = ()) -> None:
        tenants = [{"name": "acme", "keys": [{"value": KEY}], "models": list(models)}]
        declare(parse({"engines": ENGINES, "tenants": tenants, "shared_models": list(shared)}), to)

    return apply


def model(**fields: Any) -> dict[str, Any]:
    return {"name": "triage", "base_model": "smol", **fields}


def only_model(to: Declared) -> Model:
    (found,) = to.releases.list_models()
    return found


def test_a_declaration_makes_tenant_key_model_release_and_traffic(
    to: Declared, apply: Callable[..., None]
) -> None:
    apply(
        model(
            system_prompt={"text": "Be short.", "policy": "prepend"},
            retrieval={"vector_store_ids": ["vs_1"], "mode": "always", "max_tokens": 64},
            sampling={"temperature": 0},
        )
    )
    (tenant,) = to.tenants.list_all()
    found = only_model(to)
    (release,) = to.releases.list_releases(found.id)
    assert (tenant.name, found.tenant_id, found.base_model) == ("acme", tenant.id, "smol")
    assert (release.system_prompt.text, release.system_prompt.policy) == ("Be short.", "prepend")
    assert (release.retrieval.vector_store_ids, release.retrieval.mode, release.retrieval.max_tokens) == (
        ("vs_1",),
        "always",
        64,
    )
    assert release.sampling == {"temperature": 0}
    assert to.releases.get_traffic(found.id).splits == {release.id: 100}
    (key,) = to.tenants.list_keys()
    assert (key.tenant_id, key.scopes) == (tenant.id, {auth.Scope.INFERENCE, auth.Scope.MANAGE})


def test_declaring_again_changes_nothing_but_asks_every_gateway_to_look(
    to: Declared, apply: Callable[..., None]
) -> None:
    apply(model())
    before = (only_model(to), to.releases.list_releases(only_model(to).id), to.tenants.list_keys())
    generation, seen = to.releases.get_traffic(only_model(to).id).generation, version(to.db)
    apply(model())
    assert before == (only_model(to), to.releases.list_releases(only_model(to).id), to.tenants.list_keys())
    assert to.releases.get_traffic(only_model(to).id).generation == generation
    assert version(to.db) == seen + 1


def test_a_new_description_makes_a_release_and_moves_the_traffic(
    to: Declared, apply: Callable[..., None]
) -> None:
    apply(model())
    apply(model(sampling={"temperature": 0.5}))
    first, second = to.releases.list_releases(only_model(to).id)
    assert (first.number, second.number) == (1, 2)
    assert to.releases.get_traffic(only_model(to).id).splits == {second.id: 100}


def test_traffic_that_an_operator_moved_stays_moved(to: Declared, apply: Callable[..., None]) -> None:
    apply(model())
    found = only_model(to)
    (first,) = to.releases.list_releases(found.id)
    canary = to.releases.create_release(found.id, ReleaseSpec(sampling={"temperature": 1}))
    to.releases.set_traffic(found.id, {first.id: 90, canary.id: 10}, 1)
    apply(model())
    assert to.releases.get_traffic(found.id).splits == {first.id: 90, canary.id: 10}


def test_a_description_taken_back_moves_the_traffic_back(to: Declared, apply: Callable[..., None]) -> None:
    apply(model())
    apply(model(sampling={"temperature": 0.5}))
    apply(model())
    first, _ = to.releases.list_releases(only_model(to).id)
    assert to.releases.get_traffic(only_model(to).id).splits == {first.id: 100}


def test_a_shared_model_belongs_to_no_tenant(to: Declared, apply: Callable[..., None]) -> None:
    apply(shared=(model(name="smol"),))
    assert only_model(to).tenant_id is None


def test_an_adapter_is_registered_for_its_tenant(
    to: Declared, apply: Callable[..., None], tmp_path: Path
) -> None:
    adapter = to.store.put("triage", adapter_folder(tmp_path / "made", "triage"), "smol", {}).id
    apply(model(adapter=adapter))
    (tenant,) = to.tenants.list_all()
    assert to.registry.get(tenant.id, adapter).tenant_id == tenant.id
    assert to.releases.list_releases(only_model(to).id)[0].adapter_id == adapter


def test_an_adapter_that_is_not_in_the_store_is_named(apply: Callable[..., None]) -> None:
    with pytest.raises(ConfigurationError, match="model triage wants the adapter nobody@000000000000"):
        apply(model(adapter="nobody@000000000000"))


def test_an_adapter_of_another_base_is_refused(
    to: Declared, apply: Callable[..., None], tmp_path: Path
) -> None:
    adapter = to.store.put("triage", adapter_folder(tmp_path / "made", "triage"), "large", {}).id
    with pytest.raises(ConfigurationError, match="was trained on large, model triage is on smol"):
        apply(model(adapter=adapter))


def test_gateways_that_start_together_declare_once(to: Declared, tmp_path: Path) -> None:
    settings = parse(
        {"engines": ENGINES, "tenants": [{"name": "acme", "keys": [{"value": KEY}], "models": [model()]}]}
    )
    barrier = threading.Barrier(4)
    failures: list[Exception] = []

    def start() -> None:
        barrier.wait()
        try:
            declare(settings, to)
        except Exception as error:  # noqa: BLE001  a thread has nobody else to tell
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    (release,) = to.releases.list_releases(only_model(to).id)
    assert to.releases.get_traffic(only_model(to).id).splits == {release.id: 100}
    assert len(to.tenants.list_all()) == len(to.tenants.list_keys()) == 1


def test_a_start_that_was_cut_short_is_finished_by_the_next(to: Declared, apply: Callable[..., None]) -> None:
    """The release is there, its traffic is not."""
    tenant = to.tenants.ensure("acme")
    made = to.releases.ensure_model(tenant.id, "triage", "smol")
    release = to.releases.create_release(made.id, ReleaseSpec())
    apply(model())
    assert to.releases.get_traffic(made.id).splits == {release.id: 100}


def test_a_model_does_not_change_its_base_in_silence(apply: Callable[..., None]) -> None:
    """Its old releases are adapters of the old base."""
    apply(model())
    with pytest.raises(ConfigurationError, match="triage is on smol"):
        apply(model(base_model="large"))
