"""Resizing images and label maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def middle(side: int, most: int) -> slice:
    """The middle of a side of an image, in pixels, at most so long."""
    first = max(0, side - most) // 2
    return slice(first, first + min(side, most))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize pixels, with smoothing when they get fewer.

    Args:
        image: (3, H, W) float32 in [0, 1].
        size: (height, width) wanted.

    Returns:
        (3, height, width) float32 in [0, 1].
    """
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a label map by nearest neighbour: no number appears that was not there.

    Args:
        labels: (H, W) int32.
        size: (height, width) wanted.

    Returns:
        (height, width) int32.
    """
    rows, columns = (_nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows][:, columns]


def _nearest(old: int, new: int) -> Tensor:
    return ((torch.arange(new) + 0.5) * (old / new)).floor().long().clamp(max=old - 1)
