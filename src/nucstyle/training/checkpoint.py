"""Checkpoints: complete, versioned, verified, and never half-written.

`checkpoints/step-000200/state.safetensors` holds every tensor that a run needs to go on. Randomness is a function of the
step (`core.rng`), so no generator state is kept. The newest two are kept: if the newest is damaged, the run goes on from
the one before.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nucstyle.core.errors import RunFolderError, WeightsError
from nucstyle.data.weights import load_state, load_weights, replace_durably, save_weights

KEPT = 2
_FOLDER, _FILE, _KIND = "checkpoints", "state.safetensors", "checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training after `step` steps."""

    step: int
    tensors: dict[str, Tensor]
    where: str
    """The file, for messages."""


def save_checkpoint(run: Path, step: int, tensors: Mapping[str, Tensor]) -> Path:
    """Write a checkpoint and drop all but the newest.

    Raises:
        RunFolderError: The disk is full or cannot be written; the checkpoint before is still there.
    """
    folder = run / _FOLDER / f"step-{step:06d}"
    partial = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_weights(partial / _FILE, tensors, kind=_KIND, metadata={"step": step})
        shutil.rmtree(folder, ignore_errors=True)
        replace_durably(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        msg = f"{folder}: the checkpoint cannot be written ({error}); make room, then go on with --resume"
        raise RunFolderError(msg) from None
    for old in _folders(run)[:-KEPT]:
        shutil.rmtree(old)
    return folder


def has_checkpoint(run: Path) -> bool:
    """Whether a run has got as far as a checkpoint; it is not read."""
    return bool(_folders(run))


def latest_checkpoint(run: Path, warnings: list[str]) -> Checkpoint | None:
    """The newest checkpoint that can be read, or None for a run that has none yet.

    Args:
        run: The run folder; leftovers of a write that was cut off are removed.
        warnings: A line is added for each damaged checkpoint that was passed over.

    Raises:
        RunFolderError: There are checkpoints and all are damaged.
    """
    for partial in (run / _FOLDER).glob("*.part"):
        shutil.rmtree(partial)
    folders = _folders(run)
    for folder in reversed(folders):
        try:
            weights = load_weights(folder / _FILE, kind=_KIND)
        except WeightsError as error:
            warnings.append(f"{error}; trying the checkpoint before it")
            continue
        return Checkpoint(int(weights.metadata["step"]), weights.tensors, str(folder / _FILE))
    if folders:
        msg = f"{run / _FOLDER}: no checkpoint in it can be read; start again with --overwrite"
        raise RunFolderError(msg)
    return None


def drop_checkpoints(run: Path) -> None:
    """Delete the checkpoints of a run that will not go on."""
    shutil.rmtree(run / _FOLDER, ignore_errors=True)


def _folders(run: Path) -> list[Path]:
    """Oldest first, by number: past a million steps the names no longer sort."""
    folders = (folder for folder in (run / _FOLDER).glob("step-*") if folder.suffix != ".part")
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


def module_tensors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors under a prefix."""
    return {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}


def restore_module(name: str, module: nn.Module, checkpoint: Checkpoint) -> None:
    """Put tensors saved by `module_tensors` back.

    Raises:
        WeightsError: They do not fit: the checkpoint is of another recipe.
    """
    load_state(module, _under(name, checkpoint.tensors), where=checkpoint.where)


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's moments under a prefix; its rates are functions of the step and are not stored."""
    state = optimizer.state_dict()["state"]
    return {f"{name}/{index}/{key}": tensor for index, values in state.items() for key, tensor in values.items()}


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Put tensors saved by `optimizer_tensors` back."""
    state: dict[int, dict[str, Any]] = {}
    for path, tensor in _under(name, checkpoint.tensors).items():
        index, key = path.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
