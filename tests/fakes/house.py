"""The house that the gateway's tests live in: two tenants, two adapters, one base, one handbook."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from adapters.store import AdapterStore
from gateway import secret
from gateway.app import open_knowledge
from gateway.database import connect, migrate
from gateway.engines.base import Engine
from gateway.policy import auth
from gateway.tenants import Tenants
from retrieval.embedding import HashingEmbedder
from tests.fakes.serving import GatewayServer

BASE = "smol"
CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
HANDBOOK = {
    "annual-leave.md": "# Annual leave\n\nEvery employee has 27 days of paid annual leave a year. "
    "Leave requests go to the manager two weeks ahead.\n",
    "expenses.md": "# Expenses\n\nExpense receipts are filed within thirty days. "
    "Meals are reimbursed up to 40 euro a day.\n",
    "on-call.md": "# On-call\n\nThe on-call engineer carries the pager for one week. "
    "Being paged at night is paid with 60 euro.\n",
}
QUESTION = "How many days of paid annual leave does every employee have a year?"
SHORT_PROMPT = "Answer as Globex staff."


@dataclass
class House:
    """A running gateway, its tenants' keys, and clients for them."""

    server: GatewayServer
    keys: dict[str, str]
    adapters: dict[str, str]
    store_id: str
    raw: dict[str, Any] = field(repr=False)

    @property
    def url(self) -> str:
        return self.server.url

    def http(
        self, tenant: str | None = "acme", *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Client:
        own = {"authorization": f"Bearer {self.keys[tenant]}"} if tenant else {}
        return httpx.Client(
            base_url=self.url, headers=own | (headers or {}), timeout=30, trust_env=False, **options
        )

    def post(
        self, body: Any, *, tenant: str | None = "acme", path: str = "/v1/chat/completions", **options: Any
    ) -> httpx.Response:
        """One request on one connection."""
        with self.http(tenant) as client:
            if isinstance(body, bytes):
                return client.post(path, content=body, **options)
            return client.post(path, json=body, **options)

    def get(self, path: str, *, tenant: str | None = "acme", **options: Any) -> httpx.Response:
        with self.http(tenant) as client:
            return client.get(path, **options)

    def openai(self, tenant: str = "acme", **options: Any) -> openai.OpenAI:
        client = httpx.Client(trust_env=False, timeout=30)
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.keys[tenant],
            http_client=client,
            **{"max_retries": 0, **options},
        )

    def async_openai(self, tenant: str = "acme", **options: Any) -> openai.AsyncOpenAI:
        client = httpx.AsyncClient(trust_env=False, timeout=30)
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.keys[tenant],
            http_client=client,
            **{"max_retries": 0, **options},
        )


def adapter_folder(root: Path, name: str) -> Path:
    """The smallest folder that the adapter store accepts; its bytes differ by name."""
    folder = root / name
    folder.mkdir(parents=True)
    payload = name.encode().ljust(16)
    header = json.dumps({"w": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}).encode()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + payload)
    return folder


def raw_settings(
    home: Path, engines: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, str], dict[str, str], str]:
    """(settings, keys by tenant, adapter ids by name, vector store id), with home prepared for them."""
    base = engines[0]["base_model"]
    store = AdapterStore(home / "adapters")
    names = ("triage", "style")
    adapters = {name: store.put(name, adapter_folder(home / "made", name), base, {}).id for name in names}
    store_id = prepare_handbook(home)
    keys = {tenant: auth.generate()[1] for tenant in ("acme", "globex")}
    raw = {
        "home": str(home),
        "log_requests": False,
        "server": {"max_body_bytes": 200_000},
        "engines": engines,
        "embedding": {"kind": "hashing"},
        "prices": {
            base: {"input": "0.10", "cached_input": "0.025", "output": "0.40"},
            "hashing": {"input": "0.02"},
        },
        "shared_models": [{"name": base, "base_model": base}],
        "tenants": [
            {
                "name": "acme",
                "keys": [{"value": keys["acme"]}],
                "models": [
                    {
                        "name": "support-triage",
                        "base_model": base,
                        "adapter": adapters["triage"],
                        "sampling": {"temperature": 0},
                    }
                ],
            },
            {
                "name": "globex",
                "keys": [{"value": keys["globex"]}],
                "models": [
                    {
                        "name": "handbook-assistant",
                        "base_model": base,
                        "adapter": adapters["style"],
                        "system_prompt": {"text": SHORT_PROMPT, "policy": "replace"},
                        "retrieval": {"vector_store_ids": [store_id]},
                    },
                    {
                        "name": "handbook-always",
                        "base_model": base,
                        "retrieval": {"vector_store_ids": [store_id], "mode": "always"},
                    },
                ],
            },
        ],
    }
    return raw, keys, adapters, store_id


def prepare_handbook(home: Path, tenant: str = "globex") -> str:
    """A vector store of the tenant's with the handbook in it; returns its id."""
    home.mkdir(parents=True, exist_ok=True)
    db = connect(f"sqlite:///{home.resolve() / 'repertory.db'}")
    try:
        migrate(db)
        pepper = secret.keep(home / "secret", lambda: "pepper").encode()
        owner = Tenants(db, pepper=pepper).ensure(tenant)
        _, stores, files = open_knowledge(db, HashingEmbedder(), home, pepper)
        store_id = stores.create(owner.id, "handbook").id
        for name, text in HANDBOOK.items():
            file = files.put(owner.id, name, text.encode(), "assistants")
            stores.add_file(owner.id, store_id, file.id)
    finally:
        db.dispose()
    return store_id


def open_house(home: Path, engines: list[dict[str, Any]], *, real: list[Engine] | None = None) -> House:
    """A gateway over the engines that `engines` describes (or over `real`, where given)."""
    raw, keys, adapters, store_id = raw_settings(home, engines)
    return House(GatewayServer(raw, engines=real), keys, adapters, store_id, raw)
