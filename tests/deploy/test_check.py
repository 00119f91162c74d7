"""`make check`: one failure fails the whole, and does not hide the next."""

from __future__ import annotations

import pytest

from deploy import check


def test_all_is_well_when_every_step_is(capfd: pytest.CaptureFixture[str]) -> None:
    assert check.main({"one": ["/bin/true"], "two": ["/bin/echo", "hello"]}) == 0
    assert capfd.readouterr().out == "== one\n== two\nhello\nall checks passed\n"


def test_every_step_runs_and_any_failure_fails_the_whole(capfd: pytest.CaptureFixture[str]) -> None:
    assert check.main({"one": ["/bin/false"], "two": ["/bin/true"], "three": ["/bin/false"]}) == 1
    assert capfd.readouterr().out == "== one\n== two\n== three\nfailed: one, three\n"


def test_the_steps_are_format_lint_types_and_import_rules() -> None:
    assert list(check.STEPS) == ["format", "lint", "types", "import rules"]
    assert [command[0] for command in check.STEPS.values()] == ["ruff", "ruff", "mypy", "lint-imports"]
