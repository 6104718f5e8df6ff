"""A data set with restyled copies: what is written, that masks fit, and that a stopped call goes on to the same files."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.augment.gate import ACCEPTED, REASONS, Gate, Verdict
from nucstyle.augment.style import StyleTransfer
from nucstyle.core.errors import OptionError
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.image_io import read_image
from nucstyle.data.layouts import WRITABLE
from nucstyle.data.manifest import Record
from nucstyle.data.run_folder import read_config, read_json
from nucstyle.data.weights import load_weights
from nucstyle.report.tables import copies_table
from nucstyle.workflows.augment import _evened, plan
from nucstyle.workflows.load import find_weights, load_judge, load_style

DARK, LIGHT = "grey-on-black", "purple-on-white"


@pytest.fixture
def manifest(write_pairs):
    """Three dark and two stained fields, named; one of each is for validation."""
    folder = write_pairs("data", fluorescence=3, stained=2)
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "labels", "modality", "split", "field_of_view"])
        for number in range(5):
            name = f"field-{number}"
            split = "validation" if number in (2, 4) else "train"
            place = [f"images/{name}.png", f"labels/{name}.png"]
            writer.writerow([name, *place, DARK if number < 3 else LIGHT, split, f"view-{number}"])
    return path


def ledger(folder):
    with (folder / "augment_manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    """Every file but those that tell of time and machine."""
    skipped = {".lock", "environment.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


def run(run_verb, manifest, *options, out="larger"):
    result = run_verb("augment", manifest, out, "--copies", 2, *options)
    assert result.exit_code == 0, result.output
    return result


def test_the_larger_set_reads_back_without_the_first_and_masks_are_those_of_the_originals(run_verb, manifest, tmp_path):
    run(run_verb, manifest)
    (tmp_path / "larger").rename(tmp_path / "moved")
    before = {sample.id: sample for sample in open_dataset(manifest)}
    for path in sorted(manifest.parent.rglob("*.png")):
        path.unlink()
    after = open_dataset(tmp_path / "moved")
    assert len(after) == 5 + 3 * 2
    for record, sample in zip(after.records, after, strict=True):
        source, _, copy = record.id.partition("-style")
        own = before[source]
        assert torch.equal(sample.labels, own.labels)
        assert sample.size == own.size
        assert torch.equal(sample.image, own.image) == (not copy)
        assert record.field_of_view == f"view-{source[-1]}"
        assert record.split == ("validation" if source[-1] in "24" else "train")
        assert record.split == "train" or not copy


def test_every_line_of_the_ledger_says_what_a_copy_is(run_verb, manifest, tmp_path):
    run(run_verb, manifest, "--targets", f"{LIGHT},pink-on-purple")
    rows = ledger(tmp_path / "larger")
    assert Counter(row["status"] for row in rows) == {"original": 5, "restyled": 6}
    copies = [row for row in rows if row["copy"] != "0"]
    assert {row["target_modality"] for row in copies} <= {LIGHT, "pink-on-purple"}
    for row in copies:
        assert row["source_modality"] == (DARK if row["source_id"] < "field-3" else LIGHT)
        assert row["modality"] == row["target_modality"]
        assert len(row["attribute"].split()) == 6
        assert float(row["separation"]) > 0.8
        assert row["style_sha256"] == read_config(tmp_path / "larger")["style_sha256"]
    assert len({row["seed"] for row in copies}) == 6
    report = (tmp_path / "larger" / "report.html").read_text()
    assert "The first of each pair that was accepted" in report
    assert json.loads((tmp_path / "larger" / "result.json").read_text())["images"]["restyled"]


class StoppedError(Exception):
    """Stands for a kill."""


def test_a_stopped_call_goes_on_to_the_same_files_and_makes_nothing_twice(run_verb, manifest, tmp_path, monkeypatch):
    run(run_verb, manifest, out="whole")
    calls, check = [], Gate.check

    def counted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise StoppedError
        return check(self, *arguments, **options)

    monkeypatch.setattr(Gate, "check", counted)
    assert isinstance(run_verb("augment", manifest, "parts", "--copies", 2).exception, StoppedError)
    with (tmp_path / "parts" / "augment_manifest.csv").open("a") as file:
        file.write("field-1-style1,images/fie")  # cut off
    (tmp_path / "parts" / "images" / "field-0-style2.png").unlink()
    done = len(calls)
    run(run_verb, manifest, "--resume", out="parts")
    assert len(calls) - done == 6 - 3 + 1  # and the one whose file was lost
    one, other = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert one.keys() == other.keys()
    shown_in_order = {"examples.jsonl", "report.html"}
    assert [name for name in one if name not in shown_in_order and one[name] != other[name]] == []


class Refusing(Gate):
    """Accepts nothing."""

    def check(self, before, after, *, signs=None):
        return Verdict(REASONS[2], {"new": 3.0})


def test_copies_that_the_gate_refuses_are_left_out_and_shown(run_verb, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(Gate, "check", Refusing.check)
    run(run_verb, manifest, "--targets", LIGHT)
    folder = tmp_path / "larger"
    assert Counter(row["status"] for row in ledger(folder)) == {"original": 5, "refused": 6}
    assert len(open_dataset(folder)) == 5
    result = json.loads((folder / "result.json").read_text())
    tally = np.array(result["gate"]["tally"]).sum(axis=(0, 1)).tolist()
    assert dict(zip(result["gate"]["outcomes"], tally, strict=True)) == {
        ACCEPTED: 0,
        REASONS[0]: 0,
        REASONS[1]: 0,
        REASONS[2]: 18,
        REASONS[3]: 0,
        "given up": 6,
    }
    report = (folder / "report.html").read_text()
    assert "6 copies were left out" in report
    assert "The first of each pair that was refused" in report
    assert (folder / "samples" / f"{DARK}-to-{LIGHT}-new-nuclei-appear.png").is_file()


def test_without_a_gate_everything_is_used(run_verb, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(Gate, "check", Refusing.check)
    run(run_verb, manifest, "--no-gate")
    assert Counter(row["status"] for row in ledger(tmp_path / "larger")) == {"original": 5, "restyled": 6}
    assert "gate" not in json.loads((tmp_path / "larger" / "result.json").read_text())


# Layouts


def layout(run_verb, manifest, tmp_path, name):
    run(run_verb, manifest, "--to", name, "--targets", LIGHT, out=name)
    return tmp_path / name


@pytest.mark.parametrize("name", [name for name in WRITABLE if name != "imagej"])  # imagej has a test of its own
def test_every_layout_reads_back_exactly(run_verb, manifest, tmp_path, name):
    folder = layout(run_verb, manifest, tmp_path, name)
    reads_back_exactly(manifest, folder)


def reads_back_exactly(manifest, folder):
    before = {sample.id: sample for sample in open_dataset(manifest)}
    made = open_dataset(folder)
    assert len(made) == 5 + 6
    for sample in made:
        own = before[sample.id.partition("-style")[0]]
        assert torch.equal(sample.labels, own.labels)
        if sample.id in before:
            assert torch.equal(sample.image, own.image)


@pytest.mark.parametrize("name", ["rle", "coco"])
def test_one_file_for_all_images_is_whole_however_often_the_work_was_stopped(run_verb, manifest, tmp_path, name):
    """Stopped after all was joined, and with images gone that are made again."""
    folder = layout(run_verb, manifest, tmp_path, name)
    (joined,) = {record.labels for record in open_dataset(folder).records}
    whole = joined.read_bytes()
    for gone in ([], ["field-0.png", "field-1-style2.png"]):
        for file in gone:
            (folder / "images" / file).unlink()
        (folder / "result.json").unlink()
        run(run_verb, manifest, "--to", name, "--targets", LIGHT, "--resume", out=name)
        assert joined.read_bytes() == whole
        reads_back_exactly(manifest, folder)


def test_what_a_layout_cannot_hold_is_said(run_verb, manifest, tmp_path):
    result = run(run_verb, manifest, "--to", "imagej", "--no-gate")  # a nucleus of field-3 is in pieces
    assert "warning: the layout cannot hold everything; nuclei in pieces: 3" in result.output
    samples = {sample.id: sample for sample in open_dataset(tmp_path / "larger")}
    assert len(samples) == 5 + 3 * 2
    assert int(samples["field-3-style1"].labels.max()) > int(open_dataset(manifest)[3].labels.max())
    assert torch.equal(samples["field-0-style1"].labels, open_dataset(manifest)[0].labels)


def test_cellpose_finds_masks_by_their_names(run_verb, manifest, tmp_path):
    folder = layout(run_verb, manifest, tmp_path, "cellpose")
    images = [path for path in (folder / "train").glob("*.tif") if not path.stem.endswith("_masks")]
    assert len(images) == 3 + 6
    for path in images:
        assert tifffile.imread(path.with_name(f"{path.stem}_masks.tif")).max() > 0
    assert len(list((folder / "validation").glob("*_masks.tif"))) == 2


def test_stardist_has_folders_of_images_and_masks(run_verb, manifest, tmp_path):
    folder = layout(run_verb, manifest, tmp_path, "stardist")
    images, masks = (
        sorted(path.name for path in (folder / "train" / part).glob("*.tif")) for part in ("images", "masks")
    )
    assert images == masks
    assert len(images) == 3 + 6


def test_nnunet_gets_classes_with_borders_and_a_division_that_keeps_copies_with_their_image(
    run_verb, manifest, tmp_path
):
    folder = layout(run_verb, manifest, tmp_path, "nnunet")
    table = json.loads((folder / "dataset.json").read_text())
    assert table["numTraining"] == len(list((folder / "imagesTr").glob("*_0000.tif"))) == 5 + 6
    assert table["file_ending"] == ".tif"
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    assert all(fold == folds[0] for fold in folds)  # divided already
    fold = folds[0]
    assert fold["val"] == ["field-2", "field-4"]
    assert len(fold["train"]) == 3 + 6
    for name in (*fold["train"], *fold["val"]):
        classes, numbers = (tifffile.imread(folder / part / f"{name}.tif") for part in ("labelsTr", "instances"))
        assert tifffile.imread(folder / "imagesTr" / f"{name}_0000.tif").shape == (*classes.shape, 3)
        assert set(np.unique(classes)) == {0, 1, 2}
        assert ((classes > 0) == (numbers > 0)).all()
        y, x = np.nonzero(classes == 1)
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):  # the inner of a nucleus touches no other
            beside = numbers[(y + down).clip(0, 95), (x + right).clip(0, 111)]
            assert (beside == numbers[y, x]).all()


def test_types_are_kept_and_grey_stays_grey_unless_colours_are_asked_for(run_verb, tmp_path):
    folder = tmp_path / "deep"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    labels = np.zeros((64, 80), np.uint16)
    labels[20:34, 20:34], labels[40:50, 50:62] = 1, 2
    pixels = (np.where(labels > 0, 9000, 700) + rng.integers(0, 200, labels.shape)).astype(np.uint16)
    tifffile.imwrite(folder / "images" / "deep.tif", pixels)
    tifffile.imwrite(folder / "labels" / "deep.tif", labels)
    Image.fromarray((pixels // 64).astype(np.uint8)).save(folder / "images" / "flat.png")
    run(run_verb, folder, "--targets", LIGHT, out="grey")
    run(run_verb, folder, "--targets", LIGHT, "--rgb", out="coloured")
    assert (tifffile.imread(tmp_path / "grey" / "images" / "deep.tif") == pixels).all()
    made = tifffile.imread(tmp_path / "grey" / "images" / "deep-style1.tif")
    assert made.dtype == np.uint16
    assert made.shape == pixels.shape
    for name, kind in (("deep", np.uint16), ("deep-style1", np.uint16)):
        coloured = tifffile.imread(tmp_path / "coloured" / "images" / f"{name}.tif")
        assert coloured.shape == (*pixels.shape, 3)
        assert coloured.dtype == kind
    rows = {row["id"]: row for row in ledger(tmp_path / "grey")}
    assert rows["flat-style1"]["labels"] == ""  # not annotated stays so
    assert float(rows["flat-style1"]["edges"]) >= 0.5


def test_undivided_images_are_dealt_to_folds_of_nnunet_with_their_copies_and_copies_are_not_validated_on(
    run_verb, manifest, tmp_path
):
    run(run_verb, manifest.parent / "images", "--no-gate", out="bare")
    manifest.write_text(manifest.read_text().replace(",validation,", ",,").replace(",train,", ",,"))
    folder = layout(run_verb, manifest, tmp_path, "nnunet")
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    assert sorted(name for fold in folds for name in fold["val"]) == [f"field-{k}" for k in range(5)]
    for fold in folds:
        held = {name.partition("-style")[0] for name in fold["val"]}
        assert not held & {name.partition("-style")[0] for name in fold["train"]}
        assert len(fold["train"]) == 4 * 3


@pytest.mark.parametrize("name", ["cellpose", "stardist", "nnunet"])
def test_images_without_labels_are_set_aside_where_a_program_refuses_them(run_verb, manifest, tmp_path, name):
    manifest.write_text(manifest.read_text().replace("labels/field-1.png", ""))
    folder = layout(run_verb, manifest, tmp_path, name)
    rows = [row for row in ledger(folder) if row["source_id"] == "field-1"]
    assert [row["status"] for row in rows] == ["original"]
    assert rows[0]["image"].partition("/")[0] == ("imagesTs" if name == "nnunet" else "unannotated")
    with_labels = [record for record in open_dataset(folder).records if record.labels is not None]
    assert len(with_labels) == 4 + 2 * 2


# Which copies


def records(counts, *, split=None):
    names = [name for name, count in counts.items() for _ in range(count)]
    return Dataset([Record(id=f"i{k}", image=f"{k}.png", modality=name, split=split) for k, name in enumerate(names)])


def test_balance_evens_out_the_modalities():
    dataset = records({DARK: 30, LIGHT: 4, "pink": 2})
    planned = plan(dataset, copies=2, targets=[DARK, LIGHT, "pink"], balance=True, exclude_own=False, seed=0)
    assert [len(copies) for copies in planned] == [2] * 36
    now = Counter(record.modality for record in dataset.records) + Counter(c.target for one in planned for c in one)
    assert now == {DARK: 36, LIGHT: 36, "pink": 36}


def test_balance_with_its_own_modality_excluded():
    assigned = _evened([DARK] * 5 + [LIGHT] * 20, 3, [DARK, LIGHT], exclude_own=True, seed=1)
    assert all(target != ([DARK] * 5 + [LIGHT] * 20)[slot] for slot, target in assigned)
    assert len(assigned) == 75
    assert _evened([DARK] * 3, 2, [DARK], exclude_own=True, seed=1) == []


def test_targets_are_drawn_alike_and_for_each_image_by_itself():
    targets = [DARK, LIGHT, "pink"]
    many, few = records({DARK: 400}), records({DARK: 10})
    drawn, same = (
        plan(one, copies=3, targets=targets, balance=False, exclude_own=False, seed=5) for one in (many, few)
    )
    assert drawn[:10] == same
    counts = Counter(copy.target for copies in drawn for copy in copies)
    assert all(340 < counts[name] < 460 for name in targets)
    assert drawn != plan(many, copies=3, targets=targets, balance=False, exclude_own=False, seed=6)
    others = plan(many, copies=3, targets=targets, balance=False, exclude_own=True, seed=5)
    assert {copy.target for copies in others for copy in copies} == {LIGHT, "pink"}


def test_a_number_of_copies_must_be():
    with pytest.raises(OptionError, match="--copies 0"):
        plan(records({DARK: 2}), copies=0, targets=[DARK], balance=False, exclude_own=False, seed=0)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--to", "napari"), f"--to napari: unknown; known: {', '.join(WRITABLE)}"),
        (("--targets", "neon"), "unknown target modality ['neon']"),
        (("--style", "nowhere"), "nowhere: no such file or run folder"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(run_verb, manifest, tmp_path, options, line):
    result = run_verb("augment", manifest, "larger", *options)
    assert result.exit_code == 2
    assert line in result.output
    assert not (tmp_path / "larger").exists()


def test_only_training_images_get_copies_so_there_must_be_some(run_verb, manifest, tmp_path):
    manifest.write_text(manifest.read_text().replace(",train,", ",test,"))
    result = run_verb("augment", manifest, "larger")
    assert result.exit_code == 2
    assert "no image is of the part train" in result.output


def test_the_input_is_never_written_over(run_verb, manifest):
    result = run_verb("augment", manifest, manifest.parent)
    assert result.exit_code == 2
    assert "would hold the input" in result.output


@pytest.mark.parametrize("verb", ["augment", "convert"])
def test_nothing_is_written_into_the_folder_of_the_data(run_verb, assert_refused, manifest, verb):
    before = sorted(manifest.parent.rglob("*"))
    more = ("--to", "pairs") if verb == "convert" else ()
    assert_refused(run_verb(verb, "data", "data/more", *more), "data/more: lies in the data data", "another folder")
    assert sorted(manifest.parent.rglob("*")) == before


def test_how_many_copies_were_made_is_said(run_verb, manifest):
    said = " ".join(run_verb("augment", "data/manifest.csv", "more", "--copies", 2, "--no-gate").stderr.split())
    assert "5 images, 6 restyled copies, of images of the part train or of none; 0 copies were refused" in said


def test_a_damaged_image_is_named_and_the_others_are_done(run_verb, manifest, tmp_path):
    (manifest.parent / "images" / "field-1.png").write_bytes(b"no picture")
    result = run_verb("augment", manifest, "larger", "--copies", 2)
    assert result.exit_code == 2
    assert "1 of 5 images could not be used" in result.output
    assert "field-1.png" in result.output
    assert len(open_dataset(tmp_path / "larger")) == 4 + 2 * 2
    assert "field-1.png" in json.loads((tmp_path / "larger" / "result.json").read_text())["refused_images"][0]


def test_a_damaged_image_of_no_known_modality_does_not_stop_the_others_either(run_verb, manifest, tmp_path):
    (manifest.parent / "images" / "field-1.png").write_bytes(b"no picture")
    manifest.unlink()
    result = run_verb("augment", manifest.parent, "larger", "--copies", 1)
    assert result.exit_code == 2
    assert "1 of 5 images could not be used" in result.output
    assert len(open_dataset(tmp_path / "larger")) == 4 + 4


@pytest.mark.parametrize("lift", [0.6, 1.0])
def test_a_copy_can_be_made_again_from_its_line(run_verb, manifest, tmp_path, lift):
    run(run_verb, manifest, *([] if lift == 0.6 else ["--lift", lift]))
    assert read_config(tmp_path / "larger")["lift"] == lift
    samples = {sample.id: sample for sample in open_dataset(manifest)}
    gate = Gate(load_judge("dsb2018", device="cpu"))
    for row in ledger(tmp_path / "larger"):
        if row["status"] == "restyled":
            model = load_style("dsb2018", device="cpu")
            transfer = StyleTransfer(model, p=1.0, targets=[row["target_modality"]], gate=gate, lift=lift)
            made = transfer(samples[row["source_id"]], seed=int(row["seed"]))
            written = read_image(tmp_path / "larger" / row["image"])[0]
            assert (written - made.image).abs().max() < 0.51 / 255


def test_names_of_a_person_are_kept_and_copies_share_the_field_of_their_image(run_verb, manifest, tmp_path):
    manifest.write_text(manifest.read_text().replace(DARK, "my-dapi").replace("view-0", ""))
    run(run_verb, manifest)
    records = {record.id: record for record in open_dataset(tmp_path / "larger").records}
    assert {records[f"field-{k}"].modality for k in range(3)} == {"my-dapi"}
    assert records["field-0"].field_of_view == records["field-0-style1"].field_of_view == "field-0"


@pytest.mark.parametrize(
    ("name", "to", "line"),
    [
        ("..", "dsb2018", "cannot name a file"),
        ("x" * 240, "pairs", "cannot name a file"),
        ("field-2_masks", "cellpose", "Cellpose takes names that end in _masks for labels"),
        ("field/2-style1", "pairs", "give the same file name"),
    ],
)
def test_ids_that_cannot_be_files_are_refused_before_anything_is_written(run_verb, manifest, tmp_path, name, to, line):
    text = manifest.read_text().replace("field-2,", f"{name},")
    manifest.write_text(text.replace("field-0,", "field_2,") if "/" in name else text)
    result = run_verb("augment", manifest, "larger", "--to", to)
    assert result.exit_code == 2
    assert line in result.output
    assert not (tmp_path / "larger").exists()


def test_restyled_images_are_no_real_ones_and_what_their_models_had_seen_is_remembered(run_verb, manifest, tmp_path):
    run(run_verb, manifest)
    for verb in (["train-style"], ["train-segmenter", "--annotated", DARK], ["discover"]):
        result = run_verb(verb[0], "larger/manifest.csv", "--out", "run", *verb[1:])
        assert result.exit_code == 2
        assert "holds restyled images (augment_manifest.csv)" in result.output
    result = run_verb("augment", "larger", "larger-still")
    assert (result.exit_code, "augmenting needs real ones" in result.output) == (2, True)
    sizes = [
        "size_px=64",
        "batch_size=1",
        "pyramid_channels=16",
        "box_head_size=32",
        "mask_layers=1",
        "measure_every=0",
    ]
    settings = [word for one in ("steps=1", *sizes) for word in ("--set", one)]
    result = run_verb("train-segmenter", "larger", "--out", "run", *settings)
    assert result.exit_code == 0, result.output
    seen = load_weights(tmp_path / "run" / "weights.safetensors", kind="segmenter").metadata
    style = load_weights(find_weights("dsb2018", "style"), kind="style").metadata
    assert set(style["masks_seen"]) < set(seen["masks_seen"])
    assert {"field-0", "field-0-style1"} <= set(seen["trained_on"])


def test_the_table_of_copies_adds_originals_and_copies(run_verb, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(Gate, "check", Refusing.check)
    run(run_verb, manifest, "--targets", LIGHT)
    table = copies_table(read_json(tmp_path / "larger" / "result.json")["images"])
    assert table[1:] == [[DARK, "3", "0", "3", "0"], [LIGHT, "2", "0", "2", "6"]]


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((1, 1), 7, np.uint8),
        np.full((3, 500, 3), 200, np.uint8),
        np.zeros((40, 40), bool),
        np.full((40, 40), 1000, np.uint16),
        np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40),
        np.dstack([np.full((40, 40, 3), 90, np.uint8), np.full((40, 40), 255, np.uint8)]),
    ],
    ids=["one pixel", "3 x 500", "1 bit", "constant 16-bit", "float", "opaque alpha"],
)
def test_odd_images_are_written_and_restyled(run_verb, tmp_path, pixels):
    (tmp_path / "odd").mkdir()
    if pixels.dtype in (np.uint8, bool):
        Image.fromarray(pixels).save(tmp_path / "odd" / "odd.png")
    else:
        tifffile.imwrite(tmp_path / "odd" / "odd.tif", pixels)
    run(run_verb, "odd", "--no-gate")
    original, *copies = open_dataset(tmp_path / "larger")
    before, _ = read_image(next((tmp_path / "odd").iterdir()))
    assert torch.equal(original.image, before)
    assert len(copies) == 2
    for copy in copies:
        assert copy.size == original.size
        assert copy.source.dtype == ("uint8" if pixels.dtype == bool else pixels.dtype.name)
        assert copy.source.channels == (1 if pixels.ndim == 2 else 3)
