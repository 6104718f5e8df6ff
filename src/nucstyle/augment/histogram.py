"""Histogram matching: the arm `histogram`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nucstyle.augment.references import LEVELS, FromReference, cumulative, level_index
from nucstyle.core.sample import Applied, Sample

# H, W = size of the image, L = LEVELS


class HistogramMatch(FromReference):
    """Gives each channel the distribution of a reference's (Gonzalez and Woods, Digital Image Processing, section 3.3).

    The same mapping as `skimage.exposure.match_histograms` on images of 8 bits; others are taken as if they had 10. The order
    of the levels of a channel stays, so nuclei that are brighter than their surroundings stay brighter. Arguments, record and
    errors as `FromReference`.
    """

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Match to the reference that was drawn."""
        matched = match_histogram(sample.image, self.reference(drawn).cumulative)
        return sample.with_pixels(matched, Applied(type(self).__name__, drawn))


def match_histogram(image: Tensor, reference: Tensor) -> Tensor:
    """Match by a lookup table.

    Args:
        image: (3, H, W) float32 in [0, 1].
        reference: (3, L), as `Reference.cumulative` has it.

    Returns:
        (3, H, W) float32 in [0, 1].
    """
    index = level_index(image)
    table = _levels_at(_shares(cumulative(index)), _shares(reference)).div_(LEVELS - 1).float()
    return torch.index_select(table.flatten(), 0, index.flatten()).view_as(image)


def _shares(counts: Tensor) -> Tensor:
    return counts.double() / counts[:, -1:]


def _levels_at(shares: Tensor, reference: Tensor) -> Tensor:
    """(3, L) shares of the pixels -> (3, L) the level of the reference up to which as many lie, linear between those it has."""
    upper = torch.searchsorted(reference, shares)  # both end with 1, so there is always one
    below = reference.gather(1, (upper - 1).clamp_(min=0))  # share below the upper level; for the first level its own
    lower = torch.where(below > 0, torch.searchsorted(reference, below), upper)
    part = (shares - below) / (reference.gather(1, upper) - below).clamp_(min=1e-12)
    return torch.lerp(lower.double(), upper.double(), part.clamp_(0, 1))
