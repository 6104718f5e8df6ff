"""Where the weights of a ResNet-101 come from: settled once, before a run is written, and recorded in it.

What lies on a machine may change between a run and its `--resume`, and differ between the nodes of a training: so a run goes
on as it was begun, and weights to go on from (`--init`) bring the kind of norm that they were trained with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nucstyle.core.errors import OptionError, WeightsError
from nucstyle.core.protocols import Progress
from nucstyle.data.run_folder import CONFIG, read_config
from nucstyle.data.weights import Weights
from nucstyle.segmentation.detector import Segmenter
from nucstyle.segmentation.resnet import PARTS, fitting_parts, imagenet_files, read_trunk_file
from nucstyle.training.checkpoint import has_checkpoint
from nucstyle.training.segmenter_trainer import SegmenterRecipe


@dataclass(frozen=True, slots=True)
class TrunkSource:
    """What the trunk starts with, beside what the package holds."""

    path: Path | None = None
    """A file with the weights of a ResNet-101; None = none is needed, or none is to be had."""
    sha256: str | None = None
    """Of that file, also where a run goes on that no longer needs it."""
    parts: tuple[str, ...] = ()
    """What else of it is taken, where it is a detector's: some of `resnet.PARTS`."""

    def to_table(self) -> dict[str, Any]:
        """For `config.toml` and the weights; empty where there is no file."""
        table = {"trunk_sha256": self.sha256, "trunk_parts": list(self.parts)}
        return {key: value for key, value in table.items() if value}


def settle_trunk(
    recipe: SegmenterRecipe,
    trunk: Path | str | None,
    *,
    start: Weights | None,
    run: Path | None,
    progress: Progress,
) -> tuple[SegmenterRecipe, TrunkSource]:
    """Find the weights of a ResNet-101 and the norm that goes with them.

    Args:
        recipe: Of the training.
        trunk: The file that was asked for.
        start: Segmenter weights that the training goes on from; they hold the trunk as well.
        run: The run folder that `--resume` goes on in; None for a new run.
        progress: Told where there are no weights.

    Returns:
        The recipe with the norm of its trunk, and the file.

    Raises:
        OptionError: A file is given that nothing would be read from.
        WeightsError: A run is to go on that has no checkpoint, and the file that it began with is gone.
    """
    if recipe.segmenter.network != "resnet101":
        if trunk is not None:
            msg = f"--trunk {trunk}: the trunk {recipe.segmenter.network} brings its own weights; leave --trunk out"
            raise OptionError(msg)
        return recipe, TrunkSource()
    if start is not None:
        if trunk is not None:
            msg = f"--trunk {trunk}: the weights of --init hold a trunk already; leave --trunk out"
            raise OptionError(msg)
        norm = start.metadata.get("segmenter", {}).get("resnet_norm", recipe.segmenter.resnet_norm)
        return _with_norm(recipe, norm), TrunkSource()
    if run is not None and (run / CONFIG).is_file():
        return _as_begun(recipe, trunk, run)
    return _for_a_new_run(recipe, trunk, progress)


def _for_a_new_run(
    recipe: SegmenterRecipe, trunk: Path | str | None, progress: Progress
) -> tuple[SegmenterRecipe, TrunkSource]:
    """The file that was asked for, else the one that is on this machine, else none."""
    if recipe.segmenter.resnet_norm == "group":
        if trunk is not None:
            msg = f"--trunk {trunk}: resnet_norm = group is for a trunk that starts at random; leave one of them out"
            raise OptionError(msg)
        return recipe, TrunkSource()
    path = Path(trunk) if trunk is not None else next(iter(imagenet_files()), None)
    if path is not None:
        if trunk is None:
            progress.say(f"the ResNet-101 starts with the weights that torchvision has downloaded: {path}")
        return _with_norm(recipe, "frozen"), TrunkSource(path, _sha256(path), _parts_of(path, recipe, progress))
    progress.say(
        "no weights for the ResNet-101 on this machine: it starts at random, which takes far longer to train; --trunk FILE takes "
        "those of ImageNet or COCO"
    )
    return _with_norm(recipe, "group"), TrunkSource()


def _as_begun(recipe: SegmenterRecipe, trunk: Path | str | None, run: Path) -> tuple[SegmenterRecipe, TrunkSource]:
    """As the run says; the file matters only as long as there is no checkpoint."""
    config = read_config(run)
    norm = config.get("recipe", {}).get("segmenter", {}).get("resnet_norm", recipe.segmenter.resnet_norm)
    recipe, wanted, parts = _with_norm(recipe, norm), config.get("trunk_sha256"), tuple(config.get("trunk_parts", ()))
    if trunk is not None:
        # Another file than the run's is refused by its config.
        return recipe, TrunkSource(Path(trunk), _sha256(Path(trunk)), parts)
    path = next((one for one in imagenet_files() if wanted and _sha256(one) == wanted), None)
    if path is not None:
        return recipe, TrunkSource(path, wanted, parts)
    if wanted and not has_checkpoint(run):
        msg = f"{run}: began with trunk weights of SHA-256 {wanted[:12]}..., which are not on this machine; give --trunk FILE"
        raise WeightsError(msg)
    return recipe, TrunkSource(None, wanted, parts)


def _parts_of(path: Path, recipe: SegmenterRecipe, progress: Progress) -> tuple[str, ...]:
    """What a detector's file has beside its ResNet in the shapes of the recipe's; the person is told."""
    tensors = read_trunk_file(path)
    held = [name for name in PARTS if any(key.startswith(f"{name}.") for key in tensors)]
    if not held:
        return ()
    with torch.device("meta"):  # shapes alone
        network = Segmenter(recipe.segmenter, recipe.inference).network
    parts = fitting_parts(network, tensors)
    other = [name for name in held if name not in parts]
    left = f"; of other shapes, so they start at random: {', '.join(other)}" if other else ""
    progress.say(f"--trunk {path}: of this detector are taken: {', '.join(('ResNet-101', *parts))}{left}")
    return parts


def _with_norm(recipe: SegmenterRecipe, norm: Any) -> SegmenterRecipe:  # noqa: ANN401  (read from a file)
    return replace(recipe, segmenter=replace(recipe.segmenter, resnet_norm=norm))


def _sha256(path: Path) -> str:
    if not path.is_file():
        msg = f"--trunk {path}: no such file"
        raise WeightsError(msg)
    return hashlib.sha256(path.read_bytes()).hexdigest()
