"""The Makefile's promises: a list of its targets, and no removal without a yes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.processes import ROOT, environment

MAKEFILE = ROOT / "Makefile"


def make(*arguments: str, cwd: Path = ROOT, answer: str = "") -> str:
    command = ["make", "--no-print-directory", "-f", str(MAKEFILE), *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), input=answer, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [["help"], []])
def test_help_lists_every_target_with_what_it_does(arguments: list[str]) -> None:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE.read_text(), re.M)
    assert phony is not None
    lines = make(*arguments).splitlines()
    assert [line.split()[1] for line in lines] == phony[1].split()
    assert all(re.fullmatch(r"  make [a-z]+ +[A-Z].+", line) for line in lines), lines


@pytest.mark.parametrize("target", ["serve", "test", "check", "bench", "lock"])
def test_targets_hand_over_to_bootstrap(target: str) -> None:
    assert make("-n", target, "PYTHON=python3.12") == f"exec python3.12 deploy/bootstrap.py {target}\n"


@pytest.mark.parametrize(("answer", "kept"), [("y\n", False), ("n\n", True), ("\n", True), ("", True)])
def test_clean_removes_everything_after_a_yes_and_nothing_without(
    tmp_path: Path, answer: str, kept: bool
) -> None:
    for name in (".venv", ".repertory"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    said = make("clean", cwd=tmp_path, answer=answer)
    assert [path.exists() for path in (tmp_path / ".venv", tmp_path / ".repertory")] == [kept, kept]
    assert ("Nothing was removed." in said) is kept
