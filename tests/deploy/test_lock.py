"""`make lock`: what it writes down, from distributions that exist only here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from deploy import lock
from tests.deploy.processes import ROOT
from tests.deploy.wheels import make_wheel, mark_installed

PYPROJECT = """[project]
name = "house"
dependencies = ["base-one>=1"]

[project.optional-dependencies]
postgresql = ["need-pg"]
retrieval = ["need-vectors"]
training = ["need-trainer"]
demo = ["need-trainer"]
engine = ["need-engine"]
engine-cpu = ["need-engine-cpu"]
dev = ["need-tests", "base-one"]
"""
NAMES = [
    "base-one",
    "need-pg",
    "need-vectors",
    "need-trainer",
    "need-engine",
    "need-engine-cpu",
    "need-tests",
]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_closure_holds_what_is_needed_by_what_is_needed(site: Path) -> None:
    mark_installed(site, "top", "1.0", ["Middle_One>=1"])
    mark_installed(site, "middle-one", "2.0", ["bottom"])
    mark_installed(site, "bottom", "3.0", ["top"])
    mark_installed(site, "stranger")
    assert lock.closure(["top"]) == {"top": "1.0", "middle-one": "2.0", "bottom": "3.0"}


def test_a_closure_follows_the_extras_that_are_asked_for(site: Path) -> None:
    mark_installed(site, "top", "1.0", ["one; extra == 'a'", "two; extra == 'b'"])
    mark_installed(site, "one", "1.0")
    mark_installed(site, "two", "2.0")
    assert lock.closure(["top"]) == {"top": "1.0"}
    assert lock.closure(["top[b]"]) == {"top": "1.0", "two": "2.0"}
    assert lock.closure(["top", "top[a]", "top[b]"]) == {"top": "1.0", "one": "1.0", "two": "2.0"}


def test_a_closure_of_extras_that_need_each_other_ends(site: Path) -> None:
    mark_installed(site, "left", "1.0", ["right[more]; extra == 'all'"])
    mark_installed(site, "right", "1.0", ["left[all]; extra == 'more'"])
    assert lock.closure(["left[all]"]) == {"left": "1.0", "right": "1.0"}


def test_a_closure_heeds_markers(site: Path) -> None:
    mark_installed(site, "top", "1.0", ["never; sys_platform == 'win32'", "always; python_version >= '3'"])
    mark_installed(site, "always")
    assert lock.closure(["top"]) == {"top": "1.0", "always": "1.0"}


def test_a_closure_leaves_out_what_has_only_cuda_builds(site: Path) -> None:
    mark_installed(site, "top", "1.0", sorted(lock.LEFT_OUT))
    for name in lock.LEFT_OUT:
        mark_installed(site, name, "1.0", ["behind-it"])
    assert lock.closure(["top"]) == {"top": "1.0"}
    assert {"torchvision", "torchaudio", "torchcodec"} == lock.LEFT_OUT


def test_the_three_lists_are_written_from_pyproject_and_what_is_installed(
    site: Path, tmp_path: Path, load: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkout" / "deploy"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "lock.py", folder)
    (folder.parent / "pyproject.toml").write_text(PYPROJECT)
    wheels = tmp_path / "wheels"
    for name in [*NAMES, *lock.BUILD]:
        mark_installed(site, name, "1.0", ["torch"] if name == "need-engine-cpu" else [])
        make_wheel(wheels, name)
    mark_installed(site, "torch", "9.0+cpu")
    make_wheel(wheels, "need-engine", "1.0", requires=["torch"])
    make_wheel(wheels, "torch", "9.0+cpu")
    for key, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheels), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{key}", value)

    load(folder / "lock.py").main()

    written = {path.stem: path.read_text().splitlines()[1:] for path in folder.glob("requirements/*")}
    assert written == {
        "cpu": [
            "# torch 9.0+cpu",
            *(
                f"{name}==1.0"
                for name in [
                    "base-one",
                    "editables",
                    "hatchling",
                    "need-engine-cpu",
                    "need-pg",
                    "need-trainer",
                    "need-vectors",
                ]
            ),
        ],
        "dev": ["need-tests==1.0"],
        "gpu": [
            *(
                f"{name}==1.0"
                for name in [
                    "base-one",
                    "editables",
                    "hatchling",
                    "need-engine",
                    "need-pg",
                    "need-trainer",
                    "need-vectors",
                ]
            ),
            "torch==9.0",
        ],
    }
    assert str(site) in sys.path
