"""What is known of one stored adapter: its bytes' digest, its shape and where it came from.

Knows no tenant, no database and no engine.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Names reach engine URLs, metric labels and file names, so they are kept plain."""

DIGEST_PREFIX = 12
"""Hexadecimal digits of the digest in an id: 48 bits, short enough to read and far too many to collide."""


def make_adapter_id(name: str, sha256: str) -> str:
    """Return `name@sha12`, the name by which engines and clients know exactly these bytes."""
    return f"{name}@{sha256[:DIGEST_PREFIX]}"


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """One name for one immutable set of bytes.

    `created_at` is Unix seconds, `size_bytes` counts both files, `target_modules` is sorted, and `origin` is
    free JSON about the making: the training record for an adapter trained here.
    """

    name: str
    sha256: str
    base_model: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    size_bytes: int
    created_at: int
    origin: Mapping[str, Any]

    @property
    def id(self) -> str:
        return make_adapter_id(self.name, self.sha256)

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces."""
        fields = {**asdict(self), "origin": dict(self.origin)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "AdapterManifest":
        """Read back what `to_json` wrote; raises ValueError, TypeError or KeyError for anything else."""
        fields = json.loads(text)
        return cls(**{**fields, "target_modules": tuple(fields["target_modules"])})
