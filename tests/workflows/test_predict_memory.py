"""Predicting where memory is short: once more in smaller tiles, then the image is listed and the others are done."""

import csv
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from nucstyle.core.errors import InputError
from nucstyle.core.memory import is_memory_shortage
from nucstyle.core.rng import seeded
from nucstyle.data.dataset import open_dataset
from nucstyle.data.run_folder import read_json
from nucstyle.report.pictures import draw_overlay
from nucstyle.segmentation.detector import InferenceConfig, Segmenter, SegmenterConfig
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.workflows import cells, predict
from nucstyle.workflows.predict import Outcome, predict_into

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
    config = SegmenterConfig(
        pyramid_channels=16, box_head_size=32, mask_layers=1, proposals_after_nms=50, max_nuclei=50
    )
    inference = InferenceConfig(tile_px=256, overlap_px=16, enlarge_below_px=0)
    with seeded("cramped"):
        made = Cramped(config, inference)
    made.seen = []
    return made


@pytest.fixture
def fields(write_pairs):
    return open_dataset(write_pairs("data", fluorescence=1, stained=0))


def predicted(segmenter, data, folder, **options):
    lines = []
    progress = SimpleNamespace(start=lambda *_: None, advance=lambda *_: None, say=lines.append)
    folder.mkdir()
    none = TestTimeAugmentation("none")
    return lines, predict_into(folder, data, segmenter, none, progress=progress, stage="predict", **options)


@pytest.mark.parametrize("shortage", SHORTAGES, ids=["cuda", "cpu", "python"])
def test_an_image_that_is_too_large_for_the_memory_is_looked_at_in_smaller_tiles(segmenter, fields, tmp_path, shortage):
    """However large its tiles might be: what counts is what was looked at."""
    height, width = (2 * side for side in fields[0].size)  # enlarged
    segmenter.room_px, segmenter.shortage = height * width - 1, shortage
    segmenter.inference = before = InferenceConfig(tile_px=1024, overlap_px=128)
    lines, outcome = predicted(segmenter, fields, tmp_path / "run")
    (line,) = (line for line in lines if "memory" in line)
    assert "field-0: not enough memory; looking again in tiles of 112 px" in line
    assert outcome.images["field-0"]["tile_px"] == max(height, width) // 2
    assert outcome.refused == []
    assert segmenter.seen[0] == (height, width)
    assert len(segmenter.seen) > 2
    assert segmenter.inference == before  # the next image gets large tiles again
    assert (tmp_path / "run" / "predictions" / "field-0_labels.tif").is_file()


def test_where_smaller_tiles_do_not_help_either_the_settings_that_would_are_named(segmenter, fields, tmp_path):
    segmenter.room_px = 16
    _, small = predicted(segmenter, fields, tmp_path / "small")
    with pytest.raises(
        InputError, match=r"1 of 1 images .*field-0: not enough memory, and tiles get no smaller.*--tta none"
    ):
        small.require_all()
    segmenter.inference = InferenceConfig()  # which enlarges the field
    _, larger = predicted(segmenter, fields, tmp_path / "run")
    with pytest.raises(InputError, match=r"field-0: not enough memory, not in tiles of \d+ px either.*--tile"):
        larger.require_all()
    assert larger.images == {}
    assert not (tmp_path / "run" / "predictions" / "field-0_labels.tif").exists()


@pytest.mark.parametrize("shortage", SHORTAGES, ids=["cuda", "cpu", "python"])
def test_too_little_memory_to_move_an_image_is_listed_as_well(segmenter, fields, tmp_path, shortage):
    def restyle(sample, *, seed):
        raise shortage

    _, outcome = predicted(segmenter, fields, tmp_path / "run", restyle=restyle)
    (line,) = outcome.refused
    assert "field-0: not enough memory" in line
    assert "--device cpu" in line


def test_an_image_that_memory_does_not_suffice_for_does_not_stop_the_others(
    assert_refused, run_verb, write_pairs, field, monkeypatch, tmp_path
):
    images = write_pairs("data", fluorescence=3, stained=0) / "images"
    Image.fromarray(field(0, size=(200, 300))[0]).save(images / "field-0.png")
    see = Segmenter.see

    def cramped(self, image):
        if image.shape[1] * image.shape[2] > 100_000:
            raise MemoryError
        return see(self, image)

    monkeypatch.setattr(Segmenter, "see", cramped)
    result = run_verb("predict", images, "--out", "run", "--tta", "none", "--diameter", 12)
    assert_refused(
        result, "1 of 3 images could not be used", "field-0: not enough memory, not in tiles of 400 px", "--tile"
    )
    found = read_json(tmp_path / "run" / "result.json")
    assert (sorted(found["images"]), found["refused"]) == (["field-1", "field-2"], ["field-0"])
    with (tmp_path / "run" / "manifest.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["field-1", "field-2"]
    assert "Could not be used: field-0." in (tmp_path / "run" / "report.html").read_text()


def test_an_image_whose_picture_cannot_be_drawn_for_lack_of_memory_does_not_stop_the_others(
    segmenter, write_pairs, monkeypatch, tmp_path
):
    def draw(image, *labels):
        drawn.append(image)
        if len(drawn) == 1:
            raise MemoryError
        return draw_overlay(image, *labels)

    drawn = []
    monkeypatch.setattr(predict, "draw_overlay", draw)
    data = open_dataset(write_pairs("data", fluorescence=2, stained=0))
    _, outcome = predicted(segmenter, data, tmp_path / "run")
    (line,) = outcome.refused
    assert "field-0: not enough memory" in line
    assert list(outcome.images) == ["field-1"]
    assert [path.name for path in (tmp_path / "run" / "predictions").glob("*_labels.tif")] == ["field-1_labels.tif"]


def test_a_cell_is_not_scored_without_an_image_that_memory_does_not_suffice_for(monkeypatch, tmp_path):
    (tmp_path / "config.toml").write_text('verb = "cell"\n[recipe.inference]\n')
    monkeypatch.setattr(cells, "load_segmenter", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(
        cells, "predict_into", lambda *_, **__: Outcome({"a": {"n_nuclei": 1}}, ["b: not enough memory"], [])
    )
    scoring = cells.Scoring(parts={"validation": []}, ttas=["none"], largest=None)
    with pytest.raises(InputError, match="1 of 2 images could not be used: b: not enough memory"):
        cells._score(SimpleNamespace(path=tmp_path), {"arm": "none", "scores": {}}, scoring, "cpu", "fp32", None)


def test_other_failures_are_not_taken_for_a_shortage(segmenter, fields, tmp_path):
    segmenter.room_px, segmenter.shortage = 16, RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predicted(segmenter, fields, tmp_path / "run")
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
