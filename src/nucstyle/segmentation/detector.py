"""The segmenter: torchvision's Mask R-CNN on an ImageNet-pretrained EfficientNet-Lite0 with a feature pyramid."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from annotated_types import Ge, Gt, Le, Len, Lt
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from nucstyle.core.clahe import ClaheConfig, enhance
from nucstyle.core.config import build, to_table
from nucstyle.core.errors import WeightsError
from nucstyle.core.precision import Autocast
from nucstyle.segmentation.backbone import PyramidTrunk
from nucstyle.segmentation.dense import DenseHeads, DenseProposals
from nucstyle.segmentation.pooling import PyramidPooling
from nucstyle.segmentation.resnet import ResNetTrunk
from nucstyle.segmentation.targets import NUCLEUS

Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]
_LEVELS = {"0": 4, "1": 8, "2": 16, "3": 32}
"""Of the pyramid, from which regions are pooled: pixels of the image to a cell of the map."""
STRIDES = (*_LEVELS.values(), 64)
"""The same of all levels; on one more, large nuclei are proposed."""
_PROPOSALS_A_NUCLEUS = 4
"""Where all proposals that may be kept after suppression are, and fewer than so many a nucleus, others were dropped that would
have been nuclei. What was dropped before suppression, level by level, is not seen. Of tiles of 700 and 1024 px made of sample
images, with 540 to 1,170 boxes found among 2,000 proposals, 8,000 gave 1 to 15 in 100 nuclei more. In 17 of the 48 sample images
the limit is met as well, but with 11 proposals a nucleus or more: of nine, 6,000 proposals found two nuclei more in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterConfig:
    """Everything that shapes or caps the detector; torchvision's own defaults are for photographs of a few objects."""

    network: Literal["lite", "resnet101"] = "lite"
    """The trunk: EfficientNet-Lite0, whose ImageNet weights are in the package, or ResNet-101 as published."""
    resnet_norm: Literal["frozen", "group"] = "frozen"
    """resnet101: batch norm as it was loaded, or a group norm that learns, for a trunk that starts at random."""
    pyramid_channels: Count = 96
    """Channels of the feature pyramid."""
    box_head_size: Count = 512
    """Width of the two hidden layers of the box head."""
    mask_layers: Count = 3
    """3 x 3 convolutions of the mask head."""
    anchor_sizes_px: Annotated[tuple[Count, ...], Len(5, 5)] = (8, 16, 32, 64, 128)
    """Side of the anchors, one a pyramid level."""
    anchor_ratios: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    proposals_before_nms_train: Count = 800
    proposals_after_nms_train: Count = 600
    proposals_before_nms: Count = 2000
    """A level, in prediction; torchvision keeps 1,000."""
    proposals_after_nms: Count = 2000
    """An image, in prediction; torchvision keeps 1,000."""
    proposal_score: Share = 0.05
    """Proposals whose objectness is below are not looked at: on an empty field there would be thousands."""
    proposal_nms_iou: Share = 0.7
    """Of two proposals that overlap more, the worse is dropped."""
    proposal_foreground_iou: Share = 0.7
    """Anchors that overlap a nucleus so much must find it."""
    proposal_background_iou: Share = 0.3
    """Anchors that overlap every nucleus less are background; those between teach nothing."""
    anchors_per_image: Count = 128
    """Anchors that the proposal loss looks at."""
    anchors_positive: Share = 0.5
    """Share of them that are on nuclei, where there are so many."""
    regions_per_image: Count = 128
    """Regions that the box and mask losses look at."""
    regions_positive: Share = 0.25
    """Share of them that are on nuclei, where there are so many."""
    region_foreground_iou: Share = 0.5
    """Regions that overlap a nucleus so much must find it; the others are background."""
    max_nuclei: Count = 1000
    """Nuclei an image; torchvision keeps 100, and crowded fields hold more."""
    box_score: Share = 0.3
    """Detections below are dropped at once."""
    box_nms_iou: Share = 0.3
    """Of two boxes that overlap more, the worse is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """How images are prepared for the detector and its answers read."""

    score: Share = 0.5
    """Nuclei below are not written."""
    mask_threshold: Share = 0.5
    """Probability from which a pixel belongs to a nucleus."""
    scaling: Literal["small-fields", "shorter-side", "longer-side"] = "small-fields"
    """small-fields: those below a size are enlarged. shorter-side: enlarged to at least `side_px`. longer-side: brought to it."""
    enlarge_below_px: Annotated[int, Ge(0)] = 400
    """small-fields: those whose longer side is at most this are enlarged first: nuclei of 10 px are hard at stride 4."""
    enlarge_factor: Annotated[float, Gt(0)] = 2.0
    """small-fields: by how much."""
    side_px: Annotated[int, Ge(64)] = 512
    """shorter-side, longer-side: to which size."""
    min_area_px: Annotated[int, Ge(0)] = 0
    """Nuclei with fewer pixels are not written."""
    fill_holes: bool = False
    """Whether holes in nuclei are filled."""
    close: bool = False
    """Whether gaps of a pixel in the outline of a nucleus are closed."""
    min_visible: Share = 0.0
    """Nuclei of which better ones leave a smaller share to be seen are dropped: mostly second looks at parts of them."""
    drop_fragments: bool = False
    """Whether nuclei that fall apart when better ones have taken their pixels are dropped."""
    dilate: bool = False
    """Whether each nucleus grows by one pixel in the four directions."""
    diameter_px: Annotated[float, Gt(0)] = 32.0
    """The diameter at which the detector is shown nuclei whose size is known."""
    rescale_beyond: Annotated[float, Ge(0)] = 0.0
    """Where the nuclei found are shown on median so many times smaller or larger than that, a second look is taken at the right
    size; 0 = none is."""
    shrink_beyond: Annotated[float, Ge(0)] = 1.6
    """Where `rescale_beyond` is set, this limit holds instead for nuclei shown larger, since a second look at them costs
    little; 0 = the same limit."""
    retry_shrink: Annotated[float, Ge(1)] = 1.0
    """Where nothing is found, a second look is taken with nuclei so many times smaller; 1 = none is."""
    mask_offset_px: Annotated[float, Ge(0), Lt(1)] = 0.5
    """torchvision's training teaches masks so far up and left of where they belong, since it has the centres of pixels at whole
    numbers and boxes half a pixel off; so masks are asked for as much further up and left. 0 = they lie where they are taught."""
    tile_px: Annotated[int, Ge(64)] = 1024
    """Larger fields are looked at in tiles of at most this side, after enlargement, so that memory stays bounded."""
    overlap_px: Annotated[int, Ge(0)] = 128
    """How far a tile is seen beyond the part that it answers for, after enlargement."""
    clahe: bool = False
    """Whether the contrast of dark images is enhanced first, in training and prediction alike."""
    clahe_clip_limit: Annotated[float, Gt(0), Le(1)] = 0.01
    """clahe: larger = more contrast, and more noise."""
    clahe_tiles: Annotated[int, Ge(1), Le(64)] = 8
    """clahe: tiles a side, each with its own histogram."""
    clahe_darker_than: Annotated[float, Ge(0), Le(1)] = 0.25
    """clahe: images whose 99th percentile is above are left as they are."""
    tta: Literal["none", "fast", "full", "deep-retina", "mirzaev"] = "fast"
    """The views of an image and how they are merged, where `--tta` does not say so; see `VIEWS` in `segmentation.tta`."""

    @property
    def contrast(self) -> ClaheConfig | None:
        """How contrast is enhanced; None = it is not."""
        if not self.clahe:
            return None
        return ClaheConfig(self.clahe_clip_limit, self.clahe_tiles, self.clahe_darker_than)

    def prepare(self, image: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] -> what the detector is shown of it, at the same size."""
        return enhance(image, self.contrast) if self.contrast else image

    def magnification(self, size: tuple[int, int]) -> float:
        """How much a field of (height, width) is enlarged before its nuclei are sought."""
        if self.scaling == "shorter-side":
            return max(1.0, self.side_px / min(size))
        if self.scaling == "longer-side":
            return self.side_px / max(size)
        return self.enlarge_factor if max(size) <= self.enlarge_below_px else 1.0


SHOWN_BY = ("clahe", "scaling", "side_px", "enlarge_below_px", "enlarge_factor", "diameter_px")
"""Settings of `InferenceConfig` that say how images are shown to the detector."""
CONTRAST = ("clahe_clip_limit", "clahe_tiles", "clahe_darker_than")
"""More of them, where contrast is enhanced."""


class Features(NamedTuple):
    """The trunk's view of one image."""

    maps: OrderedDict[str, Tensor]
    """Pyramid levels, each (1, C, h, w)."""
    size: tuple[int, int]
    """(height, width) of the image, before padding."""
    padded: Tensor
    """(1, 3, H, W), what the trunk saw."""


class Boxes(NamedTuple):
    """Where nuclei are in one image, best score first. N = nuclei."""

    boxes: Tensor
    """(N, 4) xyxy in pixels."""
    scores: Tensor
    """(N,) in [0, 1], not increasing."""
    is_capped: bool = False
    """Whether a limit of the detector was met, so that there may be more."""


def build_trunk(config: SegmenterConfig) -> PyramidTrunk | ResNetTrunk:
    """The trunk with its pyramid, at random."""
    if config.network == "resnet101":
        return ResNetTrunk(config.pyramid_channels, config.resnet_norm)
    return PyramidTrunk(config.pyramid_channels)


def build_detector(config: SegmenterConfig, trunk: PyramidTrunk | ResNetTrunk, autocast: Autocast) -> GeneralizedRCNN:
    """Put torchvision's Mask R-CNN together.

    torchvision's internal resize and normalisation are switched off: magnification is ours (`InferenceConfig`), and the
    trunk normalises its own input.
    """
    channels = config.pyramid_channels
    anchors = _Anchors(
        tuple((size,) for size in config.anchor_sizes_px), (config.anchor_ratios,) * len(config.anchor_sizes_px)
    )
    proposals = DenseProposals(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        config.proposal_foreground_iou,
        config.proposal_background_iou,
        config.anchors_per_image,
        config.anchors_positive,
        {"training": config.proposals_before_nms_train, "testing": config.proposals_before_nms},
        {"training": config.proposals_after_nms_train, "testing": config.proposals_after_nms},
        config.proposal_nms_iou,
        score_thresh=config.proposal_score,
    )
    heads = DenseHeads(
        PyramidPooling(_LEVELS, 7),
        TwoMLPHead(channels * 49, config.box_head_size),
        FastRCNNPredictor(config.box_head_size, 2),
        config.region_foreground_iou,
        config.region_foreground_iou,
        config.regions_per_image,
        config.regions_positive,
        None,
        config.box_score,
        config.box_nms_iou,
        config.max_nuclei,
        PyramidPooling(_LEVELS, 14),
        MaskRCNNHeads(channels, (channels,) * config.mask_layers, 1),
        MaskRCNNPredictor(channels, channels, 2),
    )
    network = GeneralizedRCNN(trunk, proposals, heads, _PadOnly())
    for part, name in (
        (network, "backbone"),
        (network.rpn, "head"),
        (network.roi_heads, "box_head"),
        (network.roi_heads, "box_predictor"),
        (network.roi_heads, "mask_head"),
        (network.roi_heads, "mask_predictor"),
    ):
        setattr(part, name, _InFormat(getattr(part, name), autocast))
    return network


class _Anchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors, each on the cell that it belongs to.

    torchvision divides the side of the padded image by the number of cells. On the coarsest level the number is rounded up, so
    that in a field of 544 px the anchors would be 60 px apart and the cells 64: at the far edge they are off by 32 px.
    """

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """(N, 4) anchors of each level; the strides that torchvision has found are not looked at."""
        own = [[torch.tensor(stride, device=pair[0].device)] * 2 for stride, pair in zip(STRIDES, strides, strict=True)]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, own)
        return anchors


class _PadOnly(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's transform without its resize and normalisation; its own switch for that works in training only."""

    def __init__(self) -> None:
        super().__init__(min_size=1, max_size=1, image_mean=[0.0] * 3, image_std=[1.0] * 3)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Nothing."""
        return image, target


class _InFormat(nn.Module):
    """Runs a part of the network in a number format and gives float32 back.

    Only convolutions and matrix products run in bfloat16. Box arithmetic must not: at x = 500 its steps are 2 pixels.
    """

    def __init__(self, part: nn.Module, autocast: Autocast) -> None:
        super().__init__()
        self.part = part
        self._autocast = autocast

    def forward(self, *arguments: Any) -> Any:  # noqa: ANN401  (whatever the part takes and gives)
        with self._autocast():
            return _to_float32(self.part(*arguments))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        # torchvision reads attributes such as `out_channels` of the parts.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)


def _to_float32(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, Mapping):
        return OrderedDict((name, _to_float32(one)) for name, one in value.items())
    return type(value)(_to_float32(one) for one in value)


class Segmenter:
    """Finds nuclei in images.

    Args:
        config: Shape of the detector.
        inference: How images are prepared and answers read.
        trunk: A trunk with its weights; None = one that is not trained, to be filled by `load`.
        autocast: Number format of the convolutions.
    """

    def __init__(
        self,
        config: SegmenterConfig,
        inference: InferenceConfig,
        *,
        trunk: PyramidTrunk | ResNetTrunk | None = None,
        autocast: Autocast = nullcontext,
    ) -> None:
        self.config = config
        self.inference = inference
        self.network = build_detector(config, trunk or build_trunk(config), autocast)
        self.network.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = next(self.network.parameters()).device
        return device

    def using(self, network: GeneralizedRCNN) -> Self:
        """The same segmenter with other weights: a network of the same shape."""
        other = copy.copy(self)
        other.network = network
        return other

    def losses(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The training losses of Mask R-CNN by name.

        Args:
            images: (3, H, W) float32 in [0, 1] each.
            targets: As `targets.to_detection_target` makes them.
        """
        self.network.train()
        losses: dict[str, Tensor] = self.network(list(images), [dict(target) for target in targets])
        return losses

    @torch.no_grad()
    def see(self, image: Tensor) -> Features:
        """Run the trunk on one image, (3, H, W) float32 in [0, 1]."""
        self.network.eval()
        batch, _ = self.network.transform([image.to(self.device)])
        return Features(self.network.backbone(batch.tensors), batch.image_sizes[0], batch.tensors)

    @torch.no_grad()
    def detect_boxes(self, seen: Features) -> Boxes:
        """Find nuclei in what the trunk saw."""
        network, heads = self.network, self.network.roi_heads
        proposals, _ = network.rpn(ImageList(seen.padded, [seen.size]), seen.maps)
        pooled = heads.box_roi_pool(seen.maps, proposals, [seen.size])
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        boxes, scores, _ = heads.postprocess_detections(logits, deltas, proposals, [seen.size])
        found, looked_at, config = len(boxes[0]), len(proposals[0]), self.config
        too_few = looked_at >= config.proposals_after_nms and looked_at < _PROPOSALS_A_NUCLEUS * found
        return Boxes(boxes[0], scores[0], is_capped=found >= config.max_nuclei or too_few)

    @torch.no_grad()
    def detect_masks(self, seen: Features, boxes: Tensor) -> Tensor:
        """Mask probabilities (N, S, S) of given boxes (N, 4), each stretched over its box."""
        heads = self.network.roi_heads
        pooled = heads.mask_roi_pool(seen.maps, [boxes - self.inference.mask_offset_px], [seen.size])
        logits: Tensor = heads.mask_predictor(heads.mask_head(pooled))
        return logits[:, NUCLEUS].sigmoid()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values, enough for `from_state`."""
        return self.network.state_dict(), {"segmenter": to_table(self.config), "inference": to_table(self.inference)}

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        *,
        load: Callable[[nn.Module, Mapping[str, Tensor]], None],
        autocast: Autocast = nullcontext,
    ) -> Self:
        """Make a segmenter from what `state` returned; `load` puts tensors into a module.

        Raises:
            WeightsError: A part is missing.
        """
        try:
            config = build(SegmenterConfig, values["segmenter"], where="segmenter weights")
            inference = build(InferenceConfig, values["inference"], where="segmenter weights")
        except KeyError as error:
            msg = f"segmenter weights without {error}; train the segmenter again"
            raise WeightsError(msg) from None
        segmenter = cls(config, inference, autocast=autocast)
        load(segmenter.network, tensors)
        return segmenter
