"""What every augmentation is: draw (all the randomness), apply (none), and a record of what was drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from torch import Generator

from nucstyle.core.errors import OptionError
from nucstyle.core.sample import Sample


class Augmentation(ABC):
    """Changes a sample; the same generator state gives the same result."""

    @abstractmethod
    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """All the randomness: plain values that `apply` needs, or None to leave the sample as it is."""

    @abstractmethod
    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """No randomness: the sample after the augmentation, with its record in the history."""

    def augment(self, sample: Sample, generator: Generator) -> Sample:
        """Draw, then apply."""
        drawn = self.draw(sample, generator)
        return sample if drawn is None else self.apply(sample, drawn)


def check_choice(p: float, chosen: Sequence[str] | None, known: Sequence[str], *, what: str = "target") -> None:
    """Refuse a chance, or modalities to choose from, that there cannot be.

    Args:
        p: Probability that an image is changed.
        chosen: Names of modalities; None = all that are known.
        known: Their names.
        what: They are to be, for the message.

    Raises:
        OptionError: p outside [0, 1], or an unknown modality, or none.
    """
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        msg = f"p is a probability in [0, 1], got {p!r}"
        raise OptionError(msg)
    if isinstance(chosen, str) or not isinstance(chosen, Iterable | None):
        msg = f"{what}s are the names of modalities, one or more in a list, got {chosen!r}; known: {', '.join(known)}"
        raise OptionError(msg)
    unknown = [name for name in chosen or () if name not in known]
    if unknown or (chosen is not None and not chosen):
        msg = f"unknown {what} modality {unknown}; known: {', '.join(known)}"
        raise OptionError(msg)


def augment_in_order(sample: Sample, augmentations: Sequence[Augmentation], generator: Generator) -> Sample:
    """Apply several augmentations, one after the other, from one generator."""
    for augmentation in augmentations:
        sample = augmentation.augment(sample, generator)
    return sample
