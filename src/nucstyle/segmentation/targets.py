"""The only place that knows the target dict of the detector."""

from __future__ import annotations

import torch
from torch import Tensor

from nucstyle.core.errors import ImageError
from nucstyle.core.labels import boxes
from nucstyle.core.sample import Sample

NUCLEUS = 1
"""torchvision's label of the one class; 0 is background."""


def to_detection_target(sample: Sample, *, min_side_px: int) -> dict[str, Tensor]:
    """The target dict of the detector: torchvision's, with a label map instead of a mask for each nucleus.

    Args:
        sample: Annotated, numbered 1..N without gaps.
        min_side_px: Nuclei whose box is narrower are not taught, and neither is that they are background: crops cut slivers off
            at their borders.

    Returns:
        `boxes` (M, 4) float32 xyxy in pixels, `labels` (M,) int64 of ones, `numbers` (M,) int32 of the nuclei in `label_map`
        (H, W) int32, `ignored` (N - M, 4) float32 boxes of those that are not taught; M may be 0.

    Raises:
        ImageError: The sample is not annotated.
    """
    if sample.labels is None:
        msg = f"{sample.id}: not annotated, so it has no detection target; leave it out of the training"
        raise ImageError(msg)
    found = boxes(sample.labels)
    taught = (found[:, 2:] - found[:, :2] >= min_side_px).all(dim=1)
    numbers = torch.nonzero(taught)[:, 0].to(torch.int32) + 1
    return {
        "boxes": found[taught],
        "labels": torch.full((len(numbers),), NUCLEUS, dtype=torch.int64),
        "numbers": numbers,
        "label_map": sample.labels,
        "ignored": found[~taught],
    }
