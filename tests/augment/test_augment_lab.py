"""L*a*b* on tensors: the numbers of scikit-image, and back."""

import numpy as np
import torch
from skimage.color import lab2rgb, rgb2lab

from nucstyle.augment.lab import lab_to_rgb, moments, rgb_to_lab
from nucstyle.core.rng import generator


def colours():
    """Random ones, then the corners of the cube, then greys from black, where the curves have their bends."""
    random = torch.rand((3, 4000), generator=generator("lab"))
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).T
    greys = torch.linspace(0, 0.1, 500).expand(3, -1)
    return torch.cat([random, corners, greys], dim=1)[:, None].contiguous()


def test_lab_is_that_of_scikit_image():
    image = colours()
    expected = rgb2lab(image.permute(1, 2, 0).double().numpy()).transpose(2, 0, 1)
    np.testing.assert_allclose(rgb_to_lab(image).numpy(), expected, atol=2e-3)


def test_back_from_lab_is_that_of_scikit_image_outside_the_cube_too():
    lab = rgb_to_lab(colours()) * 1.2
    lab[2] = lab[2].clamp(min=-100)  # beyond, scikit-image warns of Z below 0
    lab = lab[:, :, (lab[1] / 500 + (lab[0] + 16) / 116)[0] > 0]
    lab = lab[:, :, ((lab[0] + 16) / 116 - lab[2] / 200)[0] > 0]
    expected = lab2rgb(lab.permute(1, 2, 0).double().numpy()).transpose(2, 0, 1)
    np.testing.assert_allclose(lab_to_rgb(lab).numpy(), expected, atol=5e-4)


def test_there_and_back_is_the_identity():
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(colours())), colours(), atol=2e-5, rtol=0)


def test_what_lies_outside_every_colour_is_clipped():
    lab = torch.tensor([[[-20.0, 150.0, 50.0, 0.0]], [[300.0, 0.0, -400.0, 0.0]], [[0.0, 300.0, -300.0, 0.0]]])
    made = lab_to_rgb(lab)
    assert bool(made.isfinite().all())
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert made[:, 0, 3].tolist() == [0, 0, 0]


def test_moments_are_mean_and_deviation_far_from_zero_too():
    lab = (
        torch.rand((3, 300, 200), generator=generator("moments")) * torch.tensor([20.0, 1.0, 1e-3])[:, None, None] + 90
    )
    mean, deviation = moments(lab)
    planes = lab.double().flatten(1).numpy()
    np.testing.assert_allclose(mean.numpy(), planes.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), planes.std(axis=1), rtol=1e-3)
