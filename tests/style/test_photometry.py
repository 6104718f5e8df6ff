"""Colours of background and objects, measured without masks, and what is made of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucstyle.core.rng import generator
from nucstyle.style.photometry import MIN_SPAN, apart, between, canonical, measure_colours


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
