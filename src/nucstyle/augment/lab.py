"""CIE L*a*b* and back, on tensors: sRGB (IEC 61966-2-1), white point D65, the numbers of scikit-image."""

from __future__ import annotations

import torch
from torch import Tensor

# H, W = size of the image

_XYZ_FROM_RGB = torch.tensor(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
    dtype=torch.float64,
)
_WHITE = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64)
_LAB_FROM_ROOTS = torch.tensor([[0.0, 116, 0], [500, -500, 0], [0, 200, -200]], dtype=torch.float64)
_ORIGIN = torch.tensor([-16.0, 0, 0], dtype=torch.float64)

_TO_WHITE_SHARES = (_XYZ_FROM_RGB / _WHITE[:, None]).float()
_FROM_WHITE_SHARES = torch.linalg.inv(_XYZ_FROM_RGB / _WHITE[:, None]).float()
_TO_LAB, _FROM_LAB = _LAB_FROM_ROOTS.float(), torch.linalg.inv(_LAB_FROM_ROOTS).float()
_TO_LAB_ORIGIN = _ORIGIN.float()[:, None]
_FROM_LAB_ORIGIN = -(torch.linalg.inv(_LAB_FROM_ROOTS) @ _ORIGIN).float()[:, None]


def rgb_to_lab(image: Tensor) -> Tensor:
    """Convert sRGB to L*a*b*.

    Args:
        image: (3, H, W) float32 in [0, 1].

    Returns:
        (3, H, W) float32: L* in [0, 100], a* and b* about in [-108, 108].
    """
    encoded = image.flatten(1)
    bright = _power((encoded + 0.055).mul_(1 / 1.055), 2.4)
    linear = torch.where(encoded > 0.04045, bright, encoded * (1 / 12.92))
    shares = _TO_WHITE_SHARES @ linear  # of the white point's X, Y, Z
    roots = torch.where(shares > 0.008856, _power(shares, 1 / 3), (shares * 7.787).add_(16 / 116))
    return torch.addmm(_TO_LAB_ORIGIN, _TO_LAB, roots).view_as(image)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert L*a*b* to sRGB.

    Args:
        lab: (3, H, W) float32.

    Returns:
        (3, H, W) float32, clipped to [0, 1].
    """
    roots = torch.addmm(_FROM_LAB_ORIGIN, _FROM_LAB, lab.flatten(1))
    shares = torch.where(roots > 0.2068966, roots * roots * roots, (roots - 16 / 116).mul_(1 / 7.787))
    linear = (_FROM_WHITE_SHARES @ shares).clamp_(0, 1)
    bright = _power(linear, 1 / 2.4).mul_(1.055).sub_(0.055)
    return torch.where(linear > 0.0031308, bright, linear * 12.92).clamp_(0, 1).view_as(lab)


def moments(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each plane, several times as fast as `torch.std_mean`.

    Args:
        lab: (3, H, W) float32.

    Returns:
        (3,) and (3,).
    """
    planes = lab.flatten(1)
    mean = planes.mean(dim=1)
    return mean, (planes - mean[:, None]).square_().mean(dim=1).sqrt()


def _power(base: Tensor, exponent: float) -> Tensor:
    """Twice as fast as `pow` and as exact as float32 needs; 0 or below gives 0, which callers put aside."""
    return base.clamp(min=1e-30).log_().mul_(exponent).exp_()
