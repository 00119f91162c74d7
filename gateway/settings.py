"""The configuration file and the environment, checked once, at the edge.

Only this module reads the environment. An unknown key, a wrong type or a half-given setting is a
ConfigurationError of one sentence that names the place and the fix.
"""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gateway.errors import ConfigurationError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME)]
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Settings):
    """Where the gateway listens and what it accepts."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    max_body_bytes: int = Field(default=10 * 2**20, ge=1024)
    drain_seconds: float = Field(default=20.0, ge=0, description="how long a stop waits for running requests")


class EchoEngineSettings(_Settings):
    """The engine without a model: it repeats what it was asked, word by word."""

    kind: Literal["echo"]
    name: Name = "echo"
    base_model: Name = "echo"
    seconds_per_token: float = Field(default=0.0, ge=0)
    max_model_len: int = Field(default=8192, ge=16)


class VLLMEngineSettings(_Settings):
    """A vLLM server that something else runs, on a private address."""

    kind: Literal["vllm"]
    name: Name
    base_model: Name
    url: str = Field(pattern=r"^https?://[^/]+$", description="scheme, host and port; no path")
    api_key: str | None = None
    tokenizer: Path | None = Field(default=None, description="folder with the base model's tokenizer.json")
    timeout_seconds: float = Field(
        default=600.0, gt=0, description="longest wait between two bytes of an answer"
    )


class LocalEngineSettings(_Settings):
    """A vLLM server that the gateway starts, watches and restarts."""

    kind: Literal["local"]
    name: Name = "local"
    base_model: Name
    model_path: str = Field(description="a folder, or a hub id where a hub can be reached")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    python: Path | None = Field(default=None, description="interpreter that has vLLM; default: the gateway's")
    port: int | None = Field(
        default=None, ge=1024, le=65535, description="default: a free one, chosen at start"
    )
    max_model_len: int | None = Field(default=None, ge=16)
    max_loras: int = Field(default=4, ge=1)
    max_cpu_loras: int = Field(default=16, ge=1)
    max_lora_rank: int = 16
    kv_cache_gib: int = Field(default=1, ge=1, description="CPU only: memory for the KV cache")
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="GPU only")
    extra_args: tuple[str, ...] = ()
    timeout_seconds: float = Field(default=600.0, gt=0)

    @field_validator("max_lora_rank")
    @classmethod
    def _rank_that_vllm_knows(cls, value: int) -> int:
        if value not in LORA_RANKS:
            raise ValueError(f"vLLM accepts one of {', '.join(map(str, LORA_RANKS))}")
        return value

    @model_validator(mode="after")
    def _room_for_adapters(self) -> Self:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError("max_cpu_loras must be at least max_loras")
        return self


EngineSettings = Annotated[
    EchoEngineSettings | VLLMEngineSettings | LocalEngineSettings, Field(discriminator="kind")
]


class PriceSettings(_Settings):
    """Dollars per million tokens."""

    input: Decimal = Field(default=Decimal(0), ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0, description="default: the price of input")
    output: Decimal = Field(default=Decimal(0), ge=0)


class EmbeddingSettings(_Settings):
    """The embedding model behind /v1/embeddings and every vector store."""

    kind: Literal["sentence-transformers", "hashing"] = "sentence-transformers"
    path: Path | None = Field(default=None, description="the model's folder; its name is the model's name")
    threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        if self.kind == "sentence-transformers" and self.path is None:
            raise ValueError("kind sentence-transformers needs path")
        return self


class SystemPromptSettings(_Settings):
    text: str = Field(max_length=20_000)
    policy: Literal["replace", "prepend", "keep"] = "replace"


class RetrievalSettings(_Settings):
    vector_store_ids: tuple[str, ...] = Field(min_length=1)
    mode: Literal["auto", "always", "never"] = "auto"
    max_tokens: int = Field(
        default=512, ge=32, description="budget for context, in the served model's tokens"
    )


class ModelSettings(_Settings):
    """A public model name and the release it serves."""

    name: Name
    base_model: Name
    adapter: str | None = Field(default=None, description="name@sha12 from the adapter store")
    system_prompt: SystemPromptSettings | None = None
    retrieval: RetrievalSettings | None = None
    sampling: dict[str, Any] = Field(default_factory=dict)

    @field_validator("sampling")
    @classmethod
    def _only_sampling(cls, value: dict[str, Any]) -> dict[str, Any]:
        reserved = sorted({"model", "messages", "prompt", "stream", "cache_salt"} & set(value))
        if reserved:
            raise ValueError(f"{reserved[0]} is not a sampling default")
        return value


class KeySettings(_Settings):
    """One API key: its value here, or the name of the environment variable that holds it."""

    name: str = "default"
    value: str | None = None
    env: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.value is None) == (self.env is None):
            raise ValueError("a key needs exactly one of value and env")
        return self

    def resolve(self) -> str:
        """The key itself; ConfigurationError when its environment variable is empty."""
        value = self.value if self.env is None else os.environ.get(self.env, "")
        if not value:
            raise ConfigurationError(f"environment variable {self.env}, which holds a key, is empty: set it")
        return value


class TenantSettings(_Settings):
    name: Name
    keys: tuple[KeySettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()


class Settings(_Settings):
    """Everything `repertory serve --config FILE` reads."""

    home: Path = Path(".repertory")
    database_url: str | None = Field(default=None, description="default: SQLite in home")
    secret: str | None = Field(
        default=None,
        min_length=16,
        description="keys the hashes; default: home/secret, made at the first start",
    )
    admin_key: str | None = Field(
        default=None, description="default: home/admin.key, made at the first start"
    )
    log_requests: bool = True
    server: ServerSettings = ServerSettings()
    engines: tuple[EngineSettings, ...] = Field(min_length=1)
    embedding: EmbeddingSettings | None = None
    prices: dict[str, PriceSettings] = Field(default_factory=dict, description="by base model name")
    shared_models: tuple[ModelSettings, ...] = ()
    tenants: tuple[TenantSettings, ...] = ()

    @model_validator(mode="after")
    def _names_are_distinct_and_known(self) -> Self:
        _refuse_twins("engine", [engine.name for engine in self.engines])
        _refuse_twins("tenant", [tenant.name for tenant in self.tenants])
        bases = {engine.base_model for engine in self.engines}
        for owner, models in [("shared", self.shared_models), *((t.name, t.models) for t in self.tenants)]:
            _refuse_twins(f"{owner} model", [model.name for model in models])
            for model in models:
                if model.base_model not in bases:
                    raise ValueError(
                        f"model {model.name} wants base_model {model.base_model}, which no engine serves; "
                        f"the engines serve {', '.join(sorted(bases))}"
                    )
        return self

    @property
    def sql_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'repertory.db'}"


def _refuse_twins(what: str, names: list[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"two entries are named {what} {twins[0]}")


def load(path: Path) -> Settings:
    """Settings from a YAML file, with REPERTORY_{HOME,PORT,DATABASE_URL,SECRET,ADMIN_KEY} on top.

    Raises:
        ConfigurationError: the file is absent, is not YAML, or says something wrong.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{path} must hold a mapping with at least `engines:`")
    return parse(_with_environment(raw), source=str(path))


def parse(raw: dict[str, Any], *, source: str = "configuration") -> Settings:
    """Settings from plain data; ConfigurationError names the first wrong place."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        more = error.error_count() - 1
        tail = f" (and {more} more)" if more else ""
        raise ConfigurationError(f"{source}: {place}: {first['msg']}{tail}") from error


def _with_environment(raw: dict[str, Any]) -> dict[str, Any]:
    merged = dict(raw)
    for field in ("home", "database_url", "secret", "admin_key"):
        if value := os.environ.get(f"REPERTORY_{field.upper()}"):
            merged[field] = value
    if port := os.environ.get("REPERTORY_PORT"):
        server = merged.get("server") or {}
        merged["server"] = {**server, "port": port} if isinstance(server, dict) else server
    return merged
