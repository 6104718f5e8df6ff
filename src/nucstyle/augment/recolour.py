"""Recolouring by a lookup table: the arm `recolour`, which needs no network.

The idea is that of the first place of DSB 2018 (`remap_color` in selim/aug/functional.py, github.com/selimsef/dsb2018_topcoders):
fluorescence becomes a stain by a curve for each channel, from background through the middle of the nuclei to their maximum.
There the colours are constants and half the maximum is a nucleus; here both are measured without masks: in the source as it
comes, in the target on a real image of that modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from nucstyle.augment.references import FromReference, Recognise, Reference, References
from nucstyle.core.photometry import apart, beyond, guess_polarity, measure_stops
from nucstyle.core.rng import uniform
from nucstyle.core.sample import Applied, Sample

# H, W = size of the image. Three stops: background, objects, extreme.

_BELOW = -0.5
"""The curve goes on so far beyond the background, lighter or darker in all channels alike: the opposite of purple is green."""
_LEAST = 0.05
"""Least distance of the extreme from the objects, where the objects' from the background is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecolourConfig:
    """How far colours may be from those of the reference."""

    lightness: Annotated[float, Ge(0), Le(1)] = 0.04
    """Each of the three colours grows lighter or darker by at most this, of [0, 1]; all channels alike, so grey stays grey."""
    tint: Annotated[float, Ge(0), Le(1)] = 0.1
    """Each channel moves by at most this share of the spread of its colour over the channels."""
    gamma_low: Annotated[float, Gt(0), Le(4)] = 0.6
    """Between background and objects the height is raised to a power from this..."""
    gamma_high: Annotated[float, Gt(0), Le(4)] = 1.0
    """... to this; below 1 dim nuclei grow clearer."""


class Recolour(FromReference):
    """Gives the colours of a reference to background, objects and extreme, and what lies between to what lies between.

    A pixel's height, 0 on the background and 1 on the objects, is its projection on the line between the source's two colours;
    the result is piecewise linear in it. So nuclei stay where they are, edges as sharp as they were, and the sign is the
    target's. The polarity of the source is that of its modality, by name or as recognised; else it is guessed from the image.

    Args:
        references: Measured once from training images.
        config: How far colours may be from those of the reference.
        p: Probability that an image is changed.
        targets: Names of the modalities to choose from; None = all that have references.
        exclude_own: Never choose the modality that the image already has, where that is known.
        recognise: Says the modality of a sample that does not say it itself.

    Raises:
        OptionError: As `FromReference`.
    """

    needs_source = True

    def __init__(
        self,
        references: References,
        config: RecolourConfig = RecolourConfig(),
        *,
        p: float = 0.5,
        targets: Sequence[str] | None = None,
        exclude_own: bool = False,
        recognise: Recognise | None = None,
    ) -> None:
        super().__init__(references, p, targets, exclude_own, recognise)
        self.config = config

    def draw_more(
        self, sample: Sample, own: str | None, target: str, reference: Reference, generator: Generator
    ) -> Mapping[str, object]:
        """`polarity` of the source, `stops` (3, 3): the three colours to give, and `gamma`."""
        known = self.references.polarity.get(own) if own is not None else None
        config = self.config
        return {
            "polarity": known if known is not None else guess_polarity(sample.field),
            "stops": _jittered(reference.stops, self.references.polarity[target], config, generator).tolist(),
            "gamma": uniform(config.gamma_low, config.gamma_high, generator),
        }

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Measure the source and give it the drawn colours."""
        source = measure_stops(sample.field, cast("int", drawn["polarity"]))
        target = torch.tensor(cast("list[list[float]]", drawn["stops"]))
        image = recolour(sample.image, source, target, cast("float", drawn["gamma"]))
        return sample.with_pixels(image, Applied(type(self).__name__, drawn), modality=cast("str", drawn["target"]))


def recolour(image: Tensor, source: Tensor, target: Tensor, gamma: float = 1.0) -> Tensor:
    """The lookup table.

    Args:
        image: (3, H, W) float32 in [0, 1].
        source: (3, 3), the image's colours of background, objects and extreme; the first two differ.
        target: (3, 3), the colours to give them.
        gamma: Exponent of the height between background and objects.

    Returns:
        (3, H, W) float32 in [0, 1].
    """
    background, line = source[0], source[1] - source[0]
    weights = line / line.square().sum()
    height = (weights @ image.flatten(1)) - weights @ background  # (H W,)
    farthest = max(float(weights @ (source[2] - background)), 1 + _LEAST)
    lower = height.clamp(0, 1)
    if gamma != 1:
        lower.clamp_(min=1e-30).log_().mul_(gamma).exp_()
    parts = torch.stack([height.clamp(_BELOW, 0), lower, ((height - 1) / (farthest - 1)).clamp_(0, 1)])
    to_objects, to_extreme = target[1] - target[0], target[2] - target[1]
    steps = torch.stack([to_objects.mean().expand(3), to_objects, to_extreme], dim=1)  # a column for each part
    made = torch.addmm(target[0][:, None], steps, parts)
    return made.clamp_(0, 1).view_as(image)


def _jittered(stops: Tensor, polarity: int, config: RecolourConfig, generator: Generator) -> Tensor:
    """(3, 3) -> (3, 3) in [0, 1], still in the order of the polarity."""
    lightness = (torch.rand((3, 1), generator=generator) * 2 - 1) * config.lightness
    tint = (torch.rand((3, 3), generator=generator) * 2 - 1) * config.tint
    spread = stops.amax(dim=1, keepdim=True) - stops.amin(dim=1, keepdim=True)
    moved = (stops + lightness + tint * spread).clamp(0, 1)
    background, objects = apart(moved[0], moved[1], polarity)
    return torch.stack([background, objects, beyond(moved[2], objects, polarity)])
