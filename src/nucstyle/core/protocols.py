"""What a room may ask of another without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from torch import Generator, Tensor

# B = batch, H, W = pixels, A = attribute size. Images are float32 in [0, 1].

AttributeMode = Literal["per-domain", "normal"]
"""How a style is drawn: from the statistics of the target modality's training images, or from N(0, I)."""


@runtime_checkable
class Translator(Protocol):
    """Moves images between modalities; what sits in an image stays where it is."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of their numbers."""

    def recognise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,) int64: the modality that each image looks most like."""

    def draw_attribute(self, target: Tensor, *, mode: AttributeMode, generator: Generator) -> Tensor:
        """(B,) int64 -> (B, A): one style of the target modality for each image."""

    def encode_attribute(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, A): the style of given images."""

    def translate(self, image: Tensor, *, source: Tensor, target: Tensor, attribute: Tensor) -> Tensor:
        """(B, 3, H, W), (B,), (B,), (B, A) -> (B, 3, H, W): the same content in another style."""

    def reconstruct(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, 3, H, W): there and back in its own style; what is lost is the model's error."""


@runtime_checkable
class PartTranslator(Translator, Protocol):
    """Knows how to translate a part of a field as it would look within the translated field."""

    def translate_part(
        self, image: Tensor, *, whole: Tensor, source: Tensor, target: Tensor, attribute: Tensor
    ) -> Tensor:
        """As `translate`; what is measured over an image is measured over `whole`, (B, 3, H', W'), that it was cut from."""


@runtime_checkable
class SignedTranslator(Translator, Protocol):
    """Knows whether nuclei are brighter than their surroundings."""

    @property
    def polarity(self) -> tuple[int, ...]:
        """1 for each modality in which they are, -1 for those in which they are darker."""


class Progress(Protocol):
    """Where a long piece of work says how far it is."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage of `total` units begins."""

    def advance(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """`done` units of the stage are finished; `values` are worth showing beside them."""

    def say(self, line: str) -> None:
        """One line that stays on the screen."""


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Nothing."""

    def advance(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""


SILENT = Silent()
"""For callers that show nothing; it has no state."""


class Judge(Protocol):
    """Sees where nuclei are; used to measure and to gate, never as a loss."""

    def foreground(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H, W): the probability of nucleus."""
