"""The published networks: encoders, generator and critics of MDMM (arXiv 1905.01270), as the paper uses them.

Written from the descriptions in the papers, https://github.com/HsinYingLee/MDMM and arXiv 2111.12138, section 2.3, with the
defects of the published code mended: the critics' norm can be switched on, their realness head has no constant border, and
no head depends on the size of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nucstyle.style.networks import Attribute, Content, Critics, StyleNetworkConfig, TranslationNetworks

# B = batch, K = modalities, A = attribute size, W = base width (64), H, W = size of the image

_SLOPE = 0.01
"""Of the leaky ReLUs, but for those of the attribute encoder."""
_ATTRIBUTE_SLOPE = 0.2


def reflected(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution with reflection at the border."""
    margin = kernel // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, kernel, stride, margin, padding_mode="reflect")


class InstanceBlock(nn.Module):
    """Two 3 x 3 convolutions with instance norm beside the identity.

    Args:
        channels: C, kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            reflected(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            reflected(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        added: Tensor = features + self.layers(features)
        return added


class ContentEncoder(nn.Module):
    """Image -> what is where: 5.10 million numbers at width 64."""

    def __init__(self, config: StyleNetworkConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [reflected(3, width, 7), nn.LeakyReLU(_SLOPE)]
        for before, after in pairwise((width, 2 * width, 4 * width)):
            layers += [reflected(before, after, 3, stride=2), nn.InstanceNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, *(InstanceBlock(4 * width) for _ in range(config.residual_blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 4 W, H / 4, W / 4)."""
        code: Tensor = self.layers(image)
        return code


class ShrinkingBlock(nn.Module):
    """Half the size, without any norm: a norm would remove what the attribute is about."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = reflected(inputs, inputs, 3)
        self.second = reflected(inputs, outputs, 3)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, O, h / 2, w / 2)."""
        hidden = self.first(F.leaky_relu(features, _ATTRIBUTE_SLOPE))
        hidden = F.avg_pool2d(self.second(F.leaky_relu(hidden, _ATTRIBUTE_SLOPE)), 2)
        shortcut: Tensor = self.shortcut(F.avg_pool2d(features, 2))
        return hidden + shortcut


class AttributeEncoder(nn.Module):
    """Image and its modality -> the distribution of its style: 1.35 million numbers at width 64."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        widths = [config.width * times for times in (1, 2, 3, 4)]
        self.layers = nn.Sequential(
            reflected(3 + modalities, widths[0], 4, stride=2, padding=1),
            *(ShrinkingBlock(before, after) for before, after in pairwise(widths)),
            nn.LeakyReLU(_ATTRIBUTE_SLOPE),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.mean = nn.Linear(widths[-1], config.attribute_size)
        self.log_variance = nn.Linear(widths[-1], config.attribute_size)

    def forward(self, image: Tensor, onehot: Tensor) -> Attribute:
        """(B, 3, H, W), (B, K) -> mean and log variance, each (B, A)."""
        hidden = self.layers(torch.cat([image, _tiled(onehot, image)], dim=1))
        return Attribute(self.mean(hidden), self.log_variance(hidden))


class Generator(nn.Module):
    """Content, style and modality -> image: 5.56 million numbers at width 64 and 6 modalities."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        size, channels = config.attribute_size, 4 * config.width
        joined = channels + modalities + size
        self.content = InstanceBlock(channels)
        self.joined = nn.Sequential(*(InstanceBlock(joined) for _ in range(3)))
        self.up = nn.ModuleList()
        for _ in range(2):
            half = (joined + size) // 2
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose2d(joined + size, half, 3, 2, padding=1, output_padding=1),
                    nn.GroupNorm(1, half),
                    nn.ReLU(),
                )
            )
            joined = half
        self.last = nn.ConvTranspose2d(joined + size, 3, 1)

    def forward(self, code: Tensor, attribute: Tensor, onehot: Tensor) -> Tensor:
        """(B, 4 W, h, w), (B, A), (B, K) -> (B, 3, 4 h, 4 w) in [-1, 1]."""
        code = self.content(code)
        features = self.joined(torch.cat([code, _tiled(onehot, code), _tiled(attribute, code)], dim=1))
        for layer in self.up:
            features = layer(torch.cat([features, _tiled(attribute, features)], dim=1))
        return torch.tanh(self.last(torch.cat([features, _tiled(attribute, features)], dim=1)))


def _tiled(values: Tensor, beside: Tensor) -> Tensor:
    """(B, C) -> (B, C, h, w) as large as `beside`."""
    return values[:, :, None, None].expand(-1, -1, *beside.shape[2:]).to(beside.dtype)


class MdmmNetworks(TranslationNetworks):
    """See the head of this file; arguments as `TranslationNetworks`.

    The published model has no nucleus head and sees images as they are; both remedies can be switched on
    (`nucleus_head`, `canonical_polarity`).
    """

    learns_attribute: ClassVar[bool] = True

    def __init__(self, config: StyleNetworkConfig, polarity: Sequence[int]) -> None:
        super().__init__(config, polarity)
        self.receptive_radius = None
        channels = 4 * config.width
        self.content_encoder = ContentEncoder(config)
        self.attribute_encoder = AttributeEncoder(config, len(polarity))
        self.generator = Generator(config, len(polarity))
        self.nucleus_head = nn.Sequential()
        if config.nucleus_head:
            self.nucleus_head = nn.Sequential(
                reflected(channels, channels, 3), nn.ReLU(), nn.Conv2d(channels, 16, 1), nn.PixelShuffle(4)
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)

    @property
    def attribute_size(self) -> int:
        """As configured; 8 in MDMM."""
        return self.config.attribute_size

    def encode_content(self, image: Tensor, modality: Tensor, colours: Tensor) -> Content:
        """(B, 3, H, W), (B,), and colours that are not looked at -> content without detail."""
        if self.config.canonical_polarity:
            image = image * self.polarity[modality][:, None, None, None]
        return Content(self.content_encoder(image))

    def encode_attribute(self, image: Tensor, modality: Tensor, colours: Tensor) -> Attribute:
        """(B, 3, H, W), (B,) -> a distribution."""
        encoded: Attribute = self.attribute_encoder(image, self.onehot(modality))
        return encoded

    def generate(self, content: Content, attribute: Tensor, modality: Tensor, texture: Tensor) -> Tensor:
        """Content, (B, A), (B,), and texture noise that is not looked at -> (B, 3, H, W)."""
        image: Tensor = self.generator(content.code, attribute, self.onehot(modality))
        return image

    def nucleus_logits(self, content: Content) -> Tensor:
        """-> (B, 1, H, W)."""
        logits: Tensor = self.nucleus_head(content.code)
        return logits

    def content_learners(self) -> list[nn.Module]:
        """Encoder and head."""
        return [self.content_encoder, self.nucleus_head]

    def attribute_learners(self) -> list[nn.Module]:
        """The attribute encoder."""
        return [self.attribute_encoder]


class ImageCritic(nn.Module):
    """Image -> real or made by patches, and which modality: 15.8 million numbers at width 64."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        channels = [3, *(config.width * times for times in (1, 2, 4, 8, 16, 16))]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(channels)):
            layers.append(reflected(before, after, 3, stride=2))
            if config.critic_norm == "instance" and number:
                layers.append(nn.InstanceNorm2d(after))
            layers.append(nn.LeakyReLU(_SLOPE))
        self.layers = nn.Sequential(*layers)
        self.realness = nn.Conv2d(channels[-1], 1, 1)
        self.modality = nn.Linear(channels[-1], modalities)

    def forward(self, image: Tensor, onehot: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, H, W), and a modality that is not looked at -> one realness map (B, 1, h, w), modality logits (B, K)."""
        hidden = self.layers(image)
        return [self.realness(hidden)], self.modality(hidden.mean(dim=(2, 3)))


class ContentCritic(nn.Module):
    """Content -> the modality it came from: 10.7 million numbers at width 64."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        channels = 4 * config.width
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(channels, channels, 7, 2, 3), nn.LeakyReLU(_SLOPE)]
        layers += [nn.Conv2d(channels, channels, 4, padding=2), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, modalities, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, code: Tensor) -> Tensor:
        """(B, 4 W, h, w) -> (B, K) logits."""
        logits: Tensor = self.layers(code)
        return logits


class MdmmCritics(Critics):
    """One critic of the images in an encoded style, one of those in a random style, one of contents."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        self.image = nn.ModuleList(ImageCritic(config, modalities) for _ in range(2))
        self.content = ContentCritic(config, modalities)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
