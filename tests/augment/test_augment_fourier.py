"""Swap of low-frequency amplitudes: that of the published code, without a pixel of the example."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucstyle.augment.fourier import FourierConfig, FourierSwap, swap_amplitude
from nucstyle.augment.references import low_amplitude
from nucstyle.core.config import build
from nucstyle.core.errors import ConfigError
from nucstyle.core.rng import generator


def published(source, example, share):
    """FDA as its paper has it (section 3.1, equation 2), on arrays (3, H, W) of one size, not clipped."""
    spectrum, other = (np.fft.fftshift(np.fft.fft2(image), axes=(1, 2)) for image in (source, example))
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    height, width = source.shape[1:]
    reach, middle, centre = int(share * min(height, width)), height // 2, width // 2
    window = np.s_[:, middle - reach : middle + reach + 1, centre - reach : centre + reach + 1]
    amplitude[window] = np.abs(other)[window]
    return np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * phase), axes=(1, 2))).real


def picture(*parts, size=(48, 60)):
    """Numbers around one half, so that little is clipped."""
    return 0.5 + 0.2 * (torch.rand((3, *size), generator=generator(*parts)) - 0.5)


@pytest.mark.parametrize("size", [(48, 60), (47, 61), (60, 33), (5, 90)])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
def test_it_is_the_published_swap(size, share):
    source, example = picture("source", size=size), picture("example", size=size)
    made = swap_amplitude(source, low_amplitude(example), share)
    expected = published(source.double().numpy(), example.double().numpy(), share).clip(0, 1)
    np.testing.assert_allclose(made.numpy(), expected, atol=2e-3)  # amplitudes are kept in half precision
    assert float(np.abs(expected - source.numpy()).max()) > 0.005 or share * min(size) < 1


@given(st.integers(0, 1000), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_share_of_nothing_is_the_identity(seed, size):
    image = torch.rand((3, *size), generator=generator("identity", seed))
    assert swap_amplitude(image, low_amplitude(1 - image), 0.0) is image


@pytest.mark.parametrize("share", [0.001, 0.05, 0.2])
def test_swapped_with_itself_an_image_is_itself(share):
    image = picture("self")
    torch.testing.assert_close(swap_amplitude(image, low_amplitude(image), share), image, atol=5e-4, rtol=0)


def test_less_than_one_cycle_swaps_the_mean_alone():
    source, example = picture("source"), picture("example", size=(20, 31)) * 0.6 + 0.25
    made = swap_amplitude(source, low_amplitude(example), 0.001)
    shift = (example.mean(dim=(1, 2)) - source.mean(dim=(1, 2)))[:, None, None]
    torch.testing.assert_close(made, source + shift, atol=1e-3, rtol=0)


def test_high_frequencies_and_every_phase_stay():
    source, example = picture("source"), picture("example")
    made = swap_amplitude(source, low_amplitude(example), 0.1)  # 4 cycles
    before, after = (torch.fft.fftshift(torch.fft.fft2(image), dim=(1, 2)) for image in (source, made))
    high = torch.ones(48, 60, dtype=torch.bool)
    high[24 - 4 : 24 + 5, 30 - 4 : 30 + 5] = False
    torch.testing.assert_close(after[:, high], before[:, high], atol=1e-3, rtol=1e-3)
    turned = (after * before.conj()).angle()[:, ~high]
    assert float(turned.abs().max()) < 1e-2


def test_examples_of_another_size_count_as_if_resized():
    source, example = picture("source", size=(60, 90)), picture("example", size=(30, 30))
    larger = example.repeat_interleave(2, dim=1).repeat_interleave(3, dim=2)
    one, other = (swap_amplitude(source, low_amplitude(each), 0.05) for each in (example, larger))
    torch.testing.assert_close(one, other, atol=5e-3, rtol=0)
    assert float((one - source).abs().max()) > 0.01


def test_what_an_example_is_too_small_to_know_stays_the_images_own():
    source, example = picture("source", size=(60, 90)), picture("example", size=(5, 3))
    most = swap_amplitude(source, low_amplitude(example), 0.2)
    before, after = (torch.fft.rfft2(image) for image in (source, most))
    torch.testing.assert_close(after[:, 3:-2], before[:, 3:-2], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(after[:, :, 2:], before[:, :, 2:], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(after[:, 1, :2], before[:, 1, :2], atol=1e-1)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_constant_image_takes_the_mean_and_stays_constant(level):
    example = picture("example")
    made = swap_amplitude(torch.full((3, 40, 40), level), low_amplitude(example), 0.1)
    mean = example.mean(dim=(1, 2))[:, None, None].expand(3, 40, 40)
    torch.testing.assert_close(made, mean, atol=1e-3, rtol=0)


def test_the_share_is_drawn_between_its_bounds(references, nuclei):
    arm = FourierSwap(references, FourierConfig(share_low=0.02, share_high=0.1), p=1.0)
    shares = [arm.draw(nuclei, generator(seed))["share"] for seed in range(200)]
    assert 0.02 <= min(shares) < 0.03
    assert 0.09 < max(shares) <= 0.1


def test_a_share_outside_its_bounds_is_refused():
    for table in ({"share_high": 0.5}, {"share_low": -0.1}):
        with pytest.raises(ConfigError):
            build(FourierConfig, table, where="recipe")
