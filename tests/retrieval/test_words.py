"""Words as lexical signals."""

import pytest

from retrieval.words import content_words, stem, words


def test_stop_words_and_single_letters_go_and_digits_stay() -> None:
    assert content_words("How many days do I get in year 2? x") == ["day", "year", "2"]


def test_words_are_lower_case_and_keep_their_apostrophes() -> None:
    assert words("Don't STOP_now") == ["don't", "stop", "now"]


@pytest.mark.parametrize(
    "forms",
    [
        ("claim", "claims", "claimed", "claiming"),
        ("policy", "policies"),
        ("expense", "expenses"),
        ("carry", "carries"),
        ("plan", "planned"),
    ],
)
def test_forms_of_a_word_share_a_stem(forms: tuple[str, ...]) -> None:
    assert len({stem(form) for form in forms}) == 1


@pytest.mark.parametrize("word", ["is", "bus", "class", "sing"])
def test_short_words_are_left_alone(word: str) -> None:
    assert stem(word) == word
