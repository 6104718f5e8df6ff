"""Low-frequency amplitude of another image: the arm `fourier`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor

from nucstyle.augment.references import FromReference, Recognise, Reference, References
from nucstyle.core.rng import uniform
from nucstyle.core.sample import Applied, Sample

# H, W = size of the image, U, V = low frequencies along rows and columns

_NOTHING = 1e-7
"""An amplitude below this is rounding, and its phase a random number; as a share of the brightest possible mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierConfig:
    """How much of the spectrum is swapped."""

    share_low: Annotated[float, Ge(0), Le(0.25)] = 0.0
    """Frequencies are swapped up to so many cycles a pixel, by the shorter side, at least..."""
    share_high: Annotated[float, Ge(0), Le(0.25)] = 0.01
    """... and at most (the paper's beta; there 0.01 to 0.09). 0 = nothing is swapped; a share that is less than one cycle an
    image swaps the mean."""


class FourierSwap(FromReference):
    """Takes the amplitude of the low frequencies from a reference and keeps the phase.

    Source: FDA, Yang and Soatto 2020, arXiv 2004.05498. As there, frequencies are counted in cycles an image, as if the
    reference were resized to the image; but no pixel of it is needed for that. Of a reference no more than 64 cycles are known,
    and fewer than half its side: beyond, the image keeps its own. Errors and other arguments as `FromReference`.

    Args:
        references: Measured once from training images.
        config: How much of the spectrum is swapped.
        p: Probability that an image is changed.
        targets: Names of the modalities to choose from; None = all that have references.
        exclude_own: Never choose the modality that the image already has, where that is known.
        recognise: Says the modality of a sample that does not say it itself.
    """

    def __init__(
        self,
        references: References,
        config: FourierConfig = FourierConfig(),
        *,
        p: float = 0.5,
        targets: Sequence[str] | None = None,
        exclude_own: bool = False,
        recognise: Recognise | None = None,
    ) -> None:
        super().__init__(references, p, targets, exclude_own, recognise)
        self.config = config

    def draw_more(
        self, sample: Sample, own: str | None, target: str, reference: Reference, generator: Generator
    ) -> Mapping[str, object]:
        """`share` of the spectrum."""
        return {"share": uniform(self.config.share_low, self.config.share_high, generator)}

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """Swap with the reference that was drawn."""
        image = swap_amplitude(sample.image, self.reference(drawn).amplitude, cast("float", drawn["share"]))
        return sample.with_pixels(image, Applied(type(self).__name__, drawn))


def swap_amplitude(image: Tensor, amplitude: Tensor, share: float) -> Tensor:
    """Replace the amplitude of low frequencies.

    Args:
        image: (3, H, W) float32 in [0, 1].
        amplitude: (3, 2 U + 1, V + 1), as `Reference.amplitude` has it.
        share: In [0, 1/2). So much of the shorter side, rounded down, is the highest frequency that is swapped, along rows and
            columns.

    Returns:
        (3, H, W) float32, clipped to [0, 1]; the image itself where share is 0. A frequency that the image has nothing of stays
        nothing, since it has no phase.
    """
    if share <= 0:
        return image
    height, width = image.shape[1:]
    reach = int(share * min(height, width))
    most = (amplitude.shape[1] - 1) // 2
    up, across = min(reach, most), min(reach, amplitude.shape[2] - 1)
    spectrum = torch.fft.rfft2(image, norm="forward")
    wanted = amplitude[:, most - up : most + up + 1, : across + 1].float()
    for rows, own in ((slice(0, up + 1), wanted[:, up:]), (slice(height - up, height), wanted[:, :up])):
        low = spectrum[:, rows, : across + 1]
        size = low.abs()
        low.mul_(torch.where(size > _NOTHING, own / size.clamp(min=_NOTHING), 1.0))
    # Black has no phase, but its mean can be given all the same.
    spectrum[:, 0, 0] = wanted[:, up, 0].to(spectrum.dtype)
    swapped: Tensor = torch.fft.irfft2(spectrum, s=(height, width), norm="forward")
    return swapped.clamp_(0, 1)
