"""Where the demo keeps what it makes, and how it marks a step as done. Knows no step."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import ConfigurationError

CONTENT = Path(__file__).parent
BASE_MODEL = "smollm2-135m"
EMBEDDER = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class Place:
    """The folders below REPERTORY_HOME that the demo uses."""

    home: Path

    @classmethod
    def from_environment(cls) -> Place:
        """REPERTORY_HOME, else `.repertory` in the working directory."""
        return cls(Path(os.environ.get("REPERTORY_HOME") or ".repertory").resolve())

    @property
    def base_model(self) -> Path:
        return self.home / "models" / BASE_MODEL

    @property
    def embedder(self) -> Path:
        return self.home / "models" / EMBEDDER

    @property
    def training(self) -> Path:
        return self.home / "training"

    @property
    def state(self) -> Path:
        return self.home / "demo-state.json"

    @property
    def config(self) -> Path:
        return self.home / "demo.yaml"

    @property
    def summary(self) -> Path:
        return self.home / "demo.json"

    @property
    def gateway_log(self) -> Path:
        return self.home / "logs" / "gateway.log"


def port() -> int:
    """REPERTORY_PORT, else 8000. Raises ConfigurationError."""
    text = os.environ.get("REPERTORY_PORT") or "8000"
    if not text.isdecimal():
        raise ConfigurationError(f"REPERTORY_PORT is {text!r}, and a port is a number from 1 to 65535")
    return int(text)


@contextmanager
def exclusive(place: Place) -> Iterator[None]:
    """Hold the home for one run of the demo; a second one gets a ConfigurationError."""
    place.home.mkdir(parents=True, exist_ok=True)
    with (place.home / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another run of the demo is using {place.home}: stop it, or set REPERTORY_HOME to another folder"
            ) from error
        yield


def write_json(path: Path, value: Any) -> None:
    """Replace a file in one step, readable by its owner only: it may hold keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The file's object; empty where there is no file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `final` only when the block ends well: a half-made one is never taken."""
    unfinished = final.with_name(final.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.replace(final)
