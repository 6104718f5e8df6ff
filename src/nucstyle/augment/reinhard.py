"""Mean and deviation in L*a*b*: the arm `reinhard`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nucstyle.augment.lab import lab_to_rgb, moments, rgb_to_lab
from nucstyle.augment.references import FromReference
from nucstyle.core.sample import Applied, Sample

# H, W = size of the image

LEAST_DEVIATION = 1.0
"""A difference of 1 in L*a*b* is just noticeable. What varies less, such as the colour of a grey image, is enlarged as if it
varied so much: otherwise rounding errors would become colours."""


class Reinhard(FromReference):
    """Gives L*, a* and b* the mean and deviation of a reference's (Reinhard et al. 2001, doi 10.1109/38.946629).

    In CIE L*a*b*, as stain normalisation does it (Magee et al. 2009), where the paper has Ruderman's l-alpha-beta. Arguments,
    record and errors as `FromReference`.
    """

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Transfer from the reference that was drawn."""
        reference = self.reference(drawn)
        image = transfer_lab(sample.image, reference.lab_mean, reference.lab_deviation)
        return sample.with_pixels(image, Applied(type(self).__name__, drawn))


def transfer_lab(image: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Give an image a mean and a deviation.

    Args:
        image: (3, H, W) float32 in [0, 1].
        mean: (3,), of L*, a*, b*.
        deviation: (3,).

    Returns:
        (3, H, W) float32, clipped to [0, 1]. Where an image varies by less than `LEAST_DEVIATION`, so does its result of the
        reference's deviation.
    """
    lab = rgb_to_lab(image)
    own_mean, own_deviation = moments(lab)
    gain = deviation / own_deviation.clamp(min=LEAST_DEVIATION)
    shift = mean - gain * own_mean
    return lab_to_rgb(lab.mul_(gain[:, None, None]).add_(shift[:, None, None]))
