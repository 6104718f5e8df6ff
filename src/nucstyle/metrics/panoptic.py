"""Precision, recall and F1 at an IoU above 0.5, and the panoptic quality, which multiplies F1 by the mean IoU."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nucstyle.metrics.matching import Overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Panoptic:
    """The measures that count a nucleus as found when its IoU is strictly greater than 0.5; each in [0, 1].

    Without nuclei in either map all are 1.0; with nuclei in only one of the two all are 0.0.
    """

    precision: float
    """TP / (TP + FP), the share of predicted nuclei that are right."""
    recall: float
    """TP / (TP + FN), the share of true nuclei that were found."""
    f1: float
    """2 TP / (2 TP + FP + FN)."""
    sq: float
    """Segmentation quality: the mean IoU of the matches; 0.0 if nothing matches."""

    @property
    def rq(self) -> float:
        """Recognition quality: TP / (TP + FP / 2 + FN / 2), another name for F1."""
        return self.f1

    @property
    def pq(self) -> float:
        """Panoptic quality: SQ times RQ."""
        return self.sq * self.rq


def panoptic(overlap: Overlap) -> Panoptic:
    """Precision, recall, F1 and panoptic quality (Kirillov et al. 2019, Panoptic Segmentation, section 4)."""
    if not overlap.truth_areas.size and not overlap.predicted_areas.size:
        return Panoptic(precision=1.0, recall=1.0, f1=1.0, sq=1.0)
    matched = overlap.pair_iou[overlap.above(1, 2)]
    if not matched.size:
        return Panoptic(precision=0.0, recall=0.0, f1=0.0, sq=0.0)
    n_true, n_predicted = overlap.truth_areas.size, overlap.predicted_areas.size
    return Panoptic(
        precision=matched.size / n_predicted,
        recall=matched.size / n_true,
        f1=2 * matched.size / (n_true + n_predicted),
        sq=math.fsum(matched) / matched.size,
    )
