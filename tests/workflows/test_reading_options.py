"""What a person says of files that leave it open: which page, which range, how large, and whether pieces are nuclei."""

import importlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.core.errors import DatasetError
from nucstyle.core.protocols import SILENT
from nucstyle.data.dataset import open_dataset
from nucstyle.data.decoders import ReadOptions
from nucstyle.data.image_io import read_image, read_labels
from nucstyle.data.run_folder import read_config
from nucstyle.data.weights import load_weights
from nucstyle.workflows.discover import DiscoverConfig, find_modalities
from nucstyle.workflows.named import masked, with_modalities
from nucstyle.workflows.statistics import measure_all

OPTIONS = ("--page", 2, "--range", "0,2550", "--connected-components")
READING = ReadOptions(page=2, value_range=(0, 2550), connected_components=True)
TABLE = {"range": [0, 2550], "page": 2, "connected_components": True}


@pytest.fixture
def stacks(tmp_path, field):
    """TIFFs of 16 bits whose second page is the image, and masks of 0 and 255."""
    for part in ("images", "masks"):
        (tmp_path / "stacks" / part).mkdir(parents=True)
    for number in range(4):
        image, labels = field(number, nuclei=5)
        grey = image[..., 0].astype(np.uint16) * 10
        stack = np.stack([grey % 97, grey])
        tifffile.imwrite(tmp_path / f"stacks/images/{number}.tif", stack, photometric="minisblack")
        Image.fromarray((labels > 0).astype(np.uint8) * 255).save(tmp_path / f"stacks/masks/{number}.png")
    return tmp_path / "stacks"


VERBS = {
    "discover": ("stacks", "--out", "run"),
    "train-style": ("stacks", "--out", "run"),
    "evaluate-style": ("stacks", "--out", "run", "--style", "dsb2018"),
    "augment": ("stacks", "run"),
    "translate": ("stacks", "--out", "run"),
    "train-segmenter": ("stacks", "--out", "run"),
    "predict": ("stacks", "--out", "run"),
    "evaluate": ("stacks", "stacks"),
    "convert": ("stacks", "run", "--to", "pairs"),
    "compare": ("stacks", "--out", "run", "--arms", "none"),
}
WITHOUT_RANGE = ("evaluate", "convert")
"""What looks at labels alone, or hands pixels on as they are."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_reads_images_hands_on_what_is_said_of_them(assert_refused, run_verb, monkeypatch, verb):
    module = importlib.import_module(f"nucstyle.workflows.{verb.replace('-', '_')}")
    said = []

    def opened(data, **options):
        said.append(options["reading"])
        raise DatasetError("seen")

    monkeypatch.setattr(module, "open_dataset", opened)
    options = {"--max-pixels": 99, "--page": 2}
    options |= {} if verb in WITHOUT_RANGE else {"--range": "-5,2550.5"}
    flags = [] if verb == "translate" else ["--connected-components"]
    given = [part for option in options.items() for part in option]
    assert_refused(run_verb(verb, *VERBS[verb], *given, *flags), "seen")
    assert said == [
        ReadOptions(
            max_pixels=99,
            page=2,
            value_range=None if verb in WITHOUT_RANGE else (-5, 2550.5),
            connected_components=verb != "translate",
        )
    ]
    assert_refused(run_verb(verb, *VERBS[verb]), "seen")
    assert said[1] == ReadOptions()


@pytest.mark.parametrize("given", ["5", "1,2,3", "a,b", "9,5", ""])
def test_a_range_that_is_none_is_refused_before_anything_is_read(assert_refused, run_verb, given):
    assert_refused(run_verb("discover", "nowhere", "--out", "run", "--range", given), f"--range {given}: ")


def test_stacks_and_masks_are_refused_with_the_option_that_helps(assert_refused, run_verb, stacks):
    assert_refused(run_verb("predict", stacks, "--out", "run"), "4 of 4", "(2, 96, 112) axes QYX", "--page 1 to 2")
    result = run_verb("predict", stacks, "--out", "run", "--page", 2, "--overwrite")
    assert_refused(result, "4 of 4", "has no numbers but 0 and 255", "--connected-components")
    result = run_verb("predict", stacks / "images", "--out", "run", "--page", 2, "--max-pixels", 5, "--overwrite")
    assert_refused(result, "4 of 4", "at most 5 are read whole")


def test_predictions_of_a_page_are_those_of_the_image_alone_and_can_be_scored(run_verb, stacks, tmp_path):
    (tmp_path / "single").mkdir()
    for file in (stacks / "images").iterdir():
        tifffile.imwrite(tmp_path / "single" / file.name, tifffile.imread(file)[1])
    verb = ("--tta", "none", "--range", "0,2550")
    result = run_verb("predict", stacks, "--out", "stacked", *verb, "--page", 2, "--connected-components")
    assert result.exit_code == 0, result.output
    assert run_verb("predict", "single", "--out", "alone", *verb).exit_code == 0
    for number in range(4):
        one, other = (read_labels(tmp_path / f"{run}/predictions/{number}_labels.tif") for run in ("stacked", "alone"))
        assert torch.equal(one, other)
        assert one.max() > 0
    assert read_config(tmp_path / "stacked")["data"]["reading"] == TABLE
    result = run_verb("evaluate", stacks, "stacked", "--out", "scores", "--page", 2, "--connected-components")
    assert result.exit_code == 0, result.output
    assert read_config(tmp_path / "scores")["data"]["reading"] == {"page": 2, "connected_components": True}


def test_another_range_gives_another_prediction_config(run_verb, stacks, tmp_path):
    configs = []
    for number, options in enumerate(((), ("--range", "0,2550"), ("--range", "0,65535"))):
        result = run_verb(
            "predict", stacks / "images", "--out", f"run-{number}", "--tta", "none", "--page", 2, *options
        )
        assert result.exit_code == 0, result.output
        configs.append(read_config(tmp_path / f"run-{number}")["data"]["reading"].get("range"))
    assert configs == [None, [0, 2550], [0, 65535]]


def test_a_larger_data_set_holds_the_page_and_nuclei_with_numbers(run_verb, stacks, tmp_path):
    result = run_verb("augment", stacks, "larger", "--copies", 1, "--no-gate", *OPTIONS)
    assert result.exit_code == 0, result.output
    before = {sample.id: sample for sample in open_dataset(stacks, reading=READING)}
    after = open_dataset(tmp_path / "larger")
    assert len(after) == 8
    for sample in after:
        original = before[sample.id.removesuffix("-style1")]
        assert torch.equal(sample.labels, original.labels)
        if sample.id in before:
            again, _ = read_image(sample.source.path, ReadOptions(value_range=(0, 2550)))
            assert torch.equal(again, original.image)


def test_a_page_is_measured_and_remembered_as_itself(stacks):
    def features(page, value_range=None):
        reading = ReadOptions(page=page, value_range=value_range)
        found = measure_all(open_dataset(stacks, reading=reading), features="hsv", clahe=None, progress=SILENT)
        return np.stack([one.features for one in found])

    first, second, darker = features(1), features(2), features(2, (0, 9999))
    assert not np.allclose(first, second)
    assert not np.allclose(second, darker)
    np.testing.assert_array_equal(features(1), first)
    np.testing.assert_array_equal(features(2, (0, 9999)), darker)


def test_discover_writes_a_manifest_that_knows_of_the_pieces(run_verb, stacks, tmp_path):
    result = run_verb("discover", stacks, "--out", "found", "--k", 2, *OPTIONS)
    assert result.exit_code == 0, result.output
    assert read_config(tmp_path / "found")["data"]["reading"] == TABLE
    later = open_dataset(tmp_path / "found", reading=ReadOptions(page=2))
    for one, other in zip(later, open_dataset(stacks, reading=READING), strict=True):
        assert torch.equal(one.labels, other.labels)


def test_images_beside_a_manifest_are_read_like_those_in_it(run_verb, stacks, tmp_path):
    assert run_verb("discover", stacks, "--out", "found", "--k", 2, *OPTIONS).exit_code == 0
    result = run_verb("discover", stacks, "--from", "found", "--out", "again", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert read_config(tmp_path / "again")["data"]["reading"] == TABLE


def test_images_whose_masks_are_hidden_or_whose_modality_is_sought_are_read_alike(stacks):
    dataset = open_dataset(stacks, reading=READING)
    assert masked(dataset, [], ["x"]).reading == READING
    model = find_modalities(dataset, DiscoverConfig(k=1), cache=False).model
    (stacks / "images/3.tif").write_bytes(b"")
    assert with_modalities(dataset, model, SILENT, refused=(lost := [])).reading == READING
    assert len(lost) == 1


def test_predicted_label_maps_are_held_to_the_limit_too(assert_refused, run_verb, tmp_path):
    for part in ("data/images", "data/labels", "predicted"):
        (tmp_path / part).mkdir(parents=True)
    for part, size in (("data/images", (10, 12)), ("data/labels", (10, 12)), ("predicted", (20, 12))):
        Image.fromarray(np.ones(size, np.uint8)).save(tmp_path / part / "a.png")
    assert_refused(run_verb("evaluate", "data", "predicted", "--max-pixels", 200), "predicted/a.png", "at most 200")


def test_pictures_of_a_page_are_made(run_verb, stacks, tmp_path):
    result = run_verb("translate", stacks / "images/0.tif", "--out", "shown", "--page", 2, "--range", "0,2550")
    assert result.exit_code == 0, result.output
    own = next((tmp_path / "shown/pictures/0").iterdir())
    assert tifffile.imread(own).shape == (96, 112, 3)
    assert read_config(tmp_path / "shown")["data"]["reading"] == {"range": [0, 2550], "page": 2}


def test_the_exemplar_of_stacks_may_be_a_single_picture(assert_refused, run_verb, stacks, write_pairs):
    exemplar = write_pairs("others", fluorescence=0, stained=1) / "images/field-0.png"
    images = stacks / "images/0.tif"
    result = run_verb("translate", images, "--out", "shown", "--page", 2, "--range", "0,2550", "--exemplar", exemplar)
    assert result.exit_code == 0, result.output
    assert_refused(
        run_verb("translate", images, "--out", "other", "--page", 2, "--exemplar", exemplar, "--max-pixels", 10_000),
        "field-0.png",
        "at most 10,000",
    )


def test_a_segmenter_remembers_how_its_images_were_read(run_verb, stacks, tmp_path):
    result = run_verb("train-segmenter", stacks, "--out", "run", "--set", "steps=1", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert read_config(tmp_path / "run")["data"]["reading"] == TABLE
    assert load_weights(tmp_path / "run/weights.safetensors", kind="segmenter").metadata["reading"] == TABLE
    verb = ("predict", stacks / "images/0.tif", "--weights", "run", "--tta", "none", "--page", 2)
    told = "the segmenter was trained with --range 0,2550; give it here as well"
    for number, (options, is_told) in enumerate(
        [((), True), (("--range", "0,100"), True), (("--range", "0,2550"), False)]
    ):
        result = run_verb(*verb, "--out", f"predicted-{number}", *options)
        assert result.exit_code == 0, result.output
        assert (told in " ".join(result.output.split())) == is_told
