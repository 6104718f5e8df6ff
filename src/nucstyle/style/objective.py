"""One training step's forward passes: content and style are exchanged between two images and exchanged back."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from nucstyle.style import losses
from nucstyle.style.losses import CriticLosses, LossWeights, TranslationLosses
from nucstyle.style.networks import Attribute, Content, Critics, TranslationNetworks

# B = batch, A = attribute size, C = content channels, S = side of the crops, s = S / 4, T = translations of an image


class StyleBatch(NamedTuple):
    """What a step needs, everything random included, so that a step is a function of the batch and the weights."""

    image: Tensor
    """(B, 3, S, S) in [-1, 1]."""
    modality: Tensor
    """(B,) int64."""
    partner: Tensor
    """(B,) int64, a permutation: image i is moved to the modality of image partner[i], which differs from its own."""
    colours: Tensor
    """(B, 6) in [-1, 1], measured on the whole image that the crop is of."""
    nuclei: Tensor
    """(B, 1, S, S), 1 where there is a nucleus; 0 where not annotated."""
    annotated: Tensor
    """(B,) 1 where the image has masks, else 0."""
    attribute_noise: Tensor
    """(B, A) standard normal, for drawing from the encoded attribute."""
    random_attribute: Tensor
    """(B, A) standard normal, the style of the random translation."""
    content_noise: Tensor
    """((1 + T) B, C, s, s) scaled noise on the content of the real and the made images."""
    texture: Tensor
    """(B, 1, S, S) standard normal, of which the generator may make texture."""

    def to(self, device: str) -> Self:
        """The batch on another device."""
        return type(self)(*(tensor.to(device, non_blocking=True) for tensor in self))

    @property
    def target(self) -> Tensor:
        """(B,) the modality that each image is moved to."""
        return self.modality[self.partner]


class Translation(NamedTuple):
    """What the first half of a step makes."""

    content: Content
    """Of the real images, with noise."""
    attribute: Attribute
    """Of the real images."""
    own: Tensor
    """(B, 3, S, S) content and style of the same image: the self-reconstruction."""
    crossed: Tensor
    """(B, 3, S, S) content of image i, style of its partner."""
    random: Tensor | None
    """(B, 3, S, S) content of image i, random style of the partner's modality; None where styles are not learnt."""

    @property
    def made(self) -> list[Tensor]:
        """The translations to another modality."""
        return [self.crossed] if self.random is None else [self.crossed, self.random]


def translations(networks: TranslationNetworks) -> int:
    """T: how many translations to another modality a step makes of an image."""
    return 2 if networks.learns_attribute else 1


def translate_batch(networks: TranslationNetworks, batch: StyleBatch) -> Translation:
    """Encode a batch and make the images of each (MDMM, section 3): its own, crossed, and one of random style.

    Texture noise goes into translations only: a reconstruction could do nothing but suppress it.
    """
    size, count = len(batch.image), 1 + translations(networks)
    content = networks.encode_content(batch.image, batch.modality, batch.colours).plus(batch.content_noise[:size])
    encoded = networks.encode_attribute(batch.image, batch.modality, batch.colours)
    attribute = encoded.draw(batch.attribute_noise)
    styles = [attribute, attribute[batch.partner], batch.random_attribute.to(attribute.dtype)]
    textures = [torch.zeros_like(batch.texture), batch.texture, batch.texture]
    made = networks.generate(
        content.repeat(count),
        torch.cat(styles[:count]),
        torch.cat([batch.modality, *[batch.target] * (count - 1)]),
        torch.cat(textures[:count]),
    ).chunk(count)
    return Translation(content, encoded, made[0], made[1], made[2] if count > 2 else None)


def critic_losses(
    critics: Critics, batch: StyleBatch, made: Translation, onehot: Tensor, adversary: losses.Adversary
) -> CriticLosses:
    """What the critics learn from, summed over them; nothing flows back into the translation.

    Args:
        critics: The critics.
        batch: The batch.
        made: What was made of it.
        onehot: (B, K) of the batch's modalities.
        adversary: How real and made are told apart.
    """
    realness, modality = [], []
    for critic, image in zip(critics.image, made.made, strict=True):
        real, logits = critic(batch.image, onehot)
        fake, _ = critic(image.detach(), onehot[batch.partner])
        realness.append(losses.critic_loss(real, fake, adversary))
        modality.append(losses.modality_loss(logits, batch.modality))
    content = losses.modality_loss(critics.content(made.content.code.detach()), batch.modality)
    return CriticLosses(torch.stack(realness).sum(), torch.stack(modality).sum(), content)


def translation_losses(
    networks: TranslationNetworks, critics: Critics, batch: StyleBatch, made: Translation, weights: LossWeights
) -> TranslationLosses:
    """All terms for the encoders and the generator, summed over the critics, which the caller must have frozen.

    The six losses of the paper, and those that keep nuclei nuclei: the content of a real image must show its nuclei, and
    the content of a translated image must show those of its source.

    Args:
        networks: What learns.
        critics: Frozen.
        batch: The batch.
        made: What was made of it.
        weights: Terms of weight 0 are not computed where that saves work, they are 0.
    """
    zero = batch.image.new_zeros(())
    onehot, variance = networks.onehot(batch.target), made.attribute.log_variance
    judged = [critic(image, onehot) for critic, image in zip(critics.image, made.made, strict=True)]
    taught = weights.nuclei or weights.nuclei_kept or weights.nuclei_height
    nuclei, kept, height = nucleus_losses(networks, batch, made) if taught else (zero, zero, zero)
    return TranslationLosses(
        cross_cycle=cycle_loss(networks, batch, made) if weights.cross_cycle else zero,
        content=losses.confusion_loss(critics.content(made.content.code)) if weights.content else zero,
        adversarial=torch.stack([losses.deception_loss(maps, weights.adversary) for maps, _ in judged]).sum(),
        modality=torch.stack([losses.modality_loss(logits, batch.target) for _, logits in judged]).sum(),
        reconstruction=losses.reconstruction_loss(made.own, batch.image),
        latent=latent_loss(networks, batch, made) if weights.latent else zero,
        kl=zero if variance is None else losses.kl_loss(made.attribute.mean, variance),
        content_size=made.content.code.float().square().mean() if weights.content_size else zero,
        nuclei=nuclei,
        nuclei_kept=kept,
        nuclei_height=height,
    )


def nucleus_losses(
    networks: TranslationNetworks, batch: StyleBatch, made: Translation
) -> tuple[Tensor, Tensor, Tensor]:
    """Nuclei in the content of real images, kept in that of translated ones, and kept in their pixels.

    In the second the encoder and the head are constants, so only the generator learns from it: otherwise the encoder could
    agree with whatever the generator paints. Images without masks must keep what the head sees in them.
    """
    size, count = len(batch.image), len(made.made)
    logits = networks.nucleus_logits(made.content)
    annotated = batch.annotated[:, None, None, None] > 0
    wanted = torch.where(annotated, batch.nuclei, logits.detach().float().sigmoid())
    with frozen(*networks.content_learners()):
        # A made image is made to have the colours of its partner.
        colours = batch.colours[batch.partner].repeat(count, 1)
        seen = networks.encode_content(torch.cat(made.made), batch.target.repeat(count), colours)
        kept = networks.nucleus_logits(seen.plus(batch.content_noise[size:]))
    if seen.detail is None or made.content.detail is None:
        height = batch.image.new_zeros(())
    else:
        height = losses.height_loss(seen.detail, made.content.detail, wanted)
    everywhere = torch.ones_like(batch.annotated).repeat(count)
    return (
        losses.nucleus_loss(logits, batch.nuclei, batch.annotated),
        losses.nucleus_loss(kept, wanted.repeat(count, 1, 1, 1), everywhere),
        height,
    )


def cycle_loss(networks: TranslationNetworks, batch: StyleBatch, made: Translation) -> Tensor:
    """L_cc: from the crossed images back to the real ones."""
    size, colours = len(batch.image), batch.colours[batch.partner]
    content = networks.encode_content(made.crossed, batch.target, colours).plus(batch.content_noise[size : 2 * size])
    style = networks.encode_attribute(made.crossed, batch.target, colours).mean
    # Image i wears the style of partner[i]; its own style is worn by the image whose partner it is.
    back = torch.argsort(batch.partner)
    again = networks.generate(content, style[back], batch.modality, torch.zeros_like(batch.texture))
    return losses.reconstruction_loss(again, batch.image)


def latent_loss(networks: TranslationNetworks, batch: StyleBatch, made: Translation) -> Tensor:
    """L_latent: the style must be readable from the image made with it.

    The attribute encoder is a constant in it: otherwise encoder and generator agree on secret signs, as in MDMM's code.
    """
    if made.random is not None:
        with frozen(*networks.attribute_learners()):
            regressed = networks.encode_attribute(made.random, batch.target, batch.colours[batch.partner]).mean
        return losses.latent_loss(regressed, batch.random_attribute)
    assert made.content.detail is not None
    return losses.colour_loss(made.crossed, made.content.detail, batch.colours[batch.partner])


class frozen:  # noqa: N801  (a context manager, read like a word)
    """Within the block, modules' parameters are constants: gradients pass through but do not arrive."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self._parameters = [p for module in modules for p in module.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
