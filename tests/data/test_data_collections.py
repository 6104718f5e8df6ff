"""Layouts of collections: StarDist's folders, BBBC039, NuInsSeg, domains of style networks."""

import numpy as np
import pytest
import torch
from PIL import Image

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data.dataset import load, open_dataset
from nucstyle.data.image_io import read_labels
from nucstyle.data.layouts import READABLE, recognise
from nucstyle.data.manifest import read_manifest, write_manifest

LABELS = np.array([[0, 1, 1], [2, 0, 1]], np.uint16)


def listed(path):
    return [(record.id, record.split, record.labels is not None) for record in open_dataset(path).records]


# StarDist


def test_folders_of_parts_hold_images_and_masks(save, tmp_path):
    for place in ("train", "val", "test"):
        for kind in ("images", "masks"):
            save(f"{place}/{kind}/{place[0]}.tif", LABELS)
    save("train/images/again.tif")
    save("test/images/again.png")
    save("unannotated/images/u.tif")
    assert recognise(tmp_path) == ("stardist", "train/images is the folder of a part")
    assert listed(tmp_path) == [
        ("test/images/again", "test", False),
        ("test/images/t", "test", True),
        ("train/images/again", "train", False),
        ("train/images/t", "train", True),
        ("u", None, False),
        ("v", "validation", True),
    ]
    assert all(
        load(record).labels.tolist() == LABELS.tolist() for record in open_dataset(tmp_path).records if record.labels
    )


def test_masks_of_no_image_are_refused_in_every_part(save, tmp_path, refusal):
    save("train/images/a.tif")
    save("test/images/a.tif")
    lonely = save("test/masks/b.tif", LABELS)
    assert str(lonely) in refusal(DatasetError, open_dataset, tmp_path)


# BBBC039


@pytest.fixture
def bbbc039(save, tmp_path):
    """Four images, three of them with masks, in the manner of BBBC039: red 1 for two nuclei, 2 for one that touches one."""
    red = np.array([[1, 1, 0, 1], [2, 2, 0, 1], [0, 0, 0, 0]], np.uint8)
    mask = np.dstack([red, 0 * red, 0 * red, np.full_like(red, 255)])
    for name in "abcd":
        save(f"images/{name}.tif", np.arange(12, dtype=np.uint16).reshape(3, 4))
    for name in "abc":
        save(f"masks/{name}.png", mask)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "training.txt").write_text("a.png\n")
    (tmp_path / "metadata" / "validation.txt").write_text("b.png\r\n\r\n")
    (tmp_path / "metadata" / "test.txt").write_text("c.png")
    return tmp_path


def test_bbbc039_says_its_parts_and_pieces_of_red_are_nuclei(bbbc039):
    assert recognise(bbbc039) == ("bbbc039", "it holds images/, masks/ and metadata/training.txt")
    assert listed(bbbc039) == [("a", "train", True), ("b", "validation", True), ("c", "test", True), ("d", None, False)]
    records = open_dataset(bbbc039).records
    write_manifest(bbbc039 / "manifest.csv", records)
    for one in (records[0], read_manifest(bbbc039 / "manifest.csv")[0]):
        assert load(one).labels.tolist() == [[1, 1, 0, 2], [3, 3, 0, 2], [0, 0, 0, 0]]


def test_red_alone_is_read_where_the_others_are_empty(bbbc039, refusal):
    path = bbbc039 / "masks" / "a.png"
    assert read_labels(path).tolist() == [[1, 1, 0, 1], [2, 2, 0, 1], [0, 0, 0, 0]]
    coloured = np.array(Image.open(path))
    coloured[0, 0, 1] = 7
    Image.fromarray(coloured).save(path)
    message = refusal(ImageError, load, open_dataset(bbbc039).records[0])
    assert message.startswith(f"{path}: colours are no numbers of nuclei")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("training.txt", "a.png\ngone.png\n", "lists gone, which is not in"),
        ("test.txt", "a.png\n", "names a, which another list has as well"),
    ],
)
def test_lists_that_do_not_fit_the_images_are_refused(bbbc039, refusal, name, text, reason):
    (bbbc039 / "metadata" / name).write_text(text)
    assert reason in refusal(DatasetError, open_dataset, bbbc039)


# NuInsSeg


def test_nuinsseg_has_a_folder_for_each_organ_and_its_modified_masks_count(save, tmp_path):
    summed = LABELS.copy()
    summed[0, 1] = 3
    for organ in ("human brain", "mouse liver"):
        for number in (1, 2):
            save(f"{organ}/tissue images/{organ[0]}_{number}.png", np.zeros((2, 3, 3), np.uint8))
            save(f"{organ}/label masks/{organ[0]}_{number}.tif", summed)
            save(f"{organ}/label masks modify/{organ[0]}_{number}.tif", LABELS)
        save(f"{organ}/mask binary/{organ[0]}_1.png")
    assert recognise(tmp_path) == ("nuinsseg", "human brain/tissue images is a folder")
    assert listed(tmp_path) == [(name, None, True) for name in ("h_1", "h_2", "m_1", "m_2")]
    assert load(open_dataset(tmp_path).records[0]).labels.tolist() == LABELS.tolist()


def test_nuinsseg_with_sums_for_overlaps_alone_says_so(save, tmp_path):
    save("human brain/tissue images/a.png", np.zeros((2, 3, 3), np.uint8))
    save("human brain/label masks/a.tif", LABELS)
    assert recognise(tmp_path)[1].endswith("; of label masks, where nuclei overlap, the pixels are wrong")
    assert listed(tmp_path) == [("a", None, True)]


def test_nuinsseg_labels_of_no_image_are_refused(save, tmp_path, refusal):
    save("human brain/tissue images/a.png")
    lonely = save("human brain/label masks modify/b.tif", LABELS)
    assert str(lonely) in refusal(DatasetError, open_dataset, tmp_path)


# Domains


def test_folders_of_domains_say_modality_and_part(save, tmp_path):
    for name in ("trainA/1.png", "trainB/1.png", "trainB/2.png", "testA/3.png"):
        save(name)
    assert recognise(tmp_path) == ("domains", "testA holds the images of a domain")
    assert [(record.id, record.modality, record.split, record.labels) for record in open_dataset(tmp_path).records] == [
        ("2", "b", "train", None),
        ("3", "a", "test", None),
        ("trainA/1", "a", "train", None),
        ("trainB/1", "b", "train", None),
    ]


@pytest.mark.parametrize("inside", [True, False])
def test_folders_in_domain_are_modalities_by_names_that_a_manifest_takes(save, tmp_path, inside):
    for name in ("H&E Stain", "DAPI", "3", "äß"):
        save(f"domain/{name}/{name} image.png")
    data = tmp_path / "domain" if inside else tmp_path
    records = open_dataset(data).records
    assert {record.id[:2]: record.modality for record in records} == {
        "H&": "h-e-stain",
        "DA": "dapi",
        "3 ": "domain-3",
        "äß": "domain",
    }
    write_manifest(tmp_path / "manifest.csv", records)
    assert read_manifest(tmp_path / "manifest.csv") == list(records)


def test_two_folders_of_one_modality_are_refused(save, tmp_path, refusal):
    save("domain/DAPI 1/a.png")
    save("domain/dapi-1/b.png")
    assert "both names mean the modality 'dapi-1'; rename one" in refusal(DatasetError, open_dataset, tmp_path)


@pytest.mark.parametrize("name", ["training", "trainMasks", "train_images", "Atrain", "pictures"])
def test_other_folders_of_images_are_no_domains(save, tmp_path, name):
    save(f"{name}/a.png")
    assert recognise(tmp_path) is None


# All


def test_an_empty_folder_is_none_of_the_layouts_and_whatever_it_is_called_has_no_images(tmp_path, refusal):
    assert recognise(tmp_path) is None
    for name in READABLE:
        assert str(tmp_path) in refusal(DatasetError, open_dataset, tmp_path, format=name)


@pytest.mark.parametrize("layout", READABLE)
def test_a_file_that_is_of_no_layout_is_refused_whatever_it_is_called(save, layout, refusal):
    path = save("a.png")
    assert str(path) in refusal(DatasetError, open_dataset, path, format=layout)


def test_hidden_files_that_some_systems_leave_beside_images_are_no_images(save, tmp_path):
    save("a/images/a.png")
    save("a/masks/1.png", np.full((2, 3), 255, np.uint8))
    for name in ("a/images/._a.png", "a/masks/._1.png", "a/images/..png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (record,) = open_dataset(tmp_path).records
    assert torch.equal(load(record).labels, torch.ones(2, 3, dtype=torch.int32))
