"""Images larger than may be read whole: what comes out is what comes of reading them whole, and memory holds a band."""

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
import torch

from nucstyle.data import label_bands
from nucstyle.data.dataset import open_dataset
from nucstyle.data.image_io import read_labels
from nucstyle.data.manifest import Record, write_manifest
from nucstyle.data.run_folder import read_json
from nucstyle.segmentation.decode import Decoded
from nucstyle.workflows import convert as workflow
from nucstyle.workflows import predict

SIZE = (203, 310)
LIMIT = ("--max-pixels", SIZE[0] * SIZE[1] // 2)
LAYOUTS = {"pairs": "labels/*.tif", "geojson": "geojson/*.geojson", "imagej": "rois/*.zip"}
HOW = {
    "uncompressed": {},
    "strips": {"rowsperstrip": 7, "compression": "deflate"},
    "tiles": {"tile": (64, 32)},
    "deflated tiles": {"tile": (32, 64), "compression": "deflate"},
}


def label_map(field, seed=5):
    """About 40 nuclei that bands cut, with holes, gaps in their numbers, and two of them in pieces far apart."""
    labels = field(seed, size=SIZE, nuclei=40)[1] * 3
    labels[50, 20:90] = 9
    labels[np.random.default_rng(seed).random(SIZE) < 0.02] = 0
    labels[0, :5] = labels[-1, -4:] = 6
    labels[100, 100] = labels[3, 300] = labels[199, 2] = 12
    return labels


def write_large(folder, labels, how, name="a"):
    """An image with its labels, in TIFF."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    pixels = (labels > 0) * np.uint16(900) + np.arange(SIZE[1], dtype=np.uint16)
    tifffile.imwrite(folder / "images" / f"{name}.tif", pixels, tile=(32, 32), compression="deflate")
    tifffile.imwrite(folder / "labels" / f"{name}.tif", labels, **how)


@pytest.fixture
def convert(run_verb, monkeypatch):
    """`convert("data", "out", "--to", ...)`, in bands of 16 rows where it is in bands."""
    monkeypatch.setattr(label_bands, "ROWS", 16)

    def run(*arguments, code=0):
        result = run_verb("convert", *arguments)
        assert result.exit_code == code, result.output
        return result.output

    return run


def written(folder, pattern):
    """The bytes of the files, or of label images their numbers: in tiles they are packed otherwise."""
    files = sorted(folder.glob(pattern))
    return {
        file.name: read_labels(file).numpy().tobytes() if file.suffix == ".tif" else file.read_bytes() for file in files
    }


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize(("how", "kind"), [(how, np.uint16) for how in HOW] + [("deflated tiles", np.uint32)])
def test_what_is_written_of_a_large_image_is_what_is_written_of_it_whole(convert, field, tmp_path, how, kind, to):
    labels = label_map(field).astype(kind)
    labels[labels == 30] = np.iinfo(kind).max if kind == np.uint16 else 2**31 - 1
    write_large(tmp_path / "data", labels, HOW[how])
    convert("data", "whole", "--to", to)
    convert("data", "parts", "--to", to, *LIMIT)
    whole, parts = (written(tmp_path / name, LAYOUTS[to]) for name in ("whole", "parts"))
    assert len(whole) == 1
    assert whole == parts
    for name in ("objects.csv", "result.json", "manifest.csv", "log.jsonl", "config.toml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    copied = tmp_path / "parts" / "images" / "a.tif"
    assert copied.read_bytes() == (tmp_path / "data" / "images" / "a.tif").read_bytes()
    shutil.rmtree(tmp_path / "data")
    (before,), (after,) = open_dataset(tmp_path / "whole"), open_dataset(tmp_path / "parts")
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.labels, after.labels)


def test_a_large_image_is_never_read_whole(convert, field, tmp_path, monkeypatch):
    write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["deflated tiles"])
    sizes = []
    measured = label_bands.spans_of
    monkeypatch.setattr(label_bands, "spans_of", lambda band, top=0: sizes.append(len(band)) or measured(band, top))
    monkeypatch.setattr(workflow, "read_pixels", None)
    monkeypatch.setattr(workflow, "read_nuclei", None)
    for to in LAYOUTS:
        convert("data", to, "--to", to, *LIMIT)
    assert max(sizes) == 16


def test_the_table_of_nuclei_says_number_box_area_and_centre(convert, field, tmp_path):
    labels = np.zeros(SIZE, np.uint16)
    labels[10:14, 20:30], labels[190, 300], labels[0, 0] = 7, 9, 9
    write_large(tmp_path / "data", labels, HOW["tiles"])
    write_manifest(
        tmp_path / "named.csv",
        [
            Record(
                id="b,c",
                image=tmp_path / "data/images/a.tif",
                labels=tmp_path / "data/labels/a.tif",
                modality="grey-on-black",
            )
        ],
    )
    for out, more in (("whole", ()), ("parts", LIMIT)):
        convert("named.csv", out, "--to", "geojson", *more)
        with (tmp_path / out / "objects.csv").open(newline="") as file:
            first, second = csv.DictReader(file)
        assert first == {
            "image_id": "b,c",
            "label": "1",
            "score": "",
            "x0": "20",
            "y0": "10",
            "x1": "30",
            "y1": "14",
            "area_px": "40",
            "centroid_x": "25.0000",
            "centroid_y": "12.0000",
            "modality": "grey-on-black",
        }
        assert [second[name] for name in ("label", "x0", "y0", "x1", "y1", "area_px")] == [
            "2",
            "0",
            "0",
            "301",
            "191",
            "2",
        ]
        assert (second["centroid_x"], second["centroid_y"]) == ("150.5000", "95.5000")
        assert read_json(tmp_path / out / "result.json")["nuclei"] == 2
        assert not (tmp_path / out / ".objects").exists()


@pytest.mark.parametrize("to", LAYOUTS)
def test_images_without_labels_are_copied_and_those_without_nuclei_stay_annotated(convert, tmp_path, to):
    write_large(tmp_path / "data", np.zeros(SIZE, np.uint16), HOW["tiles"], "empty")
    write_large(tmp_path / "data", np.zeros(SIZE, np.uint16), HOW["tiles"], "bare")
    (tmp_path / "data" / "labels" / "bare.tif").unlink()
    convert("data", "out", "--to", to, *LIMIT)
    bare, empty = open_dataset(tmp_path / "out")
    assert bare.labels is None
    assert not empty.labels.any()
    assert (tmp_path / "out" / "objects.csv").read_text().count("\n") == 1


# What predict found


@pytest.fixture
def predicted(run_verb, field, tmp_path, monkeypatch):
    """A run of predict on a large image, and its label map."""
    labels = np.searchsorted(np.unique(label_map(field)), label_map(field)).astype(np.int32)
    write_large(tmp_path / "data", labels.astype(np.uint16), HOW["tiles"])
    scores = torch.linspace(0.9, 0.1, int(labels.max()))
    monkeypatch.setattr(predict, "segment", lambda *_, **__: Decoded(labels=torch.from_numpy(labels), scores=scores))
    assert run_verb("predict", "data", "--out", "run", "--tta", "none").exit_code == 0
    return tmp_path / "run"


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("to", LAYOUTS)
def test_what_predict_found_keeps_its_scores_with_the_image_or_without(convert, predicted, tmp_path, to, is_there):
    path = predicted / "predictions" / "a_labels.tif"
    labels = read_labels(path).numpy().astype(np.uint16)
    # Strips as label maps of more pixels have them, and a number that is missing.
    tifffile.imwrite(path, np.where(labels == 3, 0, labels), rowsperstrip=40, compression="deflate")
    if not is_there:
        shutil.rmtree(tmp_path / "data")
    convert(predicted, "whole", "--to", to)
    output = convert(predicted, "parts", "--to", to, *LIMIT)
    assert ("the nuclei were written alone" in output) != is_there
    assert written(tmp_path / "whole", LAYOUTS[to]) == written(tmp_path / "parts", LAYOUTS[to])
    table = (tmp_path / "parts" / "objects.csv").read_text()
    assert table == (tmp_path / "whole" / "objects.csv").read_text()
    assert ",0.9000," in table
    assert (tmp_path / "parts" / "images").exists() == is_there


# Stopped and damaged


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("after", [3, 20, 35])
def test_a_conversion_stopped_within_an_image_goes_on_to_the_same_files(
    convert, run_verb, field, tmp_path, monkeypatch, to, after
):
    for seed, name in enumerate("ab"):
        write_large(tmp_path / "data", label_map(field, seed).astype(np.uint16), HOW["tiles"], name)
    convert("data", "whole", "--to", to, *LIMIT)
    calls, measured = [], label_bands.spans_of

    def counted(band, top=0):
        calls.append(top)
        if len(calls) == after:
            raise StoppedError
        return measured(band, top)

    monkeypatch.setattr(label_bands, "spans_of", counted)
    assert isinstance(run_verb("convert", "data", "parts", "--to", to, *LIMIT).exception, StoppedError)
    monkeypatch.setattr(label_bands, "spans_of", measured)
    convert("data", "parts", "--to", to, *LIMIT, "--resume")
    whole, parts = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and path.name not in (".lock", "environment.json", "report.html")
        }
        for name in ("whole", "parts")
    )
    assert whole == parts


def test_the_table_is_whole_again_where_one_image_had_to_be_written_again(convert, field, tmp_path):
    write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["tiles"])
    write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["tiles"], "b")
    write_large(tmp_path / "data", label_map(field, 6).astype(np.uint16), HOW["tiles"], "c")
    (tmp_path / "data/labels/b.tif").write_bytes(b"no labels")
    convert("data", "out", "--to", "geojson", *LIMIT, code=2)
    (tmp_path / "out/result.json").unlink()
    before = (tmp_path / "out/objects.csv").read_text()
    (tmp_path / "out/geojson/a.geojson").unlink()
    convert("data", "out", "--to", "geojson", *LIMIT, "--resume", code=2)
    assert (tmp_path / "out/objects.csv").read_text() == before
    assert (tmp_path / "out/geojson/a.geojson").exists()


@pytest.mark.parametrize("part", ["images", "labels"])
def test_damage_is_refused_with_the_file_named_and_the_others_are_done(convert, field, tmp_path, part):
    for name in "abc":
        write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["deflated tiles"], name)
    for name, keep in (("a", -100), ("b", 0)):
        path = tmp_path / "data" / part / f"{name}.tif"
        path.write_bytes(path.read_bytes()[:keep])
    output = convert("data", "out", "--to", "geojson", *LIMIT, code=2)
    assert "2 of 3 images could not be used, the others are done" in output
    assert f"{part}/a.tif: cannot be decoded (strip or tile" in output
    assert f"{part}/b.tif" in output
    assert [path.name for path in (tmp_path / "out" / "geojson").iterdir()] == ["c.geojson"]
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == ["c.tif"]


def test_labels_damaged_within_leave_nothing_of_their_image(convert, field, tmp_path):
    write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["deflated tiles"])
    path = tmp_path / "data" / "labels" / "a.tif"
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].dataoffsets[-1]
    data[place : place + 20] = bytes(20)
    path.write_bytes(data)
    assert "labels/a.tif: cannot be decoded (" in convert("data", "out", "--to", "geojson", *LIMIT, code=2)
    assert not (tmp_path / "out" / "geojson").exists()
    assert not (tmp_path / "out" / "images").exists()


@pytest.mark.parametrize("larger", ["images", "labels"])
def test_labels_of_another_size_are_refused_by_the_headers(convert, field, tmp_path, larger):
    write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["tiles"])
    other = {"images": "labels", "labels": "images"}[larger]
    tifffile.imwrite(tmp_path / "data" / other / "a.tif", np.zeros((20, 30), np.uint8))
    output = convert("data", "out", "--to", "pairs", *LIMIT, code=2)
    assert "give the labels of this image" in output
    assert "203 x 310" in output
    assert not (tmp_path / "out" / "images").exists()


# What stays refused


def test_other_layouts_say_which_ones_take_it(convert, field, tmp_path):
    write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["tiles"])
    output = convert("data", "out", "--to", "coco", *LIMIT, code=2)
    assert "62,930 pixels (203 x 310), at most 31,465 are read whole; crop or tile" in output
    assert "--to pairs, geojson or imagej takes them of any size" in output


@pytest.mark.parametrize("part", ["images", "labels"])
def test_other_kinds_of_file_are_refused(convert, field, tmp_path, part):
    write_large(tmp_path / "data", label_map(field).astype(np.uint16), HOW["tiles"])
    path = tmp_path / "data" / part / "a.tif"
    np.save(path.with_suffix(".npy"), tifffile.imread(path))
    path.unlink()
    output = convert("data", "out", "--to", "geojson", *LIMIT, code=2)
    assert "are read whole" in output
    assert f"If image and labels are TIFF in tiles or strips, as data/{part}/a.npy is not, and" in output


def test_one_strip_of_the_whole_image_and_masks_are_refused(convert, field, tmp_path):
    labels = label_map(field).astype(np.uint16)
    write_large(tmp_path / "data", labels, {"compression": "deflate", "rowsperstrip": SIZE[0]})
    assert "in tiles or strips" in convert("data", "a", "--to", "geojson", *LIMIT, code=2)
    write_large(tmp_path / "data", (labels > 0) * np.uint8(255), HOW["tiles"])
    assert "has no numbers but 0 and 255" in convert("data", "b", "--to", "geojson", *LIMIT, code=2)
    assert "nuclei have numbers" in convert("data", "c", "--to", "geojson", "--connected-components", *LIMIT, code=2)


def test_a_page_of_labels_is_read_but_a_stack_is_not_copied_for_one_of_its_images(convert, field, tmp_path):
    labels = label_map(field).astype(np.uint16)
    write_large(tmp_path / "data", labels, {})
    stack = np.stack([labels * 0, labels])
    path = tmp_path / "data" / "images" / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    assert "holds several images" in convert("data", "a", "--to", "geojson", *LIMIT, code=2)
    output = convert("data", "b", "--to", "geojson", *LIMIT, "--page", 2, code=2)
    assert "a.tif: an image of 203 x 310 pixels is copied as the file it is, and this one holds others" in output


def test_roi_sets_end_where_imagej_ends(convert, tmp_path):
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "data" / part / "a.tif", np.zeros((2, 60_536), np.uint8), rowsperstrip=1)
    output = convert("data", "out", "--to", "imagej", "--max-pixels", 100_000, code=2)
    assert "ROIs reach to 60535; use geojson" in output
    convert("data", "json", "--to", "geojson", "--max-pixels", 100_000)
    assert json.loads((tmp_path / "json/geojson/a.geojson").read_text())["features"] == []
