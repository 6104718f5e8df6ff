"""What is measured of an image to tell its imaging modality: hue, saturation and value (paper, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2hsv
from torch import Tensor

Array = npt.NDArray[np.float64]
_TAIL = 0.05
"""Share of the pixels at either end of the grey scale that is taken for objects when colours are put into words."""


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """What one image contributes to the discovery of modalities; no masks are needed and the size does not matter."""

    features: Array
    """(6,) means of hue, saturation and value, then their standard deviations, all in [0, 1]."""
    background: Array
    """(3,) median RGB in [0, 1]: most pixels of a nuclei image are background."""
    darkest: Array
    """(3,) mean RGB of the darkest twentieth of the pixels."""
    brightest: Array
    """(3,) mean RGB of the brightest twentieth of the pixels."""
    skew: float
    """Mean minus median of the grey values, in units of their standard deviation: above 0 if objects are brighter."""


def measure(image: Tensor) -> ImageStatistics:
    """Measure one image.

    Args:
        image: (3, H, W) float32 in [0, 1].

    Returns:
        Its statistics; a constant image has deviations and skew 0.
    """
    pixels = image.permute(1, 2, 0).reshape(-1, 3).double().cpu().numpy()
    hsv = rgb2hsv(pixels[None])[0]
    grey = pixels.mean(axis=1)
    order = np.argsort(grey, kind="stable")
    tail = max(1, round(_TAIL * len(grey)))
    deviation = float(grey.std())
    skew = float(grey.mean() - np.median(grey)) / deviation if deviation > 0 else 0.0
    return ImageStatistics(
        features=np.concatenate([hsv.mean(axis=0), hsv.std(axis=0)]),
        background=np.median(pixels, axis=0),
        darkest=pixels[order[:tail]].mean(axis=0),
        brightest=pixels[order[-tail:]].mean(axis=0),
        skew=skew,
    )
