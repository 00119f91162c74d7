import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data import Example, Message, fingerprint, load_examples, parse_examples
from adapters.errors import DataInvalid

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def line(*messages):
    return json.dumps({"messages": list(messages)})


def test_rows_become_examples_with_their_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        line(USER, ANSWER) + "\n\n" + line({"role": "system", "content": ""}, USER, ANSWER) + "\n"
    )

    user, answer = Message("user", "hi", trained=False), Message("assistant", "hello", trained=True)
    assert load_examples(path) == (
        Example(1, (user, answer)),
        Example(3, (Message("system", "", trained=False), user, answer)),
    )


def test_an_assistant_message_of_weight_zero_is_read_but_not_trained():
    (example,) = parse_examples([line(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1})])

    assert [message.trained for message in example.messages] == [False, False, False, True]


@pytest.mark.parametrize(
    ("row", "codes"),
    [
        ("{not json", ["data_type"]),
        ("[]", ["data_type"]),
        ("{}", ["missing_messages_list"]),
        ('{"messages": []}', ["missing_messages_list"]),
        ('{"messages": "hi"}', ["missing_messages_list"]),
        (line("hi", ANSWER), ["data_type"]),
        (line({"content": "hi"}, ANSWER), ["message_missing_key"]),
        (line({"role": "user"}, ANSWER), ["message_missing_key"]),
        (line({**USER, "name": "Ana"}, ANSWER), ["message_unrecognized_key"]),
        (line({**USER, "role": "human"}, ANSWER), ["unrecognized_role"]),
        (line({**USER, "role": ["user"]}, ANSWER), ["unrecognized_role"]),
        (line({**USER, "content": ""}, ANSWER), ["missing_content"]),
        (line({**USER, "content": None}, ANSWER), ["missing_content"]),
        (line({"role": "system", "content": None}, ANSWER), ["missing_content"]),
        (line({**USER, "weight": 1}, ANSWER), ["invalid_weight"]),
        (line(USER, {**ANSWER, "weight": 0.5}), ["invalid_weight"]),
        (line(USER), ["example_missing_assistant_message"]),
        (line(USER, {**ANSWER, "weight": 0}), ["example_missing_assistant_message"]),
    ],
)
def test_a_faulty_row_is_refused_with_the_cookbooks_code(row, codes):
    with pytest.raises(DataInvalid) as caught:
        parse_examples([row])
    assert [fault.code for fault in caught.value.faults] == codes


def test_every_fault_of_a_file_is_told_with_its_line():
    rows = ["[]", line(USER, ANSWER), line({"role": "human", "text": 1})]

    with pytest.raises(DataInvalid) as caught:
        parse_examples(rows)
    assert [(fault.line, fault.code) for fault in caught.value.faults] == [
        (1, "data_type"),
        (3, "message_missing_key"),
        (3, "message_unrecognized_key"),
        (3, "unrecognized_role"),
        (3, "example_missing_assistant_message"),
    ]


def test_the_message_of_many_faults_stays_short():
    with pytest.raises(DataInvalid, match=r"line 5: .* \(and 3 more\)$"):
        parse_examples(["[]"] * 8)


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_an_empty_file_is_refused(lines):
    with pytest.raises(DataInvalid) as caught:
        parse_examples(lines)
    assert [(fault.line, fault.code) for fault in caught.value.faults] == [(0, "empty_file")]


def test_the_fingerprint_ignores_layout_and_sees_content_and_order():
    one, two = line(USER, ANSWER), line({**USER, "content": "hey"}, ANSWER)
    spaced = json.dumps(json.loads(one), indent=None, separators=(" , ", " : "), sort_keys=True)

    assert fingerprint(parse_examples([one, two])) == fingerprint(parse_examples(["", spaced, two]))
    assert fingerprint(parse_examples([one, two])) != fingerprint(parse_examples([two, one]))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["messages", "role", "content", "weight"]) | st.text(), inner)
        ),
    )
)
def test_any_json_is_either_an_example_or_a_named_fault(value):
    try:
        outcome = len(parse_examples([json.dumps(value)]))
    except DataInvalid as error:
        outcome = len(error.faults)
    assert outcome >= 1
