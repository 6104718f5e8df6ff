"""`train-segmenter`: Mask R-CNN with or without style augmentation (paper, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nucstyle.augment.base import Augmentation
from nucstyle.augment.geometric import RandomCrop
from nucstyle.augment.style import StyleTransfer
from nucstyle.core import rng
from nucstyle.core.config import to_table
from nucstyle.core.errors import OptionError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import autocast, deterministic, resolve_precision
from nucstyle.core.protocols import SILENT, Progress, Translator
from nucstyle.data.dataset import Dataset, open_dataset, require_labels
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.weights import load_weights
from nucstyle.report.page import write_report
from nucstyle.segmentation.backbone import PyramidTrunk, load_trunk_weights
from nucstyle.segmentation.detector import Segmenter
from nucstyle.training.loop import run_loop
from nucstyle.training.segmenter_trainer import SegmenterBatches, SegmenterRecipe, SegmenterTrainer
from nucstyle.workflows.load import WEIGHTS, find_weights, save_segmenter, style_from_weights
from nucstyle.workflows.provenance import data_fingerprint, provenance, skipped_steps
from nucstyle.workflows.recipes import segmenter_recipe

ARMS = ("none", "style")
"""What can be added to the recipe's own augmentations: nothing, or style transfer with p = 0.5."""


@dataclass(frozen=True, slots=True)
class SegmenterRun:
    """What a training of the segmenter needs, settled before anything is written."""

    train: Dataset
    """Annotated training images."""
    arm: str
    """A name in `ARMS`."""
    style: Translator | None
    """For the arm `style`."""
    style_sha256: str | None
    """Of the style weights."""
    recipe: SegmenterRecipe
    seed: int
    device: str

    def config(self, verb: str) -> dict[str, Any]:
        """What determines the result, for `config.toml`."""
        table: dict[str, Any] = {
            "verb": verb,
            "seed": self.seed,
            "augment": self.arm,
            "device": self.device.partition(":")[0],
            "precision": resolve_precision(self.recipe.training.precision, self.device),
            "data": data_fingerprint(self.train),
            "recipe": to_table(self.recipe),
        }
        return {**table, "style_sha256": self.style_sha256} if self.style_sha256 else table

    def augmentations(self) -> list[Augmentation]:
        """In the order of their application: geometry, then the arm's."""
        chain: list[Augmentation] = [RandomCrop(self.recipe.crop)]
        return [*chain, StyleTransfer(self.style, p=0.5)] if self.style is not None else chain


def load_arm(
    arm: str, style: Path | str | None, *, device: str, precision: Literal["bf16", "fp32"]
) -> tuple[Translator | None, str | None]:
    """The style model of an arm and the SHA-256 of its weights, or nothing for an arm without one.

    Raises:
        OptionError: Unknown arm, or a style model is missing or not wanted.
        WeightsError: The style model cannot be loaded.
    """
    if arm not in ARMS:
        msg = f"--augment {arm}: unknown; known: {', '.join(ARMS)}"
        raise OptionError(msg)
    if (arm == "style") != (style is not None):
        msg = "--augment style and --style NAME|FILE|RUN belong together; give both or neither"
        raise OptionError(msg)
    if style is None:
        return None, None
    path = find_weights(style, "style")
    weights = load_weights(path, kind="style")
    model = style_from_weights(weights, str(path), device=device, precision=precision)
    return model, weights.sha256


def train_segmenter(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    recipe: str = "lite",
    overrides: Sequence[str] = (),
    augment: str = "none",
    style: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a segmenter on the annotated training part of a data set.

    Args:
        data: A folder, file, glob or manifest; every training image must be annotated.
        out: The run folder: `weights.safetensors`, `log.jsonl`, `report.html`.
        progress: Shown to the person.
        recipe: Name or file.
        overrides: `key=value` on top of the recipe.
        augment: `none`, or `style` to restyle half of the crops.
        style: Style weights for `style`: a name, a file or a run.
        seed: Of everything random.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        resume: Go on in `out`; on a CPU to the same bits as without the interruption.
        overwrite: Replace a run in `out`.

    Returns:
        `out`.

    Raises:
        InputError: The data or the options are at fault.
        TrainingError: The losses do not stay finite.
        Interrupted: A signal; `resume` goes on.
    """
    settled, place = segmenter_recipe(recipe, overrides), choose_device(device)
    translator, sha256 = load_arm(
        augment, style, device=place, precision=resolve_precision(settled.training.precision, place)
    )
    dataset = open_dataset(data, format=format)
    inputs = [Path(data), Path(recipe), *([Path(style)] if style else []), *dataset.files]
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    train = dataset.training_part()
    require_labels(train, "training a segmenter")
    train.read_all(progress)
    segmenter_run = SegmenterRun(train, augment, translator, sha256, settled, seed, place)
    config = segmenter_run.config("train-segmenter")
    with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
        if not run.is_finished():
            fit_segmenter(run, segmenter_run, progress=progress)
            run.write_result(
                {
                    "format": 1,
                    "verb": "train-segmenter",
                    "seed": seed,
                    "recipe": settled.name,
                    "augment": augment,
                    "steps": settled.training.steps,
                    "skipped_steps": skipped_steps(run.path),
                }
            )
        write_report(run.path)
    return out


def fit_segmenter(run: RunFolder, segmenter_run: SegmenterRun, *, progress: Progress) -> Segmenter:
    """Train in an open run folder until `weights.safetensors` is there; returns the trained segmenter."""
    recipe, device = segmenter_run.recipe, segmenter_run.device
    precision = resolve_precision(recipe.training.precision, device)
    run.write_environment(device=device, precision=precision)
    with rng.seeded(segmenter_run.seed, "segmenter weights"):
        trunk = PyramidTrunk(recipe.segmenter.pyramid_channels)
        load_trunk_weights(trunk.trunk)
        segmenter = Segmenter(recipe.segmenter, recipe.inference, trunk=trunk, autocast=autocast(device, precision))
    segmenter.network.to(device)
    batches = SegmenterBatches(segmenter_run.train, segmenter_run.augmentations(), recipe, segmenter_run.seed)
    trainer = SegmenterTrainer(segmenter, batches, recipe, seed=segmenter_run.seed)
    stage = f"train segmenter ({segmenter_run.arm})"
    with deterministic(device):
        run_loop(trainer, run.path, recipe.training, stage=stage, progress=progress)
    origin = provenance(segmenter_run.train, recipe.name, segmenter_run.seed, recipe.training.steps)
    extra = {"augment": segmenter_run.arm, "style_sha256": segmenter_run.style_sha256}
    save_segmenter(run.path / WEIGHTS, segmenter, {**origin, **extra})
    return segmenter
