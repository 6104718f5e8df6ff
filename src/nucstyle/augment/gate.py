"""The gate: a restyled image that lost its nuclei, or shows new ones, is not used (paper, figure 5: the known failure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from nucstyle.core.config import build, to_table
from nucstyle.core.protocols import Judge
from nucstyle.core.resize import middle
from nucstyle.core.sample import Sample
from nucstyle.metrics.translation import (
    edge_agreement,
    false_objects,
    lost_nuclei,
    rings,
    separation,
    signed_separation,
)

# H, W = size of the image

ACCEPTED = "accepted"
REASONS = ("nuclei fade or change sign", "single nuclei are gone", "new nuclei appear", "edges are elsewhere")
"""Why an image is refused."""
GIVEN_UP = "given up"
OUTCOMES = (ACCEPTED, *REASONS, GIVEN_UP)
"""What may come of a restyled image; given up = refused as often as it may be drawn, so the original is kept."""
LOOKED_AT_PX = 2048
"""Of larger images the middle is looked at, of at most this side."""
_FOREGROUND = 0.5
_FEW_NUCLEI = 4
"""What is counted for each nucleus is counted as if there were at least so many: a single speck is no failure."""
_MARGIN = 0.05
_LARGE_PX = 100
"""Fields of nuclei of at least this usual area are shown to the judge at half the size: a quarter of the work, and what it takes
for new nuclei then is so more often to a person as well (docs/results.md)."""

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """From where on an image is refused: 0.8 is the limit of `evaluate-style`, the others were set on validation images."""

    min_separation: Annotated[float, Ge(0), Le(1)] = 0.8
    """Least signed separation of nuclei from their rings, where the source has as much; else a little less than the source."""
    max_lost: Annotated[float, Ge(0), Le(1)] = 0.1
    """Greatest share of nuclei that no longer stand out."""
    max_new: Annotated[float, Ge(0)] = 0.5
    """Most objects per nucleus that a judge sees where the masks have none, beyond those it sees in the source."""
    min_edges: Annotated[float, Ge(-1), Le(1)] = 0.5
    """Least agreement of edges, for images without masks."""
    redraws: Annotated[int, Ge(0)] = 2
    """How often another style is drawn before the original is kept."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of one restyled image."""

    outcome: str
    """`accepted`, or one of `REASONS`."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What was measured, as far as it was needed: separation, lost, new, edges."""

    @property
    def is_accepted(self) -> bool:
        """Whether the image may be used."""
        return self.outcome == ACCEPTED


class Gate:
    """Compares a restyled image with its source and, where there are masks, with these.

    With masks: nuclei must still differ from what surrounds them, in the direction that the target modality has, all of them,
    and, where there is a judge, no new ones may appear. Without masks: edges must be where they were. Of the target's masks
    nothing is needed.

    Args:
        judge: A network that says where nuclei are, trained on real images; None = new nuclei are not looked for.
        config: The limits.

    Raises:
        ConfigError: A limit is out of its bounds.
    """

    def __init__(self, judge: Judge | None = None, config: GateConfig | None = None) -> None:
        self.judge = judge
        self.config = build(GateConfig, to_table(config or GateConfig()), where="gate")

    def check(self, before: Sample, after: Tensor, *, signs: tuple[int, int] | None = None) -> Verdict:
        """Judge one restyled image.

        Args:
            before: The source, with labels where it is annotated.
            after: (3, H, W) float32 in [0, 1], what was made of it.
            signs: Of source and target modality: 1 where nuclei are brighter than their surroundings, -1 where darker. None =
                not known, so either direction will do.
        """
        place = tuple(middle(side, LOOKED_AT_PX) for side in before.size)
        source, made = before.image[:, *place], after[:, *place]
        if before.labels is None:
            agreement = edge_agreement(_grey(source), _grey(made))
            is_fine = agreement >= self.config.min_edges
            return Verdict(ACCEPTED if is_fine else REASONS[3], {"edges": agreement})
        return self._with_masks(source, made, before.labels[place].cpu().numpy(), signs)

    def _with_masks(self, source: Tensor, made: Tensor, labels: Labels, signs: tuple[int, int] | None) -> Verdict:
        """What costs most comes last, and only where the rest is fine."""
        before, after, values = _grey(source), _grey(made), dict[str, float]()
        around = rings(labels)
        own, new = signs or tuple(_sign(grey, labels, around) for grey in (before, after))
        kept = signed_separation(after, labels, polarity=new, around=around)
        if kept is not None:
            values["separation"] = kept
            if kept < self.config.min_separation:
                was = signed_separation(before, labels, polarity=own, around=around)
                if was is None or kept < min(self.config.min_separation, was - _MARGIN):
                    return Verdict(REASONS[0], values)
        lost = lost_nuclei(before, after, labels, signs=(own, new), around=around)
        if lost is not None:
            values["lost"] = lost
            if lost > self.config.max_lost:
                return Verdict(REASONS[1], values)
        if self.judge is not None:
            values["new"] = self._new(self.judge, source, made, labels)
            if values["new"] > self.config.max_new:
                return Verdict(REASONS[2], values)
        return Verdict(ACCEPTED, values)

    def _new(self, judge: Judge, source: Tensor, made: Tensor, labels: Labels) -> float:
        """Objects per nucleus that the judge sees beside the masks, beyond those of the source, which is looked at if need be."""
        factor = 2 if _usual_area(labels) >= _LARGE_PX else 1
        counted = false_objects(_foreground(judge, made, factor), labels)
        nuclei = max(_FEW_NUCLEI, counted.nuclei)
        if counted.false <= self.config.max_new * nuclei:
            return counted.false / nuclei
        return (counted.false - false_objects(_foreground(judge, source, factor), labels).false) / nuclei


def _grey(image: Tensor) -> Array:
    values: Array = image.mean(dim=0).cpu().numpy()
    return values


def _sign(grey: Array, labels: Labels, around: Labels) -> int:
    return 1 if (separation(grey, labels, around) or 0.0) >= 0.5 else -1


def _foreground(judge: Judge, image: Tensor, factor: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool, where the judge sees nuclei in the image made smaller by a factor."""
    seen = judge.foreground(_resized(image, [math.ceil(side / factor) for side in image.shape[-2:]]))
    return np.asarray((_resized(seen[0], list(image.shape[-2:]))[0, 0] > _FOREGROUND).cpu().numpy())


def _resized(planes: Tensor, size: list[int]) -> Tensor:
    """(C, H, W) -> (1, C, h, w)."""
    if list(planes.shape[-2:]) == size:
        return planes[None]
    return F.interpolate(planes[None], size, mode="bilinear", antialias=True)


def _usual_area(labels: Labels) -> float:
    """Median area of the nuclei, in pixels; 0 where there is none."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return float(np.median(areas)) if areas.size else 0.0
