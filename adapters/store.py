"""Adapter bytes on disk, immutable and addressed by their content; one folder per digest, many names.

Knows no tenant and no engine, and does not judge whether the tensors fit a base model.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapters.errors import AdapterInvalid, AdapterNotFound, Fault
from adapters.manifest import DIGEST_PREFIX, NAME_PATTERN, AdapterManifest

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)
"""The only files kept, in the order in which they are hashed."""

PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
SWEEP_AFTER_SECONDS = 3600.0

_INCOMING = ".incoming-"
_ID = re.compile(rf"({NAME_PATTERN.pattern})@([0-9a-f]{{{DIGEST_PREFIX}}})")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class AdapterStore:
    """Adapters under `root`; several processes may share one folder.

    Layout: `root/<sha256>/` holds the two files and one `manifest.<name>.json` for each name. A folder is
    built aside and renamed, so a reader sees all of it or nothing. Every method blocks on the disk.
    """

    def __init__(self, root: Path, *, now: Callable[[], float] = time.time) -> None:
        self.root = root.resolve()
        self._now = now
        self.root.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, folder: Path, base_model: str, origin: Mapping[str, Any]) -> AdapterManifest:
        """Copy an adapter in and return its manifest; same bytes and name return the first manifest.

        Raises AdapterInvalid with every fault found, and then keeps nothing.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise AdapterInvalid((Fault("name", f"{name!r} does not match {NAME_PATTERN.pattern}"),))
        if faults := _folder_faults(folder):
            raise AdapterInvalid(faults)
        staged = self.root / f"{_INCOMING}{uuid.uuid4().hex}"
        staged.mkdir()
        try:
            sha256 = _copy(folder, staged)
            manifest = self._describe(name, sha256, staged, base_model, origin)
            final = self.root / sha256
            if not final.is_dir():
                _write_durably(staged / _manifest_file(name), manifest.to_json())
                if _publish(staged, final):
                    return manifest
            return _add_name(final, manifest)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def get(self, adapter_id: str) -> AdapterManifest:
        """Return the manifest of `name@sha12`. Raises AdapterNotFound."""
        match = _ID.fullmatch(adapter_id)
        if match is None:
            raise AdapterNotFound(adapter_id)
        name, prefix = match.groups()
        for file in self.root.glob(f"{prefix}*/{_manifest_file(name)}"):
            return AdapterManifest.from_json(file.read_text())
        raise AdapterNotFound(adapter_id)

    def path(self, adapter_id: str) -> Path:
        """Return the absolute folder an engine loads. Raises AdapterNotFound."""
        return self.root / self.get(adapter_id).sha256

    def list(self) -> tuple[AdapterManifest, ...]:
        """Return every manifest, ordered by id."""
        files = [file for folder in self._complete() for file in folder.glob("manifest.*.json")]
        return tuple(
            sorted((AdapterManifest.from_json(file.read_text()) for file in files), key=lambda m: m.id)
        )

    def sweep(self, *, older_than: float = SWEEP_AFTER_SECONDS) -> int:
        """Remove what an interrupted `put` left `older_than` seconds ago or before; return how many went.

        The age protects a `put` that another process is in the middle of.
        """
        complete = set(self._complete())
        cutoff = self._now() - older_than
        stale = [
            entry
            for entry in self.root.iterdir()
            if entry.is_dir()
            and (entry.name.startswith(_INCOMING) or _DIGEST.fullmatch(entry.name))
            and entry not in complete
            and entry.stat().st_mtime <= cutoff
        ]
        for folder in stale:
            shutil.rmtree(folder, ignore_errors=True)
        return len(stale)

    def _complete(self) -> tuple[Path, ...]:
        digests = (folder for folder in self.root.iterdir() if _DIGEST.fullmatch(folder.name))
        return tuple(folder for folder in digests if any(folder.glob("manifest.*.json")))

    def _describe(
        self, name: str, sha256: str, staged: Path, base_model: str, origin: Mapping[str, Any]
    ) -> AdapterManifest:
        # The copy is read, not the source: what was hashed is what is described.
        config, faults = _read_config(staged / CONFIG)
        if faults or (faults := _weights_faults(staged / WEIGHTS)):
            raise AdapterInvalid(faults)
        return AdapterManifest(
            name=name,
            sha256=sha256,
            base_model=base_model,
            rank=config["r"],
            alpha=config["lora_alpha"],
            target_modules=tuple(sorted(config["target_modules"])),
            size_bytes=sum((staged / file).stat().st_size for file in FILES),
            created_at=int(self._now()),
            origin=origin,
        )


def _manifest_file(name: str) -> str:
    return f"manifest.{name}.json"


def _folder_faults(folder: Path) -> tuple[Fault, ...]:
    """Judge names and kinds of files only; nothing is opened."""
    if folder.is_symlink() or not folder.is_dir():
        return (Fault("not_a_folder", f"{folder.name} is not a plain folder"),)
    faults = []
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink():
            faults.append(Fault("symlink", f"{entry.name} is a symbolic link"))
        elif entry.suffix.lower() in PICKLE_SUFFIXES:
            faults.append(
                Fault("pickle", f"{entry.name} may hold a pickle, which runs code when it is loaded")
            )
    for file in FILES:
        if not (folder / file).is_file():
            faults.append(Fault("missing_file", f"{file} is missing"))
    return tuple(faults)


def _read_config(path: Path) -> tuple[dict[str, Any], tuple[Fault, ...]]:
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        return {}, (Fault("config", f"{CONFIG} is not JSON: {error}"),)
    if not isinstance(config, dict):
        return {}, (Fault("config", f"{CONFIG} is not an object"),)
    wanted = {
        "peft_type": config.get("peft_type") == "LORA",
        "r": type(config.get("r")) is int and config["r"] > 0,
        "lora_alpha": type(config.get("lora_alpha")) in (int, float),
        "target_modules": _is_list_of_names(config.get("target_modules")),
    }
    return config, tuple(
        Fault("config", f"{CONFIG}: {key} is unusable") for key, good in wanted.items() if not good
    )


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _weights_faults(path: Path) -> tuple[Fault, ...]:
    """Check that the file begins as safetensors does (8 bytes of header length, then a JSON object).

    A pickle under the right name does not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        try:
            header = json.loads(file.read(length)) if 8 + length <= size else None
        except ValueError:
            header = None
    return () if isinstance(header, dict) else (Fault("weights", f"{WEIGHTS} is not a safetensors file"),)


def _copy(source: Path, target: Path) -> str:
    """Copy the files and return one digest over names, sizes and bytes, so no two pairs hash alike."""
    digest = hashlib.sha256()
    for name in FILES:
        # O_NOFOLLOW: the file may have become a link since the folder was judged.
        with open(os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as reading:
            size = os.fstat(reading.fileno()).st_size
            digest.update(f"{name}\0{size}\0".encode())
            with (target / name).open("xb") as writing:
                while block := reading.read(1 << 20):
                    digest.update(block)
                    writing.write(block)
                writing.flush()
                os.fsync(writing.fileno())
        (target / name).chmod(0o444)
    return digest.hexdigest()


def _publish(staged: Path, final: Path) -> bool:
    """Rename the finished folder into place; False when another `put` of the same bytes was first."""
    _sync_folder(staged)
    try:
        staged.rename(final)
    except OSError:
        if final.is_dir():
            return False
        raise
    _sync_folder(final.parent)
    return True


def _add_name(final: Path, manifest: AdapterManifest) -> AdapterManifest:
    file = final / _manifest_file(manifest.name)
    if not file.exists():
        _write_durably(file, manifest.to_json())
        _sync_folder(final)
        return manifest
    existing = AdapterManifest.from_json(file.read_text())
    if existing.base_model != manifest.base_model:
        message = (
            f"{existing.id} is stored for base model {existing.base_model!r}, not {manifest.base_model!r}"
        )
        raise AdapterInvalid((Fault("base_model", message),))
    return existing


def _write_durably(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with aside.open("x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _sync_folder(folder: Path) -> None:
    # A rename is durable only once the folder that records it is.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
