"""One real vLLM and one gateway for all tests in this folder, on the demo's models, adapters and handbook."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.running import Demo

HOME = os.environ.get("REPERTORY_TEST_HOME")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs the prepared demo; `make test` prepares it."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real)
            if HOME is None:
                item.add_marker(pytest.mark.skip(reason="REPERTORY_TEST_HOME is unset; run `make test`"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    assert HOME is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    command = [sys.executable, "-m", "gateway", "serve", "--config", f"{HOME}/demo.yaml"]
    environment = {**os.environ, "REPERTORY_PORT": str(port)}
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)
    running = Demo(
        f"http://127.0.0.1:{port}", json.loads(Path(f"{HOME}/demo-keys.json").read_text()), process.pid
    )
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.close()
        engine = running.engine_pid() if process.poll() is None else None
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        print(log.read_text()[-4000:])
        assert engine is None or not Path(f"/proc/{engine}").exists(), "the engine outlived its gateway"
