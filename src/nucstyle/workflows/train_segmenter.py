"""`train-segmenter`: Mask R-CNN with or without style augmentation (paper, section 2.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nucstyle.augment.base import Augmentation
from nucstyle.augment.style import StyleTransfer
from nucstyle.core import rng
from nucstyle.core.config import to_table
from nucstyle.core.errors import OptionError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import autocast, resolve_precision
from nucstyle.core.protocols import SILENT, Progress, Translator
from nucstyle.data.dataset import Dataset, open_dataset, require_labels
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.weights import Weights, load_state, load_weights
from nucstyle.report.page import write_report
from nucstyle.segmentation.backbone import load_trunk_weights
from nucstyle.segmentation.detector import Segmenter, build_trunk
from nucstyle.segmentation.resnet import ResNetTrunk, imagenet_file, read_trunk_file
from nucstyle.training.distributed import (
    SINGLE,
    Group,
    device_of_process,
    is_first_process,
    process_count,
    process_group,
)
from nucstyle.training.segmenter_trainer import SegmenterBatches, SegmenterRecipe, SegmenterTrainer
from nucstyle.workflows.evaluate import largest_modality
from nucstyle.workflows.fit import Choice, fit, follow
from nucstyle.workflows.load import find_weights, load_segmenter, save_segmenter, style_from_weights
from nucstyle.workflows.provenance import data_fingerprint, provenance, skipped_steps
from nucstyle.workflows.recipes import segmenter_recipe
from nucstyle.workflows.segmenter_quality import SegmenterQuality
from nucstyle.workflows.selection import Selection

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
    init: Weights | None = None
    """Segmenter weights to go on from."""
    validation: Dataset | None = None
    """Annotated images to choose the best model by."""
    processes: int = 1
    """How many train together, each with a batch of its own."""
    trunk: Path | None = None
    """File of weights for a ResNet-101; None = it starts at random."""

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """Number format of the training."""
        return resolve_precision(self.recipe.training.precision, self.device)

    @property
    def chooses(self) -> bool:
        """Whether models are scored while training, and the best is taken."""
        return bool(self.recipe.training.measure_every and self.validation)

    def config(self, verb: str) -> dict[str, Any]:
        """What determines the result, for `config.toml`."""
        data = data_fingerprint(self.train)
        if self.chooses and self.validation is not None:
            data["validation"] = data_fingerprint(self.validation)
        table: dict[str, Any] = {
            "verb": verb,
            "seed": self.seed,
            "augment": self.arm,
            "device": self.device.partition(":")[0],
            "precision": self.precision,
            **({"processes": self.processes} if self.processes > 1 else {}),
            **({"init_sha256": self.init.sha256} if self.init else {}),
            **({"style_sha256": self.style_sha256} if self.style_sha256 else {}),
            **({"trunk_sha256": hashlib.sha256(self.trunk.read_bytes()).hexdigest()} if self.trunk else {}),
        }
        return {**table, "data": data, "recipe": to_table(self.recipe)}

    @property
    def stage(self) -> str:
        """The name of the training on the screen."""
        return f"train segmenter ({self.arm})"

    def chains(self) -> list[list[Augmentation]]:
        """The augmentations of each stage in the order of their application.

        The arm comes after the crop of `lite`, since that is less work, but before the steps of a published recipe: they bring
        in black from beyond the field, and the colours of an image are measured by its majority.
        """
        arm = [StyleTransfer(self.style, p=0.5)] if self.style is not None else []
        if self.recipe.training.stages:
            return [[*arm, *chain] for chain in self.recipe.chains()]
        return [[*chain, *arm] for chain in self.recipe.chains()]


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
    init: Path | str | None = None,
    trunk: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a segmenter on the annotated training part of a data set; the best by its validation part is taken.

    Args:
        data: A folder, file, glob or manifest; every training image must be annotated.
        out: The run folder: `weights.safetensors`, `log.jsonl`, `report.html`.
        progress: Shown to the person.
        recipe: Name or file.
        overrides: `key=value` on top of the recipe.
        augment: `none`, or `style` to restyle half of the crops.
        style: Style weights for `style`: a name, a file or a run.
        init: Go on from these segmenter weights in a new run: a name, a file or a run, of the same shape.
        trunk: A file with the weights of a ResNet-101 (ImageNet or COCO), for recipes with one. None = those that
            torchvision has downloaded on this machine, if there are any, else random ones with a norm that learns.
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
    if not is_first_process():
        progress = SILENT
    settled, place = segmenter_recipe(recipe, overrides), device_of_process(choose_device(device))
    settled, trunk_file = with_trunk(settled, trunk, progress)
    translator, sha256 = load_arm(
        augment, style, device=place, precision=resolve_precision(settled.training.precision, place)
    )
    dataset = open_dataset(data, format=format)
    inputs = [Path(data), Path(recipe), *(Path(one) for one in (style, init, trunk) if one), *dataset.files]
    if is_first_process():
        check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    train, validation = dataset.training_part(), dataset.part("validation", keep=True).annotated()
    require_labels(train, "training a segmenter")
    start = load_weights(find_weights(init, "segmenter"), kind="segmenter") if init else None
    segmenter_run = SegmenterRun(
        train, augment, translator, sha256, settled, seed, place, start, validation, process_count(), trunk_file
    )
    train.read_all(progress)
    if segmenter_run.chooses:
        validation.read_all(progress)
    elif settled.training.measure_every:
        progress.say("no annotated validation images: no model is scored while training, the last one is taken")
    make_segmenter(segmenter_run)  # refuses weights that do not fit, before anything is written
    with process_group(place) as group:
        if not group.is_first:
            trainer = make_trainer(segmenter_run, group)
            follow(trainer, out, settled.training, stage=segmenter_run.stage, device=place, group=group)
            return out
        config = segmenter_run.config("train-segmenter")
        with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
            if not group.any(run.is_finished()):
                taken = fit_segmenter(run, segmenter_run, progress=progress, group=group)
                run.write_result(
                    {
                        "format": 1,
                        "verb": "train-segmenter",
                        "seed": seed,
                        "recipe": settled.name,
                        "augment": augment,
                        "steps": settled.training.steps,
                        "taken_step": taken,
                        "skipped_steps": skipped_steps(run.path),
                    }
                )
            write_report(run.path)
    return out


def with_trunk(
    recipe: SegmenterRecipe, trunk: Path | str | None, progress: Progress
) -> tuple[SegmenterRecipe, Path | None]:
    """Find weights for a ResNet-101; without any it gets a norm that learns, and that is said.

    Raises:
        OptionError: A file is given, but the recipe's trunk is another.
    """
    if recipe.segmenter.network != "resnet101":
        if trunk is not None:
            msg = f"--trunk {trunk}: the trunk {recipe.segmenter.network} brings its own weights; leave --trunk out"
            raise OptionError(msg)
        return recipe, None
    path = Path(trunk) if trunk is not None else imagenet_file()
    if path is not None:
        return recipe, path
    progress.say(
        "no weights for the ResNet-101 on this machine: it starts at random, which takes far longer to train; --trunk FILE takes "
        "those of ImageNet or COCO"
    )
    return replace(recipe, segmenter=replace(recipe.segmenter, resnet_norm="batch")), None


def make_segmenter(segmenter_run: SegmenterRun) -> Segmenter:
    """A segmenter with the weights at the start.

    Raises:
        WeightsError: Those to go on from do not fit.
    """
    recipe, device, start = segmenter_run.recipe, segmenter_run.device, segmenter_run.init
    with rng.seeded(segmenter_run.seed, "segmenter weights"):
        trunk = build_trunk(recipe.segmenter)
        if isinstance(trunk, ResNetTrunk):
            if segmenter_run.trunk is not None:
                trunk.load(read_trunk_file(segmenter_run.trunk), where=f"--trunk {segmenter_run.trunk}")
        else:
            load_trunk_weights(trunk.trunk)
        number = autocast(device, segmenter_run.precision)
        segmenter = Segmenter(recipe.segmenter, recipe.inference, trunk=trunk, autocast=number)
    if start is not None:
        load_state(segmenter.network, start.tensors, where="--init")
    segmenter.network.to(device)
    return segmenter


def make_trainer(segmenter_run: SegmenterRun, group: Group) -> SegmenterTrainer:
    """A trainer at the start."""
    recipe, seed, train = segmenter_run.recipe, segmenter_run.seed, segmenter_run.train
    modalities = [record.modality for record in train.records]
    batches = SegmenterBatches(train, segmenter_run.chains(), recipe, seed, modalities)
    return SegmenterTrainer(make_segmenter(segmenter_run), batches, recipe, seed=seed, group=group)


def fit_segmenter(run: RunFolder, segmenter_run: SegmenterRun, *, progress: Progress, group: Group = SINGLE) -> int:
    """Train in an open run folder until `weights.safetensors` is there; returns the step whose model was taken."""
    recipe, device, train = segmenter_run.recipe, segmenter_run.device, segmenter_run.train
    run.write_environment(device=device, precision=segmenter_run.precision)
    trainer = make_trainer(segmenter_run, group)

    def save(path: Path, step: int) -> None:
        origin = provenance(train, recipe.name, segmenter_run.seed, step, segmenter_run.init)
        extra = {"augment": segmenter_run.arm, "style_sha256": segmenter_run.style_sha256}
        save_segmenter(path, trainer.averaged(), {**origin, **extra})

    choice = None
    if segmenter_run.chooses and segmenter_run.validation is not None:
        quality = SegmenterQuality(segmenter_run.validation, largest_modality(train))
        selection = Selection(run.path, recipe.training.measure_every, quality)
        choice = Choice(selection, partial(load_segmenter, device=device, precision=segmenter_run.precision))
    return fit(
        trainer,
        run.path,
        recipe.training,
        stage=segmenter_run.stage,
        device=device,
        save=save,
        choice=choice,
        progress=progress,
        group=group,
    )
