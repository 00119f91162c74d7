"""The system prompt a model sees, by policy, and where context goes."""

import copy

import pytest

from gateway.policy import prompting

CLIENT = {"role": "system", "content": "theirs"}
USER = {"role": "user", "content": "hello"}
OURS = {"role": "system", "content": "ours"}


@pytest.mark.parametrize("policy", ["replace", "prepend", "keep"])
def test_without_a_release_prompt_messages_pass_as_they_are(policy: prompting.Policy) -> None:
    assert prompting.apply([CLIENT, USER], None, policy) == prompting.Prompted([CLIENT, USER])


@pytest.mark.parametrize("policy", ["replace", "prepend", "keep"])
def test_where_the_client_sent_none_the_release_prompt_stands_alone(policy: prompting.Policy) -> None:
    assert prompting.apply([USER], "ours", policy).messages == [OURS, USER]


def test_replace_drops_every_prompt_of_the_client() -> None:
    developer = {"role": "developer", "content": "more of theirs"}
    prompted = prompting.apply([CLIENT, USER, developer], "ours", "replace")
    assert prompted.messages == [OURS, USER]
    assert prompted.dropped == (CLIENT, developer)


def test_keep_gives_way_to_the_client() -> None:
    assert prompting.apply([CLIENT, USER], "ours", "keep") == prompting.Prompted([CLIENT, USER])


def test_prepend_makes_one_prompt_of_two() -> None:
    prompted = prompting.apply([CLIENT, USER], "ours", "prepend")
    assert prompted == prompting.Prompted([{"role": "system", "content": "ours\n\ntheirs"}, USER])


def test_prepend_with_an_empty_text_adds_nothing() -> None:
    assert prompting.apply([CLIENT, USER], "", "prepend").messages == [CLIENT, USER]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, CLIENT],
        [{"role": "system", "content": [{"type": "text", "text": "theirs"}]}, USER],
    ],
    ids=["the client's comes later", "the client's is not plain text"],
)
def test_prepend_stands_apart_where_it_cannot_merge(messages: list[prompting.Message]) -> None:
    assert prompting.apply(messages, "ours", "prepend").messages == [OURS, *messages]


@pytest.mark.parametrize("policy", ["replace", "prepend", "keep"])
def test_the_clients_messages_are_not_changed_in_place(policy: prompting.Policy) -> None:
    messages = [copy.deepcopy(CLIENT), copy.deepcopy(USER)]
    prompting.apply(messages, "ours", policy)
    prompting.with_last_user_message(messages, "new")
    assert messages == [CLIENT, USER]


def test_roles_are_told_apart() -> None:
    answer = {"role": "assistant", "content": "hi"}
    again = {"role": "user", "content": "again"}
    tool = {"role": "tool", "content": "42"}
    split = prompting.split_roles([CLIENT, USER, answer, again, tool])
    assert split == ([CLIENT], [USER, answer, tool], again)


def test_without_a_user_message_there_is_no_last_one() -> None:
    assert prompting.split_roles([CLIENT]) == ([CLIENT], [], None)


def test_context_goes_into_the_last_user_message_only() -> None:
    answer = {"role": "assistant", "content": "hi"}
    again = {"role": "user", "content": "again", "name": "ann"}
    messages = prompting.with_last_user_message([USER, answer, again, answer], "sources and again")
    assert messages == [USER, answer, {**again, "content": "sources and again"}, answer]


def test_images_stay_beside_the_new_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    message = {"role": "user", "content": [{"type": "text", "text": "old"}, image]}
    changed = prompting.with_last_user_message([message], "new")
    assert changed == [{"role": "user", "content": [image, {"type": "text", "text": "new"}]}]
