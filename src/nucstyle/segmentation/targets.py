"""The only place that knows torchvision's target dict."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from nucstyle.core.errors import ImageError
from nucstyle.core.labels import boxes
from nucstyle.core.sample import Sample

NUCLEUS = 1
"""torchvision's label of the one class; 0 is background."""


def to_detection_target(
    sample: Sample, *, max_nuclei: int, min_side_px: int, generator: Generator
) -> dict[str, Tensor]:
    """The target dict of torchvision's Mask R-CNN.

    Args:
        sample: Annotated, numbered 1..N without gaps.
        max_nuclei: Of more nuclei, this many are chosen at random: each needs a mask as large as the crop.
        min_side_px: Nuclei whose box is narrower are left out; crops cut slivers off at their borders.
        generator: For the choice.

    Returns:
        `boxes` (M, 4) float32 xyxy in pixels, `labels` (M,) int64 of ones, `masks` (M, H, W) uint8; M may be 0.

    Raises:
        ImageError: The sample is not annotated.
    """
    if sample.labels is None:
        msg = f"{sample.id}: not annotated, so it has no detection target; leave it out of the training"
        raise ImageError(msg)
    found = boxes(sample.labels)
    sides = found[:, 2:] - found[:, :2]
    wide = torch.nonzero((sides >= min_side_px).all(dim=1))[:, 0]
    chosen = wide[torch.randperm(len(wide), generator=generator)[:max_nuclei]]
    masks = (sample.labels[None] == (chosen + 1)[:, None, None].to(torch.int32)).to(torch.uint8)
    return {
        "boxes": found[chosen],
        "labels": torch.full((len(chosen),), NUCLEUS, dtype=torch.int64),
        "masks": masks,
    }
