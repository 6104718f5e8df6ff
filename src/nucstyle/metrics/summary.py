"""From the scores of single images to the scores of a data set, as result.json holds them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from nucstyle.core.errors import OptionError
from nucstyle.metrics.dsb import THRESHOLDS, ImageScore
from nucstyle.metrics.objects import SIZE_GROUPS_PX

_MEANS = ("f1", "precision", "recall", "pq", "sq", "rq", "aji")


def summarise(
    scores: Mapping[str, ImageScore], modalities: Mapping[str, str | None], largest: str | None
) -> dict[str, Any]:
    """Sum up a data set.

    `dsb_score`, each entry of `dsb_ap`, `f1`, `precision`, `recall`, `pq`, `sq`, `rq` and `aji` are means over images:
    an image with three nuclei weighs as much as one with three hundred. `splits` and `merges` are sums over images.
    `recall70_by_size` is pooled over nuclei: `{"recall", "n"}` by group of area, n the number of true nuclei.
    `minority` is every modality but the largest; it and each of `modalities` have all these measures, too. An image of
    unknown modality counts in the whole only.

    Args:
        scores: By image id.
        modalities: The modality of each image, None where unknown; may name further images.
        largest: The modality with the most images in train; None if unknown, and then no image is in the minority.

    Returns:
        Plain values for JSON with sorted ids and names, the same for any order of `scores`. Every number is finite;
        what has no image (or, in `recall70_by_size`, no nucleus) is None.

    Raises:
        OptionError: An image has no entry in `modalities`.
    """
    unnamed = sorted(set(scores) - set(modalities))
    if unnamed:
        msg = f"no modality given for image {unnamed[0]!r}; name it in the manifest, or pass None where it is unknown"
        raise OptionError(msg)
    known = {image: name for image in sorted(scores) if (name := modalities[image]) is not None}
    minority = [image for image, name in known.items() if largest is not None and name != largest]
    return {
        **_measures(scores, scores),
        "minority": _measures(scores, minority),
        "modalities": {
            name: _measures(scores, [image for image in known if known[image] == name])
            for name in sorted(set(known.values()))
        },
        "images": {image: scores[image].dsb_score for image in sorted(scores)},
    }


def _measures(scores: Mapping[str, ImageScore], images: Collection[str]) -> dict[str, Any]:
    """Every measure of a group of images."""
    found = [scores[image] for image in images]
    return {
        "dsb_score": _mean([score.dsb_score for score in found]),
        "n_images": len(found),
        "dsb_ap": {f"{t:.2f}": _mean([score.dsb_ap[f"{t:.2f}"] for score in found]) for t in THRESHOLDS},
        **{name: _mean([getattr(score, name) for score in found]) for name in _MEANS},
        "recall70_by_size": {name: _pooled_recall(found, name) for name in SIZE_GROUPS_PX},
        "splits": sum(score.splits for score in found),
        "merges": sum(score.merges for score in found),
    }


def _mean(values: Collection[float]) -> float | None:
    """The mean, rounded once (fsum), so that no order of the values changes its last bit; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def _pooled_recall(scores: Collection[ImageScore], group: str) -> dict[str, Any]:
    found = sum(score.recall70_by_size[group].found for score in scores)
    n = sum(score.recall70_by_size[group].n for score in scores)
    return {"recall": found / n if n else None, "n": n}
