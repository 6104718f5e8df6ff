"""Which colours an image has: of its background, of its objects and of their extreme, measured without masks.

They are taken once from a whole image and used for every tile of it, so that tiles agree with the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLOURS = 6
"""Numbers that are measured: R, G, B of the background, then R, G, B of the objects."""
MIN_SPAN = 0.04
"""Least difference between the greys of background and objects, in [0, 1]; an empty field has none of its own."""
_ROWS = 512
"""So many rows at a time, so that beside a large image and the result little memory is needed."""
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
    pixels, background, height = _heights(image, polarity)
    return torch.cat(_two_colours(pixels, background, height, _top(height), polarity))


def measure_stops(image: Tensor, polarity: int) -> Tensor:
    """Measure the colours of the background, of the objects and of the extreme, the nucleus maximum.

    The first two are those of `measure_colours`. The extreme is the mean of what lies at or beyond the 99.5 percentile.

    Args:
        image: (3, H, W) in [0, 1].
        polarity: 1 if objects are brighter than their surroundings, -1 if darker.

    Returns:
        (3, 3) float32 in [0, 1], a row each for background, objects and extreme; the grey of the extreme is at least as far
        from the background's as that of the objects.
    """
    pixels, background, height = _heights(image, polarity)
    top = _top(height)
    background, objects = _two_colours(pixels, background, height, top, polarity)
    extreme = pixels[:, height >= top].mean(dim=1) if top > 0 else objects
    return torch.stack([background, objects, beyond(extreme, objects, polarity)])


def guess_polarity(image: Tensor) -> int:
    """Whether objects are brighter or darker than their surroundings: they are the few, so they draw the mean to their side.

    Args:
        image: (3, H, W) float32 in [0, 1].

    Returns:
        1 if the mean of the greys is above their median or equal to it, else -1.
    """
    grey = image.mean(dim=0)
    return 1 if float(grey.mean() - grey.median()) >= 0 else -1


def lift(image: Tensor, background: Tensor, objects: Tensor, gamma: float) -> Tensor:
    """Bring what lies between background and objects nearer to the objects, so that dim nuclei grow clearer.

    A pixel's height, 0 on the background and 1 on the objects, is its projection on the line between the two colours. Heights
    between 0 and 1 are raised to a power, those of haze and of the background's noise as well; what a pixel has beside that line,
    its tint, stays.

    Args:
        image: (3, H, W) float32 in [0, 1].
        background: (3,) in [0, 1].
        objects: (3,) in [0, 1], another colour.
        gamma: The power, above 0; below 1 heights grow, and 1 changes nothing.

    Returns:
        (3, H, W) float32 in [0, 1].
    """
    line = objects - background
    weights, made = line / line.square().sum(), torch.empty_like(image)
    for start in range(0, image.shape[1], _ROWS):
        rows, into = (one[:, start : start + _ROWS] for one in (image, made))
        height = torch.einsum("c,chw->hw", weights, rows - background[:, None, None]).clamp_(0, 1)
        higher = height.clamp(min=1e-30).pow_(gamma).sub_(height)
        torch.mul(line[:, None, None], higher, out=into).add_(rows).clamp_(0, 1)
    return made


def beyond(extreme: Tensor, objects: Tensor, polarity: int) -> Tensor:
    """The extreme, or the objects' colour where the extreme is not on the far side of it.

    Args:
        extreme: (3,) in [0, 1].
        objects: (3,) in [0, 1].
        polarity: 1 or -1.

    Returns:
        (3,) in [0, 1].
    """
    return extreme if polarity * (extreme.mean() - objects.mean()) >= 0 else objects


def _heights(image: Tensor, polarity: int) -> tuple[Tensor, Tensor, Tensor]:
    """(3, H, W) -> pixels (3, N), colour of the background (3,), grey above it towards the objects (N,)."""
    step = max(1, int((image.shape[1] * image.shape[2]) ** 0.5 / _SIDE_PX))
    pixels = image[:, ::step, ::step].flatten(1).float()
    background = pixels.median(dim=1).values
    return pixels, background, polarity * (pixels.mean(dim=0) - background.mean())


def _top(height: Tensor) -> Tensor:
    """A quantile by selection: torch.quantile refuses large inputs."""
    return height.kthvalue(min(height.numel(), int(_TOP * height.numel()) + 1)).values


def _two_colours(
    pixels: Tensor, background: Tensor, height: Tensor, top: Tensor, polarity: int
) -> tuple[Tensor, Tensor]:
    objects = pixels[:, height >= top / 2].mean(dim=1) if top > 0 else background
    return apart(background, objects, polarity)


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
