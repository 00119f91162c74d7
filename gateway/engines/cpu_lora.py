"""A vLLM plugin for engines without a GPU: LoRA by adapter, not by token. Loaded by vLLM, never by the gateway.

vLLM 0.32's CPU code gathers a copy of the adapter's weights for every token, which makes a prompt of 400 tokens
ten times slower through an adapter than through the base model. It also reads index -1, "no adapter", as Python
does: a base-model request in a batch with others gets the weights of the last slot, which is another tenant's
adapter once every slot is taken. Here tokens are grouped by adapter once a step, and the others are left alone.

`python -m pytest tests/real/test_cpu_lora.py` compares both with vLLM's own.
"""

from __future__ import annotations

from typing import Any

PLUGIN_NAME = "repertory_cpu_lora"


def register() -> None:
    """vLLM's entry point: put the grouped wrapper where the CPU platform looks for its own."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.lora.punica_wrapper import punica_cpu

        punica_cpu.PunicaWrapperCPU = grouped_wrapper(punica_cpu.PunicaWrapperCPU)


def grouped_wrapper(stock: Any) -> Any:
    """A subclass of vLLM's CPU wrapper that computes by adapter. Wrapping it again changes nothing."""
    import torch

    if hasattr(stock, "adapter_groups"):
        return stock

    class GroupedPunicaWrapperCPU(stock):  # type: ignore[misc]
        """`adapter_groups`: (slot, its tokens' rows) for each adapter of this step; None stands for all rows."""

        adapter_groups: tuple[tuple[int, Any], ...] = ()

        def update_metadata(self, *args: Any, **kwargs: Any) -> None:
            super().update_metadata(*args, **kwargs)
            slots = self.token_lora_indices.tolist()
            present = sorted({slot for slot in slots if slot >= 0})
            if len(present) == 1 and min(slots) >= 0:
                self.adapter_groups = ((present[0], None),)
                return
            self.adapter_groups = tuple(
                (slot, torch.tensor([row for row, owner in enumerate(slots) if owner == slot]))
                for slot in present
            )

        def add_lora_linear(  # noqa: PLR0913, PLR0917  vLLM's signature
            self,
            y: Any,
            x: Any,
            lora_a_stacked: tuple[Any, ...],
            lora_b_stacked: tuple[Any, ...],
            scale: float,
            output_slices: tuple[int, ...],
            **_: Any,
        ) -> None:
            y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            for slot, rows in self.adapter_groups:
                inputs = x if rows is None else x[rows]
                start = 0
                for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                    low = torch.mm(inputs, _of(a, slot).t())
                    columns = y[:, start : start + size]
                    if rows is None:
                        columns.addmm_(low, _of(b, slot).t(), alpha=scale)
                    else:
                        columns.index_add_(0, rows, torch.mm(low, _of(b, slot).t()), alpha=scale)
                    start += size

    return GroupedPunicaWrapperCPU


def _of(stacked: Any, slot: int) -> Any:
    """One slot's matrix, shape (out, in), of a stack of shape (slots, 1, out, in) or (slots, out, in)."""
    weights = stacked[slot]
    return weights.squeeze(0) if weights.dim() == 3 else weights
