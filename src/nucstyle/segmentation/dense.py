"""torchvision's Mask R-CNN for images with hundreds of nuclei: training needs no full-size mask for each of them.

torchvision holds a mask as large as the image for every nucleus, as floats: 375 nuclei of a 520 x 696 field are 540 MB. Here a
target is a label map, and masks are cut out of it for the regions that the mask loss looks at, a few at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou, roi_align

from nucstyle.segmentation.targets import NUCLEUS

# N = nuclei, R = regions, A = anchors, H, W = size of the image, S = side of a mask

_CHUNK = 32
"""Nuclei that are looked at together where memory counts."""
_SAME_IOU = 0.3
"""An anchor or region that overlaps a nucleus so much is about that nucleus."""


class DenseProposals(RegionProposalNetwork):  # type: ignore[misc]
    """Proposals that are not taught that a sliver at the border of a crop is background.

    The threshold of objectness holds in prediction alone: in training, boxes that are hardly taken for nuclei are examples too.
    """

    score_thresh: float

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  (torchvision's own)
        super().__init__(*arguments, **named)
        self.box_similarity = lean_iou

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, without a threshold in training."""
        threshold = self.score_thresh
        self.score_thresh = 0.0 if self.training else threshold
        try:
            kept: tuple[list[Tensor], list[Tensor]] = super().filter_proposals(
                proposals, objectness, image_shapes, num_anchors_per_level
            )
            return kept
        finally:
            self.score_thresh = threshold

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's; anchors on ignored nuclei get the label -1, which no loss looks at."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for own, boxes, target in zip(labels, anchors, targets, strict=True):
            own[(own == 0) & is_ignored(boxes, target)] = -1
        return labels, matched


class DenseHeads(RoIHeads):  # type: ignore[misc]
    """Box and mask losses by label maps. Predictions are made step by step by `Segmenter`, not here."""

    def check_targets(self, targets: list[dict[str, Tensor]] | None) -> None:
        """Targets are made by `to_detection_target` alone."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """The losses of boxes and masks (torchvision's RoIHeads.forward, for training). Regions on ignored nuclei are left out.

        Args:
            features: Pyramid levels, each (B, C, h, w).
            proposals: (R, 4) for each image.
            image_shapes: (height, width) of each image.
            targets: As `to_detection_target` makes them.
        """
        assert targets is not None
        proposals = [own[~is_ignored(own, target)] for own, target in zip(proposals, targets, strict=True)]
        regions, matched, labels, deltas = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, regions, image_shapes))
        class_loss, box_loss = fastrcnn_loss(*self.box_predictor(pooled), labels, deltas)
        positive = [torch.nonzero(own > 0)[:, 0] for own in labels]
        regions = [own[chosen] for own, chosen in zip(regions, positive, strict=True)]
        pooled = self.mask_roi_pool(features, regions, image_shapes)
        logits = self.mask_predictor(self.mask_head(pooled))[:, NUCLEUS]
        wanted = [
            cut_masks(target["label_map"], target["numbers"][index[chosen]], boxes, logits.shape[-1])
            for target, index, chosen, boxes in zip(targets, matched, positive, regions, strict=True)
        ]
        mask_loss = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted)) if len(logits) else logits.sum()
        return [], {"loss_classifier": class_loss, "loss_box_reg": box_loss, "loss_mask": mask_loss}


def lean_iou(nuclei: Tensor, boxes: Tensor) -> Tensor:
    """(N, 4), (A, 4) -> (N, A) overlaps, as torchvision's `box_iou`, whose intermediate tensors are several times as large."""
    overlaps = nuclei.new_empty((len(nuclei), len(boxes)))
    for start in range(0, len(nuclei), _CHUNK):
        overlaps[start : start + _CHUNK] = box_iou(nuclei[start : start + _CHUNK], boxes)
    return overlaps


def is_ignored(boxes: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Which boxes lie on a nucleus that is left out of the training.

    Args:
        boxes: (R, 4) xyxy in pixels; what lies beyond the image does not count.
        target: With `ignored` (N, 4) and `label_map` (H, W).

    Returns:
        (R,) bool.
    """
    ignored = target["ignored"]
    if not len(ignored):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    height, width = target["label_map"].shape
    inside = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    found: Tensor = (box_iou(inside, ignored) >= _SAME_IOU).any(dim=1)
    return found


def cut_masks(label_map: Tensor, numbers: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The masks of given nuclei in given boxes, as torchvision's `project_masks_on_boxes` makes them of full-size masks.

    Args:
        label_map: (H, W) int32.
        numbers: (R,) of the nucleus of each box.
        boxes: (R, 4) xyxy in pixels.
        side: S.

    Returns:
        (R, S, S) float32 share of nucleus in each cell.
    """
    pieces = [boxes.new_zeros((0, side, side))]
    for start in range(0, len(numbers), _CHUNK):
        part = slice(start, start + _CHUNK)
        own = (label_map == numbers[part, None, None]).to(boxes.dtype)[:, None]
        place = torch.arange(len(own), dtype=boxes.dtype, device=boxes.device)[:, None]
        pieces.append(roi_align(own, torch.cat([place, boxes[part]], dim=1), (side, side))[:, 0])
    return torch.cat(pieces)
