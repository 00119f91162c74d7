"""The model side of a run: load a base, add LoRA, train with TRL on answers only, save what vLLM reads.

Knows token ids and labels; knows no files of examples and no process protocol.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from adapters.store import CONFIG
from adapters.train import Precision, TrainingSpec
from adapters.train_tokens import IGNORED, Tokenized

EAGER_ATTENTION_LIMIT = 768
"""Tokens up to which plain attention is used for bf16 on a CPU: there torch's fused kernel spends more on its
backward pass than the matrices cost, and the quadratic memory of the plain one stays small."""


def choose_dtype(precision: Precision) -> torch.dtype:
    """Return the compute type; `auto` takes bf16 only where the hardware multiplies it."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16
    cpuinfo = Path("/proc/cpuinfo")
    has_amx = cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    return torch.bfloat16 if has_amx else torch.float32


def load_model(spec: TrainingSpec, *, dtype: torch.dtype, longest: int) -> PeftModel:
    """Load the base in `dtype` with fresh fp32 LoRA on its linear layers; `longest` is in tokens."""
    on_cpu = not torch.cuda.is_available()
    plain = on_cpu and dtype == torch.bfloat16 and longest <= EAGER_ATTENTION_LIMIT
    set_seed(spec.seed)
    base = AutoModelForCausalLM.from_pretrained(
        spec.base_model, dtype=dtype, attn_implementation="eager" if plain else "sdpa", local_files_only=True
    )
    layers = base.config.num_hidden_layers
    lora = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        target_modules=_linear_names(base),
        layers_to_transform=list(range(layers - spec.last_layers, layers)) if spec.last_layers else None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, lora)


def _linear_names(base: Any) -> list[str]:
    """Name each kind of linear layer but the head; PEFT's own "all-linear" allows no choice of layers."""
    head = base.get_output_embeddings()
    linear = (
        name for name, part in base.named_modules() if isinstance(part, torch.nn.Linear) and part is not head
    )
    return sorted({name.rpartition(".")[2] for name in linear})


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]  # trl ships no types
    """SFTTrainer that, on a CPU, projects only trained positions onto the vocabulary.

    TRL does so itself where Triton runs and scores every position elsewhere; for a small model with a large
    vocabulary and long prompts that is a fifth of the whole work.
    """

    compute_dtype = torch.float32

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        device = inputs["input_ids"].device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16):
            if device != "cpu":
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            base = model.get_base_model()
            backbone = getattr(base, base.base_model_prefix)
            output = backbone(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            )
            labels = inputs["labels"][:, 1:]
            trained = labels != IGNORED
            logits = base.get_output_embeddings()(output.last_hidden_state[:, :-1][trained])
        total = functional.cross_entropy(logits.float(), labels[trained], reduction="sum")
        return total / (num_items_in_batch if num_items_in_batch is not None else trained.sum())


class _OnStep(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    def __init__(self, report: Callable[[int, int, float], None]) -> None:
        self._report = report

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self._report(state.global_step, state.max_steps, logs["loss"])


def train(
    model: PeftModel,
    tokenizer: Any,
    rows: list[Tokenized],
    spec: TrainingSpec,
    on_step: Callable[[int, int, float], None],
) -> None:
    """Run every epoch; `on_step` gets (step, total steps, mean loss per trained token) after each update."""
    arguments = SFTConfig(
        output_dir=str(spec.output),
        use_cpu=not torch.cuda.is_available(),
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.0,
        # Autocast is ours (see compute_loss), so that LoRA and optimiser stay in fp32 over a bf16 base.
        bf16=False,
        gradient_checkpointing=False,
        packing=False,
        # Rows of like length share a batch, so little is spent on padding.
        train_sampling_strategy="group_by_length",
        max_length=None,
        seed=spec.seed,
        data_seed=spec.seed,
        logging_steps=1,
        logging_strategy="steps",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    dataset = Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[_OnStep(on_step)],
    )
    trainer.compute_dtype = model.get_base_model().dtype
    trainer.train()


def save(model: PeftModel, folder: Path, *, base_name: str) -> None:
    """Write the two adapter files into `folder`, the same bytes for the same weights anywhere."""
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(str(folder), save_embedding_layers=False)
    path = folder / CONFIG
    config = json.loads(path.read_text())
    # PEFT keeps the modules in a set, whose order changes with every process.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
