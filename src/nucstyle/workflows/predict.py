"""`predict`: images in, label maps and a table of nuclei out."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import regionprops_table
from torch import Tensor

from nucstyle.core.errors import DatasetError, ImageError, InputError, MemoryShortageError
from nucstyle.core.memory import free_cached_memory, is_memory_shortage
from nucstyle.core.precision import deterministic
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.image_io import write_labels, write_png
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.weights import load_weights
from nucstyle.report.page import write_report
from nucstyle.report.pictures import colour_labels, draw_overlay
from nucstyle.segmentation.decode import Decoded
from nucstyle.segmentation.detector import Segmenter
from nucstyle.segmentation.tiling import segment
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.workflows.load import find_weights, load_segmenter
from nucstyle.workflows.provenance import data_fingerprint

OBJECT_COLUMNS = (
    "image_id",
    "label",
    "score",
    "x0",
    "y0",
    "x1",
    "y1",
    "area_px",
    "perimeter_px",
    "eccentricity",
    "mean_intensity",
    "modality",
)

_LEAST_TILE_PX = 64
"""Tiles do not get smaller where memory is short."""


def predict(
    images: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    weights: Path | str,
    tta: str = "fast",
    diameter_px: float | None = None,
    tile_px: int | None = None,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    overwrite: bool = False,
) -> Path:
    """Find the nuclei of images.

    Args:
        images: A folder, file, glob or manifest.
        out: The run folder: `predictions/ID_labels.tif`, `predictions/ID_preview.png`, `objects.csv`, `report.html`.
        progress: Shown to the person.
        weights: Segmenter weights: a name, a file or a run.
        tta: `none`, `fast`, `full`, or as published `deep-retina`, `mirzaev`.
        diameter_px: Of a typical nucleus, in pixels; None = the segmenter finds out.
        tile_px: Side of the tiles in which larger fields are looked at, after enlargement; None = the segmenter's own.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        overwrite: Replace a run in `out`.

    Returns:
        `out`.

    Raises:
        InputError: The options are at fault, or images could not be used: the others are done, then these are listed.
        MemoryShortageError: There is too little memory for an image, also in tiles of half the side.
    """
    merge = TestTimeAugmentation(tta)
    segmenter = load_segmenter(weights, device=device)
    if tile_px is not None:
        segmenter.inference = replace(segmenter.inference, tile_px=tile_px)
    dataset = open_dataset(images, format=format)
    _check_names(dataset)
    weights_file = find_weights(weights, "segmenter")
    inputs = [Path(images), weights_file, *dataset.files]
    check_target(out, resume=False, overwrite=overwrite, inputs=inputs)
    sha256 = load_weights(weights_file, kind="segmenter").sha256
    config: dict[str, Any] = {
        "verb": "predict",
        "tta": tta,
        "weights_sha256": sha256,
        "data": data_fingerprint(dataset),
    }
    if diameter_px is not None:
        config["diameter_px"] = diameter_px
    if tile_px is not None:
        config["tile_px"] = tile_px
    with RunFolder.open(out, config, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device=str(segmenter.device), precision="as loaded")
        found, refused = predict_into(
            run.path, dataset, segmenter, merge, diameter_px=diameter_px, progress=progress, stage=f"predict ({tta})"
        )
        counts = {name: {"n_nuclei": count} for name, count in found.items()}
        run.write_result({"format": 1, "verb": "predict", "tta": tta, "images": counts})
        write_report(run.path)
    if refused:
        msg = f"{len(refused)} of {len(dataset)} images could not be used: " + "; ".join(refused)
        raise InputError(msg)
    return out


def predict_into(
    folder: Path,
    dataset: Dataset,
    segmenter: Segmenter,
    tta: TestTimeAugmentation,
    *,
    diameter_px: float | None = None,
    progress: Progress,
    stage: str,
) -> tuple[dict[str, int], list[str]]:
    """Predict every image of a data set into a folder.

    Returns:
        The number of nuclei of each image by id, and one line for each image that could not be used.
    """
    for name in ("predictions", "samples"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    refused: list[str] = []
    rows: list[list[object]] = []
    progress.start(stage, len(dataset), "image")
    with deterministic(str(segmenter.device)):
        for index, record in enumerate(dataset.records):
            try:
                sample = dataset[index]
            except ImageError as error:
                refused.append(str(error))
            else:
                decoded = _segmented(segmenter, sample, tta, diameter_px=diameter_px, progress=progress)
                _write_one(folder, sample, decoded)
                rows.extend(_object_rows(sample, decoded))
                if decoded.is_capped:
                    most = segmenter.config.max_nuclei
                    progress.say(f"warning: {sample.id}: the limit of {most} nuclei a tile was met; there may be more")
                counts[record.id] = len(decoded.scores)
            progress.advance(index + 1)
    _write_objects(folder / "objects.csv", rows)
    return counts, refused


def _segmented(
    segmenter: Segmenter, sample: Sample, tta: TestTimeAugmentation, *, diameter_px: float | None, progress: Progress
) -> Decoded:
    """Segment an image; if memory does not suffice, once more in tiles of half the side.

    Raises:
        MemoryShortageError: That was too much as well.
    """
    before, tile_px = segmenter.inference, max(_LEAST_TILE_PX, segmenter.inference.tile_px // 2)
    try:
        return segment(segmenter, sample.image, tta, diameter_px=diameter_px)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_shortage(error):
            raise
    free_cached_memory()  # outside the handler, so that nothing holds what the failed call had allocated
    progress.say(f"warning: {sample.id}: not enough memory; looking again in tiles of {tile_px} px")
    try:
        segmenter.inference = replace(before, tile_px=tile_px)
        return segment(segmenter, sample.image, tta, diameter_px=diameter_px)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_shortage(error):
            raise
        msg = (
            f"{sample.id}: not enough memory, not in tiles of {tile_px} px either; use a smaller --tile, --tta none, "
            "or --device cpu"
        )
        raise MemoryShortageError(msg) from None
    finally:
        segmenter.inference = before


def _write_one(folder: Path, sample: Sample, decoded: Decoded) -> None:
    name = file_name(sample.id)
    write_labels(folder / "predictions" / f"{name}_labels.tif", decoded.labels)
    write_png(folder / "predictions" / f"{name}_preview.png", colour_labels(decoded.labels))
    write_png(folder / "samples" / f"{name}_overlay.png", draw_overlay(sample.image, sample.labels, decoded.labels))


def file_name(image_id: str) -> str:
    """The id as part of a file name: ids come from file names, only separators must go."""
    return image_id.replace("/", "_").replace("\\", "_")


def _check_names(dataset: Dataset) -> None:
    """Refuse ids whose files would overwrite each other.

    Raises:
        DatasetError: With both named.
    """
    taken: dict[str, str] = {}
    for record in dataset.records:
        other = taken.setdefault(file_name(record.id), record.id)
        if other != record.id:
            msg = f"{record.image}: the ids {other!r} and {record.id!r} give the same file name; rename one"
            raise DatasetError(msg)


def _object_rows(sample: Sample, decoded: Decoded) -> list[list[object]]:
    """A row of `objects.csv` for each nucleus."""
    labels = decoded.labels.numpy()
    if not labels.any():
        return []
    wanted = ("label", "bbox", "area", "perimeter", "eccentricity", "intensity_mean")
    table = regionprops_table(labels, _grey(sample.image), properties=wanted)  # type: ignore[no-untyped-call]
    rows: list[list[object]] = []
    for index, label in enumerate(table["label"]):
        y0, x0, y1, x1 = (int(table[f"bbox-{side}"][index]) for side in range(4))
        measures = [f"{table[name][index]:.4f}" for name in ("perimeter", "eccentricity", "intensity_mean")]
        score = f"{float(decoded.scores[int(label) - 1]):.4f}"
        area = int(table["area"][index])
        rows.append([sample.id, int(label), score, x0, y0, x1, y1, area, *measures, sample.modality or ""])
    return rows


def _grey(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(image.mean(dim=0).numpy())


def _write_objects(path: Path, rows: Iterable[list[object]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(OBJECT_COLUMNS)
        writer.writerows(rows)
