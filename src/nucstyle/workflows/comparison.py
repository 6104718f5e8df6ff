"""From the finished cells of a comparison to its `result.json`: scores by arm and seed, and differences with intervals.

`images.json` beside it says of every scored image its modality, its field of view and the usual area of its nuclei, so that
cells that were made elsewhere can be summed up, and the report needs files alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from nucstyle.core.config import to_toml
from nucstyle.core.errors import RunFolderError
from nucstyle.core.protocols import Progress
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import CONFIG, RESULT, read_json, write_json, write_text
from nucstyle.metrics.intervals import paired_difference
from nucstyle.workflows.arms import NONE, parts_of
from nucstyle.workflows.cells import OTHER, VALIDATION, Scoring, finished_cells

IMAGES = "images.json"
ALL, MINORITY = "all", "minority"

Scores = Mapping[str, Any]
"""S of a `result.json`."""
Seeds = Mapping[int, Mapping[str, Scores]]
"""Of an arm: seed -> mode of test-time augmentation -> S."""


def describe_images(folder: Path, images: Dataset, train: Dataset, scoring: Scoring, progress: Progress) -> None:
    """Write `images.json`; areas that it holds already are not measured again.

    Args:
        folder: Of the protocol.
        images: All that may be trained on, with all their masks.
        train: Those that are trained on, read already: where they are of the largest modality, no file is opened again.
        scoring: The images that are scored.
        progress: Shown to the person.
    """
    known = read_json(folder / IMAGES) if (folder / IMAGES).is_file() else {}
    typical = known["median_nucleus_px"] if known else _typical_area(images, train, scoring.largest, progress)
    parts: dict[str, dict[str, Any]] = dict(known.get("parts", {}))
    areas = {name: one["nucleus_px"] for part in parts.values() for name, one in part.items()}
    for part, dataset in scoring.parts.items():
        new = [index for index, record in enumerate(dataset.records) if record.id not in areas]
        areas |= _areas(dataset, new, f"measure the nuclei of the {part} images", progress)
        parts[part] = {
            one.id: {"modality": one.modality, "field_of_view": one.field_of_view, "nucleus_px": areas[one.id]}
            for one in dataset.records
        }
    table = {"largest": scoring.largest, "median_nucleus_px": typical, "parts": parts}
    write_json(folder / IMAGES, {"format": 1, "train": len(images.part("train", None)), **table})


def _typical_area(images: Dataset, train: Dataset, largest: str | None, progress: Progress) -> float | None:
    """The median over the training images of the largest modality of the median area of their nuclei."""
    is_there = any(record.modality == largest for record in train.records)
    source = train if is_there else images.part("train", None).annotated()
    own = [index for index, record in enumerate(source.records) if record.modality == largest]
    return _median(list(_areas(source, own, "measure the nuclei of the training images", progress).values()))


def _areas(dataset: Dataset, chosen: Sequence[int], stage: str, progress: Progress) -> dict[str, float | None]:
    """The usual area of the nuclei of some images, by id."""
    areas: dict[str, float | None] = {}
    if chosen:
        progress.start(stage, len(chosen), "image")
    for done, index in enumerate(chosen, start=1):
        areas[dataset.records[index].id] = _usual_area(dataset[index])
        progress.advance(done)
    return areas


def _usual_area(sample: Sample) -> float | None:
    """The median area of the nuclei of an image in px; None without nuclei."""
    assert sample.labels is not None
    counts = np.bincount(sample.labels.numpy().ravel())[1:]
    return _median([float(count) for count in counts if count])


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def groups_of(images: Mapping[str, Any], part: str) -> dict[str, list[str]]:
    """The ids of the images of each group of a part that has any: all, the minority, every modality, and the largest in two.

    The largest modality is divided at the median over its training images of the median area of their nuclei: every image
    weighs the same, as in the score.
    """
    described, largest, typical = images["parts"][part], images["largest"], images["median_nucleus_px"]
    names = sorted({one["modality"] for one in described.values() if one["modality"] is not None})
    groups = {
        ALL: sorted(described),
        MINORITY: [name for name in sorted(described) if described[name]["modality"] not in (None, largest)],
        **{each: [name for name in sorted(described) if described[name]["modality"] == each] for each in names},
    }
    if largest is not None and typical is not None:
        area = {name: one["nucleus_px"] for name, one in described.items() if one["modality"] == largest}
        small = sorted(name for name, px in area.items() if px is not None and px <= typical)
        large = sorted(name for name, px in area.items() if px is not None and px > typical)
        groups |= {f"{largest}-small-nuclei": small, f"{largest}-large-nuclei": large}
    return {name: ids for name, ids in groups.items() if ids}


def sum_up(folder: Path, config: Mapping[str, Any], scoring: Scoring, on: str) -> dict[str, Any]:
    """Write `result.json` of a protocol over its finished cells, and `other/result.json` where another data set is scored.

    Args:
        folder: Of the protocol, with `images.json`.
        config: Of the protocol.
        scoring: The parts.
        on: The part that is summed up.

    Returns:
        What `result.json` holds.

    Raises:
        RunFolderError: A cell was scored on other images.
    """
    if OTHER in scoring.parts:
        (folder / OTHER).mkdir(exist_ok=True)
        write_text(folder / OTHER / CONFIG, to_toml({**config, "on": OTHER}))
        write_json(folder / OTHER / RESULT, _summary(folder, config, OTHER))
    result = _summary(folder, config, on)
    write_json(folder / RESULT, result)
    return result


def _summary(folder: Path, config: Mapping[str, Any], part: str) -> dict[str, Any]:
    images = read_json(folder / IMAGES)
    scored, chosen_by = _collect(folder, images, part), _collect(folder, images, VALIDATION)
    qualities = {arm: _quality(seeds) for arm, seeds in chosen_by.items()}
    rival = best_without_gan(qualities)
    groups = groups_of(images, part)
    described = images["parts"][part]
    fields = {name: one["field_of_view"] for name, one in described.items()}
    references = list(dict.fromkeys(name for name in (NONE, rival) if name in scored))
    return {
        "format": 1,
        "verb": "compare",
        "seed": 0,
        "recipe": config["recipe"]["name"],
        "protocol": config["protocol"],
        "annotated": config["annotated"],
        "on": part,
        "split": {"train": images["train"], **{name: len(one) for name, one in images["parts"].items()}},
        "arms": {arm: {"seeds": {str(seed): modes for seed, modes in seeds.items()}} for arm, seeds in scored.items()},
        "validation_quality": qualities,
        "reference": rival,
        "groups": {
            name: {"images": len(ids), "fields": len({fields[one] or f"image {one}" for one in ids})}
            for name, ids in groups.items()
        },
        "differences": {
            arm: {
                reference: found
                for reference in references
                if reference != arm and (found := _differences(seeds, scored[reference], groups, fields))
            }
            for arm, seeds in scored.items()
            if arm != NONE
        },
    }


def _collect(folder: Path, images: Mapping[str, Any], part: str) -> dict[str, dict[int, dict[str, Scores]]]:
    """Arm -> seed -> mode -> S of every finished cell that was scored on a part, `none` first."""
    wanted = set(images["parts"][part])
    found: dict[str, dict[int, dict[str, Scores]]] = {}
    for arm, seed, cell in finished_cells(folder):
        modes = read_json(cell / RESULT)["scores"].get(part, {})
        for scores in modes.values():
            if set(scores["images"]) != wanted:
                msg = f"{cell}: scored on other {part} images than there are now; remove the cell or give the old data"
                raise RunFolderError(msg)
        if modes:
            found.setdefault(arm, {})[seed] = modes
    return {arm: found[arm] for arm in sorted(found, key=_order)}


def _order(arm: str) -> tuple[bool, bool, str]:
    """Without anything first, then without a GAN."""
    return arm != NONE, "style" in parts_of(arm), arm


def _quality(seeds: Seeds) -> float:
    """Mean over seeds and modes of the mean of the scores of all images and of the minority, as a training chooses its best."""
    values = []
    for modes in seeds.values():
        for scores in modes.values():
            known = [value for value in (scores["dsb_score"], scores["minority"]["dsb_score"]) if value is not None]
            values.append(fmean(known))
    return fmean(values)


def best_without_gan(qualities: Mapping[str, float]) -> str | None:
    """The arm without a GAN that is best on validation images; None where there is none."""
    candidates = [arm for arm in qualities if "style" not in parts_of(arm)]
    return max(candidates, key=lambda arm: qualities[arm]) if candidates else None


def _differences(
    seeds: Seeds, reference: Seeds, groups: Mapping[str, Sequence[str]], fields: Mapping[str, str | None]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Mode -> group -> the difference to a reference, over the seeds that both were trained with."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    modes = {tta for one in seeds.values() for tta in one}
    for tta in sorted(modes):
        both = [seed for seed in sorted(seeds) if tta in seeds[seed] and tta in reference.get(seed, {})]
        if both:
            found[tta] = {name: _difference(seeds, reference, both, tta, ids, fields) for name, ids in groups.items()}
    return found


def _difference(
    one: Seeds,
    other: Seeds,
    seeds: Sequence[int],
    tta: str,
    ids: Sequence[str],
    fields: Mapping[str, str | None],
) -> dict[str, Any]:
    ours, theirs = ([{name: arm[seed][tta]["images"][name] for name in ids} for seed in seeds] for arm in (one, other))
    found = paired_difference(ours, theirs, fields)
    told = {name: getattr(found, name) for name in ("mean", "low", "high", "fields", "seeds", "better", "worse")}
    # Without an interval the reader gets what there is: every image.
    return told if found.low is not None else {**told, "images": dict(found.images)}
