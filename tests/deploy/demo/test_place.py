"""Where the demo keeps things: one run at a time, nothing half-made, secrets for their owner only."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.place import Place, exclusive, new_folder, port, read_json, write_json
from gateway.errors import ConfigurationError
from tests.deploy.processes import ROOT

HOLD = """
import sys
from pathlib import Path
from deploy.demo.place import Place, exclusive
with exclusive(Place(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_home_is_named_by_the_environment_or_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REPERTORY_HOME", raising=False)
    assert Place.from_environment().home == tmp_path / ".repertory"
    monkeypatch.setenv("REPERTORY_HOME", "elsewhere")
    assert Place.from_environment().home == tmp_path / "elsewhere"


def test_the_port_is_named_by_the_environment_or_is_8000(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in {"8011": 8011, "": 8000}.items():
        monkeypatch.setenv("REPERTORY_PORT", text)
        assert port() == expected
    monkeypatch.setenv("REPERTORY_PORT", "eighty")
    with pytest.raises(
        ConfigurationError, match="REPERTORY_PORT is 'eighty', and a port is a number from 1 to"
    ):
        port()


def test_a_second_run_in_the_same_home_is_refused_until_the_first_has_ended(place: Place) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place.home)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigurationError) as refused, exclusive(place):
            pytest.fail("two runs hold one home")
        assert str(refused.value) == (
            f"another run of the demo is using {place.home}: stop it, or set REPERTORY_HOME to another folder"
        )
        other.communicate("")
    with exclusive(place):
        pass


def test_a_new_folder_appears_when_it_is_whole(place: Place) -> None:
    final = place.base_model
    with new_folder(final) as unfinished:
        (unfinished / "weights").write_text("all of them")
        assert not final.exists()
    assert [path.name for path in final.parent.iterdir()] == [final.name]
    assert (final / "weights").read_text() == "all of them"


def test_a_half_made_folder_is_never_taken_and_the_next_begins_empty(place: Place) -> None:
    final = place.base_model

    def half_make() -> None:
        with new_folder(final) as unfinished:
            (unfinished / "half").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        half_make()
    assert not final.exists()
    with new_folder(final) as unfinished:
        assert list(unfinished.iterdir()) == []
    assert final.is_dir()


def test_json_is_replaced_in_one_step_and_readable_by_its_owner_only(place: Place) -> None:
    path = place.home / "deep" / "keys.json"
    write_json(path, {"acme": "old"})
    write_json(path, {"acme": "sk-rep-…"})
    assert read_json(path) == {"acme": "sk-rep-…"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["keys.json"]


def test_json_that_was_never_written_is_empty(place: Place) -> None:
    assert read_json(place.state) == {}
