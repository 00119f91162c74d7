"""Fine-tuning for callers: describe a run, start it in a process of its own, watch it, stop it.

Imports no training library; `adapters.train_worker` is the other side of the pipe.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TextIO

from adapters.data import fingerprint, load_examples
from adapters.errors import DataInvalid, LineFault, TrainingCancelled, TrainingFailed
from adapters.store import FILES

Precision = Literal["auto", "fp32", "bf16"]

SPEC_FILE = "spec.json"
LOG_FILE = "train.log"
RECORD_FILE = "record.json"

LOG_TAIL_BYTES = 4000
POLL_SECONDS = 0.2
STOP_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """One LoRA run. Lengths are in tokens, `batch_size` and `epochs` in rows and passes.

    Attributes:
        base_model: a local folder in Hugging Face's layout, with a chat template.
        output: receives `adapter_config.json`, `adapter_model.safetensors`, `record.json`, spec and log.
        last_layers: adapt only the last so many transformer layers, for a shorter backward pass; 0: all.
        max_length: a row longer than this is refused by line, never cut.
        threads: CPU threads; 0 leaves the choice to torch.
        precision: `auto` is bf16 where the machine multiplies it in hardware (CUDA, Intel AMX), else fp32.
        system_prompt: put before rows that have no system message, as it will be when served; "" is a system
            message too. None leaves such rows to the chat template, which may add a default of its own.
    """

    base_model: Path
    examples: Path
    output: Path
    rank: int = 16
    alpha: int = 32
    last_layers: int = 0
    epochs: int = 3
    learning_rate: float = 2e-4
    batch_size: int = 8
    max_length: int = 1024
    seed: int = 0
    threads: int = 0
    precision: Precision = "auto"
    system_prompt: str | None = None

    def to_json(self) -> str:
        fields = asdict(self)
        paths = {key: str(fields[key].resolve()) for key in ("base_model", "examples", "output")}
        return json.dumps({**fields, **paths}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TrainingSpec":
        """Read back what `to_json` wrote; raises ValueError, TypeError or KeyError for anything else."""
        fields = json.loads(text)
        return cls(**{**fields, **{key: Path(fields[key]) for key in ("base_model", "examples", "output")}})

    def digest(self) -> str:
        """Return a sha256 over everything that shapes the result: settings, examples and base weights.

        Paths and threads are left out, so a cached adapter is found wherever it was trained. Reads the
        base model's bytes from disk (about a second for 1 GB). Raises DataInvalid or OSError.
        """
        fields = asdict(self)
        for key in ("base_model", "examples", "output", "threads"):
            del fields[key]
        fields["data_sha256"] = fingerprint(load_examples(self.examples))
        fields["base_sha256"] = base_digest(self.base_model)
        return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is after `step` of `total_steps` updates; `loss` is the mean per trained token of it."""

    step: int
    total_steps: int
    loss: float
    examples_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished run: the folder that holds the adapter, and the record by which to reproduce it."""

    folder: Path
    record: dict[str, Any]


def base_digest(folder: Path) -> str:
    """Return a sha256 over a base model's weights, configuration, tokenizer and chat template."""
    digest = sha256()
    for file in sorted(
        path for path in folder.iterdir() if path.suffix in {".safetensors", ".json", ".jinja"}
    ):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as reading:
            while block := reading.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def run_training(
    spec: TrainingSpec,
    on_progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train in a new process and return when it has written the adapter; blocks, so call it from a thread.

    `should_stop` is asked several times a second. Whatever leaves this function, the process has ended.
    Raises DataInvalid (bad or over-long rows, by line), TrainingCancelled, TrainingFailed.
    """
    load_examples(spec.examples)
    spec.output.mkdir(parents=True, exist_ok=True)
    for stale in (*FILES, RECORD_FILE):
        (spec.output / stale).unlink(missing_ok=True)
    spec_file = spec.output / SPEC_FILE
    spec_file.write_text(spec.to_json())
    log_file = spec.output / LOG_FILE
    done = False
    with log_file.open("wb") as log, _worker(spec_file, log.fileno()) as worker:
        for event in _events(worker, should_stop):
            kind = event.pop("event")
            if kind == "progress":
                on_progress(Progress(**event))
            elif kind == "refused":
                raise DataInvalid(tuple(LineFault(**fault) for fault in event["faults"]))
            done = done or kind == "done"
        exit_code = worker.wait()
    if exit_code != 0 or not done:
        raise TrainingFailed(
            "training ended without an adapter", exit_code=exit_code, log_tail=_tail(log_file)
        )
    return TrainingResult(spec.output, json.loads((spec.output / RECORD_FILE).read_text()))


@contextmanager
def _worker(spec_file: Path, log: int) -> Iterator[subprocess.Popen[str]]:
    """Start the process; end it on the way out, politely first."""
    command = [sys.executable, "-m", "adapters.train_worker", str(spec_file.resolve()), str(os.getpid())]
    # `-m` looks in the working directory first: the worker is this very package, installed or not.
    here = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=here)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _events(worker: subprocess.Popen[str], should_stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Yield the worker's events until it closes its output. Raises TrainingCancelled."""
    assert worker.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    # A thread reads, because a pipe cannot be read and `should_stop` asked at once.
    threading.Thread(target=_read_lines, args=(worker.stdout, lines), daemon=True).start()
    while True:
        if should_stop():
            raise TrainingCancelled
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return
        yield json.loads(line)


def _read_lines(stream: TextIO, lines: "queue.Queue[str | None]") -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:
        pass  # the stream was closed after a cancel; nobody reads on
    finally:
        lines.put(None)


def _tail(log_file: Path) -> str:
    return log_file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
