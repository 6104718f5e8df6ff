"""References of two modalities, drawn by the tests, and a sample of any size."""

import dataclasses

import pytest
import torch

from nucstyle.augment.references import References
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample

DARK, LIGHT = "grey-on-black", "purple-on-white"
POLARITY = {DARK: 1, LIGHT: -1}


@pytest.fixture
def examples(sample_of):
    """Three fields of each modality, named."""
    return [
        dataclasses.replace(sample_of(number, stained=number >= 3), modality=LIGHT if number >= 3 else DARK)
        for number in range(6)
    ]


@pytest.fixture
def references(examples):
    """What is measured of them."""
    return References.measure(examples, [sample.modality for sample in examples], POLARITY)


EDGES = {
    "one pixel": torch.full((3, 1, 1), 0.3),
    "one black pixel": torch.zeros(3, 1, 1),
    "black": torch.zeros(3, 40, 30),
    "white": torch.ones(3, 40, 30),
    "constant": torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 33, 20).contiguous(),
    "saturated": (torch.rand((3, 64, 64), generator=generator("edge", 1)) > 0.3).float(),
    "3 x 500": torch.rand((3, 3, 500), generator=generator("edge", 2)),
    "500 x 2": torch.rand((3, 500, 2), generator=generator("edge", 3)),
    "odd": torch.rand((3, 37, 51), generator=generator("edge", 4)),
}


@pytest.fixture(params=EDGES)
def edge(request):
    """A sample of which one thing is extreme; without modality and without labels."""
    return Sample(id="edge", image=EDGES[request.param].clone())
