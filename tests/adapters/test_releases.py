from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from adapters.errors import ModelNotFound, ReleaseNotFound, TrafficConflict, TrafficInvalid
from adapters.releases import Releases, ReleaseSpec, RetrievalBinding, SystemPrompt, Traffic

SPEC = ReleaseSpec(
    adapter_id="triage@abababababab",
    system_prompt=SystemPrompt("Be brief.", "prepend"),
    retrieval=RetrievalBinding(("vs_1", "vs_2"), "always", 300),
    sampling={"temperature": 0},
)


@pytest.fixture
def releases(db):
    return Releases(db, now=lambda: 1000.9)


@pytest.fixture
def model(releases):
    return releases.ensure_model("acme", "triage", "smollm2")


def test_a_model_is_made_once_per_tenant_and_name(releases):
    acme = releases.ensure_model("acme", "triage", "smollm2")
    globex = releases.ensure_model("globex", "triage", "smollm2")
    shared = releases.ensure_model(None, "triage", "smollm2")

    assert releases.ensure_model("acme", "triage", "other") == acme
    assert releases.ensure_model(None, "triage", "smollm2") == shared
    assert releases.list_models() == (shared, acme, globex)
    assert (acme.id[:4], acme.tenant_id, shared.tenant_id, acme.created_at) == ("mdl_", "acme", None, 1000)


def test_gateways_that_ensure_a_model_at_once_get_the_same_one(releases):
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: releases.ensure_model(None, "chat", "smollm2"), range(16)))

    assert len(made) == 1


def test_a_release_comes_back_as_it_was_made(releases, model):
    made = releases.create_release(model.id, SPEC)

    assert (made.adapter_id, made.system_prompt, made.retrieval) == (
        SPEC.adapter_id,
        SPEC.system_prompt,
        SPEC.retrieval,
    )
    assert (made.sampling, made.digest, made.number) == (SPEC.sampling, SPEC.digest(), 1)
    assert releases.get_release(model.id, made.id) == made


def test_a_release_of_the_bare_base_model_needs_nothing_else(releases, model):
    made = releases.create_release(model.id, ReleaseSpec())

    assert (made.adapter_id, made.system_prompt, made.retrieval, made.sampling) == (None, None, None, {})


def test_the_same_content_is_the_same_release(releases, model):
    first = releases.create_release(model.id, SPEC)
    other = releases.create_release(model.id, replace(SPEC, sampling={}))

    assert releases.create_release(model.id, SPEC) == first
    assert releases.list_releases(model.id) == (first, other)
    assert [release.number for release in releases.list_releases(model.id)] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"adapter_id": None},
        {"system_prompt": None},
        {"system_prompt": SystemPrompt("Be brief.", "keep")},
        {"retrieval": None},
        {"retrieval": RetrievalBinding(("vs_2", "vs_1"), "always", 300)},
        {"sampling": {"temperature": 1}},
    ],
)
def test_any_change_of_content_changes_the_digest(change):
    assert replace(SPEC, **change).digest() != SPEC.digest()


def test_gateways_that_create_releases_at_once_agree_on_the_numbers(releases, model):
    specs = [replace(SPEC, sampling={"seed": number % 4}) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda spec: releases.create_release(model.id, spec), specs))

    assert len({release.id for release in made}) == 4
    assert [release.number for release in releases.list_releases(model.id)] == [1, 2, 3, 4]


def test_a_release_needs_its_model(releases, model):
    with pytest.raises(ModelNotFound):
        releases.create_release("mdl_none", SPEC)


def test_a_release_of_another_model_is_not_found(releases, model):
    made = releases.create_release(model.id, SPEC)
    other = releases.ensure_model("globex", "triage", "smollm2")

    with pytest.raises(ReleaseNotFound):
        releases.get_release(other.id, made.id)
    with pytest.raises(ReleaseNotFound):
        releases.set_traffic(other.id, {made.id: 100}, 0)


def test_traffic_moves_one_generation_at_a_time(releases, model):
    old = releases.create_release(model.id, SPEC)
    new = releases.create_release(model.id, ReleaseSpec())

    assert releases.get_traffic(model.id) == Traffic(model.id, 0, {})
    assert releases.set_traffic(model.id, {old.id: 100}, 0).generation == 1
    canary = releases.set_traffic(model.id, {old.id: 90, new.id: 10}, 1)
    assert releases.get_traffic(model.id) == canary == Traffic(model.id, 2, {old.id: 90, new.id: 10})


@pytest.mark.parametrize(("expected", "actual"), [(0, 1), (7, 1)])
def test_traffic_that_someone_else_moved_is_a_conflict(releases, model, expected, actual):
    made = releases.create_release(model.id, SPEC)
    releases.set_traffic(model.id, {made.id: 100}, 0)

    with pytest.raises(TrafficConflict) as caught:
        releases.set_traffic(model.id, {made.id: 100}, expected)
    assert (caught.value.expected, caught.value.actual) == (expected, actual)


def test_only_one_of_many_swaps_at_the_same_generation_wins(releases, model):
    made = releases.create_release(model.id, SPEC)
    releases.set_traffic(model.id, {made.id: 100}, 0)

    def swap(_):
        try:
            return releases.set_traffic(model.id, {made.id: 100}, 1).generation
        except TrafficConflict:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(filter(None, pool.map(swap, range(8)))) == [2]


@pytest.mark.parametrize("percents", [(), (99,), (101,), (100, 0), (120, -20), (50.0, 50.0), (True, 99)])
def test_percents_that_do_not_make_a_whole_are_refused(releases, model, percents):
    with pytest.raises(TrafficInvalid):
        releases.set_traffic(model.id, {f"rel_{place}": part for place, part in enumerate(percents)}, 0)


def test_traffic_needs_its_model(releases):
    with pytest.raises(ModelNotFound):
        releases.get_traffic("mdl_none")


def test_served_lists_only_models_with_traffic_and_only_releases_that_take_part(releases, model):
    old = releases.create_release(model.id, SPEC)
    new = releases.create_release(model.id, ReleaseSpec())
    releases.create_release(model.id, replace(SPEC, sampling={}))
    releases.ensure_model("acme", "idle", "smollm2")
    releases.set_traffic(model.id, {new.id: 10, old.id: 90}, 0)

    assert releases.served() == [(model, (old, new), ((old.id, 90), (new.id, 10)))]
