"""Secrets that the gateway makes at its first start and keeps in its home, for its owner's eyes only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gateway.errors import ConfigurationError


def keep(path: Path, make: Callable[[], str]) -> str:
    """The text in `path`, written from `make` if there is none yet. Two processes that race agree on one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(make() + "\n")
            file.flush()
            os.fsync(file.fileno())
    text = path.read_text(encoding="utf-8").strip()
    if not text:
        raise ConfigurationError(f"{path} is empty: restore it from a backup, or delete it to get a new one")
    return text
