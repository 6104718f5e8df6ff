"""The training step's forward passes: what is exchanged, and which network learns from which term."""

import pytest
import torch

from nucstyle.style import losses
from nucstyle.style.losses import LossWeights, TranslationLosses
from nucstyle.style.networks import Attribute, Content
from nucstyle.style.objective import (
    critic_losses,
    frozen,
    nucleus_losses,
    translate_batch,
    translation_losses,
    translations,
)

WEIGHTS = LossWeights(content_size=1.0)


def gradients(value, module):
    parameters = list(module.parameters())
    if not value.requires_grad or not parameters:
        return []
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [gradient for gradient in found if gradient is not None and gradient.any()]


def painted(made):
    """The same translation as if the images had been painted by hand: leaves that collect gradients."""

    def leaf(tensor):
        return None if tensor is None else tensor.detach().requires_grad_()

    return type(made)(
        Content(leaf(made.content.code), made.content.detail),
        Attribute(leaf(made.attribute.mean), leaf(made.attribute.log_variance)),
        leaf(made.own),
        leaf(made.crossed),
        leaf(made.random),
    )


def all_losses(networks, critics, batch, weights=WEIGHTS):
    made = translate_batch(networks, batch)
    return made, translation_losses(networks, critics, batch, made, weights)


def part(content, which):
    return Content(content.code[which], None if content.detail is None else content.detail[which])


def test_an_image_wears_its_own_style_that_of_its_partner_and_a_random_one(networks, batch_of):
    batch = batch_of()
    made = translate_batch(networks, batch)
    content = networks.encode_content(batch.image, batch.modality, batch.colours).plus(batch.content_noise[:6])
    style = networks.encode_attribute(batch.image, batch.modality, batch.colours).draw(batch.attribute_noise)
    torch.testing.assert_close(made.content.code, content.code)
    for i, j in enumerate(batch.partner.tolist()):
        one, theirs = slice(i, i + 1), slice(j, j + 1)
        smooth, rough = torch.zeros_like(batch.texture[one]), batch.texture[one]
        own = networks.generate(part(content, one), style[one], batch.modality[one], smooth)
        crossed = networks.generate(part(content, one), style[theirs], batch.modality[theirs], rough)
        torch.testing.assert_close(made.own[one], own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.crossed[one], crossed, rtol=1e-4, atol=1e-5)
        if networks.learns_attribute:
            drawn = networks.generate(part(content, one), batch.random_attribute[one], batch.modality[theirs], rough)
            torch.testing.assert_close(made.random[one], drawn, rtol=1e-4, atol=1e-5)
    assert (made.random is None) == (not networks.learns_attribute)
    assert len(made.made) == translations(networks)


def test_the_cycle_gives_every_image_its_own_style_back(networks, critics, batch_of):
    batch = batch_of()
    permuted = batch._replace(partner=torch.tensor([1, 5, 3, 4, 2, 0]))  # argsort of it is another permutation
    made, terms = all_losses(networks, critics, permuted)
    target, worn_colours = permuted.target, batch.colours[permuted.partner]
    content = networks.encode_content(made.crossed, target, worn_colours).plus(batch.content_noise[6:12])
    style = networks.encode_attribute(made.crossed, target, worn_colours).mean
    cycle, smooth = torch.empty_like(batch.image), torch.zeros_like(batch.texture[:1])
    for bearer, image in enumerate(permuted.partner.tolist()):  # the bearer wears the image's style: read it from there
        one, worn = slice(image, image + 1), slice(bearer, bearer + 1)
        cycle[image] = networks.generate(part(content, one), style[worn], batch.modality[one], smooth)[0]
    torch.testing.assert_close(terms.cross_cycle, losses.reconstruction_loss(cycle, batch.image))


def test_every_other_term_is_its_loss_on_the_right_pictures(networks, critics, batch_of):
    batch = batch_of(annotated=[1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    critics.eval()
    made, terms = all_losses(networks, critics, batch)
    target, colours = batch.modality[batch.partner], batch.colours[batch.partner]
    judged = [critic(one, networks.onehot(target)) for critic, one in zip(critics.image, made.made, strict=True)]
    logits = networks.nucleus_logits(made.content)
    seen = logits.detach().sigmoid()
    wanted = torch.stack([batch.nuclei[i] if batch.annotated[i] else seen[i] for i in range(6)])
    noise = batch.content_noise[6:].split(6)
    kept = [
        losses.nucleus_loss(
            networks.nucleus_logits(networks.encode_content(one, target, colours).plus(own_noise)),
            wanted,
            torch.ones(6),
        )
        for one, own_noise in zip(made.made, noise, strict=True)
    ]
    encoded = networks.encode_attribute(batch.image, batch.modality, batch.colours)
    height = torch.tensor(0.0)
    if not networks.learns_attribute:
        seen_again = networks.encode_content(made.crossed, target, colours).detail
        height = losses.height_loss(seen_again, made.content.detail, wanted)
    if networks.learns_attribute:
        regressed = networks.encode_attribute(made.random, target, colours).mean
        latent, kl = losses.latent_loss(regressed, batch.random_attribute), losses.kl_loss(*encoded)
    else:
        latent, kl = losses.colour_loss(made.crossed, made.content.detail, colours), torch.tensor(0.0)
    expected = TranslationLosses(
        cross_cycle=terms.cross_cycle,
        content=losses.confusion_loss(critics.content(made.content.code)),
        adversarial=torch.stack([losses.deception_loss(maps) for maps, _ in judged]).sum(),
        modality=torch.stack([losses.modality_loss(one, target) for _, one in judged]).sum(),
        reconstruction=losses.reconstruction_loss(made.own, batch.image),
        latent=latent,
        kl=kl,
        content_size=made.content.code.square().mean(),
        nuclei=losses.nucleus_loss(logits, batch.nuclei, batch.annotated),
        nuclei_kept=torch.stack(kept).mean(),
        nuclei_height=height,
    )
    for name, value in terms._asdict().items():
        torch.testing.assert_close(value, getattr(expected, name), msg=name, rtol=1e-4, atol=1e-5)


def test_every_term_teaches_the_network_it_is_meant_for(networks, critics, batch_of):
    _, terms = all_losses(networks, critics, batch_of())
    learners = {
        "content_encoder": {"cross_cycle", "content", "adversarial", "modality", "reconstruction", "nuclei"},
        "generator": {"cross_cycle", "adversarial", "modality", "reconstruction", "latent", "nuclei_kept"},
        "nucleus_head": {"nuclei"},
    }
    if networks.learns_attribute:
        learners["attribute_encoder"] = {"cross_cycle", "adversarial", "modality", "reconstruction", "kl"}
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
    by_hand = painted(made)
    _, term, _ = nucleus_losses(networks, batch, by_hand)
    # Through the image that is looked at again: to its pixels, and to nothing on the way.
    pixels = torch.autograd.grad(term, by_hand.made, retain_graph=True)
    assert all(gradient.any() for gradient in pixels)
    assert not gradients(term, networks)
    _, whole, _ = nucleus_losses(networks, batch, made)
    assert gradients(whole, networks.generator)
    assert not gradients(whole, networks.nucleus_head)


@pytest.mark.parametrize("architecture", ["mdmm"], indirect=True)
def test_no_secret_signs_the_latent_loss_does_not_teach_the_attribute_encoder(networks, critics, batch_of):
    """Defect 5 of the published code, as it is usually mended."""
    batch = batch_of()
    term = translation_losses(networks, critics, batch, painted(translate_batch(networks, batch)), WEIGHTS).latent
    assert not gradients(term, networks.attribute_encoder)
    _, terms = all_losses(networks, critics, batch)
    assert gradients(terms.latent, networks.generator)


def test_without_any_mask_translations_must_keep_what_the_head_sees(networks, critics, batch_of):
    bare = batch_of(annotated=[0.0] * 6)
    _, terms = all_losses(networks, critics, bare)
    assert not terms.nuclei
    assert terms.nuclei_kept > 0
    other = all_losses(networks, critics, bare._replace(nuclei=1 - bare.nuclei))[1]
    torch.testing.assert_close(other.nuclei_kept, terms.nuclei_kept)


def test_terms_of_weight_nothing_are_nothing_and_the_others_as_before(networks, critics, batch_of):
    critics.eval()
    _, full = all_losses(networks, critics, batch_of())
    off = LossWeights(cross_cycle=0, content=0, latent=0, nuclei=0, nuclei_kept=0, nuclei_height=0)
    _, bare = all_losses(networks, critics, batch_of(), off)
    for name in ("cross_cycle", "content", "latent", "content_size", "nuclei", "nuclei_kept", "nuclei_height"):
        assert not getattr(bare, name), name
    for name in ("adversarial", "modality", "reconstruction", "kl"):
        torch.testing.assert_close(getattr(bare, name), getattr(full, name))


def test_critics_are_taught_on_constants(networks, critics, batch_of):
    batch = batch_of()
    made = translate_batch(networks, batch)
    taught = critic_losses(critics, batch, made, networks.onehot(batch.modality), "hinge")
    for term in taught:
        assert term.requires_grad
        assert not gradients(term, networks)
    assert gradients(taught.realness, critics.image)
    assert gradients(taught.modality, critics.image)
    assert gradients(taught.content, critics.content)


@pytest.mark.parametrize("adversary", ["hinge", "cross-entropy"])
def test_critics_are_shown_real_images_as_what_they_are_and_made_ones_as_their_targets(
    networks, critics, batch_of, adversary
):
    batch = batch_of()
    critics.eval()
    made = translate_batch(networks, batch)
    own, target = networks.onehot(batch.modality), networks.onehot(batch.target)
    realness, modality = [], []
    for critic, image in zip(critics.image, made.made, strict=True):
        maps, logits = critic(batch.image, own)
        realness.append(losses.critic_loss(maps, critic(image, target)[0], adversary))
        modality.append(losses.modality_loss(logits, batch.modality))
    taught = critic_losses(critics, batch, made, own, adversary)
    torch.testing.assert_close(taught.realness, sum(realness))
    torch.testing.assert_close(taught.modality, sum(modality))
    torch.testing.assert_close(taught.content, losses.modality_loss(critics.content(made.content.code), batch.modality))


def test_masked_terms_of_two_half_batches_average_to_those_of_the_joint_batch(networks, critics, batch_of):
    first = batch_of(1, size=3, annotated=[1.0, 1.0, 1.0])
    second = batch_of(2, size=3, annotated=[0.0, 0.0, 1.0])
    pairs = zip(first.content_noise.split(3), second.content_noise.split(3), strict=True)
    joint = type(first)(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    joint = joint._replace(
        partner=torch.cat([first.partner, second.partner + 3]),
        content_noise=torch.cat([torch.cat(pair) for pair in pairs]),
    )
    critics.eval()
    halves = [all_losses(networks, critics, half)[1] for half in (first, second)]
    for name, whole in all_losses(networks, critics, joint)[1]._asdict().items():
        mean = sum(getattr(half, name) for half in halves) / 2
        torch.testing.assert_close(whole, mean, rtol=1e-4, atol=1e-5, msg=name)


def test_a_batch_moves_to_a_device_whole(batch_of):
    batch = batch_of()
    assert all(tensor.device.type == "meta" for tensor in batch.to("meta"))


def test_freezing_ends_with_the_block_also_after_an_exception_and_leaves_what_was_frozen(critics):
    critics.content.requires_grad_(False)
    before = {name: one.requires_grad for name, one in critics.named_parameters()}
    inside = []

    def fail():
        with frozen(critics.image, critics.content):
            inside.extend(one.requires_grad for one in critics.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(inside)
    assert {name: one.requires_grad for name, one in critics.named_parameters()} == before
