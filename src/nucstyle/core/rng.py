"""Randomness is handed in: every draw depends on a seed and a place, never on what was drawn before.

A training step draws from `seeded(seed, "style", step)`, so that a run that was stopped and resumed at any step goes on
with the same numbers, and the number of loader workers does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: object) -> int:
    """A seed from a path of parts: the first 8 bytes of SHA-256 of `part/part/...`, without the sign bit.

    Args:
        *parts: Anything with a stable `str`, for example (run seed, epoch, sample id).

    Returns:
        An integer in [0, 2**63).
    """
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Seed torch's global stream inside the block and give the caller's stream back afterwards.

    Needed only around library code that draws from the global stream, such as torchvision's samplers and dropout.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive_seed(*parts))
        yield


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """One integer from {low, ..., high - 1}."""
    return int(torch.randint(low, high, (), generator=generator))


def chance(p: float, generator: torch.Generator) -> bool:
    """True with probability p: never for 0, always for 1."""
    return float(torch.rand((), generator=generator)) < p
