"""The losses of the style model as pure functions (paper, section 2.3; MDMM, arXiv 1905.01270).

Every loss is a mean over the batch, so that the balance of the terms does not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

# B = batch, K = modalities, A = attribute size

Weight = Annotated[float, Ge(0)]
Adversary = Literal["hinge", "cross-entropy"]
"""What real and made are told apart by."""
_KEPT_HEIGHT, _FREE_HEIGHT = 0.8, 0.35
_MIN_SHARE = 0.01
"""Colours of less than this share of a crop are not worth comparing."""


def reconstruction_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of two image batches: L_recon on the self-reconstruction, L_cc on the cross cycle."""
    return (made.float() - wanted.float()).abs().mean()


def latent_loss(regressed: Tensor, drawn: Tensor) -> Tensor:
    """L_latent: the attribute that was drawn must be readable from the image made with it. (B, A), (B, A)."""
    return (regressed.float() - drawn.float()).abs().mean()


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """L_KL: divergence of N(mean, exp(log_variance)) from N(0, I), halved sum over A, mean over B."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def critic_loss(real: Sequence[Tensor], made: Sequence[Tensor], kind: Adversary = "hinge") -> Tensor:
    """The critic's part of L_d: the mean over realness maps of any shape, however many cells each has.

    Args:
        real: Maps of real images.
        made: Maps of made images.
        kind: `hinge`, or `cross-entropy` as in MDMM (there of a sigmoid, here of the logits).
    """
    pairs = [(one.float(), other.float()) for one, other in zip(real, made, strict=True)]
    if kind == "hinge":
        return torch.stack([F.relu(1 - one).mean() + F.relu(1 + other).mean() for one, other in pairs]).mean()
    return torch.stack([F.softplus(-one).mean() + F.softplus(other).mean() for one, other in pairs]).mean()


def deception_loss(made: Sequence[Tensor], kind: Adversary = "hinge") -> Tensor:
    """The generator's part of L_d: make the critic's realness high in every map.

    Args:
        made: Maps of made images.
        kind: As in `critic_loss`.
    """
    maps = [one.float() for one in made]
    return torch.stack([-one.mean() if kind == "hinge" else F.softplus(-one).mean() for one in maps]).mean()


def modality_loss(logits: Tensor, modality: Tensor) -> Tensor:
    """Cross-entropy of the modality: of real images for a critic, of made ones for the generator. (B, K), (B,)."""
    return F.cross_entropy(logits.float(), modality)


def confusion_loss(logits: Tensor) -> Tensor:
    """L_c for the encoder: cross-entropy to the uniform distribution, least when the content critic cannot tell.

    MDMM's code aims at 1 - onehot instead, which is "any modality but this one", not confusion.
    """
    return -F.log_softmax(logits.float(), dim=1).mean()


def colour_loss(image: Tensor, height: Tensor, colours: Tensor) -> Tensor:
    """L_latent where the style is colours: background and objects of a made image must have those that were asked for.

    Mean absolute difference between the six colours and those found where the canonical grey says background (near 0) and
    objects (near 1). An image without the one or the other counts with what it has, and the mean is over the batch.

    Args:
        image: (B, 3, H, W), made.
        height: (B, 1, H, W), canonical grey of the source.
        colours: (B, 6), asked for.
    """
    image, height = image.float(), height.float()
    masks = ((1 - height.abs() / 0.3).clamp(0, 1), ((height - 0.5) / 0.3).clamp(0, 1))
    total = image.new_zeros(len(image))
    for mask, wanted in zip(masks, (colours[:, :3].float(), colours[:, 3:].float()), strict=True):
        share = mask.mean(dim=(2, 3))
        found = (image * mask).mean(dim=(2, 3)) / share.clamp(min=1e-3)
        total = total + (found - wanted).abs().mean(dim=1) * (share[:, 0] > _MIN_SHARE)
    return total.mean() / 2


def nucleus_loss(logits: Tensor, nuclei: Tensor, annotated: Tensor) -> Tensor:
    """Cross-entropy of the nucleus head, over the annotated images of the batch.

    It is divided by the size of the whole batch, not by the number of annotated images in it: so the mean over
    two processes equals the value of the joint batch.

    Args:
        logits: (B, 1, h, w).
        nuclei: (B, 1, h, w), share of each cell that is nucleus, in [0, 1].
        annotated: (B,), 1 where the image has masks, else 0.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), nuclei, reduction="none").mean(dim=(1, 2, 3))
    return (each * annotated).mean()


def height_loss(made: Tensor, source: Tensor, nuclei: Tensor) -> Tensor:
    """Pixel by pixel: nuclei of the source must stand out in the made image, and nothing else may that did not before.

    Heights are canonical greys: 0 = background, 1 = objects, in every modality. Inside nuclei the made image must reach
    `_KEPT_HEIGHT` of the source's height; outside it must stay below `_FREE_HEIGHT`, or below the source where that is higher.
    What lies between is texture and free. No network is in it, so none can be deceived.

    Args:
        made: (B, 1, H, W) heights of the made image.
        source: (B, 1, H, W) heights of its source.
        nuclei: (B, 1, H, W) share of nucleus, in [0, 1].
    """
    made, source = made.float(), source.float()
    lost = F.relu(_KEPT_HEIGHT * source.clamp(0, 1) - made)
    invented = F.relu(made - source.clamp(min=_FREE_HEIGHT))
    return (nuclei * lost + (1 - nuclei) * invented).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """How much each term counts; 0 switches one off."""

    cross_cycle: Weight = 10.0
    """w_cc of the paper."""
    content: Weight = 1.0
    """w_c of the paper."""
    adversarial: Weight = 2.0
    """w_d of the paper, real against made."""
    modality: Weight = 1.0
    """w_d of the paper, which modality."""
    reconstruction: Weight = 10.0
    """w_recon of the paper."""
    latent: Weight = 5.0
    """w_latent of the paper."""
    kl: Weight = 0.01
    """w_KL of the paper."""
    content_size: Weight = 0.0
    """Keeps the content code small; MDMM's code has it, the paper does not name it."""
    nuclei: Weight = 2.0
    """Content must show the nuclei of annotated images."""
    nuclei_kept: Weight = 3.0
    """The content of a translated image must show the nuclei of its source."""
    nuclei_height: Weight = 0.0
    """Nuclei must stand out of a translated image where they do in its source, and nothing else; measured styles only."""
    adversary: Adversary = "hinge"
    """How the adversarial terms are counted."""


class TranslationLosses(NamedTuple):
    """Every term that the encoders and the generator are trained by, unweighted; named as in `LossWeights`."""

    cross_cycle: Tensor
    content: Tensor
    adversarial: Tensor
    modality: Tensor
    reconstruction: Tensor
    latent: Tensor
    kl: Tensor
    content_size: Tensor
    nuclei: Tensor
    nuclei_kept: Tensor
    nuclei_height: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """The weighted sum."""
        terms = [getattr(weights, name) * value for name, value in self._asdict().items()]
        return torch.stack(terms).sum()


class CriticLosses(NamedTuple):
    """What the critics are trained by."""

    realness: Tensor
    modality: Tensor
    content: Tensor

    def total(self) -> Tensor:
        """The sum; the three share no parameter that another could spoil."""
        return torch.stack(list(self)).sum()
