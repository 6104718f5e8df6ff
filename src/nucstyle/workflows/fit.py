"""What the trainings of the style model and of the segmenter have in common: the loop, the choice of the best, followers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from nucstyle.core.config import to_toml
from nucstyle.core.errors import OptionError
from nucstyle.core.precision import deterministic
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.rng import derive_seed
from nucstyle.data.weights import copy_durably
from nucstyle.training.distributed import Group
from nucstyle.training.loop import LoopConfig, Trainer, run_loop
from nucstyle.workflows.load import WEIGHTS
from nucstyle.workflows.selection import Selection

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Choice(Generic[Model]):
    """How the best model is found."""

    selection: Selection[Model]
    load: Callable[[Path], Model]
    """Reads what was saved, so that what is measured is what a user gets."""


def fit(
    trainer: Trainer,
    run: Path,
    config: LoopConfig,
    *,
    stage: str,
    device: str,
    save: Callable[[Path, int], object],
    choice: Choice[Model] | None,
    draw: Callable[[int], None] | None = None,
    progress: Progress,
    group: Group,
) -> int:
    """Train in a run folder until `weights.safetensors` is there.

    Args:
        trainer: Takes the steps.
        run: The run folder.
        config: How many steps and how often what.
        stage: The name of the stage on the screen.
        device: Where it trains.
        save: Writes the model of a step to a file.
        choice: How the best is found; None = the last one is taken.
        draw: Makes pictures of a step where they are missing.
        progress: Shown to the person.
        group: The processes that train together, of which this is the first.

    Returns:
        The step whose model was taken.

    Raises:
        TrainingError, Interrupted, RunFolderError: As `run_loop`.
    """

    def snapshot(step: int) -> None:
        if draw is not None:
            draw(step)
        if choice is not None and choice.selection.is_due(step, config.steps):
            partial = run / "measured.safetensors"
            save(partial, step)
            progress.say(f"measuring the model of step {step} on validation images")
            choice.selection.consider(step, choice.load(partial), lambda path: partial.replace(path))
            partial.unlink(missing_ok=True)

    with deterministic(device):
        run_loop(trainer, run, config, stage=stage, progress=progress, snapshot=snapshot, group=group)
        best = choice.selection.best() if choice is not None else None
        if best is not None:
            copy_durably(best[1], run / WEIGHTS)
            return best[0]
        if choice is not None:
            progress.say("warning: no measured model is there to choose from; the last one is taken")
        save(run / WEIGHTS, config.steps)
        return config.steps


def require_agreement(config: Mapping[str, Any], group: Group) -> None:
    """Refuse to train together what is not the same training: other data, options or weights on another node.

    Args:
        config: What determines the result, as `config.toml` holds it.
        group: The processes.

    Raises:
        OptionError: In every process, when one has another config.
    """
    if not group.agrees(derive_seed(to_toml(config))):
        msg = "the processes were given different data, options or weights; give every node the same files and the same command"
        raise OptionError(msg)


def follow(trainer: Trainer, run: Path, config: LoopConfig, *, stage: str, device: str, group: Group) -> None:
    """Take part in a training whose files the first process writes."""
    if group.any(False):  # the first one found the run finished
        return
    with deterministic(device):
        run_loop(trainer, run, config, stage=stage, progress=SILENT, group=group)
