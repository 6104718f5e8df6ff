from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data import image_io
from nucstyle.data.dataset import list_images, open_dataset
from nucstyle.data.formats import dsb2018, pairs
from nucstyle.data.formats.dsb2018 import read_mask_folder
from nucstyle.data.layouts import writing_of
from nucstyle.data.manifest import Record


@pytest.fixture
def save(tmp_path):
    """`save("a/b.png", array)` writes an image below the temporary folder."""

    def write(name, array=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5), np.uint8) if array is None else array).save(path)
        return path

    return write


def mask(*rows):
    return np.array([[255 * (letter == "#") for letter in row] for row in rows], np.uint8)


# DSB 2018


def test_the_dsb_layout_is_one_image_a_folder_sorted_by_id(save, tmp_path):
    for name in ("b/images/b.png", "a/images/a.png", "a/masks/1.png", "b/masks/1.png", "c/images/other.tif"):
        save(name)
    (tmp_path / "stage1_train_labels.csv").write_text("not an image")
    (tmp_path / "empty").mkdir()
    assert dsb2018.evidence(tmp_path)
    records = dsb2018.index(tmp_path)
    assert [(record.id, record.image, record.labels) for record in records] == [
        ("a", tmp_path / "a/images/a.png", tmp_path / "a/masks"),
        ("b", tmp_path / "b/images/b.png", tmp_path / "b/masks"),
        ("c", tmp_path / "c/images/other.tif", None),
    ]


@pytest.mark.parametrize("number", [0, 2])
def test_a_dsb_folder_without_image_or_with_two_is_refused(save, tmp_path, refusal, number):
    save("a/images/a.png")
    (tmp_path / "b/images").mkdir(parents=True)
    for index in range(number):
        save(f"b/images/{index}.png")
    message = refusal(DatasetError, dsb2018.index, tmp_path)
    assert message == f"{tmp_path / 'b/images'}: holds {number} images, the DSB-2018 layout has exactly one"


def test_masks_are_numbered_in_the_order_of_their_names_and_the_first_keeps_what_two_claim(save, tmp_path):
    save("masks/b.png", mask(".####", ".####"))
    save("masks/a.png", mask("##...", "....."))
    save("masks/c.png", mask("....#", "#...."))
    (tmp_path / "masks/notes.txt").write_text("not a mask")
    labels = read_mask_folder(tmp_path / "masks")
    assert labels.dtype == torch.int32
    assert labels.tolist() == [[1, 1, 2, 2, 2], [3, 2, 2, 2, 2]]


def test_an_empty_mask_and_one_that_is_wholly_covered_leave_no_nucleus(save, tmp_path):
    save("masks/a.png", mask("###.", "...."))
    save("masks/b.png", mask("....", "...."))
    save("masks/c.png", mask(".#..", "...."))
    save("masks/d.png", mask("....", "...#"))
    assert read_mask_folder(tmp_path / "masks").unique().tolist() == [0, 1, 4]


def test_a_nucleus_in_two_pieces_is_one_and_two_that_touch_are_two(save, tmp_path):
    save("masks/a.png", mask("#...#"))
    save("masks/b.png", mask(".##.."))
    assert read_mask_folder(tmp_path / "masks").tolist() == [[1, 2, 2, 0, 1]]


def test_three_hundred_masks_give_three_hundred_nuclei(save, tmp_path):
    for number in range(300):
        array = np.zeros((10, 30), np.uint8)
        array.flat[number] = 255
        save(f"masks/{number:03}.png", array)
    assert read_mask_folder(tmp_path / "masks").view(-1).tolist() == list(range(1, 301))


def test_a_mask_of_another_size_than_those_beside_it_is_refused(save, tmp_path, refusal):
    save("masks/a.png", mask("....", "####"))
    save("masks/b.png", mask("..", "..", "##", "##"))
    message = refusal(ImageError, read_mask_folder, tmp_path / "masks")
    assert message == f"{tmp_path / 'masks/b.png'}: size (4, 2) differs from (2, 4) of a.png beside it"


def test_a_folder_without_masks_is_refused(tmp_path, refusal):
    assert refusal(ImageError, read_mask_folder, tmp_path).startswith(f"{tmp_path}: no masks in it; ")


def test_a_folder_of_masks_that_is_gone_is_refused(tmp_path, refusal):
    message = refusal(ImageError, read_mask_folder, tmp_path / "masks")
    assert message.startswith(f"{tmp_path / 'masks'}: the masks cannot be listed (No such file or directory); ")


def test_a_damaged_mask_is_named(save, tmp_path, refusal):
    save("masks/a.png")
    save("masks/b.png").write_bytes(b"")
    assert str(tmp_path / "masks/b.png") in refusal(ImageError, read_mask_folder, tmp_path / "masks")


def test_a_mask_of_a_kind_that_is_not_read_is_refused_and_not_left_out(save, tmp_path, refusal):
    save("masks/1.png", mask("##.."))
    for name in ("2.gif", "2.WEBP", "2.ppm"):
        other = save(f"masks/{name}", mask("..##"))
        message = refusal(ImageError, read_mask_folder, tmp_path / "masks")
        assert message == f"{other}: masks of this kind are not read; convert it to PNG"
        other.unlink()
    for name in (".2.gif", "notes.md", "Thumbs.db"):  # hidden, or no picture
        (tmp_path / "masks" / name).write_bytes(b"")
    (tmp_path / "masks" / "old.gif").mkdir()
    assert read_mask_folder(tmp_path / "masks").tolist() == [[1, 1, 0, 0]]


# What is no mask of one nucleus


@pytest.mark.parametrize("count", [2, 3, 14])
@pytest.mark.parametrize("how", ["apart", "touching", "kept from a larger image"])
def test_a_label_image_among_masks_is_refused(save, tmp_path, refusal, field, count, how):
    labels = field(3, nuclei=count)[1].astype(np.uint16)
    if how == "touching":
        labels[20:76, 20:104] = np.repeat(np.arange(1, count + 1), 84 // count)
    elif how != "apart":
        labels[labels > 0] += 900
    path = save("a/masks/a.png", labels)
    message = refusal(ImageError, read_mask_folder, path.parent)
    assert message.startswith(f"{path}: a label image where a folder has one mask a nucleus; ")


def test_a_label_image_of_nuclei_of_a_few_pixels_is_one_as_well(save, tmp_path, refusal):
    labels = np.zeros((40, 40), np.uint8)
    labels[2:38:6, 2:38:6] = np.arange(1, 37).reshape(6, 6)
    labels[3:38:6] += labels[2:38:6]
    labels[:, 3:38:6] += labels[:, 2:38:6]
    labels[:, 4:38:6] += labels[:, 3:38:6]
    save("masks/1.png", labels)  # 2 x 3 pixels each
    assert "a label image where a folder has" in refusal(ImageError, read_mask_folder, tmp_path / "masks")


def smoothed(array, how):
    image = Image.fromarray(array)
    height, width = array.shape
    kind, _, number = how.partition(" ")
    if kind == "jpeg":
        file = BytesIO()
        image.save(file, "JPEG", quality=int(number))
        return np.array(Image.open(file))
    if kind == "blurred":
        return np.array(image.filter(ImageFilter.GaussianBlur(float(number))))
    if kind == "turned":
        return np.array(image.rotate(17, Image.Resampling.BICUBIC))
    factor = float(number)
    way = Image.Resampling.LANCZOS if kind == "sharp" else Image.Resampling.BILINEAR
    small = np.array(image.resize((round(width * factor), round(height * factor)), way))
    return np.kron(small, np.ones((3, 3), np.uint8)) if kind == "coarse" else small


@pytest.mark.parametrize("radius", [2, 5, 12, 30])
@pytest.mark.parametrize(
    "how",
    [
        *(f"jpeg {quality}" for quality in (10, 40, 75, 95)),
        *("blurred 1", "blurred 3", "turned", "resized 0.5", "resized 0.67", "resized 3", "sharp 1.5", "coarse 0.5"),
    ],
)
def test_masks_of_a_nucleus_that_were_smoothed_or_once_were_jpeg_are_read(save, tmp_path, radius, how):
    ys, xs = np.mgrid[:96, :112]
    for nucleus in ((ys - 40) ** 2 + (xs - 51) ** 2 <= radius**2, np.maximum(abs(ys - 40), abs(xs - 51)) <= radius):
        array = smoothed(nucleus.astype(np.uint8) * 255, how)
        assert len(np.unique(array)) > 2
        save("masks/1.png", array)
        assert np.array_equal(read_mask_folder(tmp_path / "masks") > 0, array > array.max() // 2)


def test_specks_beside_a_mask_do_not_make_it_a_label_image(save, tmp_path):
    array = np.zeros((20, 20), np.uint8)
    array[3:9, 3:9], array[15, 15:18] = 255, 3
    save("masks/1.png", array)
    assert np.array_equal(read_mask_folder(tmp_path / "masks") > 0, array == 255)


def test_a_mask_of_two_numbers_is_not_looked_at_twice(save, tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(image_io, "check_one_nucleus", lambda *given: looked_at.append(given))
    monkeypatch.setattr(image_io, "check_upright", lambda *given: looked_at.append(given))
    array = np.zeros((20, 20), np.uint8)
    array[3:9, 3:9] = 255
    save("masks/1.png", array)
    read_mask_folder(tmp_path / "masks")
    assert looked_at == []
    array[15, 15] = 3
    save("masks/1.png", array)
    read_mask_folder(tmp_path / "masks")
    assert len(looked_at) == 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_inverted_mask_is_refused(save, tmp_path, refusal, suffix):
    array = np.full((30, 40), 255, np.uint8)
    array[5:9, 5:9] = 0
    path = save(f"masks/1{suffix}", array)
    message = refusal(ImageError, read_mask_folder, path.parent)
    assert (
        message == f"{path}: all is nucleus but 16 pixels amid the field: the mask is inverted; make the nucleus bright"
    )


@pytest.mark.parametrize("what", ["all", "all but a corner", "a hole of a pixel or four", "a ring in the field"])
def test_a_nucleus_that_fills_a_small_crop_is_no_inverted_mask(save, tmp_path, what):
    array = np.full((30, 40), 255, np.uint8)
    if what == "all but a corner":
        array[:12, :12] = 0
    elif what == "a hole of a pixel or four":
        array[4:6, 4:6] = 0
    elif what == "a ring in the field":
        array[10:20, 10:20] = array[:, 0] = 0
    save("masks/1.png", array)
    assert np.array_equal(read_mask_folder(tmp_path / "masks"), array // 255)


# Pairs


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_images_and_labels_belong_together_by_name_not_by_place(save, tmp_path, labels):
    for name in ("images/b.tif", "images/a.png", "images/c.png", f"{labels}/a.tif", f"{labels}/c.png"):
        save(name)
    (tmp_path / "images/notes.txt").write_text("not an image")
    assert pairs.evidence(tmp_path)
    assert [(record.id, record.image.name, record.labels) for record in pairs.index(tmp_path)] == [
        ("a", "a.png", tmp_path / labels / "a.tif"),
        ("b", "b.tif", None),
        ("c", "c.png", tmp_path / labels / "c.png"),
    ]


@pytest.mark.parametrize("name", ["cellpose", "geojson", "imagej", "coco"])
def test_labels_among_the_images_are_found_below_images(tmp_path, name):
    labels = np.zeros((20, 20), np.uint16)
    labels[2:6, 3:9], labels[10:15, 10:15] = 1, 2
    made = tmp_path / "made"
    writing_of(name).write(made, "a", np.zeros(labels.shape, np.uint8), torch.from_numpy(labels.astype(np.int32)), None)
    if finish := writing_of(name).finish:
        finish(made, [Record(id="a", image=made / "images/a.png", labels=made)], set())
    (tmp_path / "data/images").mkdir(parents=True)
    for file in [file for file in made.rglob("*") if file.is_file()]:
        file.rename(tmp_path / "data/images" / file.name)
    for how in (None, name):
        (sample,) = open_dataset(tmp_path / "data", format=how)
        assert len(sample.labels.unique()) == len(np.unique(labels))
    assert list_images(tmp_path / "data").layout == name
    assert [record.labels for record in list_images(tmp_path / "data", "pairs").records if record.id == "a"] == [None]


def test_labels_beside_images_count_more_than_those_among_them(save, tmp_path):
    for name in ("images/a.png", "images/a_masks.png", "labels/a.png"):
        save(name)
    (record, other) = list_images(tmp_path).records
    assert (record.labels, other.labels) == (tmp_path / "labels/a.png", None)


def test_a_folder_of_images_alone_is_a_data_set_without_labels(save, tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.bmp"):
        save(name)
    (tmp_path / "sub").mkdir()
    assert pairs.evidence(tmp_path)
    assert [(record.id, record.labels) for record in pairs.index(tmp_path)] == [("a", None), ("b", None), ("c", None)]


def test_saved_arrays_are_images_but_not_what_cellpose_saves_beside_them(save, tmp_path):
    np.save(tmp_path / "b.npy", np.zeros((4, 5)))
    np.save(tmp_path / "a_seg.npy", np.zeros((4, 5)))
    save("a.png")
    assert [record.image.name for record in pairs.index(tmp_path)] == ["a.png", "b.npy"]


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_one_name_for_two_files_is_refused_with_both(save, tmp_path, refusal, folder):
    save("images/a.png")
    save("images/b.png")
    save(f"{folder}/b.tif")
    save(f"{folder}/b.png")
    message = refusal(DatasetError, pairs.index, tmp_path)
    both = f"{tmp_path / folder / 'b.png'} and {tmp_path / folder / 'b.tif'}"
    assert message == f"{both}: the same name twice; which belongs to which cannot be told, rename one"


def test_labels_without_their_image_are_refused(save, tmp_path, refusal):
    for name in ("images/a.png", "labels/a.png", "labels/b.png", "labels/c.png"):
        save(name)
    message = refusal(DatasetError, pairs.index, tmp_path)
    assert (
        message == f"{tmp_path / 'labels/b.png'}: no image of that name in {tmp_path / 'images'} (2 such label files)"
    )


def test_two_label_folders_are_refused(save, tmp_path, refusal):
    for name in ("images/a.png", "labels/a.png", "masks/a.png"):
        save(name)
    assert "holds both labels/ and masks/" in refusal(DatasetError, pairs.index, tmp_path)


def test_names_that_differ_in_case_or_script_stay_apart(save, tmp_path):
    for name in ("a", "A", "核 1", "-x", "é", "e\u0301"):
        save(f"images/{name}.png")
        save(f"labels/{name}.png")
    records = pairs.index(tmp_path)
    assert len(records) == 6
    assert all(record.id == record.image.stem == record.labels.stem for record in records)
