"""A StyleTransfer without a network, one with the shipped weights, and a real picture."""

import importlib
import sys
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image

from nucstyle.augment.style import StyleTransfer
from nucstyle.workflows.load import load_style


@pytest.fixture
def augment(fake_translator):
    """Restyles every image, into either modality."""
    return StyleTransfer(fake_translator, p=1.0)


@pytest.fixture
def idle(fake_translator):
    """Restyles no image."""
    return StyleTransfer(fake_translator, p=0.0)


@pytest.fixture(scope="session")
def shipped():
    """Restyles every image with the shipped model; goes into pickles and workers."""
    return StyleTransfer(load_style("dsb2018", device="cpu", precision="fp32"), p=1.0)


@pytest.fixture
def epochs():
    """`epochs(loader, 2)` goes through a loader twice, after seeding torch: the bytes of every image, epoch by epoch."""

    def run(loader, count):
        torch.manual_seed(5)
        images = ([one["image"] if isinstance(one, dict) else one for one in loader] for _ in range(count))
        return [[image.numpy().tobytes() for image in epoch] for epoch in images]

    return run


@pytest.fixture(scope="session")
def picture():
    """A crop of a bundled image, (64, 80, 3) uint8."""
    path = min((resources.files("nucstyle") / "sample" / "images").iterdir(), key=lambda one: one.name)
    with Image.open(path) as file:
        return np.array(file.convert("RGB"))[:64, :80]


@pytest.fixture
def without(monkeypatch):
    """`without("monai")` imports the adapter as if the library were not installed."""

    def load(library):
        for name in [library, *(one for one in sys.modules if one.startswith(f"{library}."))]:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"nucstyle.integrations.{library}", raising=False)
        return importlib.import_module(f"nucstyle.integrations.{library}")

    return load
