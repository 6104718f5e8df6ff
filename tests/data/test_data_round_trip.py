"""What a layout writes, its reader reads: the same pixels, the same nuclei, nothing taken for something else."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from nucstyle.core.errors import DatasetError
from nucstyle.data.dataset import open_dataset
from nucstyle.data.image_io import read_pixels
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.layouts import READABLE, WRITABLE, recognise, writing_of
from nucstyle.data.manifest import Record, file_name, write_manifest

# ImageJ's outlines lose holes and pieces, as is said; test_data_imagej.py holds what comes back.
LAYOUTS = [name for name in WRITABLE if name in READABLE and name != "imagej"]


@pytest.fixture(scope="module")
def sample():
    """The 48 bundled images: id, pixels, labels and part of each."""
    images = []
    with resources.as_file(resources.files("nucstyle.sample")) as folder:
        for record in open_dataset(folder / "manifest.csv").records:
            pixels = read_pixels(record.image)
            images.append((record.id, pixels, in_order_of_place(read_nuclei(record, pixels.shape[:2])), record.split))
    assert len(images) == 48
    return images


def write_as(layout, folder, images):
    """Write (id, pixels, labels, part) of each image; returns the records as `augment` has them."""
    writing, records = writing_of(layout), []
    folder.mkdir()
    for name, pixels, labels, part in images:
        written = writing.write(folder, file_name(name), pixels, labels, part)
        records.append(Record(id=name, image=written.image, labels=written.labels, split=part))
    if writing.finish:
        writing.finish(folder, records, set())
    return records


def in_order_of_place(labels):
    """The same nuclei, numbered by their first pixels, row by row."""
    array = labels.numpy()
    numbers, firsts = np.unique(array[array > 0], return_index=True)
    table = np.zeros(int(array.max()) + 1, np.int32)
    table[numbers[np.argsort(firsts)]] = np.arange(1, len(numbers) + 1)
    return torch.from_numpy(table[array])


def check(images, records):
    found = {record.id: record for record in records}
    assert found.keys() == {file_name(name) for name, *_ in images} or found.keys() == {name for name, *_ in images}
    for name, pixels, labels, _ in images:
        record = found.get(name) or found[file_name(name)]
        own = read_pixels(record.image)
        assert own.dtype == pixels.dtype
        assert np.array_equal(own, pixels)
        nuclei = read_nuclei(record, pixels.shape[:2])
        assert (nuclei is None) == (labels is None), name
        if labels is not None:
            assert nuclei.dtype == torch.int32
            assert torch.equal(in_order_of_place(nuclei), in_order_of_place(labels)), name


@pytest.mark.parametrize("layout", [*LAYOUTS, pytest.param("dsb2018 in full", marks=pytest.mark.slow)])
def test_the_sample_is_recognised_as_what_it_was_written_as_and_read_back_exactly(layout, sample, tmp_path):
    layout, _, in_full = layout.partition(" ")
    # A file a nucleus, of the size of the image, takes long for the largest images.
    images = sample if in_full or layout != "dsb2018" else [one for one in sample if one[1].size < 1 << 20]
    write_as(layout, tmp_path / "out", images)
    name, words = recognise(tmp_path / "out")
    assert name == layout, words
    assert not [path.name for path in (tmp_path / "out").rglob("*") if ".part" in path.name]
    records = open_dataset(tmp_path / "out").records
    assert records == open_dataset(tmp_path / "out", format=layout).records
    check(images, records)


def odd_images():
    rng = np.random.default_rng(5)
    labels = torch.tensor([[0, 2, 2, 1], [1, 0, 2, 1], [3, 0, 0, 4]], dtype=torch.int32)
    empty, one = torch.zeros(3, 4, dtype=torch.int32), torch.ones(1, 1, dtype=torch.int32)
    return [
        ("grey16", rng.integers(0, 65536, (3, 4)).astype(np.uint16), labels, "train"),
        ("float", rng.random((3, 4)).astype(np.float32), labels, "validation"),
        ("rgb16", rng.integers(0, 65536, (3, 4, 3)).astype(np.uint16), labels, "test"),
        ("no nucleus", np.zeros((3, 4), np.uint8), empty, "train"),
        ("not annotated", np.full((3, 4, 3), 7, np.uint8), None, "train"),
        ("one pixel", np.full((1, 1), 7, np.uint8), one, None),
        ("full", np.full((3, 4), 7, np.uint8), torch.ones(3, 4, dtype=torch.int32), None),
        ("a.b, 'c' \"d\"; é 核", np.full((3, 4), 9, np.uint8), labels, "train"),
        ("-x", np.full((3, 4), 9, np.uint8), labels, "train"),
        ("well/field", np.full((3, 4), 9, np.uint8), labels, "train"),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_odd_images_and_names_come_back_also_by_a_manifest(layout, tmp_path):
    images = odd_images()
    records = write_as(layout, tmp_path / "out", images)
    assert recognise(tmp_path / "out")[0] == layout
    check(images, open_dataset(tmp_path / "out").records)
    write_manifest(tmp_path / "manifest.csv", records)
    check(images, open_dataset(tmp_path / "manifest.csv").records)


@pytest.mark.parametrize("layout", ["cellpose", "stardist"])
def test_folders_of_parts_say_the_split(layout, tmp_path):
    write_as(layout, tmp_path / "out", odd_images())
    splits = {record.id: record.split for record in open_dataset(tmp_path / "out").records}
    assert splits["grey16"] == splits["full"] == "train"
    assert (splits["float"], splits["rgb16"], splits["not annotated"]) == ("validation", "test", None)


@pytest.mark.parametrize(
    ("layout", "rows"), [("pairs", 250), ("cellpose", 250), ("stardist", 250), ("rle", 25), ("coco", 25)]
)
def test_tens_of_thousands_of_nuclei_come_back(layout, rows, tmp_path):
    """Seven or seventy thousand: label images count past 65,535 in 32 bits."""
    labels = torch.arange(1, rows * 280 + 1, dtype=torch.int32).reshape(rows, 280)
    write_as(layout, tmp_path / "out", [("many", np.zeros(labels.shape, np.uint8), labels, None)])
    (record,) = open_dataset(tmp_path / "out").records
    assert torch.equal(read_nuclei(record, tuple(labels.shape)), labels)


@pytest.mark.parametrize("layout", ["rle", "coco"])
def test_a_work_that_was_stopped_goes_on_where_it_was(layout, tmp_path):
    """The file for all images is there from the first image on, and joining twice or after more images loses nothing."""
    images, folder, writing = odd_images(), tmp_path / "out", writing_of(layout)
    records = []
    for name, pixels, labels, part in images:
        written = writing.write(folder, file_name(name), pixels, labels, part)
        assert written.labels is None or written.labels.is_file()
        records.append(Record(id=name, image=written.image, labels=written.labels))
        if name == "rgb16":
            writing.finish(folder, records, set())
    writing.finish(folder, records, set())
    check(images, open_dataset(folder).records)
    before = records[0].labels.read_bytes()
    writing.finish(folder, records, set())
    assert records[0].labels.read_bytes() == before
    assert {path.name for path in folder.iterdir()} <= {"images", "unannotated", Path(records[0].labels).name}


@pytest.mark.parametrize("layout", ["rle", "coco"])
def test_nuclei_that_were_lost_on_the_way_are_not_passed_over(layout, tmp_path, refusal):
    records = write_as(layout, tmp_path / "out", odd_images()[:2])
    other = Record(id="other", image=tmp_path / "out/images/other.png", labels=records[0].labels)
    message = refusal(DatasetError, writing_of(layout).finish, tmp_path / "out", [*records, other], set())
    assert "other" in message
    assert "are lost" in message
