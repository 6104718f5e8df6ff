"""What a comparison shows of images: those that gained and lost most, styles, and failures of these (paper, figures 3 to 5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nucstyle.augment.gate import Gate, Verdict
from nucstyle.augment.style import StyleTransfer
from nucstyle.core import rng
from nucstyle.core.resize import middle
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import Dataset
from nucstyle.data.image_io import read_labels, write_png
from nucstyle.data.manifest import file_name
from nucstyle.data.run_folder import read_json, write_json
from nucstyle.report.comparison import FAILURES, GALLERY, STYLE_GRID, shown_tta
from nucstyle.report.pictures import VIEW_PX, draw_change, draw_restyled
from nucstyle.style.model import StyleModel
from nucstyle.workflows.arms import NONE
from nucstyle.workflows.cells import cell_folder, predictions_folder
from nucstyle.workflows.train_style import draw_style_grid, grid_places, grid_sources

_MOST = 10
_TRIED = 4
"""Training images of each modality that are restyled to find failures."""
_SIDE_PX, _STRIDE_PX = 384, 16
"""Of larger fields a part is shown: whole ones are made so small on the page that contours vanish."""


def draw_gallery(folder: Path, dataset: Dataset, result: Mapping[str, Any]) -> None:
    """Draw the images that gained and lost most by the arm that is shown (mean over seeds), with the contours of one seed.

    Args:
        folder: Of the protocol; `gallery.json` says what is in `samples/`. Images whose label files are elsewhere are left out.
        dataset: The images that are scored, with their masks.
        result: Of the comparison.
    """
    arm, tta = result["shown"], shown_tta(result)
    told: list[dict[str, Any]] = []
    if arm is not None and NONE in result["arms"]:
        gains = _gains(result, arm, tta)
        order = sorted(gains, key=lambda name: (-gains[name], name))
        best = [name for name in order[:_MOST] if gains[name] > 0]
        worst = [name for name in reversed(order[-_MOST:]) if gains[name] < 0]
        for kind, names in (("gain", best), ("loss", worst)):
            for place, name in enumerate(names):
                picture = f"{kind}-{place:02d}.png"
                seed = _draw(folder, folder / "samples" / picture, dataset, result, (arm, tta, name))
                if seed is not None:
                    told.append({"file": picture, "kind": kind, "id": name, "difference": gains[name], "seed": seed})
    write_json(folder / GALLERY, {"format": 1, "arm": arm, "tta": tta, "pictures": told})


def _seeds(result: Mapping[str, Any], arm: str, tta: str) -> list[str]:
    """Of which both an arm and `none` have scores."""
    ours, theirs = (result["arms"][name]["seeds"] for name in (arm, NONE))
    return sorted((seed for seed in ours if tta in ours[seed] and tta in theirs.get(seed, {})), key=int)


def _gains(result: Mapping[str, Any], arm: str, tta: str) -> dict[str, float]:
    """By id the mean over seeds of the difference to `none`."""
    pairs = [
        [result["arms"][name]["seeds"][seed][tta]["images"] for name in (arm, NONE)]
        for seed in _seeds(result, arm, tta)
    ]
    return {name: fmean(ours[name] - theirs[name] for ours, theirs in pairs) for name in (pairs[0][0] if pairs else ())}


def _draw(
    folder: Path, path: Path, dataset: Dataset, result: Mapping[str, Any], what: tuple[str, str, str]
) -> int | None:
    """Draw an image; returns the seed whose contours are shown, None where no seed has both label files."""
    arm, tta, name = what
    for seed in map(int, _seeds(result, arm, tta)):
        files = [
            predictions_folder(cell_folder(folder, one, seed), result["on"], tta)
            / "predictions"
            / f"{file_name(name)}_labels.tif"
            for one in (NONE, arm)
        ]
        if all(file.is_file() for file in files):
            sample = next(dataset[index] for index, record in enumerate(dataset.records) if record.id == name)
            assert sample.labels is not None
            path.parent.mkdir(exist_ok=True)
            before, after = (read_labels(file) for file in files)
            y, x = _window(before, after)
            cut = (one[..., y, x] for one in (sample.image, sample.labels, before, after))
            write_png(path, draw_change(*cut))
            return seed
    return None


def _window(before: Tensor, after: Tensor) -> tuple[slice, slice]:
    """The part of a field, of at most `_SIDE_PX`, in which most pixels changed between nucleus and background."""
    changed = ((before > 0) != (after > 0)).float()[None, None]
    height, width = (min(_SIDE_PX, side) for side in before.shape)
    counts = F.avg_pool2d(changed, (height, width), stride=_STRIDE_PX)[0, 0]
    y, x = divmod(int(counts.argmax()), counts.shape[1])
    return slice(y * _STRIDE_PX, y * _STRIDE_PX + height), slice(x * _STRIDE_PX, x * _STRIDE_PX + width)


def draw_restyled_images(
    folder: Path, model: StyleModel, gate: Gate | None, *, train: Dataset, annotated: Dataset, origin: Mapping[str, Any]
) -> None:
    """Draw the grid of styles and where restyling fails, or leave what a model and a gate of that origin drew before.

    Args:
        folder: Of the protocol.
        model: The style model.
        gate: As in `draw_failures`.
        train: Training images of every modality.
        annotated: Training images with masks.
        origin: What the pictures depend on, for `failures.json`.
    """
    path, made_by = folder / FAILURES, json.loads(json.dumps(origin))
    told = read_json(path, remedy="remove this file, and it is made anew") if path.is_file() else {}
    if told.get("origin") == made_by and "styles" in told:
        return
    styles, failures = _draw_styles(folder, model, train), draw_failures(folder, model, gate, annotated)
    write_json(path, {"format": 1, "origin": made_by, "styles": styles, "pictures": failures})


def _draw_styles(folder: Path, model: StyleModel, train: Dataset) -> list[dict[str, str]]:
    """Draw the grid of styles (paper, figure 3); there is none where some modality has no training image.

    Returns:
        Of each row the modality and the id of its image.
    """
    path = folder / "samples" / STYLE_GRID
    path.unlink(missing_ok=True)
    if not {record.modality for record in train.records}.issuperset(model.modalities):
        return []
    draw_style_grid(path, model, grid_sources(train, model.modalities))
    places = zip(model.modalities, grid_places(train, model.modalities), strict=True)
    return [{"modality": name, "id": train.records[place].id} for name, place in places]


def draw_failures(folder: Path, model: StyleModel, gate: Gate | None, train: Dataset) -> list[dict[str, Any]]:
    """Draw the restyled training images that kept least of their content, one a pair of modalities (paper, figure 5).

    The first images of each modality are moved into every other, without a lift: what the model does is shown. What the gate
    refuses comes first, then what differs least from its surroundings.

    Args:
        folder: Of the protocol; pictures go to `samples/`.
        model: The style model.
        gate: What says how much of the content was kept; None = one without a judge.
        train: Annotated training images.

    Returns:
        Of each picture its file, what was moved where, and what the gate says of it.
    """
    checked = gate or Gate()
    worst: dict[tuple[str, str], tuple[Sample, Sample, Verdict]] = {}
    for sample in _examples(train, model.modalities):
        own = sample.modality or ""
        for target in model.modalities:
            if target != own:
                restyle = StyleTransfer(model, p=1, targets=[target], gate=checked, lift=1)
                generator = rng.generator("failures", sample.id, target)
                made, verdict = next(restyle.attempts(sample, generator))
                if (own, target) not in worst or _kept(verdict) < _kept(worst[own, target][2]):
                    worst[own, target] = (sample, made, verdict)
    chosen = sorted(worst.items(), key=lambda one: (_kept(one[1][2]), one[0]))[:_MOST]
    told = []
    for place, ((source, target), (sample, made, verdict)) in enumerate(chosen):
        picture = f"failure-{place:02d}.png"
        (folder / "samples").mkdir(exist_ok=True)
        assert sample.labels is not None
        write_png(folder / "samples" / picture, draw_restyled(sample.image, made.image, sample.labels))
        about = {"source": source, "target": target, "id": sample.id, "reason": verdict.outcome}
        told.append({"file": picture, **about, "is_used": verdict.is_accepted, "values": dict(verdict.values)})
    return told


def _examples(train: Dataset, modalities: Sequence[str]) -> Iterator[Sample]:
    """The middles of the first images of each modality that have nuclei there."""
    for name in modalities:
        found = 0
        for index in (index for index, record in enumerate(train.records) if record.modality == name):
            whole = train[index]
            y, x = (middle(side, VIEW_PX // 2) for side in whole.size)
            if found < _TRIED and whole.labels is not None and whole.labels[y, x].any():
                found += 1
                yield replace(whole, image=whole.image[:, y, x], labels=whole.labels[y, x], whole=whole.image)


def _kept(verdict: Verdict) -> tuple[bool, float]:
    """How much of its content a restyled image kept, to compare."""
    return verdict.is_accepted, verdict.values.get("separation", 1.0)
