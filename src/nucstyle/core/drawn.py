"""A label map that was drawn from outlines or run lengths, and what of these it cannot hold."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# H, W = height, width of the image


@dataclass(frozen=True, slots=True)
class Drawn:
    """Nuclei as numbers of pixels. Where several claim a pixel, the first in order keeps it."""

    labels: Tensor
    """(H, W) int32, 0 = background."""
    shared: Tensor | None = None
    """(H, W) bool, the pixels that several nuclei claim; None = there are none."""
    covered: tuple[int, ...] = ()
    """Numbers that are missing in the map since others keep all their pixels, ascending."""
    empty: tuple[int, ...] = ()
    """Numbers that are missing since they claim no pixel, ascending."""

    @property
    def lost(self) -> tuple[int, ...]:
        """All numbers that were given and are missing, ascending."""
        return tuple(sorted((*self.covered, *self.empty)))
