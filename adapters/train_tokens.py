"""Examples as token ids and labels, exactly as the engine will see the prompt and must continue it.

Knows the tokenizer's chat template and nothing of the model or the trainer.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from adapters.data import Example, Message
from adapters.errors import DataInvalid, LineFault

IGNORED = -100
"""The label that PyTorch's cross-entropy leaves out."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """One row: `labels` equals `input_ids` where the token is trained and is IGNORED elsewhere."""

    line: int
    input_ids: list[int]
    labels: list[int]


def tokenize(
    examples: Iterable[Example],
    tokenizer: Any,
    *,
    stop_ids: Collection[int],
    system_prompt: str | None,
    max_length: int,
) -> list[Tokenized]:
    """Render, tokenize and label every example; lengths are in tokens.

    Raises DataInvalid with every fault: `over_length`, `end_of_turn_untrained` (the template closes an answer
    with no token of `stop_ids`, so the model would never learn to stop) and `template_unstable` (the template
    renders earlier turns differently once later ones follow, so what is trained is not what is served).
    """
    rows, faults = [], []
    for example in examples:
        segments = _segments(_with_system(example.messages, system_prompt), tokenizer)
        if segments is None:
            faults.append(
                LineFault(example.line, "template_unstable", "the chat template rewrites earlier turns")
            )
            continue
        row, stopped = _label(example.line, segments, tokenizer, stop_ids)
        if not stopped:
            faults.append(
                LineFault(example.line, "end_of_turn_untrained", "an answer ends without a stop token")
            )
        if len(row.input_ids) > max_length:
            text = f"{len(row.input_ids)} tokens, more than {max_length}"
            faults.append(LineFault(example.line, "over_length", text))
        rows.append(row)
    if faults:
        raise DataInvalid(tuple(faults))
    return rows


def _with_system(messages: tuple[Message, ...], system_prompt: str | None) -> tuple[Message, ...]:
    if system_prompt is None or messages[0].role == "system":
        return messages
    return (Message("system", system_prompt, trained=False), *messages)


def _segments(messages: tuple[Message, ...], tokenizer: Any) -> list[tuple[str, bool]] | None:
    """Split the rendered conversation into (text, trained); None when later turns rewrite earlier ones."""
    turns = [{"role": message.role, "content": message.content} for message in messages]

    def render(count: int, *, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(turns[:count], tokenize=False, add_generation_prompt=prompt))

    segments, done = [], ""
    for count, message in enumerate(messages):
        if not message.trained:
            continue
        asked, answered = render(count, prompt=True), render(count + 1, prompt=False)
        if not asked.startswith(done) or not answered.startswith(asked):
            return None
        segments += [(asked[len(done) :], False), (answered[len(asked) :], True)]
        done = answered
    return segments


def _label(
    line: int, segments: list[tuple[str, bool]], tokenizer: Any, stop_ids: Collection[int]
) -> tuple[Tokenized, bool]:
    """Tokenize segment by segment: an engine tokenizes the prompt alone, so no token may straddle its end."""
    input_ids: list[int] = []
    labels: list[int] = []
    stopped = True
    for text, trained in segments:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        # What a template writes after the end of turn (often a newline) is never generated, so never trained.
        end = (
            max((place + 1 for place, token in enumerate(ids) if token in stop_ids), default=0)
            if trained
            else 0
        )
        stopped = stopped and not (trained and end == 0)
        input_ids += ids
        labels += ids[:end] + [IGNORED] * (len(ids) - end)
    while labels and labels[-1] == IGNORED:
        input_ids.pop()
        labels.pop()
    return Tokenized(line, input_ids, labels), stopped
