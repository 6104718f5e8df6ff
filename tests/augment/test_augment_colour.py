"""Colour jitter: each part does what its name says, by as much as was drawn, and as often as asked."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import hsv2rgb, rgb2hsv

from nucstyle.augment.colour import ColourJitter, jitter_hsv
from nucstyle.core.config import build
from nucstyle.core.errors import ConfigError
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample

NOTHING = {f"{part}_p": 0.0 for part in ("hsv", "contrast", "gamma", "shuffle", "grey", "invert")}


def coloured(seed=0, size=(20, 30)):
    return Sample(id="colours", image=torch.rand((3, *size), generator=generator("colours", seed)))


def only(part, **options):
    return ColourJitter(p=1.0, **{**NOTHING, f"{part}_p": 1.0}, **options)


@given(st.integers(0, 1000), st.floats(-0.5, 0.5), st.floats(0.2, 3), st.floats(0.2, 3))
def test_hue_saturation_and_value_are_those_of_scikit_image(seed, turn, saturation, value):
    image = coloured(seed).image
    image[:, :2] = image[:1, :2]  # two rows without colour
    image[:, 2] = 0
    hsv = rgb2hsv(image.permute(1, 2, 0).double().numpy())
    hsv[..., 0] = (hsv[..., 0] + turn) % 1
    hsv[..., 1:] = (hsv[..., 1:] * [saturation, value]).clip(0, 1)
    expected = hsv2rgb(hsv).transpose(2, 0, 1)
    np.testing.assert_allclose(jitter_hsv(image, turn, saturation, value).numpy(), expected, atol=2e-5)


def test_a_whole_turn_or_no_change_is_the_identity():
    image = coloured().image
    for turn in (-1.0, 0.0, 1.0):
        torch.testing.assert_close(jitter_hsv(image, turn, 1.0, 1.0), image, atol=2e-6, rtol=0)


def test_grey_has_no_hue_to_turn_and_stays_grey():
    grey = torch.rand((1, 20, 30), generator=generator("grey")).expand(3, -1, -1)
    made = jitter_hsv(grey, 0.3, 2.0, 0.5)
    torch.testing.assert_close(made, grey * 0.5)


def test_contrast_is_the_distance_to_the_mean():
    sample = Sample(id="narrow", image=coloured().image * 0.2 + 0.4)  # nothing is clipped
    factors = []
    for seed in range(30):
        made = only("contrast", contrast=1.5).augment(sample, generator(seed))
        factor = made.history[-1].drawn["contrast"]
        mean = sample.image.mean()
        torch.testing.assert_close(made.image - mean, (sample.image - mean) * factor, atol=1e-5, rtol=0)
        factors.append(factor)
    assert 1 / 1.5 <= min(factors) < 0.8
    assert 1.25 < max(factors) <= 1.5


def test_gamma_is_an_exponent_and_black_and_white_stay():
    sample = coloured()
    sample.image[:, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    for seed in range(10):
        made = only("gamma").augment(sample, generator(seed))
        exponent = made.history[-1].drawn["gamma"]
        torch.testing.assert_close(made.image, sample.image**exponent, atol=2e-6, rtol=0)
        assert made.image[0, 0, :2].tolist() == [0, 1]


def test_a_shuffle_moves_channels_and_is_never_none():
    sample = coloured()
    orders = set()
    for seed in range(60):
        made = only("shuffle").augment(sample, generator(seed))
        order = made.history[-1].drawn["channels"]
        assert torch.equal(made.image, sample.image[order])
        orders.add(tuple(order))
    assert orders == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}


def test_grey_is_the_mean_and_an_inverted_image_the_negative():
    sample = coloured()
    grey = only("grey").augment(sample, generator(0)).image
    torch.testing.assert_close(grey, sample.image.mean(dim=0).expand(3, -1, -1))
    inverted = only("invert").augment(sample, generator(0)).image
    assert torch.equal(inverted, 1 - sample.image)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("hsv", "hsv"),
        ("contrast", "contrast"),
        ("gamma", "gamma"),
        ("shuffle", "channels"),
        ("grey", "grey"),
        ("invert", "invert"),
    ],
)
def test_each_part_has_its_own_chance(part, name):
    step = ColourJitter(p=1.0, **{**NOTHING, f"{part}_p": 0.25})
    draws = [step.draw(coloured(), generator("chance", number)) for number in range(400)]
    assert {key for draw in draws for key in draw} == {name}
    assert 60 < sum(name in draw for draw in draws) < 140


def test_factors_lie_on_either_side_of_one_alike():
    draws = [only("hsv", hue_turn=0.2, saturation=2.0).draw(coloured(), generator(seed)) for seed in range(400)]
    turns, saturations, _ = zip(*(draw["hsv"] for draw in draws), strict=True)
    assert max(map(abs, turns)) <= 0.2
    assert 150 < sum(turn > 0 for turn in turns) < 250
    assert 0.5 <= min(saturations) < 0.55
    assert 1.8 < max(saturations) <= 2
    assert 150 < sum(factor > 1 for factor in saturations) < 250


def test_where_no_part_is_drawn_pixels_stay_and_the_record_says_so():
    made = ColourJitter(p=1.0, **NOTHING).augment(coloured(), generator(0))
    assert torch.equal(made.image, coloured().image)
    assert made.history[-1].drawn == {}


@pytest.mark.parametrize("table", [{"p": 1.5}, {"hue_turn": 0.6}, {"saturation": 0.5}, {"gray_p": 0.1}])
def test_a_recipe_with_a_wrong_number_or_name_is_refused(table):
    with pytest.raises(ConfigError):
        build(ColourJitter, table, where="recipe")
    assert build(ColourJitter, {"p": 0.25}, where="recipe").p == 0.25
