"""The running demo, as a client and an operator see it, and the demo's own rows."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from deploy.demo.place import BASE_MODEL, CONTENT

READY_WITHIN = 600


@dataclass(frozen=True)
class Demo:
    """The running demo, as a client and an operator see it."""

    base_url: str
    keys: dict[str, str]
    gateway_pid: int
    base_model: str = BASE_MODEL
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    def client(self, tenant: str) -> openai.OpenAI:
        """The tenant's client, one for all tests; `close` ends them."""
        if tenant not in self.clients:
            self.clients[tenant] = openai.OpenAI(
                base_url=f"{self.base_url}/v1", api_key=self.keys[tenant], max_retries=0, timeout=120
            )
        return self.clients[tenant]

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def asynchronous(self, tenant: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.base_url}/v1", api_key=self.keys[tenant], max_retries=0, timeout=120
        )

    def engine_pid(self) -> int | None:
        """The gateway's child that is vLLM; None while there is none."""
        children = Path(f"/proc/{self.gateway_pid}/task/{self.gateway_pid}/children").read_text().split()
        for child in children:
            if b"vllm.entrypoints" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        return None

    def engine_url(self) -> str:
        """vLLM's own address, which only loopback reaches."""
        arguments = Path(f"/proc/{self.engine_pid()}/cmdline").read_bytes().split(b"\0")
        assert arguments[arguments.index(b"--host") + 1] == b"127.0.0.1"
        return f"http://127.0.0.1:{arguments[arguments.index(b'--port') + 1].decode()}"

    def engine_metric(self, name: str) -> float:
        """The sum over a vLLM metric's series."""
        return sum_of(get(f"{self.engine_url()}/metrics"), name)

    def metric(self, name: str, **labels: str) -> float:
        """The sum over a gateway metric's series that have these labels."""
        return sum_of(get(f"{self.base_url}/metrics"), name, **labels)

    def wait_until_ready(self) -> float:
        """Seconds until /readyz said 200."""
        started = time.monotonic()
        why = ""
        while time.monotonic() - started < READY_WITHIN:
            try:
                get(f"{self.base_url}/readyz")
            except urllib.error.HTTPError as error:
                why = error.read().decode()
            except OSError as error:
                why = str(error)
            else:
                return time.monotonic() - started
            time.sleep(0.3)
        raise AssertionError(f"not ready after {READY_WITHIN} s: {why}")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
        return text


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        found: dict[str, Any] = json.load(response)
    return found


def sum_of(exposition: str, name: str, **labels: str) -> float:
    """The sum over the series of one metric, narrowed by labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    values = re.findall(rf"^{re.escape(name)}(\{{[^}}]*\}})? (\S+)$", exposition, re.M)
    return sum(float(value) for series, value in values if all(label in series for label in wanted))


def rows(name: str) -> list[dict[str, Any]]:
    """A file of the demo's content."""
    text = (CONTENT / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
