"""The servers that are measured: each a process of its own, bound to this one's life, watched through /proc."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.engines import launch

ROOT = Path(__file__).parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


class BenchError(Exception):
    """The benchmark can't go on; the message says why."""


class Child:
    """A running server. Its standard output goes to `output`, its errors to a file beside that."""

    def __init__(self, arguments: list[str], *, port: int, output: Path) -> None:
        self.port = port
        self.output = output
        self._errors = output.with_suffix(".errors")
        # An operator's own settings are not what is measured.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REPERTORY_")}
        with output.open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-I", launch.__file__, sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, path: str) -> None:
        """Return when `path` answers with a status below 500."""
        end = time.monotonic() + _START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise BenchError(f"{self._what()} ended at its start: {self._last_words()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", path)
                    if connection.getresponse().status < 500:
                        return
            if time.monotonic() > end:
                raise BenchError(
                    f"{self._what()} was not ready in {_START_SECONDS:.0f} s: {self._last_words()}"
                )
            time.sleep(0.05)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def rss_mb(self) -> float:
        return rss_bytes(self.pid) / 2**20

    def stop(self) -> None:
        """Ask it to end, and after a while make it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _what(self) -> str:
        return f"the process {self.output.stem}"

    def _last_words(self) -> str:
        return self._errors.read_text(errors="replace").strip()[-600:] or "it said nothing"


@contextlib.contextmanager
def running(arguments: list[str], *, ready: str, output: Path, port: int) -> Iterator[Child]:
    """A child that answers on `ready`, stopped at the end."""
    child = Child(arguments, port=port, output=output)
    try:
        child.wait_for(ready)
        yield child
    finally:
        child.stop()


def tree(pid: int) -> list[int]:
    """A process and all that descend from it; those that have ended are left out."""
    found = [pid]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """What the threads of a process tree have used, user and system time together."""
    used = 0.0
    for member in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            used += _process_seconds(Path(f"/proc/{member}"))
    return used


def _process_seconds(process: Path) -> float:
    try:
        # In nanoseconds, where the other file counts hundredths of a second; not every kernel has it.
        per_thread = [int((t / "schedstat").read_text().split()[0]) for t in (process / "task").iterdir()]
    except FileNotFoundError:
        return stat_ticks((process / "stat").read_text()) / _TICKS
    return sum(per_thread) / 1e9


def stat_ticks(stat: str) -> int:
    """utime + stime of a line of /proc/PID/stat. The name in it may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def rss_bytes(pid: int) -> int:
    """Resident memory of a process tree."""
    pages = 0
    for member in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
    return pages * _PAGE
