"""`train-style`: masks that may be used, going on from weights, and the judge that is trained beside."""

import csv
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from nucstyle.data.run_folder import read_config
from nucstyle.data.weights import load_weights
from nucstyle.workflows.load import find_weights, load_judge
from nucstyle.workflows.recipes import style_recipe
from nucstyle.workflows.selection import Selection

TINY = ("--set", "steps=2", "--set", "width=4", "--set", "size_px=32", "--set", "judge_steps=0")


@pytest.fixture
def manifest(write_pairs):
    """Two modalities, with names of a person."""
    folder = write_pairs("data", fluorescence=3, stained=3)
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "labels", "modality", "split", "field_of_view"])
        for number in range(6):
            name = f"field-{number}"
            writer.writerow([name, f"images/{name}.png", f"labels/{name}.png", ("dapi", "he")[number // 3], "", ""])
    return path


def metadata(run):
    return load_weights(run / "weights.safetensors", kind="style").metadata


def test_masks_of_other_modalities_are_not_seen_where_that_is_asked_for(run_verb, manifest, tmp_path):
    assert run_verb("train-style", manifest, "--out", "all", *TINY).exit_code == 0
    result = run_verb("train-style", manifest, "--out", "some", "--annotated", "dapi", *TINY)
    assert result.exit_code == 0, result.output
    everything, some = metadata(tmp_path / "all"), metadata(tmp_path / "some")
    assert everything["masks_seen"] == everything["trained_on"] == [f"field-{number}" for number in range(6)]
    assert some["masks_seen"] == ["field-0", "field-1", "field-2"]
    assert some["trained_on"] == everything["trained_on"]
    result = run_verb("train-style", manifest, "--out", "none", "--annotated", "gfp", *TINY)
    assert result.exit_code == 2
    assert "--annotated gfp: no such modality; there are" in result.output


def test_the_published_recipe_has_the_published_numbers():
    """Of MDMM's code, the latent loss for both halves of the batch together (docs/method.md)."""
    recipe = style_recipe("paper")
    training, weights = recipe.training, recipe.weights
    rates = training.learning_rate, training.content_critic_learning_rate
    assert (*rates, training.first_moment, training.second_moment, training.weight_decay) == (
        1e-4,
        4e-5,
        0.5,
        0.999,
        1e-4,
    )
    assert (training.steps, training.batch_size, training.content_critic_extra) == (109000, 2, 2)
    assert (training.content_noise, recipe.crop.size_px) == (1.0, 216)
    assert (recipe.network.architecture, recipe.network.attribute_size, recipe.network.critic_norm) == (
        "mdmm",
        8,
        "none",
    )
    assert not recipe.network.nucleus_head
    assert not recipe.network.canonical_polarity
    assert (weights.cross_cycle, weights.reconstruction, weights.latent) == (10, 10, 20)
    assert (weights.kl, weights.content_size, weights.content, weights.adversarial, weights.modality) == (
        0.01,
        0.01,
        1,
        1,
        5,
    )
    assert (weights.nuclei, weights.nuclei_kept, weights.nuclei_height) == (0, 0, 0)
    assert weights.adversary == "cross-entropy"


def test_the_published_recipe_trains(run_verb, manifest, tmp_path):
    tiny = ("--set", "steps=1", "--set", "width=4", "--set", "size_px=64")
    result = run_verb("train-style", manifest, "--recipe", "paper", "--out", "style", *tiny)
    assert result.exit_code == 0, result.output
    assert metadata(tmp_path / "style")["network"]["architecture"] == "mdmm"


def test_grey_and_16_bit_images_train_and_one_that_is_not_finite_is_refused(run_verb, manifest, tmp_path):
    images = manifest.parent / "images"
    with Image.open(images / "field-1.png") as colours:
        grey = np.asarray(colours.convert("L"))
    Image.fromarray(grey).save(images / "field-1.png")
    Image.fromarray(grey.astype(np.uint16) * 200).save(images / "field-2.png")
    result = run_verb("train-style", manifest, "--out", "style", *TINY)
    assert result.exit_code == 0, result.output
    assert metadata(tmp_path / "style")["trained_on"] == [f"field-{number}" for number in range(6)]
    broken = grey.astype(np.float32)
    broken[3, 4] = np.nan
    tifffile.imwrite(images / "field-2.tif", broken)
    manifest.write_text(manifest.read_text().replace("images/field-2.png", "images/field-2.tif"))
    result = run_verb("train-style", manifest, "--out", "other", *TINY)
    assert result.exit_code == 2
    assert "field-2.tif" in " ".join(result.output.split())


def test_without_any_mask_it_says_what_will_be_missing(run_verb, manifest):
    lines = manifest.read_text().splitlines()
    bare = [lines[0], *(",".join([*line.split(",")[:2], "", *line.split(",")[3:]]) for line in lines[1:])]
    manifest.write_text("\n".join(bare) + "\n")
    result = run_verb("train-style", manifest, "--out", "style", *TINY)
    assert result.exit_code == 0, result.output
    assert "no training image has masks" in result.output


def test_a_new_run_goes_on_from_weights(run_verb, manifest, tmp_path):
    assert run_verb("train-style", manifest, "--out", "first", *TINY).exit_code == 0
    still = ("--set", "learning_rate=1e-12")
    still = (*still, "--seed", "1")  # whose own start would be another
    result = run_verb("train-style", manifest, "--out", "second", "--init", "first", *TINY, *still)
    assert result.exit_code == 0, result.output
    one, other = (load_weights(tmp_path / run / "weights.safetensors", kind="style") for run in ("first", "second"))
    for name, tensor in one.tensors.items():
        if name.startswith("networks."):
            assert float((tensor.float() - other.tensors[name].float()).abs().max()) < 1e-3, name
    resumed = run_verb("train-style", manifest, "--out", "second", "--init", "first", "--resume", *TINY, *still)
    assert resumed.exit_code == 0, resumed.output
    other_start = run_verb("train-style", manifest, "--out", "second", "--resume", *TINY, *still)
    assert other_start.exit_code == 2
    assert "cannot resume, init was given and is not now" in other_start.output


def test_weights_that_have_seen_what_they_must_not_are_refused_to_go_on_from(run_verb, split_manifest):
    text = split_manifest.read_text()
    split_manifest.write_text(text.replace("validation", "train"))
    assert run_verb("train-style", split_manifest, "--out", "first", *TINY).exit_code == 0
    verb = ("train-style", split_manifest, "--out", "second", "--init", "first")
    result = run_verb(*verb, "--annotated", "dapi", *TINY)
    assert result.exit_code == 2
    assert "masks of 3 images that --annotated dapi hides, field-3 among them" in " ".join(result.output.split())
    split_manifest.write_text(text)
    result = run_verb(*verb, *MEASURED)
    assert result.exit_code == 2
    assert "trained with 2 of the validation images, field-0 among them" in " ".join(result.output.split())
    assert run_verb(*verb, *TINY).exit_code == 0  # nothing is chosen by them


def test_weights_of_other_networks_or_modalities_are_refused(run_verb, manifest):
    assert run_verb("train-style", manifest, "--out", "first", *TINY).exit_code == 0
    wider = [part.replace("width=4", "width=5") for part in TINY]
    result = run_verb("train-style", manifest, "--out", "second", "--init", "first", *wider)
    assert result.exit_code == 2
    assert "its networks are" in result.output
    manifest.write_text(manifest.read_text().replace(",he,", ",ihc,"))
    result = run_verb("train-style", manifest, "--out", "second", "--init", "first", *TINY)
    assert result.exit_code == 2
    assert "name alike in the manifest what is alike" in " ".join(result.output.split())


def test_a_judge_is_trained_on_the_masks_that_may_be_seen(run_verb, manifest, tmp_path):
    judged = [part.replace("judge_steps=0", "judge_steps=2") for part in TINY]
    result = run_verb("train-style", manifest, "--out", "style", "--annotated", "dapi", *judged)
    assert result.exit_code == 0, result.output
    path = tmp_path / "style" / "judge"
    seen = load_weights(path / "weights.safetensors", kind="judge").metadata
    assert seen["masks_seen"] == seen["trained_on"] == ["field-0", "field-1", "field-2"]
    load_judge(path)
    assert (
        find_weights(tmp_path / "style", "judge") == path / "weights.safetensors"
    )  # by the run that it was trained in
    assert find_weights(tmp_path / "style", "style") == tmp_path / "style" / "weights.safetensors"


@pytest.fixture
def split_manifest(manifest):
    """Of each modality an image for validation, and two for training."""
    rows = manifest.read_text().splitlines()
    parts = ["split", *("train" if number % 3 else "validation" for number in range(6))]
    manifest.write_text(
        "\n".join(",".join([*row.split(",")[:4], part, ""]) for row, part in zip(rows, parts, strict=True)).replace(
            ",split,", ",split,field_of_view"
        )
    )
    return manifest


MEASURED = ("steps=3", "width=4", "size_px=32", "judge_steps=2", "measure_every=1", "checkpoint_every=1")
MEASURED = tuple(word for setting in MEASURED for word in ("--set", setting))


def test_the_best_model_by_validation_images_is_taken(run_verb, split_manifest, tmp_path):
    result = run_verb("train-style", split_manifest, "--out", "style", *MEASURED)
    assert result.exit_code == 0, result.output
    run = tmp_path / "style"
    lines = [json.loads(line) for line in (run / "measures.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(0 <= line[goal] <= 1 for line in lines for goal in ("quality", "K", "D", "F", "C", "M"))
    best = max(lines, key=lambda line: line["quality"])["step"]
    assert json.loads((run / "result.json").read_text())["taken_step"] == best
    assert metadata(run)["steps"] == best
    assert "Measures on validation images" in (run / "report.html").read_text()
    assert [path.name for path in run.glob("best-*")] == [f"best-{best:06d}.safetensors"]


def test_a_run_that_was_killed_while_it_measured_ends_with_the_same_bytes(
    run_verb, split_manifest, tmp_path, monkeypatch
):
    assert run_verb("train-style", split_manifest, "--out", "whole", *MEASURED).exit_code == 0

    def killed(self, step, model, save):
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Selection, "consider", killed)
    assert run_verb("train-style", split_manifest, "--out", "broken", *MEASURED).exit_code != 0
    assert not (tmp_path / "broken" / "measures.jsonl").exists()
    result = run_verb("train-style", split_manifest, "--out", "broken", "--resume", *MEASURED)
    assert result.exit_code == 0, result.output
    for name in ("measures.jsonl", "weights.safetensors", "result.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_without_a_measured_model_to_choose_from_the_last_is_taken_and_that_is_said(
    run_verb, split_manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr(Selection, "consider", lambda *_: None)
    result = run_verb("train-style", split_manifest, "--out", "style", *MEASURED)
    assert result.exit_code == 0, result.output
    assert "no measured model is there to choose from" in result.output
    assert json.loads((tmp_path / "style" / "result.json").read_text())["taken_step"] == 3


def test_what_models_are_chosen_by_is_part_of_the_config_and_read_before_the_training(
    run_verb, split_manifest, tmp_path
):
    assert run_verb("train-style", split_manifest, "--out", "plain", *TINY).exit_code == 0
    assert run_verb("train-style", split_manifest, "--out", "chosen", *MEASURED).exit_code == 0
    plain, chosen = (read_config(tmp_path / run)["data"] for run in ("plain", "chosen"))
    assert "validation" not in plain
    assert chosen["validation"]["images"] == 2
    (split_manifest.parent / "labels" / "field-3.png").write_bytes(b"no picture")
    result = run_verb("train-style", split_manifest, "--out", "refused", *MEASURED)
    assert result.exit_code == 2
    assert "field-3.png" in result.output
    assert not (tmp_path / "refused").exists()


def test_how_far_an_unfinished_training_has_come_is_said(run_verb, manifest, tmp_path):
    fresh = run_verb("train-style", manifest, "--out", "style", "--resume", *TINY, "--set", "log_every=1")
    assert fresh.exit_code == 0, fresh.output
    assert "no run in style yet; a new one begins" in fresh.output
    for name in ("result.json", "weights.safetensors"):
        (tmp_path / "style" / name).unlink()
    assert "finished: no, step 2 of 2; the same command with --resume goes on" in run_verb("info", "style").output
    again = run_verb("train-style", manifest, "--out", "style", "--resume", *TINY, "--set", "log_every=1")
    assert "a new one begins" not in again.output
    assert "finished: True" in run_verb("info", "style").output
