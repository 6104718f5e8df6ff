"""`evaluate`: predicted label maps against true ones, by the DSB-2018 score and its companions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.dataset import Dataset, open_dataset, require_labels
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.image_io import read_labels, write_png
from nucstyle.data.manifest import Record, file_name
from nucstyle.data.pixel_cache import CacheUse
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.metrics.dsb import ImageScore, dsb_score
from nucstyle.metrics.summary import summarise
from nucstyle.report.page import write_report
from nucstyle.report.pictures import draw_overlay
from nucstyle.workflows.provenance import data_fingerprint

_SUFFIXES = (
    "_labels.tif",
    *(f"{kind}{suffix}" for kind in ("_masks", "_cp_masks", "") for suffix in (".tif", ".tiff", ".png")),
)
"""What follows the id in the name of a label image, in the order in which they count: where images lie beside what Cellpose
found in them, only the names that it gives to masks are surely no images."""


def evaluate(
    truth: Path | str,
    predicted: Path | str,
    out: Path | None = None,
    *,
    progress: Progress = SILENT,
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    cache: CacheUse = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score predictions.

    Args:
        truth: An annotated data set; only images with a prediction are scored.
        predicted: A run of `predict`, or a folder of label images named like the ids, `ID.tif`, or as Cellpose names them,
            `ID_masks.tif`, `ID_cp_masks.png`.
        out: A run folder for `result.json`, overlays and `report.html`; None = write nothing.
        progress: Shown to the person.
        format: Layout of the truth; None = find out.
        reading: How files are read where they leave it open.
        cache: Whether to use what was decoded before, as for `open_dataset`.
        overwrite: Replace a run in `out`.

    Returns:
        The scores, as in `result.json`.

    Raises:
        InputError: Nothing to score, or label maps that do not fit their image.
    """
    dataset = open_dataset(truth, format=format, reading=reading, cache=cache)
    inputs = [Path(truth), Path(predicted), *dataset.files]
    if out is not None:
        check_target(out, resume=False, overwrite=overwrite, inputs=inputs)
    folder = _prediction_folder(Path(predicted))
    scored = dataset.where(lambda record: _find(folder, record) is not None)
    if not len(scored):
        msg = f"{predicted}: no label image named like an id of {truth}, for example {dataset.records[0].id}_labels.tif"
        raise DatasetError(msg)
    if len(scored) < len(dataset):
        progress.say(f"{len(dataset) - len(scored)} of {len(dataset)} images have no prediction and are not scored")
    require_labels(scored, "scoring")
    scores = score_files(scored, folder, progress=progress)
    summary = summarise(scores, {record.id: record.modality for record in scored.records}, largest_modality(dataset))
    result = {"format": 1, "verb": "evaluate", **summary}
    if out is not None:
        config = {"verb": "evaluate", "data": data_fingerprint(scored)}
        with RunFolder.open(out, config, overwrite=overwrite, inputs=inputs) as run:
            run.write_environment(device="cpu", precision="fp64")
            _write_overlays(run.path / "samples", scored, folder)
            run.write_result(result)
            write_report(run.path)
    return result


def score_files(dataset: Dataset, folder: Path, *, progress: Progress) -> dict[str, ImageScore]:
    """Score the label files of a folder against an annotated data set, by image id.

    Raises:
        ImageError: A label map and its image differ in size.
    """
    scores = {}
    progress.start("score", len(dataset), "image")
    for number, sample in enumerate(dataset, start=1):
        path = _find(folder, dataset.records[number - 1])
        if path is None or sample.labels is None:
            msg = f"{folder}: no label image for {sample.id}; predict it first"
            raise DatasetError(msg)
        found = read_labels(path, dataset.reading)
        if found.shape != sample.labels.shape:
            msg = f"{path}: {tuple(found.shape)} pixels, the truth has {tuple(sample.labels.shape)}; predict it again"
            raise ImageError(msg)
        scores[sample.id] = dsb_score(sample.labels.numpy(), found.numpy())
        progress.advance(number)
    return scores


def largest_modality(dataset: Dataset) -> str | None:
    """The commonest modality of the training part (of all images where nothing is divided); None where none is named."""
    train = [record for record in dataset.records if record.split in ("train", None)] or list(dataset.records)
    counts = Counter(record.modality for record in train if record.modality)
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None


def _prediction_folder(path: Path) -> Path:
    if not path.is_dir():
        msg = f"{path}: no such folder; give a run of predict or a folder of label images"
        raise DatasetError(msg)
    return path / "predictions" if (path / "predictions").is_dir() else path


def _find(folder: Path, record: Record) -> Path | None:
    candidates = (folder / (file_name(record.id) + suffix) for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _write_overlays(samples: Path, dataset: Dataset, folder: Path) -> None:
    samples.mkdir(exist_ok=True)
    for record, sample in zip(dataset.records, dataset, strict=True):
        path = _find(folder, record)
        if path is not None:
            picture = draw_overlay(sample.image, sample.labels, read_labels(path, dataset.reading))
            write_png(samples / f"{file_name(sample.id)}_overlay.png", picture)
