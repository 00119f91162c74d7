"""A checkout of a test's own: bootstrap.py in it takes its folder for the project."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tests.deploy.processes import ROOT

PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "house"
version = "1.0"
"""


@dataclass(frozen=True)
class Checkout:
    """A folder with bootstrap.py, requirement files and a home."""

    root: Path
    home: Path

    @property
    def program(self) -> Path:
        return self.root / "deploy" / "bootstrap.py"

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def require(self, name: str, text: str) -> Path:
        path = self.root / "deploy" / "requirements" / f"{name}.txt"
        path.write_text(text)
        return path

    def fake_venv(self, script: str) -> None:
        """A virtual environment whose Python is a shell script."""
        (self.venv / "bin").mkdir(parents=True)
        for name in ("python", "pip"):
            program = self.venv / "bin" / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    for name in [name for name in os.environ if name.startswith("REPERTORY_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "checkout"
    (root / "deploy" / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "bootstrap.py", root / "deploy")
    (root / "pyproject.toml").write_text(PYPROJECT)
    made = Checkout(root, tmp_path / "home")
    made.require("cpu", "# torch 1.0\nalpha==1.0\nbeta==1.0\n")
    made.require("gpu", "alpha==1.0\ntorch==1.0\nvllm==1.0\n")
    made.require("dev", "gamma==1.0\n")
    return made


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ModuleType]:
    """Imports a file as a module that nobody else sees."""

    def loaded(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{path.stem}_of_{path.parents[1].name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture
def bootstrap(
    checkout: Checkout, load: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """bootstrap.py of the test's own checkout."""
    monkeypatch.setenv("REPERTORY_HOME", str(checkout.home))
    return load(checkout.program)
