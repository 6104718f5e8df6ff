"""The loop that both trainings share: steps, log, checkpoints, interruption, and losses that are not a number."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Protocol

import torch
from annotated_types import Ge
from torch import Tensor

from nucstyle.core.errors import ConfigError, Interrupted, RunFolderError, TrainingError
from nucstyle.core.protocols import Progress
from nucstyle.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from nucstyle.training.distributed import SINGLE, Group
from nucstyle.training.logbook import Logbook

Steps = Annotated[int, Ge(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How a training runs, whatever it trains."""

    steps: Steps
    """Updates of the weights."""
    checkpoint_every: Steps = 100
    """Steps between two checkpoints."""
    log_every: Steps = 10
    """Steps between two lines of the log."""
    max_skipped: Steps = 20
    """The run stops after this many steps in a row whose loss is not finite."""

    def is_kept(self, step: int) -> bool:
        """Whether a checkpoint is written after a step, however the run goes."""
        return step % self.checkpoint_every == 0 or step == self.steps

    def check_measures(self, measure_every: int) -> None:
        """Refuse to measure models where there is no checkpoint.

        Raises:
            ConfigError: With the remedy.
        """
        if measure_every % self.checkpoint_every:
            msg = (
                f"measure_every must be a multiple of checkpoint_every, since checkpoints are measured, got {measure_every} "
                f"and {self.checkpoint_every}; --set checkpoint_every={measure_every} does it"
            )
            raise ConfigError(msg)


class NonFiniteLossError(Exception):
    """A loss is NaN or infinite; the step must not be taken.

    Args:
        parts: The terms by name.
    """

    def __init__(self, parts: dict[str, float]) -> None:
        bad = [name for name, value in parts.items() if not math.isfinite(value)]
        super().__init__(", ".join(bad) or "the gradient")


class Trainer(Protocol):
    """What the loop needs of a training."""

    def step(self, step: int) -> dict[str, Tensor]:
        """Take step number `step` (from 1); all its randomness follows from the seed and that number.

        Raises:
            NonFiniteLossError: Nothing was updated by the losses that are not finite.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must survive."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to what `tensors` returned."""


def run_loop(
    trainer: Trainer,
    run: Path,
    config: LoopConfig,
    *,
    stage: str,
    progress: Progress,
    snapshot: Callable[[int], None] | None = None,
    group: Group = SINGLE,
) -> None:
    """Train until `config.steps`, from the newest checkpoint where the run has one.

    Args:
        trainer: Takes the steps.
        run: The run folder: log and checkpoints go there.
        config: How many steps and how often what.
        stage: The name of the stage on the screen.
        progress: Shown to the person.
        snapshot: Called with the step after each checkpoint, and again where training goes on from one: what it makes may
            be missing, and need not be made where it is there.
        group: The processes that train together; the first alone writes.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written, `--resume` goes on.
        TrainingError: Too many steps in a row were not finite; the last good checkpoint is kept.
        RunFolderError: A checkpoint cannot be written, or the processes do not see the same run folder.
    """
    first = _go_on(trainer, run, config, stage, progress, group)
    if first and config.is_kept(first) and group.is_first and snapshot is not None:
        snapshot(first)
    log = Logbook(run / "log.jsonl", step=first) if group.is_first else None
    progress.start(stage, config.steps, "step")
    progress.advance(first)
    skipped = 0
    with stop_requests() as stop:
        for step in range(first + 1, config.steps + 1):
            try:
                _report(trainer.step(step), step, config, log, progress)
                skipped = 0
            except NonFiniteLossError as error:
                skipped += 1
                _write(log, {"step": step, "skipped": str(error)})
                _give_up_if(skipped >= config.max_skipped, run, step, str(error))
            stopping = group.any(bool(stop))
            if config.is_kept(step) or stopping:
                if group.is_first:
                    save_checkpoint(run, step, trainer.tensors())
                    if snapshot is not None and not stopping:
                        snapshot(step)
                stopping = group.any(bool(stop))  # a signal that came while something was written
            if stopping:
                number = stop[0] if stop else signal.SIGTERM  # or another process was asked
                msg = f"stopped by {signal.Signals(number).name} after step {step}; go on with --resume"
                raise Interrupted(msg, number)


def _go_on(trainer: Trainer, run: Path, config: LoopConfig, stage: str, progress: Progress, group: Group) -> int:
    """Restore the newest checkpoint; returns its step, 0 for a new run."""
    warnings: list[str] = []
    if not group.is_first:
        group.wait()  # the first one tidies the folder
    checkpoint = latest_checkpoint(run, warnings)
    if group.is_first:
        group.wait()
    for warning in warnings:
        progress.say(f"warning: {warning}")
    if not group.agrees(0 if checkpoint is None else checkpoint.step):
        msg = f"{run}: the processes do not find the same checkpoint; put the run folder where every node sees it"
        raise RunFolderError(msg)
    if checkpoint is None:
        return 0
    trainer.restore(checkpoint)
    progress.say(f"{stage}: going on from step {checkpoint.step} of {config.steps}")
    return checkpoint.step


def _write(log: Logbook | None, values: dict[str, object]) -> None:
    if log is not None:
        log.write(values)


def _report(parts: dict[str, Tensor], step: int, config: LoopConfig, log: Logbook | None, progress: Progress) -> None:
    """Show the step; every `log_every` steps read the losses, which makes a GPU wait, and log them."""
    if step % config.log_every and step != config.steps:
        progress.advance(step)
        return
    values = {name: float(value) for name, value in parts.items()}
    _write(log, {"step": step, **values})
    progress.advance(step, values)


def _give_up_if(too_many: bool, run: Path, step: int, what: str) -> None:
    if too_many:
        msg = (
            f"{run}: {what} not finite in many steps up to {step}; the last good checkpoint is kept. "
            "Train anew with a lower learning_rate (rate_factor in a recipe of stages) or precision=fp32"
        )
        raise TrainingError(msg)


def check_finite(parts: dict[str, Tensor], group: Group = SINGLE) -> None:
    """Refuse losses of which one is NaN or infinite, in any of the processes.

    Raises:
        NonFiniteLossError: With their names.
    """
    finite = bool(torch.isfinite(torch.stack([part.detach().float() for part in parts.values()])).all())
    if group.any(not finite):
        raise NonFiniteLossError({name: float(part.detach()) for name, part in parts.items()})


def check_gradient(norm: Tensor) -> None:
    """Refuse a gradient whose norm is NaN or infinite.

    Raises:
        NonFiniteLossError: Naming the gradient.
    """
    if not bool(torch.isfinite(norm)):
        raise NonFiniteLossError({})


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Within the block, Ctrl-C and SIGTERM are noted in the list instead of ending the program.

    A second Ctrl-C ends it at once. Outside the main thread nothing is caught.
    """
    requests: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if requests and number == signal.SIGINT:
            raise KeyboardInterrupt
        requests.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        yield requests
        return
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def one_cycle(step: int, steps: int, *, peak: float, warm_up: float = 0.1) -> float:
    """Learning rate that rises from a 25th of the peak and falls to nearly nothing, both along half a cosine.

    Args:
        step: From 1.
        steps: In all.
        peak: The greatest rate.
        warm_up: Share of the steps in which it rises (one-cycle policy, arXiv 1708.07120).
    """
    rising = max(1.0, warm_up * steps)
    low, end = peak / 25, peak / 25e4
    if step <= rising:
        return peak + (low - peak) * (1 + math.cos(math.pi * step / rising)) / 2
    done = (step - rising) / max(1.0, steps - rising)
    return end + (peak - end) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def constant_then_linear(step: int, steps: int, *, start: float) -> float:
    """Learning rate that is constant for the first half and falls to 0 in a line (MDMM)."""
    return start * min(1.0, 2 * (1 - (step - 1) / steps))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
