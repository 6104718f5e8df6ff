"""The training step's forward passes: what is exchanged, and which network learns from which term."""

import pytest
import torch

from nucstyle.core.rng import generator
from nucstyle.style import losses
from nucstyle.style.losses import TranslationLosses
from nucstyle.style.objective import critic_losses, frozen_nucleus_logits, translate_batch, translation_losses


def gradients(value, module):
    found = torch.autograd.grad(value, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [gradient for gradient in found if gradient is not None and gradient.any()]


def detached(made):
    """The same translation as if the images had been painted by hand: leaves that collect gradients."""
    return type(made)(*(tensor.detach().requires_grad_() for tensor in made))


def all_losses(networks, critics, batch):
    made = translate_batch(networks, batch)
    return made, translation_losses(networks, critics, batch, made)


def test_an_image_wears_its_own_style_that_of_its_partner_and_a_random_one(networks, batch_of):
    batch = batch_of()
    made = translate_batch(networks, batch)
    content = networks.encode_content(batch.image, batch.modality) + batch.content_noise[:6]
    mean, log_variance = networks.encode_attribute(batch.image, batch.modality)
    style = mean + batch.attribute_noise * (log_variance / 2).exp()
    torch.testing.assert_close(made.content, content)
    for i, j in enumerate(batch.partner.tolist()):
        one, theirs = slice(i, i + 1), slice(j, j + 1)
        own = networks.generate(content[one], style[one], batch.modality[one])
        crossed = networks.generate(content[one], style[theirs], batch.modality[theirs])
        drawn = networks.generate(content[one], batch.random_attribute[one], batch.modality[theirs])
        for made_one, expected in ((made.own, own), (made.crossed, crossed), (made.random, drawn)):
            torch.testing.assert_close(made_one[one], expected)


def test_the_cycle_gives_every_image_its_own_style_back(networks, critics, batch_of):
    batch = batch_of()
    permuted = batch._replace(partner=torch.tensor([1, 5, 3, 4, 2, 0]))  # argsort of it is another permutation
    made, terms = all_losses(networks, critics, permuted)
    target = batch.modality[permuted.partner]
    content = networks.encode_content(made.crossed, target) + batch.content_noise[6:12]
    style, _ = networks.encode_attribute(made.crossed, target)
    cycle = torch.empty_like(batch.image)
    for bearer, image in enumerate(permuted.partner.tolist()):  # the bearer wears the image's style: read it from there
        one, worn = slice(image, image + 1), slice(bearer, bearer + 1)
        cycle[image] = networks.generate(content[one], style[worn], batch.modality[one])[0]
    torch.testing.assert_close(terms.cross_cycle, losses.reconstruction_loss(cycle, batch.image))


def test_every_other_term_is_its_loss_on_the_right_pictures(networks, critics, batch_of):
    batch = batch_of(annotated=[1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    critics.eval()
    made, terms = all_losses(networks, critics, batch)
    target = batch.modality[batch.partner]
    maps, logits = zip(
        *(critics.image(fake, networks.onehot(target)) for fake in (made.crossed, made.random)), strict=True
    )
    noise = batch.content_noise[6:].chunk(2)
    kept = [
        losses.nucleus_loss(
            networks.nucleus_head(networks.encode_content(fake, target) + own_noise), batch.nuclei, batch.annotated
        )
        for fake, own_noise in zip((made.crossed, made.random), noise, strict=True)
    ]
    expected = TranslationLosses(
        cross_cycle=terms.cross_cycle,
        content=losses.confusion_loss(critics.content(made.content)),
        adversarial=-(maps[0].mean() + maps[1].mean()) / 2,
        modality=(losses.modality_loss(logits[0], target) + losses.modality_loss(logits[1], target)) / 2,
        reconstruction=losses.reconstruction_loss(made.own, batch.image),
        latent=losses.latent_loss(networks.encode_attribute(made.random, target)[0], batch.random_attribute),
        kl=losses.kl_loss(*networks.encode_attribute(batch.image, batch.modality)),
        nuclei=losses.nucleus_loss(networks.nucleus_head(made.content), batch.nuclei, batch.annotated),
        nuclei_kept=sum(kept) / 2,
    )
    for name, value in terms._asdict().items():
        torch.testing.assert_close(value, getattr(expected, name), msg=name)


def test_every_term_teaches_the_network_it_is_meant_for(networks, critics, batch_of):
    _, terms = all_losses(networks, critics, batch_of())
    learners = {
        "content_encoder": {"cross_cycle", "content", "adversarial", "modality", "reconstruction", "nuclei"},
        "attribute_encoder": {"cross_cycle", "adversarial", "modality", "reconstruction", "kl"},
        "generator": {"cross_cycle", "adversarial", "modality", "reconstruction", "latent", "nuclei_kept"},
        "nucleus_head": {"nuclei"},
    }
    for name, meant in learners.items():
        taught = {term for term, value in terms._asdict().items() if gradients(value, getattr(networks, name))}
        assert meant <= taught, name
    heads = {term for term, value in terms._asdict().items() if gradients(value, networks.nucleus_head)}
    assert heads == {"nuclei"}
    assert not gradients(terms.content, networks.generator)
    assert not gradients(terms.nuclei, networks.generator)


def test_only_the_generator_learns_that_nuclei_must_be_kept(networks, critics, batch_of):
    batch = batch_of()
    made = translate_batch(networks, batch)
    painted = detached(made)
    term = translation_losses(networks, critics, batch, painted).nuclei_kept
    # Through the image that is looked at again: to its pixels, and to nothing on the way.
    pixels = torch.autograd.grad(term, [painted.crossed, painted.random], retain_graph=True)
    assert all(gradient.any() for gradient in pixels)
    for part in (networks.content_encoder, networks.nucleus_head, networks.attribute_encoder):
        assert not gradients(term, part)
    whole = translation_losses(networks, critics, batch, made).nuclei_kept
    assert gradients(whole, networks.generator)
    assert not gradients(whole, networks.nucleus_head)


def test_the_frozen_pass_gives_the_logits_of_the_unfrozen_one(networks):
    image = torch.rand(2, 3, 32, 32, generator=generator("frozen")) * 2 - 1
    modality, noise = torch.tensor([0, 1]), torch.ones(2, 16, 8, 8)
    expected = networks.nucleus_head(networks.encode_content(image, modality) + noise)
    torch.testing.assert_close(frozen_nucleus_logits(networks, image, modality, noise), expected)


def test_learning_is_switched_back_on_as_it_was_even_after_an_exception(networks):
    stem = networks.content_encoder.stem.weight.requires_grad_(False)  # frozen by the user: must stay so
    before = {name: parameter.requires_grad for name, parameter in networks.named_parameters()}
    image = torch.zeros(1, 3, 32, 32)
    frozen_nucleus_logits(networks, image, torch.tensor([0]), torch.zeros(1))
    assert {name: parameter.requires_grad for name, parameter in networks.named_parameters()} == before
    with pytest.raises(RuntimeError):
        frozen_nucleus_logits(networks, image, torch.tensor([0]), torch.zeros(1, 7, 8, 8))
    assert {name: parameter.requires_grad for name, parameter in networks.named_parameters()} == before
    assert not stem.requires_grad


def test_critics_are_taught_on_constants(networks, critics, batch_of):
    batch = batch_of()
    made = translate_batch(networks, batch)
    taught = critic_losses(critics, batch, made, networks.onehot(batch.modality))
    for term in taught:
        assert term.requires_grad
        assert not gradients(term, networks)
    assert gradients(taught.realness, critics.image)
    assert gradients(taught.modality, critics.image)
    assert gradients(taught.content, critics.content)


def test_critics_are_shown_real_images_as_what_they_are_and_made_ones_as_their_targets(networks, critics, batch_of):
    batch = batch_of()
    critics.eval()
    made = translate_batch(networks, batch)
    target = networks.onehot(batch.modality[batch.partner])
    real, logits = critics.image(batch.image, networks.onehot(batch.modality))
    fake = torch.cat([critics.image(made.crossed, target)[0], critics.image(made.random, target)[0]])
    taught = critic_losses(critics, batch, made, networks.onehot(batch.modality))
    torch.testing.assert_close(taught.realness, losses.critic_loss(real, fake))
    torch.testing.assert_close(taught.modality, losses.modality_loss(logits, batch.modality))
    torch.testing.assert_close(taught.content, losses.modality_loss(critics.content(made.content), batch.modality))


def test_masked_terms_of_two_half_batches_average_to_those_of_the_joint_batch(networks, critics, batch_of):
    first = batch_of(1, size=3, annotated=[1.0, 1.0, 1.0])
    second = batch_of(2, size=3, annotated=[0.0, 0.0, 1.0])
    thirds = [torch.cat(pair) for pair in zip(first.content_noise.chunk(3), second.content_noise.chunk(3), strict=True)]
    joint = type(first)(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    joint = joint._replace(partner=torch.cat([first.partner, second.partner + 3]), content_noise=torch.cat(thirds))
    critics.eval()
    halves = [all_losses(networks, critics, half)[1] for half in (first, second)]
    for name, whole in all_losses(networks, critics, joint)[1]._asdict().items():
        mean = sum(getattr(half, name) for half in halves) / 2
        torch.testing.assert_close(whole, mean, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batch_moves_to_a_device_whole(batch_of):
    batch = batch_of()
    assert all(tensor.device.type == "meta" for tensor in batch.to("meta"))
