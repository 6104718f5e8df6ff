"""`predict`: images in, label maps and a table of nuclei out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from skimage.measure import regionprops_table
from torch import Tensor

from nucstyle.augment.style import StyleTransfer
from nucstyle.core.config import build, to_table, with_overrides
from nucstyle.core.errors import ImageError, InputError, MemoryShortageError, OptionError
from nucstyle.core.installation import choose_device
from nucstyle.core.memory import free_cached_memory, is_memory_shortage
from nucstyle.core.precision import deterministic, resolve_precision
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.rng import derive_seed
from nucstyle.core.sample import Sample
from nucstyle.data import objects
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.image_io import write_labels, write_png
from nucstyle.data.manifest import check_file_names, file_name, write_manifest
from nucstyle.data.predictions import PREDICTIONS, PredictedImage, label_file, write_images
from nucstyle.data.run_folder import RESULT, RunFolder, check_target, read_json
from nucstyle.data.unread import warn_of_unread_pictures
from nucstyle.data.weights import Weights, load_weights
from nucstyle.report.page import write_report
from nucstyle.report.pictures import colour_labels, draw_overlay
from nucstyle.segmentation.decode import Decoded
from nucstyle.segmentation.detector import CONTRAST, SHOWN_BY, InferenceConfig, Segmenter
from nucstyle.segmentation.tiling import segment
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.workflows.load import SHIPPED_SEGMENTER, find_weights, load_segmenter, style_from_weights
from nucstyle.workflows.provenance import data_fingerprint

_LEAST_TILE_PX = 64
"""Tiles do not get smaller where memory is short."""


class Outcome(NamedTuple):
    """What became of the images of a data set."""

    images: dict[str, dict[str, int]]
    """By id the number of nuclei, and the side of the tiles where memory asked for smaller ones."""
    refused: list[str]
    """A line for each image that could not be used."""
    capped: list[str]
    """Ids of images in which the detector met a limit, so that there may be more nuclei."""

    def require_all(self) -> None:
        """Refuse to go on as if all images had been predicted.

        Raises:
            InputError: Some could not be used; they are listed.
        """
        if self.refused:
            total = len(self.images) + len(self.refused)
            msg = f"{len(self.refused)} of {total} images could not be used: " + "; ".join(self.refused)
            raise InputError(msg)


def predict(
    images: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    weights: Path | str = SHIPPED_SEGMENTER,
    tta: str | None = None,
    diameter_px: float | None = None,
    tile_px: int | None = None,
    overrides: Sequence[str] = (),
    style: Path | str | None = None,
    move_to: str | None = None,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    overwrite: bool = False,
) -> Path:
    """Find the nuclei of images.

    Args:
        images: A folder, file, glob or manifest.
        out: The run folder: `predictions/ID_labels.tif`, `predictions/ID_preview.png`, `objects.csv`, `images.csv`,
            `manifest.csv`, `report.html`.
        progress: Shown to the person.
        weights: Segmenter weights: a name, a file or a run.
        tta: `none`, `fast`, `full`, or as published `deep-retina`, `mirzaev`; None = as the recipe of the weights says.
        diameter_px: Of a typical nucleus, in pixels; None = the segmenter finds out.
        tile_px: Side of the tiles in which larger fields are looked at, after enlargement; None = the segmenter's own.
        overrides: `key=value`, such as `score=0.5`, on top of how the weights say that answers are read (`InferenceConfig`).
        style: Style weights (a name, a file or a run) that move images of other modalities into one before nuclei are sought.
        move_to: The modality, as the style model names it; None = the one that the segmenter was trained with most.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open.
        overwrite: Replace a run in `out`.

    Returns:
        `out`.

    Raises:
        InputError: The options are at fault, or images could not be used, or there is too little memory for them, also in
            tiles of half the side: the others are done, then these are listed.
    """
    place = choose_device(device)
    precision = resolve_precision("auto", place)
    segmenter = load_segmenter(weights, device=place, precision=precision)
    tta = segmenter.inference.tta if tta is None else tta
    merge = TestTimeAugmentation(tta)
    segmenter.inference = _settled(segmenter, overrides, tta)
    if tile_px is not None:
        segmenter.inference = replace(segmenter.inference, tile_px=tile_px)
    dataset = open_dataset(images, format=format, reading=reading, cache=False)
    warn_of_unread_pictures(Path(images), dataset.records, progress)
    check_file_names(dataset.records)
    weights_file = find_weights(weights, "segmenter")
    inputs = [Path(images), weights_file, *dataset.files]
    check_target(out, resume=False, overwrite=overwrite, inputs=inputs)
    loaded = load_weights(weights_file, kind="segmenter")
    _compare_ranges(loaded, reading, progress)
    restyle, styled = _mover(style, move_to, loaded, device)
    config: dict[str, Any] = {
        "verb": "predict",
        "tta": tta,
        "weights_sha256": loaded.sha256,
        "inference": to_table(segmenter.inference),
        "data": data_fingerprint(dataset),
        **styled,
    }
    if diameter_px is not None:
        config["diameter_px"] = diameter_px
    if tile_px is not None:
        config["tile_px"] = tile_px
    with RunFolder.open(out, config, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device=str(segmenter.device), precision=precision)
        outcome = predict_into(
            run.path,
            dataset,
            segmenter,
            merge,
            diameter_px=diameter_px,
            restyle=restyle,
            progress=progress,
            stage=f"predict ({tta})",
        )
        found = outcome.images
        _write_manifest(run.path, dataset, found)
        missing = [record.id for record in dataset.records if record.id not in found]
        told = {"images": found, "refused": missing, "capped": outcome.capped}
        run.write_result({"format": 1, "verb": "predict", "tta": tta, **told})
        write_report(run.path)
    outcome.require_all()
    return out


@dataclass(frozen=True)
class _Settings:
    """What can be set, by the names that a recipe has for it."""

    inference: InferenceConfig


_SET_ELSEWHERE: Mapping[str, str] = {"tta": "--tta", "tile_px": "--tile", "diameter_px": "--diameter"}
"""Settings that have an option of their own."""


def _settled(segmenter: Segmenter, overrides: Sequence[str], tta: str) -> InferenceConfig:
    """How answers are read, with the views that are looked at.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type or range.
        OptionError: A setting that has an option of its own, that says how images are shown, or that would have no effect.
    """
    before = to_table(segmenter.inference)
    table = with_overrides(_Settings, {"inference": before}, overrides)
    inference = build(_Settings, table, where="--set").inference
    after = to_table(inference)
    for override in overrides:
        name = override.partition("=")[0].strip().rpartition(".")[2]
        if name in _SET_ELSEWHERE:
            msg = f"--set {override}: give {_SET_ELSEWHERE[name]} instead"
            raise OptionError(msg)
        if name in (*SHOWN_BY, *CONTRAST) and after[name] != before[name]:
            learnt = str(before[name]).lower()
            msg = f"--set {override}: the segmenter learnt from images shown with {learnt}; train with it, or leave it"
            raise OptionError(msg)
    least = segmenter.config.box_score
    if tta == "none" and inference.score < min(least, segmenter.inference.score):
        msg = f"--set score={inference.score:g}: of one view the detector tells of nothing below {least:g}; give more"
        raise OptionError(msg)
    return build(InferenceConfig, {**to_table(inference), "tta": tta}, where="--tta")


def count_nuclei(run: Path) -> int:
    """How many nuclei a finished run of `predict` found in all."""
    return sum(one["n_nuclei"] for one in read_json(run / RESULT)["images"].values())


def predict_into(
    folder: Path,
    dataset: Dataset,
    segmenter: Segmenter,
    tta: TestTimeAugmentation,
    *,
    diameter_px: float | None = None,
    restyle: StyleTransfer | None = None,
    pictures: bool = True,
    progress: Progress,
    stage: str,
) -> Outcome:
    """Predict every image of a data set into a folder; with `restyle`, the nuclei are sought in what it makes of the image.

    An image that cannot be read, or for which memory does not suffice, does not stop the others. Without `pictures` neither
    previews nor overlays are written: label files are a hundredth of their size.
    """
    for name in (PREDICTIONS, "samples") if pictures else (PREDICTIONS,):
        (folder / name).mkdir(parents=True, exist_ok=True)
    outcome = Outcome({}, [], [])
    rows: list[list[object]] = []
    images: list[PredictedImage] = []
    progress.start(stage, len(dataset), "image")
    try:
        with deterministic(str(segmenter.device)):
            for index, record in enumerate(dataset.records):
                try:
                    with _telling_shortage(record.id):
                        sample = dataset[index]
                        shown = sample if restyle is None else restyle(sample, seed=derive_seed("predict", sample.id))
                        decoded, tile_px = _segmented(segmenter, shown, tta, diameter_px=diameter_px, progress=progress)
                        own_rows = _object_rows(sample, decoded)
                        _write_one(folder, sample, decoded, pictures=pictures)
                except (ImageError, MemoryShortageError) as error:
                    outcome.refused.append(str(error))
                else:
                    rows.extend(own_rows)
                    images.append(_image_row(sample, decoded))
                    if decoded.is_capped:
                        outcome.capped.append(record.id)
                        _warn_of_limit(segmenter, record.id, progress)
                    tile = {"tile_px": tile_px} if tile_px else {}
                    outcome.images[record.id] = {"n_nuclei": len(decoded.scores), "n_dropped": decoded.dropped, **tile}
                progress.advance(index + 1)
    finally:  # images that are done keep their rows, however the others end
        objects.write(folder, objects.PREDICTED, rows)
        write_images(folder, images)
    return outcome


@contextmanager
def _telling_shortage(image_id: str) -> Iterator[None]:
    """A shortage of memory of which nothing else has told becomes one of the image, so that the others can go on.

    Raises:
        MemoryShortageError: With the image and a remedy.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_shortage(error):
            raise
        msg = (
            f"{image_id}: not enough memory to read it, to move it to another modality, or to draw what was found; crop it, or "
            "use --device cpu"
        )
        raise MemoryShortageError(msg) from None


def _warn_of_limit(segmenter: Segmenter, image_id: str, progress: Progress) -> None:
    most, places = segmenter.config.max_nuclei, segmenter.config.proposals_after_nms
    progress.say(
        f"warning: {image_id}: a limit of the segmenter was met in a tile ({most} nuclei, {places} places to look at); "
        "there may be more nuclei: nucstyle predict finds them with a smaller --tile"
    )


def _compare_ranges(segmenter: Weights, reading: ReadOptions, progress: Progress) -> None:
    """Say so where the segmenter has learnt from brightness on another scale than it is shown now."""
    learnt = segmenter.metadata.get("reading", {}).get("range")
    if learnt and (reading.value_range is None or list(reading.value_range) != learnt):
        low, high = learnt
        progress.say(f"warning: the segmenter was trained with --range {low:g},{high:g}; give it here as well")


def _mover(
    style: Path | str | None, move_to: str | None, segmenter: Weights, device: str
) -> tuple[StyleTransfer | None, dict[str, Any]]:
    """What moves images into the modality that the segmenter knows best, and what `config.toml` says of it.

    Raises:
        OptionError: A modality without a style model, or one that it does not know, or none is known to be the best.
        WeightsError: The style model cannot be loaded.
    """
    if style is None:
        if move_to is not None:
            msg = f"--move-to {move_to}: only a style model can move images; give --style as well"
            raise OptionError(msg)
        return None, {}
    path = find_weights(style, "style")
    weights = load_weights(path, kind="style")
    model = style_from_weights(weights, str(path), device=device)
    counts = Counter(segmenter.metadata.get("modalities", {}))
    best = move_to or next((name for name, _ in counts.most_common() if name in model.modalities), None)
    if best is None:
        msg = (
            "the segmenter does not say which modality it knows best, or the style model does not know it; "
            f"give --move-to, one of {', '.join(model.modalities)}"
        )
        raise OptionError(msg)
    # No gate: it would look at masks, where the images have any. No lift: nuclei are to be found as they are.
    mover = StyleTransfer(model, p=1.0, targets=[best], exclude_own=True, gate=None, lift=1)
    return mover, {"style_sha256": weights.sha256, "move_to": best}


def _segmented(
    segmenter: Segmenter, sample: Sample, tta: TestTimeAugmentation, *, diameter_px: float | None, progress: Progress
) -> tuple[Decoded, int | None]:
    """Segment an image; if memory does not suffice, once more in tiles of half the side of what was looked at.

    Returns:
        The label map, and the side of the tiles where they had to be smaller.

    Raises:
        MemoryShortageError: That was too much as well.
    """
    before = segmenter.inference
    factor = before.diameter_px / diameter_px if diameter_px else before.magnification(sample.size)
    tile_px = min(before.tile_px, math.ceil(max(sample.size) * factor)) // 2  # of what was looked at in one piece
    try:
        return segment(segmenter, sample.image, tta, diameter_px=diameter_px), None
    except (MemoryError, RuntimeError) as error:
        if not is_memory_shortage(error):
            raise
    # Outside the handler, so that nothing holds what the failed call had allocated.
    free_cached_memory()
    if tile_px < _LEAST_TILE_PX:
        msg = f"{sample.id}: not enough memory, and tiles get no smaller; use --tta none or --device cpu"
        raise MemoryShortageError(msg)
    progress.say(f"warning: {sample.id}: not enough memory; looking again in tiles of {tile_px} px")
    try:
        segmenter.inference = replace(before, tile_px=tile_px, overlap_px=min(before.overlap_px, tile_px // 4))
        return segment(segmenter, sample.image, tta, diameter_px=diameter_px), tile_px
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


def _write_one(folder: Path, sample: Sample, decoded: Decoded, *, pictures: bool) -> None:
    name, drawn = file_name(sample.id), {}
    if pictures:  # before anything is written: memory may not suffice for them
        drawn[folder / PREDICTIONS / f"{name}_preview.png"] = colour_labels(decoded.labels)
        drawn[folder / "samples" / f"{name}_overlay.png"] = draw_overlay(sample.image, sample.labels, decoded.labels)
    write_labels(label_file(folder, sample.id), decoded.labels, are_nuclei=True)
    for path, picture in drawn.items():
        write_png(path, picture)


def _write_manifest(folder: Path, dataset: Dataset, found: Container[str]) -> None:
    """Name each image with the label map that was found for it, so that a run is a data set as long as its images stay."""
    records = [
        replace(record, labels=label_file(folder, record.id), components=False)
        for record in dataset.records
        if record.id in found
    ]
    write_manifest(folder / "manifest.csv", records)


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


def _image_row(sample: Sample, decoded: Decoded) -> PredictedImage:
    height, width = sample.size
    return PredictedImage(sample.id, width, height, len(decoded.scores), sample.modality or "")


def _grey(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(image.mean(dim=0).numpy())
