"""A style model small enough for a test, and batches to feed it."""

import pytest
import torch

from nucstyle.core.rng import generator, seeded
from nucstyle.style.model import AttributeStatistics, StyleModel
from nucstyle.style.networks import Critics, StyleNetworkConfig, TranslationNetworks
from nucstyle.style.objective import StyleBatch

CONFIG = StyleNetworkConfig(width=4, attribute_size=3, residual_blocks=1, style_size=8)
MODALITIES = ("grey-on-black", "purple-on-white", "purple-on-purple")
POLARITY = (1, -1, -1)


@pytest.fixture
def network_config():
    """Base width 4, attributes of 3 numbers."""
    return CONFIG


@pytest.fixture
def networks():
    """Untrained encoders and generator for three modalities; the first has bright objects, the others dark ones."""
    with seeded("networks"):
        made = TranslationNetworks(CONFIG, POLARITY)
        for name, parameter in made.named_parameters():
            # At the start styles are nearly equal and do nothing: that would hide mistakes.
            if "modulation" in name:
                torch.nn.init.normal_(parameter, std=0.2)
            if name == "attribute_encoder.mean.weight":
                parameter.data.mul_(50)
    return made


@pytest.fixture
def critics():
    """Untrained critics that fit `networks`."""
    with seeded("critics"):
        return Critics(CONFIG, len(POLARITY))


@pytest.fixture
def batch_of():
    """`batch_of(seed=0, size=6, side=32, annotated=...)` makes a batch; the modalities take turns."""

    def make(seed=0, *, size=6, side=32, annotated=None):
        drawn = generator("batch", seed)
        cells = side // 4
        return StyleBatch(
            image=torch.rand(size, 3, side, side, generator=drawn) * 2 - 1,
            modality=torch.arange(size) % 3,
            partner=torch.roll(torch.arange(size), 1),
            nuclei=torch.rand(size, 1, cells, cells, generator=drawn),
            annotated=torch.ones(size) if annotated is None else torch.tensor(annotated),
            attribute_noise=torch.randn(size, 3, generator=drawn),
            random_attribute=torch.randn(size, 3, generator=drawn),
            content_noise=0.1 * torch.randn(3 * size, 16, cells, cells, generator=drawn),
        )

    return make


@pytest.fixture
def style_model(networks):
    """A style model that gives an image in [0, 1] the modality floor(3 * mean)."""
    spread = AttributeStatistics(
        mean=torch.tensor([[0.0, 5.0, -5.0], [1.0, 1.0, 1.0], [-2.0, 0.0, 2.0]]),
        deviation=torch.tensor([[1.0, 0.1, 0.1], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]),
    )
    return StyleModel(networks, CONFIG, MODALITIES, spread, lambda image: min(2, int(3 * image.mean())))
