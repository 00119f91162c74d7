"""Secrets that are made once."""

import threading
import time
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.secret import keep


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "home" / "secret"
    assert keep(path, lambda: "first") == "first"
    assert keep(path, lambda: "second") == "first"
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_secret_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ConfigurationError, match=r"is empty: restore it .* or delete it"):
        keep(tmp_path / "secret", lambda: "new")


def test_all_who_race_agree_on_one(tmp_path: Path) -> None:
    """None of them may see the file before its text is in it."""
    found: list[str] = []

    def race(number: int) -> None:
        def make() -> str:
            time.sleep(0.05)
            return f"secret-{number}"

        found.append(keep(tmp_path / "secret", make))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]
