"""Telling a shortage of memory from other failures: torch has a class of its own for it on a GPU alone."""

from __future__ import annotations

import torch

_PHRASES = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch's allocators and CUDA's libraries say. "illegal memory access" is another matter."""


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


def free_cached_memory() -> None:
    """Give back what torch keeps for later on GPUs, before less is asked for."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
