"""Style models small enough for a test, of both architectures, and batches to feed them."""

import pytest
import torch

from nucstyle.core.rng import generator, seeded
from nucstyle.style.method import make_critics, make_networks
from nucstyle.style.model import AttributeStatistics, StyleModel
from nucstyle.style.networks import StyleNetworkConfig
from nucstyle.style.objective import StyleBatch

MODALITIES = ("grey-on-black", "purple-on-white", "purple-on-purple")
POLARITY = (1, -1, -1)
COLOURS = torch.tensor(
    [[-0.9, -0.9, -0.9, 0.5, 0.5, 0.5], [0.8, 0.7, 0.8, -0.2, -0.6, 0.1], [0.4, 0.2, 0.6, -0.3, -0.7, 0.4]]
)
"""Background and objects of the three modalities, in [-1, 1]."""


def config_of(architecture):
    return StyleNetworkConfig(
        architecture=architecture,
        width=4,
        attribute_size=6,
        residual_blocks=1,
        style_size=8,
        feature_critic=False,
    )


@pytest.fixture(params=["lookup", "mdmm"])
def architecture(request):
    """Both."""
    return request.param


@pytest.fixture
def network_config(architecture):
    """Base width 4, attributes of 6 numbers in both."""
    return config_of(architecture)


def stirred(networks):
    """At the start styles are nearly equal and do nothing: that would hide mistakes."""
    with seeded("stir"), torch.no_grad():
        for name, parameter in networks.named_parameters():
            if "modulation" in name or "generator.last" in name:
                torch.nn.init.normal_(parameter, std=0.2)
            if networks.config.architecture == "mdmm" and parameter.ndim == 4:
                parameter.mul_(4)
    return networks


@pytest.fixture
def networks(network_config):
    """Untrained encoders and generator for three modalities; the first has bright objects, the others dark ones."""
    with seeded("networks"):
        return stirred(make_networks(network_config, POLARITY))


@pytest.fixture
def critics(network_config):
    """Untrained critics that fit `networks`."""
    with seeded("critics"):
        return make_critics(network_config, len(POLARITY), None)


@pytest.fixture
def colours():
    """(3, 6): of background and objects of the three modalities."""
    return COLOURS


@pytest.fixture
def batch_of(networks):
    """`batch_of(seed=0, size=6, annotated=...)` makes a batch; the modalities take turns."""

    def make(seed=0, *, size=6, annotated=None):
        drawn = generator("batch", seed)
        side = 64 if networks.learns_attribute else 32  # MDMM's critics halve six times
        cells, times = side // 4, 3 if networks.learns_attribute else 2
        modality = torch.arange(size) % 3
        return StyleBatch(
            image=torch.rand(size, 3, side, side, generator=drawn) * 2 - 1,
            modality=modality,
            partner=torch.roll(torch.arange(size), 1),
            colours=(COLOURS[modality] + 0.05 * torch.randn(size, 6, generator=drawn)).clamp(-1, 1),
            nuclei=torch.rand(size, 1, side, side, generator=drawn).round(),
            annotated=torch.ones(size) if annotated is None else torch.tensor(annotated),
            attribute_noise=torch.randn(size, 6, generator=drawn),
            random_attribute=torch.randn(size, 6, generator=drawn),
            content_noise=0.1 * torch.randn(times * size, 16, cells, cells, generator=drawn),
            texture=torch.randn(size, 1, side, side, generator=drawn),
        )

    return make


@pytest.fixture
def style_model(networks):
    """A style model that gives an image in [0, 1] the modality floor(3 * mean)."""
    examples = tuple(torch.stack([one, one + 0.1, one - 0.1]).clamp(-1, 1) for one in COLOURS)
    spread = AttributeStatistics.of(examples)
    return StyleModel(networks, MODALITIES, spread, lambda image: min(2, int(3 * image.mean())))
