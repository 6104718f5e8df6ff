"""A data set in another layout: it reads back without the first, and a stopped call goes on to the same files."""

import json
import shutil
from importlib import resources

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.data.dataset import open_dataset
from nucstyle.data.image_io import write_labels
from nucstyle.data.layouts import WRITABLE
from nucstyle.data.manifest import Record, write_manifest
from nucstyle.data.run_folder import read_config, read_json
from nucstyle.segmentation.decode import Decoded
from nucstyle.workflows import convert as workflow
from nucstyle.workflows import predict

DARK, LIGHT = "grey-on-black", "purple-on-white"
HOLES = np.array([[1, 1, 1, 0, 2], [1, 0, 1, 0, 0], [1, 1, 1, 0, 2]], np.uint8)
"""A nucleus with a hole, and one in two pieces."""


@pytest.fixture
def data(write_pairs):
    """Two dark and two stained fields, named; one is for validation, one is not annotated, one shows no nucleus."""
    folder = write_pairs("data", fluorescence=2, stained=2)
    Image.fromarray(np.zeros((96, 112), np.uint8)).save(folder / "labels" / "field-1.png")
    (folder / "labels" / "field-3.png").unlink()
    records = [
        Record(
            id=f"field-{k}",
            image=folder / "images" / f"field-{k}.png",
            labels=folder / "labels" / f"field-{k}.png" if k < 3 else None,
            modality=DARK if k < 2 else LIGHT,
            split="validation" if k == 2 else "train",
            field_of_view=f"view-{k}",
        )
        for k in range(4)
    ]
    write_manifest(folder / "manifest.csv", records)
    return folder


def run(run_verb, *arguments, code=0):
    result = run_verb("convert", *arguments)
    assert result.exit_code == code, result.output
    return result.output


def contents(folder):
    """Every file but those that tell of time and machine."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "environment.json", "report.html")
    }


def assert_same(before, after):
    """Images, labels and what is known of them, in the same order."""
    assert [(one.id, one.modality, one.split, one.field_of_view, one.labels is None) for one in after.records] == [
        (one.id, one.modality, one.split, one.field_of_view, one.labels is None) for one in before.records
    ]
    for own, other in zip(before, after, strict=True):
        assert torch.equal(own.image, other.image)
        assert own.labels is None or torch.equal(own.labels, other.labels)


@pytest.mark.parametrize("to", WRITABLE)
def test_every_layout_reads_back_without_the_first_and_keeps_all_that_is_known(run_verb, data, tmp_path, to):
    before = open_dataset(data, keep=True)
    list(before)
    run(run_verb, data, "out", "--to", to)
    shutil.rmtree(data)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert_same(before, open_dataset(tmp_path / "moved"))


def test_what_names_all_images_is_written_once_they_are_there(run_verb, data, tmp_path):
    run(run_verb, data, "out", "--to", "nnunet")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["numTraining"] == 3


@pytest.mark.parametrize("to", ["pairs", "dsb2018", "geojson", "imagej"])
def test_what_is_written_is_recognised_without_its_manifest(run_verb, data, tmp_path, to):
    run(run_verb, data, "out", "--to", to)
    (tmp_path / "out" / "manifest.csv").unlink()
    before, after = open_dataset(data), open_dataset(tmp_path / "out")
    for own, other in zip(before, after, strict=True):
        assert torch.equal(own.image, other.image)
        assert (own.labels is None) == (other.labels is None)
        assert own.labels is None or torch.equal(own.labels, other.labels)


def test_sample_images_go_through_geojson_and_back_exactly(run_verb, tmp_path):
    with resources.as_file(resources.files("nucstyle.sample")) as sample:
        write_manifest(tmp_path / "some.csv", open_dataset(sample).records[::6])
        run(run_verb, "some.csv", "there", "--to", "geojson")
        run(run_verb, "there", "back", "--to", "pairs")
        assert_same(open_dataset("some.csv"), open_dataset("back"))


def test_the_run_folder_says_what_was_done(run_verb, data, tmp_path):
    run(run_verb, data, "out", "--to", "geojson")
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "config.toml",
        "environment.json",
        "geojson",
        "images",
        "log.jsonl",
        "manifest.csv",
        "objects.csv",
        "report.html",
        "result.json",
    ]
    assert (read_config(out)["verb"], read_config(out)["to"]) == ("convert", "geojson")
    nuclei = sum(int(sample.labels.max()) for sample in open_dataset(data) if sample.labels is not None)
    assert read_json(out / "result.json") == {
        "format": 1,
        "verb": "convert",
        "to": "geojson",
        "images": 4,
        "annotated": 3,
        "nuclei": nuclei,
        "without_image": 0,
        "losses": {},
        "refused": [],
    }
    page = (out / "report.html").read_text()
    assert f"4 images, 3 of them annotated, with {nuclei} nuclei, in the layout geojson." in page


def test_what_a_layout_cannot_hold_is_counted_and_said(run_verb, tmp_path):
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(HOLES * 100).save(tmp_path / "data" / "images" / f"{name}.png")
        Image.fromarray(HOLES).save(tmp_path / "data" / "labels" / f"{name}.png")
    said = "holes filled: 2, nuclei in pieces: 2"
    assert f"warning: the layout cannot hold everything; {said}" in run(run_verb, "data", "out", "--to", "imagej")
    assert read_json(tmp_path / "out" / "result.json")["losses"] == {"holes_filled": 2, "nuclei_in_pieces": 2}
    assert said in (tmp_path / "out" / "report.html").read_text()
    assert "warning" not in run(run_verb, "data", "exact", "--to", "geojson")
    assert torch.equal(open_dataset(tmp_path / "exact")[0].labels, torch.from_numpy(HOLES.astype(np.int32)))


def test_types_of_pixels_are_kept_but_for_1_bit(run_verb, tmp_path):
    (tmp_path / "data").mkdir()
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    real = deep.astype(np.float32) / 7
    tifffile.imwrite(tmp_path / "data" / "deep.tif", deep)
    tifffile.imwrite(tmp_path / "data" / "real.tif", real)
    Image.fromarray(deep % 200 > 90).save(tmp_path / "data" / "bits.png")
    run(run_verb, "data", "out", "--to", "geojson")
    images = tmp_path / "out" / "images"
    for name, pixels in (("deep", deep), ("real", real)):
        written = tifffile.imread(images / f"{name}.tif")
        assert written.dtype == pixels.dtype
        assert np.array_equal(written, pixels)
    assert set(np.unique(np.array(Image.open(images / "bits.png")))) == {0, 255}
    assert all(sample.labels is None for sample in open_dataset(tmp_path / "out"))


def test_masks_of_touching_pieces_are_written_as_nuclei_of_their_own(run_verb, data, tmp_path):
    mask = np.zeros((96, 112), np.uint8)
    mask[5:9, 5:9] = mask[20:30, 20:30] = 255
    Image.fromarray(mask).save(data / "labels" / "field-0.png")
    rows = (data / "manifest.csv").read_text().splitlines()
    (data / "manifest.csv").write_text("\n".join([f"{rows[0]},components", f"{rows[1]},yes"]) + "\n")
    run(run_verb, data, "out", "--to", "pairs")
    (record,) = open_dataset(tmp_path / "out").records
    assert not record.components
    assert open_dataset(tmp_path / "out")[0].labels.unique().tolist() == [0, 1, 2]


# Stopped and damaged


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("to", ["geojson", "nnunet"])
def test_a_stopped_call_goes_on_to_the_same_files_and_writes_nothing_twice(run_verb, data, tmp_path, monkeypatch, to):
    run(run_verb, data, "whole", "--to", to)
    calls, read = [], workflow.read_pixels

    def counted(path, *options):
        calls.append(path.stem)
        if len(calls) == 3:
            raise StoppedError
        return read(path, *options)

    monkeypatch.setattr(workflow, "read_pixels", counted)
    assert isinstance(run_verb("convert", data, "parts", "--to", to).exception, StoppedError)
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"id": "field-2", "im')  # cut off
    next((tmp_path / "parts").glob("images*/field-1*")).unlink()
    run(run_verb, data, "parts", "--to", to, "--resume")
    assert calls == ["field-0", "field-1", "field-2", "field-1", "field-2", "field-3"]
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert sorted(whole.pop("log.jsonl").splitlines()) == sorted(parts.pop("log.jsonl").splitlines())
    assert whole == parts
    run(run_verb, data, "parts", "--to", to, "--resume")
    assert len(calls) == 6


def test_a_damaged_image_is_named_and_the_others_are_done(run_verb, data, tmp_path):
    (data / "images" / "field-1.png").write_bytes(b"no picture")
    (data / "labels" / "field-2.png").write_bytes(b"no labels")
    output = run(run_verb, data, "out", "--to", "imagej", code=2)
    assert "2 of 4 images could not be used, the others are done: " in output
    assert "field-1.png" in output
    assert "field-2.png" in output
    assert [record.id for record in open_dataset(tmp_path / "out").records] == ["field-0", "field-3"]
    assert read_json(tmp_path / "out" / "result.json")["refused"] == ["field-1", "field-2"]
    assert "Could not be used: field-1, field-2." in (tmp_path / "out" / "report.html").read_text()


def test_outlines_outside_their_image_do_not_stop_the_others(run_verb, data, tmp_path):
    run(run_verb, data, "out", "--to", "geojson")
    path = tmp_path / "out" / "geojson" / "field-0.geojson"
    collection = json.loads(path.read_text())
    collection["features"][0]["geometry"]["coordinates"] = [[[900, 0], [910, 0], [910, 9], [900, 0]]]
    path.write_text(json.dumps(collection))
    output = run(run_verb, "out", "again", "--to", "pairs", code=2)
    assert "1 of 4 images could not be used" in output
    assert "lies outside its image of 112 x 96 pixels" in output
    assert len(open_dataset(tmp_path / "again")) == 3


def test_numbers_that_are_not_finite_are_refused(run_verb, tmp_path):
    (tmp_path / "data").mkdir()
    for name, value in (("a", np.nan), ("b", 1.0)):
        tifffile.imwrite(tmp_path / "data" / f"{name}.tif", np.full((5, 5), value, np.float32))
    assert "25 pixels are NaN" in run(run_verb, "data", "out", "--to", "pairs", code=2)
    assert len(open_dataset(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data", "out", "--to", "napari"), "--to napari: unknown; known: "),
        (("nowhere", "out", "--to", "pairs"), "nowhere: no such file or folder"),
        (("data", "data", "--to", "pairs"), "would hold the input"),
        (("data", "out", "--to", "pairs", "--format", "coffee"), "--format coffee: unknown; known: "),
        (("data", "out", "--to", "pairs", "--resume", "--overwrite"), "exclude each other"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(run_verb, data, tmp_path, arguments, words):
    before = contents(data)
    assert words in run(run_verb, *arguments, code=2)
    assert not (tmp_path / "out").exists()
    assert contents(data) == before


def test_an_older_conversion_is_replaced_only_when_asked(run_verb, data, tmp_path):
    run(run_verb, data, "out", "--to", "pairs")
    assert "add --overwrite" in run(run_verb, data, "out", "--to", "geojson", code=2)
    assert "cannot resume, to was 'pairs'" in run(run_verb, data, "out", "--to", "geojson", "--resume", code=2)
    run(run_verb, data, "out", "--to", "geojson", "--overwrite")
    assert not (tmp_path / "out" / "labels").exists()


def test_ids_that_a_layout_takes_for_something_else_are_refused(run_verb, data, tmp_path):
    text = (data / "manifest.csv").read_text()
    (data / "manifest.csv").write_text(text.replace("field-0,", "field-0_masks,", 1))
    assert "Cellpose takes names that end in _masks" in run(run_verb, data, "out", "--to", "cellpose", code=2)
    assert not (tmp_path / "out").exists()


# What predict found


FOUND = torch.zeros((96, 112), dtype=torch.int32)
FOUND[3:9, 4:12], FOUND[50:60, 50:60], FOUND[80, 3] = 1, 2, 3
FOUND[55, 55] = 0


@pytest.fixture
def predicted(run_verb, data, tmp_path, monkeypatch):
    """A run of predict that found three nuclei in each image."""
    decoded = Decoded(labels=FOUND, scores=torch.tensor([0.75, 0.5, 0.25]))
    monkeypatch.setattr(predict, "segment", lambda *_, **__: decoded)
    result = run_verb("predict", data, "--out", "run", "--tta", "none")
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


def measurements(path):
    return [one["properties"]["measurements"] for one in json.loads(path.read_text())["features"]]


def test_what_predict_found_is_written_beside_its_images_with_its_scores(run_verb, data, predicted, tmp_path):
    run(run_verb, predicted, "out", "--to", "geojson")
    written = open_dataset(tmp_path / "out")
    assert len(written) == 4
    for own, sample in zip(open_dataset(data), written, strict=True):
        assert torch.equal(own.image, sample.image)
        assert (sample.modality, int(sample.labels.max())) == (own.modality, 3)
    assert measurements(tmp_path / "out" / "geojson" / "field-2.geojson") == [
        {"area_px": 48, "score": 0.75},
        {"area_px": 99, "score": 0.5},
        {"area_px": 1, "score": 0.25},
    ]


def test_scores_follow_their_nucleus_where_numbers_are_missing(run_verb, predicted, tmp_path):
    write_labels(predicted / "predictions" / "field-0_labels.tif", FOUND * (FOUND != 2))
    run(run_verb, predicted, "out", "--to", "geojson")
    assert measurements(tmp_path / "out" / "geojson" / "field-0.geojson") == [
        {"area_px": 48, "score": 0.75},
        {"area_px": 1, "score": 0.25},
    ]


@pytest.mark.parametrize("to", ["dsb2018", "cellpose", "imagej"])
def test_other_layouts_get_what_predict_found_as_labels(run_verb, predicted, tmp_path, to):
    run(run_verb, predicted, "out", "--to", to)
    assert [int(sample.labels.max()) for sample in open_dataset(tmp_path / "out")] == [3] * 4


@pytest.mark.parametrize(
    ("to", "files"), [("geojson", "geojson/*.geojson"), ("imagej", "rois/*_rois.zip"), ("pairs", "labels/*.tif")]
)
def test_where_the_images_are_gone_the_nuclei_are_written_alone(run_verb, data, predicted, tmp_path, to, files):
    for name in ("field-0", "field-1"):
        (data / "images" / f"{name}.png").unlink()
    output = run(run_verb, predicted, "out", "--to", to)
    assert "field-0.png was not found; of 2 images the nuclei were written alone" in output
    assert len(list((tmp_path / "out").glob(files))) == 4
    assert [record.id for record in open_dataset(tmp_path / "out").records] == ["field-2", "field-3"]
    assert read_json(tmp_path / "out" / "result.json")["without_image"] == 2
    assert "2 images were not found" in (tmp_path / "out" / "report.html").read_text()
    shutil.rmtree(data)
    run(run_verb, predicted, "alone", "--to", to)
    assert len(list((tmp_path / "alone").glob(files))) == 4
    assert not (tmp_path / "alone" / "manifest.csv").exists()


def test_of_a_stopped_run_of_predict_the_nuclei_are_written_alone(run_verb, predicted, tmp_path):
    (predicted / "manifest.csv").unlink()
    output = run(run_verb, predicted, "out", "--to", "geojson")
    assert "manifest.csv was not found; of 4 images the nuclei were written alone" in output
    assert measurements(tmp_path / "out" / "geojson" / "field-1.geojson")[1] == {"area_px": 99, "score": 0.5}


def test_layouts_that_need_the_image_refuse_what_has_none(run_verb, data, predicted, tmp_path):
    (data / "images" / "field-1.png").unlink()
    output = run(run_verb, predicted, "out", "--to", "dsb2018", code=2)
    assert "1 of 4 images could not be used" in output
    assert "field-1.png was not found, and this layout needs the image; use --to pairs, geojson or imagej" in output
    assert len(open_dataset(tmp_path / "out")) == 3


@pytest.mark.parametrize("line", ["field-0,1,much,1", "field-0,one,0.5,1", "field-0", "field-0,1,nan,1"])
def test_a_damaged_table_of_scores_is_refused_by_its_line(run_verb, predicted, tmp_path, line):
    (predicted / "objects.csv").write_text(f"image_id,label,score,area_px\nfield-1,1,0.5,9\n{line}\n")
    assert "objects.csv: line 3: no image_id, label and score" in run(
        run_verb, predicted, "out", "--to", "geojson", code=2
    )
    assert not (tmp_path / "out").exists()


def test_one_nucleus_in_pieces_is_what_predict_found_and_no_mask(run_verb, data, tmp_path, monkeypatch):
    """Every reader takes what `predict` wrote at its word, and a copy of it in another layout."""
    found = torch.zeros((96, 112), dtype=torch.int32)
    found[3:9, 4:12] = found[30:36, 4:12] = found[50:56, 50:58] = 1
    monkeypatch.setattr(predict, "segment", lambda *_, **__: Decoded(labels=found, scores=torch.tensor([0.75])))
    assert run_verb("predict", data, "--out", "run", "--tta", "none").exit_code == 0
    assert all(torch.equal(sample.labels, found) for sample in open_dataset(tmp_path / "run"))
    for verb in (("evaluate", "run", "run"), ("submission", "run"), ("check", "run")):
        result = run_verb(*verb)
        assert result.exit_code == 0, result.output
    for to in ("pairs", "stardist", "cellpose"):
        run(run_verb, "run", to, "--to", to)
        assert all(torch.equal(sample.labels, found) for sample in open_dataset(tmp_path / to))


def test_a_run_of_predict_is_a_data_set(data, predicted):
    assert [(record.id, record.labels.parent) for record in open_dataset(predicted).records] == [
        (f"field-{k}", predicted / "predictions") for k in range(4)
    ]


def test_a_run_without_label_maps_is_refused(run_verb, predicted):
    (predicted / "manifest.csv").unlink()
    for path in (predicted / "predictions").glob("*_labels.tif"):
        path.unlink()
    assert "holds no label map in predictions/" in run(run_verb, predicted, "out", "--to", "geojson", code=2)
