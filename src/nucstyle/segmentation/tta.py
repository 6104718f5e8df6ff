"""Test-time augmentation: boxes are merged over the views, then mask probabilities are averaged over the views.

The order is detectron2's: detect in every view, move the boxes back, suppress duplicates over the union, and ask every
view for the masks of the boxes that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from nucstyle.core import symmetry
from nucstyle.core.errors import OptionError
from nucstyle.core.resize import resize_image
from nucstyle.core.sample import Prediction
from nucstyle.core.symmetry import Symmetry
from nucstyle.segmentation.decode import Decoded, Mask
from nucstyle.segmentation.detector import Boxes, Features, Segmenter
from nucstyle.segmentation.merges import union, votes


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at an image: colours first, then size, then symmetry."""

    symmetry: Symmetry = symmetry.IDENTITY
    """An exact move."""
    scale: float = 1.0
    """Magnification."""
    gamma: float = 1.0
    """Exponent of the grey curve."""
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors on red, green and blue."""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What is added to red, green and blue, of a range of 1."""

    def apply(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """(3, H, W) in [0, 1] -> (3, h, w) in [0, 1], magnified to `size` before it is moved."""
        jittered = image
        if self.gamma != 1.0 or self.gains != (1.0, 1.0, 1.0):
            jittered = (image**self.gamma * torch.tensor(self.gains)[:, None, None]).clamp(0, 1)
        if self.shift != (0.0, 0.0, 0.0):
            jittered = (jittered + torch.tensor(self.shift)[:, None, None]).clamp(0, 1)
        return self.symmetry.apply(resize_image(jittered, size))


_MIRRORS = (symmetry.IDENTITY, symmetry.LEFT_RIGHT, symmetry.UP_DOWN, symmetry.HALF_TURN)
VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(),),
    "fast": tuple(View(one) for one in _MIRRORS),
    "full": (
        *(View(one) for one in symmetry.ALL),
        View(gamma=0.8, gains=(1.0, 0.95, 1.05)),
        View(gamma=1.25, gains=(1.05, 1.0, 0.95)),
        View(scale=0.75),
        View(scale=1.5),
    ),
    "deep-retina": (
        *(View(one) for one in symmetry.ALL),
        View(shift=(0.05, -0.05, 0.03)),
        View(shift=(-0.05, 0.03, 0.05)),
        *(View(scale=one) for one in (0.5, 0.75, 1.25, 1.5, 2.0)),
    ),
    "mirzaev": (View(), View(symmetry.LEFT_RIGHT)),
}
"""`none`; `fast`: identity, two flips, half turn; `full`: 8 symmetries, two colour jitters, scales 0.75 and 1.5; and those of the
published recipes: 15 views with symmetries, shifts of the channels and scales from 0.5 to 2; the image and its mirror."""
MERGES: dict[str, Callable[[Sequence[Decoded]], list[Mask]]] = {"deep-retina": votes, "mirzaev": union}
"""Of the published recipes; the other modes average probabilities."""


class _Seen(NamedTuple):
    """One view of an image and what the trunk made of it."""

    view: View
    features: Features
    size: tuple[int, int]
    """(height, width) after magnification, before the move."""
    factors: Tensor
    """(4,) pixels of the magnified image a pixel of the original, for x0 y0 x1 y1; sides are whole pixels."""


class TestTimeAugmentation:
    """Predicts under several views and merges.

    Args:
        mode: A name in `VIEWS`, or the views themselves; the first view should be the plain one.

    Raises:
        OptionError: Unknown name, or no view.
    """

    __test__ = False  # pytest would take the class for a test

    def __init__(self, mode: str | Sequence[View] = "fast") -> None:
        if isinstance(mode, str) and mode not in VIEWS:
            msg = f"--tta {mode}: unknown; known: {', '.join(VIEWS)}"
            raise OptionError(msg)
        self.views = VIEWS[mode] if isinstance(mode, str) else tuple(mode)
        self.merge = MERGES.get(mode) if isinstance(mode, str) else None
        """How label maps of single views are merged; None = boxes and probabilities are, by `predict`."""
        if not self.views:
            msg = "test-time augmentation needs at least one view"
            raise OptionError(msg)

    def predict(
        self, segmenter: Segmenter, image: Tensor, *, factor: float | None = None, min_score: float = 0.0
    ) -> Prediction:
        """Find the nuclei of one piece of an image, boxes and probabilities merged over the views.

        `segment` is what users want: it cuts large images into tiles, enhances contrast where the segmenter was trained so,
        takes the second looks, merges as published and paints the label map.

        Args:
            segmenter: Trained.
            image: (3, H, W) float32 in [0, 1].
            factor: Magnification before the views; None = what the segmenter does with an image of this size.
            min_score: Boxes below are left out before their masks are made, which is the dearest part.

        Returns:
            Boxes in pixels of the image; scores are the mean over the views, a view without the nucleus counting 0; masks
            are the mean over the views.
        """
        height, width = int(image.shape[1]), int(image.shape[2])
        if factor is None:
            factor = segmenter.inference.magnification((height, width))
        seen = [self._see(segmenter, image, view, factor) for view in self.views]
        found = [self._boxes(segmenter, one) for one in seen]
        limit = segmenter.config.max_nuclei
        boxes, scores = _merge(found, iou=segmenter.config.box_nms_iou, limit=limit)
        is_capped = len(boxes) >= limit or any(one.is_capped for one in found)
        boxes, scores = boxes[scores >= min_score], scores[scores >= min_score]
        if len(boxes):
            masks = torch.stack([self._masks(segmenter, one, boxes) for one in seen]).mean(dim=0)
        else:
            masks = torch.zeros(0, 28, 28)
        boxes = boxes.clamp(min=0)
        boxes = torch.minimum(boxes, torch.tensor([width, height, width, height], dtype=boxes.dtype))
        return Prediction(boxes=boxes, scores=scores, masks=masks, size=(height, width), is_capped=is_capped)

    def _see(self, segmenter: Segmenter, image: Tensor, view: View, factor: float) -> _Seen:
        size = int(image.shape[1]), int(image.shape[2])
        larger = max(1, round(size[0] * factor * view.scale)), max(1, round(size[1] * factor * view.scale))
        x, y = larger[1] / size[1], larger[0] / size[0]
        return _Seen(view, segmenter.see(view.apply(image, larger)), larger, torch.tensor([x, y, x, y]))

    def _boxes(self, segmenter: Segmenter, seen: _Seen) -> Boxes:
        boxes, scores, is_capped = segmenter.detect_boxes(seen.features)
        moved = seen.view.symmetry.invert_boxes(boxes.cpu(), seen.size) / seen.factors
        return Boxes(moved, scores.cpu(), is_capped)

    def _masks(self, segmenter: Segmenter, seen: _Seen, boxes: Tensor) -> Tensor:
        moved = seen.view.symmetry.apply_boxes(boxes * seen.factors, seen.size)
        masks = segmenter.detect_masks(seen.features, moved.to(segmenter.device)).cpu()
        return seen.view.symmetry.invert(masks)


def _merge(found: Sequence[Boxes], *, iou: float, limit: int) -> tuple[Tensor, Tensor]:
    """Suppress duplicates over the union of the views' boxes, and score what is left by agreement.

    Args:
        found: Of each view, in pixels of the image.
        iou: Of two boxes that overlap more, the worse goes.
        limit: Boxes kept at most.

    Returns:
        Boxes (M, 4) and scores (M,), best first.
    """
    boxes = torch.cat([one.boxes for one in found])
    scores = torch.cat([one.scores for one in found])
    kept = nms(boxes, scores, iou)[:limit]
    if len(found) == 1:
        return boxes[kept], scores[kept]
    agreed = torch.stack([_best_partner_score(boxes[kept], one.boxes, one.scores) for one in found]).mean(dim=0)
    order = torch.argsort(agreed, descending=True, stable=True)
    return boxes[kept][order], agreed[order]


def _best_partner_score(boxes: Tensor, others: Tensor, scores: Tensor) -> Tensor:
    """(M, 4), (N, 4), (N,) -> (M,): the score of the overlapping box (IoU >= 0.5) in another view, 0 without one."""
    if not len(others):
        return torch.zeros(len(boxes))
    return torch.where(box_iou(boxes, others) >= 0.5, scores, 0.0).amax(dim=1)
