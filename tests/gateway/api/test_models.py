"""GET /v1/models: what this key may use, and nothing of anyone else's."""

import pytest

from tests.fakes.house import House

OWN = {
    "acme": ["hashing", "smol", "support-triage"],
    "globex": ["handbook-always", "handbook-assistant", "hashing", "smol"],
}


@pytest.mark.parametrize("tenant", OWN)
def test_a_tenant_sees_its_own_and_the_shared_models(house: House, tenant: str) -> None:
    body = house.get("/v1/models", tenant=tenant).json()
    assert body["object"] == "list"
    assert sorted(model["id"] for model in body["data"]) == OWN[tenant]
    assert all(set(model) == {"id", "object", "created", "owned_by"} for model in body["data"])
    assert {model["owned_by"] for model in body["data"]} == {tenant, "repertory"}


@pytest.mark.parametrize(("tenant", "other"), [("acme", "globex"), ("globex", "acme")])
def test_nothing_of_the_other_tenant_shows(house: House, tenant: str, other: str) -> None:
    text = house.get("/v1/models", tenant=tenant).text
    foreign = set(OWN[other]) - set(OWN[tenant])
    assert not [name for name in foreign if name in text]
    assert other not in text
    assert "@" not in text
    assert "/" not in text


def test_one_model(house: House) -> None:
    body = house.get("/v1/models/support-triage").json()
    assert (body["id"], body["owned_by"]) == ("support-triage", "acme")
    assert body["created"] > 0
    assert house.get("/v1/models/hashing").json()["owned_by"] == "repertory"


@pytest.mark.parametrize("name", ["nobody", "handbook-assistant", "a/b", "x" * 500])
def test_a_model_that_is_not_ones_own_does_not_exist(house: House, name: str) -> None:
    response = house.get(f"/v1/models/{name}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"].startswith(f"The model `{name[:80]}` does not exist or this key may not use it")


def test_the_engines_own_names_are_not_models(house: House) -> None:
    for adapter in house.adapters.values():
        assert house.get(f"/v1/models/{adapter}").status_code == 404
