"""POST /v1/embeddings: both formats, unit length, and a 400 for each mistake."""

import base64
import math

import numpy as np
import pytest

from tests.fakes.house import House


def embed(house: House, **fields: object):
    return house.post({"model": "hashing", "input": "annual leave", **fields}, path="/v1/embeddings")


def test_one_text(house: House) -> None:
    body = embed(house).json()
    assert body["object"] == "list"
    assert body["model"] == "hashing"
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    (entry,) = body["data"]
    assert (entry["object"], entry["index"], len(entry["embedding"])) == ("embedding", 0, 256)


def test_several_texts_keep_their_order_and_have_unit_length(house: House) -> None:
    texts = ["annual leave", "expense receipts", "pager at night", "?!"]
    vectors = [entry["embedding"] for entry in embed(house, input=texts).json()["data"]]
    singles = [embed(house, input=text).json()["data"][0]["embedding"] for text in texts]
    assert vectors == singles
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1.0] * 4, abs=1e-6)


def test_base64_holds_the_same_numbers(house: House) -> None:
    plain = embed(house).json()["data"][0]["embedding"]
    packed = embed(house, encoding_format="base64").json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == pytest.approx(plain)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, "input", "invalid_request"),
        ({"input": []}, "input", "invalid_request"),
        ({"input": ["a", ""]}, "input", "invalid_request"),
        ({"input": [1, 2]}, "input", "invalid_request"),
        ({"input": {"text": "a"}}, "input", "invalid_request"),
        ({"input": None}, "input", "invalid_request"),
        ({"input": ["a"] * 2049}, "input", "invalid_request"),
        ({"input": ["short", "w " * 600]}, "input", "context_length_exceeded"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_request"),
        ({"encoding_format": []}, "encoding_format", "invalid_request"),
        ({"dimensions": 64}, "dimensions", "invalid_request"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_request"),
    ],
)
def test_a_mistake_is_a_400_that_names_the_field(
    house: House, fields: dict[str, object], param: str, code: str
) -> None:
    response = embed(house, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


@pytest.mark.parametrize("data", [b"", b"{", b"[]"])
def test_a_body_that_is_no_object_is_a_400(house: House, data: bytes) -> None:
    response = house.post(data, path="/v1/embeddings")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("model", ["smol", "handbook-assistant", "text-embedding-3-small"])
def test_any_other_model_is_a_404(house: House, model: str) -> None:
    response = embed(house, model=model)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_a_large_body_is_a_413(house: House) -> None:
    assert embed(house, input="w" * 210_000).status_code == 413


def test_a_gateway_without_an_embedding_model_says_so(tmp_path, house: House) -> None:
    from gateway.policy import auth
    from tests.fakes.serving import served

    key = auth.generate()[1]
    raw = {
        "home": str(tmp_path),
        "log_requests": False,
        "engines": [{"kind": "echo", "name": "echo", "base_model": "smol"}],
        "shared_models": [{"name": "smol", "base_model": "smol"}],
        "tenants": [{"name": "acme", "keys": [{"value": key}]}],
    }
    with served(raw) as server:
        server.until_ready()
        bare = House(server, {"acme": key}, {}, "", raw)
        assert embed(bare).status_code == 404
        assert [model["id"] for model in bare.get("/v1/models").json()["data"]] == ["smol"]
        wish = {"model": "smol", "messages": [{"role": "user", "content": "hi"}], "retrieval": "always"}
        refused = bare.post(wish)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "retrieval")
