"""Looking at processes from outside: who descends from whom, and who is still there."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would steer Repertory, pip or make, and with `extra`."""
    ours = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("REPERTORY_", "PIP_", "MAKE")) and key != "MFLAGS"
    }
    return {**ours, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1", **extra}


def run_python(*arguments: object, cwd: Path = ROOT, **extra: str) -> subprocess.CompletedProcess[str]:
    """A Python that is expected to end soon."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def lives(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def descendants(pid: int) -> dict[int, str]:
    """Command lines by process id, children of children included."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it ended while we looked
            for child in map(int, (task / "children").read_text().split()):
                command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                found |= {child: command, **descendants(child)}
    return found
