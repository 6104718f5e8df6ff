"""What one image lends to others without a network: a few numbers, measured once, without masks.

The arms `recolour`, `histogram`, `reinhard` and `fourier` take a random training image of another modality for their example.
None of them needs more of it than stands here, so that a data set fits in memory: about 63 kB an image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Generator, Tensor

from nucstyle.augment.base import Augmentation, check_choice
from nucstyle.augment.lab import moments, rgb_to_lab
from nucstyle.core.errors import OptionError
from nucstyle.core.photometry import measure_stops
from nucstyle.core.rng import chance, integer
from nucstyle.core.sample import Sample

# H, W = size of the image, L = LEVELS, U, V = low frequencies along rows and columns

LEVELS = 4 * 255 + 1
"""Levels of a histogram: four to a level of an 8-bit image, and each of those is one of them."""
LOWEST = 64
"""Amplitudes are kept up to so many cycles an image."""

Recognise = Callable[[Tensor], str]
"""(3, H, W) float32 in [0, 1] -> the name of the modality that an image looks most like."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reference:
    """What is kept of one image."""

    id: str
    """Of the sample."""
    stops: Tensor
    """(3, 3) float32 in [0, 1]: a colour each for background, objects and the extreme."""
    cumulative: Tensor
    """(3, L) int32: how many pixels of a channel are at a level or below; at the last one it is all of them."""
    lab_mean: Tensor
    """(3,) float32, of L*, a*, b*."""
    lab_deviation: Tensor
    """(3,) float32."""
    amplitude: Tensor
    """(3, 2 U + 1, V + 1) float16 in [0, 1]: mean of the image times exp(-2 pi i (u y / H + v x / W)), its modulus, for u
    from -U to U and v from 0 to V; U and V are 64 or less, below half of H and W. At u = v = 0 it is the mean."""

    @classmethod
    def measure(cls, sample: Sample, polarity: int) -> Self:
        """Measure one image; labels are not looked at.

        Args:
            sample: Of any size.
            polarity: 1 if objects are brighter than their surroundings, -1 if darker.
        """
        mean, deviation = moments(rgb_to_lab(sample.image))
        return cls(
            id=sample.id,
            stops=measure_stops(sample.image, polarity),
            cumulative=cumulative(level_index(sample.image)),
            lab_mean=mean,
            lab_deviation=deviation,
            amplitude=low_amplitude(sample.image),
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class References:
    """The unlabelled images that others take for their example, by modality."""

    polarity: Mapping[str, int]
    """1 if the objects of a modality are brighter than their surroundings, -1 if darker."""
    images: Mapping[str, Mapping[str, Reference]]
    """Modality, then id. Only modalities that have images."""

    @classmethod
    def measure(cls, samples: Sequence[Sample], modalities: Sequence[str], polarity: Mapping[str, int]) -> Self:
        """Measure images once.

        Args:
            samples: Training images; labels are not looked at.
            modalities: The name of each one's modality.
            polarity: 1 or -1 for each modality by name, as found without masks; modalities without images may be there too.

        Raises:
            OptionError: No images, not as many names as images, a modality without polarity, a polarity that is neither 1
                nor -1, or an id twice in one modality.
        """
        if not len(samples) or len(samples) != len(modalities):
            msg = (
                f"references need images and a modality for each, got {len(samples)} images and {len(modalities)} names"
            )
            raise OptionError(msg)
        if wrong := {name: sign for name, sign in polarity.items() if sign not in (1, -1)}:
            msg = f"the polarity of a modality is 1 (objects brighter) or -1 (darker), got {wrong}"
            raise OptionError(msg)
        images: dict[str, dict[str, Reference]] = {}
        for sample, name in zip(samples, modalities, strict=True):
            if name not in polarity:
                msg = f"{sample.id}: no polarity is given for its modality {name!r}; known: {', '.join(polarity)}"
                raise OptionError(msg)
            group = images.setdefault(name, {})
            if sample.id in group:
                msg = f"{sample.id}: two reference images of {name} have this id; an id names one image"
                raise OptionError(msg)
            group[sample.id] = Reference.measure(sample, polarity[name])
        return cls(polarity=dict(polarity), images=images)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of those that have images, in the order in which they were met."""
        return tuple(self.images)

    def find(self, modality: str, identity: str) -> Reference:
        """A reference by modality and id.

        Raises:
            OptionError: There is none.
        """
        try:
            return self.images[modality][identity]
        except KeyError:
            msg = (
                f"no reference image {identity!r} of {modality!r}; these references are not those that were drawn from"
            )
            raise OptionError(msg) from None


class FromReference(Augmentation):
    """Gives an image, with probability p, something of a random reference of a random modality; labels stay the same object.

    The target modality is drawn first, all alike, then an image of it, all alike. Recorded are `source` (None where it is not
    known), `target` and `reference`, the id, beside what else is drawn.

    Args:
        references: Measured once from training images.
        p: Probability that an image is changed.
        targets: Names of the modalities to choose from; None = all that have references.
        exclude_own: Never choose the modality that the image already has, where that is known.
        recognise: Says the modality of a sample that does not say it itself. Asked only where it matters.

    Raises:
        OptionError: p outside [0, 1], or a target without references.
    """

    needs_source = False
    """Whether the source's modality matters even where `exclude_own` is off."""

    def __init__(
        self,
        references: References,
        p: float = 0.5,
        targets: Sequence[str] | None = None,
        exclude_own: bool = False,
        recognise: Recognise | None = None,
    ) -> None:
        check_choice(p, targets, references.modalities)
        self.references = references
        self.p = p
        self.targets = tuple(targets or references.modalities)
        self.exclude_own = exclude_own
        self.recognise = recognise

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Whether, and which reference of which modality."""
        if not chance(self.p, generator):
            return None
        own = self._modality(sample)
        choices = [name for name in self.targets if not (self.exclude_own and name == own)]
        if not choices:
            return None
        target = choices[integer(0, len(choices), generator)]
        group = tuple(self.references.images[target].values())
        reference = group[integer(0, len(group), generator)]
        return {
            "source": own,
            "target": target,
            "reference": reference.id,
            **self.draw_more(sample, own, target, reference, generator),
        }

    def draw_more(
        self, sample: Sample, own: str | None, target: str, reference: Reference, generator: Generator
    ) -> Mapping[str, object]:
        """What an augmentation draws beside the reference: plain values."""
        return {}

    @abstractmethod
    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """No randomness: the sample after the augmentation, with its record in the history."""

    def reference(self, drawn: Mapping[str, object]) -> Reference:
        """The one that was drawn."""
        return self.references.find(cast("str", drawn["target"]), cast("str", drawn["reference"]))

    def _modality(self, sample: Sample) -> str | None:
        """The sample's own modality: the one it is labelled with if its polarity is known, else what is seen in it."""
        if sample.modality in self.references.polarity:
            return sample.modality
        if self.recognise is None or not (self.exclude_own or self.needs_source):
            return None
        return self.recognise(sample.field)


def level_index(image: Tensor) -> Tensor:
    """The nearest of the levels for each pixel, the channels' levels one after another.

    Args:
        image: (3, H, W) float32 in [0, 1].

    Returns:
        (3, H, W) int32 in [0, 3 L): channel c has those from c L on; level l of it stands for the value l / (L - 1).
    """
    first = torch.tensor([0.5, LEVELS + 0.5, 2 * LEVELS + 0.5])[:, None, None]
    return (image * (LEVELS - 1)).add_(first).int()


def cumulative(index: Tensor) -> Tensor:
    """The cumulative histogram of each channel.

    Args:
        index: (3, H, W) from `level_index`.

    Returns:
        (3, L) int32: how many pixels are at a level or below.
    """
    return torch.bincount(index.flatten(), minlength=3 * LEVELS).view(3, LEVELS).cumsum(dim=1).int()


def low_amplitude(image: Tensor) -> Tensor:
    """The amplitudes of the lowest frequencies, on a scale that does not depend on the size of the image.

    Args:
        image: (3, H, W) float32 in [0, 1].

    Returns:
        (3, 2 U + 1, V + 1) float16, as `Reference.amplitude` has it.
    """
    height, width = image.shape[1:]
    up, across = min(LOWEST, (height - 1) // 2), min(LOWEST, (width - 1) // 2)
    spectrum = torch.fft.rfft2(image, norm="forward")[:, :, : across + 1]
    # Negative frequencies of the rows are at the end.
    return torch.cat([spectrum[:, height - up :], spectrum[:, : up + 1]], dim=1).abs().half()
