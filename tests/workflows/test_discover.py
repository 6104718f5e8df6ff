"""`discover`: what is written, what a person may change, and inputs that are odd."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from nucstyle.core.errors import ConfigError, OptionError
from nucstyle.core.protocols import SILENT
from nucstyle.data.dataset import open_dataset
from nucstyle.workflows import statistics
from nucstyle.workflows.discover import discover_config, find_modalities, read_modality_model
from nucstyle.workflows.statistics import measure_all


@pytest.fixture
def found(run_verb, write_pairs, tmp_path):
    """A finished run over four fluorescence fields and four stained ones, two modalities."""
    write_pairs("data")
    result = run_verb("discover", "data", "--out", "found", "--k", 2)
    assert result.exit_code == 0, result.output
    return tmp_path / "found"


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def rewrite(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def modalities_of(folder):
    return {row["id"]: row["modality"] for row in rows_of(folder / "manifest.csv")}


# What is written


def test_everything_that_people_look_at_is_there(found):
    names = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert {"manifest.csv", "modality.json", "embedding.csv", "result.json", "report.html"} <= names
    assert {"figures/modalities.png", "figures/modalities.svg", "samples/_tiles.jpg"} <= names
    page = (found / "report.html").read_text()
    assert page.count("<circle") == 8
    for row in rows_of(found / "embedding.csv"):
        assert f"<title>{row['id']} ({row['modality']})</title>" in page
    assert not re.search(r"(?:src|href)=\"(?!data:image/(png|jpeg);base64,|#)", page)
    assert "At the borders" in page
    assert "Like nothing seen" in page


def test_the_tile_of_an_image_shows_that_image(found, tmp_path):
    rows, images = (
        rows_of(found / "embedding.csv"),
        {row["id"]: row["image"] for row in rows_of(found / "manifest.csv")},
    )
    with Image.open(found / "samples" / "_tiles.jpg") as file:
        sheet = np.asarray(file.convert("RGB")).astype(float)
    for row in rows:
        left = int(row["tile"]) * 96
        with Image.open(found / images[row["id"]]) as file:
            colour = np.asarray(file.convert("RGB")).mean(axis=(0, 1))
        tile = sheet[48 - 30 : 48 + 30, left + 10 : left + 86].mean(axis=(0, 1))
        assert np.abs(tile - colour).max() < 25, row["id"]


def test_the_same_images_and_seed_give_the_same_files(found, run_verb, tmp_path):
    assert run_verb("discover", "data", "--out", "again", "--k", 2).exit_code == 0
    for name in ("manifest.csv", "modality.json", "embedding.csv", "result.json", "samples/_tiles.jpg", "report.html"):
        if name == "report.html":
            continue  # it holds the environment, with the time
        assert (tmp_path / "again" / name).read_bytes() == (found / name).read_bytes(), name


def test_the_number_of_modalities_can_be_left_to_the_program(run_verb, write_pairs, tmp_path):
    write_pairs("data", fluorescence=12, stained=8)
    result = run_verb("discover", "data", "--out", "found", "--k", "auto")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "found" / "result.json").read_text())
    assert told["k"] == 2
    assert [one["k"] for one in told["candidates"]] == list(range(2, 11))
    assert (tmp_path / "found" / "figures" / "candidates.svg").is_file()
    assert "How many" in (tmp_path / "found" / "report.html").read_text()


def test_the_features_of_the_paper_are_a_flag_away(run_verb, write_pairs, tmp_path):
    write_pairs("data")
    assert run_verb("discover", "data", "--out", "found", "--k", 2, "--features", "hsv").exit_code == 0
    model = read_modality_model(tmp_path / "found" / "modality.json")
    assert model.features == "hsv"
    assert len(model.origin) == 6
    assert "hsv" in (tmp_path / "found" / "config.toml").read_text()


def test_clahe_is_recorded_and_applied_to_later_images_too(run_verb, write_pairs, tmp_path, sample_of):
    write_pairs("data")
    options = ("--k", 2, "--clahe", "--set", "darker_than=1", "--set", "clip_limit=0.02")
    result = run_verb("discover", "data", "--out", "found", *options)
    assert result.exit_code == 0, result.output
    state = json.loads((tmp_path / "found" / "modality.json").read_text())["clahe"]
    expected = {"clip_limit": 0.02, "tiles": 8, "darker_than": 1.0}
    assert state == {**expected, "implementation": "skimage.exposure.equalize_adapthist"}
    model = read_modality_model(tmp_path / "found" / "modality.json")
    plain = discover_config(k=2)
    image = sample_of(0).image
    assert not np.allclose(
        model.measure(image).features, find_modalities(open_dataset("data"), plain).statistics[0].features
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": "many"}, "--k many"),
        ({"k": "0"}, "--k 0"),
        ({"k": "-3"}, "--k -3"),
        ({"features": "rgb"}, "--features rgb"),
        ({"overrides": ["tiles=4"]}, "add --clahe"),
        ({"overrides": ["tile=4"], "clahe": True}, "tiles"),
        ({"overrides": ["tiles=0"], "clahe": True}, "tiles"),
    ],
)
def test_options_that_are_not_allowed_are_named(options, said):
    with pytest.raises((OptionError, ConfigError), match=said) as caught:
        discover_config(**options)
    assert caught.value.exit_code == 2


# What a person changes


def test_names_and_a_move_hold_in_a_second_run(found, run_verb, tmp_path):
    rows = rows_of(found / "manifest.csv")
    for row in rows:
        row["modality"] = "stain" if row["id"] in (rows[0]["id"], *(row["id"] for row in rows[4:])) else "dapi"
    rewrite(found / "manifest.csv", rows)
    result = run_verb("discover", "found/manifest.csv", "--out", "again")
    assert result.exit_code == 0, result.output
    assert modalities_of(tmp_path / "again") == {row["id"]: row["modality"] for row in rows}
    model = read_modality_model(tmp_path / "again" / "modality.json")
    named = [model.predict(sample.image) for sample in open_dataset(found / "manifest.csv")]
    assert (
        named == ["dapi"] * 4 + ["stain"] * 4
    )  # the moved image is what it is; in the manifest it is where it was put


def test_the_rest_is_divided_around_what_a_person_named(found, run_verb, tmp_path):
    rows = rows_of(found / "manifest.csv")
    kept = [rows[0], rows[-1]]
    kept[0]["modality"], kept[1]["modality"] = "dapi", "he"
    rewrite(tmp_path / "some.csv", [{**row, "image": str(found / row["image"])} for row in kept])
    result = run_verb("discover", "data", "--from", "some.csv", "--out", "again")
    assert result.exit_code == 0, result.output
    assert list(modalities_of(tmp_path / "again").values()) == ["dapi"] * 4 + ["he"] * 4


def test_further_modalities_form_beside_the_named_ones(found, run_verb, tmp_path):
    rows = rows_of(found / "manifest.csv")
    rewrite(tmp_path / "some.csv", [{**rows[0], "image": str(found / rows[0]["image"]), "modality": "dapi"}])
    result = run_verb("discover", "data", "--from", "some.csv", "--k", 2, "--out", "again")
    assert result.exit_code == 0, result.output
    names = list(modalities_of(tmp_path / "again").values())
    assert names[:4] == ["dapi"] * 4
    assert len(set(names[4:])) == 1
    assert names[4] != "dapi"


def test_a_manifest_of_other_images_is_refused(found, run_verb, tmp_path):
    rows = rows_of(found / "manifest.csv")
    other = [{**row, "id": f"other-{row['id']}", "image": str(found / row["image"])} for row in rows]
    rewrite(tmp_path / "other.csv", other)
    result = run_verb("discover", "data", "--from", "other.csv", "--out", "again")
    assert result.exit_code == 2
    assert "other.csv" in result.output
    assert not (tmp_path / "again").exists()


def test_a_name_that_looks_misspelt_is_pointed_out(found, run_verb):
    rows = rows_of(found / "manifest.csv")
    rows[0]["modality"] = rows[1]["modality"] + "e"
    rewrite(found / "manifest.csv", rows)
    result = run_verb("discover", "found/manifest.csv", "--out", "again")
    assert f"{rows[1]['modality']!r} and {rows[0]['modality']!r} differ by a letter or two" in result.output


def test_numbered_names_of_the_program_are_not_called_misspelt(found, run_verb):
    rows = rows_of(found / "manifest.csv")
    rows[0]["modality"] = rows[1]["modality"] + "-2"
    rewrite(found / "manifest.csv", rows)
    assert "differ by a letter" not in run_verb("discover", "found/manifest.csv", "--out", "again").output


# Odd inputs


def write_images(folder, arrays):
    folder.mkdir()
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{number}.png")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("k", ["6", "auto"])
def test_fewer_images_than_modalities_are_divided_as_far_as_they_go(run_verb, field, tmp_path, count, k):
    write_images(tmp_path / "data", [field(number)[0] for number in range(count)])
    result = run_verb("discover", "data", "--out", "found", "--k", k)
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "found" / "result.json").read_text())
    assert told["k"] == (count if k == "6" else 1)
    assert (f"asked for 6 modalities, made {count}" in result.output) == (k == "6")


@pytest.mark.parametrize("value", [0, 77, 255])
def test_identical_and_constant_images_are_one_modality(run_verb, tmp_path, value):
    write_images(tmp_path / "data", [np.full((20, 30, 3), value, np.uint8)] * 5)
    result = run_verb("discover", "data", "--out", "found")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "found" / "result.json").read_text())
    assert told["k"] == 1
    assert told["new"]["count"] == 0
    assert told["silhouette"] is None


def test_grey_and_16_bit_images_join_their_8_bit_kin(run_verb, field, tmp_path):
    arrays = [field(number)[0] for number in range(4)] + [field(number, stained=True)[0] for number in range(4)]
    write_images(tmp_path / "data", [*arrays, arrays[0][..., 0], arrays[1][..., 0].astype(np.uint16) * 200])
    result = run_verb("discover", "data", "--out", "found", "--k", 2)
    assert result.exit_code == 0, result.output
    named = modalities_of(tmp_path / "found")
    assert {named[name] for name in "012389"} == {named["0"]}
    assert {named[name] for name in "4567"} == {named["4"]} != {named["0"]}


# Measuring


def test_what_was_measured_is_not_measured_again(write_pairs, tmp_path, monkeypatch):
    folder = write_pairs("data")
    first = measure_all(open_dataset(folder), features="chroma", clahe=None, progress=SILENT)

    def fail(*_):
        pytest.fail("measured again")

    monkeypatch.setattr(statistics, "measure_as", fail)
    second = measure_all(open_dataset(folder), features="chroma", clahe=None, progress=SILENT)
    for one, other in zip(first, second, strict=True):
        assert one.skew == other.skew
        for name in ("features", "background", "darkest", "brightest"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_a_file_that_changed_is_measured_again(write_pairs, tmp_path, field):
    folder = write_pairs("data")
    first = measure_all(open_dataset(folder), features="chroma", clahe=None, progress=SILENT)
    changed = open_dataset(folder).records[0].image
    Image.fromarray(255 - field(0)[0]).save(changed)
    second = measure_all(open_dataset(folder), features="chroma", clahe=None, progress=SILENT)
    assert not np.allclose(first[0].features, second[0].features)
    assert np.array_equal(first[1].features, second[1].features)


def test_order_and_values_do_not_depend_on_the_threads(write_pairs, monkeypatch):
    folder = write_pairs("data", fluorescence=12, stained=12)
    results = []
    for threads in (1, 7):
        monkeypatch.setattr(statistics.os, "cpu_count", lambda threads=threads: threads)
        results.append(measure_all(open_dataset(folder), features="chroma", clahe=None, progress=SILENT, cache=False))
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one.features, other.features)


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_written(run_verb, write_pairs, tmp_path):
    folder = write_pairs("data")
    image = open_dataset(folder).records[5].image
    image.write_bytes(image.read_bytes()[:200])
    result = run_verb("discover", "data", "--out", "found")
    assert result.exit_code == 2
    assert image.name in result.output
    assert not (tmp_path / "found").exists()
