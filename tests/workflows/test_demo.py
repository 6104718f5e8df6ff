"""The demo, at a few steps: the same way, the same files."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image

from nucstyle.data.dataset import open_dataset
from nucstyle.data.image_io import read_labels
from nucstyle.metrics.dsb import dsb_score
from nucstyle.workflows.demo import demo, sample_folder


def cell_folders(run):
    return {arm: run / "full" / arm / "seed-0" for arm in ("none", "style")}


def test_the_run_folder_holds_exactly_what_is_promised(tiny_demo):
    names = {path.name for path in tiny_demo.iterdir()} - {".lock"}
    assert names == {"config.toml", "environment.json", "result.json", "report.html", "modalities", "style", "full"}
    style = {path.name for path in (tiny_demo / "style").iterdir()} - {".lock"}
    assert style == {
        "config.toml",
        "environment.json",
        "log.jsonl",
        "result.json",
        "weights.safetensors",
        "checkpoints",
        "samples",
    }
    for cell in cell_folders(tiny_demo).values():
        assert sorted(path.name for path in (cell / "checkpoints").iterdir()) == ["step-000004", "step-000008"]
        assert len(list((cell / "validation" / "tta-none" / "predictions").glob("*_labels.tif"))) == 12


def test_the_numbers_are_those_of_the_written_label_files(tiny_demo):
    result = json.loads((tiny_demo / "result.json").read_text())
    truth = {sample.id: sample.labels for sample in open_dataset(sample_folder()).part("validation")}
    for arm, cell in cell_folders(tiny_demo).items():
        for tta in ("none",):
            reported = result["arms"][arm]["seeds"]["0"][tta]
            assert reported["n_images"] == len(truth) == 12
            scores = {}
            for image_id, labels in truth.items():
                found = read_labels(cell / "validation" / f"tta-{tta}" / "predictions" / f"{image_id}_labels.tif")
                scores[image_id] = dsb_score(labels.numpy(), found.numpy()).dsb_score
            assert reported["images"] == pytest.approx(scores, abs=0)
            assert reported["dsb_score"] == pytest.approx(sum(scores.values()) / 12)


def test_the_scores_of_modalities_are_means_over_their_images(tiny_demo):
    reported = json.loads((tiny_demo / "result.json").read_text())["arms"]["none"]["seeds"]["0"]["none"]
    with (tiny_demo / "modalities" / "manifest.csv").open() as file:
        modality = {row["id"]: row["modality"] for row in csv.DictReader(file)}
    for name, summary in reported["modalities"].items():
        scores = [score for image_id, score in reported["images"].items() if modality[image_id] == name]
        assert summary["n_images"] == len(scores)
        assert summary["dsb_score"] == pytest.approx(sum(scores) / len(scores))


def test_every_prediction_has_the_size_of_its_image(tiny_demo):
    predictions = cell_folders(tiny_demo)["style"] / "validation" / "tta-none" / "predictions"
    for record in open_dataset(sample_folder()).part("validation").records:
        with Image.open(record.image) as image:
            assert tuple(read_labels(predictions / f"{record.id}_labels.tif").shape) == image.size[::-1]


def test_the_style_weights_say_what_they_were_trained_on(tiny_demo):
    from nucstyle.data.weights import load_weights

    metadata = load_weights(tiny_demo / "style" / "weights.safetensors", kind="style").metadata
    train = {record.id for record in open_dataset(sample_folder()).part("train").records}
    assert set(metadata["trained_on"]) == set(metadata["masks_seen"]) == train


def test_the_result_names_no_place_and_no_time(tiny_demo):
    text = (tiny_demo / "result.json").read_text()
    assert str(tiny_demo.parent) not in text
    assert "/" not in text
    assert "time" not in text


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two demos
def test_the_same_seed_gives_the_same_bytes(tiny_demo, tiny_settings, tmp_path):
    demo(tmp_path / "again", overrides=tiny_settings)
    assert (tmp_path / "again" / "result.json").read_bytes() == (tiny_demo / "result.json").read_bytes()
    weights = "full/style/seed-0/weights.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tiny_demo / weights).read_bytes()


def test_resuming_a_finished_demo_changes_nothing(demo_copy, tiny_settings):
    before = (demo_copy / "result.json").read_bytes()
    demo(demo_copy, overrides=tiny_settings, resume=True)
    assert (demo_copy / "result.json").read_bytes() == before


def test_the_three_lines_of_the_readme_restyle_an_array(tiny_demo, field):
    import nucstyle

    image, _ = field(1)
    augment = nucstyle.StyleTransfer(nucstyle.load_style(tiny_demo / "style"), p=1.0)
    restyled = augment(image, seed=0)
    assert (restyled.shape, restyled.dtype) == (image.shape, image.dtype)
    assert (restyled != image).any()
