"""What preparing writes: a configuration that the gateway takes, and keys that stay."""

from __future__ import annotations

import stat

import pytest
import yaml

from deploy.demo import prepare
from deploy.demo.place import BASE_MODEL, Place
from gateway.errors import ConfigurationError
from gateway.policy import auth
from gateway.settings import load, parse

KEYS = {"acme": auth.generate()[1], "globex": auth.generate()[1]}
ADAPTERS = {prepare.TRIAGE: "support-triage@0123456789ab", prepare.STYLE: "handbook-style@0123456789ab"}


def test_the_configuration_comes_back_from_its_file_as_settings(place: Place) -> None:
    place.home.mkdir()
    made = prepare.configuration(place, KEYS, ADAPTERS, "vs_1")
    prepare.write_private(place.config, yaml.safe_dump(made, sort_keys=False, allow_unicode=True))
    settings = load(place.config)
    assert settings == parse(made)
    assert settings.home == place.home
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.database_url is None


def test_each_tenant_has_its_key_and_its_model_with_its_adapter(place: Place) -> None:
    settings = parse(prepare.configuration(place, KEYS, ADAPTERS, "vs_1"))
    acme, globex = settings.tenants
    assert [key.resolve() for key in acme.keys + globex.keys] == [KEYS["acme"], KEYS["globex"]]
    (triage,), (assistant,) = acme.models, globex.models
    assert (triage.name, triage.adapter, triage.retrieval) == (
        "support-triage",
        ADAPTERS[prepare.TRIAGE],
        None,
    )
    assert (assistant.name, assistant.adapter) == ("handbook-assistant", ADAPTERS[prepare.STYLE])
    assert assistant.retrieval.vector_store_ids == ("vs_1",)
    assert [model.name for model in settings.shared_models] == [BASE_MODEL]
    assert set(settings.prices) == {BASE_MODEL, place.embedder.name}


def test_before_anything_is_trained_the_configuration_holds_as_well(place: Place) -> None:
    settings = parse(prepare.configuration(place, KEYS))
    assert [model.adapter for tenant in settings.tenants for model in tenant.models] == [None, None]


def test_port_and_database_come_from_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPERTORY_PORT", "8011")
    monkeypatch.setenv("REPERTORY_DATABASE_URL", "postgresql://db/repertory")
    settings = parse(prepare.configuration(place, KEYS))
    assert settings.server.port == 8011
    assert settings.sql_url == "postgresql://db/repertory"
    monkeypatch.setenv("REPERTORY_PORT", "eighty")
    with pytest.raises(ConfigurationError, match="REPERTORY_PORT is 'eighty'"):
        prepare.configuration(place, KEYS)


def test_keys_are_made_once_and_kept(place: Place) -> None:
    keys = prepare.tenant_keys(place)
    assert set(keys) == {"acme", "globex"}
    assert len(set(keys.values())) == 2
    assert all(auth.split(key) for key in keys.values())
    assert prepare.tenant_keys(place) == keys


def test_a_file_with_keys_is_readable_by_its_owner_only(place: Place) -> None:
    place.home.mkdir()
    for text in ("old and longer", "new"):
        prepare.write_private(place.config, text)
    assert place.config.read_text() == "new"
    assert stat.S_IMODE(place.config.stat().st_mode) == 0o600
    assert [path.name for path in place.home.iterdir()] == ["demo.yaml"]
