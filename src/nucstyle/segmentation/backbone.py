"""The trunk of the segmenter: EfficientNet-Lite0 without its classification head, and a feature pyramid on top.

Written for nucstyle after

- Tan and Le, EfficientNet, 2019, https://arxiv.org/abs/1905.11946 (Table 1: the stages);
- EfficientNet-Lite, Google's TPU repository, Apache-2.0,
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
  (no squeeze-and-excite, ReLU6, how images are normalised; the shipped weights descend from there).
"""

from __future__ import annotations

from collections import OrderedDict
from importlib import resources
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from nucstyle.data.weights import load_state, load_weights

# B = batch, H, W = pixels, C, O = channels in, out, K = side of a kernel.

BATCH_NORM_EPSILON = 1e-3
"""Part of every variance before its root is taken; what TensorFlow's EfficientNets were trained with."""

_WEIGHTS = "lite0-imagenet.safetensors"
_STEM_CHANNELS = 32


class _Stage(NamedTuple):
    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int
    is_tapped: bool


_STAGES = (
    _Stage(expansion=1, channels=16, blocks=1, stride=1, kernel=3, is_tapped=False),
    _Stage(expansion=6, channels=24, blocks=2, stride=2, kernel=3, is_tapped=True),
    _Stage(expansion=6, channels=40, blocks=2, stride=2, kernel=5, is_tapped=True),
    _Stage(expansion=6, channels=80, blocks=3, stride=2, kernel=3, is_tapped=False),
    _Stage(expansion=6, channels=112, blocks=3, stride=1, kernel=5, is_tapped=True),
    _Stage(expansion=6, channels=192, blocks=4, stride=2, kernel=5, is_tapped=False),
    _Stage(expansion=6, channels=320, blocks=1, stride=1, kernel=3, is_tapped=True),
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros (before, after) an axis by TensorFlow's rule "SAME": ceil(size / stride) outputs, an odd zero goes after.

    Args:
        size: Pixels of the axis, at least 1.
        kernel: Side of the kernel.
        stride: Step of the kernel.
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class FrozenNormConvolution(nn.Module):
    """A convolution with "SAME" padding, then a batch norm that never learns, then (if asked) ReLU6.

    The batch norm is two buffers, `scale` = gamma / sqrt(variance + epsilon) and `shift` = beta - mean * scale: it has
    no statistics that `train()` could update and nothing for an optimizer. The scale is multiplied into the kernel at
    every call, which costs less than another pass over the pixels and leaves the gradient of the kernel what it was.

    Args:
        channels_in: C.
        channels_out: O.
        kernel: Odd side K.
        stride: Step of the kernel.
        groups: 1, or C for a depthwise convolution.
        is_activated: Whether ReLU6 ends it.
    """

    scale: Tensor
    """(O,) float32."""
    shift: Tensor
    """(O,) float32."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1, is_activated: bool
    ) -> None:
        super().__init__()
        self.stride, self.groups, self.is_activated = stride, groups, is_activated
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu" if is_activated else "linear")
        self.register_buffer("scale", torch.ones(channels_out))
        self.register_buffer("shift", torch.zeros(channels_out))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, ceil(H / stride), ceil(W / stride)); float32, or autocast's type."""
        kernel = self.weight.shape[-1]
        if self.stride == 1:
            padding = kernel // 2  # "SAME" is even on both sides here; the convolution's own padding copies nothing
        else:
            left_right = same_padding(pixels.shape[3], kernel, self.stride)
            top_bottom = same_padding(pixels.shape[2], kernel, self.stride)
            pixels, padding = F.pad(pixels, (*left_right, *top_bottom)), 0
        weight = self.weight * self.scale[:, None, None, None]
        if self._is_slow_backwards(pixels):
            with torch.autocast("cpu", enabled=False):
                pixels = pixels.to(weight.dtype)
                normed = F.conv2d(pixels, weight, self.shift, self.stride, padding, groups=self.groups)
        else:
            normed = F.conv2d(pixels, weight, self.shift, self.stride, padding, groups=self.groups)
        return F.relu6(normed, inplace=True) if self.is_activated else normed

    def _is_slow_backwards(self, pixels: Tensor) -> bool:
        """Whether a gradient must pass that oneDNN takes several times as long for in bfloat16 as in float32.

        So it is for depthwise convolutions on a CPU; those across channels, which are nearly all of the work, stay what
        autocast makes them.
        """
        is_passed = torch.is_grad_enabled() and (pixels.requires_grad or self.weight.requires_grad)
        return is_passed and self.groups > 1 and pixels.device.type == "cpu"


class InvertedResidual(nn.Module):
    """Widen by 1 x 1, filter each channel by itself, narrow by 1 x 1; the input is added where the shapes allow it.

    Args:
        channels_in: C.
        channels_out: O.
        expansion: How many times wider the middle is; 1 leaves the first convolution out.
        kernel: Side of the depthwise kernel.
        stride: Step of the depthwise kernel.
    """

    def __init__(self, channels_in: int, channels_out: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = FrozenNormConvolution(channels_in, wide, 1, is_activated=True) if expansion > 1 else nn.Identity()
        self.depthwise = FrozenNormConvolution(wide, wide, kernel, stride=stride, groups=wide, is_activated=True)
        self.project = FrozenNormConvolution(wide, channels_out, 1, is_activated=False)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, ceil(H / stride), ceil(W / stride))."""
        residual: Tensor = self.project(self.depthwise(self.expand(features)))
        return features + residual if self.has_shortcut else residual


class Lite0Trunk(nn.Module):
    """EfficientNet-Lite0 up to its 320-channel stage, 2.96 million numbers; random until `load_trunk_weights`.

    Images of any side from 1 pixel up are taken: each stride rounds up. The kernels can be trained, the batch norms
    stay as they are loaded (see `FrozenNormConvolution`).
    """

    channels = tuple(stage.channels for stage in _STAGES if stage.is_tapped)
    """Of the feature maps: 24, 40, 112, 320."""
    strides = (4, 8, 16, 32)
    """Pixels of the image per pixel of each feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = FrozenNormConvolution(3, _STEM_CHANNELS, 3, stride=2, is_activated=True)
        self.blocks = nn.ModuleList()
        taps, channels = [], _STEM_CHANNELS
        for stage in _STAGES:
            for stride in (stage.stride, *[1] * (stage.blocks - 1)):
                options = {"expansion": stage.expansion, "kernel": stage.kernel, "stride": stride}
                self.blocks.append(InvertedResidual(channels, stage.channels, **options))
                channels = stage.channels
            if stage.is_tapped:
                taps.append(len(self.blocks) - 1)
        self._taps = frozenset(taps)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the four feature maps.

        Args:
            image: (B, 3, H, W) float32 in [0, 1], RGB; normalised in here.

        Returns:
            Four maps (B, `channels[i]`, ceil(H / `strides[i]`), ceil(W / `strides[i]`)), not bounded; float32, or
            autocast's type.
        """
        # Mean 127 and deviation 128 of 8-bit values: MEAN_RGB and STDDEV_RGB in Google's efficientnet_lite_builder.py.
        features = self.stem((image * 255 - 127) / 128)  # (B, 32, H/2, W/2)
        tapped = []
        for number, block in enumerate(self.blocks):
            features = block(features)
            if number in self._taps:
                tapped.append(features)
        return tuple(tapped)


class PyramidTrunk(nn.Module):
    """A `Lite0Trunk` and a feature pyramid (https://arxiv.org/abs/1612.03144): a backbone for torchvision's detectors.

    Args:
        width: Channels of every map of the pyramid.
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.trunk = Lite0Trunk()
        self.pyramid = FeaturePyramidNetwork(list(Lite0Trunk.channels), width, extra_blocks=LastLevelMaxPool())
        self.out_channels = width
        """The name that torchvision's detectors read."""

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the pyramid, finest map first.

        Args:
            image: (B, 3, H, W) float32 in [0, 1], RGB; normalised in the trunk.

        Returns:
            Maps `0`, `1`, `2`, `3`, `pool`: (B, width, ceil(H / S), ceil(W / S)) for the strides S = 4, 8, 16, 32, 64;
            not bounded; float32, or autocast's type.
        """
        features = OrderedDict((str(level), tapped) for level, tapped in enumerate(self.trunk(image)))
        maps: OrderedDict[str, Tensor] = self.pyramid(features)
        return maps


def load_trunk_weights(trunk: Lite0Trunk) -> str:
    """Load the shipped ImageNet weights; nothing is downloaded.

    Args:
        trunk: Takes the weights, in its own types.

    Returns:
        The SHA-256 of the tensors, hexadecimal.

    Raises:
        WeightsError: The shipped file is missing or damaged; the trunk is left as it was.
    """
    with resources.as_file(resources.files("nucstyle.weights").joinpath(_WEIGHTS)) as path:
        weights = load_weights(path, kind="trunk")
        load_state(trunk, weights.tensors, where=str(path))
    return weights.sha256
