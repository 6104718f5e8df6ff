"""Label maps: integer images in which 0 is background and every other number is one nucleus."""

from __future__ import annotations

import numpy as np
import torch
from skimage.measure import label
from torch import Tensor

_MOST_COUNTED = 1 << 20
"""Up to this number, labels are counted rather than sorted, which takes a quarter of the time."""


def relabel(labels: Tensor) -> Tensor:
    """Renumber nuclei to 1..N in the order of their numbers.

    Args:
        labels: (H, W) of any integer type, not negative.

    Returns:
        (H, W) int32; the background stays 0 even where no background pixel exists.
    """
    if labels.numel() and int(labels.max()) <= _MOST_COUNTED:
        flat = labels.reshape(-1)
        present = torch.bincount(flat) > 0
        present[0] = False
        numbers = present.cumsum(0, dtype=torch.int32) * present
        # Types narrower than int32 cannot be an index.
        return numbers.index_select(0, flat if labels.dtype == torch.int64 else flat.int()).view(labels.shape)
    values, index = torch.unique(labels, return_inverse=True)
    offset = 0 if values.numel() and int(values[0]) == 0 else 1
    contiguous: Tensor = (index + offset).to(torch.int32)
    return contiguous


def components(labels: Tensor) -> Tensor:
    """Give every connected piece of one number a number of its own.

    Args:
        labels: (H, W) of any integer type, 0 = background; for example a mask of 0 and 255.

    Returns:
        (H, W) int32, pieces numbered 1..N; pixels that touch at a corner are connected.
    """
    pieces = label(labels.numpy(), background=0, connectivity=2)  # type: ignore[no-untyped-call]
    return torch.from_numpy(pieces.astype(np.int32))


def count(labels: Tensor) -> int:
    """The number of nuclei in a label map, contiguous or not."""
    values = torch.unique(labels)
    return int((values > 0).sum())


def boxes(labels: Tensor) -> Tensor:
    """The tight boxes of the nuclei of a contiguous label map.

    Args:
        labels: (H, W) int, numbered 1..N without gaps.

    Returns:
        (N, 4) float32, x0 y0 x1 y1 with x1 = last column + 1, so that a one-pixel nucleus has a box of area 1.
    """
    n = int(labels.max()) if labels.numel() else 0
    ys, xs = torch.nonzero(labels, as_tuple=True)
    numbers = labels[ys, xs].long() - 1
    result = torch.empty((n, 4), dtype=torch.float32)
    for column, values, reduction in ((0, xs, "amin"), (1, ys, "amin"), (2, xs, "amax"), (3, ys, "amax")):
        start = torch.zeros(n, dtype=torch.int64)
        result[:, column] = start.scatter_reduce(0, numbers, values, reduction, include_self=False).float()
    result[:, 2:] += 1
    return result
