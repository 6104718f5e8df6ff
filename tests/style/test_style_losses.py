"""Every loss against a number worked out by hand or a formula written naively; all are means, none is a sum."""

import dataclasses
import math
from collections import Counter

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nucstyle.core.config import build
from nucstyle.core.errors import ConfigError
from nucstyle.core.rng import generator
from nucstyle.style import losses
from nucstyle.style.losses import CriticLosses, LossWeights, TranslationLosses


def drawn(*size, name="drawn"):
    return torch.randn(size, generator=generator(name, *size))


def twice(*tensors):
    return [torch.cat([tensor, tensor]) for tensor in tensors]


def test_reconstruction_is_the_mean_absolute_difference():
    made = torch.tensor([[[[0.0, 1.0], [0.5, -1.0]]]])
    wanted = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
    assert float(losses.reconstruction_loss(made, wanted)) == (1 + 0 + 0.5 + 2) / 4


def test_latent_is_the_mean_absolute_difference_of_attributes():
    assert float(losses.latent_loss(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]]))) == 2


def test_colours_are_compared_where_there_is_background_and_where_there_are_objects():
    height = torch.tensor([[0.0, 0.0], [1.0, 0.4]]).expand(1, 1, 2, 2)  # the last pixel is neither
    wanted = torch.tensor([[0.1, 0.2, 0.3, 0.7, 0.8, 0.9]])
    image = torch.zeros(1, 3, 2, 2)
    image[0, :, 0], image[0, :, 1, 0] = wanted[0, :3, None], wanted[0, 3:]
    assert float(losses.colour_loss(image, height, wanted)) == pytest.approx(0, abs=1e-6)
    image[0, :, 1, 1] = 5.0
    assert float(losses.colour_loss(image, height, wanted)) == pytest.approx(0, abs=1e-6)
    image[0, :, 1, 0] += 0.6
    assert float(losses.colour_loss(image, height, wanted)) == pytest.approx(0.3, abs=1e-6)
    image[0, :, 0, 0] -= 0.2  # half of the background
    assert float(losses.colour_loss(image, height, wanted)) == pytest.approx(0.35, abs=1e-6)


def test_a_field_without_objects_is_asked_for_its_background_alone():
    wanted = torch.tensor([[0.1] * 3 + [0.7] * 3])
    image = torch.full((1, 3, 8, 8), 0.3)
    assert float(losses.colour_loss(image, torch.zeros(1, 1, 8, 8), wanted)) == pytest.approx(0.1, abs=1e-6)


def test_heights_must_stay_where_nuclei_are_and_may_not_rise_elsewhere():
    nuclei = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 5)
    source = torch.tensor([1.0, 0.5, 0.0, 0.6, 0.0]).reshape(1, 1, 1, 5)
    assert float(losses.height_loss(source, source, nuclei)) == 0
    textured = torch.tensor([1.4, 0.4, 0.35, 0.6, -0.5]).reshape(1, 1, 1, 5)  # darker texture, and none lost
    assert float(losses.height_loss(textured, source, nuclei)) == pytest.approx(0, abs=1e-6)
    lost = torch.tensor([0.3, 0.5, 0.0, 0.6, 0.0]).reshape(1, 1, 1, 5)
    assert float(losses.height_loss(lost, source, nuclei)) == pytest.approx(0.5 / 5)
    invented = torch.tensor([1.0, 0.5, 0.95, 0.9, 0.0]).reshape(1, 1, 1, 5)
    assert float(losses.height_loss(invented, source, nuclei)) == pytest.approx((0.6 + 0.3) / 5)


def test_kl_is_zero_at_the_standard_normal_and_nowhere_else():
    zeros = torch.zeros(4, 8)
    assert float(losses.kl_loss(zeros, zeros)) == 0
    for shifted in (-0.5, 0.5):
        assert float(losses.kl_loss(zeros + shifted, zeros)) > 0.1
        assert float(losses.kl_loss(zeros, zeros + shifted)) > 0.1


def test_kl_is_the_divergence_that_torch_computes_summed_over_attributes_and_averaged_over_the_batch():
    mean, log_variance = drawn(5, 8, name="mean"), drawn(5, 8, name="log variance")
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    assert float(losses.kl_loss(mean, log_variance)) == pytest.approx(float(expected), rel=1e-6)


def test_critic_hinges_at_one_on_both_sides():
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert float(losses.critic_loss([real], [made])) == (0 + 0.5) / 2 + (0 + 1) / 2
    assert float(losses.critic_loss([torch.full((3, 4, 4), 1.0)], [torch.full((3, 4, 4), -1.0)])) == 0


def test_every_map_counts_alike_however_many_cells_it_has():
    small, large = torch.zeros(1, 1), torch.full((1, 100), -1.0)
    assert float(losses.critic_loss([small, large], [-1 - small, -1 + 0 * large])) == (1 + 2) / 2
    assert float(losses.deception_loss([small, large])) == 0.5


def test_cross_entropy_takes_logits_and_does_not_overflow():
    """Defect 4 of the published code: a sigmoid, then the logarithm."""
    real, made = torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0])
    naive = -(math.log(0.5) + math.log(1 / (1 + math.exp(-2)))) / 2
    naive -= (math.log(1 - 1 / (1 + math.exp(-1))) + math.log(1 - 1 / (1 + math.exp(1)))) / 2
    assert float(losses.critic_loss([real], [made], "cross-entropy")) == pytest.approx(naive, rel=1e-6)
    wanted = -(math.log(1 / (1 + math.exp(-1))) + math.log(1 / (1 + math.exp(1)))) / 2
    assert float(losses.deception_loss([made], "cross-entropy")) == pytest.approx(wanted, rel=1e-6)
    far = torch.tensor([-300.0])
    assert float(losses.deception_loss([far], "cross-entropy")) == 300


def test_deception_is_the_negative_mean_realness():
    assert float(losses.deception_loss([torch.tensor([[1.0, 2.0], [3.0, -2.0]])])) == -1


def test_modality_is_the_mean_cross_entropy_with_raw_logits():
    logits, modality = drawn(4, 3), torch.tensor([0, 2, 1, 2])
    naive = [math.log(sum(map(math.exp, row))) - row[k] for row, k in zip(logits.tolist(), modality, strict=True)]
    assert float(losses.modality_loss(logits, modality)) == pytest.approx(sum(naive) / 4, rel=1e-6)


def test_confusion_is_least_where_the_critic_cannot_tell_and_never_prefers_a_wrong_modality():
    uniform = float(losses.confusion_loss(torch.zeros(2, 4)))
    assert uniform == pytest.approx(math.log(4))
    assert float(losses.confusion_loss(torch.full((2, 4), 7.0))) == pytest.approx(uniform)
    favourites = [float(losses.confusion_loss(2.0 * torch.eye(4)[[k]])) for k in range(4)]
    assert favourites == pytest.approx([favourites[0]] * 4)
    assert favourites[0] > uniform + 0.3
    for number in range(20):
        assert float(losses.confusion_loss(drawn(3, 4, name=f"logits {number}"))) > uniform


def test_confusion_pushes_logits_together():
    logits = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    losses.confusion_loss(logits).backward()
    expected = logits.detach().softmax(1) - 1 / 3  # of a cross-entropy with the uniform target
    torch.testing.assert_close(logits.grad, expected)


def test_nucleus_loss_is_a_cross_entropy_with_shares_over_annotated_images():
    logits = torch.tensor([0.0, 2.0, 9.0]).reshape(3, 1, 1, 1)
    nuclei = torch.tensor([1.0, 0.25, 0.0]).reshape(3, 1, 1, 1)
    second = 0.25 * math.log(1 + math.exp(-2)) + 0.75 * math.log(1 + math.exp(2))
    value = losses.nucleus_loss(logits, nuclei, torch.tensor([1.0, 1.0, 0.0]))
    assert float(value) == pytest.approx((math.log(2) + second) / 3, rel=1e-6)


def test_nucleus_loss_of_a_joint_batch_is_the_mean_of_two_halves_however_unequally_annotated():
    logits, nuclei = drawn(6, 1, 4, 4), drawn(6, 1, 4, 4, name="nuclei").sigmoid()
    annotated = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    joint = losses.nucleus_loss(logits, nuclei, annotated)
    halves = [losses.nucleus_loss(logits[part], nuclei[part], annotated[part]) for part in (slice(3), slice(3, 6))]
    torch.testing.assert_close(torch.stack(halves).mean(), joint)
    assert not torch.isclose(halves[0], halves[1])


def test_nucleus_loss_ignores_images_that_are_not_annotated_and_is_zero_without_any():
    logits, nuclei = drawn(2, 1, 4, 4).requires_grad_(), torch.zeros(2, 1, 4, 4)
    losses.nucleus_loss(logits, nuclei, torch.tensor([0.0, 1.0])).backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].all()
    assert float(losses.nucleus_loss(logits.detach(), nuclei, torch.zeros(2))) == 0


MEANS = {
    "reconstruction": (losses.reconstruction_loss, (drawn(3, 3, 8, 8), drawn(3, 3, 8, 8, name="wanted"))),
    "latent": (losses.latent_loss, (drawn(3, 8), drawn(3, 8, name="drawn attribute"))),
    "kl": (losses.kl_loss, (drawn(3, 8), drawn(3, 8, name="log variance"))),
    "critic": (lambda real, made: losses.critic_loss([real], [made]), (drawn(3, 4, 4), drawn(3, 4, 4, name="made"))),
    "deception": (lambda made: losses.deception_loss([made]), (drawn(3, 4, 4),)),
    "colour": (losses.colour_loss, (drawn(3, 3, 4, 4), drawn(3, 1, 4, 4, name="height"), drawn(3, 6))),
    "modality": (losses.modality_loss, (drawn(3, 4), torch.tensor([0, 3, 1]))),
    "confusion": (losses.confusion_loss, (drawn(3, 4),)),
    "height": (losses.height_loss, (drawn(3, 1, 4, 4), drawn(3, 1, 4, 4, name="h"), drawn(3, 1, 4, 4).sigmoid())),
    "nucleus": (losses.nucleus_loss, (drawn(3, 1, 4, 4), drawn(3, 1, 4, 4).sigmoid(), torch.tensor([1.0, 0.0, 1.0]))),
}


@pytest.mark.parametrize("name", MEANS)
def test_doubling_the_batch_changes_no_loss(name):
    loss, arguments = MEANS[name]
    torch.testing.assert_close(loss(*twice(*arguments)), loss(*arguments))


@pytest.mark.parametrize("name", MEANS)
def test_losses_are_computed_in_float32_whatever_the_networks_compute_in(name):
    loss, (first, *others) = MEANS[name]
    value = loss(first.bfloat16(), *others)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(first.bfloat16().float(), *others))


def test_every_term_has_a_weight_of_its_name_and_every_weight_a_term():
    weights = [field.name for field in dataclasses.fields(LossWeights) if field.name != "adversary"]
    assert Counter(TranslationLosses._fields) == Counter(weights)


def test_the_total_is_the_weighted_sum_of_all_terms():
    terms = TranslationLosses(*(torch.tensor(2.0**power) for power in range(len(TranslationLosses._fields))))
    weights = LossWeights(**{name: 3.0**power for power, name in enumerate(reversed(TranslationLosses._fields))})
    naive = sum(getattr(weights, name) * float(getattr(terms, name)) for name in TranslationLosses._fields)
    assert float(terms.total(weights)) == naive
    for name in TranslationLosses._fields:
        without = terms.total(dataclasses.replace(weights, **{name: 0.0}))
        assert float(without) == pytest.approx(naive - getattr(weights, name) * float(getattr(terms, name)))


def test_the_critics_total_counts_every_term_once():
    assert float(CriticLosses(torch.tensor(1.0), torch.tensor(20.0), torch.tensor(300.0)).total()) == 321


def test_a_negative_weight_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"recipe x: 'kl': .*greater than or equal to 0"):
        build(LossWeights, {"kl": -1.0}, where="recipe x")
