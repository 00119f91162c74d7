"""Secrets that the gateway makes at its first start and keeps in its home, for its owner's eyes only."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gateway.errors import ConfigurationError


def keep(path: Path, make: Callable[[], str]) -> str:
    """The text in `path`, written from `make` if there is none yet. Two processes that race agree on one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _publish(path, make() + "\n")
    text = path.read_text(encoding="utf-8").strip()
    if not text:
        raise ConfigurationError(f"{path} is empty: restore it from a backup, or delete it to get a new one")
    return text


def _publish(path: Path, text: str) -> None:
    """Write aside, then link: the name appears with its whole text, and only if nobody was faster."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        os.unlink(aside)
