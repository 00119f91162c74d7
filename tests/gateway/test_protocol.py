"""The request fields that the gateway reads: each wrong one is a 400 that names it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.protocol import RetrievalWish, parse_object, parse_request, sse, text_of

USER = {"role": "user", "content": "hi"}
GOOD = {"model": "m", "messages": [USER]}


def parse(body: object, endpoint: str = "chat"):
    return parse_request(endpoint, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "model", "missing_required_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({**GOOD, "model": 7}, "model", "invalid_request"),
        ({**GOOD, "model": ""}, "model", "invalid_request"),
        ({**GOOD, "model": ["m"]}, "model", "invalid_request"),
        ({**GOOD, "stream": "yes"}, "stream", "invalid_request"),
        ({**GOOD, "stream": 1}, "stream", "invalid_request"),
        ({**GOOD, "kv_transfer_params": {}}, "kv_transfer_params", "invalid_request"),
        ({**GOOD, "priority": 1}, "priority", "invalid_request"),
        ({"model": "m"}, "messages", "missing_required_parameter"),
        ({**GOOD, "messages": "hi"}, "messages", "invalid_request"),
        ({**GOOD, "messages": {}}, "messages", "invalid_request"),
        ({**GOOD, "messages": []}, "messages", "invalid_request"),
        ({**GOOD, "messages": ["hi"]}, "messages[0]", "invalid_request"),
        ({**GOOD, "messages": [USER, {"content": "hi"}]}, "messages[1]", "invalid_request"),
        ({**GOOD, "messages": [{"role": 1}]}, "messages[0]", "invalid_request"),
        ({**GOOD, "messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_request"),
        ({**GOOD, "messages": [{"role": "user", "content": {}}]}, "messages[0].content", "invalid_request"),
        ({**GOOD, "stream_options": True}, "stream_options", "invalid_request"),
        ({**GOOD, "retrieval": 5}, "retrieval", "invalid_request"),
        ({**GOOD, "retrieval": "sometimes"}, "retrieval", "invalid_request"),
        ({**GOOD, "retrieval": {"stores": []}}, "retrieval", "invalid_request"),
        ({**GOOD, "retrieval": {"max_tokens": 31}}, "retrieval", "invalid_request"),
        ({**GOOD, "retrieval": {"max_tokens": True}}, "retrieval", "invalid_request"),
        ({**GOOD, "retrieval": {"max_tokens": "64"}}, "retrieval", "invalid_request"),
        ({**GOOD, "retrieval": {"vector_store_ids": "vs_1"}}, "retrieval", "invalid_request"),
        ({**GOOD, "retrieval": {"vector_store_ids": [1]}}, "retrieval", "invalid_request"),
        ({**GOOD, "tools": [{"type": "file_search", "max_num_results": 3}]}, "tools", "invalid_request"),
        ({**GOOD, "tools": [{"type": "file_search", "vector_store_ids": 1}]}, "tools", "invalid_request"),
    ],
)
def test_a_wrong_field_is_named(body: object, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert caught.value.message


@pytest.mark.parametrize(
    "data", [b"", b"{", b"nonsense", b'{"a": NaN}', b"\xff\xfe", b'"text"', b"[]", b"null"]
)
def test_a_body_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(data)
    assert caught.value.code == "invalid_json"


def test_completions_need_a_prompt() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({"model": "m"}, "completions")
    assert caught.value.param == "prompt"
    assert parse({"model": "m", "prompt": "hi"}, "completions").messages == []


def test_completions_do_not_retrieve() -> None:
    with pytest.raises(InvalidRequest, match="chat completions only"):
        parse({"model": "m", "prompt": "hi", "retrieval": "always"}, "completions")
    assert (
        parse({"model": "m", "prompt": "hi", "retrieval": "never"}, "completions").retrieval.mode == "never"
    )


def test_what_the_gateway_does_not_read_stays() -> None:
    extra = {"temperature": 0.5, "logit_bias": {"5": 1}, "guided_choice": ["a"], "stream_options": {"x": 1}}
    request = parse({**GOOD, **extra, "stream": True})
    assert request.body == {**GOOD, **extra, "stream": True}
    assert (request.stream, request.wants_usage) == (True, False)


def test_a_null_stream_is_no_stream() -> None:
    assert parse({**GOOD, "stream": None, "stream_options": None}).stream is False


def test_usage_is_wanted_by_who_asks() -> None:
    assert parse({**GOOD, "stream_options": {"include_usage": True}}).wants_usage


@pytest.mark.parametrize(
    ("wish", "read"),
    [
        ("never", RetrievalWish("never")),
        ({}, RetrievalWish("auto")),
        (
            {"mode": "always", "vector_store_ids": ["vs_1"], "max_tokens": 32},
            RetrievalWish("always", ("vs_1",), 32),
        ),
    ],
)
def test_a_wish_is_taken_out_of_the_body(wish: object, read: RetrievalWish) -> None:
    request = parse({**GOOD, "retrieval": wish})
    assert request.retrieval == read
    assert "retrieval" not in request.body


def test_the_file_search_tool_is_a_wish_and_the_other_tools_stay() -> None:
    function = {"type": "function", "function": {"name": "f"}}
    search = {"type": "file_search", "vector_store_ids": ["vs_1"]}
    request = parse({**GOOD, "tools": [search, function], "tool_choice": "auto"})
    assert request.retrieval == RetrievalWish("always", ("vs_1",))
    assert (request.body["tools"], request.body["tool_choice"]) == ([function], "auto")


def test_file_search_alone_leaves_no_tools() -> None:
    request = parse({**GOOD, "tools": [{"type": "file_search"}], "tool_choice": "required"})
    assert "tools" not in request.body
    assert "tool_choice" not in request.body


def test_the_retrieval_field_wins_over_the_tool() -> None:
    request = parse({**GOOD, "retrieval": "never", "tools": [{"type": "file_search"}]})
    assert request.retrieval.mode == "never"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}, 5], "a\nb"),
        ([{"type": "text", "text": 5}, {"type": "text"}], ""),
    ],
)
def test_the_text_of_a_message(content: object, text: str) -> None:
    assert text_of({"role": "user", "content": content}) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "model",
                        "messages",
                        "role",
                        "content",
                        "tools",
                        "retrieval",
                        "stream",
                        "mode",
                        "type",
                        "vector_store_ids",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_makes_the_parser_fail_in_another_way(value: object) -> None:
    """Whatever is sent, the answer is a request or a 400."""
    for endpoint in ("chat", "completions"):
        for body in (
            value,
            {**GOOD, "prompt": "p", "tools": value},
            {**GOOD, "prompt": "p", "retrieval": value},
        ):
            try:
                parse(body, endpoint)
            except InvalidRequest as error:
                assert error.status == 400  # noqa: PT017  an error is one of two right answers


def test_an_event_is_one_line_and_a_blank_one() -> None:
    assert sse({"a": "b\n"}) == b'data: {"a":"b\\n"}\n\n'
