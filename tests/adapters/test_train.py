"""The training process from outside, with a real base model of a few hundred kilobytes and real updates."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import DataInvalid, TrainingCancelled, TrainingFailed
from adapters.store import AdapterStore
from adapters.train import TrainingSpec, run_training

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: the libraries warn while they are imported, and warnings are errors here.
MAKE_BASE = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {token: place for place, token in enumerate(["<|im_start|>", "<|im_end|>", *letters])}
raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
raw.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|im_end|>",
                                    additional_special_tokens=["<|im_start|>"])
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)
tokenizer.save_pretrained(sys.argv[1])
config = LlamaConfig(vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                     num_attention_heads=2, num_key_value_heads=1, eos_token_id=1, bos_token_id=0,
                     pad_token_id=1)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny"
    subprocess.run([sys.executable, "-c", MAKE_BASE, str(folder)], check=True, capture_output=True)
    return folder


def write_rows(path, count=4, question="hi"):
    rows = [
        {"messages": [{"role": "user", "content": f"{question} {n}"}, {"role": "assistant", "content": "ok"}]}
        for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_spec(base, folder):
    rows = write_rows(folder / "rows.jsonl")
    return TrainingSpec(
        base, rows, folder / "out", rank=4, alpha=8, epochs=1, batch_size=2, threads=1, system_prompt=""
    )


@pytest.fixture
def spec(base, tmp_path):
    return make_spec(base, tmp_path)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """One run that several tests look at: (spec, result, progress reports)."""
    seen = []
    spec = make_spec(base, tmp_path_factory.mktemp("finished"))
    return spec, run_training(spec, seen.append), seen


@pytest.fixture
def crashing(spec, tmp_path):
    (tmp_path / "empty").mkdir()
    return replace(spec, base_model=tmp_path / "empty")


def test_a_run_reports_every_step(finished):
    _, _, seen = finished

    assert [(progress.step, progress.total_steps) for progress in seen] == [(1, 2), (2, 2)]
    assert all(progress.loss > 0 and progress.examples_per_second > 0 for progress in seen)
    assert seen[-1].seconds_left == 0


def test_a_run_leaves_an_adapter_that_the_store_accepts(finished, tmp_path):
    _, result, _ = finished
    manifest = AdapterStore(tmp_path / "store").put("tiny", result.folder, "tiny", result.record)

    assert (manifest.rank, manifest.alpha) == (4, 8)
    assert {"q_proj", "down_proj"} <= set(manifest.target_modules)
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"


def test_the_record_says_what_is_needed_to_run_it_again(finished):
    spec, result, _ = finished
    record = result.record

    assert TrainingSpec.from_json(json.dumps(record["spec"])).digest() == spec.digest()
    assert [step for step, _ in record["loss_curve"]] == [1, 2]
    assert record["versions"].keys() >= {"torch", "transformers", "trl", "peft"}
    assert (record["examples"], len(record["data_sha256"]), len(record["base_sha256"])) == (4, 64, 64)


def test_the_same_spec_gives_the_same_bytes(finished, tmp_path):
    spec, first, _ = finished
    second = run_training(replace(spec, output=tmp_path / "again"))
    store = AdapterStore(tmp_path / "store")

    assert len({store.put("tiny", result.folder, "tiny", {}).id for result in (first, second)}) == 1


def test_only_the_last_layers_are_adapted_when_asked(spec):
    result = run_training(replace(spec, last_layers=1))

    header = (result.folder / "adapter_model.safetensors").read_bytes()
    assert b"layers.1.mlp" in header
    assert b"layers.0." not in header


def test_over_long_rows_are_refused_by_line(spec):
    with pytest.raises(DataInvalid) as caught:
        run_training(replace(spec, max_length=20))
    assert [(fault.line, fault.code) for fault in caught.value.faults] == [
        (line, "over_length") for line in (1, 2, 3, 4)
    ]


def test_faulty_rows_are_refused_before_a_process_starts(spec):
    spec.examples.write_text("[]")

    with pytest.raises(DataInvalid):
        run_training(spec)
    assert not spec.output.exists()


def test_a_crashed_run_fails_with_the_end_of_its_log(crashing):
    with pytest.raises(TrainingFailed) as caught:
        run_training(crashing)
    assert caught.value.exit_code == 1
    assert "Traceback" in caught.value.log_tail
    assert caught.value.log_tail.encode() in (crashing.output / "train.log").read_bytes()


def test_a_run_that_is_killed_fails_with_the_signal(spec):
    def kill(_progress):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in map(int, children):
            if b"adapters.train_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)

    with pytest.raises(TrainingFailed) as caught:
        run_training(replace(spec, epochs=500), kill)
    assert caught.value.exit_code == -signal.SIGKILL


def test_a_cancelled_run_ends_at_once_and_leaves_no_adapter_not_even_an_older_one(spec):
    seen = []
    spec.output.mkdir()
    (spec.output / "adapter_model.safetensors").write_bytes(b"from an earlier run")

    with pytest.raises(TrainingCancelled):
        run_training(replace(spec, epochs=500), seen.append, lambda: bool(seen))
    assert 0 < len(seen) < 1000
    assert not (spec.output / "adapter_model.safetensors").exists()


def test_an_error_of_the_caller_ends_the_process(spec):
    def fail(_progress):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        run_training(replace(spec, epochs=500), fail)
    assert not (spec.output / "adapter_model.safetensors").exists()


def test_the_worker_dies_with_its_parent(spec):
    spec.output.mkdir()
    (spec.output / "spec.json").write_text(replace(spec, epochs=5000).to_json())
    # The parent prints its child's id and leaves without waiting for it.
    parent = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-m', 'adapters.train_worker', sys.argv[1], str(os.getpid())]\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent, str(spec.output / "spec.json")],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    worker = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(process):
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_spec_survives_json_with_absolute_paths(spec):
    relative = replace(spec, output=Path("out"))

    assert TrainingSpec.from_json(spec.to_json()) == spec
    assert TrainingSpec.from_json(relative.to_json()).output == Path.cwd() / "out"


def test_the_digest_follows_content_and_not_places(spec, tmp_path):
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(spec.examples.read_bytes())

    moved = replace(spec, examples=copy, output=tmp_path / "elsewhere", threads=2)
    assert moved.digest() == spec.digest()
    assert replace(spec, seed=1).digest() != spec.digest()
    write_rows(copy, question="hey")
    assert moved.digest() != spec.digest()
