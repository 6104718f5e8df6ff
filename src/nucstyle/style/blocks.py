"""The parts that the networks of the style model are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B = batch, C = channels, E = size of the style code


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size (stride 1) or halves it (stride 2, kernel 4).

    Zeros at the border: reflection in every layer costs a tenth of a training step on a CPU. `StyleModel` pads the
    image instead, once, and crops the border away.
    """
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 1)


def modulate(features: Tensor, scale_and_shift: Tensor) -> Tensor:
    """Scale by 1 + s and shift by t, per image and channel.

    Args:
        features: (B, C, H, W).
        scale_and_shift: (B, 2 C), s then t.
    """
    scale, shift = scale_and_shift[:, :, None, None].chunk(2, dim=1)
    return torch.addcmul(shift, features, 1 + scale)


def pixel_norm(features: Tensor) -> Tensor:
    """Give every pixel's channels mean 0 and deviation 1; (B, C, H, W).

    No statistics over the image, as instance norm takes them: those change with what else is in the picture, so a tile
    would not agree with the whole, and an empty field would be blown up to contrast.
    """
    normed = F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2])
    return normed.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with pixel norm beside the identity.

    Args:
        channels: C, kept.
        style_size: E; 0 = no style code. Otherwise the norms are modulated by it, from nothing at the start.
    """

    def __init__(self, channels: int, style_size: int = 0) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 3)
        self.second = convolution(channels, channels, 3)
        self.modulation = nn.Linear(style_size, 4 * channels) if style_size else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, features: Tensor, style: Tensor | None = None) -> Tensor:
        """(B, C, H, W) and, where the block has a modulation, (B, E) -> (B, C, H, W)."""
        hidden = pixel_norm(self.first(features))
        if self.modulation is None:
            return features + pixel_norm(self.second(F.relu(hidden)))
        inner, outer = self.modulation(style).chunk(2, dim=1)
        hidden = pixel_norm(self.second(F.relu(modulate(hidden, inner))))
        return features + modulate(hidden, outer)


class UpBlock(nn.Module):
    """Doubles the size: bilinear, then a convolution, so that no grid is left as by transposed convolutions.

    Args:
        inputs: Channels in.
        beside: Channels of what is put beside them at the doubled size.
        outputs: Channels out.
        style_size: E of the code that modulates the norm.
    """

    def __init__(self, inputs: int, beside: int, outputs: int, style_size: int) -> None:
        super().__init__()
        self.convolution = convolution(inputs, outputs, 3)
        self.beside = convolution(beside, outputs, 3)
        self.modulation = nn.Linear(style_size, 2 * outputs)

    def forward(self, features: Tensor, beside: Tensor, style: Tensor) -> Tensor:
        """(B, inputs, H, W), (B, beside, 2 H, 2 W), (B, E) -> (B, outputs, 2 H, 2 W)."""
        larger = self.convolution(
            F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
        ) + self.beside(beside)
        return F.relu(modulate(pixel_norm(larger), self.modulation(style)))
