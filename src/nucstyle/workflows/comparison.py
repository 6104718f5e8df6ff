"""From the finished cells of a comparison to its `result.json`: scores by arm and seed, and differences with intervals.

`images.json` beside it says of every scored image its modality, its field of view and the usual area of its nuclei, so that
cells that were made elsewhere can be summed up, and the report needs files alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from nucstyle.core.config import to_toml
from nucstyle.core.errors import RunFolderError
from nucstyle.core.protocols import Progress
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import CONFIG, RESULT, read_config, read_json, write_json, write_text
from nucstyle.metrics.intervals import paired_difference
from nucstyle.report.comparison import IMAGES
from nucstyle.workflows.arms import NONE, parts_of
from nucstyle.workflows.cells import OTHER, VALIDATION, Cell, Scoring, finished_cells, read_cell
from nucstyle.workflows.division import name_fields

ALL, MINORITY = "all", "minority"

Scores = Mapping[str, Any]
"""S of a `result.json`."""
Seeds = Mapping[int, Mapping[str, Scores]]
"""Of an arm: seed -> mode of test-time augmentation -> S."""


def describe_images(
    folder: Path, images: Dataset, train: Dataset, scoring: Scoring, progress: Progress, *, every: Dataset
) -> None:
    """Write `images.json`; areas and fields of view that it holds already are not measured again.

    Images whose borders continue each other are of one field of view, whatever the manifest names.

    Args:
        folder: Of the protocol.
        images: All that may be trained on, with all their masks.
        train: Those that are trained on, read already: where they are of the largest modality, no file is opened again.
        scoring: The images that are scored.
        progress: Shown to the person.
        every: All images of the data: one that is not scored may join two that are. What cannot be read of it is passed over.
    """
    known = _read_images(folder) if (folder / IMAGES).is_file() else {}
    typical = known["median_nucleus_px"] if known else _typical_area(images, train, scoring.largest, progress)
    scored_on = known.get("scored_on", {})
    changed = [part for part, one in scoring.fingerprints.items() if scored_on.get(part) != one]
    contents = {**known.get("contents", {}), **scoring.contents}
    changed += [part for part, one in known.get("contents", {}).items() if contents[part] != one]
    parts: dict[str, dict[str, Any]] = {
        part: one for part, one in known.get("parts", {}).items() if part not in changed
    }
    fields: dict[str, dict[str, str]] = known.get("fields", {})
    for part, dataset in scoring.parts.items():
        names = _field_names(dataset if part == OTHER else every, scoring.fingerprints.get(part), fields, progress)
        areas = {name: one["nucleus_px"] for name, one in parts.get(part, {}).items()}
        new = [index for index, record in enumerate(dataset.records) if record.id not in areas]
        areas |= _areas(dataset, new, f"measure the nuclei of the {part} images", progress)
        parts[part] = {
            one.id: {"modality": one.modality, "field_of_view": names.get(one.id), "nucleus_px": areas[one.id]}
            for one in dataset.records
        }
    cut = _cut(every, _field_names(every, None, fields, progress))
    if cut:
        progress.say(
            f"warning: {cut} fields of view have images in several parts, so scores may be too good; nucstyle check names them"
        )
    table = {
        "largest": scoring.largest,
        "median_nucleus_px": typical,
        "parts": parts,
        "fields": fields,
        "cut_fields": cut,
    }
    if contents:
        table["contents"] = contents
    if scored_on or scoring.fingerprints:
        table["scored_on"] = {**scored_on, **{part: dict(one) for part, one in scoring.fingerprints.items()}}
    write_json(folder / IMAGES, {"format": 1, "train": len(images.part("train", None)), **table})


def _cut(dataset: Dataset, fields: Mapping[str, str]) -> int:
    """How many fields of view have images in several parts."""
    parts: dict[str, set[str]] = {}
    for record in dataset.records:
        if record.id in fields:
            parts.setdefault(fields[record.id], set()).add(record.split or "train")  # not divided = trained on
    return sum(len(found) > 1 for found in parts.values())


def _field_names(
    dataset: Dataset, contents: Mapping[str, Any] | None, known: dict[str, dict[str, str]], progress: Progress
) -> dict[str, str]:
    """The name of the field of view of each image that has one, by id; `known` has what was found before, and gets it."""
    named = sorted((record.id, record.field_of_view or "") for record in dataset.records)
    key = hashlib.sha256(
        repr((named, sorted((contents or {}).items()))).encode("utf-8", "backslashreplace")
    ).hexdigest()
    if key not in known:
        records, _ = name_fields(dataset, progress, skip_unreadable=True)
        known[key] = {one.id: one.field_of_view for one in records if one.field_of_view is not None}
    return known[key]


def _read_images(folder: Path) -> dict[str, Any]:
    return read_json(folder / IMAGES, remedy="remove this file, and it is made anew")


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


def sum_up(
    folder: Path, config: Mapping[str, Any], scoring: Scoring, on: str, *, cells: Sequence[Cell] | None = None
) -> dict[str, Any]:
    """Write `result.json` of a protocol over its finished cells, and `other/result.json` where another data set is scored.

    Args:
        folder: Of the protocol, with `images.json`.
        config: Of the protocol.
        scoring: The parts.
        on: The part that is summed up.
        cells: Which; None = all that are finished.

    Returns:
        What `result.json` holds.

    Raises:
        RunFolderError: A cell was scored on other images.
    """
    finished = list(finished_cells(folder)) if cells is None else cells
    if OTHER in scoring.parts:
        (folder / OTHER).mkdir(exist_ok=True)
        write_text(folder / OTHER / CONFIG, to_toml({**config, "on": OTHER}))
        write_json(folder / OTHER / RESULT, _summary(folder, config, scoring, OTHER, finished))
    result = _summary(folder, config, scoring, on, finished)
    write_json(folder / RESULT, result)
    return result


def _summary(
    folder: Path, config: Mapping[str, Any], scoring: Scoring, part: str, cells: Sequence[Cell]
) -> dict[str, Any]:
    images = _read_images(folder)
    scored, chosen_by = (_collect(cells, images, scoring, one) for one in (part, VALIDATION))
    standings = standings_of(chosen_by)
    rival = best_without_gan(standings)
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
        # Of the parts that count here, not of what else has been scored in this folder, so that equal cells give equal bytes.
        "split": {
            "train": images["train"],
            **{name: len(images["parts"][name]) for name in sorted({VALIDATION, part})},
        },
        "arms": {arm: {"seeds": {str(seed): modes for seed, modes in seeds.items()}} for arm, seeds in scored.items()},
        "trained_with": _trained_with(cells, scored),
        "validation_quality": {arm: one.quality for arm, one in standings.items()},
        "reference": rival,
        "shown": best_to_show({arm: one for arm, one in standings.items() if arm in scored}),
        "without_field": sum(field is None for field in fields.values()),
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


def _trained_with(cells: Sequence[Cell], scored: Mapping[str, Seeds]) -> dict[str, dict[str, str]]:
    """Arm -> seed -> kind of device and number format: what is unlike in these differs by that as well."""
    found: dict[str, dict[str, str]] = {}
    for arm, seed, cell in cells:
        if seed in scored.get(arm, {}):
            config = read_config(cell)
            found.setdefault(arm, {})[str(seed)] = f"{config.get('device', '')} {config.get('precision', '')}".strip()
    return found


def _collect(
    cells: Sequence[Cell], images: Mapping[str, Any], scoring: Scoring, part: str
) -> dict[str, dict[int, dict[str, Scores]]]:
    """Arm -> seed -> mode -> S of every finished cell that was scored on a part, `none` first."""
    wanted = set(images["parts"][part])
    found: dict[str, dict[int, dict[str, Scores]]] = {}
    for arm, seed, cell in cells:
        modes = scoring.known(read_cell(cell), part)
        for scores in modes.values():
            if set(scores["images"]) != wanted:
                remedy = "remove the cell or give the old data"
                if part in scoring.fingerprints:
                    remedy = "another process scores another --test in this folder; one after the other, with --resume"
                msg = f"{cell}: scored on other {part} images than there are now; {remedy}"
                raise RunFolderError(msg)
        if modes:
            found.setdefault(arm, {})[seed] = modes
    return {arm: found[arm] for arm in sorted(found, key=_order)}


def _order(arm: str) -> tuple[bool, bool, str]:
    """Without anything first, then without a GAN."""
    return arm != NONE, "style" in parts_of(arm), arm


@dataclass(frozen=True, slots=True)
class Standing:
    """How well an arm does on validation images, to choose among arms by."""

    seeds: int
    """With which it was trained and scored, as `none` was."""
    quality: float
    """Mean over these of the mean of the scores of all images and of the minority, as a training chooses its best."""


def standings_of(scored: Mapping[str, Seeds]) -> dict[str, Standing]:
    """The standing of every arm, over the seeds that it shares with `none` and the modes of test-time augmentation of all arms.

    So an arm is not set above the others by being scored with more views. Where nothing is shared, over what it has.
    """
    common = set.intersection(*({tta for _, tta in _pairs(seeds)} for seeds in scored.values())) if scored else set()
    plain = _pairs(scored.get(NONE, {}))
    found = {}
    for arm, seeds in scored.items():
        own = _pairs(seeds)
        shared = {(seed, tta) for seed, tta in own & plain if tta in common}
        values = [_quality(seeds[seed][tta]) for seed, tta in sorted(shared or own)]
        found[arm] = Standing(len({seed for seed, _ in shared}), fmean(values))
    return found


def _pairs(seeds: Seeds) -> set[tuple[int, str]]:
    return {(seed, tta) for seed, modes in seeds.items() for tta in modes}


def _quality(scores: Scores) -> float:
    return fmean(value for value in (scores["dsb_score"], scores["minority"]["dsb_score"]) if value is not None)


def best_without_gan(standings: Mapping[str, Standing]) -> str | None:
    """The arm with an augmentation, and without a GAN, that is best on validation images; without one `none`, if it is there."""
    candidates = [arm for arm in standings if arm != NONE and "style" not in parts_of(arm)]
    return _best(standings, candidates) or (NONE if NONE in standings else None)


def best_to_show(standings: Mapping[str, Standing]) -> str | None:
    """The arm that pictures compare to `none`: the best with a style model, or the best of all where there is none."""
    augmented = [arm for arm in standings if arm != NONE]
    return _best(standings, [arm for arm in augmented if "style" in parts_of(arm)] or augmented)


def _best(standings: Mapping[str, Standing], candidates: Sequence[str]) -> str | None:
    """Those of most seeds come first, so that a comparison does not rest on one seed where there are three."""
    return max(candidates, key=lambda arm: (standings[arm].seeds, standings[arm].quality), default=None)


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
