"""The networks of the multi-domain style model, after MDMM (arXiv 1905.01270), smaller and with nucleus-aware content.

Images are (B, 3, H, W) in [-1, 1] here; nowhere outside `nucstyle.style` is that range used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from nucstyle.style.blocks import ResidualBlock, UpBlock, convolution

# B = batch, K = modalities, A = attribute size, C = content channels, W = base width

STRIDE = 4
"""An image pixel to content cell ratio; sides must be multiples of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleNetworkConfig:
    """Sizes of the networks."""

    width: Annotated[int, Ge(4)] = 16
    """Channels of the first layer; the content has four times as many."""
    attribute_size: Annotated[int, Ge(1)] = 8
    """Numbers that describe a style within its modality."""
    residual_blocks: Annotated[int, Ge(1)] = 4
    """In the content encoder, and again in the generator."""
    style_size: Annotated[int, Gt(0)] = 128
    """Size of the hidden code that modulates the generator."""


class ContentEncoder(nn.Module):
    """Image in canonical polarity -> what is where. Instance norm removes contrast and brightness."""

    def __init__(self, config: StyleNetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.stem = convolution(3, width, 5)
        self.down1 = convolution(width, 2 * width, 4, stride=2)
        self.down2 = convolution(2 * width, 4 * width, 4, stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(config.residual_blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 4 W, H / 4, W / 4)."""
        features = F.leaky_relu(self.stem(image), 0.2)
        features = F.relu(F.instance_norm(self.down1(features)))
        content: Tensor = self.blocks(F.relu(F.instance_norm(self.down2(features))))
        return content


class AttributeEncoder(nn.Module):
    """Image and its modality -> the distribution of its style."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        width = config.width
        channels = [width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = [convolution(3 + modalities, width, 4, stride=2)]
        for before, after in pairwise(channels):
            layers += [nn.LeakyReLU(0.2), convolution(before, after, 4, stride=2)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.mean = nn.Linear(channels[-1], config.attribute_size)
        self.log_variance = nn.Linear(channels[-1], config.attribute_size)

    def forward(self, image: Tensor, onehot: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), (B, K) -> mean and log variance, each (B, A)."""
        tiled = onehot[:, :, None, None].expand(-1, -1, *image.shape[2:]).to(image.dtype)
        hidden = self.layers(torch.cat([image, tiled], dim=1))
        return self.mean(hidden), self.log_variance(hidden)


class Generator(nn.Module):
    """Content, style and modality -> image."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        width, size = config.width, config.style_size
        self.style = nn.Sequential(
            nn.Linear(config.attribute_size + modalities, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU()
        )
        self.blocks = nn.ModuleList(ResidualBlock(4 * width, size) for _ in range(config.residual_blocks))
        self.up1 = UpBlock(4 * width, 2 * width, size)
        self.up2 = UpBlock(2 * width, width, size)
        self.last = convolution(width, 3, 3)

    def forward(self, content: Tensor, attribute: Tensor, onehot: Tensor) -> Tensor:
        """(B, 4 W, H / 4, W / 4), (B, A), (B, K) -> (B, 3, H, W) in [-1, 1]."""
        style = self.style(torch.cat([attribute, onehot], dim=1))
        for block in self.blocks:
            content = block(content, style)
        return torch.tanh(self.last(self.up2(self.up1(content, style), style)))


class NucleusHead(nn.Module):
    """Content -> where the nuclei are. It is what makes the content know what a nucleus is; used in training only."""

    def __init__(self, config: StyleNetworkConfig) -> None:
        super().__init__()
        channels = 4 * config.width
        self.layers = nn.Sequential(convolution(channels, channels, 3), nn.ReLU(), nn.Conv2d(channels, 1, 1))

    def forward(self, content: Tensor) -> Tensor:
        """(B, 4 W, H / 4, W / 4) -> (B, 1, H / 4, W / 4) logits."""
        logits: Tensor = self.layers(content)
        return logits


class Critic(nn.Module):
    """Patches -> real or made, judged by the modality's own output map, and which modality.

    Spectral norm keeps it from running away. There is one critic for the crossed and the random translations: the two
    of MDMM differ only in what they are shown.
    """

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        width = config.width
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [spectral_norm(convolution(before, after, 4, stride=2)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.realness = convolution(channels[-1], modalities, 3)
        self.modality = nn.Linear(channels[-1], modalities)

    def forward(self, image: Tensor, onehot: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), (B, K) -> realness (B, H / 32, W / 32), modality logits (B, K)."""
        hidden = self.layers(image)
        realness = (self.realness(hidden) * onehot[:, :, None, None].to(hidden.dtype)).sum(dim=1)
        return realness, self.modality(hidden.mean(dim=(2, 3)))


class ContentCritic(nn.Module):
    """Content -> the modality it came from; the encoder learns to leave it guessing."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        channels = 4 * config.width
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [convolution(channels, channels, 4, stride=2), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, modalities))

    def forward(self, content: Tensor) -> Tensor:
        """(B, 4 W, H / 4, W / 4) -> (B, K) logits."""
        logits: Tensor = self.layers(content)
        return logits


class TranslationNetworks(nn.Module):
    """The part of the model that translates: both encoders, the generator, and the nucleus head of the content.

    Args:
        config: Sizes.
        polarity: One sign a modality: 1 if its objects are brighter than their surroundings, -1 if darker. The content
            encoder sees `polarity * image`, so that objects are bright for it in every modality.
    """

    polarity: Tensor

    def __init__(self, config: StyleNetworkConfig, polarity: Sequence[int]) -> None:
        super().__init__()
        self.content_encoder = ContentEncoder(config)
        self.attribute_encoder = AttributeEncoder(config, len(polarity))
        self.generator = Generator(config, len(polarity))
        self.nucleus_head = NucleusHead(config)
        self.register_buffer("polarity", torch.tensor(polarity, dtype=torch.float32))

    def onehot(self, modality: Tensor) -> Tensor:
        """(B,) int64 -> (B, K) float32."""
        return F.one_hot(modality, len(self.polarity)).float()

    def encode_content(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, C, H / 4, W / 4)."""
        content: Tensor = self.content_encoder(image * self.polarity[modality][:, None, None, None])
        return content

    def encode_attribute(self, image: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), (B,) -> mean and log variance, each (B, A)."""
        mean, log_variance = self.attribute_encoder(image, self.onehot(modality))
        return mean, log_variance

    def generate(self, content: Tensor, attribute: Tensor, modality: Tensor) -> Tensor:
        """(B, C, H / 4, W / 4), (B, A), (B,) -> (B, 3, H, W) in [-1, 1]."""
        image: Tensor = self.generator(content, attribute, self.onehot(modality))
        return image


class Critics(nn.Module):
    """The networks that the translation is trained against."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        self.image = Critic(config, modalities)
        self.content = ContentCritic(config, modalities)
