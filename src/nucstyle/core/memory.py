"""Telling a shortage of memory from other failures: torch has a class of its own for it on a GPU alone."""

from __future__ import annotations

import torch


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # "DefaultCPUAllocator: can't allocate memory: you tried to allocate ... bytes", "not enough memory", "out of memory".
    return isinstance(error, RuntimeError) and "memory" in str(error)


def free_cached_memory() -> None:
    """Give back what torch keeps for later on GPUs, before less is asked for."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
