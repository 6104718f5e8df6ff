"""In which number format the networks compute: bfloat16 where the processor has it, about twice as fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]
Autocast = Callable[[], AbstractContextManager[object]]


def resolve_precision(precision: Precision, device: str) -> Literal["bf16", "fp32"]:
    """What `auto` means on a device: bf16 if it has instructions for it, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bfloat16(device) else "fp32"


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device has bfloat16 instructions, so that autocast makes it faster."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(check()) for check in checks if check is not None)


def autocast(device: str, precision: Literal["bf16", "fp32"]) -> Autocast:
    """A maker of contexts in which networks compute in the given format; it can be pickled, for workers that are spawned."""
    if precision == "fp32":
        return nullcontext
    return partial(torch.autocast, torch.device(device).type, dtype=torch.bfloat16)


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """On a CPU, have torch use only algorithms that give the same bits every time; the caller's setting comes back.

    On a GPU the backward pass of `roi_align` has no such algorithm, so nothing is promised there.
    """
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if device == "cpu":
        torch.use_deterministic_algorithms(mode=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
