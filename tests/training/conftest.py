"""Trainings so small that a step takes a few hundredths of a second, and a progress that remembers."""

import json
from contextlib import nullcontext

import pytest

from nucstyle.augment.geometric import CropConfig
from nucstyle.core import rng
from nucstyle.segmentation.detector import Segmenter, SegmenterConfig
from nucstyle.style.networks import StyleNetworkConfig
from nucstyle.training.segmenter_trainer import (
    SegmenterBatches,
    SegmenterRecipe,
    SegmenterTrainer,
    SegmenterTrainingConfig,
)
from nucstyle.training.style_trainer import StyleBatches, StyleRecipe, StyleTrainer, StyleTrainingConfig


class Remembering:
    """A `Progress` that keeps what it was told."""

    def __init__(self):
        self.stages, self.done, self.values, self.lines = [], [], {}, []

    def start(self, stage, total, unit):
        self.stages.append((stage, total, unit))

    def advance(self, done, values=None):
        self.done.append(done)
        if values is not None:
            self.values[done] = dict(values)

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def progress():
    """Remembers `stages`, `done`, `values` and `lines`."""
    return Remembering()


@pytest.fixture
def read_log():
    """`read_log(run)` gives the lines of a run's log without their time."""

    def read(run):
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        return [{key: value for key, value in line.items() if key != "time"} for line in lines]

    return read


@pytest.fixture
def style_recipe_of():
    """`style_recipe_of(steps=10, size_px=32, ...)` makes a recipe of the smallest networks."""

    def make(*, size_px=32, **training):
        given = {"steps": 10, "batch_size": 4, "learning_rate": 2e-3, "log_every": 1, "precision": "fp32", **training}
        return StyleRecipe(
            name="test",
            training=StyleTrainingConfig(**given),
            network=StyleNetworkConfig(width=4, residual_blocks=1, style_size=8, feature_critic=False),
            crop=CropConfig(size_px=size_px, native=0.5),
        )

    return make


@pytest.fixture
def fields_of_both(sample_of):
    """Two fluorescence fields and two stained ones, and the numbers of their modalities."""
    return [sample_of(number, stained=number >= 2) for number in range(4)], [0, 0, 1, 1]


@pytest.fixture
def style_trainer_of(style_recipe_of, fields_of_both):
    """`style_trainer_of(recipe=None, seed=0, batches=None)` makes a fresh trainer."""

    def make(recipe=None, *, seed=0, batches=None):
        recipe = recipe or style_recipe_of()
        samples, modalities = fields_of_both
        batches = batches or StyleBatches(samples, modalities, [1, -1], recipe, seed)
        return StyleTrainer(batches, [1, -1], recipe, device="cpu", autocast=nullcontext, seed=seed)

    return make


@pytest.fixture
def segmenter_recipe_of():
    """`segmenter_recipe_of(steps=4, ...)` makes a recipe of a small detector and 64 px crops."""

    def make(**training):
        given = {"steps": 4, "batch_size": 2, "learning_rate": 5e-3, "log_every": 1, "precision": "fp32", **training}
        return SegmenterRecipe(
            name="test",
            training=SegmenterTrainingConfig(**given),
            segmenter=SegmenterConfig(
                pyramid_channels=16,
                box_head_size=32,
                mask_layers=1,
                proposals_before_nms_train=50,
                proposals_after_nms_train=50,
                anchors_per_image=64,
                regions_per_image=32,
            ),
            # A recipe of stages has no crop of its own.
            crop=CropConfig() if given.get("stages") else CropConfig(size_px=64, zoom_low=0.9, zoom_high=1.2),
        )

    return make


@pytest.fixture
def segmenter_trainer_of(segmenter_recipe_of, sample_of, tiny_trunk):
    """`segmenter_trainer_of(recipe=None, seed=0, batches=None)` makes a fresh trainer on two fluorescence fields."""

    def make(recipe=None, *, seed=0, batches=None):
        recipe = recipe or segmenter_recipe_of()
        with rng.seeded("segmenter weights"):
            segmenter = Segmenter(
                recipe.segmenter, recipe.inference, trunk=tiny_trunk(recipe.segmenter.pyramid_channels)
            )
        samples = [sample_of(0), sample_of(1)]
        batches = batches or SegmenterBatches(samples, recipe.chains(), recipe, seed)
        return SegmenterTrainer(segmenter, batches, recipe, seed=seed)

    return make
