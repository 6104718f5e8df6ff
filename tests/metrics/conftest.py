"""What the tests of the scores share."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference():
    """`reference(name)` gives a module of tests/reference."""

    def load(name):
        path = Path(__file__).parents[1] / "reference" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def naive(reference):
    """The slow scores of tests/reference."""
    return reference("naive_metrics")


@pytest.fixture(scope="session")
def random_pairs():
    """1,000 tiny pairs of label maps: noise, shifted copies, copies with wrong pixels, empty ones, gaps in the ids."""
    rng = np.random.default_rng(20180416)
    pairs = []
    for _ in range(1000):
        blocks = rng.integers(0, rng.integers(1, 6), size=(rng.integers(1, 5), rng.integers(1, 5)))
        truth = blocks.repeat(rng.integers(1, 4), axis=0).repeat(rng.integers(1, 4), axis=1)
        wrong = rng.random(truth.shape) < rng.choice([0.0, 0.1, 0.2, 0.3, 1.0])
        predicted = np.where(wrong, rng.integers(0, 6, size=truth.shape), np.roll(truth, rng.choice([0, 0, 1]), axis=1))
        pairs.append((truth * int(rng.integers(1, 1000)), predicted * int(rng.choice([0, 1, 1, 1, 1, 1, 3, 500]))))
    return pairs
