"""One request's path: what reaches the engine, and what never does."""

import json
from collections.abc import Callable

import pytest

from adapters.releases import Releases, ReleaseSpec
from gateway.database import connect
from gateway.tables import api_keys, tenants
from gateway.tenants import bump
from tests.fakes.house import HANDBOOK, QUESTION, SHORT_PROMPT, House
from tests.fakes.serving import chat, events_of, eventually
from tests.fakes.vllm import FakeVLLM


def sent(
    house: House, engine: FakeVLLM, body: dict[str, object], tenant: str = "acme", **options: object
) -> dict:
    response = house.post(body, tenant=tenant, **options)
    assert response.status_code == 200, response.text
    return engine.last.body


def test_the_clients_model_name_never_reaches_the_engine(house: House, engine: FakeVLLM) -> None:
    body = sent(house, engine, chat(model="support-triage"))
    assert body["model"] == house.adapters["triage"]
    assert "support-triage" not in json.dumps(body)


def test_neither_does_the_clients_key(house: House, engine: FakeVLLM) -> None:
    sent(house, engine, chat())
    assert "sk-rep" not in json.dumps(engine.last.headers)


def test_the_answer_says_where_it_came_from(house: House) -> None:
    headers = house.post(chat(model="support-triage")).headers
    assert headers["x-repertory-model"] == "support-triage"
    assert headers["x-repertory-release"].startswith("rel_")
    assert headers["x-repertory-engine"] == "one"
    assert headers["x-repertory-retrieval"] == "skip; reason=no_store"
    stream = house.post(chat(model="support-triage", stream=True)).headers
    assert stream["x-repertory-release"] == headers["x-repertory-release"]
    assert stream["content-type"] == "text/event-stream; charset=utf-8"
    assert (stream["cache-control"], stream["x-accel-buffering"]) == ("no-cache", "no")


def test_request_id_and_trace_go_along(house: House, engine: FakeVLLM) -> None:
    """The engine gets the id made unique, so that two requests of one name don't meet there."""
    ids = []
    for _ in range(2):
        sent(house, engine, chat(), headers={"x-request-id": "abc-1", "traceparent": "00-1-2-01"})
        ids.append(engine.last.headers["x-request-id"])
    assert all(name.startswith("abc-1-") for name in ids)
    assert len(set(ids)) == 2
    assert engine.last.headers["traceparent"] == "00-1-2-01"


def test_the_cache_is_kept_apart_by_tenant_and_by_release(house: House, engine: FakeVLLM) -> None:
    def salt(tenant: str, model: str, **fields: object) -> str:
        return sent(house, engine, chat(model=model, **fields), tenant)["cache_salt"]

    salts = [
        salt("acme", "smol"),
        salt("globex", "smol"),
        salt("acme", "support-triage"),
        salt("acme", "smol", cache_salt="x"),
    ]
    assert len(set(salts)) == 4
    assert salt("acme", "smol") == salts[0]
    assert salt("acme", "smol", cache_salt=7) == salts[0]
    assert salt("globex", "smol", cache_salt="x") != salts[3]


def test_a_client_cannot_salt_itself_into_another_tenants_cache(house: House, engine: FakeVLLM) -> None:
    theirs = sent(house, engine, chat(), "globex")["cache_salt"]
    assert sent(house, engine, chat(cache_salt=theirs))["cache_salt"] != theirs


def test_sampling_defaults_give_way_to_the_client(house: House, engine: FakeVLLM) -> None:
    assert sent(house, engine, chat(model="support-triage"))["temperature"] == 0
    assert sent(house, engine, chat(model="support-triage", temperature=0.7))["temperature"] == 0.7


def test_usage_is_always_asked_of_a_stream(house: House, engine: FakeVLLM) -> None:
    body = sent(house, engine, chat(stream=True, stream_options={"continuous_usage_stats": False}))
    assert body["stream_options"] == {"continuous_usage_stats": False, "include_usage": True}
    assert "stream_options" not in sent(house, engine, chat())


def test_the_short_prompt_takes_the_place_of_the_clients(house: House, engine: FakeVLLM) -> None:
    messages = [{"role": "system", "content": "a long one"}, {"role": "user", "content": "hi"}]
    body = sent(house, engine, {"model": "handbook-assistant", "messages": messages}, "globex")
    assert body["messages"] == [{"role": "system", "content": SHORT_PROMPT}, messages[1]]


def test_knowledge_goes_into_the_last_user_message_and_is_cited(house: House, engine: FakeVLLM) -> None:
    engine.switches.reply = "27 days [1]."
    response = house.post(chat(QUESTION, model="handbook-assistant"), tenant="globex")
    content = engine.last.body["messages"][-1]["content"]
    assert "27 days of paid annual leave" in content
    assert content.endswith(QUESTION)
    assert response.headers["x-repertory-retrieval"].startswith("inject; reason=relevant")
    (first, *_) = response.json()["choices"][0]["message"]["annotations"]
    assert (first["filename"], first["index"]) == ("annual-leave.md", 8)


def test_knowledge_is_cited_in_a_stream(house: House, engine: FakeVLLM) -> None:
    engine.switches.reply = "It is 27 days [1]."
    text = house.post(chat(QUESTION, model="handbook-assistant", stream=True), tenant="globex").text
    *chunks, done = events_of(text)
    assert done == "[DONE]"
    assert json.loads(chunks[0])["choices"][0]["delta"]["annotations"][0]["filename"] == "annual-leave.md"


@pytest.mark.parametrize("text", ["hi", "thanks!", "What is 17 * 23?"])
def test_what_needs_no_knowledge_gets_none(house: House, engine: FakeVLLM, text: str) -> None:
    response = house.post(chat(text, model="handbook-assistant"), tenant="globex")
    assert engine.last.body["messages"][-1]["content"] == text
    assert response.headers["x-repertory-retrieval"] == "skip; reason=no_need"
    assert "annotations" not in response.json()["choices"][0]["message"]


def test_what_the_handbook_does_not_know_injects_nothing_and_says_so(house: House, engine: FakeVLLM) -> None:
    text = "What is the boiling point of tungsten in kelvin?"
    response = house.post(chat(text, model="handbook-assistant"), tenant="globex")
    assert engine.last.body["messages"][-1]["content"] == text
    assert response.headers["x-repertory-retrieval"].startswith("skip; reason=not_found")


def test_a_request_may_forbid_or_force_retrieval(house: House, engine: FakeVLLM) -> None:
    ask = chat(QUESTION, model="handbook-assistant")
    never = house.post({**ask, "retrieval": "never"}, tenant="globex")
    assert never.headers["x-repertory-retrieval"] == "skip; reason=never"
    forced = house.post(
        {**chat("tungsten", model="handbook-assistant"), "retrieval": "always"}, tenant="globex"
    )
    assert forced.headers["x-repertory-retrieval"].startswith("inject; reason=forced")
    tool = {"type": "file_search", "vector_store_ids": [house.store_id]}
    searched = house.post({**chat("expense receipts"), "tools": [tool]}, tenant="globex")
    assert searched.headers["x-repertory-retrieval"].startswith("inject; reason=forced")
    assert "tools" not in engine.last.body
    assert "retrieval" not in engine.last.body


def test_another_tenants_store_does_not_exist(house: House, engine: FakeVLLM) -> None:
    """Acme asks for globex's handbook by its real id."""
    wish = {"mode": "always", "vector_store_ids": [house.store_id]}
    response = house.post(chat(QUESTION, retrieval=wish))
    assert response.status_code == 404
    assert not any(text[:20] in response.text for text in HANDBOOK.values())
    assert engine.requests == []


def test_the_engine_is_asked_again_elsewhere_before_the_first_byte(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House]
) -> None:
    bad, well = start_vllm(), start_vllm()
    house = make_house(bad, well)
    for status in (502, 503, 504):
        bad.switches.status = status
        for stream in (False, True):
            response = house.post(chat(stream=stream))
            assert response.status_code == 200
            assert response.headers["x-repertory-engine"] == "engine-2"
    assert len(bad.requests) == 6
    well.switches.status = 503
    assert house.post(chat()).json()["error"]["code"] == "engine_overloaded"


def test_a_request_that_is_wrong_is_not_tried_elsewhere(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House]
) -> None:
    one, two = start_vllm(), start_vllm()
    house = make_house(one, two)
    one.switches.status = two.switches.status = 500
    assert house.post(chat()).status_code == 502
    assert len(one.requests) + len(two.requests) == 1


def test_an_engine_that_is_gone_costs_the_client_nothing_while_there_is_another(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House], background
) -> None:
    gone, well = start_vllm(), start_vllm()
    house = make_house(gone, well)
    background.run(gone.stop())
    for number in range(6):
        response = house.post(chat(model="support-triage", stream=number % 2 == 0))
        assert response.status_code == 200
        assert response.headers["x-repertory-engine"] == "engine-2"
    assert house.server.inflight == 0


def test_a_stream_that_dies_before_its_first_byte_is_tried_elsewhere(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House]
) -> None:
    one, two = start_vllm(), start_vllm()
    house = make_house(one, two)
    one.switches.die_after = 0
    response = house.post(chat(stream=True))
    assert response.headers["x-repertory-engine"] == "engine-2"
    assert events_of(response.text)[-1] == "[DONE]"
    house.server.until_ready()
    two.switches.die_after = 0
    refused = house.post(chat(stream=True))
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "engine_error")
    assert house.server.inflight == 0


def test_after_the_first_byte_nothing_is_tried_again(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House]
) -> None:
    one, two = start_vllm(), start_vllm()
    house = make_house(one, two)
    one.switches.die_after = two.switches.die_after = 2
    *_, last = events_of(house.post(chat(stream=True)).text)
    assert json.loads(last)["error"]["code"] == "engine_error"
    assert len(one.requests) + len(two.requests) == 1
    one.reset()
    two.reset()
    one.switches.die_in_json = two.switches.die_in_json = True
    assert house.post(chat()).status_code == 502
    assert len(one.requests) + len(two.requests) == 1


def test_a_split_is_sticky_by_user_and_by_session(house: House, engine: FakeVLLM) -> None:
    db = connect(house.server.settings.sql_url)
    releases = Releases(db)
    model = releases.ensure_model(None, "split", "smol")
    for temperature in (0, 1):
        releases.create_release(model.id, ReleaseSpec(sampling={"temperature": temperature}))
    old, new = releases.list_releases(model.id)
    releases.set_traffic(model.id, {old.id: 50, new.id: 50}, 0)
    with db.begin() as connection:
        bump(connection)
    db.dispose()
    eventually(lambda: house.server.gateway.catalog.snapshot.resolve(None, "split"), what="the model")
    with house.http() as client:

        def release(user: str | None = None, session: str | None = None) -> str:
            headers = {"x-session-id": session} if session else {}
            body = chat(model="split") | ({"user": user} if user else {})
            return client.post("/v1/chat/completions", json=body, headers=headers).headers[
                "x-repertory-release"
            ]

        assert {release(user=f"user-{n}") for n in range(20)} == {old.id, new.id}
        assert {release(session=f"session-{n}") for n in range(20)} == {old.id, new.id}
        assert len({release(user="ann") for _ in range(4)}) == 1
        assert len({release(user=f"user-{n}", session="one") for n in range(8)}) == 1
        assert len({release() for _ in range(4)}) == 1


def test_a_key_that_is_revoked_and_a_tenant_that_is_disabled_stop_working_soon(
    start_vllm: Callable[..., FakeVLLM], make_house: Callable[..., House]
) -> None:
    house = make_house(start_vllm())
    db = connect(house.server.settings.sql_url)
    with db.begin() as connection:
        connection.execute(
            api_keys.update()
            .where(api_keys.c.public_id == house.keys["acme"].split("-")[2])
            .values(revoked_at=1.0)
        )
        connection.execute(tenants.update().where(tenants.c.name == "globex").values(disabled=True))
        bump(connection)
    db.dispose()
    eventually(lambda: house.post(chat()).status_code == 401, what="the revocation")
    assert "revoked" in house.post(chat()).json()["error"]["message"]
    assert "disabled" in house.post(chat(), tenant="globex").json()["error"]["message"]
    assert house.get("/v1/models", tenant="globex").status_code == 401
