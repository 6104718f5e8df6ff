"""From detections to a label map: every pixel belongs to at most one nucleus, the best score wins."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nucstyle.core.sample import Prediction


class Decoded(NamedTuple):
    """A label map and the scores of its nuclei."""

    labels: Tensor
    """(H, W) int32, 1..N in the order of the scores."""
    scores: Tensor
    """(N,) float32, score of nucleus 1, 2, ..., not increasing."""


def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> tuple[slice, slice, Tensor]:
    """Stretch one mask crop over its box.

    Args:
        mask: (S, S) float32 probabilities.
        box: (4,) x0 y0 x1 y1 in pixels.
        size: (height, width) of the image.

    Returns:
        Rows, columns, and the (rows, columns) probabilities at the centres of those pixels: the pixels whose centre lies in
        the box. Between the outermost cells and the border of the box the probability is that of the outermost cell.
    """
    height, width = size
    x0, y0, x1, y1 = (float(value) for value in box)
    rows = slice(max(0, math.ceil(y0 - 0.5)), min(height, math.ceil(y1 - 0.5)))
    columns = slice(max(0, math.ceil(x0 - 0.5)), min(width, math.ceil(x1 - 0.5)))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return slice(0, 0), slice(0, 0), mask.new_zeros(0, 0)
    ys = (torch.arange(rows.start, rows.stop) + 0.5 - y0) / max(y1 - y0, 1e-6) * 2 - 1
    xs = (torch.arange(columns.start, columns.stop) + 0.5 - x0) / max(x1 - x0, 1e-6) * 2 - 1
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
    pasted = F.grid_sample(mask[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return rows, columns, pasted[0, 0]


def decode(prediction: Prediction, *, score: float, mask_threshold: float) -> Decoded:
    """Paint the nuclei of a prediction into a label map.

    Args:
        prediction: Best score first.
        score: Nuclei below are left out.
        mask_threshold: Probability from which a pixel belongs to a nucleus.

    Returns:
        The label map; nuclei that have no pixel left are dropped.
    """
    labels = torch.zeros(prediction.size, dtype=torch.int32)
    kept: list[float] = []
    for box, confidence, mask in zip(prediction.boxes, prediction.scores, prediction.masks, strict=True):
        if not float(confidence) >= score:  # NaN is no score
            continue
        rows, columns, probability = paste(mask, box, prediction.size)
        free = labels[rows, columns] == 0
        own = free & (probability >= mask_threshold)
        if bool(own.any()):
            kept.append(float(confidence))
            labels[rows, columns][own] = len(kept)
    return Decoded(labels, torch.tensor(kept, dtype=torch.float32))
