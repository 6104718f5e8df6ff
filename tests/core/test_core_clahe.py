import numpy as np
import pytest
import torch
from skimage.color import rgb2hsv

from nucstyle.core.clahe import ClaheConfig, enhance
from nucstyle.core.config import build
from nucstyle.core.errors import ConfigError


def test_a_dark_image_gains_contrast_and_keeps_hue_and_saturation(nuclei):
    dark = nuclei.image * torch.tensor([0.1, 0.05, 0.2])[:, None, None]
    bright = enhance(dark, ClaheConfig())
    assert bright.shape == dark.shape
    assert bright.dtype == torch.float32
    assert float(bright.min()) >= 0
    assert float(bright.max()) <= 1
    assert float(bright.amax(0).std()) > 3 * float(dark.amax(0).std())
    before, after = (rgb2hsv(image.permute(1, 2, 0).numpy())[..., :2] for image in (dark, bright))
    np.testing.assert_allclose(after, before, atol=0.02)


def test_an_image_that_is_bright_enough_is_left_alone(nuclei):
    assert enhance(nuclei.image, ClaheConfig()) is nuclei.image
    assert enhance(nuclei.image, ClaheConfig(darker_than=1.0)) is not nuclei.image


def test_black_is_equalised_like_the_grey_next_to_it(nuclei):
    dark = (nuclei.image * 20).round() / 255
    dark[:, :8] = 0
    bright = enhance(dark, ClaheConfig())
    assert float((bright.amax(0) - bright.amin(0))[dark.amax(0) == 0].max()) < 1e-6
    assert torch.unique(bright[0][dark[0] == 0]).numel() > 1  # tiles differ, so black does not stay one grey


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (64, 64)], ids=str)
def test_a_constant_image_is_left_alone(value, size):
    image = torch.full((3, *size), value)
    assert enhance(image, ClaheConfig()) is image


@pytest.mark.parametrize("size", [(1, 2), (2, 9), (7, 7)], ids=str)
def test_a_tiny_image_is_enhanced(size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 0.1
    assert torch.isfinite(enhance(image, ClaheConfig())).all()


@pytest.mark.parametrize(
    "values", [{"clip_limit": 0.0}, {"clip_limit": 2.0}, {"tiles": 0}, {"tiles": 4096}, {"darker_than": -1.0}]
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        build(ClaheConfig, values, where="here")
