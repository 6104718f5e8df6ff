"""`discover`: what is written, what a person may change, and inputs that are odd."""

from __future__ import annotations

import csv
import json
import os
import re
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from nucstyle.core.errors import ConfigError, OptionError
from nucstyle.core.protocols import SILENT
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.manifest import Record
from nucstyle.modality.features import ImageStatistics
from nucstyle.workflows import discover as workflow
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
    assert {"figures/modalities.png", "figures/modalities.svg", "figures/modalities.csv", "samples/_tiles.jpg"} <= names
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
    assert (tmp_path / "found" / "figures" / "candidates.csv").read_text().startswith("k,silhouette,")
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
    rewrite(tmp_path / "some.csv", [{**row, "image": str(found / row["image"]), "labels": ""} for row in kept])
    result = run_verb("discover", "data", "--from", "some.csv", "--out", "again")
    assert result.exit_code == 0, result.output
    assert list(modalities_of(tmp_path / "again").values()) == ["dapi"] * 4 + ["he"] * 4


def test_further_modalities_form_beside_the_named_ones(found, run_verb, tmp_path):
    rows = rows_of(found / "manifest.csv")
    rewrite(
        tmp_path / "some.csv", [{**rows[0], "image": str(found / rows[0]["image"]), "labels": "", "modality": "dapi"}]
    )
    result = run_verb("discover", "data", "--from", "some.csv", "--k", 2, "--out", "again")
    assert result.exit_code == 0, result.output
    names = list(modalities_of(tmp_path / "again").values())
    assert names[:4] == ["dapi"] * 4
    assert len(set(names[4:])) == 1
    assert names[4] != "dapi"


def test_images_that_came_later_join_those_of_the_manifest(found, run_verb, tmp_path, field):
    (tmp_path / "later").mkdir()
    for number in range(4):
        Image.fromarray(field(20 + number, stained=number > 1)[0]).save(tmp_path / "later" / f"new-{number}.png")
    result = run_verb("discover", "later", "--from", "found", "--out", "again")  # the run folder will do
    assert result.exit_code == 0, result.output
    assert "8 of its images are not in the data and are taken along" in result.output
    before, after = modalities_of(found), modalities_of(tmp_path / "again")
    assert {name: after[name] for name in before} == before
    assert [after[f"new-{number}"] for number in range(4)] == [before["field-0"]] * 2 + [before["field-7"]] * 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,image,labels,modality,split,field_of_view\na,data/images/field-0.png,,,,\n", "names no modality"),
        ("id;image;labels;modality\na;b;c;d\n", "save it with commas"),
        (None, "other.csv"),
    ],
)
def test_a_manifest_that_names_nothing_is_refused(found, run_verb, tmp_path, content, said):
    if content:
        (tmp_path / "other.csv").write_text(content)
    result = run_verb("discover", "data", "--from", "other.csv", "--out", "again")
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "again").exists()


def test_no_further_modalities_can_form_where_every_image_has_a_name(found, run_verb):
    result = run_verb("discover", "found/manifest.csv", "--k", 5, "--out", "again")
    assert "asked for 5 modalities, made 2: too few images without a name" in result.output


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


def test_an_edited_manifest_is_never_written_over(found, run_verb):
    rows = rows_of(found / "manifest.csv")
    rows[0]["modality"] = "mine"
    rewrite(found / "manifest.csv", rows)
    for option in ("--overwrite", "--resume"):
        result = run_verb("discover", "data", "--out", "found", "--k", 2, option)
        assert result.exit_code == 2
        assert "manifest.csv: was edited" in result.output
    assert rows_of(found / "manifest.csv") == rows
    assert run_verb("report", "found").exit_code == 0
    assert "manifest.csv was edited after this was found" in (found / "report.html").read_text()


def test_a_finished_run_stays_and_other_settings_are_refused(found, run_verb):
    before = (found / "embedding.csv").stat().st_mtime_ns
    assert run_verb("discover", "data", "--out", "found", "--k", 2, "--resume").exit_code == 0
    assert (found / "embedding.csv").stat().st_mtime_ns == before
    result = run_verb("discover", "data", "--out", "found", "--k", 3, "--resume")
    assert result.exit_code == 2
    assert "k was 2" in result.output
    assert run_verb("discover", "data", "--out", "found", "--k", 1, "--overwrite").exit_code == 0
    assert len([path for path in (found / "samples").iterdir() if not path.name.startswith("_") and path.is_dir()]) == 1


def test_an_empty_name_in_the_given_manifest_divides_the_image_anew(found, run_verb, tmp_path):
    rows = rows_of(found / "manifest.csv")
    for row in rows[1:4]:
        row["modality"] = ""
    rewrite(tmp_path / "some.csv", [{**row, "image": str(found / row["image"]), "labels": ""} for row in rows])
    rows[1]["modality"] = "slip"
    rewrite(found / "manifest.csv", rows)
    assert run_verb("discover", "found/manifest.csv", "--from", "some.csv", "--out", "again").exit_code == 0
    assert list(modalities_of(tmp_path / "again").values())[:4] == [rows[0]["modality"]] * 4


def test_ids_of_other_files_are_refused(found, run_verb, tmp_path, write_pairs):
    rows = rows_of(found / "manifest.csv")
    (tmp_path / "cell.png").write_bytes((found / rows[0]["image"]).read_bytes())
    elsewhere = [{**rows[0], "image": "cell.png", "labels": ""}]
    rewrite(tmp_path / "elsewhere.csv", elsewhere)
    result = run_verb("discover", "data", "--from", "elsewhere.csv", "--out", "again")
    assert result.exit_code == 2
    assert "cell.png there" in result.output


def test_fewer_modalities_than_are_named_are_refused(found, run_verb):
    result = run_verb("discover", "found/manifest.csv", "--k", 1, "--out", "again")
    assert result.exit_code == 2
    assert "--k 1: 2 modalities are named" in result.output
    assert "looks for no others" in run_verb("discover", "found/manifest.csv", "--k", "auto", "--out", "again").output


def test_names_outside_the_training_part_are_kept_counted_and_pointed_out(found, run_verb, tmp_path):
    rows = rows_of(found / "manifest.csv")
    for row in rows:
        row["split"], row["modality"] = "train", ""
    rows[3].update(split="validation", modality="grey-on-black")  # a name that the program would give as well
    rows[7].update(split="test", modality="mine")
    rewrite(found / "manifest.csv", rows)
    result = run_verb("discover", "found/manifest.csv", "--k", 2, "--out", "again")
    assert result.exit_code == 0, result.output
    assert "nothing was learned of them: grey-on-black, mine" in result.output
    told = json.loads((tmp_path / "again" / "result.json").read_text())
    assert sum(told["modalities"].values()) == 8
    assert told["modalities"]["mine"] == told["modalities"]["grey-on-black"] == 1
    assert told["modalities"]["grey-on-black-2"] == 3
    assert "mine (1)" in (tmp_path / "again" / "report.html").read_text()


def test_without_a_training_part_the_person_is_told(found, run_verb):
    rows = rows_of(found / "manifest.csv")
    rewrite(found / "manifest.csv", [{**row, "split": "test", "modality": ""} for row in rows])
    result = run_verb("discover", "found/manifest.csv", "--k", 2, "--out", "again")
    assert "no image is of the part train, so modalities are fitted to all" in result.output


def test_a_training_measures_as_the_discovery_did(found, run_verb, tmp_path):
    assert run_verb("discover", "data", "--out", "hsv", "--k", 2, "--features", "hsv").exit_code == 0
    options = ("--set", "steps=1", "--set", "width=4", "--set", "size_px=32", "--set", "judge_steps=0")
    trained = run_verb("train-style", "hsv/manifest.csv", "--out", "style", *options)
    assert trained.exit_code == 0, trained.output
    assert read_modality_model(tmp_path / "style" / "modalities" / "modality.json").features == "hsv"


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
        monkeypatch.setattr(statistics, "usable_cpus", lambda threads=threads: threads)
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


def test_file_names_that_are_not_utf8_are_shown_as_far_as_they_can_be(run_verb, field, tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(3):
        Image.fromarray(field(number)[0]).save(tmp_path / "data" / os.fsdecode(b"\xff%d.png" % number))
    result = run_verb("discover", "data", "--out", "found", "--k", 2)
    assert result.exit_code == 0, result.output
    assert "\ufffd0" in (tmp_path / "found" / "report.html").read_text(encoding="utf-8")


def test_more_images_than_the_page_can_show_are_shown_in_turn_from_each_modality(
    run_verb, write_pairs, tmp_path, monkeypatch
):
    monkeypatch.setattr(workflow, "TILES", 5)
    write_pairs("data", fluorescence=8, stained=2)
    assert run_verb("discover", "data", "--out", "found", "--k", 2).exit_code == 0
    rows = rows_of(tmp_path / "found" / "embedding.csv")
    shown = [row["modality"] for row in rows if row["tile"]]
    assert [shown.count(name) for name in dict.fromkeys(shown)] == [3, 2]
    page = (tmp_path / "found" / "report.html").read_text()
    assert page.count("<circle") == 5
    assert "The scatter shows 5 of the images" in page


def test_fifty_thousand_images_are_divided_in_seconds(monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    middles = generator.uniform(size=(6, 5))
    groups = generator.choice(6, 50_000, p=[0.7, 0.1, 0.08, 0.06, 0.04, 0.02])
    points = (middles[groups] + generator.normal(0, 0.03, (len(groups), 5))).round(6)
    measured = [ImageStatistics(point, np.ones(3), np.zeros(3), np.ones(3), -0.5) for point in points]
    records = [
        Record(id=str(i), image=tmp_path / f"{i}.png", split="train" if i % 5 else "validation") for i in range(50_000)
    ]
    monkeypatch.setattr(workflow, "measure_all", lambda *_, **__: measured)
    started = time.perf_counter()
    found = find_modalities(Dataset(records), discover_config(k=6))
    assert time.perf_counter() - started < 60
    assert adjusted_rand_score([record.modality for record in found.records], groups) > 0.99
    assert np.mean([one.is_new for one in found.recognised]) < 0.05


# Division into parts


def write_tiles(folder, field):
    """Twelve fluorescence fields and eight stained ones, the first field of each cut in two tiles."""
    (folder / "images").mkdir(parents=True)
    for number in range(20):
        image, _ = field(number, stained=number >= 12, size=(96, 224 if number in (0, 12) else 112), nuclei=60)
        for place in range(image.shape[1] // 112):
            part = image[:, 112 * place : 112 * (place + 1)]
            Image.fromarray(part).save(folder / "images" / f"{number:02d}-{place}.png")


def test_split_divides_every_modality_and_keeps_tiles_together(run_verb, tmp_path, field):
    write_tiles(tmp_path / "data", field)
    result = run_verb("discover", "data", "--out", "found", "--k", 2, "--split", "0.6,0.2,0.2")
    assert result.exit_code == 0, result.output
    rows = {row["id"]: row for row in rows_of(tmp_path / "found" / "manifest.csv")}
    for first in ("00-0", "12-0"):
        tiles = [rows[first], rows[first[:3] + "1"]]
        assert {row["field_of_view"] for row in tiles} == {first}
        assert len({row["split"] for row in tiles}) == 1
    assert {row["field_of_view"] for row in rows.values()} == {"00-0", "12-0", ""}
    for modality in set(modalities_of(tmp_path / "found").values()):
        assert {row["split"] for row in rows.values() if row["modality"] == modality} == {"train", "validation", "test"}
    assert "fields of view of several images: 2, 4 images in all" in result.stderr


def test_parts_that_were_asked_for_and_have_no_image_are_told(run_verb, write_pairs, tmp_path):
    write_pairs("data", fluorescence=1, stained=1)
    for shares, missing in (("0.6,0.2,0.2", "validation or test"), ("0.8,0.2", "validation")):
        result = run_verb("discover", "data", "--out", "found", "--k", 2, "--split", shares, "--overwrite")
        assert f"warning: no image is of the part {missing}: too few fields to divide" in result.stderr
    (tmp_path / "found" / "manifest.csv").write_text(
        (tmp_path / "found" / "manifest.csv").read_text().replace(",validation,", ",train,")
    )
    result = run_verb("discover", "found/manifest.csv", "--out", "again", "--split", "0.8,0.2")
    assert "the part validation: all images had one" in result.stderr
    assert "into the column split" in result.stderr


def test_modalities_are_fitted_to_the_part_train_that_split_made(run_verb, tmp_path, field):
    write_tiles(tmp_path / "data", field)
    assert run_verb("discover", "data", "--out", "found", "--k", 2, "--split", "0.6,0.4").exit_code == 0
    model = json.loads((tmp_path / "found" / "modality.json").read_text())
    train = sum(row["split"] == "train" for row in rows_of(tmp_path / "found" / "manifest.csv"))
    assert sum(one["n_images"] for one in model["modalities"]) == train < 22


def test_images_that_have_a_part_keep_it(run_verb, tmp_path, field, write_pairs):
    folder = write_pairs("data")
    lines = ["id,image,labels,modality,split,field_of_view"]
    lines += [f"{n},images/field-{n}.png,,,{'test' if n == 0 else ''}," for n in range(8)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    result = run_verb("discover", "data", "--out", "found", "--k", 2, "--split", "0.5,0.5")
    assert result.exit_code == 0, result.output
    parts = [row["split"] for row in rows_of(tmp_path / "found" / "manifest.csv")]
    assert parts[0] == "test"
    assert set(parts[1:]) == {"train", "validation"}
    assert "1 of 8 images had a part and keep it" in result.stderr


@pytest.mark.parametrize("shares", ["0.7", "0.7,0.2", "a,b", "0,0.5,0.5", "1.2,-0.2", "nan,1", "0.4,0.2,0.2,0.2", ""])
def test_shares_that_make_no_sense_are_refused(run_verb, write_pairs, shares):
    write_pairs("data")
    result = run_verb("discover", "data", "--out", "found", "--split", shares)
    assert result.exit_code == 2
    assert "for example 0.7,0.15,0.15" in result.stderr
