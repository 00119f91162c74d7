"""The composition root: what it refuses, what it builds, and that it starts and ends cleanly."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway import __version__
from gateway.app import build, engine_of, refuse_foreign_packages
from gateway.engines.local import LocalEngine, free_port
from gateway.errors import ConfigurationError
from gateway.policy import auth
from gateway.settings import load, parse
from tests.fakes.house import House
from tests.fakes.serving import chat, eventually
from tests.fakes.vllm import FakeVLLM


def raw(home: Path, **fields: Any) -> dict[str, Any]:
    engine = {"kind": "echo", "name": "echo", "base_model": "smol"}
    return {"home": str(home), "log_requests": False, "engines": [engine], **fields}


def test_another_package_of_our_name_is_refused_with_the_fix() -> None:
    refuse_foreign_packages({"gateway": ["repertory"], "numpy": ["numpy"]})
    with pytest.raises(
        ConfigurationError, match="the installed package adapters provides a module named adapters"
    ):
        refuse_foreign_packages({"adapters": ["repertory", "adapters"]})


def test_an_embedding_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"embedding\.path: there is no folder"):
        build(parse(raw(tmp_path, embedding={"path": str(tmp_path / "nowhere")})))


@pytest.mark.parametrize("tokenizer", [None, "nowhere"])
def test_engines_are_made_as_described(tmp_path: Path, tokenizer: str | None) -> None:
    entries = [
        {"kind": "echo", "max_model_len": 100},
        {"kind": "vllm", "name": "v", "base_model": "b", "url": "http://127.0.0.1:1", "tokenizer": tokenizer},
        {"kind": "local", "name": "l", "base_model": "b", "model_path": "/m", "port": 8123, "device": "auto"},
    ]
    settings = parse({"engines": entries})
    made = [engine_of(entry, tmp_path) for entry in settings.engines]
    assert [(engine.kind, engine.name, engine.base_model) for engine in made] == [
        ("echo", "echo", "echo"),
        ("vllm", "v", "b"),
        ("local", "l", "b"),
    ]
    assert isinstance(made[2], LocalEngine)
    assert made[2].url == "http://127.0.0.1:8123"


def test_secrets_are_made_in_the_home_and_kept(tmp_path: Path) -> None:
    settings = parse(raw(tmp_path))
    build(settings)
    before = [(tmp_path / name).read_text() for name in ("secret", "admin.key")]
    build(settings)
    assert [(tmp_path / name).read_text() for name in ("secret", "admin.key")] == before
    assert auth.split(before[1].strip())


def test_secrets_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public_id, key = auth.generate()
    monkeypatch.setenv("REPERTORY_SECRET", "from the environment")
    monkeypatch.setenv("REPERTORY_ADMIN_KEY", key)
    config = tmp_path / "repertory.yaml"
    config.write_text(json.dumps(raw(tmp_path), default=str))
    gateway = build(load(config))
    assert public_id in gateway.catalog.snapshot.keys
    assert not (tmp_path / "secret").exists()
    assert not (tmp_path / "admin.key").exists()


def test_engines_of_a_tests_own_take_the_place_of_those_described(tmp_path: Path) -> None:
    from gateway.engines.echo import EchoEngine

    gateway = build(parse(raw(tmp_path)), engines=[EchoEngine(name="mine", base_model="smol")])
    assert list(gateway.pool.members) == ["mine"]


def test_requests_are_logged_without_their_words(start_vllm: Callable[..., FakeVLLM], tmp_path: Path) -> None:
    """`repertory serve` as a process: it answers, logs a JSON line a request, and ends on SIGTERM."""
    fake = start_vllm()
    key, port = auth.generate()[1], free_port()
    config = tmp_path / "repertory.yaml"
    engine = {"kind": "vllm", "name": "one", "base_model": "smol", "url": fake.url}
    shared = [{"name": "smol", "base_model": "smol"}]
    settings = {
        **raw(tmp_path / "home"),
        "log_requests": True,
        "engines": [engine],
        "server": {"port": port, "drain_seconds": 1},
        "shared_models": shared,
        "tenants": [{"name": "acme", "keys": [{"env": "ACME_KEY"}]}],
    }
    config.write_text(yaml.safe_dump(settings))
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
            stdout=out,
            stderr=err,
            env={**os.environ, "ACME_KEY": key},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, trust_env=False
        ) as client:

            def ready() -> bool:
                assert process.poll() is None, (tmp_path / "err").read_text()
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(ready, within=60, what="readiness")
            answer = client.post("/v1/chat/completions", json=chat("my private words"))
            assert answer.status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    (line,) = (tmp_path / "out").read_text().splitlines()
    logged = json.loads(line)
    assert (logged["tenant"], logged["model"], logged["outcome"]) == ("acme", "smol", "ok")
    assert logged["request_id"] == answer.headers["x-request-id"]
    assert logged["cost_dollars"] == answer.headers["x-repertory-cost"]
    for text in (line, (tmp_path / "err").read_text()):
        assert "private" not in text
        assert key not in text


def repertory(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_makes_keys_and_tells_its_version() -> None:
    assert auth.split(repertory("keygen").stdout.strip())
    assert repertory("version").stdout.strip() == __version__


def test_a_busy_port_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        config = tmp_path / "repertory.yaml"
        config.write_text(yaml.safe_dump(raw(tmp_path / "home", server={"port": port})))
        ended = repertory("serve", "--config", str(config))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"repertory: cannot listen on 127.0.0.1:{port} (Address already in use)")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "home").exists()


def test_a_wrong_file_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    ended = repertory("serve", "--config", str(tmp_path / "absent.yaml"))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)


def test_both_houses_answer(house: House, echo_house: House) -> None:
    for each in (house, echo_house):
        answer = each.post(chat("hello there"))
        assert answer.json()["choices"][0]["message"]["content"] == "hello there"
