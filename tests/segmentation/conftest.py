"""A segmenter small enough for a test, and predictions drawn by hand."""

import pytest
import torch

from nucstyle.core.rng import seeded
from nucstyle.core.sample import Prediction
from nucstyle.segmentation.detector import InferenceConfig, Segmenter, SegmenterConfig

SMALL = {
    "pyramid_channels": 8,
    "box_head_size": 16,
    "mask_layers": 1,
    "proposals_before_nms_train": 50,
    "proposals_after_nms_train": 50,
    "proposals_before_nms": 300,
    "proposals_after_nms": 200,
    "max_nuclei": 200,
    "anchors_per_image": 32,
    "regions_per_image": 16,
}


@pytest.fixture
def segmenter_of(tiny_trunk):
    """`segmenter_of(real=True, autocast=..., **config)` makes an untrained segmenter that finds many boxes."""

    def make(*, real=False, seed=0, **options):
        given = {"autocast": options.pop("autocast")} if "autocast" in options else {}
        config = SegmenterConfig(**{**SMALL, "box_score": 0.0, **options})
        with seeded("segmenter", seed):
            trunk = None if real else tiny_trunk(config.pyramid_channels)
            segmenter = Segmenter(config, InferenceConfig(), trunk=trunk, **given)
            # Untrained heads all but agree; louder ones tell one region from another.
            for part in ("box_head", "box_predictor", "mask_predictor"):
                for parameter in getattr(segmenter.network.roi_heads, part).parameters():
                    parameter.data.mul_(3)
        return segmenter

    return make


@pytest.fixture
def segmenter(segmenter_of):
    """An untrained segmenter on a tiny trunk, with the usual threshold for duplicates and none for scores."""
    return segmenter_of()


@pytest.fixture
def prediction_of():
    """`prediction_of([(x0, y0, x1, y1), ...], size=(32, 32), scores=..., masks=...)`; the masks are full by default."""

    def make(boxes, *, size=(32, 32), scores=None, masks=None, side=28):
        count = len(boxes)
        return Prediction(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.linspace(0.99, 0.6, count) if scores is None else torch.tensor(scores, dtype=torch.float32),
            masks=torch.ones(count, side, side) if masks is None else masks,
            size=size,
        )

    return make
