"""The published trunk: ResNet-101 with a feature pyramid, and where its weights may come from."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet101
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from nucstyle.core.errors import WeightsError
from nucstyle.data.weights import load_state

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as torchvision's and most published weights want them."""
_GROUPS = 32
"""Of channels, in a group norm; every layer of a ResNet has a multiple of it."""
_PREFIXES = ("backbone.body.", "body.", "module.", "")
"""What may stand before the names in files of detectors and classifiers."""
PARTS = {
    "backbone.fpn": "backbone.part.layers.fpn",
    "rpn.head": "rpn.head.part",
    "roi_heads.box_head": "roi_heads.box_head.part",
    "roi_heads.mask_head": "roi_heads.mask_head.part",
    "roi_heads.mask_predictor.conv5_mask": "roi_heads.mask_predictor.part.conv5_mask",
}
"""What of a detector, beside its ResNet, does not depend on its classes: the name in torchvision's files, the place in ours. It
is what `deep-retina` keeps of COCO (github.com/Lopezurrutia/DSB_2018, mrcnn/my_train_1.py leaves out the outputs alone)."""

# B = batch, H, W = size of the image


class ResNetTrunk(nn.Module):
    """ResNet-101 and a feature pyramid: a backbone for torchvision's detectors.

    Args:
        width: Channels of every map of the pyramid.
        norm: `frozen` batch norm for weights that are loaded; `group` norm, which learns, for a trunk that starts at random.
            Two images a step are too few for the statistics of a batch (He et al., Rethinking ImageNet pre-training, 2018,
            https://arxiv.org/abs/1811.08883).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, norm: Literal["frozen", "group"]) -> None:
        super().__init__()
        body = resnet101(
            weights=None, norm_layer=FrozenBatchNorm2d if norm == "frozen" else partial(nn.GroupNorm, _GROUPS)
        )
        levels = {f"layer{number + 1}": str(number) for number in range(4)}
        channels = [256, 512, 1024, 2048]
        self.layers = BackboneWithFPN(body, levels, channels, width)
        self.out_channels = width
        """The name that torchvision's detectors read."""
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the pyramid, finest map first.

        Args:
            image: (B, 3, H, W) float32 in [0, 1], RGB; normalised in here.

        Returns:
            Maps `0`, `1`, `2`, `3`, `pool`: (B, width, ceil(H / S), ceil(W / S)) for the strides S = 4, 8, 16, 32, 64.
        """
        maps: OrderedDict[str, Tensor] = self.layers((image - self.mean) / self.deviation)
        return maps

    def load(self, tensors: Mapping[str, Tensor], *, where: str) -> None:
        """Take the weights of a ResNet-101: a classifier's, or those inside a detector (COCO).

        For a frozen norm, whose statistics come with the weights. What else a detector has is for `load_parts`.

        Args:
            tensors: By torchvision's names, with or without a prefix.
            where: The file, for messages.

        Raises:
            WeightsError: They do not fit.
        """
        body = self.layers.body
        own = body.state_dict()
        prefix = next((one for one in _PREFIXES if f"{one}conv1.weight" in tensors), "")
        fitting = {
            name[len(prefix) :]: one.float() if one.is_floating_point() else one
            for name, one in tensors.items()
            if name.startswith(prefix) and name[len(prefix) :] in own
        }
        load_state(body, fitting, where=where)


def fitting_parts(network: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The `PARTS` that a file has in the shapes of a detector of ours."""
    return tuple(name for name in PARTS if _fitted(network, name, tensors) is not None)


def load_parts(network: nn.Module, tensors: Mapping[str, Tensor], parts: Sequence[str], *, where: str) -> None:
    """Take some of the `PARTS` of a file into a detector of ours.

    Raises:
        WeightsError: The file has not all of them in its shapes.
    """
    for name in parts:
        fitted = _fitted(network, name, tensors)
        if fitted is None:
            msg = f"{where}: does not fit this network: there is no {name} of its shapes"
            raise WeightsError(msg)
        network.get_submodule(PARTS[name]).load_state_dict(fitted)


def _fitted(network: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors of a part by the names of today's torchvision, which knows its older ones; None where they do not fit."""
    own = {key.removeprefix(f"{name}."): one.float() for key, one in tensors.items() if key.startswith(f"{name}.")}
    # torch fills in what fits before it refuses the rest, so this is tried with a copy, of shapes alone.
    trial = copy.deepcopy(network.get_submodule(PARTS[name])).to("meta")
    try:
        trial.load_state_dict(own, assign=True)
    except RuntimeError:
        return None
    return trial.state_dict()


def read_trunk_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch (`.pth`, `.pt`) or safetensors file; nothing in it is executed.

    Raises:
        WeightsError: Missing, damaged, or not a file of tensors.
    """
    if not path.is_file():
        msg = f"--trunk {path}: no such file"
        raise WeightsError(msg)
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the file makes it raise
        msg = f"--trunk {path}: damaged, or not a file of tensors alone ({str(error).splitlines()[0]})"
        raise WeightsError(msg) from None
    found = found.get("state_dict", found.get("model", found)) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        msg = f"--trunk {path}: not a dictionary of tensors; save the state_dict of the network"
        raise WeightsError(msg)
    return found


def imagenet_files() -> list[Path]:
    """The files of ImageNet weights that torchvision has downloaded on this machine before, by name."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return sorted(folder.glob("resnet101-*.pth"))
