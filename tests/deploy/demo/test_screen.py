"""What a person sees: plain lines where there is no terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from deploy.demo.screen import Screen, minutes


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120, highlight=False, force_terminal=False)


def said(console: Console) -> list[str]:
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_a_line_is_printed_as_it_is(console: Console) -> None:
    long = "curl [bold]x[/bold] " + "x" * 200
    Screen(console).say(long)
    assert said(console) == [long]


def test_a_step_says_when_it_begins_and_how_long_it_took(console: Console) -> None:
    with Screen(console).step("Fetching"):
        assert said(console) == ["Fetching …"]
    assert said(console)[1:] == ["Fetching: done in 0 s"]


def test_a_step_that_fails_is_not_called_done(console: Console) -> None:
    with pytest.raises(OSError, match="full"), Screen(console).step("Fetching"):
        raise OSError("full")
    assert said(console) == ["Fetching …"]


def test_bars_say_every_tenth_once(console: Console) -> None:
    with Screen(console).bars() as bars:
        for done in range(41):
            bars.show("Teaching", done, 40, f"{done} rows")
        bars.show("Unmeasured", 0, 0)
    tenths = [line for line in said(console) if re.match(r"Teaching: \d+% ", line)]
    assert tenths == [f"Teaching: {10 * n}% {4 * n} rows" for n in range(11)]


def test_time_left_is_in_minutes_and_seconds() -> None:
    assert minutes(65.9) == "1:05 left"
    assert minutes(3) == "0:03 left"
