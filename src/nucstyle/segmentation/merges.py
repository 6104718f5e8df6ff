"""How the published recipes merge what they see in several views: by votes, or by union with the best partner.

Ours averages mask probabilities over the views instead (`tta.py`). Here every view is decided first, then label maps are merged;
nuclei are shaped and painted after that (`decode.paint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.ndimage import find_objects
from torch import Tensor

from nucstyle.segmentation.decode import Decoded, Mask

# V = views, H, W = size of the image


class _Nucleus(NamedTuple):
    """A nucleus as one view sees it."""

    view: int
    number: int
    score: float


class _View:
    """A label map with the place and the area of each of its nuclei, so that no nucleus costs a pass over the image."""

    def __init__(self, decoded: Decoded) -> None:
        self.labels = decoded.labels
        self.scores: list[float] = decoded.scores.tolist()
        self.places: list[tuple[slice, slice]] = find_objects(decoded.labels.numpy(), len(self.scores))
        self.areas = torch.bincount(decoded.labels.flatten(), minlength=len(self.scores) + 1)

    def own(self, number: int, place: tuple[slice, slice]) -> Tensor:
        """The pixels of a nucleus within a part of the image, bool."""
        return self.labels[place] == number

    def partner(self, other: _View, number: int, iou: float) -> int:
        """The nucleus of this view that overlaps a nucleus of another view most; 0 if none overlaps by more than the IoU."""
        place = other.places[number - 1]
        inside = torch.bincount(self.labels[place][other.own(number, place)], minlength=len(self.areas))
        inside[0] = 0
        overlap = inside / (self.areas + other.areas[number] - inside).clamp(min=1)
        best = int(overlap.argmax())
        return best if float(overlap[best]) > iou else 0


def votes(found: Sequence[Decoded], *, iou: float = 0.6, least: int = 5) -> list[Mask]:
    """Greedy groups of nuclei that overlap over the views; pixels with enough votes are kept (deep-retina).

    Args:
        found: Of each view, in the frame of the image.
        iou: Nuclei of two views belong together above this overlap of their masks.
        least: Votes that a pixel needs.

    Returns:
        A nucleus for each group that has such pixels, best first; the score is that of its best view. They may overlap.
    """
    views = [_View(one) for one in found]
    nuclei = [
        _Nucleus(number, index, score)
        for number, view in enumerate(views)
        for index, score in enumerate(view.scores, start=1)
    ]
    taken, kept = set[tuple[int, int]](), []
    for first in sorted(nuclei, key=lambda one: (-one.score, one.view, one.number)):
        if (first.view, first.number) in taken:
            continue
        group = []
        for number, view in enumerate(views):
            mine = number == first.view
            partner = first.number if mine else view.partner(views[first.view], first.number, iou)
            if partner and (number, partner) not in taken:
                group.append((number, partner))
        taken.update(group)
        place = _around([views[number].places[partner - 1] for number, partner in group])
        count = torch.stack([views[number].own(partner, place) for number, partner in group]).sum(dim=0)
        if bool((count >= least).any()):
            kept.append(Mask(*place, count >= least, first.score))
    return kept


def union(found: Sequence[Decoded], *, iou: float = 0.1) -> list[Mask]:
    """Nuclei of the first view, united with their best partner in the others; those without one are dropped (mirzaev).

    Args:
        found: Of each view, in the frame of the image; the first is the plain one.
        iou: Partners overlap by more than this.

    Returns:
        The nuclei that all views agree on, in the order of the first view. They may overlap.
    """
    plain, *others = (_View(one) for one in found)
    kept = []
    for number, score in enumerate(plain.scores, start=1):
        partners = [other.partner(plain, number, iou) for other in others]
        if not all(partners):
            continue
        group = [(plain, number), *zip(others, partners, strict=True)]
        place = _around([view.places[index - 1] for view, index in group])
        whole = torch.stack([view.own(index, place) for view, index in group]).any(dim=0)
        kept.append(Mask(*place, whole, score))
    return kept


def _around(places: Sequence[tuple[slice, slice]]) -> tuple[slice, slice]:
    """The smallest part of the image that holds all of them."""
    rows, columns = (
        slice(min(place[axis].start for place in places), max(place[axis].stop for place in places)) for axis in (0, 1)
    )
    return rows, columns
