"""The light networks: a lookup table between measured colours, and a small network that corrects it.

An image is first expressed by its own colours, so that background is 0 and objects are 1 in every modality: polarity,
contrast and stain are gone before any network sees it. The translation starts from the lookup table between the target's
colours, at full resolution, and the generator adds what a lookup table cannot know: what is a nucleus and what is not,
texture, and how the target's microscope draws edges. So sign, place and colour hold by construction, and the style is
known exactly: it is the colours that were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from nucstyle.core.photometry import COLOURS, between, canonical
from nucstyle.style.blocks import ResidualBlock, UpBlock, convolution, pixel_norm
from nucstyle.style.networks import (
    Attribute,
    Content,
    Critics,
    FeatureTrunk,
    StyleNetworkConfig,
    TranslationNetworks,
)

# B = batch, K = modalities, W = base width, E = size of the style code, H, W = size of the image

_HEIGHTS = (-0.5, 1.5)
"""Beyond these the lookup table ends."""
_BESIDE = 3
"""Canonical grey, its square root and the texture noise are handed to every size of the generator."""


class LookupEncoder(nn.Module):
    """Canonical image -> what is where."""

    def __init__(self, config: StyleNetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.stem = convolution(4, width, 5)
        self.down1 = convolution(width, 2 * width, 4, stride=2)
        self.down2 = convolution(2 * width, 4 * width, 4, stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(config.residual_blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) canonical -> (B, 4 W, H / 4, W / 4)."""
        seen = torch.cat([image, _root(image.mean(dim=1, keepdim=True))], dim=1)
        features = F.leaky_relu(self.stem(seen), 0.2)
        features = F.relu(pixel_norm(self.down1(features)))
        content: Tensor = self.blocks(F.relu(pixel_norm(self.down2(features))))
        return content


class LookupGenerator(nn.Module):
    """Content, colours and modality -> image."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        width, size = config.width, config.style_size
        self.style = nn.Sequential(nn.Linear(COLOURS + modalities, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
        self.join = convolution(_BESIDE, 4 * width, 1)
        self.blocks = nn.ModuleList(ResidualBlock(4 * width, size) for _ in range(config.residual_blocks))
        self.up1 = UpBlock(4 * width, _BESIDE, 2 * width, size)
        self.up2 = UpBlock(2 * width, _BESIDE, width, size)
        self.last = convolution(width, 3, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, content: Content, colours: Tensor, onehot: Tensor, texture: Tensor) -> Tensor:
        """Content, (B, 6), (B, K), (B, 1, H, W) -> (B, 3, H, W); at the start it is the lookup table itself."""
        style = self.style(torch.cat([colours, onehot], dim=1))
        assert content.detail is not None
        grey = content.detail
        features = content.code + self.join(_beside(grey, texture, 4))
        for block in self.blocks:
            features = block(features, style)
        features = self.up2(self.up1(features, _beside(grey, texture, 2), style), _beside(grey, texture, 1), style)
        return between(grey.clamp(*_HEIGHTS), colours) + torch.tanh(self.last(features).float())


def _beside(grey: Tensor, texture: Tensor, shrink: int) -> Tensor:
    """(B, 1, H, W) twice -> (B, 3, H / shrink, W / shrink); averaged noise keeps its deviation."""
    planes = torch.cat([grey, _root(grey), texture * shrink], dim=1)
    return F.avg_pool2d(planes, shrink) if shrink > 1 else planes


def _root(grey: Tensor) -> Tensor:
    """Lifts what is dim."""
    return grey.clamp(min=1e-4).sqrt()


class LookupNetworks(TranslationNetworks):
    """See the head of this file; arguments as `TranslationNetworks`."""

    learns_attribute: ClassVar[bool] = False

    def __init__(self, config: StyleNetworkConfig, polarity: Sequence[int]) -> None:
        super().__init__(config, polarity)
        # Stem 2, halvings 2 + 3, two convolutions of 4 px a block in encoder and generator, doublings 6 + 3, the last 1.
        self.receptive_radius = 17 + 16 * config.residual_blocks
        channels = 4 * config.width
        self.content_encoder = LookupEncoder(config)
        self.generator = LookupGenerator(config, len(polarity))
        self.nucleus_head = nn.Sequential(
            convolution(channels, channels, 3), nn.ReLU(), nn.Conv2d(channels, 16, 1), nn.PixelShuffle(4)
        )

    @property
    def attribute_size(self) -> int:
        """Six: the colours."""
        return COLOURS

    def encode_content(self, image: Tensor, modality: Tensor, colours: Tensor) -> Content:
        """(B, 3, H, W), (B,), (B, 6) -> content with its detail."""
        seen = canonical(image, colours)
        return Content(self.content_encoder(seen), seen.mean(dim=1, keepdim=True))

    def encode_attribute(self, image: Tensor, modality: Tensor, colours: Tensor) -> Attribute:
        """The colours themselves."""
        return Attribute(colours)

    def generate(self, content: Content, attribute: Tensor, modality: Tensor, texture: Tensor) -> Tensor:
        """Content, (B, 6), (B,), (B, 1, H, W) -> (B, 3, H, W)."""
        image: Tensor = self.generator(content, attribute, self.onehot(modality), texture)
        return image

    def nucleus_logits(self, content: Content) -> Tensor:
        """-> (B, 1, H, W)."""
        logits: Tensor = self.nucleus_head(content.code)
        return logits

    def content_learners(self) -> list[nn.Module]:
        """Encoder and head."""
        return [self.content_encoder, self.nucleus_head]


class PatchCritic(nn.Module):
    """Patches of two sizes -> real or made, judged by the modality's own output map.

    It sees 38 and 78 px: enough for edges, texture and a nucleus, not for how many nuclei a field should have, which is the
    source's to say. Spectral norm keeps it from running away.
    """

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        width = config.width
        self.near = _halvings([3, 2 * width, 4 * width, 8 * width])
        self.far = _halvings([8 * width, 8 * width])
        self.heads = nn.ModuleList(convolution(8 * width, modalities, 3) for _ in range(2))
        self.modality = nn.Linear(8 * width, modalities)

    def forward(self, image: Tensor, onehot: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, H, W), (B, K) -> realness maps (B, h, w), modality logits (B, K)."""
        near = self.near(image)
        far = self.far(near)
        chosen = onehot[:, :, None, None].to(near.dtype)
        maps = [(head(hidden) * chosen).sum(dim=1) for head, hidden in zip(self.heads, (near, far), strict=True)]
        return maps, self.modality(far.mean(dim=(2, 3)))


def _halvings(channels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [spectral_norm(convolution(before, after, 4, stride=2)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


class ContentCritic(nn.Module):
    """Content -> the modality it came from; the encoder learns to leave it guessing."""

    def __init__(self, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        channels = 4 * config.width
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [convolution(channels, channels, 4, stride=2), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, modalities))

    def forward(self, code: Tensor) -> Tensor:
        """(B, 4 W, H / 4, W / 4) -> (B, K) logits."""
        logits: Tensor = self.layers(code)
        return logits


class FeatureCritic(nn.Module):
    """Features of a trained trunk -> real or made, beside the patches (Projected GANs, arXiv 2111.01007).

    With a handful of images a modality, a critic that has to learn to see first never gets as far as texture.

    Args:
        trunk: Gives feature maps of (B, 3, H, W) in [0, 1]; it does not learn, and is no part of the state.
        config: Sizes.
        modalities: K.
    """

    def __init__(self, trunk: FeatureTrunk, config: StyleNetworkConfig, modalities: int) -> None:
        super().__init__()
        self.patches = PatchCritic(config, modalities)
        width = 4 * config.width
        self.squeeze = nn.ModuleList(spectral_norm(nn.Conv2d(channels, width, 1)) for channels in trunk.channels)
        self.heads = nn.ModuleList(convolution(width, modalities, 3) for _ in trunk.channels)
        self._trunk = (trunk,)  # not a submodule

    def forward(self, image: Tensor, onehot: Tensor) -> tuple[list[Tensor], Tensor]:
        """As `PatchCritic`, with a map more for each of the trunk's."""
        maps, logits = self.patches(image, onehot)
        chosen = onehot[:, :, None, None]
        for features, squeeze, head in zip(self._trunk[0]((image + 1) / 2), self.squeeze, self.heads, strict=True):
            hidden = F.leaky_relu(squeeze(features), 0.2)
            maps.append((head(hidden) * chosen.to(hidden.dtype)).sum(dim=1))
        return maps, logits


class LookupCritics(Critics):
    """One critic of images, one of contents; arguments as `FeatureCritic`, the trunk may be missing."""

    def __init__(self, config: StyleNetworkConfig, modalities: int, trunk: FeatureTrunk | None = None) -> None:
        super().__init__()
        critic = PatchCritic(config, modalities) if trunk is None else FeatureCritic(trunk, config, modalities)
        self.image = nn.ModuleList([critic])
        self.content = ContentCritic(config, modalities)
