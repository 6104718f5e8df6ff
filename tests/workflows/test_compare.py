"""`compare`: cells that are trained once and alike, a summary by contract, and what is refused."""

import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from nucstyle.augment.colour import ColourJitter
from nucstyle.augment.gate import REASONS, Gate
from nucstyle.cli import app
from nucstyle.core.errors import RunFolderError, TrainingError
from nucstyle.core.protocols import SILENT
from nucstyle.data.dataset import open_dataset
from nucstyle.data.manifest import Record, read_manifest
from nucstyle.data.run_folder import read_config
from nucstyle.data.splits import dsb2018_fields, dsb2018_split
from nucstyle.data.weights import load_weights, save_weights
from nucstyle.training.distributed import SINGLE
from nucstyle.workflows import cells, comparison, comparison_pictures, provenance
from nucstyle.workflows.arms import Arm
from nucstyle.workflows.cells import Scoring
from nucstyle.workflows.compare import compare
from nucstyle.workflows.comparison import best_to_show, best_without_gan, describe_images, groups_of, standings_of
from nucstyle.workflows.comparison_pictures import _window, draw_failures, draw_gallery
from nucstyle.workflows.load import find_weights, load_style
from nucstyle.workflows.recipes import segmenter_recipe
from nucstyle.workflows.train_segmenter import SegmenterRun, make_segmenter, make_trainer

SETTINGS = (
    *("steps=2", "checkpoint_every=1", "size_px=64", "batch_size=1", "pyramid_channels=16", "box_head_size=32"),
    *("mask_layers=1", "measure_every=0", "max_nuclei=20", "inference.score=0.0"),
)
TINY = (*(word for one in SETTINGS for word in ("--set", one)), "--tta", "none")
COLOURS = ("--arms", "none,colour", "--seeds", "2", *TINY)
STYLED = ("--arms", "none,style", "--style", "dsb2018", "--seeds", "1", *TINY)


def write_data(folder, draw_field):
    """Two modalities; of each three images of train, one of validation and one of test; fluorescence is the larger."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "labels", "modality", "split", "field_of_view"])
        for number, split in enumerate([*["train"] * 4, "validation", "test", *["train"] * 3, "validation", "test"]):
            image, labels = draw_field(number, stained=number > 5, size=(64, 64), nuclei=3)
            name = f"f{number}"
            Image.fromarray(image).save(folder / "images" / f"{name}.png")
            Image.fromarray(labels.astype("uint8")).save(folder / "labels" / f"{name}.png")
            modality = "he" if number > 5 else "dapi"
            writer.writerow([name, f"images/{name}.png", f"labels/{name}.png", modality, split, ""])
    return folder / "manifest.csv"


@pytest.fixture
def manifest(tmp_path, field):
    return write_data(tmp_path / "data", field)


@pytest.fixture(scope="module")
def made(tmp_path_factory, field):
    """A comparison of two arms and two seeds, and the data it was made of."""
    folder = tmp_path_factory.mktemp("made")
    write_data(folder / "data", field)
    result = CliRunner().invoke(
        app, ["compare", str(folder / "data" / "manifest.csv"), "--out", str(folder / "run"), *COLOURS]
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """A copy of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def read(path):
    return json.loads(path.read_text())


class Told(type(SILENT)):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def edit(cell, old, new):
    """Change what the config of a cell says."""
    path = cell / "config.toml"
    assert path.read_text().count(old) >= 1
    path.write_text(path.read_text().replace(old, new))


def test_every_cell_is_a_run_folder_that_keeps_weights_and_label_files_alone(made):
    for arm in ("none", "colour"):
        for seed in (0, 1):
            cell = made / "run" / "full" / arm / f"seed-{seed}"
            names = {path.name for path in cell.iterdir()} - {".lock"}
            expected = {
                "config.toml",
                "environment.json",
                "log.jsonl",
                "result.json",
                "weights.safetensors",
                "validation",
            }
            assert names == expected
            assert sorted(path.name for path in (cell / "validation" / "tta-none" / "predictions").iterdir()) == [
                "f4_labels.tif",
                "f9_labels.tif",
            ]
            assert read(cell / "result.json")["arm"] == arm


def test_the_result_has_the_fields_of_the_contract(made):
    result = read(made / "run" / "full" / "result.json")
    assert {"format", "verb", "seed", "recipe", "protocol", "arms", "split", "differences"} <= result.keys()
    assert (result["verb"], result["protocol"], result["recipe"], result["on"]) == (
        "compare",
        "full",
        "lite",
        "validation",
    )
    assert result["split"] == {"train": 7, "validation": 2}
    assert list(result["arms"]) == ["colour", "none"]
    scores = result["arms"]["colour"]["seeds"]["1"]["none"]
    assert scores == read(made / "run" / "full" / "colour" / "seed-1" / "result.json")["scores"]["validation"]["none"]
    assert scores["images"].keys() == {"f4", "f9"}
    assert (scores["n_images"], scores["minority"]["n_images"]) == (2, 1)
    groups = result["differences"]["colour"]["none"]["none"]
    assert {"all", "minority", "dapi", "he"} <= groups.keys()
    for group in groups.values():
        assert {"mean", "low", "high", "fields", "better", "worse"} <= group.keys()
    assert (groups["all"]["low"], groups["all"]["high"], groups["all"]["fields"]) == (None, None, 2)
    gains = [
        sum(
            result["arms"]["colour"]["seeds"][seed]["none"]["images"][name]
            - result["arms"]["none"]["seeds"][seed]["none"]["images"][name]
            for seed in "01"
        )
        / 2
        for name in ("f4", "f9")
    ]
    assert groups["all"]["mean"] == pytest.approx(sum(gains) / 2)
    assert list(groups["all"]["images"].values()) == pytest.approx(gains)
    assert "none" not in result["differences"]
    assert read(made / "run" / "full" / "gallery.json")["arm"] == "colour"
    text = (made / "run" / "full" / "result.json").read_text()
    assert str(made) not in text
    assert "/" not in text


@pytest.mark.parametrize("recipe", ["lite", "mirzaev"])
def test_arms_of_one_seed_start_alike_and_see_the_same_crops(made, recipe):
    train = open_dataset(made / "data" / "manifest.csv").training_part()
    sizes = () if recipe == "lite" else ("network=lite", "steps=6")
    tiny = SETTINGS if recipe == "lite" else ("pyramid_channels=16", "box_head_size=32", "mask_layers=1")
    settled = segmenter_recipe(recipe, [*sizes, *tiny])
    arms = [Arm(), Arm(name="colour", augmentations=(ColourJitter(p=1.0),))]
    runs = [SegmenterRun(train, arm, settled, 3, "cpu") for arm in arms]
    first, second = (make_segmenter(run).network.state_dict() for run in runs)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    trainers = [make_trainer(run, SINGLE) for run in runs]
    for step in range(1, 6):
        (plain, targets), (coloured, others) = (one._batches.draw(step) for one in trainers)
        assert torch.equal(targets[0]["boxes"], others[0]["boxes"])
        assert plain[0].shape == coloured[0].shape
        assert not torch.equal(plain[0], coloured[0])


def test_finished_cells_are_not_trained_again_even_without_weights(assert_refused, copied, run_verb, monkeypatch):
    run = copied / "run" / "full"
    before = (run / "result.json").read_bytes()
    for path in run.glob("*/*/weights.safetensors"):
        path.unlink()
    monkeypatch.setattr(cells, "fit_segmenter", None)
    result = run_verb("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    assert result.exit_code == 0, result.output
    assert (run / "result.json").read_bytes() == before
    again = run_verb("compare", "data/manifest.csv", "--out", "run", *COLOURS)
    assert_refused(again, "--resume")


def test_an_interrupted_cell_goes_on_to_the_same_bytes(copied, run_verb):
    cell = copied / "run" / "full" / "colour" / "seed-1"
    whole = {name: (cell / name).read_bytes() for name in ("result.json", "weights.safetensors")}
    total = (copied / "run" / "full" / "result.json").read_bytes()
    shutil.rmtree(cell)
    fit, calls = cells.fit_segmenter, []

    def killed(run, segmenter_run, **options):
        calls.append(fit(run, segmenter_run, **options))
        for name in ("weights.safetensors", "checkpoints/step-000002"):
            path = run.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "fit_segmenter", killed)
        assert run_verb("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS).exit_code == 130
    assert (cell / "checkpoints" / "step-000001").is_dir()
    result = run_verb("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    assert result.exit_code == 0, result.output
    assert {name: (cell / name).read_bytes() for name in whole} == whole
    assert (copied / "run" / "full" / "result.json").read_bytes() == total


def test_a_cell_from_before_a_setting_is_scored_as_it_was(assert_refused, copied, run_verb, monkeypatch):
    run = copied / "run"
    for path in (run / "full" / "config.toml", *run.glob("full/*/*/config.toml")):
        assert path.read_text().count("mask_offset_px = 0.5") == 1
        path.write_text(path.read_text().replace("mask_offset_px = 0.5\n", ""))
    verb = ("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS, "--on", "test")
    assert_refused(
        run_verb(*verb), "inference.mask_offset_px was 0.0 and is now 0.5", "--set inference.mask_offset_px=0.0 goes on"
    )
    predict, offsets = cells.predict_into, []

    def noted(folder, dataset, segmenter, *arguments, **options):
        offsets.append(segmenter.inference.mask_offset_px)
        return predict(folder, dataset, segmenter, *arguments, **options)

    monkeypatch.setattr(cells, "predict_into", noted)
    result = run_verb(*verb, "--set", "inference.mask_offset_px=0")
    assert result.exit_code == 0, result.output
    assert offsets == [0.0] * 4


def test_cells_can_be_made_apart_and_are_summed_up_together(assert_refused, copied, run_verb):
    whole = (copied / "run" / "full" / "result.json").read_bytes()
    verb = ("compare", "data/manifest.csv", *COLOURS)
    result = run_verb(*verb, "--out", "apart", "--cells", "colour:1,none:1")
    assert result.exit_code == 0, result.output
    part = read(copied / "apart" / "full" / "result.json")
    assert {arm: list(one["seeds"]) for arm, one in part["arms"].items()} == {"none": ["1"], "colour": ["1"]}
    assert part["differences"]["colour"]["none"]["none"]["all"]["seeds"] == 1
    for arm in ("none", "colour"):  # from the other machine
        shutil.copytree(copied / "run" / "full" / arm / "seed-0", copied / "apart" / "full" / arm / "seed-0")
    assert run_verb(*verb, "--out", "apart", "--resume", "--cells", "none:0").exit_code == 0
    assert (copied / "apart" / "full" / "result.json").read_bytes() == whole
    assert_refused(run_verb(*verb, "--out", "apart", "--resume", "--cells", "style:0"), "--cells style:0", "none:0")


def test_a_finished_cell_of_other_settings_is_not_compared(assert_refused, copied, run_verb):
    verb = ("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS, "--set", "steps=3")
    assert_refused(run_verb(*verb), "recipe.training.steps was 2 and is now 3")


def test_a_finished_cell_without_style_is_compared_with_whatever_is_restyled(assert_refused, copied, run_verb):
    other, once = copied / "other" / "full", copied / "run" / "full" / "none" / "seed-0"
    verb = ("compare", "data/manifest.csv", "--out", "other", "--cells", "none:0", "--resume", *STYLED, "--no-gate")
    assert run_verb(*verb, "--set", "style.p=0.75").exit_code == 0
    shutil.rmtree(other / "none" / "seed-0")
    shutil.copytree(once, other / "none" / "seed-0")
    assert read_config(once)["recipe"]["style"]["p"] == 0.5
    assert run_verb(*verb, "--set", "style.p=0.75").exit_code == 0
    assert (
        read(other / "result.json")["arms"]["none"]["seeds"]["0"] == read(once / "result.json")["scores"]["validation"]
    )
    shutil.copytree(once, other / "style" / "seed-0")
    assert_refused(run_verb(*verb, "--set", "style.p=0.75"), "style/seed-0", "was trained as none, seed 0", "rename it")
    edit(other / "style" / "seed-0", 'augment = "none"', 'augment = "style"')
    assert_refused(run_verb(*verb, "--set", "style.p=0.75"), "style/seed-0", "recipe.style.p was 0.5 and is now 0.75")


@pytest.mark.parametrize("copy", ["none/seed-1", "histogram/seed-0"])
def test_a_cell_is_what_its_folder_is_named(assert_refused, copied, run_verb, copy):
    run = copied / "run" / "full"
    shutil.rmtree(run / copy, ignore_errors=True)
    shutil.copytree(run / "none" / "seed-0", run / copy)
    before = (run / "result.json").read_bytes()
    result = run_verb("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    assert_refused(result, copy, "was trained as none, seed 0", "rename it, or remove it")
    assert (run / "result.json").read_bytes() == before


def test_a_cell_that_took_other_images_for_its_example_is_not_compared(assert_refused, run_verb, manifest, tmp_path):
    verb = (
        "compare",
        manifest,
        "--out",
        "run",
        "--protocol",
        "transfer",
        "--arms",
        "none,recolour",
        "--seeds",
        "1",
        *TINY,
    )
    assert run_verb(*verb, "--cells", "recolour:0").exit_code == 0
    cell = tmp_path / "run" / "transfer" / "recolour" / "seed-0"
    assert read_config(cell)["data"]["images"] == 4
    edit(cell, "images = 7", "images = 5")
    assert_refused(run_verb(*verb, "--resume"), "recolour/seed-0", "data.examples.images was 5 and is now 7")


def test_cells_with_style_agree_with_each_other_where_no_style_is_asked_for(
    assert_refused, run_verb, manifest, tmp_path
):
    verb = ("compare", manifest, "--out", "run", "--resume")
    assert run_verb(*verb, "--cells", "style:0", *STYLED, "--no-gate", "--set", "style.p=0.25").exit_code == 0
    plain = (*verb, "--cells", "none:0", "--arms", "none,colour", "--seeds", "1", *TINY)
    result = run_verb(*plain)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run" / "full"
    assert list(read(run / "result.json")["arms"]) == ["none", "style"]
    shutil.copytree(run / "style" / "seed-0", run / "style" / "seed-1")
    edit(run / "style" / "seed-1", "seed = 0", "seed = 1")
    assert run_verb(*plain).exit_code == 0
    edit(run / "style" / "seed-1", "p = 0.25", "p = 0.5")
    assert_refused(
        run_verb(*plain), "style/seed-1", "recipe.style.p was 0.5 and is now 0.25", "do not agree with each other"
    )


def test_cells_that_another_process_trains_otherwise_meanwhile_are_not_summed_up(manifest, tmp_path, monkeypatch):
    fit, begun = cells.fit_segmenter, []

    def work(cell, p):
        options = {"arms": ("none", "style"), "style": "dsb2018", "gate": False, "tta": ("none",), "resume": True}
        settings = [*SETTINGS, f"style.p={p}"]
        return compare(manifest, tmp_path / "run", cells=[cell], seeds=2, overrides=settings, **options)

    def meanwhile(run, segmenter_run, **options):
        if not begun:
            begun.append(work("style:1", 0.75))
        return fit(run, segmenter_run, **options)

    monkeypatch.setattr(cells, "fit_segmenter", meanwhile)
    with pytest.raises(RunFolderError, match=r"style/seed-1: .* recipe.style.p was 0.75 and is now 0.25"):
        work("style:0", 0.25)
    assert (tmp_path / "run/full/style/seed-0/result.json").is_file()  # nothing is lost
    assert list(read(tmp_path / "run/full/result.json")["arms"]["style"]["seeds"]) == ["1"]


def test_a_cell_that_was_begun_otherwise_is_refused_before_any_training(
    assert_refused, run_verb, manifest, tmp_path, monkeypatch
):
    verb = ("compare", manifest, "--out", "run", "--resume", *STYLED, "--no-gate", "--set")
    assert run_verb(*verb, "style.p=0.25", "--cells", "style:0").exit_code == 0
    (tmp_path / "run/full/style/seed-0/result.json").unlink()
    monkeypatch.setattr(cells, "fit_segmenter", None)
    assert_refused(run_verb(*verb, "style.p=0.75"), "style/seed-0", "recipe.style.p was 0.25 and is now 0.75")


def test_a_cell_that_cannot_go_on_here_is_passed_over_and_named_at_the_end(copied, run_verb):
    begun, other = (copied / "run" / "full" / arm / "seed-0" for arm in ("none", "colour"))
    for cell in (begun, other):
        (cell / "result.json").unlink()
    here = read_config(begun)["precision"]
    there = {"fp32": "bf16", "bf16": "fp32"}[here]
    edit(begun, f'precision = "{here}"', f'precision = "{there}"')  # by a machine with other instructions
    result = run_verb("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    assert result.exit_code == 2
    assert "1 of 2 cells were passed over" in result.stderr
    assert f"precision was '{there}' and is now '{here}'" in result.stderr
    assert (other / "result.json").is_file()
    arms = read(copied / "run" / "full" / "result.json")["arms"]
    assert {arm: list(one["seeds"]) for arm, one in arms.items()} == {"none": ["1"], "colour": ["0", "1"]}


def test_a_cell_that_does_not_say_how_it_was_trained_is_refused(assert_refused, copied, run_verb):
    (copied / "run" / "full" / "none" / "seed-1" / "config.toml").unlink()
    verb = ("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    assert_refused(run_verb(*verb), "none/seed-1: has a result.json, but no config.toml", "remove the cell")
    assert "finished cells: full 3" in run_verb("info", "run").output


def test_a_disk_that_is_full_ends_a_comparison_at_once(assert_refused, run_verb, manifest, monkeypatch):
    begun = []

    def full(run, *_, **__):
        begun.append(run.path)
        msg = f"{run.path}: no space left; make room, then go on with --resume"
        raise RunFolderError(msg)

    monkeypatch.setattr(cells, "fit_segmenter", full)
    assert_refused(run_verb("compare", manifest, "--out", "run", *COLOURS), "none/seed-0: no space left")
    assert len(begun) == 1


def test_without_a_name_the_shipped_style_model_restyles_in_the_protocol_full(run_verb, manifest, tmp_path):
    verb = ("compare", manifest, "--out", "run", "--arms", "style", "--seeds", "1", *TINY, "--no-gate")
    result = run_verb(*verb)
    assert result.exit_code == 0, result.output
    assert "style model: dsb2018, which comes with nucstyle" in result.stderr
    shipped = load_weights(find_weights("dsb2018", "style"), kind="style").sha256
    assert read_config(tmp_path / "run/full/style/seed-0")["style_sha256"] == shipped


def test_cells_that_another_process_works_at_are_passed_over(manifest, tmp_path, monkeypatch):
    fit, trained, told = cells.fit_segmenter, [], Told()

    def work(**options):
        arms = {"arms": ("none", "colour"), "seeds": 1, "tta": ("none",), "overrides": SETTINGS, "resume": True}
        return compare(manifest, tmp_path / "run", **arms, **options)

    def meanwhile(run, segmenter_run, **options):
        trained.append(segmenter_run.arm.name)
        if len(trained) == 1:
            assert list(work(progress=told)["arms"]) == ["colour"]
        return fit(run, segmenter_run, **options)

    monkeypatch.setattr(cells, "fit_segmenter", meanwhile)
    assert list(work()["arms"]) == ["none", "colour"]
    assert trained == ["none", "colour"]  # the second process did what the first did not
    assert "another process works at this cell, so it is passed over" in told.lines
    assert any(
        one.startswith("other processes worked at none:0; what is summed up here is without") for one in told.lines
    )


def test_masks_that_were_changed_since_cells_were_scored_on_them_are_noticed(assert_refused, copied, run_verb):
    """Also where the file has as many bytes as before."""
    label, verb = copied / "data" / "labels" / "f4.png", ("compare", "data/manifest.csv", "--out", "run", "--resume")
    before, corrected = label.read_bytes(), Image.fromarray(np.pad(np.ones((2, 2), "uint8"), 31))
    for filling in (0, None):
        note = PngInfo()
        note.add_text("note", "x" * (len(before) - label.stat().st_size if filling is None else filling))
        corrected.save(label, pnginfo=note)
    assert label.stat().st_size == len(before)
    assert_refused(run_verb(*verb, *COLOURS), "scored on validation images", "give the old files")
    for cell in (copied / "run" / "full").glob("*/seed-*"):
        result = read(cell / "result.json")
        assert result.pop("contents").keys() == {"validation"}
        (cell / "result.json").write_text(json.dumps(result))
    assert run_verb(*verb, *COLOURS).exit_code == 0  # cells from before files were looked at
    label.write_bytes(before)
    assert run_verb(*verb, *COLOURS).exit_code == 0


def test_the_test_part_is_scored_later_by_the_kept_weights_and_the_choice_stays_on_validation(
    assert_refused, copied, run_verb
):
    verb = ("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    before = (copied / "run" / "full" / "result.json").read_bytes()
    result = run_verb(*verb, "--on", "test")
    assert result.exit_code == 0, result.output
    summary = read(copied / "run" / "full" / "result.json")
    assert (summary["on"], summary["split"]) == ("test", {"train": 7, "validation": 2, "test": 2})
    assert run_verb(*verb).exit_code == 0
    assert (copied / "run" / "full" / "result.json").read_bytes() == before  # whatever else was scored there
    assert summary["arms"]["none"]["seeds"]["0"]["none"]["images"].keys() == {"f5", "f10"}
    cell = read(copied / "run" / "full" / "none" / "seed-0" / "result.json")["scores"]
    assert cell["validation"]["none"]["images"].keys() == {"f4", "f9"}
    (copied / "run" / "full" / "none" / "seed-1" / "weights.safetensors").unlink()
    assert run_verb(*verb, "--on", "test").exit_code == 0  # all is there
    assert_refused(run_verb(*verb[:-2], "--tta", "none,fast"), "seed-1", "tta fast", "is gone")


def test_other_data_is_scored_beside_and_must_not_be_what_was_trained_on(assert_refused, copied, run_verb, field):
    other = copied / "other"
    write_data(other, field)
    lines = (other / "manifest.csv").read_text().splitlines()
    bare = lines[2].replace("labels/f1.png", "").replace("f1,", "g1,", 1)
    (other / "manifest.csv").write_text("\n".join([lines[0], lines[1].replace("f0,", "g0,", 1), bare]) + "\n")
    verb = ("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    result = run_verb(*verb, "--test", "other/manifest.csv")
    assert result.exit_code == 0, result.output
    summary = read(copied / "run" / "full" / "other" / "result.json")
    assert summary["on"] == "other"
    assert summary["arms"]["colour"]["seeds"]["0"]["none"]["images"].keys() == {"g0"}  # not annotated = ignored
    assert read(copied / "run" / "full" / "result.json")["on"] == "validation"
    assert result.output.index("validation (in brackets") < result.output.index("other (in brackets")
    assert result.output.count("\nnone, TTA none") == 2
    predicted = copied / "run" / "full" / "colour" / "seed-0" / "other" / "tta-none"
    assert "do not name" not in result.output  # dapi is a modality of the training data
    assert {line.split(",")[0] for line in (predicted / "submission.csv").read_text().splitlines()[1:]} == {"g0"}
    assert_refused(run_verb(*verb, "--test", "data/manifest.csv"), "trained on", "f0")


def test_other_data_that_is_not_what_it_was_is_scored_anew(copied, run_verb, field):
    other = copied / "other"
    write_data(other, field)
    lines = (other / "manifest.csv").read_text().splitlines()

    def give(*rows):
        (other / "manifest.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        result = run_verb(*verb)
        assert result.exit_code == 0, result.output
        return result, read(copied / "run" / "full" / "other" / "result.json")["arms"]["none"]["seeds"]["0"]["none"]

    verb = ("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS, "--cells", "none:0")
    verb += ("--test", "other/manifest.csv")
    first, second = lines[1].replace("f0,", "g0,", 1), lines[2].replace("f1,", "g1,", 1).replace(",dapi,", ",neon,")
    second = second.replace("labels/f1.png", "labels/f1.tif")
    tifffile.imwrite(other / "labels" / "f1.tif", np.asarray(Image.open(other / "labels" / "f1.png")))
    _, scores = give(first)
    cell = copied / "run" / "full" / "none" / "seed-0"
    own = read(cell / "result.json")["scores"]["validation"]
    kept = (cell / "result.json").stat().st_mtime_ns
    assert give(first)[1] == scores
    assert (cell / "result.json").stat().st_mtime_ns == kept  # nothing was predicted again
    result, scores = give(first, second)
    assert scores["images"].keys() == {"g0", "g1"}
    assert "neon (1)" in result.output
    assert "dapi, he" in result.output
    corrected = np.zeros((64, 64), "uint8")
    corrected[2:4, 2:4] = 1
    size = (other / "labels" / "f1.tif").stat().st_size
    tifffile.imwrite(other / "labels" / "f1.tif", corrected)
    assert (other / "labels" / "f1.tif").stat().st_size == size
    _, after = give(first, second)
    assert (after["n_images"], after["images"]["g0"]) == (2, scores["images"]["g0"])
    assert read(copied / "run" / "full" / "images.json")["parts"]["other"]["g1"]["nucleus_px"] == 4
    assert read(cell / "result.json")["scores"]["validation"] == own
    (cell / "weights.safetensors").unlink()
    (other / "manifest.csv").write_text("\n".join([lines[0], first]) + "\n")
    result = run_verb(*verb)
    assert result.exit_code == 2
    assert "has no score of these other images" in result.stderr


def test_the_contents_of_a_file_that_many_images_share_are_read_once(tmp_path, monkeypatch):
    outlines = tmp_path / "outlines.json"
    outlines.write_text("[1]")
    records = [Record(id=name, image=tmp_path / f"{name}.png", labels=outlines) for name in "abc"]
    dataset = SimpleNamespace(records=records, files=[file for one in records for file in (one.image, one.labels)])
    monkeypatch.setattr(provenance, "data_fingerprint", lambda _: {})
    opened, contents = [], provenance._contents
    monkeypatch.setattr(provenance, "_contents", lambda path: opened.append(path) or contents(path))
    first = provenance.contents_fingerprint(dataset)
    assert opened.count(outlines) == 1
    outlines.write_text("[2]")
    assert provenance.contents_fingerprint(dataset) != first
    monkeypatch.setattr(type(outlines), "open", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
    assert provenance.contents_fingerprint(dataset).keys() == {"contents_sha256"}  # refused when it is read


def test_a_folder_that_was_put_aside_is_no_arm_and_a_damaged_cell_is_named_with_its_remedy(
    assert_refused, copied, run_verb
):
    run, verb = copied / "run" / "full", ("compare", "data/manifest.csv", "--out", "run", "--resume", *COLOURS)
    before = (run / "result.json").read_bytes()
    shutil.copytree(run / "colour", run / "colour-old")
    (run / "none" / "seed-0" / "checkpoints").mkdir()  # left by a process that was killed after its cell was finished
    result = run_verb(*verb)
    assert result.exit_code == 0, result.output
    assert (run / "result.json").read_bytes() == before
    assert not (run / "none" / "seed-0" / "checkpoints").exists()
    assert run_verb(*verb, "--cells", "none:0", "--drop-weights").exit_code == 0
    assert [(run / "none" / f"seed-{seed}" / "weights.safetensors").exists() for seed in (0, 1)] == [False, True]
    (run / "none" / "seed-1" / "result.json").write_text("{")
    assert_refused(run_verb(*verb), "none/seed-1/result.json", "remove", "seed-1, and the cell is made anew")


def test_pictures_of_restyling_are_drawn_anew_for_another_model_or_gate_alone(tmp_path, monkeypatch, field):
    write_data(tmp_path / "data", field)
    dataset = open_dataset(tmp_path / "data" / "manifest.csv")
    drawn = []
    monkeypatch.setattr(comparison_pictures, "draw_failures", lambda *_: drawn.append("failures") or [])
    monkeypatch.setattr(
        comparison_pictures, "draw_style_grid", lambda path, *_: path.write_bytes(b"grid") and drawn.append("styles")
    )

    def draw(origin, *modalities):
        model = SimpleNamespace(modalities=modalities)
        comparison_pictures.draw_restyled_images(tmp_path, model, None, train=dataset, annotated=dataset, origin=origin)

    grid = tmp_path / "samples" / "style-grid.png"
    grid.parent.mkdir()
    (tmp_path / "failures.json").write_text('{"format": 1, "pictures": []}')  # from before it said of what
    for origin in [{"gate": {"near": (1, 2)}}] * 2 + [{"gate": {}}]:
        draw(origin, "dapi", "he")
        assert grid.read_bytes() == b"grid"
    assert drawn == ["styles", "failures"] * 2
    draw({"style_sha256": "b"}, "dapi", "neon")
    assert not grid.exists()  # that of the model before
    assert drawn == [*["styles", "failures"] * 2, "failures"]


def test_a_process_without_other_data_leaves_what_another_knows_of_it(tmp_path, field):
    write_data(tmp_path / "data", field)
    images = open_dataset(tmp_path / "data" / "manifest.csv")
    own, test = {"validation": images.part("validation")}, {"other": images.part("test")}

    def describe(parts, **fingerprints):
        scoring = Scoring(parts, ("none",), "dapi", fingerprints=fingerprints)
        describe_images(tmp_path, images, images.part("train"), scoring, SILENT, every=images)
        return read(tmp_path / "images.json")

    whole = describe(own | test, other={"images": 2})
    assert whole["parts"].keys() == {"validation", "other"}
    assert describe(own) == whole
    whole["parts"]["other"]["f5"]["nucleus_px"] = -1
    (tmp_path / "images.json").write_text(json.dumps(whole))
    assert describe(own | test, other={"images": 2}) == whole
    assert describe(own | test, other={"images": 3})["parts"]["other"]["f5"]["nucleus_px"] > 0


def test_nuclei_are_measured_of_each_part_and_the_usual_nucleus_is_one_of_training_images(tmp_path, field):
    write_data(tmp_path / "data", field)
    images = open_dataset(tmp_path / "data" / "manifest.csv")
    train, labels = images.part("train"), tmp_path / "data" / "labels"

    def usual(name):
        return float(np.median(np.bincount(np.asarray(Image.open(labels / f"{name}.png")).ravel())[1:]))

    def describe(other, contents="a"):
        parts = {"validation": images.part("validation"), "other": other}
        scoring = Scoring(parts, ("none",), "dapi", contents={"validation": contents})
        describe_images(tmp_path, images, train, scoring, SILENT, every=images)
        return read(tmp_path / "images.json")

    assert len({usual(name) for name in ("f0", "f1", "f2", "f3", "f4")}) > 2
    corrected = np.zeros((64, 64), "uint8")
    corrected[2:4, 2:4] = 1
    Image.fromarray(corrected).save(tmp_path / "corrected.png")
    records = [replace(record, labels=tmp_path / "corrected.png") for record in images.part("validation").records]
    described = describe(images.part("validation").with_records(records))
    assert described["median_nucleus_px"] == np.median([usual(name) for name in ("f0", "f1", "f2", "f3")])
    assert described["parts"]["validation"]["f4"]["nucleus_px"] == usual("f4")
    assert described["parts"]["other"]["f4"]["nucleus_px"] == 4  # the same name, other masks
    usual_before = usual("f4")
    Image.fromarray(corrected).save(labels / "f4.png")
    again = [describe(images.part("validation"), contents)["parts"]["validation"] for contents in ("a", "b")]
    assert [one["f4"]["nucleus_px"] for one in again] == [usual_before, 4]  # measured anew where files have changed


def test_the_gallery_has_the_ten_that_gained_and_lost_most_with_the_first_seed_that_is_there(
    tmp_path, field, monkeypatch
):
    write_data(tmp_path / "data", field)
    one = open_dataset(tmp_path / "data" / "manifest.csv")
    names = [f"i{number:02d}" for number in range(25)]
    dataset = one.with_records([replace(one.records[0], id=name) for name in names])
    gains = {name: (number - 12) / 100 for number, name in enumerate(names)}
    plain = dict.fromkeys(names, 0.5)
    seeds = {
        seed: {"fast": {"images": {name: plain[name] + gains[name] * weight for name in names}}}
        for seed, weight in (("0", 1.5), ("1", 0.5))
    }
    arms = {"none": {"seeds": {seed: {"fast": {"images": plain}} for seed in "01"}}, "style": {"seeds": seeds}}
    for arm in arms:
        for seed in (0, 1):
            folder = tmp_path / arm / f"seed-{seed}" / "validation" / "tta-fast" / "predictions"
            folder.mkdir(parents=True)
            for name in names:
                if (arm, seed, name) != ("style", 0, "i24") and name != "i23":
                    tifffile.imwrite(folder / f"{name}_labels.tif", np.full((64, 64), seed, "int32"))
    monkeypatch.setattr(comparison_pictures, "draw_change", lambda *_: torch.zeros(3, 4, 4))
    draw_gallery(tmp_path, dataset, {"on": "validation", "shown": "style", "arms": arms})
    told = read(tmp_path / "gallery.json")
    assert (told["arm"], told["tta"]) == ("style", "fast")
    shown = [(picture["kind"], picture["id"], picture["seed"]) for picture in told["pictures"]]
    gained = [("gain", "i24", 1), *(("gain", f"i{number:02d}", 0) for number in range(22, 14, -1))]  # i23 has no file
    assert shown == [*gained, *(("loss", f"i{number:02d}", 0) for number in range(10))]
    assert all(picture["difference"] == pytest.approx(gains[picture["id"]]) for picture in told["pictures"])
    assert all((tmp_path / "samples" / picture["file"]).is_file() for picture in told["pictures"])


def test_scored_tiles_that_continue_each_other_are_of_one_field(tmp_path, field, monkeypatch):
    """Also where the tile between two is not scored, or cannot be read."""
    rows = ["id,image,labels,modality,split,field_of_view"]
    for number in range(8):
        image, labels = field(number, size=(96, 336 if number < 2 else 112), nuclei=60)
        for place in range(image.shape[1] // 112):
            name, part = f"{number}-{place}", (slice(None), slice(112 * place, 112 * (place + 1)))
            Image.fromarray(image[part]).save(tmp_path / f"{name}.png")
            Image.fromarray(labels[part].astype("uint8")).save(tmp_path / f"{name}_labels.png")
            split, view = "test" if name == "1-1" else "validation", {"0-1": "slide", "2-0": "slide", "3-0": "mine"}
            rows.append(f"{name},{name}.png,{name}_labels.png,dapi,{split},{view.get(name, '')}")
    (tmp_path / "lost.png").write_bytes(b"no picture")
    (tmp_path / "manifest.csv").write_text("\n".join([*rows, "lost,lost.png,,dapi,test,slide"]))
    images = open_dataset(tmp_path / "manifest.csv")
    scoring = Scoring({"validation": images.part("validation")}, ("none",), "dapi")

    told = Told()

    def named():
        describe_images(tmp_path, images, images.part("train"), scoring, told, every=images)
        described = read(tmp_path / "images.json")["parts"]["validation"]
        assert len(described) == 11
        return {name: one["field_of_view"] for name, one in described.items() if one["field_of_view"] is not None}

    slide = dict.fromkeys(("0-0", "0-1", "0-2", "2-0"), "slide")
    assert named() == {**slide, "1-0": "1-0", "1-2": "1-0", "3-0": "mine"}
    assert told.lines == [
        "warning: 2 fields of view have images in several parts, so scores may be too good; nucstyle check names them"
    ]  # the tile between two, and the one that cannot be read
    assert read(tmp_path / "images.json")["cut_fields"] == 2
    monkeypatch.setattr(comparison, "name_fields", lambda *_, **__: pytest.fail("fields are found once"))
    assert named() == {**slide, "1-0": "1-0", "1-2": "1-0", "3-0": "mine"}


def test_transfer_sees_the_masks_of_one_modality_and_is_scored_on_all(assert_refused, run_verb, manifest, tmp_path):
    (manifest.parent / "labels" / "f7.png").write_bytes(b"no picture")
    verb = ("compare", manifest, "--out", "run", "--protocol", "transfer", "--seeds", "1", *TINY)
    result = run_verb(*verb, "--arms", "recolour")
    assert result.exit_code == 0, result.output
    metadata = load_weights(tmp_path / "run/transfer/recolour/seed-0/weights.safetensors", kind="segmenter").metadata
    assert metadata["masks_seen"] == ["f0", "f1", "f2", "f3"]
    assert metadata["trained_on"] == ["f0", "f1", "f2", "f3", "f6", "f7", "f8"]
    summary = read(tmp_path / "run" / "transfer" / "result.json")
    assert summary["annotated"] == ["dapi"]
    assert summary["arms"]["recolour"]["seeds"]["0"]["none"]["images"].keys() == {"f4", "f9"}
    assert {"dapi-small-nuclei", "dapi-large-nuclei"} & summary["groups"].keys()
    assert_refused(run_verb(*verb, "--arms", "none", "--annotated", "neon", "--resume"), "neon", "dapi, he")


def test_hidden_masks_of_training_images_can_be_scored_by(assert_refused, run_verb, manifest, tmp_path):
    verb = ("compare", manifest, "--out", "run", "--arms", "none", "--seeds", "1", *TINY)
    result = run_verb(*verb, "--protocol", "transfer", "--on", "hidden")
    assert result.exit_code == 0, result.output
    scores = read(tmp_path / "run/transfer/none/seed-0/result.json")["scores"]
    assert {part: sorted(one["none"]["images"]) for part, one in scores.items()} == {
        "validation": ["f4", "f9"],
        "hidden": ["f6", "f7", "f8"],
    }
    summary = read(tmp_path / "run" / "transfer" / "result.json")
    assert (summary["on"], summary["groups"]["minority"]["images"], summary["split"]["hidden"]) == ("hidden", 3, 3)
    page = (tmp_path / "run" / "transfer" / "report.html").read_text()
    assert "Scored on the 3 training images whose masks were hidden, though not their colours." in page
    assert_refused(run_verb(*verb, "--on", "hidden", "--resume"), "--on hidden", "--protocol transfer")
    again = (*verb, "--protocol", "transfer", "--on", "hidden", "--resume")
    assert_refused(run_verb(*again, "--annotated", "dapi,he"), "part hidden", "use --on validation, or annotate fewer")


def give_style(tmp_path, **changes):
    """The shipped style model with another memory."""
    weights = load_weights(find_weights("dsb2018", "style"), kind="style")
    path = tmp_path / "style.safetensors"
    save_weights(path, weights.tensors, kind="style", metadata={**weights.metadata, **changes})
    return path


@pytest.mark.parametrize(("image", "part"), [("f5", "test"), ("f9", "validation")])
def test_a_style_model_that_has_seen_what_is_scored_is_refused(
    assert_refused, run_verb, manifest, tmp_path, image, part
):
    style = give_style(tmp_path, trained_on=["f0", image])
    result = run_verb("compare", manifest, "--out", "run", *STYLED, "--style", style)
    assert_refused(result, "--style", f"1 of the {part} images", image)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("image", "part"), [("f5", "test"), ("f9", "validation"), ("g0", "--test")])
@pytest.mark.parametrize("option", ["--style", "--judge"])
def test_a_model_that_has_seen_what_is_scored_of_the_data_or_of_others_is_refused(
    assert_refused, run_verb, manifest, tmp_path, option, image, part, field
):
    write_data(tmp_path / "other", field)
    lines = (tmp_path / "other" / "manifest.csv").read_text().splitlines()
    (tmp_path / "other" / "manifest.csv").write_text("\n".join([lines[0], lines[1].replace("f0,", "g0,", 1)]) + "\n")
    kind = option.removeprefix("--")
    weights = load_weights(find_weights("dsb2018", kind), kind=kind)
    seen = {**weights.metadata, "trained_on": ["f0", image], "masks_seen": []}
    save_weights(tmp_path / "seen.safetensors", weights.tensors, kind=kind, metadata=seen)
    verb = ("compare", manifest, "--out", "run", *STYLED, "--test", "other/manifest.csv", option, "seen.safetensors")
    remedy = "leave these images out of --test" if part == "--test" else "trained on the part train alone"
    assert_refused(run_verb(*verb), option, f"1 of the {part} images", image, remedy)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["sources", "targets"])
def test_a_modality_that_the_style_model_does_not_have_is_refused_before_any_training(
    assert_refused, run_verb, manifest, tmp_path, setting
):
    verb = ("compare", manifest, "--out", "run", *STYLED, "--set", f"style.{setting}=grey-on-blak")
    assert_refused(run_verb(*verb), f"--set style.{setting}", "'grey-on-blak'; did you mean 'grey-on-black'?")
    assert not (tmp_path / "run").exists()


def test_a_modality_that_is_named_as_a_group_of_images_is_refused(assert_refused, run_verb, manifest):
    manifest.write_text(manifest.read_text().replace(",he,", ",minority,"))
    assert_refused(
        run_verb("compare", manifest, "--out", "run", *COLOURS), "f9.png", "named minority", "in the manifest"
    )


def test_a_style_model_that_has_seen_hidden_masks_is_refused_in_transfer_alone(
    assert_refused, run_verb, manifest, tmp_path
):
    style = give_style(tmp_path, masks_seen=["f6"])
    verb = ("compare", manifest, "--out", "run", *STYLED, "--style", style, "--no-gate")
    assert_refused(run_verb(*verb, "--protocol", "transfer"), "--style", "--annotated dapi hides", "f6")
    result = run_verb(*verb, "--cells", "style:0")
    assert result.exit_code == 0, result.output
    assert "does not know some modalities of training images by name, dapi (4), he (3)" in result.output
    assert "gate" not in read_config(tmp_path / "run" / "full" / "style" / "seed-0")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (
            ("--arms", "none,style", "--protocol", "transfer"),
            "needs --style NAME|FILE|RUN, a model that has seen no mask",
        ),
        (("--arms", "none", "--style", "dsb2018"), "--style dsb2018: no arm of --arms none is with style"),
        (("--arms", "none,none"), "every arm once"),
        (("--arms", "none,neon"), "'neon' is unknown"),
        (("--arms", "none", "--protocol", "half"), "full, transfer"),
        (("--arms", "none", "--annotated", "dapi"), "--protocol transfer"),
        (("--arms", "none", "--on", "train"), "validation, test or hidden"),
        (("--arms", "none", "--tta", "slow"), "slow"),
        (("--arms", "none", "--cells", "none:3"), "none:0, none:1, none:2"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(assert_refused, run_verb, options, word):
    assert_refused(run_verb("compare", "nowhere", "--out", "run", *options), word)


def test_a_cell_that_fails_does_not_stop_the_others(run_verb, manifest, tmp_path, monkeypatch):
    fit = cells.fit_segmenter

    def failing(run, segmenter_run, **options):
        if segmenter_run.arm.name == "none":
            msg = "the loss is not finite"
            raise TrainingError(msg)
        return fit(run, segmenter_run, **options)

    monkeypatch.setattr(cells, "fit_segmenter", failing)
    result = run_verb("compare", manifest, "--out", "run", *COLOURS, "--seeds", "1")
    assert result.exit_code == 1
    assert "1 of 2 cells could not be trained: none, seed 0: the loss is not finite" in result.stderr
    assert list(read(tmp_path / "run" / "full" / "result.json")["arms"]) == ["colour"]


def test_a_data_set_without_validation_images_is_refused(assert_refused, run_verb, manifest):
    manifest.write_text(manifest.read_text().replace(",validation,", ",train,"))
    assert_refused(run_verb("compare", manifest, "--out", "run", *COLOURS), "validation", "column split")


def test_report_writes_the_page_of_a_protocol_and_of_the_whole(copied, run_verb):
    for folder in ("run", "run/full", "run/full/none/seed-0"):
        (copied / folder / "report.html").unlink(missing_ok=True)
        assert run_verb("report", folder).exit_code == 0
        assert (copied / folder / "report.html").is_file()
    assert "PROTOCOL/config.toml" in (copied / "run" / "report.html").read_text()
    assert "PROTOCOL/config.toml" not in (copied / "run" / "full" / "report.html").read_text()
    assert "finished cells: full 4" in run_verb("info", "run").output


def scored(arms):
    """Arm -> seed -> mode -> S, of scores of all images; those of the minority are 0.2 below."""
    return {
        arm: {
            seed: {tta: {"dsb_score": value, "minority": {"dsb_score": value - 0.2}} for tta, value in modes.items()}
            for seed, modes in seeds.items()
        }
        for arm, seeds in arms.items()
    }


def test_the_reference_is_the_best_augmentation_without_a_gan():
    def chosen(**quality):
        standings = standings_of(scored({arm: {0: {"none": value}} for arm, value in quality.items()}))
        return best_without_gan(standings), best_to_show(standings)

    assert chosen(none=0.4, recolour=0.5, colour=0.3, style=0.9, **{"style+colour": 0.8}) == ("recolour", "style")
    assert chosen(none=0.6, recolour=0.5, colour=0.3, style=0.4) == ("recolour", "style")  # not none, though it is best
    assert chosen(none=0.4, style=0.9) == ("none", "style")
    assert chosen(none=0.4, recolour=0.5) == ("recolour", "recolour")
    assert chosen(style=0.9) == (None, "style")
    assert chosen(none=0.4) == ("none", None)


def test_arms_are_chosen_by_the_seeds_and_views_that_they_have_in_common():
    three = {seed: {"none": 0.5, "fast": 0.6} for seed in range(3)}
    viewed = {seed: {**modes, "full": 0.9} for seed, modes in three.items()}
    arms = {
        "none": viewed,
        "recolour": three,
        "colour": {seed: {"none": 0.4, "fast": 0.5, "full": 0.9} for seed in range(3)},
        "histogram": {0: {"none": 0.7, "fast": 0.8}},
        "style": {**three, 3: {"none": 0.9, "fast": 0.9}},
    }
    standings = standings_of(scored(arms))
    assert {arm: one.seeds for arm, one in standings.items()} == {
        **dict.fromkeys(("none", "recolour", "colour", "style"), 3),
        "histogram": 1,
    }
    assert (
        standings["none"].quality == standings["recolour"].quality == standings["style"].quality == pytest.approx(0.45)
    )
    assert best_without_gan(standings) == "recolour"  # with more views colour is above it, with one seed histogram
    arms["colour"] = {seed: {"fast": 0.59} for seed in range(3)}
    standings = standings_of(scored(arms))
    assert (standings["colour"].quality, standings["recolour"].quality) == (pytest.approx(0.49), pytest.approx(0.5))
    assert standings_of({}) == {}


def test_an_image_set_without_minority_is_chosen_on_by_all_images():
    plain = {"dsb_score": 0.5, "minority": {"dsb_score": None}}
    assert standings_of({"none": {0: {"none": plain}}})["none"].quality == 0.5


def test_groups_are_named_by_the_contract_and_the_largest_modality_is_divided():
    def described(modality, px):
        return {"modality": modality, "field_of_view": None, "nucleus_px": px}

    part = {"a": described("dapi", 50), "b": described("dapi", 51), "c": described("he", 500), "d": described(None, 9)}
    part["e"] = described("dapi", None)
    images = {"largest": "dapi", "median_nucleus_px": 50, "parts": {"test": part}}
    assert groups_of(images, "test") == {
        "all": ["a", "b", "c", "d", "e"],
        "minority": ["c"],
        "dapi": ["a", "b", "e"],
        "he": ["c"],
        "dapi-small-nuclei": ["a"],
        "dapi-large-nuclei": ["b"],
    }


def test_images_of_dsb_2018_bring_their_field_of_view(tmp_path):
    fields, parts = dsb2018_fields(), dsb2018_split()
    assert len(set(fields.values())) < 664 == len(fields)
    assert len({(field, parts[name]) for name, field in fields.items()}) == len(set(fields.values()))
    known = next(iter(fields))
    Image.new("RGB", (8, 8)).save(tmp_path / f"{known}.png")
    (record,) = open_dataset(tmp_path / f"{known}.png").records
    assert (record.field_of_view, record.split) == (fields[known], parts[known])
    (tmp_path / "manifest.csv").write_text(f"id,image,field_of_view\n{known},{known}.png,mine\n")
    (record,) = open_dataset(tmp_path / "manifest.csv").records
    assert record.field_of_view == "mine"
    assert read_manifest(tmp_path / "manifest.csv")[0].split is None


def test_the_gallery_shows_the_part_that_changed_most():
    before, after = torch.zeros(600, 500, dtype=torch.int32), torch.zeros(600, 500, dtype=torch.int32)
    after[560:590, 450:480] = 1
    y, x = _window(before, after)
    assert (y.stop - y.start, x.stop - x.start) == (384, 384)
    assert y.start <= 560 < 590 <= y.stop <= 600
    assert x.start <= 450 < 480 <= x.stop <= 500
    assert _window(before[:100], after[:100])[0] == slice(0, 100)


@pytest.mark.usefixtures("no_lift")
def test_restyled_images_that_kept_least_are_drawn_and_refused_ones_come_first(tmp_path, field):
    write_data(tmp_path, field)
    dataset = open_dataset(tmp_path / "manifest.csv")
    names = {"dapi": "grey-on-black", "he": "purple-on-white"}
    records = [replace(record, modality=names[record.modality]) for record in dataset.records]

    class Refusing(Gate):
        def check(self, before, after, *, signs=None):
            verdict = super().check(before, after, signs=signs)
            return replace(verdict, outcome=REASONS[1]) if before.id == "f7" else verdict

    model = load_style("dsb2018", device="cpu")
    told = draw_failures(tmp_path, model, Refusing(), dataset.with_records(records))
    assert 0 < len(told) <= 10
    assert len({(one["source"], one["target"]) for one in told}) == len(told)
    assert all(one["source"] != one["target"] for one in told)
    order = [(one["is_used"], one["values"].get("separation", 1.0)) for one in told]
    assert order == sorted(order)
    assert [one["reason"] for one in told[:5]] == [REASONS[1]] * 5
    assert all(one["is_used"] for one in told[5:])
    picture = np.asarray(Image.open(tmp_path / "samples" / told[0]["file"]))
    place = next(k for k, record in enumerate(records) if record.id == told[0]["id"])
    source, made, masks = np.split(picture, 3, axis=1)
    assert np.array_equal(source, np.round(dataset[place].image.numpy() * 255).astype("uint8").transpose(1, 2, 0))
    assert not np.array_equal(made, source)
    assert np.array_equal(masks[..., 0] > 0, dataset[place].labels.numpy() > 0)
