"""From detections to a label map: every pixel belongs to at most one nucleus, the best score wins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from nucstyle.core.sample import Prediction
from nucstyle.segmentation.detector import InferenceConfig


class Decoded(NamedTuple):
    """A label map and the scores of its nuclei."""

    labels: Tensor
    """(H, W) int32, 1..N in the order of the scores."""
    scores: Tensor
    """(N,) float32, score of nucleus 1, 2, ..., not increasing."""
    is_capped: bool = False
    """Whether a limit of the detector was met, so that there may be more nuclei."""
    dropped: int = 0
    """Nuclei with score enough that are not there all the same: covered by better ones, too small, or in fragments."""


class Mask(NamedTuple):
    """A nucleus before it is painted: where, which pixels there, and how sure."""

    rows: slice
    """Of the image."""
    columns: slice
    """Of the image."""
    own: Tensor
    """(rows, columns) bool."""
    score: float
    """In [0, 1]."""


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


def decode(prediction: Prediction, config: InferenceConfig) -> Decoded:
    """Paint the nuclei of a prediction into a label map.

    Args:
        prediction: Best score first.
        config: Thresholds, and what is done to each nucleus before it is painted.

    Returns:
        The label map; nuclei that have no pixel left, or too few, are dropped.
    """
    return paint(_masks(prediction, config), prediction.size, config, is_capped=prediction.is_capped)


def _masks(prediction: Prediction, config: InferenceConfig) -> Iterator[Mask]:
    for box, confidence, mask in zip(prediction.boxes, prediction.scores, prediction.masks, strict=True):
        if float(confidence) >= config.score:  # NaN is no score
            rows, columns, probability = paste(mask, box, prediction.size)
            yield Mask(rows, columns, probability >= config.mask_threshold, float(confidence))


def paint(masks: Iterable[Mask], size: tuple[int, int], config: InferenceConfig, *, is_capped: bool = False) -> Decoded:
    """Shape nuclei one after the other and paint each where no better one is.

    Args:
        masks: Best score first.
        size: (height, width) of the image.
        config: How nuclei are shaped, and which are dropped.
        is_capped: See `Decoded`.
    """
    labels = torch.zeros(size, dtype=torch.int32)
    kept: list[float] = []
    dropped = 0
    for mask in masks:
        rows, columns, own, score = _with_margin(mask, size) if config.dilate else mask
        whole = _shaped(own, config)
        left = whole & (labels[rows, columns] == 0)
        if config.drop_fragments and _falls_apart(whole, left):
            dropped += 1
            continue
        visible = int(left.sum())
        if visible >= max(1, config.min_area_px, config.min_visible * int(whole.sum())):
            kept.append(score)
            labels[rows, columns][left] = len(kept)
        else:
            dropped += 1
    return Decoded(labels, torch.tensor(kept, dtype=torch.float32), is_capped, dropped)


def _with_margin(mask: Mask, size: tuple[int, int]) -> Mask:
    """A pixel more at each side where the image has one."""
    rows, columns, own, score = mask
    if not own.numel():
        return mask
    edges = [min(1, columns.start), min(1, size[1] - columns.stop), min(1, rows.start), min(1, size[0] - rows.stop)]
    taller = slice(rows.start - edges[2], rows.stop + edges[3])
    wider = slice(columns.start - edges[0], columns.stop + edges[1])
    return Mask(taller, wider, F.pad(own, edges), score)


def _shaped(own: Tensor, config: InferenceConfig) -> Tensor:
    """What the published recipes do to a single nucleus, (H, W) bool."""
    if not (config.fill_holes or config.close or config.dilate) or not own.numel():
        return own
    mask = own.numpy()
    if config.fill_holes:
        mask = ndimage.binary_fill_holes(mask)
    if config.close:
        mask = ndimage.binary_closing(np.pad(mask, 1))[1:-1, 1:-1] | mask
    if config.dilate:
        mask = ndimage.binary_dilation(mask)
    return torch.from_numpy(mask)


def _falls_apart(whole: Tensor, left: Tensor) -> bool:
    """Whether a connected part of a nucleus is in several parts once better nuclei have taken their pixels."""
    if torch.equal(whole, left):
        return False
    numbers, count = ndimage.label(whole.numpy())
    remains = left.numpy()
    return any(ndimage.label(remains & (numbers == number))[1] > 1 for number in range(1, count + 1))
