"""Images of any size: predicted in overlapping tiles, each nucleus by the tile in whose part of the image its centre lies.

So a nucleus on a seam is counted once, and memory does not grow with the image.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import nms

from nucstyle.core.errors import ImageError, OptionError
from nucstyle.core.sample import Prediction
from nucstyle.data.image_io import sample_of_array
from nucstyle.segmentation.decode import Decoded, decode, paint
from nucstyle.segmentation.detector import STRIDES, InferenceConfig, Segmenter
from nucstyle.segmentation.tta import TestTimeAugmentation

_SEAM_PX = 8
"""Tiles do not agree on the centre of a nucleus to the pixel: what lies so near beyond a seam (enlarged) is taken too."""
_AS_FOUND: dict[str, Any] = {
    "min_area_px": 0,
    "fill_holes": False,
    "close": False,
    "drop_fragments": False,
    "dilate": False,
}
"""Nuclei that are to be merged over views are shaped after that, not before."""
_CELL_PX = STRIDES[-1]
"""Of the coarsest map. Tiles that begin at a multiple of it from the near end of an image, and end at one from the far end, see
it as it is seen whole, cell by cell, mirrored or not."""
_MOST_CHANGE = 4.0
"""A second look shows nuclei at most so many times larger or smaller than the first."""


def segment(
    segmenter: Segmenter,
    image: Tensor | npt.NDArray[np.generic],
    tta: TestTimeAugmentation | str | None = None,
    *,
    diameter_px: float | None = None,
) -> Decoded:
    """Find the nuclei of one image of any size, as `nucstyle predict` does it (which also looks again where memory is short).

    ```python
    found = nucstyle.segment(nucstyle.load_segmenter("my-run"), image)
    found.labels  # (H, W) int32: 0 = background, 1..N = nuclei, best first
    found.scores  # (N,) float32
    ```

    Args:
        segmenter: Trained; its own thresholds decide.
        image: (3, H, W) float32 tensor in [0, 1]; or an array (H, W) or (H, W, 3), integers by the intensity rule, floats in
            [0, 1].
        tta: Views to look at: `none`, `fast`, `full`, or as published `deep-retina`, `mirzaev`; or those of one's own; None = as
            the segmenter's recipe says, `fast` for the shipped one.
        diameter_px: Of a typical nucleus, in pixels of the image; None = as the segmenter's `InferenceConfig` says.

    Raises:
        ImageError: Another shape, or pixels that are not finite or not in [0, 1].
        OptionError: A diameter that is not positive, or an unknown mode.
    """
    views = segmenter.inference.tta if tta is None else tta
    mode = TestTimeAugmentation(views) if isinstance(views, str) else views
    pixels = image if isinstance(image, Tensor) else sample_of_array(image).image
    if diameter_px is not None and not diameter_px > 0:
        msg = f"the diameter of a nucleus must be positive, got {diameter_px}"
        raise OptionError(msg)
    if mode.merge is None:
        return _decoded(segmenter, pixels, mode, diameter_px, segmenter.inference)
    bare = replace(segmenter.inference, **_AS_FOUND)
    alone = [TestTimeAugmentation([view]) for view in mode.views]
    found = [_decoded(segmenter, pixels, one, diameter_px, bare) for one in alone]
    capped = any(one.is_capped for one in found)
    size = int(pixels.shape[1]), int(pixels.shape[2])
    return paint(mode.merge(found), size, segmenter.inference, is_capped=capped)


def _decoded(
    segmenter: Segmenter,
    image: Tensor,
    mode: TestTimeAugmentation,
    diameter_px: float | None,
    inference: InferenceConfig,
) -> Decoded:
    """The label map of an image, looked at again at another size if the recipe says so."""
    image = _checked(image)
    if bool((image == image[:, :1, :1]).all()):
        # One colour is no picture; beside the padding it would look like a nucleus.
        return paint([], (int(image.shape[1]), int(image.shape[2])), inference)
    if diameter_px is not None:
        factor = inference.diameter_px / diameter_px
        return decode(predict_tiles(segmenter, image, mode, factor=factor, min_score=inference.score), inference)
    factor = inference.magnification((int(image.shape[1]), int(image.shape[2])))
    prediction = predict_tiles(segmenter, image, mode, factor=factor, min_score=inference.score)
    change = _change_of_size(prediction, factor, inference)
    if change is not None:
        second = predict_tiles(segmenter, image, mode, factor=factor * change, min_score=inference.score)
        if _covered(second) > _covered(prediction):
            prediction = second
    return decode(prediction, inference)


def _change_of_size(prediction: Prediction, factor: float, inference: InferenceConfig) -> float | None:
    """How many times larger nuclei should be shown in a second look; None = the first one will do."""
    if not len(prediction):
        return 1 / inference.retry_shrink if inference.retry_shrink > 1 else None
    if not inference.rescale_beyond:
        return None
    shown = float(_areas(prediction).sqrt().median()) * factor
    change = inference.diameter_px / shown
    beyond = (inference.shrink_beyond or inference.rescale_beyond) if change < 1 else inference.rescale_beyond
    if max(change, 1 / change) <= beyond:
        return None
    return min(_MOST_CHANGE, max(1 / _MOST_CHANGE, change))


def _areas(prediction: Prediction) -> Tensor:
    """(N,) areas of the boxes, in pixels of the image."""
    return (prediction.boxes[:, 2:] - prediction.boxes[:, :2]).clamp(min=1).prod(dim=1)


def _covered(prediction: Prediction) -> float:
    """How much of the image is said to be nuclei: a nucleus taken for many pieces does not count more than a whole one."""
    return float((prediction.scores * _areas(prediction)).sum())


def predict_tiles(
    segmenter: Segmenter,
    image: Tensor,
    mode: TestTimeAugmentation,
    *,
    factor: float | None = None,
    min_score: float = 0.0,
) -> Prediction:
    """Find the nuclei of one image of any size.

    Args:
        segmenter: Trained; its `InferenceConfig` says how large tiles are and how much they overlap.
        image: (3, H, W) float32 in [0, 1].
        mode: Views to look at.
        factor: Magnification; None = what the segmenter does with an image of this size.
        min_score: Boxes below are left out.

    Returns:
        Boxes in pixels of the image, best first. A nucleus that is larger than two overlaps may be cut at a seam.

    Raises:
        ImageError: Another shape, or pixels that are not finite or not in [0, 1].
    """
    image = _checked(image)
    size, inference = (int(image.shape[1]), int(image.shape[2])), segmenter.inference
    image, factor = inference.prepare(image), inference.magnification(size) if factor is None else factor
    side, margin = max(1, round(inference.tile_px / factor)), round(inference.overlap_px / factor)
    unit = 1
    if factor == 1 and side >= 4 * _CELL_PX:  # smaller ones would be mostly margin
        unit = _CELL_PX
        side, margin = side // unit * unit, -(-margin // unit) * unit
    down, across = (_parts(length, side, unit) for length in size)
    if len(down) * len(across) == 1:
        return mode.predict(segmenter, image, factor=factor, min_score=min_score)
    slack, found = min(margin, max(1, round(_SEAM_PX / factor))), []
    for top, bottom in down:
        for left, right in across:
            y, x = max(0, top - margin), max(0, left - margin)
            below, beside = (
                _end(stop + margin, length, unit) for stop, length in zip((bottom, right), size, strict=True)
            )
            tile = image[:, y:below, x:beside]
            seen = mode.predict(segmenter, tile, factor=factor, min_score=min_score)
            boxes = seen.boxes + seen.boxes.new_tensor([x, y, x, y])
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2
            low, high = middle.new_tensor([left, top]) - slack, middle.new_tensor([right, bottom]) + slack
            inside = ((middle >= low) & (middle < high)).all(dim=1)
            found.append((boxes[inside], seen.scores[inside], seen.masks[inside], seen.is_capped))
    boxes, scores, masks = (torch.cat([one[part] for one in found]) for part in range(3))  # type: ignore[misc]
    # Near a seam two tiles may have found the same nucleus.
    kept = nms(boxes, scores, segmenter.config.box_nms_iou)
    capped = any(one[3] for one in found)
    return Prediction(boxes=boxes[kept], scores=scores[kept], masks=masks[kept], size=size, is_capped=capped)


def _parts(length: int, side: int, unit: int) -> list[tuple[int, int]]:
    """Divide a length into as few parts as fit, about equal; each is at most `side`, and all begin at a multiple of `unit`."""
    count = -(-length // side)
    cuts = [-(-length * number // count // unit) * unit for number in range(count)]
    return list(pairwise([*cuts, length]))


def _end(stop: int, length: int, unit: int) -> int:
    """Where a tile ends that is to hold all before `stop`: at a multiple of `unit` from the other end of the image."""
    return length - max(0, length - stop) // unit * unit


def _checked(image: Tensor) -> Tensor:
    """As float32."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        msg = f"an image must be (3, H, W) float in [0, 1], got {tuple(image.shape)} {image.dtype}"
        raise ImageError(msg)
    if not bool(image.isfinite().all()):
        msg = "the image has pixels that are not finite; replace them first"
        raise ImageError(msg)
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        msg = f"the pixels of an image must lie in [0, 1], got {low:g} to {high:g}; scale them to it first"
        raise ImageError(msg)
    return image.float()
