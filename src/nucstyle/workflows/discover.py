"""`discover`: divide images into imaging modalities without any metadata (paper, section 2.2)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.resize import resize_image
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.image_io import write_png
from nucstyle.data.manifest import Record, write_manifest
from nucstyle.data.run_folder import RunFolder, check_target, read_json, write_json
from nucstyle.modality.clustering import ModalityModel, silhouette
from nucstyle.modality.features import ImageStatistics, measure
from nucstyle.report.page import write_report

THUMBNAILS, THUMBNAIL_PX = 8, 128


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found in a data set."""

    model: ModalityModel
    records: tuple[Record, ...]
    """As given, each with its modality."""
    statistics: tuple[ImageStatistics, ...]
    """Of each image."""
    is_named: bool
    """Whether the manifest named the modalities, instead of K-means."""


def discover(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    k: int = 6,
    seed: int = 0,
    format: str | None = None,  # noqa: A002
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Find the imaging modalities of a data set.

    Args:
        data: A folder, file, glob or manifest.
        out: The run folder: `manifest.csv`, `modality.json`, `embedding.csv`, `samples/`, `report.html`.
        progress: Shown to the person.
        k: How many modalities; 6 in the paper.
        seed: Of K-means.
        format: Layout of the data; None = find out.
        resume: Go on in `out`.
        overwrite: Replace a run in `out`.

    Returns:
        `out`.

    Raises:
        InputError: The data or the options are at fault.
    """
    dataset = open_dataset(data, format=format)
    inputs = [Path(data), *dataset.files]
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    found = find_modalities(dataset, k=k, seed=seed, progress=progress)
    config = {"verb": "discover", "k": k, "seed": seed, "images": len(dataset)}
    with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device="cpu", precision="fp64")
        write_discovery(run, dataset, found, seed=seed)
        write_report(run.path)
    return out


def find_modalities(dataset: Dataset, *, k: int, seed: int, progress: Progress) -> Discovery:
    """Measure every image, fit on the training part (on all where nothing is divided), apply to the rest.

    Where the manifest already names modalities of training images, these names hold and are only described; images without a
    name get the nearest.
    """
    progress.start("measure colours", len(dataset), "image")
    statistics = []
    for number, sample in enumerate(dataset, start=1):
        statistics.append(measure(sample.image))
        progress.advance(number)
    fitted = [index for index, record in enumerate(dataset.records) if record.split in ("train", None)]
    fitted = fitted or list(range(len(dataset)))
    named = {index: name for index in fitted if (name := dataset.records[index].modality)}
    if named:
        model = ModalityModel.from_groups([statistics[index] for index in named], list(named.values()))
    else:
        model = ModalityModel.fit([statistics[index] for index in fitted], k=k, seed=seed)
    nearest = model.distances(np.stack([one.features for one in statistics])).argmin(axis=1)
    records = tuple(
        replace(record, modality=record.modality or model.names[int(number)])
        for record, number in zip(dataset.records, nearest, strict=True)
    )
    counts = Counter(str(record.modality) for record in records)
    source = "named by the manifest" if named else "found"
    progress.say(f"modalities {source}: " + ", ".join(f"{name} ({counts[name]} images)" for name in sorted(counts)))
    return Discovery(model, records, tuple(statistics), bool(named))


def write_discovery(run: RunFolder, dataset: Dataset, found: Discovery, *, seed: int) -> None:
    """Write everything that `report` and later verbs read."""
    features = np.stack([one.features for one in found.statistics])
    names = [str(record.modality) for record in found.records]
    write_manifest(run.path / "manifest.csv", found.records)
    write_json(run.path / "modality.json", found.model.state())
    _write_embedding(run.path / "embedding.csv", found, features)
    for modality in found.model.names:
        _write_thumbnails(run.path / "samples" / modality, modality, dataset, found, features)
    run.write_result(
        {
            "format": 1,
            "verb": "discover",
            "seed": seed,
            "k": len(found.model.names),
            "named_by": "manifest" if found.is_named else "k-means",
            "silhouette": silhouette(features, names),
            "modalities": {name: names.count(name) for name in found.model.names},
        }
    )


def _write_embedding(path: Path, found: Discovery, features: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "x", "y", "modality"])
        for record, (x, y) in zip(found.records, found.model.embed(features), strict=True):
            writer.writerow([record.id, f"{x:.6f}", f"{y:.6f}", record.modality])


def _write_thumbnails(
    folder: Path,
    modality: str,
    dataset: Dataset,
    found: Discovery,
    features: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    """The images nearest to the centre of a modality, nearest first."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [index for index, record in enumerate(found.records) if record.modality == modality]
    distance = found.model.distances(features)[:, found.model.names.index(modality)]
    for place, index in enumerate(sorted(members, key=lambda index: float(distance[index]))[:THUMBNAILS]):
        write_png(folder / f"{place:02d}.png", thumbnail(dataset[index].image))


def thumbnail(image: Tensor) -> Tensor:
    """(3, H, W) -> (3, h, w) whose longer side is at most `THUMBNAIL_PX`."""
    height, width = int(image.shape[1]), int(image.shape[2])
    factor = min(1.0, THUMBNAIL_PX / max(height, width))
    return resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))


def read_modality_model(path: Path) -> ModalityModel:
    """Read `modality.json`."""
    return ModalityModel.from_state(read_json(path))


def numbers(model: ModalityModel, records: Sequence[Record]) -> list[int]:
    """The number of the modality of each record, which must have one that the model knows."""
    return [model.names.index(str(record.modality)) for record in records]
