"""Colours of background and objects, measured without masks, and what is made of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucstyle.core.photometry import (
    MIN_SPAN,
    apart,
    between,
    beyond,
    canonical,
    guess_polarity,
    lift,
    measure_colours,
    measure_stops,
)
from nucstyle.core.rng import generator


def discs(background, objects, size=96):
    """A field of nine discs."""
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((ys % 32 - 16) ** 2 + (xs % 32 - 16) ** 2) < 49
    return torch.where(inside, torch.tensor(objects)[:, None, None], torch.tensor(background)[:, None, None]), inside


@pytest.mark.parametrize(
    ("background", "objects", "polarity"),
    [
        ([0.02, 0.02, 0.02], [0.3, 0.3, 0.3], 1),
        ([0.9, 0.85, 0.9], [0.4, 0.2, 0.6], -1),
        ([0.7, 0.6, 0.8], [0.45, 0.2, 0.75], -1),
    ],
)
def test_two_colours_are_found(background, objects, polarity):
    image, _ = discs(background, objects)
    torch.testing.assert_close(measure_colours(image, polarity), torch.tensor(background + objects))


def test_noise_and_a_few_very_bright_pixels_hardly_move_them():
    image, _ = discs([0.1] * 3, [0.5] * 3)
    noisy = (image + 0.02 * torch.randn(image.shape, generator=generator("noise"))).clamp(0, 1)
    noisy[:, :3, :3] = 1.0
    torch.testing.assert_close(measure_colours(noisy, 1), torch.tensor([0.1] * 3 + [0.5] * 3), atol=0.03, rtol=0)


def test_colours_do_not_depend_on_the_size_of_the_image():
    image, _ = discs([0.1] * 3, [0.5] * 3)
    torch.testing.assert_close(measure_colours(image.repeat(1, 5, 4), 1), measure_colours(image, 1))


@given(st.floats(0, 1), st.sampled_from([1, -1]), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_an_empty_field_of_any_size_has_two_colours_in_the_right_order(level, polarity, size):
    colours = measure_colours(torch.full((3, *size), level), polarity)
    assert bool(((colours >= 0) & (colours <= 1)).all())
    assert polarity * float(colours[3:].mean() - colours[:3].mean()) >= MIN_SPAN - 1e-5


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.sampled_from([1, -1]))
def test_colours_are_moved_apart_no_farther_than_needed(values, polarity):
    one, other = torch.tensor(values[:3]), torch.tensor(values[3:])
    background, objects = apart(one, other, polarity)
    span = polarity * float(objects.mean() - background.mean())
    before = polarity * float(other.mean() - one.mean())
    if before >= MIN_SPAN:
        assert torch.equal(background, one)
        assert torch.equal(objects, other)
    else:
        assert 0 < span <= 1
    assert float(torch.cat([background, objects]).min()) >= 0
    assert float(torch.cat([background, objects]).max()) <= 1


def test_canonical_is_zero_on_background_and_one_on_objects_in_every_modality():
    for background, objects, polarity in (([0.0] * 3, [0.4] * 3, 1), ([0.9, 0.8, 0.9], [0.5, 0.1, 0.6], -1)):
        image, inside = discs(background, objects)
        height = canonical(image[None], measure_colours(image, polarity)[None]).mean(dim=1)[0]
        torch.testing.assert_close(height, inside.float(), atol=1e-5, rtol=0)


def test_the_lookup_table_gives_a_grey_image_back():
    image, _ = discs([0.1] * 3, [0.5] * 3)
    colours = measure_colours(image, 1)[None]
    height = canonical(image[None], colours).mean(dim=1, keepdim=True)
    torch.testing.assert_close(between(height, colours)[0], image, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("polarity", "levels"), [(1, (0.1, 0.5, 0.9)), (-1, (0.9, 0.5, 0.2))])
def test_the_third_colour_is_that_of_the_farthest_pixels(polarity, levels):
    background, objects, extreme = levels
    image, _ = discs([background] * 3, [objects] * 3)
    ys, xs = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    image[:, ((ys % 32 - 16) ** 2 + (xs % 32 - 16) ** 2) < 9] = extreme  # the middle of each disc
    stops = measure_stops(image, polarity)
    torch.testing.assert_close(stops[0], torch.full((3,), background))
    torch.testing.assert_close(stops[2], torch.full((3,), extreme))
    between_them = polarity * (stops[1] - stops[0])
    assert bool((between_them > 0).all())
    assert bool((between_them < abs(extreme - background)).all())


@given(
    st.integers(0, 1000), st.sampled_from([1, -1]), st.tuples(st.integers(1, 300), st.integers(1, 40)), st.booleans()
)
def test_the_first_two_of_three_colours_are_the_two_and_the_third_is_never_nearer(seed, polarity, size, flat):
    image = torch.rand((3, *size), generator=generator("stops", seed))
    image = image * 0 + image[:, :1, :1] if flat else image
    stops = measure_stops(image, polarity)
    assert torch.equal(stops[:2].flatten(), measure_colours(image, polarity))
    assert polarity * float(stops[2].mean() - stops[1].mean()) >= 0
    assert 0 <= float(stops.min()) <= float(stops.max()) <= 1


def test_an_extreme_on_the_wrong_side_of_the_objects_is_theirs():
    dark, light = torch.full((3,), 0.2), torch.full((3,), 0.8)
    assert beyond(light, dark, 1) is light
    assert beyond(light, dark, -1) is dark
    assert beyond(dark, light, -1) is dark


def test_few_bright_pixels_are_objects_and_few_dark_ones_too():
    image = torch.full((3, 30, 30), 0.5)
    assert guess_polarity(image) == 1
    image[:, :5, :5] = 0.9
    assert guess_polarity(image) == 1
    assert guess_polarity(1 - image) == -1


@pytest.mark.parametrize(
    ("background", "objects"), [([0.05, 0.05, 0.05], [0.6, 0.6, 0.6]), ([0.9, 0.85, 0.95], [0.4, 0.2, 0.6])]
)
def test_a_lift_moves_what_lies_between_background_and_objects_towards_the_objects(background, objects):
    background, objects = torch.tensor(background), torch.tensor(objects)
    line = objects - background
    beside = 0.02 * torch.linalg.cross(line, torch.tensor([1.0, 0.0, 0.0]))  # a tint that is no height
    heights = torch.tensor([-0.05, 0.0, 0.25, 0.5, 1.0, 1.1])
    expected = torch.tensor([-0.05, 0.0, 0.25**0.5, 0.5**0.5, 1.0, 1.1])
    image, made = ((background + one[:, None] * line + beside).T[:, :, None] for one in (heights, expected))
    torch.testing.assert_close(lift(image, background, objects, 0.5), made, atol=1e-5, rtol=0)
    torch.testing.assert_close(lift(image, background, objects, 1.0), image, atol=1e-6, rtol=0)


def test_a_tall_image_is_lifted_in_all_its_rows():
    image = torch.rand((3, 1100, 4), generator=generator("tall"))
    background, objects, _ = measure_stops(image, 1)
    pieces = [lift(one, background, objects, 0.7) for one in image.split(200, dim=1)]
    torch.testing.assert_close(lift(image, background, objects, 0.7), torch.cat(pieces, dim=1))


@given(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1, -1]), st.floats(0.1, 1.0))
def test_an_empty_field_is_hardly_changed_by_a_lift(level, polarity, gamma):
    image = torch.full((3, 8, 8), level)
    background, objects, _ = measure_stops(image, polarity)
    torch.testing.assert_close(lift(image, background, objects, gamma), image, atol=2 * MIN_SPAN, rtol=0)
