"""Small real things: an adapter folder, a database, and a base model of a few hundred kilobytes."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.tables import metadata

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"]}


def safetensors(payload: bytes = b"\0" * 8) -> bytes:
    tensor = {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}
    header = json.dumps({"w": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + payload


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    def make(folder: str = "made", *, payload: bytes = b"\0" * 8, config: object = CONFIG) -> Path:
        path = tmp_path / folder
        path.mkdir()
        (path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        (path / "adapter_model.safetensors").write_bytes(safetensors(payload))
        return path

    return make


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'test.db'}")

    @sa.event.listens_for(engine, "connect")
    def _(connection, _record) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    metadata.create_all(engine)
    yield engine
    engine.dispose()
