"""Serves the prepared demo: starts the gateway, waits until it is ready, says how to use it, and ends it all again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from deploy.demo.place import BASE_MODEL, Place, read_json, write_json
from deploy.demo.screen import Screen
from gateway.engines import launch
from gateway.errors import ConfigurationError

# Loading vLLM on two busy cores took 80 s; a machine several times slower still gets there.
READY_WITHIN = 900.0
STOP_WITHIN = 60.0


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def serve(place: Place, screen: Screen, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM; then nothing that was started here is left."""
    place.summary.unlink(missing_ok=True)
    place.gateway_log.parent.mkdir(parents=True, exist_ok=True)
    gateway = _start(place)
    try:
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        base_url = f"http://127.0.0.1:{port}"
        with screen.step("Starting the engine and the gateway"):
            _wait_until_ready(gateway, base_url, place.gateway_log)
        write_json(place.summary, _summary(place, base_url, gateway.pid))
        screen.say(greeting(read_json(place.summary)))
        code = gateway.wait()
        raise ConfigurationError(f"the gateway ended with code {code}: see {place.gateway_log}")
    except Stopped:
        screen.say("Stopping: running requests may finish …")
    finally:
        place.summary.unlink(missing_ok=True)
        _end(gateway)
    screen.say("Stopped.")


def _stop(*_: object) -> None:
    # Once: a second Ctrl-C while stopping changes nothing.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stopped


def _start(place: Place) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(place.config)]
    with place.gateway_log.open("ab") as log:
        # A session of its own, so that Ctrl-C reaches it once, through us; and it never outlives us.
        return subprocess.Popen(
            [sys.executable, "-I", launch.__file__, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_ready(gateway: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    why = "no answer yet"
    while time.monotonic() < deadline:
        if gateway.poll() is not None:
            raise ConfigurationError(f"the gateway did not start: {_last_line(log)} (log: {log})")
        ready, why = _readiness(base_url)
        if ready:
            return
        time.sleep(0.5)
    raise ConfigurationError(f"not ready after {READY_WITHIN:.0f} s: {why} (log: {log})")


def _readiness(base_url: str) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(f"{base_url}/readyz", timeout=5) as response:
            return response.status == 200, ""
    except urllib.error.HTTPError as error:
        return False, error.read().decode("utf-8", "replace")
    except OSError as error:
        return False, str(error)


def _end(gateway: subprocess.Popen[bytes]) -> None:
    gateway.terminate()
    try:
        gateway.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        gateway.kill()
        gateway.wait()


def _summary(place: Place, base_url: str, gateway_pid: int) -> dict[str, Any]:
    keys = read_json(place.home / "demo-keys.json")
    store = read_json(place.state)["store"]
    return {
        "base_url": base_url,
        "admin_key": (place.home / "admin.key").read_text().strip(),
        "base_model": BASE_MODEL,
        "pids": {"gateway": gateway_pid, "engine": _engine_pid(gateway_pid)},
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
                "vector_stores": [store],
            },
        ],
    }


def _engine_pid(gateway_pid: int) -> int | None:
    """The gateway's child that is the engine."""
    children = Path(f"/proc/{gateway_pid}/task/{gateway_pid}/children").read_text().split()
    for child in children:
        if b"vllm.entrypoints" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


def greeting(summary: dict[str, Any]) -> str:
    """What to try, ready to be copied."""
    acme, globex = summary["tenants"]
    url = summary["base_url"]
    return f"""
Ready at {url}/v1

# acme: a support message becomes JSON, with no prompt that asks for it
{_curl(url, acme["key"], "support-triage", "Nobody in our office can log in since this morning!")}

# globex: an answer from the handbook, in house style, with its source
{_curl(url, globex["key"], "handbook-assistant", "How many days of annual leave do I get?")}

# the same as a stream
{_curl(url, globex["key"], "handbook-assistant", "Who is on call at the weekend?", stream=True)}

# what each tenant's tokens cost, by part of the prompt
curl -s {url}/metrics | grep repertory_cost_dollars_total

Ctrl-C ends the gateway and the engine.
"""


def _curl(url: str, key: str, model: str, question: str, *, stream: bool = False) -> str:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    flags = "-sN" if stream else "-s"
    return (
        f"curl {flags} {url}/v1/chat/completions \\\n"
        f"  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps(body)}'"
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it said nothing"
