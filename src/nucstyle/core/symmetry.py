"""The eight symmetries of the square, exact and exactly invertible on pixels, label maps and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Mirror left-right first (if `mirrored`), then turn by `quarter_turns` times 90 degrees counter-clockwise."""

    quarter_turns: int = 0
    """0 to 3."""
    mirrored: bool = False
    """Whether left and right are exchanged first."""

    def apply(self, pixels: Tensor) -> Tensor:
        """Move pixels.

        Args:
            pixels: (..., H, W).

        Returns:
            (..., H, W), or (..., W, H) for an odd number of quarter turns.
        """
        moved = pixels.flip(-1) if self.mirrored else pixels
        return torch.rot90(moved, self.quarter_turns, (-2, -1))

    def invert(self, pixels: Tensor) -> Tensor:
        """Undo `apply`: `invert(apply(x))` equals `x`."""
        turned = torch.rot90(pixels, -self.quarter_turns, (-2, -1))
        return turned.flip(-1) if self.mirrored else turned

    def apply_boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Move boxes along with the pixels of an image.

        Args:
            boxes: (N, 4), x0 y0 x1 y1 in pixels of the image before the move.
            size: (height, width) of the image before the move.

        Returns:
            (N, 4) in pixels of the moved image.
        """
        height, width = size
        x0, y0, x1, y1 = boxes.unbind(-1)
        if self.mirrored:
            x0, x1 = width - x1, width - x0
        for _ in range(self.quarter_turns % 4):
            # A counter-clockwise quarter turn takes the column x to the row (width - x) and the row y to the column y.
            x0, y0, x1, y1 = y0, width - x1, y1, width - x0
            height, width = width, height
        return torch.stack([x0, y0, x1, y1], dim=-1)

    def invert_boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Undo `apply_boxes`; `size` is again that of the image before the move."""
        height, width = size
        if self.quarter_turns % 2:
            height, width = width, height
        x0, y0, x1, y1 = boxes.unbind(-1)
        for _ in range(self.quarter_turns % 4):
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            height, width = width, height
        if self.mirrored:
            x0, x1 = width - x1, width - x0
        return torch.stack([x0, y0, x1, y1], dim=-1)


IDENTITY = Symmetry()
LEFT_RIGHT = Symmetry(mirrored=True)
UP_DOWN = Symmetry(quarter_turns=2, mirrored=True)
HALF_TURN = Symmetry(quarter_turns=2)
ALL = tuple(Symmetry(turns, mirrored) for mirrored in (False, True) for turns in range(4))
