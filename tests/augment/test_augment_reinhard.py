"""Mean and deviation in L*a*b*: the example's, where nothing is clipped."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from nucstyle.augment.references import Reference
from nucstyle.augment.reinhard import Reinhard, transfer_lab
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample


def moments(image):
    """Mean and deviation in L*a*b*, by scikit-image."""
    lab = rgb2lab(image.permute(1, 2, 0).double().numpy()).reshape(-1, 3)
    return lab.mean(axis=0), lab.std(axis=0)


def muted(seed, size=(30, 40)):
    """Colours far from the faces of the cube."""
    drawing = generator("muted", seed)
    centre = 0.4 + 0.2 * torch.rand((3, 1, 1), generator=drawing)
    return centre + 0.12 * (torch.rand((3, *size), generator=drawing) - 0.5)


@given(st.integers(0, 10_000))
def test_where_nothing_is_clipped_the_result_has_the_mean_and_deviation_of_the_example(seed):
    source, example = muted(seed), muted(seed + 1, (17, 50))
    reference = Reference.measure(Sample(id="example", image=example), 1)
    made = transfer_lab(source, reference.lab_mean, reference.lab_deviation)
    assert 0 < float(made.min()) <= float(made.max()) < 1
    for one, other in zip(moments(made), moments(example), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)


def test_it_is_the_plain_transfer_by_scikit_image_clipped_or_not(references, sample_of):
    source = sample_of(4, stained=True).image
    example = references.find("purple-on-white", "field-5")
    lab = rgb2lab(source.permute(1, 2, 0).double().numpy())
    mean, deviation = lab.mean(axis=(0, 1)), lab.std(axis=(0, 1))
    wanted = (lab - mean) / deviation * example.lab_deviation.numpy() + example.lab_mean.numpy()
    made = transfer_lab(source, example.lab_mean, example.lab_deviation)
    np.testing.assert_allclose(made.permute(1, 2, 0).numpy(), lab2rgb(wanted), atol=1e-3)


def test_an_image_given_its_own_mean_and_deviation_is_itself(sample_of):
    for number, stained in ((0, False), (3, True)):
        sample = sample_of(number, stained=stained)
        own = Reference.measure(sample, 1)
        made = transfer_lab(sample.image, own.lab_mean, own.lab_deviation)
        torch.testing.assert_close(made, sample.image, atol=1e-3, rtol=0)


def test_rounding_errors_of_grey_do_not_become_colours():
    grey = torch.rand((1, 40, 40), generator=generator("grey")).mul(0.5).add(0.25).expand(3, -1, -1)
    made = transfer_lab(grey, torch.tensor([50.0, 20, -20]), torch.tensor([8.0, 30, 30]))
    lab = rgb2lab(made.permute(1, 2, 0).double().numpy())
    assert lab[..., 1:].std(axis=(0, 1)).max() < 0.5
    assert lab[..., 0].std() == pytest.approx(8, abs=0.05)


def test_a_constant_image_becomes_the_mean_of_the_example():
    made = transfer_lab(torch.full((3, 5, 5), 0.3), torch.tensor([60.0, 20, -20]), torch.tensor([20.0, 10, 10]))
    expected = lab2rgb(np.array([[[60.0, 20, -20]]]))[0, 0]
    np.testing.assert_allclose(made.flatten(1).T.numpy(), np.tile(expected, (25, 1)), atol=1e-4)


def test_fluorescence_takes_the_tint_of_the_stain_and_its_nuclei_stay_brighter(references, nuclei):
    made = Reinhard(references, p=1.0, targets=["purple-on-white"]).augment(nuclei, generator(0)).image
    assert float(made[1].mean()) < float(made[0].mean())
    grey = made.mean(dim=0)
    assert float(grey[nuclei.labels > 0].mean()) > float(grey[nuclei.labels == 0].mean()) + 0.1
