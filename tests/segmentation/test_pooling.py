"""Regions cut out of the pyramid are torchvision's, and so are their gradients."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from nucstyle.core.rng import generator
from nucstyle.segmentation.pooling import PyramidPooling

LEVELS = {"0": 4, "1": 8, "2": 16, "3": 32}


def pyramid(size=(200, 168), images=2, layout=torch.contiguous_format):
    drawn = generator("pyramid", *size)
    maps = {
        name: torch.randn(images, 8, -(-size[0] // stride), -(-size[1] // stride), generator=drawn)
        for name, stride in {**LEVELS, "pool": 64}.items()
    }
    return {name: one.contiguous(memory_format=layout).requires_grad_() for name, one in maps.items()}


def regions(count):
    """Of all sizes, from less than a pixel to far beyond the image, some of them beyond its left and upper border."""
    drawn = generator("regions", count)
    corner = torch.rand(count, 2, generator=drawn) * 180 - 12
    return torch.cat([corner, corner + torch.rand(count, 2, generator=drawn) ** 3 * 900], dim=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [7, 14])
def test_values_and_gradients_are_torchvisions(side, layout):
    maps, (first, second) = pyramid(layout=layout), regions(120).split([70, 50])
    theirs = MultiScaleRoIAlign(list(LEVELS), output_size=side, sampling_ratio=2)
    theirs.scales = [1 / stride for stride in LEVELS.values()]
    theirs.map_levels = initLevelMapper(2, 5)
    assert len(torch.unique(theirs.map_levels([first, second]))) == 4
    wanted = theirs(maps, [first, second], [(200, 168)] * 2)
    found = PyramidPooling(LEVELS, side)(maps, [first, second], [(200, 168)] * 2)
    torch.testing.assert_close(found, wanted, atol=5e-5, rtol=1e-4)
    used = [maps[name] for name in LEVELS]
    weights = torch.randn(found.shape, generator=generator("weights"))
    for mine, other in zip(
        torch.autograd.grad(found, used, weights), torch.autograd.grad(wanted, used, weights), strict=True
    ):
        assert float(other.abs().max()) > 0.1
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_images_without_regions_give_nothing_and_a_gradient_of_zero():
    maps, none = pyramid(), torch.zeros(0, 4)
    pooling = PyramidPooling(LEVELS, 7)
    found = pooling(maps, [none, none], [])
    assert found.shape == (0, 8, 7, 7)
    found.sum().backward()
    assert not maps["0"].grad.any()
    some = regions(5)
    torch.testing.assert_close(
        pooling(maps, [none, some], []), pooling({name: one[1:] for name, one in maps.items()}, [some], [])
    )


def test_other_devices_are_left_to_torchvision(monkeypatch):
    told = []
    monkeypatch.setattr(MultiScaleRoIAlign, "forward", lambda *given: told.append(given) or given[1]["0"])
    maps = {name: one.detach().to("meta") for name, one in pyramid().items()}
    PyramidPooling(LEVELS, 7)(maps, [regions(5).to("meta")] * 2, [(200, 168)] * 2)
    assert len(told) == 1
    PyramidPooling(LEVELS, 7)(pyramid(), [regions(5)] * 2, [(200, 168)] * 2)
    assert len(told) == 1
