"""Serving a prepared home over the echo engine: until it is ready, while it runs, and when it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from adapters.store import AdapterStore
from deploy.demo import prepare
from deploy.demo.place import BASE_MODEL, Place, read_json, write_json
from deploy.demo.run import greeting
from tests.deploy.processes import ROOT, environment, lives
from tests.fakes.house import adapter_folder, prepare_handbook
from tests.fakes.serving import eventually

SERVE = """
import sys
from pathlib import Path
from deploy.demo.place import Place
from deploy.demo.run import serve
from deploy.demo.screen import Screen
from gateway.errors import ConfigurationError
try:
    serve(Place(Path(sys.argv[1])), Screen(), int(sys.argv[2]))
except ConfigurationError as error:
    sys.exit(f"repertory: {error}")
"""
ECHO = {"kind": "echo", "base_model": BASE_MODEL}
SUMMARY = {
    "base_url": "http://127.0.0.1:8000",
    "tenants": [{"name": "acme", "key": "sk-rep-a"}, {"name": "globex", "key": "sk-rep-g"}],
}


@dataclass(frozen=True)
class Prepared:
    """A home that can be served, and the port it will be served on."""

    place: Place
    port: int
    store: str

    def serve(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.place.home), str(self.port)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def prepared(place: Place) -> Callable[..., Prepared]:
    """Prepares a home as `prepare` does, with another engine and no models."""

    def make(engine: dict[str, Any] = ECHO, **changes: object) -> Prepared:
        store_id = prepare_handbook(place.home)
        store = AdapterStore(place.home / "adapters")
        adapters = {
            name: store.put(name, adapter_folder(place.training, name), BASE_MODEL, {}).id
            for name in (prepare.TRIAGE, prepare.STYLE)
        }
        write_json(place.state, {"store": store_id, "adapters": adapters})
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        made = prepare.configuration(place, prepare.tenant_keys(place), adapters, store_id)
        made |= {"engines": [engine], "embedding": {"kind": "hashing"}, "server": {"port": port}} | changes
        prepare.write_private(place.config, yaml.safe_dump(made))
        return Prepared(place, port, store_id)

    return make


@pytest.fixture
def serving(
    prepared: Callable[..., Prepared],
) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Prepared]]]:
    """Starts `serve` over a prepared home; what is left of it ends with the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> tuple[subprocess.Popen[str], Prepared]:
            home = prepared(**options)
            process = stack.enter_context(home.serve())
            stack.callback(process.kill)
            return process, home

        yield start


def ready(process: subprocess.Popen[str], home: Prepared) -> dict[str, Any]:
    """What demo.json says, once it is there."""
    eventually(lambda: home.place.summary.exists() or process.poll() is not None, within=60, what="demo.json")
    assert process.poll() is None, process.communicate()
    return read_json(home.place.summary)


def curls(text: str) -> list[list[str]]:
    """The words of each curl command, as a shell would take them."""
    commands = re.findall(r"^curl (?:.*\\\n)*.*$", text, re.M)
    return [shlex.split(command.replace("\\\n", " ")) for command in commands]


# The greeting


def test_the_printed_requests_are_lines_that_a_shell_takes() -> None:
    subprocess.run(
        ["sh", "-n"],
        input="\n".join(re.findall(r"^curl (?:.*\\\n)*.*$", greeting(SUMMARY), re.M)),
        text=True,
        check=True,
    )
    assert len(curls(greeting(SUMMARY))) == 4


def test_each_printed_request_carries_its_tenants_key_and_valid_json() -> None:
    asked = []
    for words in curls(greeting(SUMMARY))[:3]:
        body = json.loads(words[words.index("-d") + 1])
        key = re.search(r"Bearer (\S+)", " ".join(words))[1]
        asked.append((key, body["model"], body.get("stream", False)))
        assert words[2] == "http://127.0.0.1:8000/v1/chat/completions"
    assert asked == [
        ("sk-rep-a", "support-triage", False),
        ("sk-rep-g", "handbook-assistant", False),
        ("sk-rep-g", "handbook-assistant", True),
    ]


# Serving


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_says_how_and_leaves_nothing_when_it_is_stopped(
    serving: Callable[..., tuple[subprocess.Popen[str], Prepared]], how: signal.Signals
) -> None:
    process, home = serving()
    summary = ready(process, home)
    keys = read_json(home.place.home / "demo-keys.json")
    gateway = summary["pids"]["gateway"]
    assert summary == {
        "base_url": f"http://127.0.0.1:{home.port}",
        "admin_key": (home.place.home / "admin.key").read_text().strip(),
        "base_model": BASE_MODEL,
        "pids": {"gateway": gateway, "engine": None},
        "tenants": [
            {
                "name": "acme",
                "key": keys["acme"],
                "models": ["support-triage", BASE_MODEL],
                "vector_stores": [],
            },
            {
                "name": "globex",
                "key": keys["globex"],
                "models": ["handbook-assistant", BASE_MODEL],
                "vector_stores": [home.store],
            },
        ],
    }
    assert home.place.summary.stat().st_mode & 0o777 == 0o600
    assert lives(gateway)
    for words in curls(greeting(summary))[:3]:
        headers = dict(words[n + 1].split(": ", 1) for n, word in enumerate(words) if word == "-H")
        answer = httpx.post(words[2], headers=headers, content=words[-1], trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text

    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert greeting(summary) in said
    assert said.endswith("Stopping: running requests may finish …\nStopped.\n")
    assert not home.place.summary.exists()
    assert not lives(gateway)


def test_a_stop_while_it_waits_for_the_engine_ends_the_gateway(
    serving: Callable[..., tuple[subprocess.Popen[str], Prepared]],
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        process, home = serving(engine={"kind": "vllm", "name": "one", "base_model": BASE_MODEL, "url": url})
        address = f"http://127.0.0.1:{home.port}"
        eventually(lambda: _status(f"{address}/readyz") == 503, within=60, what="a gateway that is not ready")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (0, "Stopped.")
    assert _status(f"{address}/healthz") is None
    assert not home.place.summary.exists()


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, trust_env=False, timeout=30).status_code
    except httpx.TransportError:
        return None


def test_a_gateway_that_cannot_start_is_one_sentence_and_no_summary_of_an_earlier_run_remains(
    serving: Callable[..., tuple[subprocess.Popen[str], Prepared]], place: Place
) -> None:
    write_json(place.summary, {"base_url": "http://127.0.0.1:1"})
    process, home = serving(surprise=True)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        f"repertory: the gateway did not start: repertory: {home.place.config}: surprise: "
        f"Extra inputs are not permitted (log: {home.place.gateway_log})"
    )
    assert not home.place.summary.exists()


def test_a_gateway_that_dies_ends_the_run_with_a_sentence(
    serving: Callable[..., tuple[subprocess.Popen[str], Prepared]],
) -> None:
    process, home = serving()
    os.kill(ready(process, home)["pids"]["gateway"], signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        f"repertory: the gateway ended with code -9: see {home.place.gateway_log}"
    )
    assert not home.place.summary.exists()


def test_the_gateway_does_not_outlive_a_run_that_was_killed(
    serving: Callable[..., tuple[subprocess.Popen[str], Prepared]],
) -> None:
    process, home = serving()
    gateway = ready(process, home)["pids"]["gateway"]
    process.kill()
    eventually(lambda: not lives(gateway), within=60, what="the gateway's end")
