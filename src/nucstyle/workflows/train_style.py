"""`train-style`: one multi-domain GAN over all modalities of a data set (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nucstyle.core.config import to_table
from nucstyle.core.errors import WeightsError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import autocast, deterministic, resolve_precision
from nucstyle.core.protocols import SILENT, Progress, Translator
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.image_io import write_png
from nucstyle.data.pixel_cache import CacheUse
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.weights import Weights, load_weights
from nucstyle.modality.model import ModalityModel
from nucstyle.report.page import write_report
from nucstyle.report.pictures import style_grid
from nucstyle.style.model import StyleModel
from nucstyle.training.distributed import (
    SINGLE,
    Group,
    device_of_process,
    is_first_process,
    process_count,
    process_group,
)
from nucstyle.training.judge_trainer import JudgeRecipe, JudgeTrainer
from nucstyle.training.loop import run_loop
from nucstyle.training.style_trainer import StyleBatches, StyleRecipe, StyleTrainer, measure_attributes
from nucstyle.workflows.discover import numbers
from nucstyle.workflows.fit import Choice, fit, follow, require_agreement
from nucstyle.workflows.load import (
    JUDGE,
    WEIGHTS,
    find_weights,
    load_judge,
    load_style,
    load_trunk,
    save_judge,
    save_style,
)
from nucstyle.workflows.named import check_masks_seen, masked, name_images
from nucstyle.workflows.provenance import check_unseen, data_fingerprint, provenance, skipped_steps
from nucstyle.workflows.recipes import style_recipe
from nucstyle.workflows.selection import Selection
from nucstyle.workflows.style_quality import StyleQuality

STAGE = "train style model"
GRID_PX = 192
"""Side of a tile in the sample grids."""


@dataclass(frozen=True, slots=True)
class StyleRun:
    """What a training of the style model needs, settled before anything is written."""

    train: Dataset
    """Training images, each with its modality."""
    modality_model: ModalityModel
    recipe: StyleRecipe
    seed: int
    device: str
    init: Weights | None = None
    """Style weights to go on from."""
    validation: Dataset | None = None
    """Images to choose the best model by, each with its modality."""
    processes: int = 1
    """How many train together, each with batches of its own."""

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """Number format of the training."""
        return resolve_precision(self.recipe.training.precision, self.device)

    @property
    def chooses(self) -> bool:
        """Whether models are measured while training, and the best is taken: it needs a judge, and masks to judge by."""
        training, validation = self.recipe.training, self.validation
        wanted = training.measure_every and training.judge_steps and len(self.train.annotated())
        return bool(wanted and validation is not None and len(validation.annotated()))

    def config(self) -> dict[str, Any]:
        """What determines the result, for `config.toml`."""
        data = {**data_fingerprint(self.train), "modalities": list(self.modality_model.names)}
        if self.chooses and self.validation is not None:
            data["validation"] = data_fingerprint(self.validation)
        number = {"device": self.device.partition(":")[0], "precision": self.precision}
        together = {"processes": self.processes} if self.processes > 1 else {}
        start = {"init_sha256": self.init.sha256} if self.init else {}
        table = {"verb": "train-style", "seed": self.seed, **number, **together, **start, "data": data}
        return {**table, "recipe": to_table(self.recipe)}


def train_style(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    recipe: str = "lite",
    overrides: Sequence[str] = (),
    seed: int = 0,
    k: int | None = None,
    annotated: Sequence[str] | None = None,
    init: Path | str | None = None,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    cache: CacheUse = True,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a style model on the training part of a data set; masks are used where there are any.

    Args:
        data: A folder, file, glob or manifest. Modalities named in a manifest hold; otherwise they are discovered first.
        out: The run folder: `weights.safetensors`, `samples/`, `log.jsonl`, `modalities/`, `report.html`.
        progress: Shown to the person.
        recipe: Name or file.
        overrides: `key=value` on top of the recipe.
        seed: Of everything random.
        k: How many modalities to discover; None = as many as are named, and 6 where none is.
        annotated: Modalities whose masks may be used; None = all masks that there are.
        init: Go on from these style weights in a new run: a name, a file or a run, of the same modalities and networks.
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
    settled, place = style_recipe(recipe, overrides), device_of_process(choose_device(device))
    dataset = open_dataset(data, format=format, reading=reading, cache=cache)
    inputs = [Path(data), Path(recipe), *([Path(init)] if init else []), *dataset.files]
    if is_first_process():
        check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    else:
        progress = SILENT
    named = name_images(dataset, Path(data), k=k, seed=seed, progress=progress)
    model = named.found.model
    visible = masked(named.images, annotated, model.names)
    train, validation = visible.training_part(), visible.part("validation")
    train.read_all(progress)
    start = start_from(init, settled, model)
    check_masks_seen(named, annotated, {"--init": start})
    style_run = StyleRun(train, model, settled, seed, place, start, validation, process_count())
    if style_run.chooses:
        check_unseen([record.id for record in validation.records], "validation", {"--init": start})
        validation.read_all(progress)
    elif settled.training.measure_every and settled.training.judge_steps:
        progress.say("no annotated validation images: no model is measured while training, the last one is taken")
    warn_without_masks(train, progress)
    style_run_batches(style_run)  # refuses what cannot be trained on, before anything is written
    config = style_run.config()
    with process_group(place) as group:
        require_agreement(config, group)
        if not group.is_first:
            trainer = make_trainer(style_run, group)
            follow(trainer, out, settled.training, stage=STAGE, device=place, group=group)
            return out
        with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
            named.write(run, seed=seed)
            fit_style(run, style_run, progress=progress, group=group)
            write_report(run.path)
    return out


def warn_without_masks(train: Dataset, progress: Progress) -> None:
    """Say what will be missing where there is not a single mask."""
    if any(record.labels is not None for record in train.records):
        return
    progress.say(
        "no training image has masks: nothing tells nuclei from other objects, so what is drawn between them is not held "
        "back, and no judge can be trained. The masks of a few images help"
    )


def start_from(init: Path | str | None, recipe: StyleRecipe, modality_model: ModalityModel) -> Weights | None:
    """The style weights that a new run goes on from.

    Raises:
        WeightsError: They cannot be read, or are of other networks or modalities.
    """
    if init is None:
        return None
    path = find_weights(init, "style")
    weights = load_weights(path, kind="style")
    network, names = weights.metadata.get("network"), weights.metadata.get("modalities")
    if network != to_table(recipe.network):
        msg = f"--init {path}: its networks are {network}, the recipe's {to_table(recipe.network)}; give the recipe it is of"
        raise WeightsError(msg)
    if names != list(modality_model.names):
        missing = ", ".join(name for name in names or () if name not in modality_model.names) or "none"
        unknown = ", ".join(name for name in modality_model.names if name not in (names or ())) or "none"
        msg = (
            f"--init {path}: the data must have the modalities of these weights, all and no others; missing in the data: "
            f"{missing}; unknown to the weights: {unknown}; name alike in the manifest what is alike, or train without --init"
        )
        raise WeightsError(msg)
    return weights


def style_run_batches(style_run: StyleRun) -> StyleBatches:
    """The batches of a run."""
    modality = numbers(style_run.modality_model, style_run.train.records)
    polarity = [one.polarity for one in style_run.modality_model.modalities]
    return StyleBatches(style_run.train, modality, polarity, style_run.recipe, style_run.seed)


def make_trainer(style_run: StyleRun, group: Group) -> StyleTrainer:
    """A trainer with the weights at the start."""
    recipe = style_run.recipe
    trainer = StyleTrainer(
        style_run_batches(style_run),
        [modality.polarity for modality in style_run.modality_model.modalities],
        recipe,
        device=style_run.device,
        autocast=autocast(style_run.device, style_run.precision),
        seed=style_run.seed,
        trunk=load_trunk().to(style_run.device),
        group=group,
    )
    if style_run.init is not None:
        trainer.start_from(networks_of(style_run.init), where="--init")
    return trainer


def fit_style(run: RunFolder, style_run: StyleRun, *, progress: Progress, group: Group = SINGLE) -> None:
    """Train in an open run folder until `weights.safetensors` and `result.json` are there."""
    if group.any(run.is_finished()):
        return
    recipe, model_of = style_run.recipe, style_run.modality_model
    run.write_environment(device=style_run.device, precision=style_run.precision)
    trainer, sources = make_trainer(style_run, group), grid_sources(style_run.train, model_of.names)
    fit_judge(run, style_run, progress=progress)

    def save(path: Path, step: int) -> None:
        spread = measure_attributes(
            trainer.model(model_of.names, model_of.number, None),
            style_run.train,
            numbers(model_of, style_run.train.records),
        )
        origin = provenance(style_run.train, recipe.name, style_run.seed, step, start=style_run.init)
        save_style(path, trainer.model(model_of.names, model_of.number, spread), model_of, origin)

    def draw(step: int) -> None:
        grid = run.path / "samples" / f"grid-{step:06d}.png"
        if not grid.exists():
            draw_style_grid(grid, trainer.model(model_of.names, model_of.number, None), sources)

    taken = fit(
        trainer,
        run.path,
        recipe.training,
        stage=STAGE,
        device=style_run.device,
        save=save,
        choice=_choice(run, style_run) if style_run.chooses else None,
        draw=draw,
        progress=progress,
        group=group,
    )
    run.write_result(
        {
            "format": 1,
            "verb": "train-style",
            "seed": style_run.seed,
            "recipe": recipe.name,
            "steps": recipe.training.steps,
            "taken_step": taken,
            "modalities": list(model_of.names),
            "skipped_steps": skipped_steps(run.path),
        }
    )


def _choice(run: RunFolder, style_run: StyleRun) -> Choice[Translator]:
    """How the best model is found."""
    assert style_run.validation is not None
    measure = StyleQuality(
        style_run.validation,
        style_run.train,
        style_run.modality_model,
        load_judge(run.path / JUDGE, device=style_run.device, precision=style_run.precision),
        load_trunk(),
        style_run.seed,
    )
    selection = Selection(run.path, style_run.recipe.training.measure_every, measure)
    return Choice(selection, partial(load_style, device=style_run.device, precision=style_run.precision))


def networks_of(weights: Weights) -> dict[str, Tensor]:
    """The tensors of the networks in a style file."""
    prefix = "networks."
    return {name[len(prefix) :]: one for name, one in weights.tensors.items() if name.startswith(prefix)}


def fit_judge(run: RunFolder, style_run: StyleRun, *, progress: Progress) -> None:
    """Train a judge on the masks that the run may see, in `judge/`, until its weights are there."""
    steps = style_run.recipe.training.judge_steps
    train = style_run.train.annotated()
    if not steps or not len(train):
        return
    recipe = JudgeRecipe(steps=steps)
    config = {
        "verb": "train-judge",
        "seed": style_run.seed,
        "data": data_fingerprint(train),
        "recipe": to_table(recipe),
    }
    with RunFolder.open(run.path / JUDGE, config, resume=True) as sub:
        if (sub.path / WEIGHTS).is_file():
            return
        trainer = JudgeTrainer(
            train,
            numbers(style_run.modality_model, train.records),
            recipe,
            device=style_run.device,
            autocast=autocast(style_run.device, style_run.precision),
            seed=style_run.seed,
        )
        with deterministic(style_run.device):
            run_loop(trainer, sub.path, recipe, stage="train judge", progress=progress)
        save_judge(
            sub.path / WEIGHTS, trainer.judge(), provenance(train, style_run.recipe.name, style_run.seed, recipe.steps)
        )


def grid_places(train: Dataset, modalities: Sequence[str]) -> list[int]:
    """The place among the training images of the one of each modality that the grid shows: the first by id."""
    return [next(i for i, record in enumerate(train.records) if record.modality == name) for name in modalities]


def grid_sources(train: Dataset, modalities: Sequence[str]) -> list[Tensor]:
    """One fixed training image a modality, (3, S, S): its middle."""
    sources = []
    for index in grid_places(train, modalities):
        image = train.image(index)
        height, width = image.shape[1:]
        side = min(GRID_PX, height, width)
        top, left = (height - side) // 2, (width - side) // 2
        sources.append(image[:, top : top + side, left : left + side])
    return sources


def draw_style_grid(path: Path, model: StyleModel, sources: Sequence[Tensor]) -> None:
    """The paper's figure 3: a row for each source, the original at the left, then every modality.

    The style of a target is that of its own source picture; where the two agree, this is the self-reconstruction.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(sources)
    attributes = [model.encode_attribute(one[None], torch.tensor([number])) for number, one in enumerate(sources)]
    rows = []
    for number, source in enumerate(sources):
        made = [
            model.translate(
                source[None], source=torch.tensor([number]), target=torch.tensor([target]), attribute=attributes[target]
            )[0].cpu()
            for target in range(count)
        ]
        rows.append([source, *made])
    names = list(model.modalities)
    grid = style_grid(
        rows, row_names=names, column_names=["original", *names], framed=[number + 1 for number in range(count)]
    )
    write_png(path, grid)
