"""`evaluate-style`: does a style model keep nuclei, and does it reach its targets (method of the paper's figures 3 and 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nucstyle.core import rng
from nucstyle.core.errors import DatasetError, MeasureError, OptionError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import resolve_precision
from nucstyle.core.protocols import SILENT, Progress, Translator
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.image_io import write_png
from nucstyle.data.pixel_cache import CacheUse
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.weights import load_weights
from nucstyle.metrics.translation import DICE_SHARE, at_most
from nucstyle.modality.model import ModalityModel
from nucstyle.report.page import write_report
from nucstyle.report.pictures import draw_restyled, style_grid
from nucstyle.style.model import StyleModel
from nucstyle.workflows.load import find_weights, load_judge, load_trunk, style_from_weights
from nucstyle.workflows.named import with_modalities
from nucstyle.workflows.provenance import data_fingerprint
from nucstyle.workflows.style_measures import MIN_SEPARATION, Draws, Measurer, Window

GALLERY = 12
"""Worst draws in the gallery of failures."""
_SEAM_TILE_PX = 96


@dataclass(frozen=True, slots=True)
class _Failure:
    """A restyled image that lost nuclei, or shows new ones."""

    share: float
    """Of what is asked of it, where it reaches least; below 1."""
    reason: str
    window: Window
    made: Tensor
    source: str
    target: str


def part_name(name: str) -> Literal["validation", "test"]:
    """Check the name of a part.

    Raises:
        OptionError: It is neither.
    """
    if name == "validation":
        return "validation"
    if name == "test":
        return "test"
    msg = f"--on {name}: give validation or test"
    raise OptionError(msg)


def evaluate_style(
    data: Path | str,
    style: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    on: Literal["validation", "test"] = "validation",
    judge: Path | str = "dsb2018",
    draws: int = 40,
    rows: int = 4,
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    cache: CacheUse = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure a style model on images that it was not trained on.

    Args:
        data: An annotated data set with its split; training images serve as real examples.
        style: Name of shipped weights, a file or a run.
        out: The run folder: `result.json`, `samples/`, `report.html`.
        progress: Shown to the person.
        on: The part whose images are restyled.
        judge: Name of shipped weights, a file or a run: the network that says where nuclei are.
        draws: Restyled images of each pair of modalities.
        rows: Images of each modality in its grid, as far as there are so many and so many draws.
        seed: Of the styles drawn.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open.
        cache: Whether to use what was decoded before, as for `open_dataset`.
        overwrite: Replace a run in `out`.

    Returns:
        The measures, as in `result.json`.

    Raises:
        InputError: The data, the weights or the options are at fault.
    """
    place, path = choose_device(device), find_weights(style, "style")
    weights = load_weights(path, kind="style")
    model = style_from_weights(weights, str(path), device=place)
    seeing, foreground = load_weights(find_weights(judge, "judge"), kind="judge"), load_judge(judge, device=place)
    dataset = open_dataset(data, format=format, reading=reading, cache=cache)
    inputs = [Path(data), Path(style), Path(judge), *dataset.files]
    check_target(out, resume=False, overwrite=overwrite, inputs=inputs)
    evaluated = dataset.part(on)
    if not len(evaluated):
        msg = f"{data}: no image in the part {on}; nucstyle discover --split divides images into parts, --on chooses another"
        raise DatasetError(msg)
    for metadata, what in ((weights.metadata, str(style)), (seeing.metadata, f"the judge {judge}")):
        _refuse_what_was_seen(evaluated, metadata, what)
    recogniser = ModalityModel.from_state(weights.metadata["modality_model"])
    train, validation, evaluated = (
        with_modalities(part, recogniser, progress)
        for part in (dataset.part("train", None), dataset.part("validation"), evaluated)
    )
    polarity = [one.polarity for one in recogniser.modalities]
    measurer = Measurer(
        evaluated,
        train,
        foreground,
        load_trunk(),
        model.modalities,
        polarity=polarity,
        references=_references(train, validation, evaluated),
        progress=progress,
    )
    absent = [name for name in model.modalities if name not in measurer.real]
    if absent:
        progress.say(f"no image of {', '.join(absent)}: nothing is said of these modalities of the model")
    config = {
        "verb": "evaluate-style",
        "seed": seed,
        "on": on,
        "draws": draws,
        "data": data_fingerprint(evaluated),
        "style_sha256": weights.sha256,
        "judge_sha256": seeing.sha256,
    }
    with RunFolder.open(out, config, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device=place, precision=resolve_precision("auto", place))
        result = {
            "format": 1,
            "verb": "evaluate-style",
            "seed": seed,
            "on": on,
            "draws": draws,
            **measure_pairs(
                run.path / "samples", measurer, model, draws=draws, rows=rows, seed=seed, progress=progress
            ),
            "seam_error": {name: seam_error(model, measurer, name) for name in measurer.real},
            "absent": absent,
        }
        run.write_result(result)
        write_report(run.path)
    return result


def _references(train: Dataset, validation: Dataset, evaluated: Dataset) -> Dataset:
    """What restyled images are compared with beside the training images.

    The validation images whatever is evaluated, so that figures of both parts can be compared; of a modality that neither part
    has, those that are evaluated.
    """
    known = {record.modality for record in (*train.records, *validation.records)}
    others = [record for record in evaluated.records if record.modality not in known]
    return validation.with_records([*validation.records, *others])


def measure_pairs(
    samples: Path, measurer: Measurer, model: Translator, *, draws: int, rows: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Measure every pair, and draw the grids and the gallery of failures.

    Returns:
        `pairs` and `modalities` of a `result.json`.
    """
    samples.mkdir(exist_ok=True)
    names, pairs, failures = tuple(measurer.real), [], []
    progress.start("restyle and measure", len(names) ** 2, "pair")
    for number, source in enumerate(names):
        columns = []
        for target in names:
            measured, kept = measurer.draw(model, source, target, draws=draws, seed=seed, keep=draws)
            row = measurer.summary(source, target, measured)
            pairs.append(row)
            columns.append(kept[: min(rows, len(set(measured.ids)))])
            if source != target and kept:
                (share, reason), worst = min(
                    (_shortfall(measurer, measured, k, source, target), k) for k in range(len(kept))
                )
                if share < 1:
                    failures.append(_Failure(share, reason, *kept[worst], source, target))
            progress.advance(len(pairs))
        _write_grid(samples / f"grid-{number:02d}-{source}.png", source, names, columns)
    gallery = _write_gallery(samples, failures)
    modalities = {
        name: {
            "sources": len(real.sources),
            "from_train": real.from_train,
            "sign": real.sign,
            "dice": real.dice,
            "false_per_nucleus": real.false_per_nucleus,
            "crops": len(real.features),
            "self_error": measurer.self_error(model, name),
            "diversity": measurer.diversity(model, name, seed=seed),
            "diversity_real": real.colour_spread,
        }
        for name, real in measurer.real.items()
    }
    return {"pairs": pairs, "modalities": modalities, "gallery": gallery}


def seam_error(model: StyleModel, measurer: Measurer, source: str) -> float | None:
    """Greatest difference between an image that is restyled in tiles and the whole, over all targets, in [0, 1]."""
    if not measurer.real[source].sources:
        return None
    image, errors = measurer.real[source].sources[0].image[None], []
    for number in range(len(model.modalities)):
        target = torch.tensor([number])
        given = {
            "source": torch.tensor([model.modalities.index(source)]),
            "target": target,
            "attribute": model.draw_attribute(target, mode="per-domain", generator=rng.generator("seams", number)),
        }
        whole, tiled = (model.translate(image, **given, tile_px=side) for side in (4096, _SEAM_TILE_PX))
        errors.append(float((whole - tiled).abs().max()))
    return max(errors)


def check_kept(result: Mapping[str, Any], least: float) -> None:
    """Refuse a style model that moves or loses nuclei.

    Args:
        result: Of `evaluate_style`.
        least: The share of draws, in [0, 1], that must keep their nuclei in every pair.

    Raises:
        MeasureError: In some pair fewer do.
    """
    short = [pair for pair in result["pairs"] if pair["draws"] and pair["nuclei_kept"] < least]
    if short:
        worst = min(short, key=lambda pair: float(pair["nuclei_kept"]))
        msg = (
            f"{len(short)} of {len(result['pairs'])} pairs keep nuclei in less than {least:g} of the draws, "
            f"{worst['source']} to {worst['target']} in {worst['nuclei_kept']:.2f}; look at the gallery of the report"
        )
        raise MeasureError(msg)


def _refuse_what_was_seen(evaluated: Dataset, metadata: Mapping[str, Any], what: str) -> None:
    seen = set(metadata.get("trained_on", ())) & {record.id for record in evaluated.records}
    if seen:
        msg = (
            f"{what} was trained on {len(seen)} of these images, for example {min(seen)}; measure on others (images are known "
            "by their ids: rename files that only share a name)"
        )
        raise DatasetError(msg)


def _shortfall(measurer: Measurer, draws: Draws, k: int, source: str, target: str) -> tuple[float, str]:
    """How much of what is asked a draw reaches, 1 or more = all, and in words where it reaches least."""
    separation, false, found = draws.separation[k], draws.false[k], draws.dice[k]
    ids = [draws.ids[k]]
    sign = "nuclei of the wrong sign" if separation < 0.5 else "nuclei hardly differ from what surrounds them"
    allowed = measurer.false_allowed(source, target, ids)
    return min(
        (separation / MIN_SEPARATION, sign),
        (
            found / (DICE_SHARE * measurer.dice_asked(source, target, ids)),
            f"Dice of the judge is {found:.2f}: nuclei are not seen whole, or not alone",
        ),
        (
            at_most(false.per_nucleus, allowed),
            f"{false.false} objects that are no nuclei beside {false.nuclei} that are",
        ),
    )


def _write_grid(path: Path, source: str, names: tuple[str, ...], columns: list[list[tuple[Window, Tensor]]]) -> None:
    if not columns[0]:
        return
    rows = [[columns[0][k][0].image, *(one[k][1] for one in columns)] for k in range(len(columns[0]))]
    grid = style_grid(
        rows,
        row_names=[window.id[:8] for window, _ in columns[0]],
        column_names=[source, *names],
        framed=[names.index(source) + 1] * len(rows),
    )
    write_png(path, grid)


def _write_gallery(samples: Path, failures: list[_Failure]) -> list[dict[str, Any]]:
    """The worst of the pairs' worst draws, worst first."""
    told = []
    for number, one in enumerate(sorted(failures, key=lambda failure: failure.share)[:GALLERY]):
        name = f"failure-{number:02d}.png"
        masks = torch.from_numpy(one.window.labels)
        write_png(samples / name, draw_restyled(one.window.image, one.made, masks))
        told.append(
            {"file": name, "id": one.window.id, "source": one.source, "target": one.target, "reason": one.reason}
        )
    return told
