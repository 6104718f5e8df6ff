"""The score of the 2018 Data Science Bowl, and beside it everything else that is measured on one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from numpy.typing import ArrayLike

from nucstyle.metrics.aji import aggregated_jaccard
from nucstyle.metrics.matching import Counts, overlap
from nucstyle.metrics.objects import Found, count_merges, count_splits, recall70_by_size
from nucstyle.metrics.panoptic import panoptic

_TWENTIETHS = range(10, 20)
THRESHOLDS = tuple(k / 20 for k in _TWENTIETHS)
"""0.50, 0.55, ..., 0.95: the thresholds of the IoU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """How well the nuclei of one image were segmented. Every measure is finite and, unless it is a count, in [0, 1]."""

    dsb_score: float
    """The mean of `dsb_ap` over the thresholds."""
    dsb_ap: Mapping[str, float]
    """TP / (TP + FP + FN) by threshold: "0.50", "0.55", ..., "0.95"."""
    counts: tuple[Counts, ...]
    """Found, invented and missed nuclei, one entry for each of `THRESHOLDS`."""
    f1: float
    """2 TP / (2 TP + FP + FN) at an IoU above 0.5."""
    precision: float
    """TP / (TP + FP) at an IoU above 0.5."""
    recall: float
    """TP / (TP + FN) at an IoU above 0.5."""
    pq: float
    """Panoptic quality, SQ times RQ."""
    sq: float
    """Mean IoU of the matches at an IoU above 0.5."""
    rq: float
    """Recognition quality, equal to `f1`."""
    aji: float
    """Aggregated Jaccard index."""
    recall70_by_size: Mapping[str, Found]
    """True nuclei found at an IoU above 0.7, by area."""
    splits: int
    """True nuclei that were cut in pieces."""
    merges: int
    """Predicted nuclei that lump several true ones."""


def dsb_score(truth: ArrayLike, predicted: ArrayLike) -> ImageScore:
    """Score one predicted label map.

    A pair of nuclei matches at the threshold t if its IoU is strictly greater than t, as in the organisers' code
    (Caicedo et al. 2019, evaluation.py): an IoU of exactly t is a miss. The IoU is compared in whole numbers, without
    rounding.

    Empty maps: if neither map has a nucleus, every measure in [0, 1] is 1.0 by our definition (the organisers' formula
    gives 0/0); if only one of them has nuclei, every such measure is 0.0. The counts are what they are.

    Args:
        truth: (H, W) of any integer type, 0 = background, any other number = one nucleus, gaps allowed.
        predicted: (H, W), likewise.

    Returns:
        All measures; none depends on how the nuclei are numbered.

    Raises:
        ImageError: The shapes differ, or a map is not two-dimensional, not of integers, or has negative numbers.
    """
    table = overlap(truth, predicted)
    counts = tuple(table.count(k, 20) for k in _TWENTIETHS)
    precisions = [_average_precision(entry) for entry in counts]
    quality = panoptic(table)
    return ImageScore(
        dsb_score=math.fsum(precisions) / len(precisions),
        dsb_ap={f"{t:.2f}": value for t, value in zip(THRESHOLDS, precisions, strict=True)},
        counts=counts,
        f1=quality.f1,
        precision=quality.precision,
        recall=quality.recall,
        pq=quality.pq,
        sq=quality.sq,
        rq=quality.rq,
        aji=aggregated_jaccard(table),
        recall70_by_size=recall70_by_size(table),
        splits=count_splits(table),
        merges=count_merges(table),
    )


def _average_precision(counts: Counts) -> float:
    """TP / (TP + FP + FN), the competition's name for it; 1.0 where there is no nucleus at all."""
    total = counts.true_positives + counts.false_positives + counts.false_negatives
    return counts.true_positives / total if total else 1.0
