"""What is measured of an image to tell its imaging modality: its hue, saturation and value (paper, section 2.2).

Two sets of features:

- `chroma` (default): hue and saturation taken together as a point in the plane of colours, so that the hue of a grey pixel
  does not count and red has no seam at 0 = 1, and the median and spread of the value. K-means divides DSB 2018 without cutting
  fluorescence in two (docs/results.md has the table of alternatives).
- `hsv`: means and standard deviations of hue, saturation and value as plain numbers, the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from skimage.color import rgb2hsv
from torch import Tensor

from nucstyle.core.errors import ImageError

Array = npt.NDArray[np.float64]
Features = Literal["chroma", "hsv"]
FEATURES: tuple[Features, ...] = ("chroma", "hsv")
"""Names for `--features`."""
N_FEATURES: dict[Features, int] = {"chroma": 5, "hsv": 6}

_TAIL = 0.05
"""Share of the pixels at either end of the grey scale that is taken for objects when colours are put into words."""
_MOST_PX = 128 * 128
"""Larger images are thinned to a regular grid of about so many pixels: means and medians need no more."""
_CHROMA_SCALE, _SPREAD_SCALE, _CONTRAST_SCALE = 4.0, 2.0, 0.5
"""Chroma of stains is small beside the range of the value, and contrast differs from field to field of one modality; from the
middle of the plateau found on train + validation of DSB 2018."""
_POOL_PX, _WINDOW = 4, 17
"""Objects are compared with surroundings of 4 * 17 = 68 px, some nuclei wide."""
_DIGITS = 6
"""Features are rounded to so many decimals: the last bits of a sum depend on the processor."""


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """What one image contributes to the discovery of modalities; no masks are needed and the size does not matter."""

    features: Array
    """(D,): `chroma` (5,) 4 x mean chroma along red and along green - blue, 2 x root of its standard deviation, median value,
    half the standard deviation of the value; `hsv` (6,) means of hue, saturation and value, then their standard deviations."""
    background: Array
    """(3,) median RGB in [0, 1]: most pixels of a nuclei image are background."""
    darkest: Array
    """(3,) mean RGB of the darkest twentieth of the pixels."""
    brightest: Array
    """(3,) mean RGB of the brightest twentieth of the pixels."""
    skew: float
    """In [-1, 1]: above 0 if objects are brighter than their surroundings; the larger, the clearer. 0 = nothing to see."""


def measure(image: Tensor, *, features: Features = "chroma") -> ImageStatistics:
    """Measure one image.

    Args:
        image: (3, H, W) float32 in [0, 1].
        features: Which features to take.

    Returns:
        Its statistics; a constant image has spreads and skew 0.

    Raises:
        ImageError: Of another shape or type, or a value is outside [0, 1] or not a number.
    """
    _check(image)
    image = image.detach().cpu().float()
    pixels = _thinned(image).flatten(1)
    tails = _tails(pixels)
    return ImageStatistics(
        features=(_chroma(pixels) if features == "chroma" else _hsv(pixels)).round(_DIGITS),
        background=tails[0],
        darkest=tails[1],
        brightest=tails[2],
        # Each alone is wrong now and then: the first where tissue fills the field, the second where nothing is in it.
        skew=round((tails[3] + _local_skew(image)) / 2, _DIGITS),
    )


def _check(image: Tensor) -> None:
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        got = f"{tuple(image.shape)} of {image.dtype}" if hasattr(image, "shape") else type(image).__name__
        msg = (
            f"an image is a float tensor of shape (3, H, W), as open_dataset gives it; got {type(image).__name__} {got}"
        )
        raise ImageError(msg)
    low, high = (float(value) for value in image.aminmax())
    if not (low >= 0 and high <= 1):  # false for NaN as well
        msg = f"an image has values in [0, 1], got {low:g} to {high:g}; divide 8-bit values by 255"
        raise ImageError(msg)


def _thinned(image: Tensor) -> Tensor:
    stride = math.ceil(math.sqrt(image[0].numel() / _MOST_PX))
    return image[:, ::stride, ::stride].contiguous() if stride > 1 else image


def _chroma(pixels: Tensor) -> Array:
    """(3, N) -> (5,): saturation times value at the angle of the hue, as a vector, and the value."""
    red, green, blue = pixels
    along_red = red - (green + blue) * 0.5
    across = (green - blue) * (math.sqrt(3) / 2)
    red_variance, red_mean = torch.var_mean(along_red, correction=0)
    across_variance, across_mean = torch.var_mean(across, correction=0)
    # The root of the spread: a few purple nuclei on a grey field should tell it from a field without any colour.
    spread = float(red_variance + across_variance) ** 0.25
    value = pixels.amax(dim=0)
    return np.array(
        [
            _CHROMA_SCALE * float(red_mean),
            _CHROMA_SCALE * float(across_mean),
            _SPREAD_SCALE * spread,
            float(value.median()),
            _CONTRAST_SCALE * float(value.std(correction=0)),
        ]
    )


def _hsv(pixels: Tensor) -> Array:
    """(3, N) -> (6,)."""
    hsv = rgb2hsv(pixels.T.double().numpy())
    return np.concatenate([hsv.mean(axis=0), hsv.std(axis=0)])


def _tails(pixels: Tensor) -> tuple[Array, Array, Array, float]:
    """(3, N) -> median, darkest and brightest RGB, and (mean - median) / deviation of the grey values, in [-1, 1]."""
    colours = pixels.numpy()
    grey = colours.mean(axis=0)
    tail, middle = max(1, round(_TAIL * grey.size)), grey.size // 2
    ordered = np.partition(grey, sorted({tail - 1, middle, grey.size - tail}))
    median = float(ordered[middle])
    darkest, brightest = (colours[:, part].mean(axis=1) for part in (grey <= ordered[tail - 1], grey >= ordered[-tail]))
    deviation = float(grey.std(dtype=np.float64))
    skew = (float(grey.mean(dtype=np.float64)) - median) / deviation if deviation > 1e-6 else 0.0
    background = np.partition(colours, middle, axis=1)[:, middle]
    return background.astype(float), darkest.astype(float), brightest.astype(float), float(np.clip(skew, -1, 1))


def _local_skew(image: Tensor) -> float:
    """Skewness of the grey values against their surroundings, squashed to (-1, 1): few bright or few dark spots?"""
    pool = min(_POOL_PX, *image.shape[1:])
    grey = F.avg_pool2d(image.mean(dim=0)[None, None], pool)
    around = grey
    for window, padding in (((_WINDOW, 1), (_WINDOW // 2, 0)), ((1, _WINDOW), (0, _WINDOW // 2))):
        around = F.avg_pool2d(around, window, stride=1, padding=padding, count_include_pad=False)
    contrast = (grey - around).double()
    contrast -= contrast.mean()
    deviation = float(contrast.square().mean().sqrt())
    if deviation < 1e-6:
        return 0.0
    skewness = float((contrast**3).mean()) / deviation**3
    return skewness / (1 + abs(skewness))
