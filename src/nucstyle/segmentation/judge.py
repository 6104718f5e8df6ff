"""A small foreground network, trained on real images only: does a restyled image still show its nuclei, and no others?

It never sees a made image in training, so a generator cannot have learnt to please it, and it is no part of any loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from nucstyle.core.config import build, to_table
from nucstyle.core.errors import WeightsError
from nucstyle.core.precision import Autocast

# B = batch, H, W = size of the image, W0 = base width

_STRIDE = 8
_EPSILON = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """Sizes of the network."""

    width: Annotated[int, Ge(2)] = 16
    """Channels at full resolution; twice, three and four times as many at the halves."""


class JudgeNetwork(nn.Module):
    """A U-Net of four sizes (Ronneberger et al. 2015, arXiv 1505.04597).

    Args:
        config: Sizes.
    """

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        widths = [config.width * times for times in (1, 2, 3, 4)]
        self.down = nn.ModuleList(_double(before, after) for before, after in pairwise([6, *widths]))
        self.up = nn.ModuleList(_double(deep + flat, flat) for flat, deep in reversed(list(pairwise(widths))))
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of 8 -> (B, 1, H, W) logits.

        It is shown the image as it is and, beside it, at unit contrast: many fluorescence images are very dark.
        """
        mean, deviation = image.mean(dim=(1, 2, 3), keepdim=True), image.std(dim=(1, 2, 3), keepdim=True)
        features = torch.cat([image * 2 - 1, ((image - mean) / (deviation + _EPSILON)).clamp(-3, 3)], dim=1)
        levels: list[Tensor] = []
        for number, layer in enumerate(self.down):
            features = layer(F.max_pool2d(features, 2) if number else features)
            levels.append(features)
        for layer, level in zip(self.up, reversed(levels[:-1]), strict=True):
            features = layer(torch.cat([F.interpolate(features, scale_factor=2.0), level], dim=1))
        logits: Tensor = self.last(features)
        return logits


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def judge_loss(logits: Tensor, nuclei: Tensor) -> Tensor:
    """Cross-entropy and one minus a soft Dice over the batch.

    Args:
        logits: (B, 1, H, W).
        nuclei: (B, 1, H, W), 1 where there is a nucleus.
    """
    logits = logits.float()
    share = logits.sigmoid()
    dice = (2 * (share * nuclei).sum() + 1) / (share.sum() + nuclei.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, nuclei) + 1 - dice


class ForegroundJudge:
    """The trained network. It is `core.protocols.Judge` made real.

    Args:
        network: Trained.
        config: Its sizes.
        autocast: Number format in which it computes.
    """

    def __init__(self, network: JudgeNetwork, config: JudgeConfig, autocast: Autocast = nullcontext) -> None:
        self.network = network.eval()
        self._config = config
        self._autocast = autocast

    @torch.no_grad()
    def foreground(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1], any size -> (B, 1, H, W): the probability of nucleus."""
        height, width = int(image.shape[-2]), int(image.shape[-1])
        device = next(self.network.parameters()).device
        padded = F.pad(image.to(device), (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
        with self._autocast():
            logits = self.network(padded.contiguous(memory_format=torch.channels_last))
        foreground: Tensor = logits[..., :height, :width].float().sigmoid()
        return foreground

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values, enough for `from_state`."""
        return dict(self.network.state_dict()), {"judge": to_table(self._config)}

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        *,
        load: Callable[[nn.Module, Mapping[str, Tensor]], None],
        autocast: Autocast = nullcontext,
    ) -> Self:
        """Make a judge from what `state` returned.

        Args:
            tensors: By name.
            values: The plain values.
            load: Puts tensors into a module and refuses those that do not fit.
            autocast: Number format in which it computes.

        Raises:
            WeightsError: A part is missing.
        """
        if "judge" not in values:
            msg = "judge weights without their sizes; train the judge again"
            raise WeightsError(msg)
        config = build(JudgeConfig, values["judge"], where="judge weights")
        network = JudgeNetwork(config)
        load(network, tensors)
        return cls(network, config, autocast)
