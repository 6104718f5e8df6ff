"""Names that file systems take and programs stumble over: every verb writes a file for each, and reads it again."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from nucstyle.data.dataset import open_dataset
from nucstyle.data.predictions import read_images

NAMES = (
    "é",  # one character
    "e\u0301",  # the same to the eye, in two
    "核",
    "with space",
    "new\nline",
    "-leading",
    "--out",
    "a",
    "A",
    "two.dots..",
    "a, 'b' \"c\"; [d] {e} %s $HOME `f` <g> & *",
    "tab\tand\rreturn",
    "x" * 200,
    os.fsdecode(b"latin-\xe9-\xff"),
)
ESCAPE = "\x1b[31m"


@pytest.fixture
def odd(tmp_path, field):
    """Pairs of those names."""
    for part in ("images", "labels"):
        (tmp_path / "odd" / part).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        image, labels = field(number, size=(32, 40), nuclei=2, stained=number % 2 == 1)
        for part, array in (("images", image), ("labels", labels.astype("uint8"))):
            Image.fromarray(array).save(tmp_path / "odd" / part / f"{name}.png", format="PNG")
    return tmp_path / "odd"


def names_in(folder, ending):
    return {path.name.removesuffix(ending) for path in folder.iterdir() if path.name.endswith(ending)}


def test_every_name_gets_its_own_prediction_and_score(run_verb, odd, tmp_path):
    result = run_verb("predict", "odd", "--out", "run", "--tta", "none")
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path / "run" / "predictions", "_labels.tif") == set(NAMES)
    assert {one.image_id for one in read_images(tmp_path / "run")} == set(NAMES)
    again = open_dataset(tmp_path / "run")
    assert {(one.id, one.image.name) for one in again.records} == {(name, f"{name}.png") for name in NAMES}
    assert all(sample.labels is not None for sample in again)
    result = run_verb("evaluate", "odd", "run", "--out", "scores")
    assert result.exit_code == 0, result.output
    assert "\ufffd" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "verb",
    [
        ("discover", "odd", "--out", "run", "--k", "2"),
        ("translate", "odd", "--out", "run"),
        ("augment", "odd", "run", "--no-gate", "--copies", "1"),
        ("convert", "odd", "run", "--to", "stardist"),
        ("convert", "odd", "run", "--to", "coco"),
        ("convert", "odd", "run", "--to", "rle"),
        ("check", "odd", "--out", "run"),
    ],
    ids=lambda verb: f"{verb[0]} {verb[-1]}",
)
def test_every_verb_takes_every_name(run_verb, odd, tmp_path, verb):
    names = NAMES
    if verb[-1] == "rle":  # whose table is text
        names = NAMES[:-1]
        for part in ("images", "labels"):
            (odd / part / f"{NAMES[-1]}.png").unlink()
    result = run_verb(*verb)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    if verb[0] == "translate":
        assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == set(names)
    elif verb[0] != "check":
        assert {record.id for record in open_dataset(tmp_path / "run").records} >= set(names)


def test_a_name_is_told_without_its_control_characters_and_however_it_is_encoded(run_verb, odd):
    for name in (f"red{ESCAPE}", os.fsdecode(b"\xff\xfe"), "two\nlines"):
        (odd / "images" / f"{name}.png").write_bytes(b"damaged")
    result = run_verb("predict", "odd", "--out", "run", "--tta", "none")
    assert result.exit_code == 2
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("nucstyle: "))
    assert "3 of 17 images could not be used" in line
    assert line.isprintable()
    for told in ("red?[31m.png", "??.png", "two lines.png"):
        assert told in line
