"""The steps that published training procedures are made of, each with its numbers, so that a recipe can list them.

Sources: `deep-retina` = github.com/Lopezurrutia/DSB_2018, `mirzaev` = github.com/mirzaevinom/data_science_bowl_2018, the two
recipes that the paper trains Mask R-CNN with (section 2.4). Each step is a config and an augmentation in one: TOML in, samples
through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from scipy.ndimage import binary_fill_holes, find_objects
from torch import Generator, Tensor

from nucstyle.augment.base import Augmentation
from nucstyle.augment.colour import Chance, ColourJitter
from nucstyle.core.clahe import ClaheConfig, enhance
from nucstyle.core.config import STRICT, told_apart_by
from nucstyle.core.labels import relabel
from nucstyle.core.resize import resize_image, resize_labels
from nucstyle.core.rng import chance, integer, uniform
from nucstyle.core.sample import Applied, Sample
from nucstyle.core.symmetry import Symmetry

# H, W = size of an image

Side = Annotated[int, Ge(16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FillHoles(Augmentation):
    """Holes in the masks of nuclei are filled (mirzaev)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["fill-holes"] = "fill-holes"

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Nothing is drawn."""
        return {}

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Holes become part of the nucleus around them, where no other nucleus is in them."""
        if sample.labels is None:
            return sample
        labels = sample.labels.numpy().copy()
        for number, place in enumerate(find_objects(labels), start=1):
            if place is not None:
                part = labels[place]
                part[binary_fill_holes(part == number) & (part == 0)] = number
        return _changed(self, sample, sample.image, torch.from_numpy(labels), drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlarge(Augmentation):
    """A field is enlarged at random until it is at least as large as the crop, and drawn out along one axis (deep-retina)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["enlarge"] = "enlarge"
    side_px: Side = 512
    """The factor is drawn from the one that brings the shorter side to this..."""
    zoom_high: Annotated[float, Gt(0)] = 1.2
    """... up to this, or..."""
    relative_high: Annotated[float, Ge(1)] = 1.5
    """... up to so many times the least, whichever is more."""
    aspect_high: Annotated[float, Ge(1)] = 1.3
    """One axis is drawn out by a factor from 1 to this."""

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Size after the change."""
        least = self.side_px / min(sample.size)
        zoom = uniform(least, max(self.zoom_high, self.relative_high * least), generator)
        longer, axis = uniform(1.0, self.aspect_high, generator), integer(0, 2, generator)
        factors = [zoom * (longer if axis == number else 1.0) for number in (0, 1)]
        return {
            "size": [max(self.side_px, round(side * factor)) for side, factor in zip(sample.size, factors, strict=True)]
        }

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Resize; labels by nearest neighbour."""
        height, width = cast("list[int]", drawn["size"])
        labels = None if sample.labels is None else resize_labels(sample.labels, (height, width))
        return _changed(self, sample, resize_image(sample.image, (height, width)), labels, drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Augmentation):
    """The longer side is brought to a size, the shorter one filled up with black (mirzaev)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["fit"] = "fit"
    side_px: Side = 512

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Nothing is drawn."""
        return {}

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Resize, then pad at all sides."""
        factor = self.side_px / max(sample.size)
        height, width = (max(1, round(side * factor)) for side in sample.size)
        top, left = (self.side_px - height) // 2, (self.side_px - width) // 2
        edges = (left, self.side_px - width - left, top, self.side_px - height - top)
        image = F.pad(resize_image(sample.image, (height, width)), edges)
        labels = None if sample.labels is None else F.pad(resize_labels(sample.labels, (height, width)), edges)
        return _changed(self, sample, image, labels, drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Augmentation):
    """The field is turned and magnified about its middle, its size stays (both: rotation; mirzaev: magnification too)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["turn"] = "turn"
    p: Chance = 0.5
    degrees: Annotated[float, Ge(0), Le(180)] = 10.0
    """At most so far, either way."""
    zoom_low: Annotated[float, Gt(0)] = 1.0
    zoom_high: Annotated[float, Gt(0)] = 1.0

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Angle and magnification."""
        if not chance(self.p, generator):
            return None
        return {
            "degrees": uniform(-self.degrees, self.degrees, generator),
            "zoom": uniform(self.zoom_low, self.zoom_high, generator),
        }

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Pixels between others are interpolated, labels are not; what comes in from outside is black."""
        angle, zoom = math.radians(cast("float", drawn["degrees"])), cast("float", drawn["zoom"])
        height, width = sample.size
        image = sample.image
        if zoom < 1:  # smooth first what gets smaller
            small = (max(1, round(height * zoom)), max(1, round(width * zoom)))
            image = resize_image(resize_image(image, small), (height, width))
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        # In units of half the image, in which x and y are not alike.
        matrix = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
        grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
        turned = F.grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0].clamp(0, 1)
        labels = None
        if sample.labels is not None:
            numbers = sample.labels[None, None].double()  # exact for every int32
            labels = F.grid_sample(numbers, grid.double(), mode="nearest", align_corners=False)[0, 0].to(torch.int32)
        return _changed(self, sample, turned, labels, drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Augmentation):
    """A square at a random place (both); a field that is smaller stays whole in that direction."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["cut"] = "cut"
    p: Chance = 1.0
    side_px: Side = 512

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Place."""
        if not chance(self.p, generator):
            return None
        top, left = (integer(0, max(0, side - self.side_px) + 1, generator) for side in sample.size)
        return {"top": top, "left": left}

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Cut."""
        top, left = cast("int", drawn["top"]), cast("int", drawn["left"])
        place = (slice(top, top + self.side_px), slice(left, left + self.side_px))
        labels = None if sample.labels is None else sample.labels[place]
        cut = _changed(self, sample, sample.image[:, *place].contiguous(), labels, drawn)
        return replace(cut, whole=sample.field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip(Augmentation):
    """Each mirror with a chance of one half, and quarter turns (both)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["flip"] = "flip"
    turn_p: Chance = 0.5
    """Chance of one to three quarter turns."""

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Which symmetry."""
        mirrored, upside_down = chance(0.5, generator), chance(0.5, generator)
        turns = integer(1, 4, generator) if chance(self.turn_p, generator) else 0
        # Up-down is left-right and a half turn.
        return {"quarter_turns": (turns + 2 * upside_down) % 4, "mirrored": mirrored != upside_down}

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Move, exactly."""
        symmetry = Symmetry(cast("int", drawn["quarter_turns"]), cast("bool", drawn["mirrored"]))
        labels = None if sample.labels is None else symmetry.apply(sample.labels)
        return _changed(self, sample, symmetry.apply(sample.image).contiguous(), labels, drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftChannels(Augmentation):
    """Something is added to each channel (deep-retina)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["shift-channels"] = "shift-channels"
    limit: Annotated[float, Ge(0), Le(255)] = 15.0
    """At most so much, either way, of 255."""

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """A number a channel, of 255."""
        return {"shift": [uniform(-self.limit, self.limit, generator) for _ in range(3)]}

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Add; what leaves [0, 1] is clipped."""
        shift = torch.tensor(cast("list[float]", drawn["shift"]))[:, None, None] / 255
        return sample.with_pixels((sample.image + shift).clamp(0, 1), Applied(type(self).__name__, drawn))


Step = Annotated[FillHoles | Enlarge | Fit | Turn | Cut | Flip | ShiftChannels | ColourJitter, told_apart_by("step")]
"""What a recipe may list; told apart by `step`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhance(Augmentation):
    """The contrast of a dark field is enhanced, as prediction does it where a segmenter is trained so; see `core.clahe`."""

    config: ClaheConfig = field(default_factory=ClaheConfig)
    """When and how much."""

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Nothing is drawn."""
        return {}

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Of the whole field: of a crop, the histograms would be others."""
        return sample.with_pixels(enhance(sample.image, self.config), Applied(type(self).__name__, drawn))


def mosaic(samples: tuple[Sample, Sample, Sample, Sample], side_px: int) -> Sample:
    """Four fields side by side, two and two, each brought to half the side (mirzaev).

    A field that is not square keeps its shape: it is made to cover its quarter, and its middle is shown.

    Args:
        samples: Upper left, upper right, lower left, lower right; training images all.
        side_px: Of the whole, even.

    Returns:
        (3, side_px, side_px) with the labels of all where all are annotated, and their modality where they are of one.
    """
    half = side_px // 2
    image = torch.zeros(3, side_px, side_px)
    labels = torch.zeros(side_px, side_px, dtype=torch.int32)
    first = 0
    for number, sample in enumerate(samples):
        rows, columns = (slice(half * k, half * (k + 1)) for k in divmod(number, 2))
        factor = half / min(sample.size)
        size = max(half, round(sample.size[0] * factor)), max(half, round(sample.size[1] * factor))
        middle = tuple(slice((side - half) // 2, (side - half) // 2 + half) for side in size)
        image[:, rows, columns] = resize_image(sample.image, size)[:, *middle]
        if sample.labels is not None:
            own = resize_labels(sample.labels, size)[middle]
            labels[rows, columns] = torch.where(own > 0, own + first, 0)
            first += int(own.max())
    annotated = all(sample.labels is not None for sample in samples)
    modalities = {sample.modality for sample in samples}
    return replace(
        samples[0],
        image=image,
        labels=relabel(labels) if annotated else None,
        modality=samples[0].modality if len(modalities) == 1 else None,
        whole=None,
        history=(*samples[0].history, Applied("mosaic", {"ids": [sample.id for sample in samples]})),
    )


def _changed(
    step: Augmentation, sample: Sample, image: Tensor, labels: Tensor | None, drawn: Mapping[str, object]
) -> Sample:
    """The sample with other pixels; the nuclei that are left are numbered anew."""
    history = (*sample.history, Applied(type(step).__name__, drawn))
    return replace(sample, image=image, labels=None if labels is None else relabel(labels), history=history)
