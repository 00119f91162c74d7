"""What the figures were taken on, and how much of it others were using."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "uvicorn",
    "uvloop",
    "httptools",
    "fastapi",
    "starlette",
    "aiohttp",
    "orjson",
    "pydantic",
    "sqlalchemy",
)
_BUSY_SHARE = 0.15
_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, at the moment it was looked at.

    Attributes:
        busy_cores: how many cores' worth of work others were doing; time stolen by a hypervisor counts.
    """

    cpu: str
    cores: int
    load: tuple[float, float, float]
    busy_cores: float
    python: str
    system: str
    versions: dict[str, str]

    @property
    def is_busy(self) -> bool:
        return self.busy_cores > _BUSY_SHARE * self.cores

    def lines(self) -> list[str]:
        """For people to read."""
        load = ", ".join(f"{value:.2f}" for value in self.load)
        lines = [
            f"{self.cpu}, {self.cores} cores, {self.system}",
            f"load average {load}; {self.busy_cores:.1f} of {self.cores} cores busy before the start",
            f"Python {self.python}, "
            + ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        if self.is_busy:
            lines.append(
                "WARNING: the machine is busy: latencies and requests/s are worse than they would be; "
                "CPU per request and ratios suffer less."
            )
        return lines


def describe() -> Machine:
    """Look at this machine. Takes half a second."""
    before, started = busy_seconds(), time.monotonic()
    time.sleep(_SAMPLE_SECONDS)
    busy = (busy_seconds() - before) / (time.monotonic() - started)
    return Machine(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        load=os.getloadavg(),
        busy_cores=busy,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        versions={name: metadata.version(name) for name in _PACKAGES},
    )


class Others:
    """How busy other processes keep the machine from here on.

    The own share is this process's and that of its children that have ended.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = busy_seconds() - _own_seconds()

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def cores(self) -> float:
        """On average since the beginning, in cores."""
        return max(0.0, busy_seconds() - _own_seconds() - self._before) / self.seconds()


def _own_seconds() -> float:
    return sum(os.times()[:4])


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo, which not every architecture gives."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def busy_seconds() -> float:
    """Seconds all cores together were not idle since boot, stolen time included."""
    return busy_ticks(Path("/proc/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def busy_ticks(stat: str) -> int:
    """The same in ticks, from the text of /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return user + nice + system + irq + softirq + steal
