"""Cutting regions out of a feature pyramid, as torchvision's RoIAlign, whose way back is slow on a CPU.

RoIAlign (He et al., Mask R-CNN, 2017, https://arxiv.org/abs/1703.06870) makes each cell of a region a weighted sum of cells of
the map. torch adds up such sums as bags of an embedding, whose gradient it scatters by sorting, where torchvision's own adds
number by number on one core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

# B = images, R = regions, C = channels, h, w = size of a map, S = side of what is cut out, G = samples along it

_SAMPLES = 2
"""In each direction of a cell, as in Detectron's configuration of Mask R-CNN."""


class PyramidPooling(MultiScaleRoIAlign):  # type: ignore[misc]
    """torchvision's `MultiScaleRoIAlign` with two samples a cell and direction; on a CPU in another way.

    The scale of each map is given here. torchvision takes it from the first image that it sees, for good, and takes it wrong
    where padding to a multiple of 32 adds much to a small image: every later image would be cut in the wrong places.

    Args:
        levels: Name of each map and how many pixels of the image its cells span, finest first; doubling.
        output_size: S.
    """

    def __init__(self, levels: Mapping[str, int], output_size: int) -> None:
        super().__init__(list(levels), output_size, _SAMPLES)
        self._strides = list(levels.values())
        self.scales = [1 / stride for stride in self._strides]
        self.map_levels = initLevelMapper(int(math.log2(self._strides[0])), int(math.log2(self._strides[-1])))

    def forward(
        self, maps: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Cut regions out of the maps that suit their size.

        Args:
            maps: (B, C, h, w) float32 by name; those that are not among the levels are left alone.
            boxes: (R, 4) xyxy in pixels for each image.
            image_shapes: (height, width) of each image, which torchvision asks for and neither way looks at.

        Returns:
            (sum of R, C, S, S) float32, image by image.
        """
        used = [maps[name] for name in self.featmap_names]
        if used[0].device.type != "cpu":
            cut: Tensor = super().forward(maps, list(boxes), list(image_shapes))
            return cut
        return self._cut(used, list(boxes))

    def _cut(self, used: list[Tensor], boxes: list[Tensor]) -> Tensor:
        side, channels = self.output_size[0], used[0].shape[1]
        regions = torch.cat(boxes)
        image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(own) for own in boxes]))
        level = self.map_levels(boxes)
        heights, widths = torch.tensor([one.shape[-2:] for one in used]).T
        starts = torch.tensor([0, *[one.shape[0] * one.shape[2] * one.shape[3] for one in used]]).cumsum(0)[:-1]
        scaled = regions / regions.new_tensor(self._strides)[level][:, None]
        rows, row_weights = _samples(scaled[:, 1], scaled[:, 3], heights[level], side)
        columns, column_weights = _samples(scaled[:, 0], scaled[:, 2], widths[level], side)
        first = starts[level] + image * (heights * widths)[level]  # (R,) the first cell of the map
        rows = first[:, None, None] + rows * widths[level][:, None, None]
        cells = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # (R, S, S, 2 G, 2 G)
        weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
        table = torch.cat([one.permute(0, 2, 3, 1).reshape(-1, channels) for one in used])  # (cells of all maps, C)
        parts = (2 * _SAMPLES) ** 2
        bags = F.embedding_bag(
            cells.reshape(-1, parts), table, per_sample_weights=weights.reshape(-1, parts), mode="sum"
        )
        return bags.reshape(-1, side, side, channels).permute(0, 3, 1, 2)


def _samples(start: Tensor, end: Tensor, size: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where regions are sampled along one axis, as torchvision does it with `aligned=False`.

    Args:
        start: (R,) of the regions, in cells of the map.
        end: (R,).
        size: (R,) int64 cells of the map.
        side: S.

    Returns:
        The cells (R, S, 2 G) int64 and their weights (R, S, 2 G) float32, which sum to 1 for what lies on the map.
    """
    step = (end - start).clamp(min=1.0) / (side * _SAMPLES)
    places = torch.arange(side * _SAMPLES, dtype=start.dtype, device=start.device) + 0.5
    at = (start[:, None] + places * step[:, None]).reshape(len(start), side, _SAMPLES)
    last = (size - 1)[:, None, None]
    is_on_map = (at >= -1) & (at <= last + 1)
    at = torch.minimum(at.clamp(min=0), last.to(at.dtype))
    low = at.long()
    share = at - low
    weight = is_on_map.to(at.dtype) / _SAMPLES
    cells = torch.cat([low, torch.minimum(low + 1, last)], dim=2)
    return cells, torch.cat([(1 - share) * weight, share * weight], dim=2)
