"""The verbs, in-process and at a few steps."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import tomllib

import pytest
import torch
from PIL import Image

import nucstyle
from nucstyle.data.image_io import read_labels
from nucstyle.data.layouts import READABLE, WRITABLE
from nucstyle.data.objects import PREDICTED
from nucstyle.data.predictions import PredictedImage

TINY_STYLE = ("--set", "steps=2", "--set", "width=4", "--set", "size_px=32", "--set", "judge_steps=0", "--k", "2")
TINY_SEGMENTER = ("--set", "steps=2", "--set", "size_px=64", "--set", "training.batch_size=2")


def test_help_answers_within_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run(
        [sys.executable, "-m", "nucstyle.cli", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of processor time: a busy machine answers later
    assert 0 < after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    for verb in ("demo", "discover", "train-style", "train-segmenter", "predict", "evaluate", "report", "info"):
        assert verb in finished.stdout


def test_help_imports_neither_torch_nor_scikit_learn():
    code = "import sys, nucstyle.cli; print([m for m in ('torch', 'sklearn', 'skimage', 'numpy') if m in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.strip() == "[]"


def test_the_version_is_told(run_verb):
    result = run_verb("--version")
    assert (result.exit_code, result.output) == (0, f"nucstyle {nucstyle.__version__}\n")


def test_help_names_every_layout(run_verb):
    usage = run_verb("augment", "--help").output
    reads, writes = (usage[usage.index(option) :] for option in ("--format", "--to"))
    assert [name for name in READABLE if name not in reads] == []
    assert [name for name in WRITABLE if name not in writes] == []


def test_discover_writes_a_manifest_that_later_verbs_read(run_verb, write_pairs, tmp_path):
    write_pairs("data")
    result = run_verb("discover", "data", "--out", "found", "--k", 2)
    assert result.exit_code == 0, result.output
    with (tmp_path / "found" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [row["modality"] for row in rows]
    assert len(set(names[:4])) == len(set(names[4:])) == 1
    assert names[0] != names[-1]
    trained = run_verb("train-style", "found/manifest.csv", "--out", "style", *TINY_STYLE)
    assert trained.exit_code == 0, trained.output
    assert set(json.loads((tmp_path / "style" / "result.json").read_text())["modalities"]) == set(names)


def test_names_that_a_person_gave_in_the_manifest_hold(run_verb, write_pairs, tmp_path):
    write_pairs("data")
    run_verb("discover", "data", "--out", "found", "--k", 2)
    manifest = tmp_path / "found" / "manifest.csv"
    text = manifest.read_text()
    name = next(csv.DictReader(text.splitlines()))["modality"]
    manifest.write_text(text.replace(name, "hoechst"))
    run_verb("train-style", manifest, "--out", "style", *TINY_STYLE)
    result = run_verb("info", "style")
    assert "hoechst" in result.output


def test_the_whole_way_on_data_of_ones_own(run_verb, write_pairs, tmp_path):
    write_pairs("data")
    steps = [
        ("train-style", "data", "--out", "style", *TINY_STYLE),
        ("train-segmenter", "data", "--out", "seg", "--augment", "style", "--style", "style", *TINY_SEGMENTER),
        ("predict", "data/images", "--out", "found", "--weights", "seg", "--tta", "full"),
        ("evaluate", "data", "found", "--out", "scores"),
        ("report", "scores"),
    ]
    for step in steps:
        result = run_verb(*step)
        assert result.exit_code == 0, (step, result.output)
    for name in ("style", "seg", "found", "scores"):
        assert (tmp_path / name / "report.html").stat().st_size > 1000
        assert tomllib.loads((tmp_path / name / "config.toml").read_text())["verb"]
        assert json.loads((tmp_path / name / "environment.json").read_text())["versions"]["torch"]
    scores = json.loads((tmp_path / "scores" / "result.json").read_text())
    assert scores["n_images"] == 8
    assert scores["verb"] == "evaluate"


def test_evaluate_gives_one_to_the_truth_itself(run_verb, write_pairs, tmp_path):
    write_pairs("data")
    result = run_verb("evaluate", "data", "data/labels", "--out", "scores")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "scores" / "result.json").read_text())["dsb_score"] == 1.0
    assert "1.000" in result.output


@pytest.mark.parametrize("ending", ["_masks.tif", "_masks.png", "_cp_masks.tif", "_cp_masks.png"])
@pytest.mark.parametrize("kind", [".tif", ".png"])
def test_the_masks_of_cellpose_are_scored_and_not_the_images_beside_them(run_verb, write_pairs, tmp_path, ending, kind):
    data, found = write_pairs("data", fluorescence=2, stained=0), tmp_path / "found"
    found.mkdir()
    for number in range(2):
        Image.open(data / "labels" / f"field-{number}.png").save(found / f"field-{number}{ending}")
        Image.open(data / "images" / f"field-{number}.png").convert("L").save(found / f"field-{number}{kind}")
    result = run_verb("evaluate", "data", "found", "--out", "scores")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "scores" / "result.json").read_text())["dsb_score"] == 1.0


def test_the_table_of_objects_describes_the_label_files(run_verb, tiny_demo, tmp_path):
    folder = tiny_demo / "full" / "none" / "seed-0" / "validation" / "tta-none"
    with (folder / "objects.csv").open() as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames) == PREDICTED
    by_image = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    for path in (folder / "predictions").glob("*_labels.tif"):
        labels = read_labels(path)
        found = by_image.get(path.name.removesuffix("_labels.tif"), [])
        assert len(found) == int(labels.max())
        for row in found:
            area = labels == int(row["label"])
            ys, xs = area.nonzero(as_tuple=True)
            box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
            assert tuple(int(row[name]) for name in ("x0", "y0", "x1", "y1")) == box
            assert int(row["area_px"]) == int(area.sum())


def test_the_table_of_images_describes_the_label_files(tiny_demo):
    folder = tiny_demo / "full" / "none" / "seed-0" / "validation" / "tta-none"
    with (folder / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == PredictedImage._fields == ("image_id", "width", "height", "n_objects", "modality")
    assert len(rows) == len(list((folder / "predictions").glob("*_labels.tif"))) == 12
    for row in rows:
        labels = read_labels(folder / "predictions" / f"{row['image_id']}_labels.tif")
        assert (int(row["height"]), int(row["width"])) == labels.shape
        assert int(row["n_objects"]) == int(labels.max())


@pytest.mark.parametrize("verb", ["demo", "train-style", "train-segmenter"])
def test_a_dry_run_prints_the_settled_config_and_writes_nothing(run_verb, tmp_path, verb):
    data = [] if verb == "demo" else ["data"]
    key = "style_steps" if verb == "demo" else "training.steps"
    result = run_verb(verb, *data, "--out", "run", "--dry-run", "--set", f"{key}=7")
    assert result.exit_code == 0, result.output
    table = tomllib.loads(result.stdout)
    assert (table if verb == "demo" else table["training"])[key.split(".")[-1]] == 7
    assert list(tmp_path.iterdir()) == []


def test_info_describes_the_installation_and_writes_only_when_asked(run_verb, tmp_path):
    result = run_verb("info")
    assert result.exit_code == 0
    assert "torch: 2" in result.output
    assert f"instruction set: {torch.backends.cpu.get_cpu_capability()}\n" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_training_resumed_after_an_end_in_the_middle_has_the_same_bytes(run_verb, write_pairs, tmp_path):
    write_pairs("data")
    settings = [
        "--set",
        "width=4",
        "--set",
        "size_px=32",
        "--k",
        "2",
        "--set",
        "checkpoint_every=2",
        "--set",
        "judge_steps=0",
    ]
    run_verb("train-style", "data", "--out", "whole", "--set", "steps=4", *settings)
    run_verb("train-style", "data", "--out", "parts", "--set", "steps=4", *settings)
    parts = tmp_path / "parts"
    for name in ("weights.safetensors", "result.json"):
        (parts / name).unlink()
    for file in (parts / "checkpoints" / "step-000004").iterdir():
        file.unlink()
    (parts / "checkpoints" / "step-000004").rmdir()
    result = run_verb("train-style", "data", "--out", "parts", "--set", "steps=4", "--resume", *settings)
    assert result.exit_code == 0, result.output
    assert "from step 2" in result.output
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_manifest_that_names_some_images_gives_the_others_the_nearest(run_verb, write_pairs, tmp_path):
    folder = write_pairs("data")
    names = {0: "hoechst", 7: "he"}
    rows = [f"field-{n},images/field-{n}.png,labels/field-{n}.png,{names.get(n, '')},," for n in range(8)]
    (folder / "manifest.csv").write_text("\n".join(["id,image,labels,modality,split,field_of_view", *rows]))
    assert run_verb("discover", "data", "--out", "found").exit_code == 0
    with (tmp_path / "found" / "manifest.csv").open() as file:
        assert [row["modality"] for row in csv.DictReader(file)] == ["hoechst"] * 4 + ["he"] * 4
    assert run_verb("train-style", "data", "--out", "style", *TINY_STYLE).exit_code == 0
