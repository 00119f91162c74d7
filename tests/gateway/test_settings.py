"""The configuration file: each wrong thing is one sentence with its place."""

from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigurationError
from gateway.settings import load, parse

ECHO = {"kind": "echo", "name": "e", "base_model": "smol"}
LOCAL = {"kind": "local", "base_model": "smol", "model_path": "/models/smol"}
MODEL = {"name": "m", "base_model": "smol"}


def with_(**fields: Any) -> dict[str, Any]:
    return {"engines": [ECHO], **fields}


def test_the_least_that_works() -> None:
    settings = parse({"engines": [{"kind": "echo"}]})
    assert settings.engines[0].base_model == "echo"
    assert settings.server.host == "127.0.0.1"
    assert settings.sql_url.endswith("/.repertory/repertory.db")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "engines: Field required"),
        ({"engines": []}, "engines:"),
        (with_(engine=[]), "engine: Extra inputs are not permitted"),
        (with_(server={"port": 0}), "server.port"),
        (with_(server={"port": "http"}), "server.port"),
        (with_(server={"max_body_bytes": 10}), "server.max_body_bytes"),
        (with_(server={"drain_seconds": -1}), "server.drain_seconds"),
        ({"engines": [{"kind": "sglang"}]}, "engines.0"),
        ({"engines": [{"name": "x"}]}, "engines.0"),
        ({"engines": [ECHO, {**ECHO, "base_model": "other"}]}, "two entries are named engine e"),
        ({"engines": [{**ECHO, "name": "no spaces"}]}, "engines.0.echo.name"),
        ({"engines": [{"kind": "vllm", "name": "v", "base_model": "b"}]}, "url: Field required"),
        ({"engines": [{"kind": "vllm", "name": "v", "base_model": "b", "url": "http://h:1/v1"}]}, "url"),
        ({"engines": [{"kind": "vllm", "name": "v", "base_model": "b", "url": "h:1"}]}, "url"),
        ({"engines": [{**LOCAL, "max_lora_rank": 12}]}, "vLLM accepts one of 1, 8, 16"),
        ({"engines": [{**LOCAL, "max_cpu_loras": 2}]}, "max_cpu_loras must be at least max_loras"),
        ({"engines": [{**LOCAL, "device": "tpu"}]}, "device"),
        ({"engines": [{**LOCAL, "port": 80}]}, "port"),
        ({"engines": [{**LOCAL, "gpu_memory_utilization": 1.5}]}, "gpu_memory_utilization"),
        (with_(embedding={}), "kind sentence-transformers needs path"),
        (with_(embedding={"kind": "hashing", "threads": 0}), "embedding.threads"),
        (with_(prices={"smol": {"input": -1}}), "prices.smol.input"),
        (with_(prices={"smol": {"input": "free"}}), "prices.smol.input"),
        (
            with_(shared_models=[{**MODEL, "base_model": "large"}]),
            "model m wants base_model large, which no engine",
        ),
        (with_(shared_models=[MODEL, MODEL]), "two entries are named shared model m"),
        (with_(tenants=[{"name": "a"}, {"name": "a"}]), "two entries are named tenant a"),
        (with_(tenants=[{"name": "a", "models": [MODEL, MODEL]}]), "two entries are named a model m"),
        (with_(tenants=[{"name": "../a"}]), "tenants.0.name"),
        (with_(tenants=[{"name": "a", "keys": [{}]}]), "exactly one of value and env"),
        (
            with_(tenants=[{"name": "a", "keys": [{"value": "k", "env": "K"}]}]),
            "exactly one of value and env",
        ),
        (with_(shared_models=[{**MODEL, "sampling": {"stream": True}}]), "stream is not a sampling default"),
        (with_(shared_models=[{**MODEL, "retrieval": {"vector_store_ids": []}}]), "vector_store_ids"),
        (
            with_(shared_models=[{**MODEL, "retrieval": {"vector_store_ids": ["v"], "max_tokens": 1}}]),
            "max_tokens",
        ),
        (with_(shared_models=[{**MODEL, "system_prompt": {"text": "x", "policy": "append"}}]), "policy"),
        (with_(shared_models=[{**MODEL, "system_prompt": {"text": "x" * 20_001}}]), "text"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_its_place(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(raw)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_further_errors_are_counted() -> None:
    with pytest.raises(ConfigurationError, match=r"\(and 1 more\)"):
        parse(with_(a=1, b=2))


def test_settings_do_not_change() -> None:
    settings = parse(with_())
    with pytest.raises(ValueError, match="frozen"):
        settings.home = Path("/elsewhere")


def write(folder: Path, text: str) -> Path:
    file = folder / "repertory.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("engines: [", "is not valid YAML"),
        ("- engines", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("engines: [{kind: echo}]\nhome: [1]", "home"),
        ("engines: [{kind: echo}]\nserver: fast", "server"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=says) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "repertory.yaml"
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="is not valid YAML"):
        load(file)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*absent\.yaml: No such file"):
        load(tmp_path / "absent.yaml")


def test_the_environment_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "engines: [{kind: echo}]\nhome: /a\nserver: {port: 1, host: '::1'}\n")
    monkeypatch.setenv("REPERTORY_HOME", "/b")
    monkeypatch.setenv("REPERTORY_PORT", "8123")
    monkeypatch.setenv("REPERTORY_DATABASE_URL", "postgresql://db/r")
    settings = load(file)
    assert (settings.home, settings.sql_url) == (Path("/b"), "postgresql://db/r")
    assert (settings.server.port, settings.server.host) == (8123, "::1")


def test_the_environment_alone_may_name_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPERTORY_PORT", "8123")
    assert load(write(tmp_path, "engines: [{kind: echo}]\nserver:\n")).server.port == 8123


def test_a_port_in_the_environment_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPERTORY_PORT", "many")
    with pytest.raises(ConfigurationError, match=r"server\.port"):
        load(write(tmp_path, "engines: [{kind: echo}]"))


def test_without_the_environment_the_file_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPERTORY_HOME", "REPERTORY_PORT", "REPERTORY_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = load(write(tmp_path, f"engines: [{{kind: echo}}]\nhome: {tmp_path}\n"))
    assert settings.sql_url == f"sqlite:///{tmp_path / 'repertory.db'}"


def test_a_key_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "sk-rep-1")
    tenants = [{"name": "a", "keys": [{"env": "ACME_KEY"}, {"value": "sk-rep-2"}]}]
    keys = parse(with_(tenants=tenants)).tenants[0].keys
    assert [key.resolve() for key in keys] == ["sk-rep-1", "sk-rep-2"]


def test_a_variable_that_is_empty_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "")
    key = parse(with_(tenants=[{"name": "a", "keys": [{"env": "ACME_KEY"}]}])).tenants[0].keys[0]
    with pytest.raises(ConfigurationError, match="environment variable ACME_KEY"):
        key.resolve()
