"""The trained style model: moves images between modalities. It is `core.protocols.Translator` made real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from nucstyle.core.config import build, to_table
from nucstyle.core.errors import OptionError, WeightsError
from nucstyle.core.precision import Autocast
from nucstyle.core.protocols import AttributeMode
from nucstyle.style.networks import STRIDE, StyleNetworkConfig, TranslationNetworks

# B = batch, K = modalities, A = attribute size

_MARGIN = 16
"""Pixels that are repeated around an image before it is restyled and cropped away after: the networks pad with zeros."""
_MIN_SIDE = 16


@dataclass(frozen=True, slots=True)
class AttributeStatistics:
    """How the attributes of each modality's training images are spread (HistAuGAN, arXiv 2107.12357)."""

    mean: Tensor
    """(K, A) float32."""
    deviation: Tensor
    """(K, A) float32, not negative."""


class StyleModel:
    """Moves images between imaging modalities; what sits in an image stays where it is.

    Args:
        networks: Trained encoders and generator.
        config: Their sizes.
        modalities: Names, in the order of their numbers.
        attributes: Spread of the attributes of each modality.
        recogniser: (3, H, W) float32 in [0, 1] -> number of the modality.
        autocast: Number format in which the networks compute.
    """

    def __init__(
        self,
        networks: TranslationNetworks,
        config: StyleNetworkConfig,
        modalities: Sequence[str],
        attributes: AttributeStatistics,
        recogniser: Callable[[Tensor], int],
        autocast: Autocast = nullcontext,
    ) -> None:
        self._networks = networks.eval()
        self._config = config
        self._modalities = tuple(modalities)
        self._attributes = attributes
        self._recogniser = recogniser
        self._autocast = autocast

    def __repr__(self) -> str:
        return f"StyleModel(modalities={self._modalities}, width={self._config.width})"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of their numbers."""
        return self._modalities

    @property
    def device(self) -> torch.device:
        """Where the networks are; results come from there."""
        return self._networks.polarity.device

    def to(self, device: str) -> Self:
        """Move the networks to a device; returns the model itself."""
        self._networks.to(device).to(memory_format=torch.channels_last)
        return self

    def number(self, modality: str) -> int:
        """The number of a modality.

        Raises:
            OptionError: The model does not know it.
        """
        if modality not in self._modalities:
            msg = f"unknown modality {modality!r}; this style model knows {', '.join(self._modalities)}"
            raise OptionError(msg)
        return self._modalities.index(modality)

    def recognise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,) int64: the modality each image looks most like."""
        return torch.tensor([self._recogniser(one) for one in image], dtype=torch.int64)

    def draw_attribute(self, target: Tensor, *, mode: AttributeMode, generator: Generator) -> Tensor:
        """Draw one style for each image.

        Args:
            target: (B,) int64.
            mode: `per-domain` draws from the spread of the target's training images, `normal` from N(0, I) (the paper's
                text, which is off the distribution where the KL term is weak).
            generator: A CPU generator.

        Returns:
            (B, A) float32 on the CPU.
        """
        noise = torch.randn((len(target), self._config.attribute_size), generator=generator)
        if mode == "normal":
            return noise
        return self._attributes.mean[target] + self._attributes.deviation[target] * noise

    @torch.no_grad()
    def encode_attribute(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], (B,) -> (B, A): the style of given images (its most likely value, no draw)."""
        padded = _to_network(image.to(self.device), margin=0)
        with self._autocast():
            mean, _ = self._networks.encode_attribute(padded, modality.to(self.device))
        return mean.float()

    @torch.no_grad()
    def translate(self, image: Tensor, *, source: Tensor, target: Tensor, attribute: Tensor) -> Tensor:
        """Restyle images.

        Args:
            image: (B, 3, H, W) float32 in [0, 1], any size.
            source: (B,) int64, the modality of each image.
            target: (B,) int64, the wanted modality.
            attribute: (B, A), the wanted style within it.

        Returns:
            (B, 3, H, W) float32 in [0, 1] on the model's device, of the same size.
        """
        device, (height, width) = self.device, image.shape[-2:]
        padded = _to_network(image.to(device), margin=_MARGIN)
        with self._autocast():
            content = self._networks.encode_content(padded, source.to(device))
            made = self._networks.generate(content, attribute.to(device), target.to(device)).float()
        inner = made[..., _MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width]
        return ((inner + 1) / 2).clamp(0, 1)

    def reconstruct(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, 3, H, W): each image from its own content and style."""
        attribute = self.encode_attribute(image, modality)
        return self.translate(image, source=modality, target=modality, attribute=attribute)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values, enough for `from_state` together with a recogniser."""
        tensors = {f"networks.{name}": tensor for name, tensor in self._networks.state_dict().items()}
        tensors |= {"attributes.mean": self._attributes.mean, "attributes.deviation": self._attributes.deviation}
        return tensors, {"network": to_table(self._config), "modalities": list(self._modalities)}

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        *,
        recogniser: Callable[[Tensor], int],
        load: Callable[[torch.nn.Module, Mapping[str, Tensor]], None],
        autocast: Autocast = nullcontext,
    ) -> Self:
        """Make a model from what `state` returned.

        Args:
            tensors: By name.
            values: The plain values.
            recogniser: (3, H, W) float32 in [0, 1] -> number of the modality.
            load: Puts tensors into a module and refuses those that do not fit.
            autocast: Number format in which the networks compute.

        Raises:
            WeightsError: A part is missing.
        """
        try:
            config = build(StyleNetworkConfig, values["network"], where="style weights")
            modalities = list(values["modalities"])
            attributes = AttributeStatistics(tensors["attributes.mean"], tensors["attributes.deviation"])
        except KeyError as error:
            msg = f"style weights without {error}; train the style model again"
            raise WeightsError(msg) from None
        networks = TranslationNetworks(config, [1] * len(modalities))
        prefix = "networks."
        load(networks, {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)})
        return cls(networks, config, modalities, attributes, recogniser, autocast)


def _to_network(image: Tensor, *, margin: int) -> Tensor:
    """[0, 1] -> [-1, 1], with a margin at every side, and then as much more as the encoders need.

    The border pixels are repeated: reflection needs more pixels than a tiny image has.

    Args:
        image: (B, 3, H, W).
        margin: In pixels, a multiple of the stride.

    Returns:
        (B, 3, h, w), sides multiples of the stride and at least `_MIN_SIDE`; the image begins at (margin, margin).
    """
    height, width = int(image.shape[-2]), int(image.shape[-1])
    bottom, right = (_fill(side + 2 * margin) - side - margin for side in (height, width))
    padded = F.pad(image, (margin, right, margin, bottom), mode="replicate")
    return padded * 2 - 1


def _fill(side: int) -> int:
    """The next multiple of the stride that is large enough for the attribute encoder, which halves four times."""
    return max(_MIN_SIDE, -(-side // STRIDE) * STRIDE)
