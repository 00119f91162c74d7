"""Counts tokens with the served model's tokenizer, for the parts of a prompt whose text the gateway chose.

Counts of texts that come back (system prompts, chunks) are remembered; a client's own turns are not counted
here at all, so the hot path never waits for a tokenizer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gateway.errors import ConfigurationError

_REMEMBERED = 4096
_REMEMBERED_CHARACTERS = 4 * 2**20


class TokenCounter(Protocol):
    """Counts the tokens of a text."""

    exact: bool

    def count(self, text: str) -> int:
        """Tokens in `text`, without a chat template around it."""


class WordCounter:
    """One token per word: the echo engine's own measure."""

    exact = True

    def count(self, text: str) -> int:
        return len(text.split())


class LengthCounter:
    """Four characters to a token: a guess, for an engine whose tokenizer is not configured."""

    exact = False

    def count(self, text: str) -> int:
        return -(-len(text) // 4)


class TokenizerCounter:
    """A `tokenizer.json` through the `tokenizers` library."""

    exact = True

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer  # 20 MB: only where an engine has a real tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigurationError(f"{folder} holds no tokenizer.json: name the base model's folder")
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


class RememberingCounter:
    """Another counter, with its latest counts kept: bounded in entries and in characters."""

    def __init__(self, counter: TokenCounter) -> None:
        self.exact = counter.exact
        self._count: Callable[[str], int] = counter.count
        self._known: OrderedDict[str, int] = OrderedDict()
        self._characters = 0

    def count(self, text: str) -> int:
        known = self._known.get(text)
        if known is not None:
            self._known.move_to_end(text)
            return known
        counted = self._count(text)
        self._known[text] = counted
        self._characters += len(text)
        while len(self._known) > _REMEMBERED or self._characters > _REMEMBERED_CHARACTERS:
            old, _ = self._known.popitem(last=False)
            self._characters -= len(old)
        return counted
