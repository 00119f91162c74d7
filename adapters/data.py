"""Training examples in OpenAI's chat format: every fault by line, and a fingerprint of what is trained on.

Knows no tokenizer: whether a row is too long for a model is the training process's question.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from adapters.errors import DataInvalid, LineFault

Role = Literal["system", "user", "assistant"]

ROLES = frozenset({"system", "user", "assistant"})
KEYS = frozenset({"role", "content", "weight"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `trained` is False for what the model only reads: every turn of others, and `"weight": 0`."""

    role: Role
    content: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation; `line` counts from 1 in the file it came from."""

    line: int
    messages: tuple[Message, ...]


def load_examples(path: Path) -> tuple[Example, ...]:
    """Read a UTF-8 JSONL file. Raises DataInvalid with every fault, or OSError."""
    return parse_examples(path.read_text(encoding="utf-8", errors="replace").split("\n"))


def parse_examples(lines: Iterable[str]) -> tuple[Example, ...]:
    """Read `{"messages": [...]}` rows; blank lines are skipped and counted.

    Raises DataInvalid with every fault. The codes are those of OpenAI's cookbook on preparing chat data:
    data_type, missing_messages_list, message_missing_key, message_unrecognized_key,
    unrecognized_role, missing_content, example_missing_assistant_message. Ours: invalid_weight, empty_file.
    """
    examples: list[Example] = []
    faults: list[LineFault] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _read_row(line)
        found = [LineFault(number, code, message) for code, message in _row_faults(row)]
        faults.extend(found)
        if not found:
            examples.append(Example(number, tuple(_message(raw) for raw in cast(Any, row)["messages"])))
    if not examples and not faults:
        faults.append(LineFault(0, "empty_file", "no examples"))
    if faults:
        raise DataInvalid(tuple(faults))
    return tuple(examples)


def fingerprint(examples: Iterable[Example]) -> str:
    """Return a sha256 over the examples in order; spacing and key order of the file do not change it."""
    digest = hashlib.sha256()
    for example in examples:
        turns = [[turn.role, turn.content, turn.trained] for turn in example.messages]
        digest.update(json.dumps(turns, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _read_row(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _row_faults(row: object) -> Iterator[tuple[str, str]]:
    if not isinstance(row, dict):
        yield "data_type", "the line is not a JSON object"
        return
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "missing_messages_list", "'messages' is missing, empty or not a list"
        return
    for position, message in enumerate(messages):
        for code, text in _message_faults(message):
            yield code, f"message {position}: {text}"
    if not any(isinstance(message, dict) and _is_trained(message) for message in messages):
        yield "example_missing_assistant_message", "no assistant message to learn from"


def _message_faults(message: object) -> Iterator[tuple[str, str]]:
    if not isinstance(message, dict):
        yield "data_type", "not an object"
        return
    for key in ("role", "content"):
        if key not in message:
            yield "message_missing_key", f"{key!r} is missing"
    if unknown := sorted(message.keys() - KEYS):
        yield "message_unrecognized_key", f"unknown {', '.join(map(repr, unknown))}"
    role, content = message.get("role"), message.get("content")
    if "role" in message and not (isinstance(role, str) and role in ROLES):
        yield "unrecognized_role", f"role {role!r} is none of {', '.join(sorted(ROLES))}"
    # An empty system message is meant: it keeps the chat template from adding its own.
    if "content" in message and not (isinstance(content, str) and (content or role == "system")):
        yield "missing_content", "'content' is empty or not a string"
    if "weight" in message and not (role == "assistant" and message["weight"] in (0, 1)):
        yield "invalid_weight", "'weight' is 0 or 1 and only on assistant messages"


def _is_trained(message: dict[str, Any]) -> bool:
    return message.get("role") == "assistant" and message.get("weight", 1) != 0


def _message(raw: dict[str, Any]) -> Message:
    return Message(raw["role"], raw["content"], _is_trained(raw))
