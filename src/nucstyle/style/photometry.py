"""Which colours an image has: that of its background and that of its objects, measured without masks.

They are taken once from a whole image and used for every tile of it, so that tiles agree with the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLOURS = 6
"""Numbers that are measured: R, G, B of the background, then R, G, B of the objects."""
MIN_SPAN = 0.04
"""Least difference between the greys of background and objects, in [0, 1]; an empty field has none of its own."""
_APART_TURNS = 16
"""A saturated channel cannot move, so the others go farther; each turn makes up for two thirds of what is missing, or more."""
_SIDE_PX = 128
"""Larger images are thinned until they have about this many pixels a side."""
_TOP = 0.995
"""An object pixel is at least half as far from the background as this quantile of all pixels."""

# B = batch, H, W = size of the image


def measure_colours(image: Tensor, polarity: int) -> Tensor:
    """Measure the colour of the background and of the objects.

    The background is the majority: its colour is the median of each channel. Objects are what lies on the polarity's side
    of it, at least half as far as the 99.5 percentile; their colour is a mean.

    Args:
        image: (3, H, W) in [0, 1].
        polarity: 1 if objects are brighter than their surroundings, -1 if darker.

    Returns:
        (6,) float32 in [0, 1]: background, then objects, whose greys differ by at least `MIN_SPAN` in the right direction.
    """
    step = max(1, int((image.shape[1] * image.shape[2]) ** 0.5 / _SIDE_PX))
    pixels = image[:, ::step, ::step].flatten(1).float()
    background = pixels.median(dim=1).values
    height = polarity * (pixels.mean(dim=0) - background.mean())
    # A quantile by sorting: torch.quantile refuses large inputs.
    top = height.sort().values[min(height.numel() - 1, int(_TOP * height.numel()))]
    objects = pixels[:, height >= top / 2].mean(dim=1) if top > 0 else background
    return torch.cat(apart(background, objects, polarity))


def apart(background: Tensor, objects: Tensor, polarity: int) -> tuple[Tensor, Tensor]:
    """Move two colours apart until their greys differ by `MIN_SPAN` in the direction of the polarity.

    Args:
        background: (3,) in [0, 1].
        objects: (3,) in [0, 1].
        polarity: 1 or -1.

    Returns:
        Both, in [0, 1].
    """
    for _ in range(_APART_TURNS):
        missing = MIN_SPAN - polarity * (objects.mean() - background.mean())
        if missing <= 0:
            break
        objects = (objects + polarity * missing).clamp(0, 1)
        left = MIN_SPAN - polarity * (objects.mean() - background.mean())
        background = (background - polarity * left.clamp(min=0)).clamp(0, 1)
    return background, objects


def canonical(image: Tensor, colours: Tensor) -> Tensor:
    """Express an image by its own colours: background near 0, objects near 1, in every modality.

    Args:
        image: (B, 3, H, W).
        colours: (B, 6), as measured, on the scale of the image.

    Returns:
        (B, 3, H, W) clipped to [-1, 2]. The scale is the difference of the greys, so the mean over the channels is the
        height of a pixel between the two.
    """
    background, objects = colours[:, :3], colours[:, 3:]
    span = objects.mean(dim=1) - background.mean(dim=1)
    return ((image - background[:, :, None, None]) / span[:, None, None, None]).clamp(-1, 2)


def between(height: Tensor, colours: Tensor) -> Tensor:
    """The lookup table: a colour on the line from background to objects.

    Args:
        height: (B, 1, H, W), 0 = background, 1 = objects.
        colours: (B, 6).

    Returns:
        (B, 3, H, W) on the scale of the colours.
    """
    background, objects = colours[:, :3, None, None], colours[:, 3:, None, None]
    return background + (objects - background) * height
