"""How bootstrap.py fills .venv: once, resumably, and again when what it should hold has changed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.deploy.conftest import Checkout
from tests.deploy.processes import run_python
from tests.deploy.wheels import make_wheel

BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "house-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("house.pth", ".")
        wheel.writestr("house-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: house\\nVersion: 1.0\\n")
        wheel.writestr("house-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("house-1.0.dist-info/RECORD", "")
    return name
"""
REMEMBER = 'echo "$@" >> "$(dirname "$0")/../calls"'


def calls(checkout: Checkout) -> list[str]:
    """What the fake Python was asked to do so far, and forgets."""
    path = checkout.venv / "calls"
    said = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [
        call.replace(f"{checkout.root}/deploy/requirements/", "").replace(str(checkout.root), "ROOT")
        for call in said
    ]


def test_a_bare_checkout_becomes_a_running_command_and_resumes_where_it_failed(
    checkout: Checkout, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    for name in ("torch", "alpha", "beta"):
        make_wheel(wheels, name)
    (checkout.root / "backend.py").write_text(BACKEND)
    (checkout.root / "deploy" / "lock.py").write_text("import alpha, beta, gamma, torch; print('it runs')")

    def run() -> subprocess.CompletedProcess[str]:
        environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "REPERTORY_ENGINE": "cpu"}
        return run_python(checkout.program, "lock", REPERTORY_HOME=str(checkout.home), **environment)

    first = run()
    assert first.returncode == 1, first
    log = checkout.home / "logs" / "install.log"
    assert first.stderr == (
        "repertory: an installation step failed (ERROR: Could not find a version that satisfies the requirement "
        f"gamma==1.0 (from versions: none)); the whole output is in {log}.\n"
    )
    started = [line for line in first.stdout.splitlines() if not line.startswith(" ")]
    assert started == [
        "Making the virtual environment .venv",
        "Installing torch 1.0",
        "Installing 2 packages (cpu)",
        "Installing 1 packages (dev)",
    ]

    make_wheel(wheels, "gamma")
    second = run()
    assert second.returncode == 0, second
    started = [line for line in second.stdout.splitlines() if not line.startswith(" ")]
    assert started == ["Installing 1 packages (dev)", "it runs"]

    third = run()
    assert (third.returncode, third.stdout) == (0, "it runs\n")


def test_what_is_installed_is_remembered_until_a_list_changes(
    checkout: Checkout, bootstrap: ModuleType
) -> None:
    checkout.fake_venv(REMEMBER)
    bootstrap.install(False, with_development=True)
    assert calls(checkout) == [
        "-c import torch, sys; sys.exit(torch.__version__ != '1.0')",
        "-m pip install --progress-bar off -r cpu.txt --no-deps",
        "-m pip install --no-deps --no-build-isolation -e ROOT",
        "-m pip install --progress-bar off -r dev.txt --no-deps",
        "-m pip install --no-deps --no-build-isolation -e ROOT",
    ]
    bootstrap.install(False, with_development=True)
    assert calls(checkout) == []
    checkout.require("dev", "gamma==2.0\n")
    bootstrap.install(False, with_development=False)
    assert calls(checkout) == []
    bootstrap.install(False, with_development=True)
    assert [call.split(" -r ")[1] for call in calls(checkout) if " -r " in call] == ["dev.txt --no-deps"]


@pytest.mark.parametrize("changed", ["deploy/requirements/cpu.txt", "pyproject.toml"])
def test_a_changed_file_makes_what_is_installed_stale(
    checkout: Checkout, bootstrap: ModuleType, changed: str
) -> None:
    checkout.fake_venv("exit 0")
    listed = str(checkout.root / "deploy" / "requirements" / "cpu.txt")
    assert not bootstrap.is_installed("cpu", listed)
    bootstrap.install(False, with_development=False)
    assert bootstrap.is_installed("cpu", listed)
    with (checkout.root / changed).open("a") as file:
        file.write("# changed\n")
    assert not bootstrap.is_installed("cpu", listed)


def test_nothing_is_installed_where_python_is_gone(checkout: Checkout, bootstrap: ModuleType) -> None:
    checkout.fake_venv("exit 0")
    bootstrap.install(False, with_development=False)
    (checkout.venv / "bin" / "python").unlink()
    assert not bootstrap.is_installed("cpu", str(checkout.root / "deploy" / "requirements" / "cpu.txt"))


def test_a_step_that_fails_leaves_no_stamp(checkout: Checkout, bootstrap: ModuleType) -> None:
    checkout.fake_venv('case "$*" in *" -e "*) echo "error: no"; exit 1;; esac')
    with pytest.raises(bootstrap.Refusal, match=r"\(error: no\)"):
        bootstrap.install(False, with_development=False)
    assert not (checkout.venv / "installed-cpu").exists()


def test_torch_comes_from_its_own_index_where_pip_has_no_cpu_build(
    checkout: Checkout, bootstrap: ModuleType
) -> None:
    checkout.fake_venv(f'{REMEMBER}; case "$*" in -c*|*torch==1.0) exit 1;; esac')
    bootstrap.install(False, with_development=False)
    assert calls(checkout)[1:3] == [
        "-m pip install torch==1.0",
        "-m pip install torch==1.0 --index-url https://download.pytorch.org/whl/cpu",
    ]


def test_for_a_gpu_pip_resolves_and_torch_is_nothing_special(
    checkout: Checkout, bootstrap: ModuleType
) -> None:
    checkout.fake_venv(REMEMBER)
    bootstrap.install(True, with_development=False)
    assert calls(checkout) == [
        "-m pip install --progress-bar off -r gpu.txt",
        "-m pip install --no-deps --no-build-isolation -e ROOT",
    ]


def _other_engine(checkout: Checkout) -> None:
    (checkout.venv / "installed-gpu").touch()


def _no_python(checkout: Checkout) -> None:
    python = checkout.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python3.11")


def _no_pip(checkout: Checkout) -> None:
    (checkout.venv / "bin" / "pip").unlink()


@pytest.mark.parametrize("spoil", [_other_engine, _no_python, _no_pip])
def test_an_environment_of_another_engine_or_without_its_python_is_made_anew(
    checkout: Checkout,
    bootstrap: ModuleType,
    spoil: Callable[[Checkout], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkout.fake_venv(REMEMBER)
    bootstrap.install(False, with_development=True)
    # Stands in for `python -m venv --clear`, which takes seconds.
    (checkout.root / "venv.py").write_text(
        "import shutil, sys; print(sys.argv); folder = sys.argv[-1]\n"
        "shutil.rmtree(folder); shutil.copytree(folder + '.good', folder)"
    )
    monkeypatch.setenv("PYTHONPATH", str(checkout.root))
    shutil.copytree(
        checkout.venv, f"{checkout.venv}.good", ignore=shutil.ignore_patterns("installed-*", "calls")
    )
    spoil(checkout)
    capsys.readouterr()
    bootstrap.install(False, with_development=False)
    assert capsys.readouterr().out.startswith("Making the virtual environment .venv\n")
    assert [call.split(" -r ")[1] for call in calls(checkout) if " -r " in call] == ["cpu.txt --no-deps"]
    assert [path.name for path in checkout.venv.glob("installed-*")] == ["installed-cpu"]
