"""The shipped segmenter: it is there, small, knows what it saw, and finds the nuclei of bundled images without a network."""

import csv
from importlib import resources

import numpy as np

from nucstyle.data.dataset import open_dataset
from nucstyle.data.image_io import read_labels
from nucstyle.data.weights import load_weights
from nucstyle.metrics.dsb import dsb_score
from nucstyle.segmentation.tiling import segment
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.workflows.demo import sample_folder
from nucstyle.workflows.load import SHIPPED_SEGMENTER, find_weights, load_segmenter


def test_the_file_is_small_and_knows_what_it_saw():
    path = find_weights(SHIPPED_SEGMENTER, "segmenter")
    assert path.stat().st_size <= 14e6
    assert path.with_suffix(".md").is_file()
    seen = load_weights(path, kind="segmenter").metadata
    division = (resources.files("nucstyle.data") / "dsb2018_split.csv").read_text().splitlines()
    train = {line.split(",")[0] for line in division[1:] if ",train" in line}
    assert set(seen["trained_on"]) <= train
    assert set(seen["masks_seen"]) <= set(seen["trained_on"])
    assert len(seen["masks_seen"]) > 400


def test_one_word_finds_the_nuclei_of_an_image_that_it_has_not_seen(run_verb, tmp_path):
    sample = next(one for one in open_dataset(sample_folder()).part("validation"))
    result = run_verb("predict", sample.source.path)
    assert result.exit_code == 0, result.output
    found = read_labels(tmp_path / "predicted" / "predictions" / f"{sample.id}_labels.tif")
    assert dsb_score(sample.labels.numpy(), found.numpy()).dsb_score > 0.4
    with (tmp_path / "predicted" / "objects.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == int(found.max())


def test_bundled_validation_images_are_segmented_in_every_modality():
    segmenter, scores = load_segmenter(device="cpu", precision="fp32"), []
    for sample in open_dataset(sample_folder()).part("validation"):
        found = segment(segmenter, sample.image, TestTimeAugmentation("none")).labels
        scores.append(dsb_score(sample.labels.numpy(), found.numpy()).dsb_score)
    assert np.mean(scores) > 0.35
