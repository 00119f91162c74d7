"""What the request path looks up: consistent, tenant by tenant, and soon new."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.releases import Releases, ReleaseSpec, RetrievalBinding, SystemPrompt
from adapters.store import AdapterStore
from gateway.catalog import Catalog
from gateway.policy import auth
from gateway.tenants import Tenants, bump
from tests.fakes.house import adapter_folder
from tests.fakes.serving import eventually_async


class World:
    """A database with its writers, and a catalogue over it."""

    def __init__(self, db: sa.Engine, folder: Path) -> None:
        self.db = db
        self.folder = folder
        self.tenants = Tenants(db, pepper=b"pepper")
        self.releases = Releases(db)
        self.store = AdapterStore(folder / "adapters")
        self.catalog = Catalog(db, self.tenants, self.releases, self.store)

    def serve(
        self, tenant_id: str | None, name: str, spec: ReleaseSpec | None = None, base: str = "smol"
    ) -> str:
        model = self.releases.ensure_model(tenant_id, name, base)
        release = self.releases.create_release(model.id, spec or ReleaseSpec())
        self.releases.set_traffic(model.id, {release.id: 100}, self.releases.get_traffic(model.id).generation)
        self.bump()
        return release.id

    def bump(self) -> None:
        with self.db.begin() as connection:
            bump(connection)


@pytest.fixture
def world(db: sa.Engine, tmp_path: Path) -> World:
    return World(db, tmp_path)


def test_an_empty_database_is_an_empty_catalogue(world: World) -> None:
    assert world.catalog.refresh()
    assert world.catalog.snapshot.visible(None) == []
    assert not world.catalog.refresh()


def test_a_change_is_read_once(world: World) -> None:
    world.catalog.refresh()
    acme = world.tenants.ensure("acme")
    assert world.catalog.refresh()
    assert world.catalog.snapshot.tenants == {acme.id: acme}
    assert not world.catalog.refresh()


def test_a_snapshot_in_use_does_not_change(world: World) -> None:
    world.catalog.refresh()
    before = world.catalog.snapshot
    world.serve(None, "smol")
    world.catalog.refresh()
    assert before.models == {}
    assert world.catalog.snapshot.resolve(None, "smol") is not None


def test_a_tenant_sees_its_own_models_and_the_shared_ones(world: World) -> None:
    acme, globex = world.tenants.ensure("acme").id, world.tenants.ensure("globex").id
    world.serve(None, "smol")
    world.serve(acme, "triage")
    world.serve(globex, "handbook")
    world.catalog.refresh()
    snapshot = world.catalog.snapshot
    assert [model.name for model in snapshot.visible(acme)] == ["smol", "triage"]
    assert [model.name for model in snapshot.visible(globex)] == ["handbook", "smol"]
    assert snapshot.resolve(acme, "triage").tenant_id == acme
    assert snapshot.resolve(globex, "triage") is None
    assert snapshot.resolve(globex, "smol").tenant_id is None


def test_a_tenants_model_shadows_a_shared_one_for_that_tenant_only(world: World) -> None:
    acme, globex = world.tenants.ensure("acme").id, world.tenants.ensure("globex").id
    world.serve(None, "assistant")
    world.serve(acme, "assistant")
    world.catalog.refresh()
    snapshot = world.catalog.snapshot
    assert snapshot.resolve(acme, "assistant").tenant_id == acme
    assert [model.tenant_id for model in snapshot.visible(acme)] == [acme]
    assert snapshot.resolve(globex, "assistant").tenant_id is None


def test_a_model_without_traffic_is_not_served(world: World) -> None:
    world.releases.ensure_model(None, "draft", "smol")
    world.bump()
    world.catalog.refresh()
    assert world.catalog.snapshot.visible(None) == []


def test_a_plan_is_the_release_as_the_request_path_needs_it(world: World) -> None:
    adapter = world.store.put("style", adapter_folder(world.folder / "made", "style"), "smol", {}).id
    spec = ReleaseSpec(
        adapter, SystemPrompt("Be short.", "keep"), RetrievalBinding(("vs_1",), "always", 64), {"top_p": 0.5}
    )
    release_id = world.serve(None, "assistant", spec)
    world.catalog.refresh()
    model = world.catalog.snapshot.resolve(None, "assistant")
    plan = model.plans[release_id]
    assert model.splits == ((release_id, 100),)
    assert (plan.engine_model, plan.adapter_id, plan.base_model) == (adapter, adapter, "smol")
    assert (plan.system_text, plan.system_policy, dict(plan.sampling)) == (
        "Be short.",
        "keep",
        {"top_p": 0.5},
    )
    assert (plan.retrieval.vector_store_ids, plan.retrieval.mode, plan.retrieval.max_tokens) == (
        ("vs_1",),
        "always",
        64,
    )


def test_engines_are_wanted_the_adapters_of_their_own_base(world: World) -> None:
    small = world.store.put("small", adapter_folder(world.folder / "made", "small"), "smol", {})
    large = world.store.put("large", adapter_folder(world.folder / "made", "large"), "large", {})
    world.serve(None, "a", ReleaseSpec(small.id))
    world.serve(None, "b", ReleaseSpec(large.id), base="large")
    world.serve(None, "c")
    world.catalog.refresh()
    assert world.catalog.wanted("smol") == {small.id: world.store.root / small.sha256}
    assert world.catalog.wanted("large") == {large.id: world.store.root / large.sha256}
    assert world.catalog.wanted("other") == {}


def test_keys_are_found_by_their_public_id(world: World) -> None:
    public_id, key = auth.generate()
    world.tenants.ensure_key(world.tenants.ensure("acme").id, "default", key, [auth.Scope.INFERENCE])
    world.catalog.refresh()
    assert world.catalog.snapshot.keys[public_id].public_id == public_id


async def test_the_watcher_sees_a_change_and_tells(world: World) -> None:
    told = asyncio.Event()
    world.catalog.refresh()
    watcher = asyncio.create_task(world.catalog.watch(told.set))
    try:
        await asyncio.to_thread(world.serve, None, "smol")
        await eventually_async(told.is_set, what="the news")
        assert world.catalog.snapshot.resolve(None, "smol")
    finally:
        watcher.cancel()


async def _outlives(world: World, break_it: Callable[[], None], mend_it: Callable[[], None]) -> None:
    world.serve(None, "smol")
    world.catalog.refresh()
    told = asyncio.Event()
    watcher = asyncio.create_task(world.catalog.watch(told.set))
    try:
        await asyncio.to_thread(break_it)
        await asyncio.sleep(1.2)
        assert not watcher.done()
        assert world.catalog.snapshot.resolve(None, "smol")
        await asyncio.to_thread(mend_it)
        await eventually_async(told.is_set, what="the news")
    finally:
        watcher.cancel()


async def test_a_database_that_is_away_leaves_the_last_snapshot_in_force(world: World) -> None:
    def rename(old: str, new: str) -> None:
        with world.db.begin() as connection:
            connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))
            connection.commit()

    def mend() -> None:
        rename("gone", "catalog_version")
        world.bump()

    await _outlives(world, lambda: rename("catalog_version", "gone"), mend)


async def test_an_adapter_that_is_missing_leaves_the_last_snapshot_in_force(world: World) -> None:
    """A release may arrive before its files do; the watcher must live to see them."""
    made = AdapterStore(world.folder / "elsewhere").put(
        "late", adapter_folder(world.folder / "made", "late"), "smol", {}
    )

    def arrive() -> None:
        world.store.put("late", world.folder / "made" / "late", "smol", {})
        world.bump()

    await _outlives(world, lambda: world.serve(None, "late", ReleaseSpec(made.id)), arrive)
