"""One training step's forward passes: content and style are exchanged between two images and exchanged back."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from nucstyle.style import losses
from nucstyle.style.losses import CriticLosses, TranslationLosses
from nucstyle.style.networks import Critics, TranslationNetworks

# B = batch, A = attribute size, C = content channels, S = side of the crops, s = S / 4


class StyleBatch(NamedTuple):
    """What a step needs, everything random included, so that a step is a function of the batch and the weights."""

    image: Tensor
    """(B, 3, S, S) in [-1, 1]."""
    modality: Tensor
    """(B,) int64."""
    partner: Tensor
    """(B,) int64, a permutation: image i is moved to the modality of image partner[i], which differs from its own."""
    nuclei: Tensor
    """(B, 1, s, s), share of nucleus in each content cell; 0 where not annotated."""
    annotated: Tensor
    """(B,) 1 where the image has masks, else 0."""
    attribute_noise: Tensor
    """(B, A) standard normal, for drawing from the encoded attribute."""
    random_attribute: Tensor
    """(B, A) standard normal, the style of the random translation."""
    content_noise: Tensor
    """(3 B, C, s, s) scaled noise on the content of the real, the crossed and the random images."""

    def to(self, device: str) -> Self:
        """The batch on another device."""
        return type(self)(*(tensor.to(device, non_blocking=True) for tensor in self))


class Translation(NamedTuple):
    """What the first half of a step makes."""

    content: Tensor
    """(B, C, s, s) of the real images, with noise."""
    mean: Tensor
    """(B, A) attribute mean."""
    log_variance: Tensor
    """(B, A)."""
    own: Tensor
    """(B, 3, S, S) content and style of the same image: the self-reconstruction."""
    crossed: Tensor
    """(B, 3, S, S) content of image i, style of its partner."""
    random: Tensor
    """(B, 3, S, S) content of image i, random style of the partner's modality."""


def translate_batch(networks: TranslationNetworks, batch: StyleBatch) -> Translation:
    """Encode a batch and make the three images of each (MDMM, section 3)."""
    size = len(batch.image)
    content = networks.encode_content(batch.image, batch.modality) + batch.content_noise[:size]
    mean, log_variance = networks.encode_attribute(batch.image, batch.modality)
    attribute = mean + batch.attribute_noise * (0.5 * log_variance).exp()
    target = batch.modality[batch.partner]
    made = networks.generate(
        torch.cat([content, content, content]),
        torch.cat([attribute, attribute[batch.partner], batch.random_attribute.to(attribute.dtype)]),
        torch.cat([batch.modality, target, target]),
    )
    own, crossed, random = made.chunk(3)
    return Translation(content, mean, log_variance, own, crossed, random)


def critic_losses(critics: Critics, batch: StyleBatch, made: Translation, onehot: Tensor) -> CriticLosses:
    """What the critics learn from; nothing flows back into the translation.

    Args:
        critics: The critics.
        batch: The batch.
        made: What was made of it.
        onehot: (B, K) of the batch's modalities.
    """
    target = onehot[batch.partner]
    fake = torch.cat([made.crossed, made.random]).detach()
    real_map, real_logits = critics.image(batch.image, onehot)
    fake_map, _ = critics.image(fake, torch.cat([target, target]))
    return CriticLosses(
        realness=losses.critic_loss(real_map, fake_map),
        modality=losses.modality_loss(real_logits, batch.modality),
        content=losses.modality_loss(critics.content(made.content.detach()), batch.modality),
    )


def translation_losses(
    networks: TranslationNetworks, critics: Critics, batch: StyleBatch, made: Translation
) -> TranslationLosses:
    """All terms for the encoders and the generator; the critics must be frozen by the caller.

    The six losses of the paper, and two that keep nuclei nuclei: the content of a real image must show its nuclei, and
    the content of a translated image must show those of its source. In the second the encoder and the head are frozen,
    so only the generator learns from it: otherwise the encoder could agree with whatever the generator paints.
    """
    size = len(batch.image)
    target = batch.modality[batch.partner]
    fake, targets = torch.cat([made.crossed, made.random]), torch.cat([target, target])
    noise = batch.content_noise[size:]
    content = networks.encode_content(made.crossed, target) + noise[:size]
    style, _ = networks.encode_attribute(made.crossed, target)
    # Image i wears the style of partner[i]; its own style is worn by the image whose partner it is.
    back = torch.argsort(batch.partner)
    cycle = networks.generate(content, style[back], batch.modality)
    regressed, _ = networks.encode_attribute(made.random, target)
    fake_map, fake_logits = critics.image(fake, networks.onehot(targets))
    kept = frozen_nucleus_logits(networks, fake, targets, noise)
    return TranslationLosses(
        cross_cycle=losses.reconstruction_loss(cycle, batch.image),
        content=losses.confusion_loss(critics.content(made.content)),
        adversarial=losses.deception_loss(fake_map),
        modality=losses.modality_loss(fake_logits, targets),
        reconstruction=losses.reconstruction_loss(made.own, batch.image),
        latent=losses.latent_loss(regressed, batch.random_attribute),
        kl=losses.kl_loss(made.mean, made.log_variance),
        nuclei=losses.nucleus_loss(networks.nucleus_head(made.content), batch.nuclei, batch.annotated),
        nuclei_kept=losses.nucleus_loss(kept, batch.nuclei.repeat(2, 1, 1, 1), batch.annotated.repeat(2)),
    )


def frozen_nucleus_logits(networks: TranslationNetworks, image: Tensor, modality: Tensor, noise: Tensor) -> Tensor:
    """Nucleus logits of images, through an encoder and a head that do not learn from them.

    Args:
        networks: Its content encoder and nucleus head are used with their weights as constants.
        image: (B, 3, S, S) in [-1, 1]; the gradient goes here.
        modality: (B,).
        noise: (B, C, s, s) added to the content.

    Returns:
        (B, 1, s, s).
    """
    learning = [*networks.content_encoder.parameters(), *networks.nucleus_head.parameters()]
    wanted = [parameter.requires_grad for parameter in learning]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        logits: Tensor = networks.nucleus_head(networks.encode_content(image, modality) + noise)
    finally:
        for parameter, flag in zip(learning, wanted, strict=True):
            parameter.requires_grad_(flag)
    return logits
