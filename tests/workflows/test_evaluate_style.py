"""`evaluate-style`: what is measured of restyled images, and what is refused."""

import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nucstyle.core.errors import DatasetError
from nucstyle.core.protocols import SILENT, Silent
from nucstyle.core.rng import generator, seeded
from nucstyle.data.dataset import open_dataset
from nucstyle.data.image_io import read_image
from nucstyle.metrics.translation import FalseObjects
from nucstyle.report.tables import missed, pair_table
from nucstyle.segmentation.judge import ForegroundJudge, JudgeConfig, JudgeNetwork
from nucstyle.workflows import evaluate_style, style_measures
from nucstyle.workflows.evaluate_style import check_kept, measure_pairs
from nucstyle.workflows.load import load_judge, save_judge
from nucstyle.workflows.style_measures import Measurer, crop_features, windows

NAMES = ("grey-on-black", "purple-on-white")
TINY_STYLE = ("--set", "steps=2", "--set", "width=4", "--set", "size_px=32", "--set", "judge_steps=0")


@pytest.fixture
def manifest(write_pairs):
    """Eight fields of two modalities, half of them for validation, as a manifest."""
    folder = write_pairs("data")
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "labels", "modality", "split", "field_of_view"])
        for number in range(8):
            name = f"field-{number}"
            split = "train" if number % 4 == 0 else "validation"
            writer.writerow([name, f"images/{name}.png", f"labels/{name}.png", NAMES[number // 4], split, ""])
    return path


class Threshold:
    """A judge that takes whatever differs from the image's median for a nucleus."""

    def foreground(self, image):
        grey = image.mean(dim=1, keepdim=True)
        return ((grey - grey.flatten(1).median(dim=1).values[:, None, None, None]).abs() > 0.2).float()


class Means:
    """Two feature maps."""

    channels = (3, 1)

    def __call__(self, image):
        return image, image.mean(dim=1, keepdim=True)


@pytest.fixture
def measurer_of(manifest):
    """`measurer_of()` measures the real fields of the manifest; the polarities that it is given are wrong."""

    def make(change=lambda record: record, modalities=NAMES, judge=None, **options):
        dataset = open_dataset(manifest)
        dataset = dataset.with_records([change(record) for record in dataset.records])
        parts = dataset.part("validation"), dataset.part("train")
        polarity = [-1, 1, 1][: len(modalities)]
        return Measurer(*parts, judge or Threshold(), Means(), modalities, polarity=polarity, **options)

    return make


def test_real_images_are_measured_once_and_say_how_their_nuclei_look(measurer_of):
    real = measurer_of().real
    assert {name: one.sign for name, one in real.items()} == {"grey-on-black": 1, "purple-on-white": -1}
    for one in real.values():
        assert one.dice > 0.95
        assert one.false_per_nucleus < 0.2
        assert not one.from_train
        assert len(one.sources) == len(one.usable) == 3
        assert len(one.features) == len(one.fields) == 4
        assert one.floor() is not None


def test_a_perfect_translation_meets_the_goals_and_one_that_keeps_the_polarity_is_found_out(
    measurer_of, fake_translator
):
    measurer = measurer_of()
    draws, kept = measurer.draw(fake_translator, *NAMES, draws=6, seed=0, keep=2)
    assert len(draws.ids) == 6
    assert len(kept) == 2
    assert kept[0][1].shape == kept[0][0].image.shape
    row = measurer.summary(*NAMES, draws)
    assert row["draws"] == 6
    assert row["images"] == 3
    assert row["nuclei_kept"] == 1
    assert row["nuclei_kept_interval"] is None  # under five images
    assert list(row["nuclei_kept_by_image"].values()) == [1, 1, 1]
    assert row["dice_share"] > 0.9
    assert row["nuclei_kept_asked"] == 0.95  # from bright nuclei to dark ones
    back = measurer.summary(*NAMES[::-1], measurer.draw(fake_translator, *NAMES[::-1], draws=3, seed=0)[0])
    assert back["nuclei_kept_asked"] == 0.9

    class Unmoved(type(fake_translator)):
        def translate(self, image, *, source, target, attribute):
            return image

    draws, _ = measurer.draw(Unmoved(), *NAMES, draws=3, seed=0)
    row = measurer.summary(*NAMES, draws)
    assert row["nuclei_kept"] == 0
    assert row["separation"] < 0.1
    assert row["taken_for_target"] == 0
    assert row["kernel_distance"] == pytest.approx(row["kernel_distance_untranslated"])
    assert "K" in missed(row)
    assert "C" in missed(row)


def test_objects_that_a_translation_invents_are_counted(measurer_of, fake_translator):
    class Inventing(type(fake_translator)):
        def translate(self, image, *, source, target, attribute):
            made = super().translate(image, source=source, target=target, attribute=torch.ones_like(attribute))
            made = made.clone()
            made[..., :6, ::14] = 0.0
            for column in range(4):
                made[..., :6, 14 * column : 14 * column + 6] = 0.0
            return made

    measurer = measurer_of()
    honest = measurer.summary(*NAMES, measurer.draw(fake_translator, *NAMES, draws=3, seed=0)[0])
    inventing = measurer.summary(*NAMES, measurer.draw(Inventing(), *NAMES, draws=3, seed=0)[0])
    assert inventing["false_per_nucleus"] > honest["false_per_nucleus"] + 0.2
    assert "F" in missed(inventing)


def test_what_weakens_the_measures_is_said(measurer_of):
    class Said(Silent):
        def __init__(self):
            self.lines = []

        def say(self, line):
            self.lines.append(line)

    class Blind(Threshold):
        def foreground(self, image):
            return torch.zeros_like(image[:, :1])

    def rare(record):
        kept = record.split == "train" or record.modality == NAMES[0] or record.id == "field-5"
        return record if kept else replace(record, labels=None)

    said = Said()
    measurer_of(progress=said)
    assert not said.lines
    measurer_of(rare, progress=said)
    (line,) = said.lines
    assert line.startswith("purple-on-white: fewer than 3 annotated images to restyle, so 1 training images are")
    measurer_of(judge=Blind(), progress=said)
    assert sum("finds nuclei of real images with a Dice of 0.00 only" in line for line in said.lines) == 2


def test_what_is_asked_is_by_the_sources_that_were_drawn(measurer_of, fake_translator):
    measurer = measurer_of()
    real = measurer.real[NAMES[0]]
    marks = dict(zip(real.judged, (0.5, 0.9, 0.1), strict=True))
    judged = {name: (marks[name], FalseObjects(int(10 * marks[name]), 10)) for name in real.judged}
    measurer.real[NAMES[0]] = replace(real, judged=judged)
    assert measurer.real[NAMES[0]].dice == pytest.approx(0.5)
    draws, _ = measurer.draw(fake_translator, *NAMES, draws=2, seed=0)
    assert draws.ids == list(marks)[:2]  # evenly chosen of the three
    row = measurer.summary(*NAMES, draws)
    assert row["dice_share"] == pytest.approx(np.mean(draws.dice) / 0.7)
    assert row["false_allowed"] == pytest.approx(0.7 + 0.1)


def test_fewer_draws_than_images_are_spread_over_all_of_them(measurer_of, fake_translator):
    measurer = measurer_of()
    real = measurer.real[NAMES[0]]
    many = tuple(real.sources[0]._replace(id=str(k)) for k in range(9))
    measurer.real[NAMES[0]] = replace(real, sources=many)
    draws, _ = measurer.draw(fake_translator, *NAMES, draws=3, seed=0)
    assert draws.ids == ["0", "3", "6"]


def test_an_image_is_taken_for_what_its_crops_are_together(measurer_of, monkeypatch):
    measurer = measurer_of()

    class Sure:
        classes_ = np.array([0, 1])

        def predict_log_proba(self, features):
            return np.log(np.stack([features[:, 0], 1 - features[:, 0]], axis=1))

    monkeypatch.setattr(measurer, "_classifier", Sure())
    assert measurer._taken_for(np.array([[0.55], [0.55], [0.01]])) == NAMES[1]
    assert measurer._taken_for(np.array([[0.45], [0.45], [0.99]])) == NAMES[0]


def test_real_images_to_compare_with_do_not_depend_on_what_is_evaluated(measurer_of, manifest):
    dataset = open_dataset(manifest)
    one = dataset.part("validation").where(lambda record: record.id in ("field-1", "field-5"))
    alone, given = measurer_of(), measurer_of(references=one)
    for name in NAMES:
        assert len(alone.real[name].features) == 4
        assert len(given.real[name].features) == 2  # a training image and a reference
        assert len(given.real[name].sources) == 3


def test_where_there_are_enough_images_shares_have_intervals(measurer_of, fake_translator, monkeypatch):
    monkeypatch.setattr(style_measures, "_MIN_RESAMPLED", 3)
    measurer = measurer_of()
    draws, _ = measurer.draw(fake_translator, *NAMES, draws=7, seed=0)
    draws.dice[0], draws.separation[1], draws.taken[2] = draws.dice[0] / 2, 0.0, False
    draws.false[0] = FalseObjects(5, draws.false[0].nuclei)
    row = measurer.summary(*NAMES, draws)
    assert row["nuclei_kept_by_image"] is None
    for name in ("nuclei_kept", "dice_share", "false_per_nucleus", "taken_for_target"):
        low, high = row[f"{name}_interval"]
        assert low < row[name] < high, name


def test_a_judge_that_sees_nothing_gives_numbers(measurer_of, fake_translator, monkeypatch):
    class Blind:
        def foreground(self, image):
            return torch.zeros_like(image[:, :1])

    monkeypatch.setattr(style_measures, "_MIN_RESAMPLED", 3)
    measurer = measurer_of(judge=Blind())
    row = measurer.summary(*NAMES, measurer.draw(fake_translator, *NAMES, draws=3, seed=0)[0])
    assert row["dice_share_interval"] == [row["dice_share"]] * 2 == [0, 0]


def test_the_gallery_shows_whole_windows(tmp_path):
    image = torch.rand(3, 240, 230, generator=generator("window"))
    window = style_measures.Window("a", image, np.zeros((240, 230), np.int32))
    failure = evaluate_style._Failure(0.5, "lost", window, image, *NAMES)
    (told,) = evaluate_style._write_gallery(tmp_path, [failure])
    assert read_image(tmp_path / told["file"])[0].shape == (3, 240, 3 * 230)
    evaluate_style._write_grid(tmp_path / "grid.png", NAMES[0], NAMES, [[(window, image)]] * 2)
    assert read_image(tmp_path / "grid.png")[0].shape[2] > 3 * 230


def test_the_gallery_holds_what_misses_a_goal_and_the_worst_comes_first(measurer_of, fake_translator, tmp_path):
    class Forgetful(type(fake_translator)):
        def translate(self, image, *, source, target, attribute):
            return image  # nuclei stay bright in the second modality, dark in the first

    def gallery(model):
        written = measure_pairs(tmp_path / "s", measurer_of(), model, draws=3, rows=1, seed=0, progress=SILENT)
        return [one["reason"] for one in written["gallery"]]

    assert gallery(Forgetful()) == ["nuclei of the wrong sign"] * 2
    assert gallery(fake_translator) == []


def test_a_modality_without_an_image_is_left_out(measurer_of, fake_translator):
    class Three(type(fake_translator)):
        modalities = ("never-seen", *NAMES)

        def translate(self, image, *, source, target, attribute):
            assert {int(source), int(target)} <= {1, 2}
            return super().translate(image, source=source, target=target, attribute=attribute)

    measurer = measurer_of(modalities=Three.modalities)
    assert tuple(measurer.real) == NAMES
    row = measurer.summary(*NAMES, measurer.draw(Three(), *NAMES, draws=3, seed=0)[0])
    assert row["nuclei_kept"] == 1
    assert row["taken_for_target"] == 1
    assert measurer.diversity(Three(), NAMES[1], seed=0, attributes=3) > 0


def test_data_without_masks_or_of_one_modality_are_refused(measurer_of):
    with pytest.raises(DatasetError, match="none of the images has masks"):
        measurer_of(lambda record: replace(record, labels=None))
    with pytest.raises(DatasetError, match="between two or more"):
        measurer_of(lambda record: replace(record, modality=NAMES[0]))


def test_signs_are_those_of_the_masks_where_there_are_any_and_wanted(measurer_of):
    def bare_training(record):
        return replace(record, labels=None) if record.split == "train" and record.modality == NAMES[1] else record

    assert [one.sign for one in measurer_of().real.values()] == [1, -1]
    assert [one.sign for one in measurer_of(bare_training).real.values()] == [1, 1]
    assert [one.sign for one in measurer_of(trust_masks=False).real.values()] == [-1, 1]


def test_few_annotated_images_are_measured_where_no_training_image_helps_out(measurer_of):
    def rare(record):
        kept = record.modality == NAMES[0] or record.id == "field-5"
        return record if kept else replace(record, labels=None)

    real = measurer_of(rare).real[NAMES[1]]
    assert [window.id for window in real.sources] == ["field-5"]
    assert not real.from_train


def test_the_classifier_is_taught_with_training_images_alone(measurer_of, fake_translator):
    """Evaluated images that look like the other modality must not teach it otherwise."""
    measurer = measurer_of()
    for real in measurer.real.values():
        assert real.trained.tolist() == [True, False, False, False]
        real.features[~real.trained] = 1e3
    one = measurer._fit_classifier()
    for real in measurer.real.values():
        real.features[~real.trained] = -1e3
    other = measurer._fit_classifier()
    np.testing.assert_array_equal(one[-1].coef_, other[-1].coef_)


def test_the_same_seed_draws_the_same_styles(measurer_of, fake_translator):
    measurer = measurer_of()
    one, same, other = (measurer.draw(fake_translator, *NAMES, draws=3, seed=seed)[0] for seed in (0, 0, 1))
    assert one.cycle == same.cycle
    assert [tuple(f.flatten()) for f in one.features] == [tuple(f.flatten()) for f in same.features]
    assert [tuple(f.flatten()) for f in one.features] != [tuple(f.flatten()) for f in other.features]


def test_diversity_is_the_spread_over_styles_and_nothing_for_a_model_of_one_style(measurer_of, fake_translator):
    class OneStyle(type(fake_translator)):
        def draw_attribute(self, target, *, mode, generator):
            return torch.ones((len(target), 1))

    measurer = measurer_of()
    assert measurer.diversity(fake_translator, NAMES[1], seed=0, attributes=5) > 0.05
    assert measurer.diversity(OneStyle(), NAMES[1], seed=0, attributes=5) == pytest.approx(0, abs=1e-6)
    assert measurer.self_error(fake_translator, NAMES[0]) == 0


def test_the_window_is_where_the_nuclei_are(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr(style_measures, "WINDOW_PX", 48)
    dataset = open_dataset(manifest)
    for window in windows(dataset, NAMES[0]):
        whole = dataset[[record.id for record in dataset.records].index(window.id)]
        assert window.image.shape == (3, 48, 48)
        assert (window.labels > 0).mean() >= (whole.labels > 0).float().mean().item()
    assert len(windows(dataset, NAMES[0], limit=2)) == 2


def test_features_are_of_disjoint_crops():
    image = torch.rand(3, 300, 260, generator=generator("image"))
    features = crop_features(image, Means(), batch=3)
    assert features.shape == (4, 4)
    np.testing.assert_allclose(features[3, :3], image[:, 128:256, 128:256].mean(dim=(1, 2)), rtol=1e-5)
    assert crop_features(image[:, :50, :200], Means()).shape == (1, 4)


@pytest.fixture
def judge_file(tmp_path):
    """An untrained judge."""
    path = tmp_path / "judge.safetensors"
    with seeded("judge"):
        judge = ForegroundJudge(JudgeNetwork(JudgeConfig(width=4)), JudgeConfig(width=4))
    save_judge(path, judge, {})
    return path


def test_the_verb_writes_measures_grids_and_a_gallery(run_verb, manifest, judge_file, tmp_path):
    assert run_verb("train-style", manifest, "--out", "style", *TINY_STYLE).exit_code == 0
    verb = ("evaluate-style", manifest, "--style", "style", "--out", "measured", "--draws", 3, "--judge", judge_file)
    result = run_verb(*verb)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "measured" / "result.json").read_text())
    assert [(pair["source"], pair["target"]) for pair in written["pairs"]] == [(s, t) for s in NAMES for t in NAMES]
    assert all(math.isfinite(one["diversity"]) for one in written["modalities"].values())
    assert len(pair_table(written)) == 5
    assert all(one < 0.02 for one in written["seam_error"].values())
    samples = tmp_path / "measured" / "samples"
    names = {path.name for path in samples.iterdir()}
    assert {"grid-00-grey-on-black.png", "grid-01-purple-on-white.png", "failure-00.png", "failure-01.png"} <= names
    page = (tmp_path / "measured" / "report.html").read_text()
    assert "Every pair of modalities" in page
    assert all(one["reason"] in page for one in written["gallery"])
    assert run_verb(*verb[:4], "--out", "small", *verb[6:], "--rows", 1).exit_code == 0
    of_one_image = read_image(tmp_path / "small" / "samples" / "grid-00-grey-on-black.png")[0]
    assert of_one_image.shape[1] < 0.6 * read_image(samples / "grid-00-grey-on-black.png")[0].shape[1]
    again = run_verb(*verb, "--overwrite")
    assert again.exit_code == 0
    assert json.loads((tmp_path / "measured" / "result.json").read_text()) == written


def test_both_parts_are_compared_with_the_same_real_images(run_verb, manifest, judge_file, tmp_path):
    text = manifest.read_text()
    for name in ("field-1", "field-5"):
        line = next(line for line in text.splitlines() if line.startswith(f"{name},"))
        text = text.replace(line, line.replace(",validation,", ",test,"))
    manifest.write_text(text)
    assert run_verb("train-style", manifest, "--out", "style", *TINY_STYLE).exit_code == 0
    for part in ("validation", "test"):
        verb = ("evaluate-style", manifest, "--style", "style", "--out", part, "--draws", 1, "--judge", judge_file)
        result = run_verb(*verb, "--on", part)
        assert result.exit_code == 0, result.output
        measured = json.loads((tmp_path / part / "result.json").read_text())["modalities"]
        assert [one["crops"] for one in measured.values()] == [3, 3]  # of train and two of validation
        assert json.loads((tmp_path / part / "environment.json").read_text())["precision"] in ("bf16", "fp32")


def test_images_that_the_model_was_trained_on_are_refused(run_verb, manifest, judge_file):
    run_verb("train-style", manifest, "--out", "style", *TINY_STYLE)
    manifest.write_text(manifest.read_text().replace(",train,", ",validation,", 1))
    result = run_verb("evaluate-style", manifest, "--style", "style", "--out", "m", "--judge", judge_file)
    assert result.exit_code == 2
    assert "was trained on 1 of these images" in result.output


def test_a_judge_that_saw_the_images_is_refused(run_verb, manifest, tmp_path, judge_file):
    run_verb("train-style", manifest, "--out", "style", *TINY_STYLE)
    save_judge(tmp_path / "knows.safetensors", load_judge(judge_file), {"trained_on": ["field-0", "field-2"]})
    verb = ("evaluate-style", manifest, "--style", "style", "--out", "m", "--judge", "knows.safetensors")
    result = run_verb(*verb)
    assert result.exit_code == 2
    assert "the judge knows.safetensors was trained on 1 of these images, for example field-2" in result.output
    inside = run_verb(*verb[:-3], tmp_path, "--judge", judge_file, "--overwrite")
    assert inside.exit_code == 2  # the judge lies in what would be overwritten


def test_a_model_that_loses_nuclei_fails_the_check_after_everything_is_written(
    run_verb, manifest, judge_file, tmp_path, monkeypatch
):
    run_verb("train-style", manifest, "--out", "style", *TINY_STYLE)
    verb = ("evaluate-style", manifest, "--style", "style", "--out", "m", "--judge", judge_file, "--draws", 2)
    result = run_verb(*verb, "--min-kept", 0.5)
    assert result.exit_code == 0, result.output
    measure = evaluate_style.measure_pairs

    def losing(*arguments, **named):
        measured = measure(*arguments, **named)
        measured["pairs"][1]["nuclei_kept"] = 0.25
        return measured

    monkeypatch.setattr(evaluate_style, "measure_pairs", losing)
    result = run_verb(*verb, "--overwrite", "--min-kept", 0.5)
    assert result.exit_code == 1
    assert re.search(r"1 of 4 pairs .* grey-on-black to purple-on-white in 0\.25", " ".join(result.output.split()))
    measured = json.loads((tmp_path / "m" / "result.json").read_text())
    assert measured["pairs"][1]["nuclei_kept"] == 0.25
    assert (tmp_path / "m" / "report.html").is_file()
    check_kept(measured, 0.25)


def test_images_of_a_modality_that_the_model_does_not_know_are_taken_for_the_nearest_and_that_is_said(
    run_verb, manifest, judge_file, tmp_path
):
    run_verb("train-style", manifest, "--out", "style", *TINY_STYLE)
    named = manifest.read_text().replace("purple-on-white,validation", "he,validation")
    yellow = Image.new("RGB", (112, 96), (240, 220, 20))
    for number in (6, 7):
        yellow.save(manifest.parent / "images" / f"field-{number}.png")
    manifest.write_text(named)
    verb = ("evaluate-style", manifest, "--style", "style", "--out", "m", "--judge", judge_file, "--draws", 2)
    result = run_verb(*verb)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "the style model does not know he; images of it that are measured as purple-on-white:" in said
    assert "images that look like none of the style model's modalities, so the nearest is taken: 2" in said


def test_a_part_without_images_and_an_unknown_part_are_refused(run_verb, manifest, judge_file):
    run_verb("train-style", manifest, "--out", "style", *TINY_STYLE)
    verb = ("evaluate-style", manifest, "--style", "style", "--out", "m", "--judge", judge_file)
    result = run_verb(*verb, "--on", "test")
    assert result.exit_code == 2
    assert "data/manifest.csv: no image in the part test; nucstyle discover --split" in " ".join(result.output.split())
    result = run_verb(*verb, "--on", "training")
    assert result.exit_code == 2
    assert "give validation or test" in result.output
