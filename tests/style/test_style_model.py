"""The trained style model as the other rooms see it."""

import itertools

import pytest
import torch

from nucstyle.core.errors import OptionError, WeightsError
from nucstyle.core.precision import autocast
from nucstyle.core.protocols import Translator
from nucstyle.core.rng import generator
from nucstyle.data.weights import load_state
from nucstyle.style.model import StyleModel

SIZES = [(1, 1), (1, 33), (2, 3), (3, 500), (15, 17), (161, 519), (256, 256)]


def image_of(height, width, batch=1):
    return torch.rand(batch, 3, height, width, generator=generator("image", height, width))


def moved(model, image, source=0, target=1):
    return model.translate(
        image, source=torch.tensor([source]), target=torch.tensor([target]), attribute=torch.tensor([[0.5, -1.0, 2.0]])
    )


def load(module, tensors):
    load_state(module, tensors, where="test")


def test_it_is_what_augmentations_ask_for(style_model):
    assert isinstance(style_model, Translator)
    assert style_model.modalities == ("grey-on-black", "purple-on-white", "purple-on-purple")


@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_any_size_keeps_its_size_and_range(style_model, size):
    for made in (
        moved(style_model, image_of(*size)),
        style_model.reconstruct(image_of(*size), torch.tensor([2])),
        moved(style_model, torch.zeros(1, 3, *size)),
        moved(style_model, torch.ones(1, 3, *size)),
    ):
        assert made.shape == (1, 3, *size)
        assert made.dtype == torch.float32
        assert not made.requires_grad
        assert float(made.min()) >= 0
        assert float(made.max()) <= 1


def test_no_pixel_moves(style_model):
    """A mark that is moved by some pixels moves its traces by as many: nothing is cropped or padded at the wrong side."""
    ys, xs = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")

    def centre_of_change(y, x):
        mark = (((ys - y) ** 2 + (xs - x) ** 2) < 16).float().expand(1, 3, -1, -1)
        change = (
            (moved(style_model, 0.2 + 0.6 * mark) - moved(style_model, torch.full((1, 3, 64, 96), 0.2)))
            .abs()
            .sum((0, 1))
        )
        near = change * (((ys - y) ** 2 + (xs - x) ** 2) < 144)
        return float((near * ys).sum() / near.sum()), float((near * xs).sum() / near.sum())

    for y, x in ((20, 20), (44, 76), (32, 48)):
        assert centre_of_change(y, x) == pytest.approx((y, x), abs=1.5)


def test_the_same_question_has_the_same_answer(style_model):
    image = image_of(40, 56)
    assert torch.equal(moved(style_model, image), moved(style_model, image))
    style_model.translate(  # a question in between leaves no trace
        image_of(9, 9), source=torch.tensor([2]), target=torch.tensor([0]), attribute=torch.zeros(1, 3)
    )
    assert torch.equal(moved(style_model, image), moved(style_model, image))


def test_an_image_is_restyled_alike_alone_and_in_a_batch(style_model):
    batch = image_of(24, 24, batch=3)
    source, target = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    attribute = torch.randn(3, 3, generator=generator("attribute"))
    together = style_model.translate(batch, source=source, target=target, attribute=attribute)
    for i in range(3):
        one = slice(i, i + 1)
        alone = style_model.translate(batch[one], source=source[one], target=target[one], attribute=attribute[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


def test_it_adds_no_noise_and_repeats_the_border_before_it_looks(style_model, networks):
    assert not networks.training
    image = image_of(64, 64)
    padded = torch.nn.functional.pad(image, (16, 16, 16, 16), mode="replicate") * 2 - 1
    with torch.no_grad():
        content = networks.encode_content(padded, torch.tensor([0]))
        made = networks.generate(content, torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([1]))
    torch.testing.assert_close(moved(style_model, image), ((made + 1) / 2)[..., 16:80, 16:80])


def test_polarity_of_source_counts_and_so_does_every_part_of_the_question(style_model):
    image = image_of(32, 32)
    attribute = torch.zeros(1, 3)
    answers = [
        style_model.translate(image, source=torch.tensor([s]), target=torch.tensor([t]), attribute=attribute + a)
        for s, t, a in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    for one, other in itertools.combinations(answers, 2):
        assert not torch.allclose(one, other)


def test_an_attribute_is_the_encoders_mean_without_a_draw(style_model, networks):
    image = image_of(64, 64)
    with torch.no_grad():
        mean, _ = networks.encode_attribute(image * 2 - 1, torch.tensor([1]))
    found = style_model.encode_attribute(image, torch.tensor([1]))
    torch.testing.assert_close(found, mean)
    assert not found.requires_grad


def test_reconstruction_is_the_translation_into_its_own_modality_and_style(style_model):
    image, modality = image_of(33, 21), torch.tensor([2])
    style = style_model.encode_attribute(image, modality)
    expected = style_model.translate(image, source=modality, target=modality, attribute=style)
    assert torch.equal(style_model.reconstruct(image, modality), expected)


def test_recognition_asks_the_recogniser_about_each_image(style_model):
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.9, 0.1, 0.5)])
    assert style_model.recognise(images).tolist() == [2, 0, 1]
    assert style_model.recognise(images).dtype == torch.int64


def test_attributes_per_domain_have_the_mean_and_deviation_of_the_target(style_model):
    target = torch.arange(3).repeat_interleave(4000)
    drawn = style_model.draw_attribute(target, mode="per-domain", generator=generator("draw")).reshape(3, 4000, 3)
    mean = torch.tensor([[0.0, 5.0, -5.0], [1.0, 1.0, 1.0], [-2.0, 0.0, 2.0]])
    deviation = torch.tensor([[1.0, 0.1, 0.1], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    torch.testing.assert_close(drawn.mean(dim=1), mean, atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.std(dim=1), deviation, atol=0.1, rtol=0)


def test_normal_attributes_are_standard_normal_whatever_the_target(style_model):
    drawn = style_model.draw_attribute(torch.tensor([2] * 4000), mode="normal", generator=generator("draw"))
    assert drawn.shape == (4000, 3)
    torch.testing.assert_close(drawn.mean(dim=0), torch.zeros(3), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), torch.ones(3), atol=0.05, rtol=0)


@pytest.mark.parametrize("mode", ["normal", "per-domain"])
def test_attributes_follow_from_the_generator_and_leave_the_global_stream_alone(style_model, mode):
    target = torch.tensor([0, 2])
    before = torch.random.get_rng_state()
    first, same, other = (
        style_model.draw_attribute(target, mode=mode, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_made_from_its_state_gives_the_same_answers(style_model):
    tensors, values = style_model.state()
    stored = {name: tensor.clone() for name, tensor in tensors.items()}
    again = StyleModel.from_state(stored, values, recogniser=lambda _: 1, load=load)
    image = image_of(20, 28)
    assert again.modalities == style_model.modalities
    assert torch.equal(moved(again, image, 0, 2), moved(style_model, image, 0, 2))
    assert torch.equal(moved(again, image, 1, 0), moved(style_model, image, 1, 0))  # polarity -1
    assert torch.equal(
        again.draw_attribute(torch.tensor([2]), mode="per-domain", generator=generator(1)),
        style_model.draw_attribute(torch.tensor([2]), mode="per-domain", generator=generator(1)),
    )
    assert again.recognise(image).tolist() == [1]


def test_the_state_is_plain_values_and_tensors(style_model):
    tensors, values = style_model.state()
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert values == {
        "network": {"width": 4, "attribute_size": 3, "residual_blocks": 1, "style_size": 8},
        "modalities": ["grey-on-black", "purple-on-white", "purple-on-purple"],
    }


@pytest.mark.parametrize("missing", ["attributes.mean", "attributes.deviation", "network", "modalities"])
def test_a_state_that_lacks_a_part_is_refused_by_its_name(style_model, missing):
    tensors, values = style_model.state()
    tensors.pop(missing, None)
    values.pop(missing, None)
    with pytest.raises(WeightsError, match=f"without '{missing}'"):
        StyleModel.from_state(tensors, values, recogniser=lambda _: 0, load=load)


def test_tensors_of_another_size_are_refused(style_model):
    tensors, values = style_model.state()
    with pytest.raises(WeightsError, match="does not fit this network"):
        StyleModel.from_state(tensors, {**values, "modalities": ["only", "two"]}, recogniser=lambda _: 0, load=load)


def test_modalities_have_numbers_and_an_unknown_one_is_refused_with_those_known(style_model):
    assert [style_model.number(name) for name in style_model.modalities] == [0, 1, 2]
    with pytest.raises(OptionError, match="unknown modality 'brown'; this style model knows grey-on-black, purple"):
        style_model.number("brown")


def test_bfloat16_stays_inside(networks, network_config, style_model):
    tensors, values = style_model.state()
    half = StyleModel.from_state(tensors, values, recogniser=lambda _: 0, load=load, autocast=autocast("cpu", "bf16"))
    image = image_of(32, 32)
    made, attribute = moved(half, image), half.encode_attribute(image, torch.tensor([0]))
    assert made.dtype == attribute.dtype == torch.float32
    torch.testing.assert_close(made, moved(style_model, image), atol=0.05, rtol=0)
    assert not torch.equal(made, moved(style_model, image))


def test_moving_to_a_device_gives_the_model_itself(style_model):
    image = image_of(16, 16)
    before = moved(style_model, image)
    assert style_model.to("cpu") is style_model
    assert style_model.device == torch.device("cpu")
    torch.testing.assert_close(moved(style_model, image), before)


def test_it_says_what_it_is(style_model):
    assert repr(style_model) == (
        "StyleModel(modalities=('grey-on-black', 'purple-on-white', 'purple-on-purple'), width=4)"
    )
