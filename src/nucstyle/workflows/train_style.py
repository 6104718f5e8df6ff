"""`train-style`: one multi-domain GAN over all modalities of a data set (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nucstyle.core.config import to_table
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import autocast, deterministic, resolve_precision
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.image_io import write_png
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.modality.model import ModalityModel
from nucstyle.report.page import write_report
from nucstyle.report.pictures import style_grid
from nucstyle.style.model import StyleModel
from nucstyle.training.loop import run_loop
from nucstyle.training.style_trainer import StyleBatches, StyleRecipe, StyleTrainer, measure_attributes
from nucstyle.workflows.discover import DiscoverConfig, find_modalities, numbers, read_modality_model, write_discovery
from nucstyle.workflows.load import WEIGHTS, save_style
from nucstyle.workflows.provenance import data_fingerprint, provenance, skipped_steps
from nucstyle.workflows.recipes import style_recipe

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

    def config(self) -> dict[str, Any]:
        """What determines the result, for `config.toml`."""
        modalities = list(self.modality_model.names)
        data = {**data_fingerprint(self.train), "modalities": modalities}
        precision = resolve_precision(self.recipe.training.precision, self.device)
        number = {"device": self.device.partition(":")[0], "precision": precision}
        return {"verb": "train-style", "seed": self.seed, **number, "data": data, "recipe": to_table(self.recipe)}


def train_style(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    recipe: str = "lite",
    overrides: Sequence[str] = (),
    seed: int = 0,
    k: int | None = None,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
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
    settled, place = style_recipe(recipe, overrides), choose_device(device)
    dataset = open_dataset(data, format=format)
    inputs = [Path(data), Path(recipe), *dataset.files]
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    dataset.training_part()  # refuses data without training images before anything is measured
    settings = _settings_beside(Path(data), DiscoverConfig(k=k, seed=seed))
    seen = dataset.part("train", "validation", None)  # validation images only say from where on an image is new
    found = find_modalities(seen, settings, progress=progress)
    named = seen.with_records(found.records)
    train = named.training_part()
    train.read_all(progress)
    style_run = StyleRun(train, found.model, settled, seed, place)
    style_run_batches(style_run)  # refuses what cannot be trained on, before anything is written
    with RunFolder.open(out, style_run.config(), resume=resume, overwrite=overwrite, inputs=inputs) as run:
        with RunFolder.open(run.path / "modalities", settings.to_table(), resume=True) as sub:
            write_discovery(sub, named, found, seed=seed)
        fit_style(run, style_run, progress=progress)
        write_report(run.path)
    return out


def _settings_beside(data: Path, settings: DiscoverConfig) -> DiscoverConfig:
    """Measure as `discover` did where the manifest is one that it wrote: its modality.json lies beside it."""
    beside = (data.parent if data.suffix == ".csv" else data) / "modality.json"
    if not beside.is_file():
        return settings
    model = read_modality_model(beside)
    return replace(settings, features=model.features, clahe=model.clahe)


def style_run_batches(style_run: StyleRun) -> StyleBatches:
    """The batches of a run."""
    modality = numbers(style_run.modality_model, style_run.train.records)
    return StyleBatches(style_run.train, modality, style_run.recipe, style_run.seed)


def fit_style(run: RunFolder, style_run: StyleRun, *, progress: Progress) -> None:
    """Train in an open run folder until `weights.safetensors` and `result.json` are there."""
    if run.is_finished():
        return
    recipe, model_of = style_run.recipe, style_run.modality_model
    precision = resolve_precision(recipe.training.precision, style_run.device)
    run.write_environment(device=style_run.device, precision=precision)
    trainer = StyleTrainer(
        style_run_batches(style_run),
        [modality.polarity for modality in model_of.modalities],
        recipe,
        device=style_run.device,
        autocast=autocast(style_run.device, precision),
        seed=style_run.seed,
    )
    sources = _grid_sources(style_run)

    def snapshot(step: int) -> None:
        draw_style_grid(
            run.path / "samples" / f"grid-{step:06d}.png", trainer.model(model_of.names, model_of.number, None), sources
        )

    with deterministic(style_run.device):
        run_loop(trainer, run.path, recipe.training, stage="train style model", progress=progress, snapshot=snapshot)
        if not (run.path / "samples" / f"grid-{recipe.training.steps:06d}.png").exists():
            snapshot(recipe.training.steps)  # the run ended between its last checkpoint and its last picture
        model = trainer.model(model_of.names, model_of.number, None)
        modality = numbers(model_of, style_run.train.records)
        spread = measure_attributes(model, style_run.train, modality)
    save_style(
        run.path / WEIGHTS,
        trainer.model(model_of.names, model_of.number, spread),
        model_of,
        provenance(style_run.train, recipe.name, style_run.seed, recipe.training.steps),
    )
    run.write_result(
        {
            "format": 1,
            "verb": "train-style",
            "seed": style_run.seed,
            "recipe": recipe.name,
            "steps": recipe.training.steps,
            "modalities": list(model_of.names),
            "skipped_steps": skipped_steps(run.path),
        }
    )


def _grid_sources(style_run: StyleRun) -> list[Tensor]:
    """One fixed training image a modality, (3, S, S): the first by id, its middle."""
    sources = []
    for name in style_run.modality_model.names:
        index = next(i for i, record in enumerate(style_run.train.records) if record.modality == name)
        image = style_run.train[index].image
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
