"""Geometry: image and labels move together; labels are never interpolated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, cast

from annotated_types import Ge, Gt, Le
from torch import Generator

from nucstyle.augment.base import Augmentation
from nucstyle.core.errors import ConfigError
from nucstyle.core.labels import relabel
from nucstyle.core.resize import resize_image, resize_labels
from nucstyle.core.rng import chance, integer, uniform
from nucstyle.core.sample import Applied, Sample
from nucstyle.core.symmetry import Symmetry


@dataclass(frozen=True, slots=True, kw_only=True)
class CropConfig:
    """How training crops are cut out of fields."""

    size_px: Annotated[int, Ge(16)] = 256
    """Side of the square crop."""
    zoom_low: Annotated[float, Gt(0)] = 0.6
    """Least magnification; a field smaller than the crop is magnified further until it fills it."""
    zoom_high: Annotated[float, Gt(0)] = 1.6
    """Greatest magnification."""
    native: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the crops that are cut at the field's own magnification."""

    def __post_init__(self) -> None:
        if self.zoom_low > self.zoom_high:
            msg = f"zoom_low {self.zoom_low} is above zoom_high {self.zoom_high}; exchange them"
            raise ConfigError(msg)


class RandomCrop(Augmentation):
    """A square at a random place and magnification, turned and mirrored at random.

    Args:
        config: Size and magnification.
    """

    def __init__(self, config: CropConfig) -> None:
        self.config = config

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object]:
        """Place, side before magnification, and symmetry."""
        height, width = sample.size
        zoom = uniform(self.config.zoom_low, self.config.zoom_high, generator)
        zoom = 1.0 if chance(self.config.native, generator) else zoom
        side = min(max(1, round(self.config.size_px / zoom)), height, width)
        return {
            "top": integer(0, height - side + 1, generator),
            "left": integer(0, width - side + 1, generator),
            "side": side,
            "quarter_turns": integer(0, 4, generator),
            "mirrored": chance(0.5, generator),
        }

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Cut, magnify, move; the nuclei that are left are numbered anew."""
        top, left, side = (cast("int", drawn[name]) for name in ("top", "left", "side"))
        symmetry = Symmetry(cast("int", drawn["quarter_turns"]), cast("bool", drawn["mirrored"]))
        rows, columns = slice(top, top + side), slice(left, left + side)
        size = (self.config.size_px, self.config.size_px)
        image = symmetry.apply(resize_image(sample.image[:, rows, columns], size)).contiguous()
        labels = None
        if sample.labels is not None:
            labels = relabel(symmetry.apply(resize_labels(sample.labels[rows, columns], size)))
        history = (*sample.history, Applied(type(self).__name__, drawn))
        return replace(sample, image=image, labels=labels, history=history, whole=sample.field)
