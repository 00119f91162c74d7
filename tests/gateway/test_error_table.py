"""Each way a request can fail: its status, shape and code, and that the gateway answers the next one."""

import json
import re
from collections.abc import Callable

import httpx
import pytest

from gateway.policy import auth
from tests.fakes.house import House
from tests.fakes.serving import chat, events_of, eventually
from tests.fakes.vllm import FakeVLLM

LEAKS = re.compile(r"Traceback|File \"|/srv/|other-tenant|other@|[a-z]+Error\(|127\.0\.0\.1")


def check(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), (
        response.text
    )
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert not LEAKS.search(response.text), response.text
    return body["error"]


def good(house: House) -> None:
    """The gateway survived."""
    assert house.post(chat("still here")).status_code == 200


BAD_REQUESTS = {
    "invalid JSON": (b'{"model": ', 400, "invalid_json"),
    "no object": (b"[1]", 400, "invalid_json"),
    "no body": (b"", 400, "invalid_json"),
    "nested beyond reason": (b'{"a":' * 2000 + b"1" + b"}" * 2000, 400, "invalid_json"),
    "nested deeper than can be written": (
        json.dumps(chat(metadata="X")).replace('"X"', "[" * 400 + "]" * 400).encode(),
        400,
        "invalid_json",
    ),
    "unknown model": (chat(model="nobody"), 404, "model_not_found"),
    "another tenant's model": (chat(model="handbook-assistant"), 404, "model_not_found"),
    "an adapter's own name": (chat(model="triage@000000000000"), 404, "model_not_found"),
    "model of a wrong type": (chat(model=5), 400, "invalid_request"),
    "stream of a wrong type": (chat(stream="true"), 400, "invalid_request"),
    "messages of a wrong type": ({"model": "smol", "messages": "hi"}, 400, "invalid_request"),
    "empty messages": ({"model": "smol", "messages": []}, 400, "invalid_request"),
    "no messages": ({"model": "smol"}, 400, "missing_required_parameter"),
    "body over the limit": (chat("w" * 210_000), 413, "request_too_large"),
    "prompt too long": (chat("w " * 5000), 400, "context_length_exceeded"),
    "max_tokens too large": (chat(max_tokens=5000), 400, "context_length_exceeded"),
    "retrieval without a store": (chat(retrieval="always"), 400, "invalid_request"),
    "another tenant's store": (
        chat("What is the leave policy?", retrieval={"mode": "always", "vector_store_ids": ["vs_other"]}),
        404,
        "not_found",
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request(house: House, case: str, stream: bool) -> None:
    body, status, code = BAD_REQUESTS[case]
    if stream and isinstance(body, dict):
        body = {"stream": True, **body}
    check(house.post(body), status, code)
    good(house)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"])
@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("Bearer sk-rep-wrong", "invalid_api_key"),
        (f"Bearer {auth.generate()[1]}", "invalid_api_key"),
        ("Basic abc", "invalid_api_key"),
    ],
)
def test_no_key_and_a_wrong_key(house: House, path: str, header: str | None, code: str) -> None:
    headers = {"authorization": header} if header else {}
    with house.http(None, headers=headers) as client:
        response = client.get(path) if path == "/v1/models" else client.post(path, json=chat())
    error = check(response, 401, code)
    assert error["type"] == "authentication_error"
    good(house)


def test_an_administrators_key_is_no_tenants_key(house: House) -> None:
    key = (house.server.settings.home / "admin.key").read_text().strip()
    with house.http(None, headers={"authorization": f"Bearer {key}"}) as client:
        check(client.post("/v1/chat/completions", json=chat()), 403, "insufficient_scope")


def test_another_tenants_model_and_an_unknown_one_look_the_same(house: House) -> None:
    def words(model: str) -> str:
        return check(house.post(chat(model=model)), 404, "model_not_found")["message"].replace(model, "X")

    assert words("handbook-assistant") == words("no-such-assistant")


def test_the_words_say_whose_limit_it_was(house: House) -> None:
    gateway = check(house.post(chat("w" * 210_000)), 413, "request_too_large")
    engine = check(house.post(chat("w " * 5000)), 400, "context_length_exceeded")
    assert "this gateway accepts (200000 bytes)" in gateway["message"]
    assert "model's maximum context length is 4096 tokens" in engine["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(
    ("engine_status", "status", "code"),
    [
        (400, 400, "engine_refused_request"),
        (404, 502, "engine_error"),
        (429, 503, "engine_overloaded"),
        (500, 502, "engine_error"),
        (503, 503, "engine_overloaded"),
    ],
)
def test_an_engine_that_answers_with_an_error(  # noqa: PLR0917  a row of the table
    house: House, engine: FakeVLLM, engine_status: int, status: int, code: str, stream: bool
) -> None:
    engine.switches.status = engine_status
    engine.switches.error_message = "no" if engine_status == 400 else "boom in /srv/adapters/other-tenant"
    response = house.post(chat(stream=stream))
    check(response, status, code)
    if status == 503:
        assert response.headers["retry-after"] == "2"
    engine.reset()
    good(house)


@pytest.mark.parametrize(
    "answer",
    [b"{", b"null", b"[]", b"{}", b'{"choices": null}', b"\xff", b'{"choices": [], "usage": 7}'],
)
def test_an_engine_whose_json_is_broken(house: House, engine: FakeVLLM, answer: bytes) -> None:
    engine.switches.answer_with = answer
    check(house.post(chat()), 502, "engine_error")
    engine.reset()
    good(house)


@pytest.mark.parametrize(
    "choices", [b"[1]", b'[{"text": "x"}]', b'[{"message": null}]', b'[{"message": {"content": 5}}]']
)
def test_an_engine_whose_choices_cannot_be_cited(house: House, engine: FakeVLLM, choices: bytes) -> None:
    engine.switches.answer_with = b'{"choices": %b}' % choices
    check(
        house.post(chat("What about leave?", model="handbook-always"), tenant="globex"), 502, "engine_error"
    )
    engine.reset()
    good(house)


def test_an_engine_that_is_killed_in_the_middle_of_json(house: House, engine: FakeVLLM) -> None:
    engine.switches.die_in_json = True
    check(house.post(chat()), 502, "engine_error")
    engine.reset()
    good(house)


@pytest.mark.parametrize("switch", ["die_after", "error_after"])
@pytest.mark.parametrize("events", [1, 3])
def test_an_engine_that_is_lost_in_mid_stream(
    house: House, engine: FakeVLLM, switch: str, events: int
) -> None:
    """The client gets what there was, then one error event: no finish reason and no [DONE]."""
    setattr(engine.switches, switch, events)
    response = house.post(chat(stream=True))
    assert response.status_code == 200
    *before, last = events_of(response.text)
    assert len(before) == events
    assert all(json.loads(event)["choices"][0]["finish_reason"] is None for event in before)
    error = json.loads(last)["error"]
    assert (error["code"], set(error)) == ("engine_error", {"message", "type", "param", "code"})
    assert not LEAKS.search(last)
    engine.reset()
    good(house)


def test_a_stream_that_ends_without_done_is_an_error(house: House, engine: FakeVLLM) -> None:
    engine.switches.stream_tail = b""
    *_, last = events_of(house.post(chat(stream=True)).text)
    assert json.loads(last)["error"]["code"] == "engine_error"


def test_an_engine_that_is_down_and_returns(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House], background
) -> None:
    engine = start_vllm()
    house = make_house(engine)
    good(house)
    background.run(engine.stop())
    for stream in (False, True):
        response = house.post(chat(stream=stream))
        check(response, 503, "engine_unavailable")
        assert response.headers["retry-after"] == "5"
        assert response.headers["retry-after-ms"] == "5000"
    assert house.get("/readyz").status_code == 503
    assert house.get("/healthz").status_code == 200
    background.run(engine.start())
    house.server.until_ready()
    good(house)
    assert house.post(chat(model="support-triage")).status_code == 200


def test_an_engine_that_is_starting(make_house: Callable[..., House], tmp_path) -> None:
    """A local engine has begun and does not listen yet."""
    from tests.fakes.house import open_house
    from tests.fakes.local import command_that

    entry = {
        "kind": "local",
        "name": "slow",
        "base_model": "smol",
        "model_path": "/models/smol",
        "device": "cpu",
        "python": str(command_that(tmp_path, "sleeps")),
    }
    house = open_house(tmp_path / "house", [entry])
    try:
        eventually(lambda: house.server.gateway.pool.members["slow"].engine.pid, what="the process")
        response = house.post(chat())
        check(response, 503, "engine_starting")
        assert response.headers["retry-after"] == "5"
        reasons = house.get("/readyz").json()["reasons"]
        assert set(reasons) == {"engine slow"}
    finally:
        house.server.close()


def test_an_engine_that_says_nothing_is_given_up_on(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House]
) -> None:
    engine = start_vllm()
    house = make_house(engine, timeout_seconds=1.5)
    engine.switches.delay = 10
    check(house.post(chat()), 504, "engine_timeout")
    house.server.until_ready()  # it was under suspicion until looked at
    check(house.post(chat(stream=True)), 504, "engine_timeout")
    engine.reset()
    house.server.until_ready()
    engine.switches.stall_after = 2
    *_, last = events_of(house.post(chat(stream=True)).text)
    assert json.loads(last)["error"]["code"] == "engine_timeout"
    engine.reset()
    house.server.until_ready()
    good(house)


def test_a_model_whose_base_no_engine_serves_any_more(house: House) -> None:
    """It may still be in the database: an outage to whoever asks, never a fault of the gateway."""
    from adapters.releases import Releases, ReleaseSpec
    from gateway.database import connect
    from gateway.tenants import bump

    db = connect(house.server.settings.sql_url)
    releases = Releases(db)
    model = releases.ensure_model(None, "left-behind", "gone")
    release = releases.create_release(model.id, ReleaseSpec())
    releases.set_traffic(model.id, {release.id: 100}, 0)
    with db.begin() as connection:
        bump(connection)
    db.dispose()
    catalog = house.server.gateway.catalog
    eventually(lambda: catalog.snapshot.resolve(None, "left-behind"), what="the model")
    try:
        check(house.post(chat(model="left-behind")), 503, "engine_unavailable")
    finally:
        db = connect(house.server.settings.sql_url)
        with db.begin() as connection:
            from adapters.tables import traffic

            connection.execute(traffic.delete().where(traffic.c.model_id == model.id))
            bump(connection)
        db.dispose()
        eventually(lambda: not catalog.snapshot.resolve(None, "left-behind"), what="the model's end")


def test_every_error_is_counted_by_its_code(house: House) -> None:
    before = house.server.metrics().by("repertory_errors_total", "code")
    house.post(b"{")
    house.get("/nowhere")
    house.get("/v1/models", tenant=None)
    after = house.server.metrics().by("repertory_errors_total", "code")
    for code in ("invalid_json", "unknown_url", "missing_api_key"):
        assert after[code] == before.get(code, 0) + 1
