import pytest

from adapters.data import Example, Message
from adapters.errors import DataInvalid
from adapters.train_tokens import IGNORED, tokenize

STOP = ord(">")


class LetterTokenizer:
    """One token per character; `template` renders turns, ending each in '>' and a newline as ChatML does."""

    def __init__(self, *, end=">\n", forgetful=False):
        self.end = end
        self.forgetful = forgetful

    def apply_chat_template(self, turns, *, tokenize, add_generation_prompt):
        shown = turns[-1:] if self.forgetful else turns
        text = "".join(f"{turn['role'][0]}:{turn['content']}{self.end}" for turn in shown)
        return text + ("a:" if add_generation_prompt else "")

    def __call__(self, text, *, add_special_tokens):
        return {"input_ids": [ord(letter) for letter in text]}


def example(*turns, line=1):
    return Example(line, tuple(Message(role, text, trained=role == "assistant") for role, text in turns))


def run(*examples, tokenizer=None, system_prompt=None, max_length=100):
    return tokenize(
        examples,
        tokenizer or LetterTokenizer(),
        stop_ids={STOP},
        system_prompt=system_prompt,
        max_length=max_length,
    )


def text(ids):
    return "".join("_" if token == IGNORED else chr(token) for token in ids)


def codes(caught):
    return [(fault.line, fault.code) for fault in caught.value.faults]


def test_only_the_answer_and_its_end_of_turn_are_trained():
    (row,) = run(example(("user", "hi"), ("assistant", "yes")))

    assert text(row.input_ids) == "u:hi>\na:yes>"
    assert text(row.labels) == "________yes>"


def test_every_answer_of_a_conversation_is_trained():
    (row,) = run(example(("user", "hi"), ("assistant", "A"), ("user", "so"), ("assistant", "B")))

    assert text(row.input_ids) == "u:hi>\na:A>\nu:so>\na:B>"
    assert text(row.labels) == "________A>_________B>"


def test_turns_after_the_last_answer_are_not_computed():
    (row,) = run(example(("user", "hi"), ("assistant", "A"), ("user", "so")))

    assert text(row.input_ids) == "u:hi>\na:A>"


@pytest.mark.parametrize(("prompt", "start"), [(None, "u:"), ("", "s:>\nu:"), ("Brief.", "s:Brief.>\nu:")])
def test_the_system_prompt_is_put_before_rows_that_have_none(prompt, start):
    (row,) = run(example(("user", "hi"), ("assistant", "A")), system_prompt=prompt)

    assert text(row.input_ids).startswith(start)


def test_a_rows_own_system_message_stays():
    (row,) = run(example(("system", "own"), ("user", "hi"), ("assistant", "A")), system_prompt="other")

    assert text(row.input_ids).startswith("s:own>\nu:")


def test_over_long_rows_are_refused_by_line_and_never_cut():
    short, long = (("user", "hi"), ("assistant", "A")), (("user", "hi" * 9), ("assistant", "A"))

    with pytest.raises(DataInvalid, match="26 tokens, more than 10") as caught:
        run(example(*short), example(*long, line=4), example(*long, line=7), max_length=10)
    assert codes(caught) == [(4, "over_length"), (7, "over_length")]


def test_an_answer_that_the_template_never_ends_is_refused():
    with pytest.raises(DataInvalid) as caught:
        run(example(("user", "hi"), ("assistant", "A")), tokenizer=LetterTokenizer(end="\n"))
    assert codes(caught) == [(1, "end_of_turn_untrained")]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    row = example(("user", "hi"), ("assistant", "A"), ("user", "so"), ("assistant", "B"), line=2)

    with pytest.raises(DataInvalid) as caught:
        run(row, tokenizer=LetterTokenizer(forgetful=True))
    assert codes(caught) == [(2, "template_unstable")]
