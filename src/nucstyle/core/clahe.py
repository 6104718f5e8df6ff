"""Contrast for dark images: contrast-limited adaptive histogram equalisation (paper, section 2.2)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from annotated_types import Ge, Gt, Le
from skimage.exposure import equalize_adapthist
from torch import Tensor

_IMPLEMENTATION = "skimage.exposure.equalize_adapthist"
"""Others (OpenCV) differ by some grey values, so it is recorded with the parameters."""
_QUANTILE = 0.99


@dataclass(frozen=True, slots=True)
class ClaheConfig:
    """When and how contrast is enhanced."""

    clip_limit: Annotated[float, Gt(0), Le(1)] = 0.01
    """Larger = more contrast, and more noise; scikit-image's default."""
    tiles: Annotated[int, Ge(1), Le(64)] = 8
    """Tiles a side, each with its own histogram; scikit-image's default."""
    darker_than: Annotated[float, Ge(0), Le(1)] = 0.25
    """Only images whose 99th percentile of the value (largest of R, G, B) is below this are changed; 1 = nearly all."""

    def state(self) -> dict[str, Any]:
        """Plain values for weights and models, with the implementation that they are for."""
        return {**dataclasses.asdict(self), "implementation": _IMPLEMENTATION}

    @classmethod
    def from_state(cls, values: Mapping[str, Any] | None) -> Self | None:
        """Make what `state` was of; None for None.

        Raises:
            KeyError: A value is missing.
        """
        if values is None:
            return None
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def enhance(image: Tensor, config: ClaheConfig) -> Tensor:
    """Enhance the contrast of a dark image.

    Args:
        image: (3, H, W) float32 in [0, 1].
        config: What to do; hue and saturation stay, the value is equalised.

    Returns:
        (3, H, W) float32 in [0, 1]; the image itself where it is bright enough or constant.
    """
    value = image.amax(dim=0)
    bright = float(value.flatten().kthvalue(math.ceil(_QUANTILE * value.numel())).values)
    if bright >= config.darker_than or float(value.max()) == float(value.min()):
        return image
    kernel = [max(1, side // config.tiles) for side in value.shape]
    equalised = equalize_adapthist(value.double().cpu().numpy(), kernel_size=kernel, clip_limit=config.clip_limit)
    target = torch.from_numpy(equalised).to(image.dtype)
    return torch.where(value > 0, image * (target / value.clamp_min(1e-6)), target).clamp(
        0, 1
    )  # black has no hue to keep
