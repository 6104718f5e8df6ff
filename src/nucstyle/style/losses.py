"""The losses of the style model as pure functions (paper, section 2.3; MDMM, arXiv 1905.01270).

Every loss is a mean over the batch, so that the balance of the terms does not depend on the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

# B = batch, K = modalities, A = attribute size

Weight = Annotated[float, Ge(0)]


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


def critic_loss(real: Tensor, made: Tensor) -> Tensor:
    """The critic's part of L_d: hinge on realness maps of any shape."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + made.float()).mean()


def deception_loss(made: Tensor) -> Tensor:
    """The generator's part of L_d: make the critic's realness high."""
    return -made.float().mean()


def modality_loss(logits: Tensor, modality: Tensor) -> Tensor:
    """Cross-entropy of the modality: of real images for a critic, of made ones for the generator. (B, K), (B,)."""
    return F.cross_entropy(logits.float(), modality)


def confusion_loss(logits: Tensor) -> Tensor:
    """L_c for the encoder: cross-entropy to the uniform distribution, least when the content critic cannot tell.

    MDMM's code aims at 1 - onehot instead, which is "any modality but this one", not confusion.
    """
    return -F.log_softmax(logits.float(), dim=1).mean()


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
    nuclei: Weight = 2.0
    """Content must show the nuclei of annotated images."""
    nuclei_kept: Weight = 3.0
    """The content of a translated image must show the nuclei of its source."""


class TranslationLosses(NamedTuple):
    """Every term that the encoders and the generator are trained by, unweighted; named as in `LossWeights`."""

    cross_cycle: Tensor
    content: Tensor
    adversarial: Tensor
    modality: Tensor
    reconstruction: Tensor
    latent: Tensor
    kl: Tensor
    nuclei: Tensor
    nuclei_kept: Tensor

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
