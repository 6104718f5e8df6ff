"""The shipped segmenter: it is there, small, knows what it saw, and finds the nuclei of bundled images without a network."""

import csv
import subprocess
import sys
import textwrap
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nucstyle.data.dataset import open_dataset
from nucstyle.data.image_io import read_labels, to_unit
from nucstyle.data.weights import load_weights
from nucstyle.metrics.dsb import dsb_score
from nucstyle.metrics.matching import overlap
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


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter(device="cpu", precision="fp32")


def found_in(segmenter, array, mode="none"):
    """What is found in the pixels of a file."""
    return segment(segmenter, to_unit(array)[0], TestTimeAugmentation(mode))


@pytest.mark.parametrize("size", [(96, 112), (1, 1), (2, 3), (1, 500), (32, 32), (519, 161)], ids=str)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_has_no_nuclei_and_keeps_its_size(segmenter, size, value):
    for kind in (np.uint8, np.uint16) if value == 128 else (np.uint8,):
        found = found_in(segmenter, np.full(size, value, kind))
        assert found.labels.shape == size
        assert not found.labels.any()
        assert len(found.scores) == 0


def test_a_tint_has_no_nuclei(segmenter):
    found = found_in(segmenter, np.broadcast_to(np.array([230, 200, 225], np.uint8), (120, 120, 3)).copy())
    assert not found.labels.any()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("mode", ["none", "fast"])
def test_noise_has_no_nuclei_however_much_it_is_amplified(segmenter, kind, mode):
    noise = np.random.default_rng(0).normal(1000 if kind is np.uint16 else 20, 10, (256, 256)).clip(0, None)
    assert len(found_in(segmenter, noise.astype(kind), mode).scores) <= 2


@pytest.mark.parametrize("deviation", [5, 50])
def test_a_single_nucleus_in_noise_is_found_and_little_else(segmenter, deviation):
    ys, xs = np.mgrid[:256, :256]
    disc = (ys - 90) ** 2 + (xs - 140) ** 2 < 8**2  # 0.3 % of the pixels
    noise = np.random.default_rng(0).normal(1000, deviation, (256, 256)) + 400 * disc
    found = found_in(segmenter, noise.astype(np.uint16))
    assert 1 <= len(found.scores) <= 3
    assert (found.labels.numpy() > 0)[disc].mean() > 0.6


def test_a_hot_pixel_changes_no_more_than_itself(segmenter):
    sample = next(one for one in open_dataset(sample_folder()).part("validation"))
    deep = (sample.image.mean(dim=0) * 4000 + 100).numpy().astype(np.uint16)
    hot = deep.copy()
    hot[5, 5] = 65535
    scores = [
        dsb_score(sample.labels.numpy(), found_in(segmenter, one).labels.numpy()).dsb_score for one in (deep, hot)
    ]
    assert scores[0] > 0.4
    assert scores[1] == pytest.approx(scores[0], abs=0.01)


def crowd(side=1000, count=1800, radius=8):
    """(side, side) uint8 with discs on a jittered grid, as `benchmarks/segmenter.py --crowd` has it."""
    columns = int(count**0.5) + 1
    pitch, drawn = side / columns, np.random.default_rng(0)
    middle = radius + 1 + drawn.uniform(0, pitch - 2 * radius - 2, (2, columns, columns))
    ys, xs = np.mgrid[:side, :side]
    row, column = (ys / pitch).astype(int), (xs / pitch).astype(int)
    y, x = row * pitch + middle[0, row, column], column * pitch + middle[1, row, column]
    nuclei = ((ys - y) ** 2 + (xs - x) ** 2 < radius**2) & (row * columns + column < count)
    return (255 * (0.05 + 0.6 * nuclei + drawn.normal(0, 0.02, (side, side))).clip(0, 1)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from /proc")
def test_a_crowd_takes_less_than_two_gibibytes(tmp_path):
    script = """
        import sys
        from nucstyle.cli import app

        try:
            app(sys.argv[1:])
        except SystemExit as left:
            assert not left.code
        # of this process alone: getrusage's would begin with the peak of the one that started it
        with open("/proc/self/status") as file:
            print("peak", next(line.split()[1] for line in file if line.startswith("VmHWM")))
    """
    Image.fromarray(crowd()).save(tmp_path / "crowd.png")
    verb = ("predict", tmp_path / "crowd.png", "--out", tmp_path / "run", "--tta", "none", "--device", "cpu")
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, verb)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert finished.returncode == 0, finished.stderr
    found = read_labels(tmp_path / "run" / "predictions" / "crowd_labels.tif")
    assert int(found.max()) > 900
    assert "there may be more" in finished.stderr
    (peak,) = (line.split()[1] for line in finished.stdout.splitlines() if line.startswith("peak "))
    assert int(peak) < 2 * 2**20  # KiB


@pytest.mark.parametrize(("modality", "tta", "tile_px"), [("fluorescence", "none", 300), ("stained", "fast", 256)])
def test_what_is_found_does_not_depend_on_the_tiles(modality, tta, tile_px):
    # A field of bundled images, with sides that are no multiples of what the network halves them to.
    own = load_segmenter(device="cpu", precision="fp32")
    images = [
        one.image[:, :200, :200]
        for one in open_dataset(sample_folder())
        if min(one.image.shape[1:]) >= 200 and (one.image.mean() < 0.3) == (modality == "fluorescence")
    ]
    rows = [torch.cat([images[(3 * row + column) % len(images)] for column in range(3)], dim=2) for row in range(3)]
    field, found = torch.cat(rows, dim=1)[:, :520, :580], []
    for side in (1024, tile_px):
        own.inference = replace(own.inference, tile_px=side)
        found.append(segment(own, field, tta).labels.numpy())
    whole, tiled = found
    counts = overlap(whole, tiled).count(9, 10)
    assert whole.max() > 30
    assert max(counts.false_positives, counts.false_negatives) <= 0.02 * whole.max()
    assert ((whole > 0) != (tiled > 0)).sum() <= 0.005 * (whole > 0).sum()


def test_a_bright_field_in_tiles_has_no_nuclei_but_its_own(segmenter):
    # The padding of its tiles is black.
    field = np.random.default_rng(0).normal(240, 2, (1100, 300, 3)).clip(0, 255)
    ys, xs = np.mgrid[:1100, :300]
    field[(ys - 500) ** 2 + (xs - 150) ** 2 < 12**2] = 100, 50, 130
    found = found_in(segmenter, field.astype(np.uint8))
    assert len(found.scores) == 1
    assert found.labels[500, 150] == 1
