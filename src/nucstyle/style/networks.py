"""What the networks of every style model have in common, and their sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

# B = batch, K = modalities, A = attribute size, C = content channels, H, W = size of the image

STRIDE = 4
"""The content has a cell for each square of this many pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleNetworkConfig:
    """Sizes of the networks."""

    architecture: Literal["lookup", "mdmm"] = "lookup"
    """lookup: a lookup table between measured colours, corrected by a network. mdmm: that of arXiv 1905.01270."""
    width: Annotated[int, Ge(4)] = 16
    """Channels of the first layer; the content has four times as many."""
    attribute_size: Annotated[int, Ge(1)] = 8
    """mdmm: numbers that describe a style within its modality. lookup has its own: the measured colours."""
    residual_blocks: Annotated[int, Ge(1)] = 3
    """In the content encoder, and again in the generator."""
    style_size: Annotated[int, Gt(0)] = 128
    """lookup: size of the hidden code that modulates the generator."""
    feature_critic: bool = True
    """lookup: whether the image critic also judges features of the shipped trunk."""
    nucleus_head: bool = True
    """mdmm: whether there is a head that finds nuclei in the content. lookup always has it."""
    canonical_polarity: bool = True
    """mdmm: whether the content encoder is shown every modality with bright objects. lookup always is."""
    critic_norm: Literal["none", "instance"] = "none"
    """mdmm: norm in the image critics; MDMM's code never got as far as adding one."""


class FeatureTrunk(Protocol):
    """A trained network that turns images into feature maps; it does not learn here."""

    @property
    def channels(self) -> Sequence[int]:
        """Of each map."""

    def __call__(self, image: Tensor, /) -> Sequence[Tensor]:
        """(B, 3, H, W) in [0, 1] -> maps (B, C, h, w)."""


class Content(NamedTuple):
    """What is where in an image."""

    code: Tensor
    """(B, C, H / 4, W / 4)."""
    detail: Tensor | None = None
    """(B, 1, H, W): the image in canonical grey at full resolution, where the architecture hands it on."""

    def repeat(self, times: int) -> Content:
        """The batch, several times."""
        detail = None if self.detail is None else self.detail.repeat(times, 1, 1, 1)
        return Content(self.code.repeat(times, 1, 1, 1), detail)

    def plus(self, noise: Tensor) -> Content:
        """With noise on the code."""
        return self._replace(code=self.code + noise)


class Attribute(NamedTuple):
    """The distribution of a style; without a variance it is known exactly."""

    mean: Tensor
    """(B, A)."""
    log_variance: Tensor | None = None
    """(B, A)."""

    def draw(self, noise: Tensor) -> Tensor:
        """One style, (B, A), by standard normal noise."""
        return self.mean if self.log_variance is None else self.mean + noise * (0.5 * self.log_variance).exp()


class TranslationNetworks(nn.Module, ABC):
    """The part of a style model that translates: encoders, generator, and the nucleus head of the content.

    Args:
        config: Sizes.
        polarity: One sign a modality: 1 if its objects are brighter than their surroundings, -1 if darker.
    """

    learns_attribute: ClassVar[bool]
    """Whether styles are encoded by a network towards N(0, I), so that random ones can be drawn from it."""
    receptive_radius: int | None
    """How many pixels away an output pixel still sees the image; None = everything, by statistics over the image."""
    polarity: Tensor

    def __init__(self, config: StyleNetworkConfig, polarity: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("polarity", torch.tensor(polarity, dtype=torch.float32))
        self.config = config

    @property
    @abstractmethod
    def attribute_size(self) -> int:
        """A."""

    @abstractmethod
    def encode_content(self, image: Tensor, modality: Tensor, colours: Tensor) -> Content:
        """Images in [-1, 1] (B, 3, H, W), their modalities (B,), the colours of the whole images (B, 6) in [-1, 1]."""

    @abstractmethod
    def encode_attribute(self, image: Tensor, modality: Tensor, colours: Tensor) -> Attribute:
        """(B, 3, H, W), (B,), (B, 6) -> the styles of images."""

    @abstractmethod
    def generate(self, content: Content, attribute: Tensor, modality: Tensor, texture: Tensor) -> Tensor:
        """Content, (B, A), (B,) and noise (B, 1, H, W) that becomes texture -> (B, 3, H, W), about [-1, 1]."""

    @abstractmethod
    def nucleus_logits(self, content: Content) -> Tensor:
        """Content -> (B, 1, H, W) logits: where the nuclei are."""

    @abstractmethod
    def content_learners(self) -> list[nn.Module]:
        """The modules behind `encode_content` and `nucleus_logits`."""

    def attribute_learners(self) -> list[nn.Module]:
        """The modules behind `encode_attribute`."""
        return []

    def onehot(self, modality: Tensor) -> Tensor:
        """(B,) int64 -> (B, K) float32."""
        return F.one_hot(modality, len(self.polarity)).float()


class Critics(nn.Module, ABC):
    """The networks that a translation is trained against.

    Attributes:
        image: One critic for each kind of translation: (B, 3, H, W), (B, K) -> realness maps, modality logits (B, K).
        content: Content code -> (B, K) logits of the modality it came from.
    """

    image: nn.ModuleList
    content: nn.Module
