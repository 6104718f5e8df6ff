"""Predicting where memory is short: once more in smaller tiles, then a clear end."""

from types import SimpleNamespace

import pytest
import torch

from nucstyle.core.errors import MemoryShortageError
from nucstyle.core.memory import is_memory_shortage
from nucstyle.core.rng import seeded
from nucstyle.data.dataset import open_dataset
from nucstyle.segmentation.detector import InferenceConfig, Segmenter, SegmenterConfig
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.workflows.predict import predict_into

SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


class Cramped(Segmenter):
    """Has memory for so many pixels at a time."""

    room_px = 10**9
    shortage = MemoryError()

    def see(self, image):
        self.seen.append(tuple(image.shape[1:]))
        if image.shape[1] * image.shape[2] > self.room_px:
            raise self.shortage
        return super().see(image)


@pytest.fixture
def segmenter():
    config = SegmenterConfig(pyramid_channels=16, box_head_size=32, mask_layers=1, proposals_after_nms=50)
    inference = InferenceConfig(tile_px=256, overlap_px=16, enlarge_below_px=0)
    with seeded("cramped"):
        made = Cramped(config, inference)
    made.seen = []
    return made


@pytest.fixture
def field(write_pairs):
    return open_dataset(write_pairs("data", fluorescence=1, stained=0))


def predicted(segmenter, field, folder):
    lines = []
    progress = SimpleNamespace(start=lambda *_: None, advance=lambda *_: None, say=lines.append)
    folder.mkdir()
    none = TestTimeAugmentation("none")
    counts, _ = predict_into(folder, field, segmenter, none, progress=progress, stage="predict")
    return lines, counts


@pytest.mark.parametrize("shortage", SHORTAGES, ids=["cuda", "cpu", "python"])
def test_an_image_that_is_too_large_for_the_memory_is_looked_at_in_smaller_tiles(segmenter, field, tmp_path, shortage):
    """However large its tiles might be: what counts is what was looked at."""
    height, width = (2 * side for side in field[0].size)  # enlarged
    segmenter.room_px, segmenter.shortage = height * width - 1, shortage
    segmenter.inference = before = InferenceConfig(tile_px=1024, overlap_px=128)
    lines, counts = predicted(segmenter, field, tmp_path / "run")
    assert len(lines) == 1
    assert "field-0: not enough memory" in lines[0]
    assert counts["field-0"]["tile_px"] == max(height, width) // 2
    assert segmenter.seen[0] == (height, width)
    assert len(segmenter.seen) > 2
    assert segmenter.inference == before  # the next image gets large tiles again
    assert (tmp_path / "run" / "predictions" / "field-0_labels.tif").is_file()


def test_where_smaller_tiles_do_not_help_either_the_settings_that_would_are_named(segmenter, field, tmp_path):
    segmenter.room_px = 16
    with pytest.raises(MemoryShortageError, match=r"field-0: not enough memory, and tiles get no smaller"):
        predicted(segmenter, field, tmp_path / "small")
    segmenter.inference = InferenceConfig()  # which enlarges the field
    with pytest.raises(MemoryShortageError, match=r"field-0: not enough memory, not in tiles of \d+ px either.*--tile"):
        predicted(segmenter, field, tmp_path / "run")


def test_other_failures_are_not_taken_for_a_shortage(segmenter, field, tmp_path):
    segmenter.room_px, segmenter.shortage = 16, RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predicted(segmenter, field, tmp_path / "run")
    assert len(segmenter.seen) == 1
    assert not is_memory_shortage(ValueError("memory"))
    assert not is_memory_shortage(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert is_memory_shortage(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))
    assert (tmp_path / "run" / "objects.csv").read_text().startswith("image_id")


def test_tiles_are_as_large_as_asked_for(run_verb, tiny_demo, write_pairs, monkeypatch, tmp_path):
    folder, cell = write_pairs("data", fluorescence=1, stained=0), tiny_demo / "full" / "none" / "seed-0"
    seen, see = [], Segmenter.see
    monkeypatch.setattr(Segmenter, "see", lambda self, image: (seen.append(image.shape), see(self, image))[1])
    tiles = ("--tta", "none", "--weights", cell, "--tile")
    assert run_verb("predict", folder, "--out", "whole", *tiles, "2000").exit_code == 0
    count = len(seen)
    assert run_verb("predict", folder, "--out", "tiled", *tiles, "128").exit_code == 0
    assert len(seen) - count >= 4
    assert "tile_px = 128" in (tmp_path / "tiled" / "config.toml").read_text()
    assert run_verb("predict", folder, "--out", "small", *tiles, "8").exit_code == 2
