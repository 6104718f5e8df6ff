"""How the published recipes merge what they see in several views: by votes, or by union with the best partner.

Ours averages mask probabilities over the views instead (`tta.py`). Here every view is decided first, then label maps are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nucstyle.segmentation.decode import Decoded

# V = views, H, W = size of the image


class _Nucleus(NamedTuple):
    """A nucleus as one view sees it."""

    view: int
    number: int
    score: float


def votes(found: Sequence[Decoded], *, iou: float = 0.6, least: int = 5) -> Decoded:
    """Greedy groups of nuclei that overlap over the views; pixels with enough votes are kept (deep-retina).

    Args:
        found: Of each view, in the frame of the image.
        iou: Nuclei of two views belong together above this overlap of their masks.
        least: Votes that a pixel needs.

    Returns:
        A nucleus for each group that has such pixels, best first; the score is that of its best view.
    """
    nuclei = sorted(
        (
            _Nucleus(view, number, score)
            for view, one in enumerate(found)
            for number, score in enumerate(one.scores.tolist(), 1)
        ),
        key=lambda one: (-one.score, one.view, one.number),
    )
    size, taken = found[0].labels.shape, set[tuple[int, int]]()
    painted, scores = torch.zeros(size, dtype=torch.int32), []
    for first in nuclei:
        if (first.view, first.number) in taken:
            continue
        own = found[first.view].labels == first.number
        count = torch.zeros(size, dtype=torch.int32)
        for view, one in enumerate(found):
            number = first.number if view == first.view else _partner(own, one.labels, iou)
            if number and (view, number) not in taken:
                taken.add((view, number))
                count += one.labels == number
        pixels = (count >= least) & (painted == 0)
        if bool(pixels.any()):
            scores.append(first.score)
            painted[pixels] = len(scores)
    return Decoded(painted, torch.tensor(scores), any(one.is_capped for one in found))


def union(found: Sequence[Decoded], *, iou: float = 0.1) -> Decoded:
    """Nuclei of the first view, united with their best partner in the others; those without one are dropped (mirzaev).

    Args:
        found: Of each view, in the frame of the image; the first is the plain one.
        iou: Partners overlap by more than this.

    Returns:
        The nuclei that all views agree on, in the order of the first view.
    """
    plain, *others = found
    painted, scores = torch.zeros_like(plain.labels), []
    for number, score in enumerate(plain.scores.tolist(), 1):
        own = plain.labels == number
        partners = [_partner(own, other.labels, iou) for other in others]
        if not all(partners):
            continue
        whole = own.clone()
        for other, partner in zip(others, partners, strict=True):
            whole |= other.labels == partner
        whole &= painted == 0
        if bool(whole.any()):
            scores.append(score)
            painted[whole] = len(scores)
    return Decoded(painted, torch.tensor(scores), any(one.is_capped for one in found))


def _partner(own: Tensor, labels: Tensor, iou: float) -> int:
    """The number of the nucleus of a label map that overlaps a mask most, 0 if none reaches the IoU."""
    inside = torch.bincount(labels[own].long(), minlength=1)
    inside[0] = 0
    if not bool(inside.any()):
        return 0
    areas = torch.bincount(labels.flatten().long(), minlength=len(inside))[: len(inside)]
    overlap = inside / (areas + int(own.sum()) - inside).clamp(min=1)
    best = int(overlap.argmax())
    return best if float(overlap[best]) > iou else 0
