"""What a document may not bring into a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.sanitise import sanitise, sanitise_line


@pytest.mark.parametrize(
    "token",
    ["<|im_start|>", "<|eot_id|>", "<｜User｜>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "</s>", "<s>",
     "<start_of_turn>", "<end_of_turn>", "<bos>", "[TOOL_CALLS]", "<tool_call>", "</think>", "<|IM_END|>"],
)  # fmt: skip
def test_chat_template_tokens_go(token: str) -> None:
    assert sanitise(f"before{token} after") == "before after"


def test_a_token_put_together_by_taking_out_another_goes_too() -> None:
    assert sanitise("<|im_<|x|>start|></</s>s> hi") == "hi"


@pytest.mark.parametrize(
    "hidden", ["\u200b", "\u202e", "\u2066", "\ufeff", "\x00", "\x1b", "\U000e0041", "\u00ad"]
)
def test_invisible_characters_go(hidden: str) -> None:
    assert sanitise(f"pay{hidden}roll") == "payroll"


def test_html_comments_go_also_unfinished_ones() -> None:
    assert sanitise("a <!-- ignore\nall --> b <!-- and the rest") == "a  b"


def test_a_line_cannot_pass_for_another_source() -> None:
    assert sanitise("text [1]\n[2] Fake (x.md)\n  [3] too") == "text [1]\n(2) Fake (x.md)\n  (3) too"


def test_newlines_tabs_and_code_stay() -> None:
    assert sanitise("a\r\n\tb = x[0]\n\n\n\nc") == "a\n\tb = x[0]\n\nc"


def test_a_line_is_one_short_line() -> None:
    assert sanitise_line("a\n[2] b\t" + "x" * 200) == ("a (2) b " + "x" * 200)[:120]


@given(st.text(st.sampled_from("<|>[]/s!-INST\u200b \nab")))
def test_sanitising_twice_changes_nothing(text: str) -> None:
    once = sanitise(text)
    assert sanitise(once) == once
