"""Several processes that train one model together (`torchrun`), and a single one as the simplest case.

Every process draws its own part of each batch and computes gradients of means over it; the gradients are averaged. In the
style training all losses are means over the batch, and masked ones are divided by its size, so that is the gradient of the
joint batch; those of the segmenter are means over sampled regions, so it is the mean of the processes' gradients. What must
not differ between the processes, stopping and skipping a step, they agree on. The first process writes the run folder, the
others read it: on several nodes it must lie where all of them see it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = timedelta(hours=3)
"""The first process measures, trains the judge and writes files while the others wait."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a training."""

    rank: int = 0
    """The number of this process; 0 writes the files."""
    size: int = 1
    """How many there are, on all nodes together."""
    device: str = "cpu"
    """Where small tensors travel: `cpu` for gloo, this process's GPU for NCCL."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the person."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes; a missing one counts as 0."""
        if self.size == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        joined = torch.cat([_gradient(parameter).reshape(-1) for parameter in learning])
        dist.all_reduce(joined)
        joined /= self.size
        start = 0
        for parameter in learning:
            part = joined[start : start + parameter.numel()]
            _gradient(parameter).copy_(part.view_as(parameter))
            start += parameter.numel()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        shared = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared)

    def agrees(self, value: int) -> bool:
        """Whether all processes have the same value."""
        if self.size == 1:
            return True
        shared = torch.tensor([value, -value], device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared[0]) == -int(shared[1])

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


SINGLE = Group()
"""One process by itself."""


def process_count() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_distributed() -> bool:
    """Whether `torchrun` started this process beside others."""
    return process_count() > 1


def is_first_process() -> bool:
    """Whether this process writes files, also before it has joined the others."""
    return int(os.environ.get("RANK", "0")) == 0


def device_of_process(device: str) -> str:
    """`cuda` becomes this process's own GPU of the node."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and is_distributed() else device


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """Join the processes that `torchrun` started; a single process needs nothing.

    Args:
        device: Where this process trains.
    """
    if not is_distributed():
        yield SINGLE
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device if on_gpu else "cpu")
    finally:
        dist.destroy_process_group()
