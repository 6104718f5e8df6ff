"""Bad input: one line that names the file or value and the remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


VERBS_WITH_DATA = [
    ("discover",),
    ("train-style", "--set", "steps=1"),
    ("train-segmenter", "--set", "steps=1"),
]
VERBS_WITH_MASKS = VERBS_WITH_DATA[1:]
"""`discover` reads images only."""


@pytest.mark.parametrize("verb", VERBS_WITH_DATA, ids=lambda verb: verb[0])
def test_a_missing_path_is_named(assert_refused, run_verb, tmp_path, verb):
    assert_refused(run_verb(verb[0], "nowhere", "--out", "run", *verb[1:]), "nowhere")
    assert entries(tmp_path) == []


@pytest.mark.parametrize("verb", VERBS_WITH_DATA, ids=lambda verb: verb[0])
def test_an_empty_folder_is_named(assert_refused, run_verb, tmp_path, verb):
    (tmp_path / "empty").mkdir()
    assert_refused(run_verb(verb[0], "empty", "--out", "run", *verb[1:]), "empty", "no images")
    assert entries(tmp_path) == ["empty"]


@pytest.mark.parametrize("verb", VERBS_WITH_DATA, ids=lambda verb: verb[0])
def test_a_corrupt_png_is_named_before_anything_is_written(assert_refused, run_verb, write_pairs, tmp_path, verb):
    image = write_pairs("data") / "images" / "field-5.png"
    image.write_bytes(image.read_bytes()[:200])
    assert_refused(run_verb(verb[0], "data", "--out", "run", *verb[1:]), "field-5.png", "replace")
    assert entries(tmp_path) == ["data"]


@pytest.mark.parametrize("verb", VERBS_WITH_MASKS, ids=lambda verb: verb[0])
def test_a_mask_of_another_size_is_named_with_both_sizes(assert_refused, run_verb, write_pairs, tmp_path, verb):
    folder = write_pairs("data")
    Image.new("L", (112, 90)).save(folder / "labels" / "field-3.png")
    assert_refused(run_verb(verb[0], "data", "--out", "run", *verb[1:]), "field-3.png", "90 x 112", "96 x 112")
    assert entries(tmp_path) == ["data"]


def test_an_image_without_masks_is_named_where_masks_are_needed(assert_refused, run_verb, write_pairs, tmp_path):
    (write_pairs("data") / "labels" / "field-2.png").unlink()
    result = run_verb("train-segmenter", "data", "--out", "run", "--set", "steps=1")
    assert_refused(result, "field-2.png", "1 of 8", "labels/")
    assert entries(tmp_path) == ["data"]


def test_images_of_one_modality_alone_cannot_train_a_style_model(assert_refused, run_verb, write_pairs, tmp_path):
    folder = write_pairs("data", fluorescence=3, stained=0)
    rows = [f"field-{number},images/field-{number}.png,labels/field-{number}.png,same,," for number in range(3)]
    (folder / "manifest.csv").write_text("\n".join(["id,image,labels,modality,split,field_of_view", *rows]))
    assert_refused(run_verb("train-style", "data", "--out", "run"), "one modality", "two")
    assert entries(tmp_path) == ["data"]


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(assert_refused, run_verb, write_pairs, tmp_path):
    write_pairs("data")
    assert run_verb("discover", "data", "--out", "run", "--k", 2).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert_refused(run_verb("discover", "data", "--out", "run", "--k", 2), "run", "--resume", "--overwrite")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_never_replaced(assert_refused, run_verb, write_pairs, tmp_path):
    write_pairs("data")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert_refused(run_verb("discover", "data", "--out", "thesis", "--overwrite"), "thesis", "another folder")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_run_is_not_written_over_its_input(assert_refused, run_verb, write_pairs, tmp_path):
    folder = write_pairs("data")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert_refused(run_verb("discover", "data", "--out", "data", "--overwrite"), "data", "another folder")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_unknown_option_has_exit_code_2(run_verb):
    result = run_verb("discover", "data", "--out", "run", "--speed", "fast")
    assert result.exit_code == 2
    assert "--speed" in result.output


@pytest.mark.parametrize("verb", ["train-style", "train-segmenter"])
def test_a_typo_in_a_config_key_suggests_the_right_one(assert_refused, run_verb, write_pairs, tmp_path, verb):
    write_pairs("data")
    assert_refused(run_verb(verb, "data", "--out", "run", "--set", "learning_rat=1"), "learning_rat", "learning_rate")
    (tmp_path / "own.toml").write_text('name = "own"\n[training]\nstesp = 5\n')
    assert_refused(run_verb(verb, "data", "--out", "run", "--recipe", "own.toml"), "own.toml", "stesp", "steps")
    assert entries(tmp_path) == ["data", "own.toml"]


@pytest.mark.parametrize("verb", ["train-style", "train-segmenter"])
@pytest.mark.parametrize("setting", ["learning_rate=-1", "learning_rate=nan", "steps=0", "batch_size=many"])
def test_a_setting_out_of_range_is_named(assert_refused, run_verb, write_pairs, tmp_path, verb, setting):
    write_pairs("data")
    assert_refused(run_verb(verb, "data", "--out", "run", "--set", setting), setting.split("=")[0])
    assert entries(tmp_path) == ["data"]


@pytest.mark.parametrize(
    "setting", ["learning_rate=8e-4", "training.learning_rate=1e-4", "size_px=256", "crop.native=0"]
)
def test_what_has_no_effect_in_a_recipe_of_stages_is_refused_though_it_be_the_default(
    assert_refused, run_verb, write_pairs, tmp_path, setting
):
    write_pairs("data")
    verb = ("train-segmenter", "data", "--out", "run", "--recipe", "mirzaev")
    key = setting.split("=")[0].rpartition(".")[2]
    assert_refused(run_verb(*verb, "--set", setting), key, "no effect", "stages")
    assert entries(tmp_path) == ["data"]


def test_what_dry_run_prints_of_a_recipe_of_stages_is_a_recipe(run_verb, tmp_path):
    printed = run_verb("train-segmenter", "data", "--out", "run", "--recipe", "mirzaev", "--dry-run")
    (tmp_path / "own.toml").write_text(printed.stdout)
    again = run_verb("train-segmenter", "data", "--out", "run", "--recipe", "own.toml", "--dry-run")
    assert again.exit_code == 0, again.output
    assert again.stdout == printed.stdout


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda:one"])
def test_a_device_that_is_not_there_is_named(assert_refused, run_verb, write_pairs, tmp_path, device):
    write_pairs("data")
    assert_refused(run_verb("train-style", "data", "--out", "run", "--device", device), device, "cpu")
    assert entries(tmp_path) == ["data"]


@pytest.mark.parametrize("verb", ["train-style", "train-segmenter"])
def test_an_unknown_recipe_names_the_known_ones(assert_refused, run_verb, verb):
    assert_refused(run_verb(verb, "data", "--out", "run", "--recipe", "grand"), "grand", "lite")


def test_style_augmentation_without_a_style_model_is_refused(assert_refused, run_verb, write_pairs):
    write_pairs("data")
    assert_refused(run_verb("train-segmenter", "data", "--out", "run", "--augment", "style"), "--style")
    assert_refused(
        run_verb("train-segmenter", "data", "--out", "run", "--augment", "stile"),
        "stile",
        "none, or one or more of colour",
    )


def test_weights_of_the_wrong_kind_or_damaged_are_refused(assert_refused, run_verb, tiny_demo, write_pairs, tmp_path):
    write_pairs("data")
    style = tiny_demo / "style"
    assert_refused(run_verb("predict", "data", "--out", "run", "--weights", style), "style weights", "segmenter")
    copy = tmp_path / "copy.safetensors"
    shutil.copy(tiny_demo / "full" / "none" / "seed-0" / "weights.safetensors", copy)
    content = bytearray(copy.read_bytes())
    content[-1000] ^= 1
    copy.write_bytes(content)
    assert_refused(run_verb("predict", "data", "--out", "run", "--weights", copy), "copy.safetensors", "damaged")
    assert_refused(run_verb("predict", "data", "--out", "run", "--weights", "nothing"), "nothing")
    assert not (tmp_path / "run").exists()


def test_a_bad_image_does_not_stop_the_prediction_of_the_others(
    assert_refused, run_verb, tiny_demo, write_pairs, tmp_path
):
    folder = write_pairs("data", fluorescence=2, stained=1) / "images"
    (folder / "field-1.png").write_bytes(b"<html>not found</html>")
    cell = tiny_demo / "full" / "none" / "seed-0"
    result = run_verb("predict", "data", "--out", "run", "--weights", cell, "--tta", "none")
    assert_refused(result, "1 of 3", "field-1.png", "HTML")
    written = entries(tmp_path / "run" / "predictions")
    assert written == [f"field-{n}_{what}" for n in (0, 2) for what in ("labels.tif", "preview.png")]


def test_resuming_with_another_seed_names_the_difference(assert_refused, run_verb, demo_copy, tiny_settings):
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    assert_refused(run_verb("demo", "--out", demo_copy, "--resume", "--seed", 5, *settings), "seed was 0 and is now 5")


def test_a_report_of_a_folder_that_is_no_run_is_refused(assert_refused, run_verb, tmp_path):
    (tmp_path / "folder").mkdir()
    assert_refused(run_verb("report", "folder"), "folder", "config.toml")


def test_a_part_without_training_images_is_refused(assert_refused, run_verb, write_pairs, tmp_path):
    folder = write_pairs("data")
    rows = [f"field-{number},images/field-{number}.png,labels/field-{number}.png,,validation," for number in range(8)]
    (folder / "manifest.csv").write_text("\n".join(["id,image,labels,modality,split,field_of_view", *rows]))
    for verb in ("train-style", "train-segmenter"):
        assert_refused(run_verb(verb, "data", "--out", "run"), "train", "split")
    assert entries(tmp_path) == ["data"]


def test_a_run_is_not_written_over_the_style_model_it_needs(assert_refused, run_verb, tiny_demo, write_pairs, tmp_path):
    write_pairs("data")
    shutil.copytree(tiny_demo / "style", tmp_path / "style")
    before = (tmp_path / "style" / "weights.safetensors").read_bytes()
    options = ("--augment", "style", "--style", "style", "--out", "style", "--overwrite", "--set", "steps=1")
    assert_refused(run_verb("train-segmenter", "data", *options), "style", "another folder")
    assert_refused(run_verb("info", "style", "--out", "style", "--overwrite"), "style", "another folder")
    assert (tmp_path / "style" / "weights.safetensors").read_bytes() == before


def test_a_recipe_that_is_no_text_is_refused(assert_refused, run_verb, write_pairs, tmp_path):
    write_pairs("data")
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe\x00\x80")
    assert_refused(run_verb("train-style", "data", "--out", "run", "--recipe", "own.toml"), "own.toml", "TOML")


@pytest.mark.parametrize("setting", ['arms=["grand"]', 'tta=["slow"]', "k=1"])
def test_a_demo_setting_that_is_not_known_is_refused_before_the_work(assert_refused, run_verb, tmp_path, setting):
    assert_refused(run_verb("demo", "--out", "run", "--set", setting), setting.split("=")[0])
    assert entries(tmp_path) == []


def test_ids_whose_files_would_overwrite_each_other_are_refused(
    assert_refused, run_verb, tiny_demo, write_pairs, tmp_path
):
    folder = write_pairs("data", fluorescence=2, stained=0)
    rows = ["a/b,images/field-0.png,,,,", "a_b,images/field-1.png,,,,"]
    (folder / "manifest.csv").write_text("\n".join(["id,image,labels,modality,split,field_of_view", *rows]))
    cell = tiny_demo / "full" / "none" / "seed-0"
    assert_refused(run_verb("predict", "data", "--out", "run", "--weights", cell), "a/b", "a_b", "rename")


def test_out_of_memory_is_one_line(run_verb, write_pairs, monkeypatch):
    from nucstyle.workflows import discover

    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    write_pairs("data")
    monkeypatch.setattr(discover, "find_modalities", fail)
    result = run_verb("discover", "data", "--out", "run")
    assert result.exit_code == 1
    assert "not enough memory" in result.stderr
