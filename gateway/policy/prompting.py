"""The system prompt: which one the model sees, by the release's policy, and what that saved.

`replace` sends the release's short prompt instead of the client's; `prepend` puts it before the client's;
`keep` uses it only where the client sent none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Policy = Literal["replace", "prepend", "keep"]

_SYSTEM_ROLES = ("system", "developer")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prompted:
    """The messages to send, and what of the client's own prompt was left out."""

    messages: list[Message]
    dropped: tuple[Message, ...] = ()


def apply(messages: list[Message], text: str | None, policy: Policy) -> Prompted:
    """Messages with the release's system prompt. The list and its messages are not changed in place.

    Without a release prompt the messages pass as they are. `prepend` merges with a leading client prompt
    that is plain text, because many chat templates accept one system message only.
    """
    if text is None:
        return Prompted(messages)
    ours = {"role": "system", "content": text}
    theirs = [message for message in messages if message["role"] in _SYSTEM_ROLES]
    if not theirs:
        return Prompted([ours, *messages])
    if policy == "keep":
        return Prompted(messages)
    if policy == "replace":
        return Prompted([ours, *(m for m in messages if m["role"] not in _SYSTEM_ROLES)], tuple(theirs))
    first = messages[0]
    if first["role"] in _SYSTEM_ROLES and isinstance(first.get("content"), str):
        merged = {**first, "content": f"{text}\n\n{first['content']}" if text else first["content"]}
        return Prompted([merged, *messages[1:]])
    return Prompted([ours, *messages])


def split_roles(messages: list[Message]) -> tuple[list[Message], list[Message], Message | None]:
    """(system messages, history, the last user message). History is all that is neither of the other two."""
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i]["role"] == "user"), None)
    system = [m for m in messages if m["role"] in _SYSTEM_ROLES]
    history = [m for i, m in enumerate(messages) if i != last and m["role"] not in _SYSTEM_ROLES]
    return system, history, None if last is None else messages[last]


def with_last_user_message(messages: list[Message], content: str) -> list[Message]:
    """The messages with the last user message's text replaced; its other parts (images, say) stay."""
    position = max(i for i, message in enumerate(messages) if message["role"] == "user")
    old = messages[position]
    if isinstance(old.get("content"), list):
        others = [
            part for part in old["content"] if not (isinstance(part, dict) and part.get("type") == "text")
        ]
        new = {**old, "content": [*others, {"type": "text", "text": content}]}
    else:
        new = {**old, "content": content}
    return [*messages[:position], new, *messages[position + 1 :]]
