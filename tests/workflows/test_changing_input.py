"""Files that vanish or change between the listing of a data set and the reading of it."""

from __future__ import annotations

import importlib
import json

import pytest


@pytest.fixture
def fading(monkeypatch, write_pairs):
    """`fading("predict")`: when that verb opens its data, one image is gone and one cut off by the time it reads them."""

    def prepare(verb):
        module = importlib.import_module(f"nucstyle.workflows.{verb}")
        opens = module.open_dataset

        def open_and_lose(*arguments, **options):
            dataset = opens(*arguments, **options)
            gone, cut = (record.image for record in dataset.records[1:3])
            gone.unlink()
            cut.write_bytes(cut.read_bytes()[:-40])
            return dataset

        monkeypatch.setattr(module, "open_dataset", open_and_lose)
        return write_pairs("data", fluorescence=3, stained=1)

    return prepare


def assert_others_are_done(result, total):
    assert result.exit_code == 2, result.output
    assert f"2 of {total} images could not be used" in result.output
    assert "field-1.png: no such image file" in result.output
    assert "field-2.png: cannot be decoded" in result.output
    assert "Traceback" not in result.output


def test_prediction_does_the_others_and_lists_those(run_verb, fading, tmp_path):
    result = run_verb("predict", fading("predict"), "--out", "predicted", "--tta", "none")
    assert_others_are_done(result, 4)
    names = sorted(path.name for path in (tmp_path / "predicted/predictions").iterdir())
    assert [name for name in names if name.endswith(".tif")] == ["field-0_labels.tif", "field-3_labels.tif"]
    assert sorted(json.loads((tmp_path / "predicted/result.json").read_text())["images"]) == ["field-0", "field-3"]


def test_augmentation_does_the_others_and_lists_those(run_verb, fading, tmp_path):
    result = run_verb("augment", fading("augment"), "larger", "--copies", "1", "--no-gate")
    assert_others_are_done(result, 4)
    ids = {line.split(",")[0] for line in (tmp_path / "larger/manifest.csv").read_text().splitlines()[1:]}
    assert {"field-0", "field-3"} <= ids
    assert not ids & {"field-1", "field-2"}


@pytest.mark.parametrize("verb", ["train-style", "train-segmenter"])
def test_a_training_names_the_first_before_it_starts(run_verb, fading, tmp_path, verb):
    result = run_verb(verb, fading(verb.replace("-", "_")), "--out", "run")
    assert result.exit_code == 2
    assert "field-1.png: no such image file" in result.output
    assert not (tmp_path / "run/checkpoints").exists()


def test_no_score_is_given_for_a_part_of_what_was_asked(run_verb, fading, tmp_path):
    folder = fading("evaluate")
    result = run_verb("evaluate", folder, folder / "labels")
    assert result.exit_code == 2
    assert "field-1.png: no such image file" in result.output
    assert "DSB score" not in result.output
