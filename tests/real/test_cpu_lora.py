"""The CPU plugin against vLLM's own code: the same numbers for adapters, and nothing at all for base requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.engines.cpu_lora import grouped_wrapper

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own, at import

SLOTS, RANK, WIDTH, SLICES = 4, 16, 96, (64, 32)


@pytest.fixture(scope="module")
def wrappers() -> tuple[Any, Any]:
    punica_cpu = pytest.importorskip("vllm.lora.punica_wrapper.punica_cpu")
    stock = punica_cpu.PunicaWrapperCPU
    make = {"max_num_batched_tokens": 64, "max_batches": 16, "device": "cpu"}
    return stock(**make), grouped_wrapper(stock)(**make)


def run(wrapper: Any, owners: list[int], *, prefill: bool) -> tuple[Any, Any]:
    """(output before, output after) one linear layer with two slices, for tokens of these adapters (0: base)."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: Any = torch.bfloat16) -> Any:
        return torch.randn(*shape, generator=generator).to(dtype)

    mapping = SimpleNamespace(index_mapping=tuple(owners), prompt_mapping=tuple(owners), is_prefill=prefill)
    wrapper.update_metadata(mapping, [11, 12, 13, 14], SLOTS, 1000)
    a = tuple(normal(SLOTS, 1, RANK, WIDTH) for _ in SLICES)
    b = tuple(normal(SLOTS, 1, size, RANK) for size in SLICES)
    x, y = normal(len(owners), WIDTH), normal(len(owners), sum(SLICES))
    before = y.clone()
    wrapper.add_lora_linear(y, x, a, b, 0.5, SLICES)
    return before, y


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("owners", [[11] * 7, [11, 11, 13, 13, 13, 12], [14], [12, 14, 12, 14]])
def test_adapters_get_the_numbers_that_vllm_computes(
    wrappers: tuple[Any, Any], owners: list[int], prefill: bool
) -> None:
    import torch

    stock, ours = wrappers
    _, expected = run(stock, owners, prefill=prefill)
    before, actual = run(ours, owners, prefill=prefill)
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=0.5)
    assert not torch.equal(actual, before)


@pytest.mark.parametrize("prefill", [True, False])
def test_base_requests_in_a_mixed_batch_are_left_alone(wrappers: tuple[Any, Any], prefill: bool) -> None:
    import torch

    _, ours = wrappers
    before, after = run(ours, [0, 0, 11, 11, 0], prefill=prefill)
    assert torch.equal(after[[0, 1, 4]], before[[0, 1, 4]])
    assert not torch.equal(after[[2, 3]], before[[2, 3]])


def test_vllm_itself_gives_them_the_last_slots_adapter(wrappers: tuple[Any, Any]) -> None:
    """The fault that the plugin is for. When this fails, vLLM has mended it."""
    import torch

    stock, _ = wrappers
    before, after = run(stock, [0, 0, 11, 11, 0], prefill=False)
    assert not torch.equal(after[[0, 1, 4]], before[[0, 1, 4]])


def test_a_batch_of_base_requests_computes_nothing(wrappers: tuple[Any, Any]) -> None:
    import torch

    _, ours = wrappers
    before, after = run(ours, [0, 0, 0], prefill=False)
    assert torch.equal(after, before)


def test_wrapping_twice_is_wrapping_once(wrappers: tuple[Any, Any]) -> None:
    _, ours = wrappers
    assert grouped_wrapper(type(ours)) is type(ours)
