"""A vLLM that this process starts, watches and restarts; `VLLMEngine` is the HTTP part of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.engines import cpu_lora, launch
from gateway.engines.base import Health
from gateway.engines.vllm import VLLMEngine

log = logging.getLogger(__name__)

_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 30.0
# A process that lived this long was well: the next death starts the backoff from the beginning.
_WELL_AFTER = 60.0
_TERM_GRACE = 15.0
_LOG_KEEP_BYTES = 50 * 2**20


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """How to run one vLLM.

    Attributes:
        device: `cpu` or `gpu`.
        kv_cache_gib: memory for the KV cache, CPU only.
    """

    name: str
    base_model: str
    model_path: str
    device: str
    log_file: Path
    python: str = sys.executable
    port: int | None = None
    max_model_len: int | None = None
    max_loras: int = 4
    max_cpu_loras: int = 16
    max_lora_rank: int = 16
    kv_cache_gib: int = 1
    gpu_memory_utilization: float = 0.9
    extra_args: tuple[str, ...] = ()
    timeout_seconds: float = 600.0

    def command(self, port: int) -> list[str]:
        """The command line. `-m vllm…api_server`, because `vllm serve` of the CPU package does not start."""
        args = [
            *(self.python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.model_path, "--served-model-name", self.base_model),
            *("--host", "127.0.0.1", "--port", str(port), "--api-server-count", "1"),
            *("--enable-lora", "--max-loras", str(self.max_loras)),
            *("--max-cpu-loras", str(self.max_cpu_loras), "--max-lora-rank", str(self.max_lora_rank)),
            *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        ]
        if self.max_model_len is not None:
            args += ["--max-model-len", str(self.max_model_len)]
        if self.device == "gpu":
            args += ["--gpu-memory-utilization", str(self.gpu_memory_utilization)]
        return [*args, *self.extra_args]

    def environment(self) -> dict[str, str]:
        """The engine's environment: what vLLM needs, with ours on top, so that an operator's settings win."""
        extra = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_PLUGINS": "",
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if self.device == "cpu":
            extra["VLLM_PLUGINS"] = cpu_lora.PLUGIN_NAME
            extra["VLLM_CPU_KVCACHE_SPACE"] = str(self.kv_cache_gib)
        if Path(self.model_path).is_dir():
            extra["HF_HUB_OFFLINE"] = "1"
        return {**extra, **os.environ}


def has_gpu() -> bool:
    """Whether an NVIDIA driver and device are here, without importing torch."""
    return shutil.which("nvidia-smi") is not None and Path("/dev/nvidiactl").exists()


class LocalEngine(VLLMEngine):
    """A supervised child process and the HTTP client to it.

    The child listens on loopback only, ends when this process ends, and is started again, with growing
    pauses, whenever it dies.
    """

    def __init__(self, spec: LocalSpec) -> None:
        super().__init__(
            name=spec.name,
            base_model=spec.base_model,
            # Without a port of its own it gets one at each start.
            url=f"http://127.0.0.1:{spec.port}" if spec.port else "http://127.0.0.1",
            timeout_seconds=spec.timeout_seconds,
        )
        self._spec = spec
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._was_ready = False
        self._fault = ""
        self.restarts = -1

    @property
    def kind(self) -> str:
        return "local"

    @property
    def pid(self) -> int | None:
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process else None

    async def start(self) -> None:
        await super().start()
        self._keeper = asyncio.create_task(self._keep(), name=f"engine-{self.name}")

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end()
        await super().stop()

    async def health(self) -> Health:
        if self._fault:
            return Health(False, self._fault)
        if self._process is None:
            return Health(False, "starting the process", starting=True)
        if self.pid is None:
            return Health(False, f"the process ended; last words: {last_words(self._spec.log_file)}")
        health = await super().health()
        if health.ready:
            self._was_ready = True
            return health
        if not self._was_ready:
            return Health(False, f"loading the model (log: {self._spec.log_file})", starting=True)
        return health

    async def _keep(self) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            started = time.monotonic()
            self._was_ready = False
            self.restarts += 1
            try:
                code = await self._run()
            except OSError as error:
                self._fault = f"the engine could not be started: {error}"
                log.error("engine %s: %s", self.name, self._fault)
                code = None
            if time.monotonic() - started > _WELL_AFTER:
                backoff = _FIRST_BACKOFF
            log.warning("engine %s ended with code %s; starting it again in %.0f s", self.name, code, backoff)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def _run(self) -> int:
        """One life of the process; its exit code. Raises OSError when it can't begin."""
        # A port of its own for each life: the old one may be someone else's by now.
        port = self._spec.port or free_port()
        self.move(f"http://127.0.0.1:{port}")
        command = [sys.executable, "-I", launch.__file__, *self._spec.command(port)]
        log.info("starting engine %s: %s", self.name, " ".join(command[3:]))
        with open_log(self._spec.log_file) as sink:
            # A session of its own: Ctrl-C reaches the gateway only, which ends the engine after draining.
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=self._spec.environment(),
                start_new_session=True,
            )
        self._fault = ""
        code = await self._process.wait()
        await self._end()  # its own children, should they still live
        return code

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        try:
            # Not wait_for: Python 3.11's loses a cancellation that meets the end, and stop() waits for ever.
            async with asyncio.timeout(_TERM_GRACE):
                await process.wait()
        except TimeoutError:
            log.warning("engine %s did not end within %.0f s of SIGTERM; killing it", self.name, _TERM_GRACE)
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()


def _signal_group(pid: int, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, sig)


def free_port() -> int:
    """A TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[int]:
    """The log file for appending, as a descriptor; a very large one is first set aside as `.1`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_KEEP_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def last_words(path: Path, *, limit: int = 300) -> str:
    """The last line of a log that says something, cut to `limit` characters."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"no log ({error.strerror})"
    for line in reversed(lines):
        if line.strip():
            return line.strip()[:limit]
    return "nothing in the log"
