import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data.dataset import Dataset, load, open_dataset, require_labels
from nucstyle.data.layouts import READABLE
from nucstyle.data.manifest import write_manifest
from nucstyle.data.splits import dsb2018_split


@pytest.fixture
def mixed(tmp_path, field):
    """A folder of images of many types: 8-bit colour and grey, black and white, 16 bits and floats."""
    folder = tmp_path / "mixed"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    image, labels = field(1)
    deep = image[..., 0].astype(np.uint16) * 301 + 7
    Image.fromarray(image).save(folder / "images/colour.png")
    Image.fromarray(image[..., 0]).save(folder / "images/grey.png")
    Image.fromarray(image[..., 0] > 90).save(folder / "images/bits.png")
    Image.fromarray(deep).save(folder / "images/deep.png")
    tifffile.imwrite(folder / "images/float.tif", deep.astype(np.float32) / 3)
    for name in ("colour", "grey", "bits", "deep", "float"):
        Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / f"{name}.png")
    return folder


def assert_same(one, other):
    """Two samples are equal, bit for bit."""
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.labels, other.labels)
    assert (one.id, one.modality, one.source, one.history) == (other.id, other.modality, other.source, other.history)


# Opening


def test_a_folder_of_pairs_opens_as_samples(write_pairs):
    dataset = open_dataset(write_pairs())
    assert len(dataset) == 8
    assert [sample.id for sample in dataset] == [f"field-{number}" for number in range(8)]
    sample = dataset[5]
    assert sample.size == (96, 112)
    assert sample.labels.unique().tolist() == list(range(int(sample.labels.max()) + 1))
    assert sample.source.path.name == "field-5.png"


def test_opening_reads_nothing_but_names(write_pairs):
    folder = write_pairs()
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    assert len(open_dataset(folder)) == 8


@pytest.mark.parametrize("as_text", [True, False])
def test_a_file_a_glob_and_a_folder_of_images_open_without_labels(write_pairs, as_text):
    folder = write_pairs() / "images"
    for data, number in ((folder / "field-2.png", 1), (folder / "field-[0-2].png", 3), (folder, 8), (folder / "**", 8)):
        dataset = open_dataset(str(data) if as_text else data)
        assert len(dataset) == number
        assert all(record.labels is None for record in dataset.records)
        assert dataset[0].image.shape == (3, 96, 112)


def test_a_folder_in_the_dsb_layout_opens(tmp_path, field):
    image, labels = field(0)
    for part in ("images", "masks"):
        (tmp_path / "data/x" / part).mkdir(parents=True)
    Image.fromarray(image).convert("RGBA").save(tmp_path / "data/x/images/x.png")
    for number in range(1, labels.max() + 1):
        Image.fromarray((labels == number).astype(np.uint8) * 255).save(tmp_path / f"data/x/masks/{number:02}.png")
    sample = open_dataset(tmp_path / "data")[0]
    assert torch.equal(sample.labels, torch.from_numpy(labels))
    assert torch.equal(sample.image, torch.from_numpy(image).permute(2, 0, 1).float() / 255)


def test_a_manifest_opens_by_its_name_or_its_folder_and_comes_before_the_layout(write_pairs):
    folder = write_pairs()
    records = [replace(record, modality="mine", split="test") for record in open_dataset(folder).records[:3]]
    write_manifest(folder / "manifest.csv", records)
    for data, format_ in ((folder, None), (folder / "manifest.csv", None), (folder, "manifest")):
        dataset = open_dataset(data, format=format_)
        assert [(sample.id, sample.modality) for sample in dataset] == [(f"field-{n}", "mine") for n in range(3)]
        assert len(dataset.part("test")) == 3
    assert len(open_dataset(folder, format="pairs")) == 8


def test_labels_may_be_a_folder_of_masks_in_a_manifest_too(tmp_path, field):
    image, _ = field(0)
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.full(image.shape[:2], 255, np.uint8)).save(tmp_path / "masks/1.png")
    (tmp_path / "manifest.csv").write_text("id,image,labels\na,a.png,masks\n")
    assert open_dataset(tmp_path)[0].labels.unique().tolist() == [1]


def test_images_of_dsb_2018_get_the_shipped_part_unless_their_manifest_says_one(tmp_path, field):
    ids = [next(name for name, part in dsb2018_split().items() if part == wanted) for wanted in ("validation", "test")]
    for name in (*ids, "another"):
        Image.fromarray(field(0)[0]).save(tmp_path / f"{name}.png")
    dataset = open_dataset(tmp_path)
    assert {record.id: record.split for record in dataset.records} == {
        ids[0]: "validation",
        ids[1]: "test",
        "another": None,
    }
    write_manifest(tmp_path / "manifest.csv", [replace(record, split="train") for record in dataset.records])
    assert len(open_dataset(tmp_path).part("train")) == 3


@pytest.mark.parametrize("name", ["nothing", "nothing/*.png", "nothing.csv"])
def test_a_path_with_nothing_there_is_refused(tmp_path, refusal, name):
    assert refusal(DatasetError, open_dataset, tmp_path / name) == f"{tmp_path / name}: no such file or folder"


@pytest.mark.parametrize("format_", [None, "pairs", "dsb2018"])
@pytest.mark.parametrize("parts", [(), ("images",), ("images", "labels"), ("other",)])
def test_an_empty_folder_is_refused_with_what_was_expected(tmp_path, refusal, parts, format_):
    for part in parts:
        (tmp_path / part).mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    message = refusal(DatasetError, open_dataset, tmp_path, format=format_)
    assert message.startswith(f"{tmp_path}: no images in it; expected images/ with labels/ or masks/")


def test_an_empty_manifest_is_refused(tmp_path, refusal):
    (tmp_path / "manifest.csv").write_text("id,image\n")
    assert "no images in it" in refusal(DatasetError, open_dataset, tmp_path)


def test_an_unknown_format_is_refused_with_those_there_are(tmp_path, refusal):
    message = refusal(DatasetError, open_dataset, tmp_path, format="napari")
    assert message == f"--format napari: unknown; known: {', '.join(READABLE)}"


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_file_that_a_manifest_names_and_that_is_not_there_is_refused_at_once(write_pairs, refusal, part):
    folder = write_pairs()
    write_manifest(folder / "manifest.csv", open_dataset(folder).records)
    for number in (3, 5):
        (folder / part / f"field-{number}.png").unlink()
    message = refusal(DatasetError, open_dataset, folder)
    assert message.endswith(f"{folder / part / 'field-3.png'} does not exist (2 missing); correct the path")


def test_one_stem_in_two_folders_of_a_glob_is_refused(write_pairs, refusal, tmp_path):
    shutil.copytree(write_pairs("pairs"), tmp_path / "again")
    assert "the same name twice" in refusal(DatasetError, open_dataset, tmp_path / "*/images/*.png")


# Reading


@pytest.mark.parametrize("layout", ["label image", "folder of masks"])
def test_labels_of_another_size_are_refused_with_both_files_and_sizes(tmp_path, refusal, field, layout):
    image, _ = field(0, size=(20, 40))
    turned = np.ones((40, 20), np.uint8)  # as many pixels
    labels = tmp_path / ("data/x/masks" if layout == "folder of masks" else "data/labels/x.png")
    images = tmp_path / ("data/x/images" if layout == "folder of masks" else "data/images")
    images.mkdir(parents=True)
    Image.fromarray(image).save(images / "x.png")
    file = labels / "1.png" if layout == "folder of masks" else labels
    file.parent.mkdir(parents=True)
    Image.fromarray(turned).save(file)
    message = refusal(ImageError, open_dataset(tmp_path / "data").__getitem__, 0)
    assert message.startswith(
        f"{labels}: labels are 40 x 20 pixels (height x width), their image {images / 'x.png'} is 20 x 40"
    )


def test_numbers_of_nuclei_have_no_gaps_after_reading(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "images/a.png")
    tifffile.imwrite(tmp_path / "labels/a.tif", np.array([[70_000, 3, 3], [0, 9, 70_000]], np.uint32))
    assert open_dataset(tmp_path)[0].labels.tolist() == [[3, 1, 1], [0, 2, 3]]


def test_an_annotated_image_without_nuclei_is_annotated(tmp_path, field):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.fromarray(field(0)[0]).save(tmp_path / "images/a.png")
    Image.fromarray(np.zeros((96, 112), np.uint8)).save(tmp_path / "labels/a.png")
    dataset = open_dataset(tmp_path)
    require_labels(dataset, "training")
    assert dataset[0].labels.sum() == 0


def test_a_purpose_that_needs_masks_refuses_an_image_without(write_pairs, refusal):
    folder = write_pairs()
    require_labels(open_dataset(folder), "training")
    for number in (2, 6):
        (folder / f"labels/field-{number}.png").unlink()
    message = refusal(DatasetError, require_labels, open_dataset(folder), "training")
    assert message.startswith(
        f"{folder / 'images/field-2.png'}: not annotated (2 of 8 images), but training needs masks"
    )


def test_reading_everything_names_the_first_image_that_cannot_be_used(write_pairs, refusal, steps):
    folder = write_pairs()
    open_dataset(folder).read_all(steps)
    assert steps.seen == [("read images", 8, "image"), *range(1, 9)]
    (folder / "images/field-3.png").write_bytes(b"<html>")
    assert str(folder / "images/field-3.png") in refusal(ImageError, open_dataset(folder).read_all, steps)


# Keeping


def test_kept_images_are_bit_for_bit_those_that_are_read_each_time(mixed):
    kept, fresh = open_dataset(mixed, keep=True), open_dataset(mixed)
    assert {sample.source.dtype for sample in fresh} == {"uint8", "bool", "uint16", "float32"}
    for _ in range(2):
        for one, other in zip(kept, fresh, strict=True):
            assert_same(one, other)
    assert_same(kept[3], load(kept.records[3]))


def test_every_number_of_eight_bits_survives_being_kept(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    kept = open_dataset(tmp_path, keep=True)
    first, again = kept[0], kept[0]
    assert torch.equal(first.image, again.image)
    assert torch.equal(again.image[0].view(-1), torch.arange(256) / 255)


def test_what_is_kept_is_read_once(mixed):
    kept = open_dataset(mixed, keep=True)
    before = list(kept)
    shutil.rmtree(mixed)
    for one, other in zip(kept, before, strict=True):
        assert_same(one, other)


def test_what_is_not_kept_is_read_each_time(mixed, refusal):
    dataset = open_dataset(mixed)
    assert len(list(dataset)) == 5
    shutil.rmtree(mixed)
    assert "no such image file" in refusal(ImageError, dataset.__getitem__, 0)


def test_changing_a_kept_image_in_place_does_not_change_what_is_kept_of_eight_bits(mixed):
    kept, fresh = open_dataset(mixed, keep=True), open_dataset(mixed)
    index = [record.id for record in kept.records].index("colour")
    kept[index].image.zero_()
    assert torch.equal(kept[index].image, fresh[index].image)


@pytest.mark.parametrize("keep", [True, False])
def test_other_records_bring_their_modalities_to_the_same_images(mixed, keep):
    dataset = open_dataset(mixed, keep=keep)
    read = [dataset[0], dataset[2]]
    named = dataset.with_records([replace(record, modality=f"m-{record.id}") for record in dataset.records])
    assert [sample.modality for sample in named] == [f"m-{sample.id}" for sample in named]
    assert [sample.modality for sample in dataset] == [None] * 5
    for old, index in zip(read, (0, 2), strict=True):
        assert_same(replace(named[index], modality=None), old)
    for one, other in zip(named, open_dataset(mixed), strict=True):
        assert torch.equal(one.image, other.image)


def test_images_that_were_read_stay_with_other_records(mixed):
    dataset = open_dataset(mixed, keep=True)
    before = list(dataset)
    named = dataset.with_records([replace(record, modality="x") for record in dataset.records])
    shutil.rmtree(mixed)
    for one, other in zip(named, before, strict=True):
        assert_same(one, replace(other, modality="x"))


def test_parts_divide_a_data_set(write_pairs):
    parts = ("train", "validation", "test", None)
    records = [
        replace(record, split=parts[index % 4]) for index, record in enumerate(open_dataset(write_pairs()).records)
    ]
    dataset = Dataset(records)
    assert [[record.id for record in dataset.part(part).records] for part in parts] == [
        [f"field-{index}", f"field-{index + 4}"] for index in range(4)
    ]
    assert [record.split for record in dataset.part("train", None).records] == ["train", None] * 2
    assert len(dataset.part()) == 0
    assert [sample.id for sample in dataset.where(lambda record: record.id > "field-5", keep=True)] == [
        "field-6",
        "field-7",
    ]


def test_pieces_of_a_mask_are_nuclei_where_the_manifest_says_so(tmp_path):
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 255]], np.uint8)).save(tmp_path / "m.png")
    (tmp_path / "manifest.csv").write_text("id,image,labels,components\na,a.png,m.png,yes\n")
    assert open_dataset(tmp_path)[0].labels.tolist() == [[1, 0, 0, 2], [1, 0, 0, 0], [0, 0, 0, 3]]
