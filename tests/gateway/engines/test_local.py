"""A supervised child: started, restarted with a pause, ended with its parent, however the parent ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.engines import cpu_lora, launch
from gateway.engines.local import LocalEngine, LocalSpec, free_port, has_gpu, last_words, open_log
from tests.fakes.local import command_that
from tests.fakes.serving import eventually, eventually_async


def spec(folder: Path, does: str, **fields: object) -> LocalSpec:
    return LocalSpec(
        name="local",
        base_model="smol",
        model_path="/models/smol",
        device="cpu",
        log_file=folder / "logs" / "engine.log",
        python=str(command_that(folder, does)),
        **fields,
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def until_ready(engine: LocalEngine) -> int:
    while not (await engine.health()).ready:  # noqa: ASYNC110  another process tells, by HTTP
        await asyncio.sleep(0.02)
    assert engine.pid is not None
    return engine.pid


@pytest.fixture
async def run():
    """Starts local engines; they are stopped, and gone, after the test."""
    engines: list[LocalEngine] = []

    async def run(of: LocalSpec) -> LocalEngine:
        engine = LocalEngine(of)
        await engine.start()
        engines.append(engine)
        return engine

    yield run
    for engine in engines:
        await engine.stop()


async def test_it_starts_serves_and_stops(tmp_path: Path, run: Callable) -> None:
    engine = await run(spec(tmp_path, "serves"))
    assert (engine.kind, engine.restarts) == ("local", -1)
    assert (await engine.health()).starting
    pid = await asyncio.wait_for(until_ready(engine), 20)
    assert engine.restarts == 0
    assert await engine.adapters() == frozenset()
    assert f"started {pid}" in (tmp_path / "logs" / "engine.log").read_text()
    await engine.stop()
    assert engine.pid is None
    assert not alive(pid)


async def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    command = spec(tmp_path, "serves").command(1234)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "1234"


async def test_killed_it_is_started_again_with_growing_pauses(tmp_path: Path, run: Callable) -> None:
    engine = await run(spec(tmp_path, "serves"))
    pauses = []
    for _ in range(2):
        pid = await asyncio.wait_for(until_ready(engine), 20)
        os.kill(pid, signal.SIGKILL)
        died = time.monotonic()
        await eventually_async(lambda: engine.pid is None, what="its death")
        assert not (await engine.health()).ready
        await eventually_async(lambda: engine.pid is not None, what="its restart")
        pauses.append(time.monotonic() - died)
        assert not (await engine.health()).ready or engine.pid != pid
    assert engine.restarts == 2
    assert pauses[1] > pauses[0] > 0.5


async def test_one_that_fails_is_explained_by_its_last_words(tmp_path: Path, run: Callable) -> None:
    engine = await run(spec(tmp_path, "fails"))
    await eventually_async(
        lambda: (
            (tmp_path / "logs" / "engine.log").exists()
            and engine.restarts == 0
            and engine.pid is None
            and engine._process
        ),
        what="its end",
    )
    health = await engine.health()
    assert health.reason == "the process ended; last words: RuntimeError: not enough memory for the KV cache"
    assert not health.starting


async def test_an_interpreter_that_is_not_there_is_explained(tmp_path: Path, run: Callable) -> None:
    of = spec(tmp_path, "serves")
    engine = await run(
        LocalSpec(**{**{f: getattr(of, f) for f in LocalSpec.__slots__}, "python": "/nowhere/python"})
    )

    async def reason() -> str:
        return (await engine.health()).reason

    end = time.monotonic() + 10
    while "ended" not in await reason():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    assert "No such file or directory" in await reason()


async def test_one_that_loads_for_long_is_starting(tmp_path: Path, run: Callable) -> None:
    engine = await run(spec(tmp_path, "sleeps"))
    await eventually_async(lambda: engine.pid)
    health = await engine.health()
    assert health.starting
    assert str(tmp_path / "logs" / "engine.log") in health.reason


async def test_stop_ends_its_childrens_children(tmp_path: Path, run: Callable) -> None:
    engine = await run(spec(tmp_path, "has a stubborn child"))
    log = tmp_path / "logs" / "engine.log"
    await eventually_async(lambda: log.exists() and "started" in log.read_text(), what="its start")
    pid, grandchild = map(int, log.read_text().split()[1:3])
    assert alive(pid)
    assert alive(grandchild)
    await engine.stop()
    await eventually_async(lambda: not alive(grandchild), what="the grandchild's end")
    assert not alive(pid)


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_that_meets_a_death_still_stops(tmp_path: Path, run: Callable, turns: int) -> None:
    """However many turns of the loop lie between the two."""
    engine = await run(spec(tmp_path, "sleeps"))
    await eventually_async(lambda: engine.pid, what="its start")
    os.kill(engine.pid, signal.SIGKILL)
    while engine.pid is not None:  # noqa: ASYNC110  not a turn may be missed
        await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await engine.stop()


async def test_stop_during_the_pause_starts_nothing(tmp_path: Path, run: Callable) -> None:
    engine = await run(spec(tmp_path, "fails"))
    await eventually_async(lambda: engine._process is not None and engine.pid is None)
    await engine.stop()
    restarts = engine.restarts
    await asyncio.sleep(1.2)
    assert (engine.restarts, engine.pid) == (restarts, None)


def test_the_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves the parent no moment to clean up."""
    script = command_that(tmp_path, "sleeps")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()",
            *(sys.executable, "-I", launch.__file__, str(script)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[1])
    assert alive(child)
    parent.kill()
    parent.wait()
    eventually(lambda: not alive(child), what="the child's end")
    parent.stdout.close()


def test_the_flags_that_vllm_needs(tmp_path: Path) -> None:
    of = spec(tmp_path, "serves", max_model_len=2048, max_lora_rank=32, extra_args=("--seed", "1"))
    command = " ".join(of.command(1))
    for flags in (
        "-m vllm.entrypoints.openai.api_server --model /models/smol --served-model-name smol",
        "--enable-lora --max-loras 4 --max-cpu-loras 16 --max-lora-rank 32",
        "--enable-prompt-tokens-details",
        "--max-model-len 2048",
        "--seed 1",
    ):
        assert flags in command
    assert "--gpu-memory-utilization" not in command


def test_a_gpu_has_flags_of_its_own(tmp_path: Path) -> None:
    of = LocalSpec("n", "smol", "hub/id", "gpu", tmp_path / "log", gpu_memory_utilization=0.5)
    assert "--gpu-memory-utilization 0.5" in " ".join(of.command(1))
    assert "VLLM_CPU_KVCACHE_SPACE" not in of.environment()
    assert "HF_HUB_OFFLINE" not in of.environment() or "HF_HUB_OFFLINE" in os.environ


def test_the_environment_that_vllm_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "kept")
    of = LocalSpec("n", "smol", str(tmp_path), "cpu", tmp_path / "log", kv_cache_gib=2)
    environment = of.environment()
    wanted = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "HF_HUB_OFFLINE": "1",
        "MINE": "kept",
    }
    assert {name: environment[name] for name in wanted} == wanted
    # Whatever else is installed there, only a plugin of ours may load itself into the engine.
    assert environment["VLLM_PLUGINS"] in ("", cpu_lora.PLUGIN_NAME)


@pytest.mark.parametrize("driver", [True, False])
def test_a_gpu_needs_a_driver_and_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: bool
) -> None:
    if driver:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert has_gpu() is (driver and Path("/dev/nvidiactl").exists())


def test_a_free_port_is_free() -> None:
    assert 1024 <= free_port() <= 65535


def test_a_log_is_private_and_a_very_large_one_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "engine.log"
    with open_log(path) as sink:
        os.write(sink, b"first\n")
    assert path.stat().st_mode & 0o777 == 0o600
    with open_log(path) as sink:
        os.write(sink, b"second\n")
        os.ftruncate(sink, 50 * 2**20 + 1)
    with open_log(path) as sink:
        os.write(sink, b"third\n")
    assert path.read_text() == "third\n"
    assert (tmp_path / "logs" / "engine.log.1").stat().st_size > 50 * 2**20


def test_last_words_are_the_last_line_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == "no log (No such file or directory)"
    log.write_text("")
    assert last_words(log) == "nothing in the log"
    log.write_text("first\n" + "x" * 500 + "\n\n  \n")
    assert last_words(log, limit=10) == "x" * 10


async def test_an_engine_that_cannot_even_be_started_says_so_and_is_tried_again(run, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the log folder should be")
    engine = await run(spec(tmp_path, "serves"))
    await eventually_async(lambda: engine.restarts >= 1, within=10, what="a second try")
    health = await engine.health()
    assert not health.ready
    assert not health.starting
    assert "could not be started" in health.reason


async def test_each_life_has_a_port_of_its_own(run, tmp_path: Path) -> None:
    engine = await run(spec(tmp_path, "serves"))
    pid, url = await until_ready(engine), engine.url
    os.kill(pid, signal.SIGKILL)
    await eventually_async(lambda: engine.restarts == 1, within=10, what="the next life")
    await until_ready(engine)
    assert engine.url != url
