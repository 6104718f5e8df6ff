"""Colour jitter: the arm `colour`, which knows nothing of any modality."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor

from nucstyle.augment.base import Augmentation
from nucstyle.core.config import STRICT
from nucstyle.core.rng import chance, integer, uniform
from nucstyle.core.sample import Applied, Sample

# H, W = size of the image

Chance = Annotated[float, Ge(0), Le(1)]
Factor = Annotated[float, Ge(1), Le(16)]
_SHUFFLES = tuple(permutations(range(3)))[1:]
"""The first leaves the channels where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourJitter(Augmentation):
    """Hue, saturation and value, contrast, gamma, order of channels, colour itself and sign are changed at random.

    The parts are applied in this order, each with its own chance; what is drawn is recorded, and nothing else. They are those
    that the first place of DSB 2018 chose from (github.com/selimsef/dsb2018_topcoders), and gamma.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    step: Literal["colour-jitter"] = "colour-jitter"
    p: Chance = 0.5
    """Chance that an image is changed at all; the chances below are those of the parts, given this."""
    hsv_p: Chance = 0.8
    """Chance that hue, saturation and value change."""
    hue_turn: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """The hue turns at most so far, either way; 0.5 is to the opposite colour."""
    saturation: Factor = 1.5
    """Saturation is multiplied by a factor between 1 / this and this, alike on a logarithmic scale."""
    value: Factor = 1.4
    """So is the value, the largest of R, G, B."""
    contrast_p: Chance = 0.5
    """Chance that the distance to the image's mean changes."""
    contrast: Factor = 1.5
    """By a factor between 1 / this and this."""
    gamma_p: Chance = 0.5
    """Chance of a gamma curve."""
    gamma: Factor = 1.6
    """Its exponent lies between 1 / this and this; above 1 darkens."""
    shuffle_p: Chance = 0.2
    """Chance that the channels change places."""
    grey_p: Chance = 0.2
    """Chance that colour goes: each channel becomes the mean of all."""
    invert_p: Chance = 0.2
    """Chance that light becomes dark."""

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Which parts, and how much of each: `hsv` (turn, factor, factor), `contrast`, `gamma`, `channels`, `grey`, `invert`."""
        if not chance(self.p, generator):
            return None
        drawn: dict[str, object] = {}
        if chance(self.hsv_p, generator):
            turn = uniform(-self.hue_turn, self.hue_turn, generator)
            drawn["hsv"] = [turn, _factor(self.saturation, generator), _factor(self.value, generator)]
        if chance(self.contrast_p, generator):
            drawn["contrast"] = _factor(self.contrast, generator)
        if chance(self.gamma_p, generator):
            drawn["gamma"] = _factor(self.gamma, generator)
        if chance(self.shuffle_p, generator):
            drawn["channels"] = list(_SHUFFLES[integer(0, len(_SHUFFLES), generator)])
        drawn |= {name: True for name, p in (("grey", self.grey_p), ("invert", self.invert_p)) if chance(p, generator)}
        return drawn

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """The parts that were drawn; what leaves [0, 1] is clipped after each."""
        image = sample.image
        if "hsv" in drawn:
            image = jitter_hsv(image, *cast("list[float]", drawn["hsv"]))
        if "contrast" in drawn:
            mean = image.mean()
            image = torch.lerp(mean, image, cast("float", drawn["contrast"])).clamp_(0, 1)
        if "gamma" in drawn:
            image = image.log().mul_(cast("float", drawn["gamma"])).exp_().clamp_(0, 1)  # black: exp(-inf) = 0
        if "channels" in drawn:
            image = image[cast("list[int]", drawn["channels"])]
        if "grey" in drawn:
            image = image.mean(dim=0, keepdim=True).expand(3, -1, -1).contiguous()
        if "invert" in drawn:
            image = 1 - image
        return sample.with_pixels(image, Applied(type(self).__name__, drawn))


def jitter_hsv(image: Tensor, turn: float, saturation: float, value: float) -> Tensor:
    """Turn the hue, multiply saturation and value, as they are defined by A. R. Smith (1978, doi 10.1145/965139.807361).

    Args:
        image: (3, H, W) float32 in [0, 1].
        turn: Of the hue; 1 = all the way round.
        saturation: Factor, not negative.
        value: Factor, not negative.

    Returns:
        (3, H, W) float32 in [0, 1]; saturation and value are clipped to [0, 1].
    """
    red, green, blue = image
    largest = image.amax(dim=0)
    spread = largest - image.amin(dim=0)
    safe = spread.clamp(min=1e-12)
    # Hue in sixths of a turn; 0 where there is none.
    hue = torch.where(
        largest == red,
        (green - blue) / safe,
        torch.where(largest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    start = torch.tensor([5.0, 3.0, 1.0])[:, None, None] + (6 * turn) % 6
    sixths = (hue + start).remainder_(6)
    away = torch.minimum(sixths, 4 - sixths).clamp_(0, 1)  # (3, H, W) share of the spread that a channel lacks
    saturated = (spread / largest.clamp(min=1e-12)).mul_(saturation).clamp_(max=1)
    brightest = (largest * value).clamp_(max=1)
    return (brightest - away.mul_(brightest * saturated)).clamp_(0, 1)


def _factor(most: float, generator: Generator) -> float:
    """Between 1 / most and most."""
    return math.exp(uniform(-1, 1, generator) * math.log(most))
