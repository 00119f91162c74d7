"""The outermost layer: an id for every request, and one shape for every error."""

import re
from collections.abc import Callable

import httpx
import pytest
from fastapi import APIRouter

from gateway.api.edge import Edge
from gateway.telemetry import Telemetry
from tests.fakes.house import House
from tests.fakes.serving import Metrics, chat


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nowhere", "/v1/chat/completions"])
@pytest.mark.parametrize("request_id", ["mine", "a" * 128, "req_1-2:3/4"])
def test_a_clients_request_id_comes_back(house: House, path: str, request_id: str) -> None:
    response = house.get(path, headers={"x-request-id": request_id})
    assert response.headers.get_list("x-request-id") == [request_id]


@pytest.mark.parametrize("request_id", ["", "a" * 129, "two words", "tab\there", "ümlaut".encode()])
def test_an_id_that_could_do_harm_is_replaced(house: House, request_id: str | bytes) -> None:
    response = house.get("/healthz", headers={"x-request-id": request_id})
    assert re.fullmatch(r"req_[0-9a-f]{24}", response.headers["x-request-id"])


def test_every_request_without_an_id_gets_its_own(house: House) -> None:
    ids = {house.get("/healthz").headers["x-request-id"] for _ in range(3)}
    ids |= {house.post(chat(stream=stream)).headers["x-request-id"] for stream in (True, False)}
    assert len(ids) == 5


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nowhere", "/v2/chat/completions", "/v1/chat/completions/"])
def test_an_unknown_address_is_a_404_in_our_shape(house: House, path: str) -> None:
    for response in (house.get(path), house.post(chat(), path=path)):
        assert response.status_code == 404
        assert response.json()["error"] == {
            "message": f"There is no {path} here.",
            "type": "invalid_request_error",
            "param": None,
            "code": "unknown_url",
        }


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/completions", "POST"),
        ("GET", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/healthz", "GET"),
    ],
)
def test_a_wrong_method_is_a_405_that_names_the_right_one(
    house: House, method: str, path: str, allow: str
) -> None:
    with house.http() as client:
        response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert allow in response.headers["allow"]
    assert path in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/models"])
def test_a_fault_inside_a_handler_is_a_500_without_its_words(
    start_vllm: Callable, make_house: Callable[..., House], path: str
) -> None:
    house = make_house(start_vllm())

    class Faulty(dict):
        def get(self, *_: object) -> object:
            raise RuntimeError("secret words")

    well = house.server.gateway.catalog.snapshot
    fields = {name: getattr(well, name) for name in type(well).__slots__}
    house.server.gateway.catalog.snapshot = type(well)(**{**fields, "keys": Faulty()})
    for _ in range(2):
        response = house.get(path) if path == "/v1/models" else house.post(chat(), path=path)
        assert response.status_code == 500
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("api_error", "internal_error")
        assert response.headers["x-request-id"] in error["message"]
        assert "secret" not in response.text
    house.server.gateway.catalog.snapshot = well
    assert house.post(chat()).status_code == 200
    assert house.server.metrics().sum("repertory_errors_total", code="internal_error") == 2


def edge(app: object, direct: dict[str, object] | None = None) -> tuple[Edge, Telemetry]:
    telemetry = Telemetry()
    return Edge(app, telemetry, direct or {}), telemetry


async def test_a_fault_after_the_head_cuts_the_connection() -> None:
    """The only honest end of an answer that has begun."""

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    made, telemetry = edge(app)
    transport = httpx.ASGITransport(made)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        with pytest.raises(RuntimeError, match="too late"):
            await client.get("/")
    assert Metrics.parse(telemetry.exposition().decode()).sum("repertory_inflight_requests") == 0


async def test_only_posts_take_the_short_way() -> None:
    taken = []

    def app(name: str):
        async def run(scope, receive, send) -> None:
            taken.append(name)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return run

    made, _ = edge(app("framework"), {"/fast": app("direct")})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://t") as client:
        for method, path in [("POST", "/fast"), ("GET", "/fast"), ("POST", "/slow")]:
            await client.request(method, path)
    assert taken == ["direct", "framework", "framework"]


async def test_what_is_not_http_passes_through() -> None:
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append(scope["type"])

    await edge(app)[0]({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


def test_no_route_leaks_a_validation_error_of_the_framework(house: House) -> None:
    """422 is never answered, not even by a route that someone adds with a typed parameter."""
    routes = APIRouter()

    @routes.get("/typed")
    async def typed(number: int) -> int:
        return number

    from fastapi.exceptions import RequestValidationError

    from gateway.app import translate

    error = translate(
        "GET", "/typed", RequestValidationError([{"loc": ("query", "number"), "msg": "bad"}]), "req_1"
    )
    assert (error.status, error.code) == (400, "invalid_request")
