"""Pipes, sockets, devices, folders and links in the place of files: named when they are read, and nobody waits for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

from nucstyle.core.errors import DatasetError, ImageError, WeightsError
from nucstyle.data.cache import content_key
from nucstyle.data.dataset import open_dataset
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.manifest import read_manifest
from nucstyle.data.run_folder import check_target
from nucstyle.data.weights import load_weights

pytestmark = pytest.mark.timeout(60)  # whoever waits for a pipe waits for ever


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(path.parent):  # paths of sockets must be short
        one.bind(path.name)


ODD = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "link to nowhere": lambda path: path.symlink_to("nowhere.png"),
}


@pytest.fixture(params=ODD)
def make_odd(request):
    """`make_odd(path)` puts something there that has the name of a file and is none."""
    return ODD[request.param]


def test_an_image_that_is_no_file_is_listed_and_refused_and_the_others_are_read(make_odd, write_pairs, refusal):
    folder = write_pairs(fluorescence=2, stained=1)
    odd = folder / "images" / "field-1.png"
    odd.unlink()
    make_odd(odd)
    globs = [] if odd.is_dir() else [folder / "images" / "*"]  # a glob may mean folders, which hold its images
    for data in (folder, folder / "images", *globs):
        dataset = open_dataset(data)
        assert [record.id for record in dataset.records] == ["field-0", "field-1", "field-2"]
        assert str(odd) in refusal(ImageError, dataset.__getitem__, 1)
        assert dataset[0].id, dataset[2].id


def test_labels_that_are_no_file_do_not_make_an_image_one_without_annotation(make_odd, write_pairs, refusal):
    folder = write_pairs(fluorescence=2, stained=0)
    odd = folder / "labels" / "field-1.png"
    odd.unlink()
    make_odd(odd)
    dataset = open_dataset(folder)
    assert dataset.records[1].labels == odd
    assert str(odd) in refusal(ImageError, dataset.__getitem__, 1)
    assert dataset[0].labels is not None


@pytest.fixture
def dsb(tmp_path, field):
    """Two images in the layout of DSB 2018."""
    for name in ("a", "b"):
        for part in ("images", "masks"):
            (tmp_path / "dsb" / name / part).mkdir(parents=True)
        image, labels = field(0)
        Image.fromarray(image).save(tmp_path / "dsb" / name / "images" / f"{name}.png")
        Image.fromarray(np.where(labels == 1, 255, 0).astype(np.uint8)).save(
            tmp_path / "dsb" / name / "masks" / "1.png"
        )
    return tmp_path / "dsb"


@pytest.mark.parametrize("place", ["images/b.png", "masks/1.png", "masks/2.png"])
def test_an_odd_image_or_mask_of_dsb_is_refused_and_the_other_image_is_read(make_odd, dsb, refusal, place):
    odd = dsb / "b" / place
    odd.unlink(missing_ok=True)
    make_odd(odd)
    dataset = open_dataset(dsb)
    assert dataset[0].labels.max() == 1
    assert str(odd) in refusal(ImageError, dataset.__getitem__, 1)


def test_masks_that_are_no_folder_do_not_make_an_image_one_without_annotation(dsb, refusal):
    shutil.rmtree(dsb / "b" / "masks")
    (dsb / "b" / "masks").symlink_to("nowhere")
    assert str(dsb / "b" / "masks") in refusal(ImageError, open_dataset(dsb).__getitem__, 1)


def test_what_a_manifest_names_may_be_odd_as_well(make_odd, write_pairs, refusal):
    folder = write_pairs(fluorescence=2, stained=0)
    make_odd(folder / "odd.png")
    lines = ("id,image,labels", "x,odd.png,labels/field-0.png", "y,images/field-0.png,odd.png", "z,images/field-1.png,")
    (folder / "manifest.csv").write_text("\n".join(lines))
    dataset = open_dataset(folder)
    for index in (0, 1):
        assert str(folder / "odd.png") in refusal(ImageError, dataset.__getitem__, index)
    assert dataset[2].id == "z"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_a_manifest_that_is_no_file_is_refused_without_waiting(tmp_path, refusal, kind):
    path = tmp_path / "manifest.csv"
    ODD[kind](path)
    assert refusal(DatasetError, read_manifest, path) == f"{path}: not a regular file; give a manifest.csv"
    assert str(path) in refusal(DatasetError, open_dataset, path, format="manifest")


def test_weights_that_are_no_file_are_refused_without_waiting(make_odd, tmp_path, refusal):
    make_odd(tmp_path / "weights.safetensors")
    message = refusal(WeightsError, load_weights, tmp_path / "weights.safetensors", kind="style")
    assert str(tmp_path / "weights.safetensors") in message


def test_what_is_no_file_has_no_key_in_the_cache(make_odd, tmp_path):
    make_odd(tmp_path / "odd.png")
    assert content_key(tmp_path / "odd.png") is None


def test_links_that_run_in_a_circle_are_no_obstacle_beside_a_run(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert check_target(tmp_path / "run", resume=False, overwrite=False, inputs=[tmp_path / "a"]) is None


# Between listing and reading


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_file_that_vanishes_between_listing_and_reading_is_named_and_the_others_are_read(write_pairs, refusal, part):
    folder = write_pairs(fluorescence=3, stained=0)
    dataset = open_dataset(folder)
    gone = folder / part / "field-1.png"
    gone.unlink()
    assert str(gone) in refusal(ImageError, dataset.__getitem__, 1)
    assert [dataset[index].id for index in (0, 2)] == ["field-0", "field-2"]


@pytest.mark.parametrize("what", ["masks", "masks/1.png"])
def test_masks_that_vanish_between_listing_and_reading_are_named(dsb, refusal, what):
    dataset = open_dataset(dsb)
    gone = dsb / "b" / what
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert str(dsb / "b" / "masks") in refusal(ImageError, dataset.__getitem__, 1)
    assert dataset[0].labels.max() == 1


def test_labels_that_change_their_size_between_listing_and_reading_are_refused(write_pairs, refusal):
    folder = write_pairs(fluorescence=2, stained=0)
    dataset = open_dataset(folder)
    Image.new("L", (50, 40)).save(folder / "labels" / "field-1.png")
    assert "40 x 50" in refusal(ImageError, read_nuclei, dataset.records[1], (96, 112))
