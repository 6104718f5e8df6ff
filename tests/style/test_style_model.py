"""The trained style model as the other rooms see it."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucstyle.core.clahe import ClaheConfig, enhance
from nucstyle.core.config import to_table
from nucstyle.core.errors import OptionError, WeightsError
from nucstyle.core.precision import autocast
from nucstyle.core.protocols import Translator
from nucstyle.core.rng import generator
from nucstyle.data.weights import load_state
from nucstyle.style.model import AttributeStatistics, StyleModel, _texture, _tiles, image_colours

ATTRIBUTE = torch.tensor([[0.5, 0.2, 0.6, -0.3, -0.7, 0.4]])
SIZES = [(1, 1), (1, 33), (2, 3), (3, 500), (15, 17), (161, 519), (256, 256)]


def image_of(height, width, batch=1):
    return torch.rand(batch, 3, height, width, generator=generator("image", height, width))


def moved(model, image, source=0, target=1):
    return model.translate(image, source=torch.tensor([source]), target=torch.tensor([target]), attribute=ATTRIBUTE)


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


def test_images_of_every_size_keep_it(style_model):
    sizes = [(side, side) for side in range(1, 34)] + [(1, side) for side in range(1, 34)]
    for size in [*sizes, (1, 500), (390, 239)]:
        made = moved(style_model, image_of(*size))
        assert made.shape == (1, 3, *size)
        assert bool(made.isfinite().all())


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
        image_of(9, 9), source=torch.tensor([2]), target=torch.tensor([0]), attribute=ATTRIBUTE
    )
    assert torch.equal(moved(style_model, image), moved(style_model, image))


def test_an_image_is_restyled_alike_alone_and_in_a_batch(style_model):
    batch = image_of(24, 24, batch=3)
    source, target = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    attribute = torch.rand(3, 6, generator=generator("attribute")) * 2 - 1
    together = style_model.translate(batch, source=source, target=target, attribute=attribute)
    for i in range(3):
        one = slice(i, i + 1)
        alone = style_model.translate(batch[one], source=source[one], target=target[one], attribute=attribute[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-3, atol=1e-4)


def test_it_adds_no_noise_and_repeats_the_border_before_it_looks(style_model, networks):
    assert not networks.training
    image = image_of(64, 64)
    padded = torch.nn.functional.pad(image, (16, 16, 16, 16), mode="replicate") * 2 - 1
    colours = image_colours(image[0], 1)[None]
    texture = _texture(ATTRIBUTE, slice(0, 96), slice(0, 96))
    with torch.no_grad():
        content = networks.encode_content(padded, torch.tensor([0]), colours)
        made = networks.generate(content, ATTRIBUTE, torch.tensor([1]), texture)
    expected = ((made + 1) / 2)[..., 16:80, 16:80].clamp(0, 1)
    torch.testing.assert_close(moved(style_model, image), expected, rtol=1e-4, atol=1e-5)


def large(style_model, image, tile_px):
    return style_model.translate(
        image, source=torch.tensor([0]), target=torch.tensor([1]), attribute=ATTRIBUTE, tile_px=tile_px
    )


@pytest.mark.parametrize("size", [(70, 201), (128, 128), (33, 150)])
def test_tiles_agree_with_the_whole(style_model, size):
    image = image_of(*size)
    whole = large(style_model, image, 4096)
    for tile_px in (40, 64):
        torch.testing.assert_close(large(style_model, image, tile_px), whole, rtol=1e-4, atol=1e-5)


def with_whole_planes(model, image, tile_px):
    """What `translate` did before it took memory by the tile: the padded image, the texture and the result in one piece."""
    networks, (height, width) = model._networks, image.shape[-2:]
    sides = [-(-(side + 32) // 4) * 4 for side in (height, width)]
    border = (16, sides[1] - width - 16, 16, sides[0] - height - 16)
    padded = torch.nn.functional.pad(image, border, mode="replicate") * 2 - 1
    texture = _texture(ATTRIBUTE, slice(0, sides[0]), slice(0, sides[1]))
    made, colours = torch.empty_like(padded), image_colours(image[0], 1)[None]
    with torch.no_grad():
        for tile in _tiles(*sides, tile_px, networks.receptive_radius):
            rows, columns = tile.seen
            content = networks.encode_content(padded[..., rows, columns], torch.tensor([0]), colours)
            piece = networks.generate(content, ATTRIBUTE, torch.tensor([1]), texture[..., rows, columns])
            place = torch.empty_like(padded)
            place[..., rows, columns] = piece
            made[..., tile.kept[0], tile.kept[1]] = place[..., tile.kept[0], tile.kept[1]]
    return ((made[..., 16 : 16 + height, 16 : 16 + width] + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 150), (70, 201), (127, 64)])
@pytest.mark.parametrize("tile_px", [16, 40, 4096])
def test_tiles_that_are_padded_one_by_one_give_what_the_padded_whole_gave(style_model, size, tile_px):
    """Also those that hold nothing but margin, and those at every border."""
    image = image_of(*size)
    made = large(style_model, image, tile_px)
    torch.testing.assert_close(made, with_whole_planes(style_model, image, tile_px), rtol=1e-5, atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 80), st.integers(0, 50) | st.none())
def test_tiles_cover_every_pixel_once_and_see_as_far_as_they_must(height, width, side, radius):
    height, width = 4 * height, 4 * width
    covered = torch.zeros(height, width)
    for tile in _tiles(height, width, side, radius):
        covered[tile.kept] += 1
        for seen, kept, length in zip(tile.seen, tile.kept, (height, width), strict=True):
            assert seen.start % 4 == 0
            assert seen.start <= max(0, kept.start - (radius or 0))
            assert seen.stop >= min(length, kept.stop + (radius or 0))
    assert (covered == 1).all()


def test_texture_is_a_function_of_the_place_and_the_style():
    everywhere = slice(0, 300), slice(0, 520)
    whole = _texture(ATTRIBUTE, *everywhere)
    assert torch.equal(_texture(ATTRIBUTE, *everywhere), whole)
    part = slice(140, 300), slice(8, 270)
    assert torch.equal(_texture(ATTRIBUTE, *part), whole[..., part[0], part[1]])
    assert not torch.equal(_texture(-ATTRIBUTE, *everywhere), whole)
    assert float(whole.std()) == pytest.approx(1, abs=0.05)


def test_polarity_of_source_counts_and_so_does_every_part_of_the_question(style_model):
    image = image_of(32, 32)
    attribute = ATTRIBUTE
    answers = [
        style_model.translate(image, source=torch.tensor([s]), target=torch.tensor([t]), attribute=attribute + a)
        for s, t, a in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 0.3))
    ]
    for one, other in itertools.combinations(answers, 2):
        assert not torch.allclose(one, other)


def test_an_attribute_is_the_encoders_mean_without_a_draw(style_model, networks):
    image = image_of(64, 64)
    colours = image_colours(image[0], -1)[None]
    with torch.no_grad():
        mean = networks.encode_attribute(image * 2 - 1, torch.tensor([1]), colours).mean
    found = style_model.encode_attribute(image, torch.tensor([1]))
    torch.testing.assert_close(found, mean)
    assert not found.requires_grad


def test_reconstruction_is_the_translation_into_its_own_modality_and_style(style_model):
    image, modality = image_of(33, 21), torch.tensor([2])
    style = style_model.encode_attribute(image, modality)
    expected = style_model.translate(image, source=modality, target=modality, attribute=style)
    assert torch.equal(style_model.reconstruct(image, modality), expected)


def test_a_part_of_a_field_is_restyled_as_it_looks_within_the_field(style_model, networks):
    """An empty corner of a field with bright nuclei: by itself its noise would be taken for nuclei."""
    field = 0.05 + 0.01 * torch.rand((1, 3, 64, 64), generator=generator("empty corner"))
    field[..., 36:44, 36:44] = 0.8
    corner = field[..., :32, :32]
    how = {
        "source": torch.tensor([0]),
        "target": torch.tensor([1]),
        "attribute": torch.tensor([[0.8, 0.7, 0.8, -0.2, -0.6, 0.1]]),
    }
    within = style_model.translate(field, **how)[..., 4:28, 4:28]
    part = style_model.translate_part(corner, whole=field, **how)
    assert part.shape == corner.shape
    assert torch.equal(style_model.translate_part(field, whole=field, **how), style_model.translate(field, **how))
    if networks.learns_attribute:  # which measure nothing
        assert torch.equal(part, style_model.translate(corner, **how))
        return
    alone = style_model.translate(corner, **how)[..., 4:28, 4:28]
    assert float((part[..., 4:28, 4:28] - within).abs().mean()) < 0.3 * float((alone - within).abs().mean())


def test_recognition_asks_the_recogniser_about_each_image(style_model):
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.9, 0.1, 0.5)])
    assert style_model.recognise(images).tolist() == [2, 0, 1]
    assert style_model.recognise(images).dtype == torch.int64


@pytest.mark.parametrize("architecture", ["mdmm"], indirect=True)
def test_learnt_attributes_per_domain_have_the_mean_and_deviation_of_the_target(networks):
    mean, deviation = torch.arange(18.0).reshape(3, 6) / 6, torch.arange(18.0).reshape(3, 6) / 9
    model = StyleModel(networks, ("a", "b", "c"), AttributeStatistics(mean, deviation), lambda _: 0)
    target = torch.arange(3).repeat_interleave(4000)
    drawn = model.draw_attribute(target, mode="per-domain", generator=generator("draw")).reshape(3, 4000, 6)
    torch.testing.assert_close(drawn.mean(dim=1), mean, atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.std(dim=1), deviation, atol=0.1, rtol=0)


@pytest.mark.parametrize("architecture", ["mdmm"], indirect=True)
def test_learnt_normal_attributes_are_standard_normal_whatever_the_target(style_model):
    drawn = style_model.draw_attribute(torch.tensor([2] * 4000), mode="normal", generator=generator("draw"))
    assert drawn.shape == (4000, 6)
    torch.testing.assert_close(drawn.mean(dim=0), torch.zeros(6), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), torch.ones(6), atol=0.05, rtol=0)


@pytest.mark.parametrize("architecture", ["lookup"], indirect=True)
def test_measured_attributes_lie_between_those_of_two_training_images(networks):
    """Not six independent numbers: a grey modality must stay grey."""
    greys = torch.tensor([[-0.9] * 3 + [0.0] * 3, [-0.7] * 3 + [0.8] * 3, [-0.8] * 3 + [0.2] * 3])
    spread = AttributeStatistics.of([greys + 0.1, greys])
    model = StyleModel(networks, ("a", "b", "c"), spread, lambda _: 0)
    drawn = model.draw_attribute(torch.tensor([0] * 500), mode="per-domain", generator=generator("draw")) - 0.1
    assert torch.equal(drawn[:, :1].expand(-1, 3), drawn[:, :3])
    assert torch.equal(drawn[:, 3:4].expand(-1, 3), drawn[:, 3:])
    assert float(drawn.min()) >= -0.9
    assert float(drawn.max()) <= 0.81
    assert float(drawn[:, 3].std()) > 0.5 * float(greys[:, 3].std(correction=0))
    normal = model.draw_attribute(torch.tensor([0] * 4000), mode="normal", generator=generator("draw"))
    torch.testing.assert_close(normal.mean(dim=0), spread.mean[0], atol=0.05, rtol=0)


@pytest.mark.parametrize("architecture", ["lookup"], indirect=True)
def test_a_drawn_measured_style_keeps_the_sign_of_its_modality(networks):
    """However wide the colours of a modality are spread, objects stay on their side of the background."""
    wide = AttributeStatistics(torch.zeros(3, 6), torch.ones(3, 6))
    model = StyleModel(networks, ("a", "b", "c"), wide, int)
    target = torch.arange(3).repeat(40)
    drawn = model.draw_attribute(target, mode="normal", generator=generator("drawn"))
    height = drawn[:, 3:].mean(dim=1) - drawn[:, :3].mean(dim=1)
    assert bool((height * networks.polarity[target] > 0.07).all())  # MIN_SPAN on this scale is 0.08
    assert float(drawn.abs().max()) <= 1 + 1e-6


def test_contrast_is_enhanced_as_in_training_and_the_state_remembers_it(networks):
    image = image_of(40, 40) * 0.1
    spread = AttributeStatistics(torch.zeros(3, 6), torch.ones(3, 6))
    plain, enhancing = (StyleModel(networks, ("a", "b", "c"), spread, int, contrast=c) for c in (None, ClaheConfig()))
    assert not torch.equal(moved(plain, image), moved(enhancing, image))
    torch.testing.assert_close(moved(enhancing, image), moved(plain, enhance(image[0], ClaheConfig())[None]))
    again = StyleModel.from_state(*enhancing.state(), recogniser=int, load=load)
    assert torch.equal(moved(again, image), moved(enhancing, image))


def test_examples_are_thinned_and_kept_with_the_state(networks):
    many = torch.arange(200.0)[:, None].expand(-1, 6) / 200
    spread = AttributeStatistics.of([many, many[:5], many[:1]])
    assert [len(one) for one in spread.examples] == [50, 5, 1]
    model = StyleModel(networks, ("a", "b", "c"), spread, lambda _: 0)
    tensors, values = model.state()
    again = StyleModel.from_state(tensors, values, recogniser=lambda _: 0, load=load)
    for one, other in zip(again._attributes.examples, spread.examples, strict=True):
        assert torch.equal(one, other)


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


def test_the_state_is_plain_values_and_tensors(style_model, network_config):
    tensors, values = style_model.state()
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert values == {
        "network": to_table(network_config),
        "modalities": ["grey-on-black", "purple-on-white", "purple-on-purple"],
        "clahe": None,
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


def test_bfloat16_stays_inside(style_model):
    tensors, values = style_model.state()
    half = StyleModel.from_state(tensors, values, recogniser=lambda _: 0, load=load, autocast=autocast("cpu", "bf16"))
    image = image_of(32, 32)
    made, attribute = moved(half, image), half.encode_attribute(image, torch.tensor([0]))
    assert made.dtype == attribute.dtype == torch.float32
    assert float((made - moved(style_model, image)).abs().mean()) < 0.01
    assert not torch.equal(made, moved(style_model, image))


def test_moving_to_a_device_gives_the_model_itself(style_model):
    image = image_of(16, 16)
    before = moved(style_model, image)
    assert style_model.to("cpu") is style_model
    assert style_model.device == torch.device("cpu")
    torch.testing.assert_close(moved(style_model, image), before)


def test_it_says_what_it_is(style_model):
    assert repr(style_model).startswith(
        "StyleModel(modalities=('grey-on-black', 'purple-on-white', 'purple-on-purple'),"
    )
