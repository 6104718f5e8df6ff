import numpy as np
import pytest
import torch
from PIL import Image

from nucstyle.core.errors import DatasetError, ImageError
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
