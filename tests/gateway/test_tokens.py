"""Counters of tokens, and a memory that stays small."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from gateway.errors import ConfigurationError
from gateway.tokens import LengthCounter, RememberingCounter, TokenizerCounter, WordCounter


class Recording:
    """Counts words, and how often it was asked."""

    exact = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    def count(self, text: str) -> int:
        self.asked.append(text)
        return len(text.split())


def test_words_are_the_echo_engines_tokens() -> None:
    assert WordCounter().count("one two  three\n") == 3


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_without_a_tokenizer_four_characters_are_a_token(text: str, tokens: int) -> None:
    assert LengthCounter().count(text) == tokens
    assert not LengthCounter().exact


def test_a_tokenizer_counts_whole_texts_without_special_tokens(tmp_path: Path) -> None:
    """The file may ask for truncation and padding; a count heeds neither."""
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=10)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert TokenizerCounter(tmp_path).count("a b c a b") == 5


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no tokenizer\.json"):
        TokenizerCounter(tmp_path)


def test_a_text_is_counted_once() -> None:
    inner = Recording()
    counter = RememberingCounter(inner)
    assert [counter.count("a b"), counter.count("a b"), counter.count("c")] == [2, 2, 1]
    assert inner.asked == ["a b", "c"]


def test_the_latest_texts_are_remembered() -> None:
    inner = Recording()
    counter = RememberingCounter(inner)
    counter.count("kept")
    for number in range(4095):
        counter.count(f"text {number}")
    counter.count("kept")
    counter.count("one more")
    asked = len(inner.asked)
    counter.count("kept")
    assert len(inner.asked) == asked
    counter.count("text 0")
    assert len(inner.asked) == asked + 1


def test_large_texts_push_others_out() -> None:
    inner = Recording()
    counter = RememberingCounter(inner)
    counter.count("small")
    counter.count("x" * (4 * 2**20))
    counter.count("small")
    assert inner.asked.count("small") == 2
