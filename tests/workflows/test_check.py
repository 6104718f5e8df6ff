"""`check`: what it prints and writes, its exit codes, and that it agrees with what a training does."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from nucstyle.core.errors import InputError
from nucstyle.workflows import check as workflow
from nucstyle.workflows.train_segmenter import train_segmenter


def spoil(folder, number=0, part="images"):
    path = folder / part / f"field-{number}.png"
    path.write_bytes(path.read_bytes()[:200])
    return path


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_what_was_understood_and_is_there_is_printed(run_verb, write_pairs):
    write_pairs("data")
    result = run_verb("check", "data")
    assert result.exit_code == 0, result.output
    assert "data: pairs (it holds images/)" in result.stdout
    assert "images: 8: 8 of 112 x 96" in result.stdout
    assert "types: 4 of uint8, RGB without colour, 4 of uint8, RGB" in result.stdout
    assert re.search(r"nuclei: \d+ in 8 annotated images, \d to \d an image, median", result.stdout)
    assert "parts: not known" in result.stdout


def test_every_unreadable_file_is_told_and_the_exit_code_is_2(run_verb, write_pairs):
    folder = write_pairs("data")
    bad = [spoil(folder, 1), spoil(folder, 5), spoil(folder, 3, "labels")]
    result = run_verb("check", "data")
    assert result.exit_code == 2
    assert all(str(path.relative_to(folder.parent)) in result.stdout for path in bad)
    assert "error: an image cannot be used (2; unreadable-image): replace or convert the file" in result.stdout
    assert "3 errors (unreadable-image, unreadable-labels); mend first" in result.stderr
    assert "\n" not in result.stderr.strip().splitlines()[-1]


def test_warnings_are_no_failure(run_verb, write_pairs):
    folder = write_pairs("data")
    for part in ("images", "labels"):
        shutil.copy(folder / part / "field-0.png", folder / part / "copy.png")
    result = run_verb("check", "data", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "warning: images that are the same, pixel by pixel (1; exact-duplicate): keep one of them" in result.stdout
    both = "  data/images/copy.png, data/images/field-0.png: "
    assert both in result.stdout


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_exit_code_is_that_of_a_training(write_pairs, tmp_path, number):
    """Where the doctor sees an error, the training refuses; where it only warns, the training runs."""
    folder = write_pairs("data", fluorescence=3, stained=0)
    if number == 1:
        spoil(folder, 2)
    elif number == 2:
        (folder / "labels" / "field-1.png").unlink()
    elif number == 3:
        Image.fromarray(np.zeros((96, 112), np.uint8)).save(folder / "labels" / "field-1.png")
    errors = workflow.check(folder).errors
    sizes = ["size_px=64", "batch_size=1", "pyramid_channels=16", "box_head_size=32", "mask_layers=1"]
    options = {"overrides": ["steps=1", "measure_every=0", *sizes], "device": "cpu"}
    if errors:
        with pytest.raises(InputError):
            train_segmenter(folder, tmp_path / "run", **options)
    else:
        train_segmenter(folder, tmp_path / "run", **options)
    assert bool(errors) == (number in (1, 2))


def test_a_file_that_describes_all_images_is_told_with_the_image(run_verb, write_pairs):
    folder = write_pairs("data", fluorescence=2, stained=0)
    labels = np.array(Image.open(folder / "labels" / "field-1.png"))
    labels[0, 0] = 99
    Image.fromarray(labels).save(folder / "labels" / "field-1.png")
    assert run_verb("convert", "data", "many", "--to", "coco").exit_code == 0
    (folder.parent / "many" / "manifest.csv").unlink()
    result = run_verb("check", "many")
    assert result.exit_code == 0
    assert "many: coco (" in result.output
    assert "instances.json: 1 nucleus is one pixel wide or high (image field-1)" in result.output


def test_pages_and_pieces_are_read_as_every_verb_reads_them(run_verb, write_pairs):
    folder = write_pairs("data", fluorescence=2, stained=0)
    for file in (folder / "labels").iterdir():
        Image.fromarray(np.where(np.array(Image.open(file)) > 0, 255, 0).astype(np.uint8)).save(file)
    assert (
        "labels with one number, or one mask, for several nuclei (2; binary-labels)" in run_verb("check", "data").output
    )
    assert run_verb("check", "data", "--connected-components").exit_code == 0
    assert "unreadable-image" in run_verb("check", "data", "--connected-components", "--max-pixels", "100").output


def test_a_run_folder_holds_the_findings_with_pictures_and_one_page(run_verb, write_pairs, tmp_path):
    folder = write_pairs("data")
    labels = np.array(Image.open(folder / "labels" / "field-2.png"))
    labels[0, 0] = 99
    Image.fromarray(labels).save(folder / "labels" / "field-2.png")
    spoil(folder, 1)
    result = run_verb("check", "data", "--out", "run")
    assert result.exit_code == 2
    run = tmp_path / "run"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} - {".lock"}
    pictures = {name for name in files if name.startswith("samples/")}
    assert files - pictures == {"config.toml", "environment.json", "findings.json", "result.json", "report.html"}
    found = {one["kind"]: one for one in read(run, "findings.json")["findings"]}
    assert found["unreadable-image"]["files"] == ["data/images/field-1.png"]
    assert "picture" not in found["unreadable-image"]
    thin = found["thin-nucleus"]
    assert thin["box"] == [0, 0, 1, 1]
    assert thin["remedy"] == "remove them if they are slips of the pen"
    assert f"samples/{thin['picture']}" in pictures
    told = read(run, "result.json")
    assert (told["images"], told["annotated"], told["errors"]) == (8, 7, 1)
    assert told["findings"]["thin-nucleus"] == {"severity": "warning", "count": 1}
    page = (run / "report.html").read_text()
    assert page.count("<img") == len(pictures)
    assert "1 error: a training would fail, or learn what is wrong." in page
    assert "What to do: replace or convert the file." in page
    assert "images/field-1.png" in page
    assert run_verb("report", "run").exit_code == 0
    assert (run / "report.html").read_text() == page


def test_pictures_show_the_place_of_a_fault_and_neighbours_as_they_lie(write_pairs, tmp_path, field):
    folder = write_pairs("data", fluorescence=0, stained=0)
    image, labels = field(3, size=(96, 400), nuclei=40)
    lines = ["id,image,labels,modality,split,field_of_view"]
    for number, part in enumerate(["train", "train", "validation", "test"]):
        columns = np.s_[:, 100 * number : 100 * (number + 1)]
        for name, pixels in (("images", image), ("labels", labels.astype(np.uint8))):
            Image.fromarray(pixels[columns]).save(folder / name / f"{number}.png")
        lines.append(f"{number},images/{number}.png,labels/{number}.png,,{part},one")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    workflow.check(folder, tmp_path / "run")
    (found,) = [one for one in read(tmp_path / "run", "findings.json")["findings"] if one["kind"] == "divided-field"]
    assert found["says"] == "4 images of one field: 1 test, 2 train, 1 validation"
    with Image.open(tmp_path / "run" / "samples" / found["picture"]) as picture:
        assert picture.size == (400, 192)  # two of 100 x 96 side by side, twice their size


def test_the_same_data_give_the_same_bytes(write_pairs, tmp_path):
    folder = write_pairs("data")
    for name in ("one", "two"):
        workflow.check(folder, tmp_path / name)
    for name in ("result.json", "findings.json", "config.toml"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_data_set_is_not_written_over(run_verb, write_pairs):
    write_pairs("data")
    assert run_verb("check", "data", "--out", "data").exit_code == 2
    assert run_verb("check", "data", "--out", "run").exit_code == 0
    again = run_verb("check", "data", "--out", "run")
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert run_verb("check", "data", "--out", "run", "--overwrite").exit_code == 0


def test_where_there_is_nothing_to_look_at_one_line_says_so(run_verb):
    result = run_verb("check", "nothing")
    assert result.exit_code == 2
    assert result.stderr.strip().splitlines()[-1] == "nucstyle: nothing: no such file or folder"


def test_control_characters_in_names_do_not_reach_the_terminal(run_verb, write_pairs):
    folder = write_pairs("data")
    (folder / "images" / "a\x1b[31m.png").write_bytes(b"")
    result = run_verb("check", "data")
    assert result.exit_code == 2
    assert "\x1b" not in result.output


def test_names_that_are_not_utf_8_are_looked_at_and_shown(run_verb, write_pairs, tmp_path):
    folder = write_pairs("data")
    name = os.fsdecode(b"\xff")
    for part in ("images", "labels"):
        shutil.copy(folder / part / "field-0.png", folder / part / f"{name}.png")
    result = run_verb("check", "data", "--out", "run")
    assert result.exit_code == 0, result.output
    (found,) = [one for one in read(tmp_path / "run", "findings.json")["findings"] if one["kind"] == "exact-duplicate"]
    assert found["ids"] == ["field-0", name]
    assert "\ufffd" in (tmp_path / "run" / "report.html").read_text()
