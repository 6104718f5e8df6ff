"""Every fault that the doctor knows: a data set with it is told so, with the file, and nothing else; a good one nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import roifile
import torch
from PIL import Image

from nucstyle.core.contours import trace
from nucstyle.core.errors import DatasetError
from nucstyle.core.rle import encode_counts, encode_dsb, runs_of
from nucstyle.data.dataset import open_dataset
from nucstyle.data.doctor import conclude, sort_findings, survey
from nucstyle.data.examine import examine
from nucstyle.data.findings import KINDS, SEVERITIES
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.label_rules import MaskError
from nucstyle.data.splits import dsb2018_split

COUNT, SIZE, RADIUS, PITCH = 4, (96, 120), 6, 24


def draw(number, size=SIZE):
    """A field of discs that do not touch each other or the border: (H, W) uint8, (H, W) uint8."""
    rng = np.random.default_rng(number)
    ys, xs = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.uint8)
    for row in range(PITCH // 2, size[0] - PITCH // 2 + 1, PITCH):
        for column in range(PITCH // 2, size[1] - PITCH // 2 + 1, PITCH):
            if rng.random() < 0.6:
                y, x = row + rng.integers(-4, 5), column + rng.integers(-4, 5)
                labels[(ys - y) ** 2 + (xs - x) ** 2 <= RADIUS**2] = labels.max() + 1
    image = 30 + 120 * (labels > 0) + rng.normal(0, 5, size)
    return image.clip(0, 255).astype(np.uint8), labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def as_pairs(folder):
    for number in range(COUNT):
        image, labels = draw(number)
        save(folder / "images" / f"{number}.png", image)
        save(folder / "labels" / f"{number}.png", labels)


def as_dsb(folder):
    for number in range(COUNT):
        image, labels = draw(number)
        save(folder / f"n{number}" / "images" / f"n{number}.png", image)
        for nucleus in range(1, labels.max() + 1):
            save(folder / f"n{number}" / "masks" / f"{nucleus}.png", np.uint8(255) * (labels == nucleus))


def as_manifest(folder, **columns):
    """The pairs with a manifest; `split="train train test test"` and the like give columns, `-` is an empty value."""
    as_pairs(folder)
    lines = ["id,image,labels,modality,split,field_of_view,components"]
    for number in range(COUNT):
        values = {"id": f"i{number}", "labels": f"labels/{number}.png"}
        values |= {name: words.split()[number].replace("-", "") for name, words in columns.items()}
        rest = [values.get(name, "") for name in ("labels", "modality", "split", "field_of_view", "components")]
        lines.append(",".join([values["id"], f"images/{number}.png", *rest]))
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def diagnose(data, **options):
    surveyed = survey(data, **options)
    found, _ = conclude([examine(record) for record in surveyed.records])
    return sort_findings([*surveyed.findings, *found])


def edit_labels(folder, change, number=1):
    path = folder / "labels" / f"{number}.png"
    save(path, change(np.array(Image.open(path))))
    return [path]


# Each function makes a data set with one fault and returns the files that must be named.


def unreadable_image(folder):
    as_pairs(folder)
    files = [folder / "images" / f"{number}.png" for number in (0, 2)]
    for file in files:
        file.write_bytes(file.read_bytes()[:300])
    return files


def unreadable_labels(folder):
    as_pairs(folder)
    files = [folder / "labels" / f"{number}.png" for number in (0, 2)]
    for file in files:
        file.write_bytes(b"<html>not found</html>")
    return files


def unreadable_mask(folder):
    as_dsb(folder)
    files = [folder / "n1" / "masks" / f"{number}.png" for number in (1, 2)]
    for file in files:
        file.write_bytes(b"")
    return files


def unreadable_masks_all_of_an_image(folder):
    as_dsb(folder)
    files = list((folder / "n1" / "masks").iterdir())
    for file in files:
        file.write_bytes(b"")
    return files


def no_masks(folder):
    as_dsb(folder)
    for file in (folder / "n1" / "masks").iterdir():
        file.unlink()
    return [folder / "n1" / "masks"]


def not_finite(folder):
    import tifffile

    as_pairs(folder)
    image = draw(1)[0].astype(np.float32)
    image[3, 4] = np.nan
    (folder / "images" / "1.png").unlink()
    tifffile.imwrite(folder / "images" / "1.tif", image)
    return [folder / "images" / "1.tif"]


def size_mismatch(folder):
    as_pairs(folder)
    return [*edit_labels(folder, lambda labels: labels.T), folder / "images" / "1.png"]


def mask_of_another_size(folder):
    as_dsb(folder)
    mask = save(folder / "n1" / "masks" / "1.png", np.full((SIZE[1], SIZE[0]), 255, np.uint8))
    return [mask, folder / "n1" / "images" / "n1.png"]


def duplicated_name(folder):
    as_pairs(folder)
    return [folder / "images" / "1.png", save(folder / "images" / "1.tif", draw(9)[0])]


def duplicated_id(folder):
    as_manifest(folder, id="a b b c")
    return [folder / "images" / "1.png", folder / "images" / "2.png"]


def labels_without_image(folder):
    as_pairs(folder)
    (folder / "images" / "1.png").unlink()
    (folder / "images" / "3.png").unlink()
    return [folder / "labels" / "1.png", folder / "labels" / "3.png"]


def image_without_labels(folder):
    as_pairs(folder)
    (folder / "labels" / "1.png").unlink()
    (folder / "labels" / "3.png").unlink()
    return [folder / "images" / "1.png", folder / "images" / "3.png"]


def two_label_folders(folder):
    as_pairs(folder)
    save(folder / "masks" / "1.png", draw(1)[1])
    return [folder / "labels", folder / "masks"]


def two_images_in_a_folder(folder):
    as_dsb(folder)
    save(folder / "n1" / "images" / "other.png", draw(9)[0])
    return [folder / "n1" / "images"]


def manifest_line(folder):
    as_manifest(folder, split="train valid train training")
    return [folder / "manifest.csv"]


def missing_file(folder):
    as_manifest(folder)
    (folder / "labels" / "1.png").unlink()
    return [folder / "labels" / "1.png"]


def nothing_to_train_on(folder):
    as_manifest(folder, split="validation validation test test")
    return []


def binary_labels(folder):
    as_pairs(folder)
    return edit_labels(folder, lambda labels: np.uint8(255) * (labels > 0))


def binary_labels_of_ones(folder):
    as_pairs(folder)
    return edit_labels(folder, lambda labels: np.uint8(1) * (labels > 0))


def binary_mask_in_a_folder(folder):
    as_dsb(folder)
    masks = folder / "n1" / "masks"
    shutil.rmtree(masks)
    return [save(masks / "1.png", np.uint8(255) * (draw(1)[1] > 0))]


def binary_mask_among_others(folder):
    as_dsb(folder)
    labels = draw(1)[1]
    for number in range(2, 6):
        (folder / "n1" / "masks" / f"{number}.png").unlink()
    return [save(folder / "n1" / "masks" / "2.png", np.uint8(255) * ((labels > 1) & (labels < 6)))]


def inverted_masks(folder):
    as_dsb(folder)
    files = sorted((folder / "n1" / "masks").iterdir())
    for file in files:
        save(file, 255 - np.array(Image.open(file)))
    return files


def label_image_as_a_mask(folder):
    as_dsb(folder)
    shutil.rmtree(folder / "n1" / "masks")
    return [save(folder / "n1" / "masks" / "n1.png", draw(1)[1])]


def mask_of_a_kind_that_is_not_read(folder):
    as_dsb(folder)
    masks = folder / "n1" / "masks"
    Image.open(masks / "1.png").save(masks / "1.gif")
    (masks / "1.png").unlink()
    return [masks]


def anti_aliased_labels(folder):
    as_pairs(folder)

    def resized(labels):
        height, width = labels.shape
        small = Image.fromarray(labels * 9).resize((width // 2 + 1, height // 2 + 1), Image.Resampling.BILINEAR)
        return np.array(small.resize((width, height), Image.Resampling.BILINEAR))

    return edit_labels(folder, resized)


def swapped_labels(folder):
    as_pairs(folder)
    one, other = folder / "labels" / "1.png", folder / "labels" / "2.png"
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    return [folder / "images" / "1.png", folder / "images" / "2.png"]


def shifted_labels(folder):
    as_pairs(folder)
    image, labels = draw(1, (240, 312))
    labels[-24:], labels[:, :24] = 0, 0  # what would leave the image would be cut
    moved = np.roll(labels, (15, -15), axis=(0, 1))
    save(folder / "images" / "1.png", image)
    return [save(folder / "labels" / "1.png", moved), folder / "images" / "1.png"]


def cut_in_two(folder, *, divided=True):
    """The last two images are halves of one field whose nuclei run over the border."""
    as_manifest(folder, split="train train train validation" if divided else "train train train train")
    rng = np.random.default_rng(5)
    ys, xs = np.mgrid[: SIZE[0], : 2 * SIZE[1]]
    labels = np.zeros((SIZE[0], 2 * SIZE[1]), np.uint8)
    for row, radius in ((14, 6), (37, 9), (55, 5), (80, 7)):
        labels[(ys - row) ** 2 + (xs - SIZE[1] - rng.integers(-3, 3)) ** 2 <= radius**2] = row
    image = (30 + (90 + labels) * (labels > 0) + rng.normal(0, 3, labels.shape)).clip(0, 255).astype(np.uint8)
    for number, part in ((2, np.s_[:, : SIZE[1]]), (3, np.s_[:, SIZE[1] :])):
        save(folder / "images" / f"{number}.png", image[part])
        save(folder / "labels" / f"{number}.png", labels[part])
    return [folder / "images" / "2.png", folder / "images" / "3.png"]


def named_field_in_two_parts(folder):
    as_manifest(folder, split="train - validation validation", field_of_view="a b b a")
    return [folder / "images" / f"{number}.png" for number in range(COUNT)]


def of_dsb2018(folder, part, split):
    name = next(name for name, known in dsb2018_split().items() if known == part)
    as_manifest(folder, id=f"{name} b c d", split=f"{split} train train train")
    return [folder / "images" / "0.png"]


def exact_duplicate(folder):
    as_pairs(folder)
    for place in ("images", "labels"):
        shutil.copy(folder / place / "1.png", folder / place / "copy.png")
    return [folder / "images" / "1.png", folder / "images" / "copy.png"]


def near_duplicate(folder):
    as_pairs(folder)
    image, labels = draw(1)
    noise = np.random.default_rng(0).normal(0, 4, SIZE)
    save(folder / "labels" / "again.png", labels)
    again = save(folder / "images" / "again.png", (0.9 * image + 8 + noise).clip(0, 255).astype(np.uint8))
    return [folder / "images" / "1.png", again]


def overlapping_masks(folder):
    as_dsb(folder)
    path = folder / "n1" / "masks" / "1.png"
    mask = np.array(Image.open(path))
    save(folder / "n1" / "masks" / "zz.png", np.roll(mask, 3, axis=0))
    return [path.parent]


def empty_mask(folder):
    as_dsb(folder)
    return [save(folder / "n1" / "masks" / "zz.png", np.zeros(SIZE, np.uint8))]


def outlines(folder, change):
    """The pairs as GeoJSON; `change` gives the corners of the outlines of one image, from squares."""
    for number in range(COUNT):
        save(folder / "images" / f"{number}.png", np.full(SIZE, number, np.uint8))
        y = 10 + 20 * number
        corners = [np.array([[x, y], [x + 5, y], [x + 5, y + 5], [x, y + 5]]) for x in range(10, 110, 20)]
        features = [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]}}
            for ring in (change(corners) if number == 1 else corners)
        ]
        path = folder / "geojson" / f"{number}.geojson"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(features))
    return [folder / "geojson" / "1.geojson"]


def lost_nucleus(folder):
    return outlines(folder, lambda corners: [*corners, corners[0] / 100])


def the_only_nucleus_lost(folder):
    return outlines(folder, lambda corners: [corners[0] / 100])


def most_nuclei_lost(folder):
    return outlines(folder, lambda corners: [ring / 100 for ring in corners])


def places_in_micrometres(folder):
    return outlines(folder, lambda corners: [ring / 2 + (0, down) for ring in corners for down in (0, 6)])


def all_outlines_twice(folder):
    return outlines(folder, lambda corners: corners * 2)


def thin_nucleus(folder):
    as_pairs(folder)

    def with_pixel(labels):
        labels[0, 0] = labels.max() + 1
        return labels

    return edit_labels(folder, with_pixel)


def nucleus_with_hole(folder):
    as_pairs(folder)

    def pierced(labels):
        rows, columns = np.nonzero(labels == 1)
        labels[round(rows.mean()), round(columns.mean())] = 0
        return labels

    return edit_labels(folder, pierced)


def nucleus_in_pieces(folder):
    as_pairs(folder)

    def joined(labels):
        labels[labels == 2] = 1
        return labels

    return edit_labels(folder, joined)


def no_background(folder):
    as_pairs(folder)
    image = np.full(SIZE, 20, np.uint8)
    image[:, SIZE[1] // 2 :] = 200
    save(folder / "images" / "1.png", image)
    return edit_labels(folder, lambda labels: np.where(image > 100, 2, 1).astype(np.uint8))


def no_nuclei(folder):
    as_pairs(folder)
    return edit_labels(folder, np.zeros_like)


def no_nuclei_in_masks(folder):
    as_dsb(folder)
    masks = folder / "n1" / "masks"
    shutil.rmtree(masks)
    save(masks / "1.png", np.zeros(SIZE, np.uint8))
    return [masks]


def no_nuclei_in_a_table(folder):
    save(folder / "a.png", draw(0)[0])
    (folder / "labels.csv").write_text("ImageId,EncodedPixels\na,\n")
    return [folder / "labels.csv"]


def file_name(folder):
    as_manifest(folder, id=f"{'x' * 250} b c d")
    return [folder / "images" / "0.png"]


def same_file_name(folder):
    as_manifest(folder, id="a/1 a_1 c d")
    return [folder / "images" / "0.png", folder / "images" / "1.png"]


def names_that_differ_in_case(folder):
    as_manifest(folder, id="Field-1 field-1 c d")
    return [folder / "images" / "0.png", folder / "images" / "1.png"]


def names_that_differ_in_how_an_accent_is_stored(folder):
    as_manifest(folder, id="\u00e9 e\u0301 c d")
    return [folder / "images" / "0.png", folder / "images" / "1.png"]


def unread_file(folder):
    as_pairs(folder)
    places = ("images/4.gif", "labels/4.npz", "labels/1.mat", "labels/2.geojson", "images/0_seg.npy", "0.gif")
    for name in (*places, "images/notes.txt", "images/Thumbs.db", "labels/.hidden.gif", "labels/table.csv"):
        (folder / name).write_bytes(b"")
    (folder / "labels" / "old.gif").mkdir()
    return [folder / name for name in places]


def unread_file_of_a_mask_folder(folder):
    as_dsb(folder)
    files = [
        folder / "n1" / "masks" / "1.npz",
        folder / "n1" / "images" / "n1.gif",
        folder / "n2" / "labels" / "n2.png",
    ]
    for file in files:
        save(file.with_name("x.png"), draw(1)[1]).rename(file)
    return files


def unread_folder(folder):
    as_pairs(folder)
    for name in ("mask", "Label", "annotations"):
        save(folder / name / "1.png", draw(1)[1])
    (folder / "masks").mkdir()
    (folder / "masks").rmdir()
    (folder / "label").mkdir()  # nothing in it
    return [folder / name for name in ("mask", "Label", "annotations")]


def no_background_in_masks(folder):
    as_dsb(folder)
    shutil.rmtree(folder / "n1" / "masks")
    save(folder / "n1" / "images" / "n1.png", np.repeat(np.uint8([20, 200]), SIZE[1] // 2)[None].repeat(SIZE[0], 0))
    for number in (0, 1):
        half = np.zeros(SIZE, np.uint8)
        half[:, number * SIZE[1] // 2 : (number + 1) * SIZE[1] // 2] = 255
        save(folder / "n1" / "masks" / f"{number}.png", half)
    return [folder / "n1" / "masks"]


def not_annotated(folder):
    as_pairs(folder)
    shutil.rmtree(folder / "labels")
    return []


CASES = {
    unreadable_image: "unreadable-image",
    not_finite: "unreadable-image",
    unreadable_labels: "unreadable-labels",
    unreadable_mask: "unreadable-labels",
    unreadable_masks_all_of_an_image: "unreadable-labels",
    no_masks: "unreadable-labels",
    size_mismatch: "size-mismatch",
    mask_of_another_size: "size-mismatch",
    duplicated_name: "duplicated-name",
    duplicated_id: "duplicated-name",
    labels_without_image: "labels-without-image",
    image_without_labels: "image-without-labels",
    two_label_folders: "layout",
    two_images_in_a_folder: "layout",
    manifest_line: "manifest-line",
    missing_file: "missing-file",
    nothing_to_train_on: "nothing-to-train-on",
    binary_labels: "binary-labels",
    binary_labels_of_ones: "binary-labels",
    binary_mask_in_a_folder: "binary-labels",
    binary_mask_among_others: "binary-labels",
    inverted_masks: "unreadable-labels",
    label_image_as_a_mask: "unreadable-labels",
    mask_of_a_kind_that_is_not_read: "unreadable-labels",
    anti_aliased_labels: "anti-aliased-labels",
    swapped_labels: "swapped-labels",
    shifted_labels: "shifted-labels",
    cut_in_two: "divided-field",
    named_field_in_two_parts: "divided-field",
    exact_duplicate: "exact-duplicate",
    near_duplicate: "near-duplicate",
    overlapping_masks: "overlapping-masks",
    empty_mask: "empty-mask",
    lost_nucleus: "lost-nucleus",
    the_only_nucleus_lost: "lost-nucleus",
    places_in_micrometres: "one-corner",
    most_nuclei_lost: "most-nuclei-lost",
    all_outlines_twice: "most-nuclei-lost",
    thin_nucleus: "thin-nucleus",
    nucleus_with_hole: "nucleus-with-hole",
    nucleus_in_pieces: "nucleus-in-pieces",
    no_background: "no-background",
    no_background_in_masks: "no-background",
    unread_file: "unread-file",
    unread_file_of_a_mask_folder: "unread-file",
    unread_folder: "unread-labels",
    no_nuclei: "no-nuclei",
    no_nuclei_in_masks: "no-nuclei",
    no_nuclei_in_a_table: "no-nuclei",
    file_name: "file-name",
    same_file_name: "file-name",
    names_that_differ_in_case: "similar-names",
    names_that_differ_in_how_an_accent_is_stored: "similar-names",
    not_annotated: "not-annotated",
}


@pytest.mark.parametrize(("spoil", "kind"), CASES.items(), ids=lambda one: getattr(one, "__name__", one))
def test_a_fault_is_found_with_its_files_and_nothing_else(tmp_path, spoil, kind):
    files = spoil(tmp_path)
    found = diagnose(tmp_path)
    assert {one.kind for one in found} == {kind}
    assert {file for one in found for file in one.files} == set(files)
    assert all("\n" not in one.says for one in found)


@pytest.mark.parametrize(
    ("part", "split", "kind"),
    [
        ("test", "train", "held-out-image"),
        ("validation", "train", "held-out-image"),
        ("train", "test", "seen-image"),
        ("test", "validation", None),
        ("train", "train", None),
    ],
)
def test_an_image_of_dsb_2018_on_the_other_side_of_its_shipped_division_is_told(tmp_path, part, split, kind):
    files = of_dsb2018(tmp_path, part, split)
    assert [(one.kind, list(one.files)) for one in diagnose(tmp_path)] == ([(kind, files)] if kind else [])


def test_every_kind_of_fault_is_tested():
    assert {*CASES.values(), "held-out-image", "seen-image"} == set(KINDS)


@pytest.mark.parametrize("make", [as_pairs, as_dsb, as_manifest])
def test_a_good_data_set_is_told_nothing(tmp_path, make):
    make(tmp_path)
    assert diagnose(tmp_path) == []


def test_the_bundled_images_have_no_error():
    found = diagnose(Path(str(resources.files("nucstyle.sample"))))
    assert [one for one in found if one.severity == "error"] == []


def test_several_faults_at_once_are_all_told_worst_first(tmp_path):
    unreadable_image(tmp_path)
    edit_labels(tmp_path, np.zeros_like, number=3)
    save(tmp_path / "labels" / "lonely.png", draw(0)[1])
    kinds = [one.kind for one in diagnose(tmp_path)]
    assert kinds == ["labels-without-image", "unreadable-image", "unreadable-image", "no-nuclei"]
    severities = [SEVERITIES.index(KINDS[kind].severity) for kind in KINDS]
    assert {KINDS[kind].severity for kind in kinds} == {"error", "note"}
    assert severities != sorted(severities)  # so the order above is not merely that of the kinds


def test_pieces_of_one_number_are_no_fault_where_the_manifest_says_that_they_are_nuclei(tmp_path):
    as_manifest(tmp_path, components="- yes - -")
    edit_labels(tmp_path, lambda labels: np.uint8(255) * (labels > 0))
    assert diagnose(tmp_path) == []


def test_what_the_doctor_calls_foreground_reading_refuses_where_it_is_the_only_nucleus(tmp_path, refusal):
    """The same rule judges both; of several masks in a folder one may be in pieces, and is told."""
    for number, make in enumerate((binary_labels, binary_labels_of_ones, binary_mask_in_a_folder)):
        make(tmp_path / str(number))
        (found,) = diagnose(tmp_path / str(number))
        bad = next(one for one in open_dataset(tmp_path / str(number)).records if one.id == found.ids[0])
        assert "--connected-components" in refusal(MaskError, read_nuclei, bad, SIZE)
    binary_mask_among_others(tmp_path / "others")
    assert open_dataset(tmp_path / "others")[1].labels.max() == draw(1)[1].max() - 3


def test_pieces_of_a_mask_are_no_fault_where_they_are_nuclei(tmp_path):
    binary_mask_in_a_folder(tmp_path)
    (record,) = [one for one in survey(tmp_path).records if one.id == "n1"]
    assert [one.kind for one in examine(replace(record, components=True)).findings] == ["nucleus-in-pieces"]


@pytest.mark.parametrize("ending", ["_label", "_labels", "_mask", "_Masks"])
def test_an_image_that_is_named_as_the_labels_of_another_is_told(tmp_path, ending):
    for number in range(2):
        image, labels = draw(number)
        save(tmp_path / f"{number}.png", image)
        save(tmp_path / f"{number}{ending}.png", labels)
    save(tmp_path / f"lonely{ending}.png", draw(5)[0])
    found = [one for one in diagnose(tmp_path) if one.kind == "unread-labels"]
    assert [(one.files, one.ids) for one in found] == [
        ((tmp_path / f"{number}{ending}.png",), (f"{number}{ending}",)) for number in range(2)
    ]
    assert found[0].says == "taken for an image, but named as if it were the labels of 0.png"


@pytest.mark.parametrize("name", ["labels", "masks", "mask"])
def test_a_folder_of_labels_among_images_is_told(tmp_path, name):
    as_pairs(tmp_path)
    shutil.move(tmp_path / "labels", tmp_path / "images" / name)
    save(tmp_path / "labels" / "0.png", draw(0)[1])  # outside of what is asked about
    found = [one for one in diagnose(tmp_path / "images") if one.kind != "not-annotated"]
    assert [(one.kind, one.files) for one in found] == [("unread-labels", (tmp_path / "images" / name,))]


def test_files_beside_those_that_a_manifest_or_a_pattern_names_are_left_out_on_purpose(tmp_path):
    as_manifest(tmp_path)
    save(tmp_path / "images" / "x.png", draw(9)[0]).rename(tmp_path / "images" / "x.gif")
    assert diagnose(tmp_path) == []
    assert [one.kind for one in diagnose(str(tmp_path / "images" / "*.png"))] == ["not-annotated"]


def test_a_nucleus_of_number_255_alone_in_its_image_is_no_mask_of_foreground(tmp_path):
    as_pairs(tmp_path)
    edit_labels(tmp_path, lambda labels: np.uint8(255) * (labels == 1))
    assert "binary-labels" not in {one.kind for one in diagnose(tmp_path)}


def test_a_fault_is_counted_and_its_place_is_told(tmp_path):
    overlapping_masks(tmp_path)
    (found,) = diagnose(tmp_path)
    mask = np.array(Image.open(tmp_path / "n1" / "masks" / "1.png")) > 0
    both = mask & np.roll(mask, 3, axis=0)
    rows, columns = np.nonzero(both)
    assert found.count == both.sum()
    assert found.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    assert found.says == f"{both.sum()} pixels belong to several masks"


def drawn(*boxes):
    """Masks of boxes (first row, first column, row and column after the last), in an image of 20 x 30 pixels."""
    masks = []
    for top, left, bottom, right in boxes:
        mask = torch.zeros(20, 30, dtype=torch.int32)
        mask[top:bottom, left:right] = 1
        masks.append(mask)
    return masks


def polygons(masks):
    return [outline.rings[0].tolist() for mask in masks for outline in trace(mask)]


def as_geojson(folder, masks):
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in polygons(masks)]
    path = folder / "images" / "a.geojson"
    path.write_text(json.dumps(features))
    return [path]


def as_rois(folder, masks):
    path = folder / "images" / "a_rois.zip"
    roifile.roiwrite(
        path, [roifile.ImagejRoi.frompoints(ring, name=str(at)) for at, ring in enumerate(polygons(masks))]
    )
    return [path]


def as_table(folder, masks):
    path = folder / "images" / "labels.csv"
    path.write_text("ImageId,EncodedPixels\n" + "".join(f"a,{encode_dsb(runs_of(mask)[1])}\n" for mask in masks))
    return [path]


def as_coco(folder, masks):
    path = folder / "images" / "instances.json"
    counts = [{"size": [20, 30], "counts": encode_counts(runs_of(mask)[1], 600)} for mask in masks]
    segmentations = [counts[0], *(np.reshape(ring, (1, -1)).tolist() for ring in polygons(masks[1:]))]
    annotations = [{"image_id": 1, "segmentation": one} for one in segmentations]
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": annotations}))
    return [path]


def as_masks(folder, masks):
    for number, mask in enumerate(masks):
        save(folder / "images" / "a" / "masks" / f"{number}.png", np.uint8(255) * mask.numpy().astype(bool))
    image = folder / "images" / "a.png"
    (folder / "images" / "a" / "images").mkdir()
    image.rename(folder / "images" / "a" / "images" / "a.png")
    return [folder / "images" / "a" / "masks", folder / "images" / "a" / "masks" / "2.png"]


@pytest.mark.parametrize("write", [as_geojson, as_rois, as_table, as_coco, as_masks])
def test_overlaps_are_counted_and_nuclei_that_they_hide_in_every_layout_that_can_say_them(tmp_path, write):
    save(tmp_path / "images" / "a.png", np.zeros((20, 30), np.uint8))
    files = write(tmp_path, drawn((2, 3, 10, 12), (6, 8, 14, 20), (3, 4, 6, 7), (15, 1, 19, 5)))
    overlap, lost = diagnose(tmp_path / "images")
    assert (overlap.kind, overlap.count, overlap.box) == ("overlapping-masks", 4 * 4 + 3 * 3, (6, 8, 10, 12))
    assert overlap.says.startswith("25 pixels belong to several ")
    assert (lost.kind, lost.count, lost.says) == ("lost-nucleus", 1, "1 nucleus is covered by others")
    assert [*overlap.files, *lost.files] == [files[0], files[-1]]


@pytest.mark.parametrize("write", [as_geojson, as_rois, as_table, as_coco, as_masks])
def test_nuclei_that_lie_apart_are_told_nothing_in_any_layout(tmp_path, write):
    save(tmp_path / "images" / "a.png", np.zeros((20, 30), np.uint8))
    write(tmp_path, drawn((2, 3, 10, 12), (10, 8, 14, 20), (15, 1, 19, 5)))
    assert diagnose(tmp_path / "images") == []


def test_how_far_labels_are_displaced_is_told(tmp_path):
    shifted_labels(tmp_path)
    (found,) = diagnose(tmp_path)
    assert found.says.startswith("moved ")
    up, left = (int(words.split()[-1]) for words in found.says.split(" px ")[:2])
    assert " px up and " in found.says
    assert " px right," in found.says
    assert abs(up - 15) <= 2
    assert abs(left - 15) <= 2


def test_a_displacement_of_a_few_pixels_is_let_pass(tmp_path):
    as_pairs(tmp_path)
    save(tmp_path / "images" / "1.png", np.roll(draw(1)[0], 2, axis=0))
    assert diagnose(tmp_path) == []


def as_one_pair(folder, image, labels):
    save(folder / "images" / "a.png", (30 + 120 * image).astype(np.uint8))
    save(folder / "labels" / "a.png", labels.astype(np.uint8))


def test_large_nuclei_that_are_a_little_displaced_are_let_pass(tmp_path):
    ys, xs = np.mgrid[:200, :200]
    as_one_pair(tmp_path, (ys - 100) ** 2 + (xs - 100) ** 2 < 3600, (ys - 107) ** 2 + (xs - 100) ** 2 < 3600)
    assert diagnose(tmp_path) == []


def test_labels_displaced_by_more_than_is_looked_for_are_not_told_a_wrong_place(tmp_path):
    ys, xs = np.mgrid[:200, :300]
    image, labels = (np.maximum(abs(ys - 100), abs(xs - place)) < 30 for place in (200, 160))
    as_one_pair(tmp_path, image, labels)
    assert diagnose(tmp_path) == []


def test_dark_nuclei_on_a_light_ground_are_as_good_as_bright_ones(tmp_path):
    as_pairs(tmp_path)
    for number in range(COUNT):
        save(tmp_path / "images" / f"{number}.png", 255 - draw(number)[0])
    assert diagnose(tmp_path) == []


def test_three_labels_that_went_round_are_each_told_where_they_belong(tmp_path):
    as_pairs(tmp_path)
    contents = [(tmp_path / "labels" / f"{number}.png").read_bytes() for number in range(3)]
    for number in range(3):
        (tmp_path / "labels" / f"{number}.png").write_bytes(contents[(number + 1) % 3])
    found = diagnose(tmp_path)
    assert {one.kind for one in found} == {"swapped-labels"}
    assert [one.ids for one in found] == [("0", "2"), ("1", "0"), ("2", "1")]


def test_tiles_of_one_field_in_one_part_are_no_fault(tmp_path):
    cut_in_two(tmp_path, divided=False)
    assert diagnose(tmp_path) == []


def test_what_is_not_divided_is_trained_on_so_it_may_lie_beside_what_is(tmp_path):
    as_manifest(tmp_path, split="train - validation -", field_of_view="a a b c")
    assert diagnose(tmp_path) == []


def test_neighbours_in_two_parts_are_named_with_their_place(tmp_path):
    cut_in_two(tmp_path)
    (found,) = diagnose(tmp_path)
    assert (found.ids, found.is_below) == (("i2", "i3"), False)
    assert found.says == "2 images of one field: 1 train, 1 validation"


def test_the_layout_is_told_with_what_speaks_for_it(tmp_path):
    as_dsb(tmp_path / "dsb")
    as_pairs(tmp_path / "pairs")
    as_manifest(tmp_path / "manifest")
    told = {name: survey(tmp_path / name) for name in ("dsb", "pairs", "manifest")}
    assert {name: one.layout for name, one in told.items()} == {
        "dsb": "dsb2018",
        "pairs": "pairs",
        "manifest": "manifest",
    }
    assert told["dsb"].reason == "n0/images is a folder of its own"
    assert told["pairs"].reason == "it holds images/"
    assert survey(tmp_path / "pairs", format="pairs").reason == "--format says so"
    assert survey(str(tmp_path / "pairs" / "images" / "*.png")).layout == "images"
    assert len(survey(tmp_path / "pairs" / "images" / "1.png").records) == 1


def test_one_name_in_two_folders_of_a_pattern_is_told(tmp_path):
    as_pairs(tmp_path)
    (found,) = survey(str(tmp_path / "*" / "1.png")).findings
    assert found.kind == "duplicated-name"


@pytest.mark.parametrize("name", ["nothing-here", "empty", "*.png"])
def test_where_there_is_nothing_the_error_is_that_of_opening(tmp_path, refusal, name):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / name) in refusal(DatasetError, survey, tmp_path / name)


def test_a_survey_does_not_depend_on_what_the_images_hold(tmp_path):
    as_pairs(tmp_path)
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"")
    assert len(survey(tmp_path).records) == COUNT
    assert survey(tmp_path).findings == ()


def test_a_record_is_examined_as_it_is(tmp_path):
    as_pairs(tmp_path)
    record = survey(tmp_path).records[1]
    seen = examine(record)
    assert (seen.size, seen.dtype, seen.channels) == (SIZE, "uint8", 1)
    assert seen.n_nuclei == draw(1)[1].max()
    assert examine(replace(record, labels=None)).n_nuclei is None
    assert examine(replace(record, labels=None)).digest == seen.digest
