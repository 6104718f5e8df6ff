"""`train-segmenter`: Mask R-CNN with or without style augmentation (paper, section 2.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nucstyle.augment.base import Augmentation
from nucstyle.augment.steps import Enhance
from nucstyle.core import rng
from nucstyle.core.config import build, to_table, with_overrides
from nucstyle.core.errors import OptionError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import autocast, resolve_precision
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.dataset import Dataset, open_dataset, require_labels
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.ledger import seen_in_making
from nucstyle.data.pixel_cache import CacheUse
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.weights import Weights, load_state, load_weights
from nucstyle.report.page import write_report
from nucstyle.segmentation.backbone import load_trunk_weights
from nucstyle.segmentation.detector import CONTRAST, SHOWN_BY, InferenceConfig, Segmenter, build_trunk
from nucstyle.segmentation.resnet import ResNetTrunk, load_parts, read_trunk_file
from nucstyle.training.distributed import (
    SINGLE,
    Group,
    device_of_process,
    is_first_process,
    process_count,
    process_group,
)
from nucstyle.training.segmenter_trainer import SegmenterBatches, SegmenterRecipe, SegmenterTrainer
from nucstyle.workflows.arms import (
    Arm,
    check_arm,
    gate_result,
    make_arm,
    make_gate,
    measure_references,
    parts_of,
    takes_examples,
    tell_unknown_names,
)
from nucstyle.workflows.evaluate import largest_modality
from nucstyle.workflows.fit import Choice, fit, follow, require_agreement
from nucstyle.workflows.load import find_weights, load_segmenter, save_segmenter
from nucstyle.workflows.named import NamedImages, check_masks_seen, masked, name_images
from nucstyle.workflows.provenance import data_fingerprint, examples_fingerprint, provenance, skipped_steps
from nucstyle.workflows.recipes import segmenter_recipe
from nucstyle.workflows.segmenter_quality import SegmenterQuality
from nucstyle.workflows.selection import Selection
from nucstyle.workflows.trunk import TrunkSource, settle_trunk


@dataclass(frozen=True, slots=True)
class SegmenterRun:
    """What a training of the segmenter needs, settled before anything is written."""

    train: Dataset
    """Annotated training images."""
    arm: Arm
    """What is added to the recipe's augmentations."""
    recipe: SegmenterRecipe
    seed: int
    device: str
    init: Weights | None = None
    """Segmenter weights to go on from."""
    validation: Dataset | None = None
    """Annotated images to choose the best model by."""
    processes: int = 1
    """How many train together, each with a batch of its own."""
    trunk: TrunkSource = field(default_factory=TrunkSource)
    """What a ResNet-101 starts with."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """What models had seen that made restyled images among those to learn from: `trained_on`, `masks_seen`."""
    examples: Dataset | None = None
    """Images whose colours, but not masks, the arm makes use of."""
    polarity: Mapping[str, int] = field(default_factory=dict)
    """Of their modalities."""

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
        if self.examples is not None:
            data["examples"] = examples_fingerprint(self.examples, self.polarity)
        table: dict[str, Any] = {
            "verb": verb,
            "seed": self.seed,
            "augment": self.arm.name,
            "device": self.device.partition(":")[0],
            "precision": self.precision,
            **({"processes": self.processes} if self.processes > 1 else {}),
            **({"init_sha256": self.init.sha256} if self.init else {}),
            **({"style_sha256": self.arm.style.sha256} if self.arm.style else {}),
            **({"gate": self.arm.gate.to_table()} if self.arm.gate else {}),
            **self.trunk.to_table(),
        }
        return {**table, "data": data, "recipe": to_table(self.recipe)}

    @property
    def stage(self) -> str:
        """The name of the training on the screen."""
        return f"train segmenter ({self.arm.name})"

    def augmentations(self) -> tuple[list[Augmentation], list[list[Augmentation]]]:
        """What is done to every whole field, and the augmentations of each stage in the order of their application.

        The arm comes after the crop of `lite`, since that is less work. It comes first, on whole fields, in published recipes:
        they bring in black from beyond the field, and the colours of an image are measured by its majority; and where
        contrast is enhanced, since that is measured over the field, as in prediction.
        """
        arm = self.arm.augmentations
        chains = self.recipe.chains()
        contrast = self.recipe.inference.contrast
        enhanced: list[Augmentation] = [Enhance(config=contrast)] if contrast else []
        if self.recipe.training.stages or enhanced:
            return [*arm, *enhanced], chains
        return [], [[*chain, *arm] for chain in chains]


def train_segmenter(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    recipe: str = "lite",
    overrides: Sequence[str] = (),
    augment: str = "none",
    style: Path | str | None = None,
    gate: bool = True,
    judge: Path | str | None = "dsb2018",
    annotated: Sequence[str] | None = None,
    init: Path | str | None = None,
    trunk: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    cache: CacheUse = True,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a segmenter on the annotated training part of a data set; the best by its validation part is taken.

    Args:
        data: A folder, file, glob or manifest; every training image must be annotated, unless `annotated` is given or the arm
            takes examples.
        out: The run folder: `weights.safetensors`, `log.jsonl`, `report.html`.
        progress: Shown to the person.
        recipe: Name or file.
        overrides: `key=value` on top of the recipe.
        augment: An arm, see `arms`: `none`, or parts joined by `+` of which each changes half of the crops: `colour`, `recolour`,
            `histogram`, `reinhard`, `fourier`, `style`.
        style: Style weights for `style`: a name, a file or a run.
        gate: Whether restyled crops in which nuclei are not where they were are drawn again, see `augment.gate`.
        judge: Weights of the network that looks for new nuclei then: a name, a file or a run; None = none does.
        annotated: Modalities whose masks may be used, in training and in choosing the best; None = all masks. Images of the
            others lend their colours, where the arm takes examples.
        init: Go on from these segmenter weights in a new run: a name, a file or a run, of the same shape.
        trunk: A file with the weights of a ResNet-101 (ImageNet), or of a detector on one (COCO), for recipes with one; of a
            detector everything is taken that does not depend on its classes and has the recipe's shapes. None = those that
            torchvision has downloaded on this machine, if there are any, else random ones with a norm that learns.
        seed: Of everything random.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open.
        cache: Whether to use what was decoded before, as for `open_dataset`.
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
    start = load_weights(find_weights(init, "segmenter"), kind="segmenter") if init else None
    settled, trunk_source = settle_trunk(settled, trunk, start=start, run=out if resume else None, progress=progress)
    check_arm(augment, style)
    dataset = open_dataset(data, format=format, reading=reading, cache=cache)
    inputs = [Path(data), Path(recipe), *(Path(one) for one in (style, init, trunk) if one), *dataset.files]
    gated = style is not None and gate
    inputs += [find_weights(judge, "judge")] if gated and judge is not None else []
    if is_first_process():
        check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    needs_names = annotated is not None or takes_examples(augment)
    # The division does not depend on the seed: runs of a comparison must agree on it.
    named = name_images(dataset, Path(data), k=None, seed=0, progress=progress) if needs_names else None
    train, validation = visible_parts(dataset, named, annotated, progress)
    check_settings(settled, overrides, train, start, [augment], progress)
    with_examples = named if takes_examples(augment) else None
    precision = resolve_precision(settled.training.precision, place)
    arm = make_arm(
        augment,
        style=style,
        config=settled.style,
        gate=make_gate(judge, named=named, annotated=annotated, device=place, precision=precision, progress=progress)
        if gated
        else None,
        references=measure_references(with_examples) if with_examples else None,
        device=place,
        precision=precision,
    )
    check_masks_seen(named, annotated, {"--style": arm.style, "--init": start})
    tell_unknown_names(train.records, arm.style, progress)
    segmenter_run = SegmenterRun(
        train,
        arm,
        settled,
        seed,
        place,
        init=start,
        validation=validation,
        processes=process_count(),
        trunk=trunk_source,
        made_by=seen_in_making(Path(data)),
        examples=with_examples.bare_training_part() if with_examples else None,
        polarity=with_examples.polarity if with_examples else {},
    )
    train.read_all(progress)
    if segmenter_run.chooses:
        validation.read_all(progress)
    elif settled.training.measure_every:
        progress.say("no annotated validation images: no model is scored while training, the last one is taken")
    make_segmenter(segmenter_run)  # refuses weights that do not fit, before anything is written
    config = segmenter_run.config("train-segmenter")
    with process_group(place) as group:
        require_agreement(config, group)
        if not group.is_first:
            trainer = make_trainer(segmenter_run, group)
            follow(trainer, out, settled.training, stage=segmenter_run.stage, device=place, group=group)
            return out
        with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
            if named is not None:
                named.write(run, seed=0)
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
                        **gate_result(arm),
                    }
                )
            write_report(run.path)
    return out


def visible_parts(
    dataset: Dataset, named: NamedImages | None, annotated: Sequence[str] | None, progress: Progress
) -> tuple[Dataset, Dataset]:
    """The annotated images to learn from, and those to choose the best model by, their masks hidden as `annotated` says.

    Raises:
        DatasetError: There is none to learn from, or one is not annotated and has no other use.
        OptionError: An unknown modality in `annotated`.
    """
    if named is None:
        train = dataset.training_part()
        require_labels(train, "training a segmenter")
        return train, dataset.part("validation", keep=True).annotated()
    visible = masked(named.images, annotated, named.found.model.names)
    every = visible.training_part()
    train = every.annotated()
    if not len(train):
        require_labels(every, "training a segmenter")
    if len(train) < len(every):
        progress.say(f"masks of {len(train)} of the {len(every)} training images are used")
    return train, visible.part("validation", keep=True).annotated()


def check_settings(
    recipe: SegmenterRecipe,
    overrides: Sequence[str],
    train: Dataset,
    start: Weights | None,
    arms: Sequence[str],
    progress: Progress,
) -> None:
    """Refuse settings that could have no effect, and say where a recipe shows images otherwise than --init was trained with.

    Raises:
        OptionError: Modalities are to be balanced that have no names, or it is said how crops are restyled and no arm does it.
    """
    given = with_overrides(SegmenterRecipe, {}, overrides).get("style", {})
    if given and not any("style" in parts_of(arm) for arm in arms):
        msg = (
            f"--set style.{min(given)}: has no effect without an arm with style, among {', '.join(arms)} there is none; "
            "leave it out"
        )
        raise OptionError(msg)
    if recipe.training.balance and all(record.modality is None for record in train.records):
        msg = (
            f"balance {recipe.training.balance} needs to know the modality of each image; "
            "give the manifest.csv that nucstyle discover writes, or leave balance out"
        )
        raise OptionError(msg)
    if start is None or "inference" not in start.metadata:
        return
    inference = build(InferenceConfig, start.metadata["inference"], where="--init")
    before, now = to_table(inference), to_table(recipe.inference)
    for name in (*SHOWN_BY, *(CONTRAST if inference.clahe and recipe.inference.clahe else ())):
        if before[name] != now[name]:
            progress.say(
                f"warning: the weights of --init were trained with {name} = {before[name]}, this training has {now[name]}; "
                f"--set {name}={str(before[name]).lower()} keeps it"
            )


def make_segmenter(segmenter_run: SegmenterRun) -> Segmenter:
    """A segmenter with the weights at the start.

    Raises:
        WeightsError: Those to go on from do not fit.
    """
    recipe, device, start = segmenter_run.recipe, segmenter_run.device, segmenter_run.init
    source = segmenter_run.trunk
    with rng.seeded(segmenter_run.seed, "segmenter weights"):
        trunk = build_trunk(recipe.segmenter)
        if not isinstance(trunk, ResNetTrunk):
            load_trunk_weights(trunk.trunk)
        number = autocast(device, segmenter_run.precision)
        segmenter = Segmenter(recipe.segmenter, recipe.inference, trunk=trunk, autocast=number)
    if isinstance(trunk, ResNetTrunk) and source.path is not None:
        where, tensors = f"--trunk {source.path}", read_trunk_file(source.path)
        trunk.load(tensors, where=where)
        load_parts(segmenter.network, tensors, source.parts, where=where)
    if start is not None:
        load_state(segmenter.network, start.tensors, where="--init")
    segmenter.network.to(device)
    return segmenter


def make_trainer(segmenter_run: SegmenterRun, group: Group) -> SegmenterTrainer:
    """A trainer at the start."""
    recipe, seed, train = segmenter_run.recipe, segmenter_run.seed, segmenter_run.train
    modalities = [record.modality for record in train.records]
    fields, chains = segmenter_run.augmentations()
    batches = SegmenterBatches(train, chains, recipe, seed, modalities, fields=fields)
    tally = segmenter_run.arm.tally
    kept = {} if tally is None else {"gate": tally}
    return SegmenterTrainer(make_segmenter(segmenter_run), batches, recipe, seed=seed, group=group, kept=kept)


def fit_segmenter(run: RunFolder, segmenter_run: SegmenterRun, *, progress: Progress, group: Group = SINGLE) -> int:
    """Train in an open run folder until `weights.safetensors` is there; returns the step whose model was taken."""
    recipe, device, train = segmenter_run.recipe, segmenter_run.device, segmenter_run.train
    run.write_environment(device=device, precision=segmenter_run.precision)
    trainer = make_trainer(segmenter_run, group)

    def save(path: Path, step: int) -> None:
        origin = provenance(
            train,
            recipe.name,
            segmenter_run.seed,
            step,
            start=segmenter_run.init,
            style=segmenter_run.arm.style,
            judge=segmenter_run.arm.gate.judge if segmenter_run.arm.gate else None,
            examples=segmenter_run.examples,
            made_by=segmenter_run.made_by,
        )
        counts = Counter(record.modality for record in train.records if record.modality)
        extra = {
            "augment": segmenter_run.arm.name,
            "style_sha256": segmenter_run.arm.style.sha256 if segmenter_run.arm.style else None,
            "modalities": dict(counts),
            **segmenter_run.trunk.to_table(),
        }
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
