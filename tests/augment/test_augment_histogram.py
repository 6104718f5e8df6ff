"""Histogram matching by a stored table: the mapping of scikit-image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.exposure import match_histograms

from nucstyle.augment.histogram import HistogramMatch, match_histogram
from nucstyle.augment.references import cumulative, level_index
from nucstyle.core.rng import generator

LEVEL = 1 / 255


def table(image):
    return cumulative(level_index(image))


def eight_bits(seed, size, levels=256):
    """Random levels, each channel with other ones, some of them never."""
    drawing = generator("levels", seed)
    pixels = torch.rand((3, *size), generator=drawing) ** (1 + 3 * torch.rand((3, 1, 1), generator=drawing))
    return (pixels * (levels - 1)).round() * (255 // (levels - 1)) / 255


@given(
    st.integers(0, 10_000),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from([2, 6, 256]),
)
def test_images_of_8_bits_are_matched_as_by_scikit_image(seed, size, other, levels):
    source, reference = eight_bits(seed, size), eight_bits(seed + 1, other, levels)
    expected = match_histograms(source.double().numpy(), reference.double().numpy(), channel_axis=0)
    np.testing.assert_allclose(match_histogram(source, table(reference)).numpy(), expected, atol=1e-6)


def test_real_numbers_are_matched_within_a_level():
    drawing = generator("real")
    source, reference = (torch.rand((3, 200, 200), generator=drawing) ** power for power in (1.0, 2.0))
    expected = match_histograms(source.numpy(), reference.numpy(), channel_axis=0)
    assert float(np.abs(match_histogram(source, table(reference)).numpy() - expected).max()) < LEVEL


@given(st.integers(0, 10_000), st.tuples(st.integers(1, 50), st.integers(1, 50)), st.booleans())
def test_matched_to_itself_an_image_is_itself_within_a_level(seed, size, real):
    image = torch.rand((3, *size), generator=generator("self", seed)) if real else eight_bits(seed, size)
    made = match_histogram(image, table(image))
    assert float((made - image).abs().max()) <= (LEVEL if real else 1e-6)


def test_a_bright_rest_on_black_is_itself_too():
    image = torch.zeros(3, 100, 100)
    image[:, 40:43, 40:50] = torch.linspace(0.2, 1, 30).view(3, 10)  # 30 of 10,000 pixels
    image = (image * 255).round() / 255
    torch.testing.assert_close(match_histogram(image, table(image)), image, atol=1e-6, rtol=0)


def test_the_result_has_the_distribution_of_the_reference():
    drawing = generator("distribution")
    source, reference = (torch.rand((3, 90, 80), generator=drawing) ** power for power in (1.0, 3.0))
    made = match_histogram(source, table(reference))
    for share in (0.1, 0.3, 0.5, 0.9):
        one, other = (image.flatten(1).quantile(share, dim=1) for image in (made, reference))
        torch.testing.assert_close(one, other, atol=LEVEL, rtol=0)


def test_each_channel_is_matched_by_itself_and_grey_to_grey_stays_grey(references, nuclei):
    reference = table(torch.stack([torch.full((9, 9), level) for level in (0.2, 0.4, 0.6)]))
    made = match_histogram(nuclei.image, reference)
    torch.testing.assert_close(made.mean(dim=(1, 2)), torch.tensor([51, 102, 153]) / 255)
    grey = HistogramMatch(references, p=1.0, targets=["grey-on-black"]).augment(nuclei, generator(0)).image
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_constant_image_takes_the_brightest_of_the_reference(level):
    """As in scikit-image: all of its pixels are at its level or below."""
    reference = torch.linspace(0, 0.8, 205).expand(3, 1, -1)
    made = match_histogram(torch.full((3, 4, 4), level), table(reference))
    torch.testing.assert_close(made, torch.full((3, 4, 4), 0.8))


def test_what_was_darker_stays_darker(nuclei):
    reference = table(eight_bits(3, (40, 40)))
    order = nuclei.image[0].flatten().argsort()
    made = match_histogram(nuclei.image, reference)[0].flatten()[order]
    assert bool((made.diff() >= -1e-6).all())
