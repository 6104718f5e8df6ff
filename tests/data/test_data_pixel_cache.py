import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.core import forks
from nucstyle.core.errors import ImageError
from nucstyle.core.forks import share_out
from nucstyle.core.protocols import SILENT
from nucstyle.data import dataset as dataset_module
from nucstyle.data import pixel_cache as module
from nucstyle.data.cache import cache_bytes
from nucstyle.data.dataset import load, open_dataset
from nucstyle.data.decoders import MAX_PIXELS, ReadOptions
from nucstyle.data.formats import dsb2018
from nucstyle.data.pixel_cache import NO_PIXELS, PixelCache, pixel_cache
from nucstyle.workflows.demo import sample_folder


@pytest.fixture
def settled(monkeypatch):
    """Files count as old at once, so that what is decoded of them is kept."""
    monkeypatch.setattr(module, "_SETTLED_NS", -(10**12))


@pytest.fixture
def cache(settled, tmp_path):
    """A cache of its own."""
    return PixelCache(tmp_path / "kept")


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files and folders that were decoded so far."""
    names = []

    def listening(real):
        def read(given, *arguments):
            names.append(getattr(given, "labels", given).name)
            return real(given, *arguments)

        return read

    for name in ("read_pixels", "read_nuclei"):
        monkeypatch.setattr(dataset_module, name, listening(getattr(dataset_module, name)))
    return names


@pytest.fixture
def masks(tmp_path, field):
    """A data set in the layout of DSB 2018: two fields, a mask a nucleus."""
    for number in range(2):
        pixels, labels = field(number, nuclei=5)
        dsb2018.write(tmp_path / "data", f"field-{number}", pixels, torch.from_numpy(labels), None)
    return tmp_path / "data"


def entries(folder):
    """What is kept, each once, though it has two names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(path.suffix == ".part" for path in files)
    return {path.stat().st_ino for path in files}


def assert_same(one, other):
    assert torch.equal(one.image, other.image)
    assert one.image.dtype == other.image.dtype
    assert (one.labels is None) == (other.labels is None)
    assert one.labels is None or torch.equal(one.labels, other.labels)
    assert replace(one, image=other.image, labels=None) == replace(other, labels=None)


def write(path, array):
    """Write a file at once, as an editor does."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())


# What is kept


def test_the_second_opening_decodes_nothing_and_gives_the_same(settled, masks, decoded):
    first = list(open_dataset(masks))
    assert sorted(decoded) == ["field-0.png", "field-1.png", "masks", "masks"]
    decoded.clear()
    for second, one in zip(open_dataset(masks), first, strict=True):
        assert_same(second, one)
        assert_same(second, load(open_dataset(masks, cache=False).records[int(second.id[-1])]))
    assert torch.equal(open_dataset(masks).image(1), first[1].image)
    assert [name for name in decoded if name != "masks"] == ["field-0.png", "field-1.png"]  # those without a cache


def image_files(folder):
    """Images of every type that files have."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (7, 9), dtype=np.uint8)
    colour = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    opaque = np.concatenate([colour, np.full((7, 9, 1), 255, np.uint8)], axis=2)
    for name, array in {"grey": grey, "colour": colour, "opaque": opaque, "same": np.stack([grey] * 3, -1)}.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    Image.fromarray(grey > 99).save(folder / "bits.png")
    Image.fromarray(grey).convert("P").save(folder / "palette.png")
    Image.fromarray(colour).save(folder / "small.jpg")
    for kind in ("<u2", ">u2", "<i4", "<f4", ">f8", "<f2"):
        for letter, array in (("g", grey), ("c", colour)):
            kinds = {"photometric": "rgb"} if letter == "c" else {}
            file = folder / f"{letter}{kind[1:]}{'big' if kind[0] == '>' else 'small'}.tif"
            tifffile.imwrite(file, array.astype(kind) * 3, byteorder=kind[0], resolution=(300, 300), **kinds)


def test_images_of_every_type_come_back_as_they_were_read(settled, tmp_path, decoded):
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    image_files(tmp_path / "data/images")
    for image in (tmp_path / "data/images").iterdir():
        labels = np.zeros((7, 9), np.uint16)
        labels[2:4, 3:5], labels[6] = 40_000, 9
        write(tmp_path / "data/labels" / f"{image.stem}.png", labels)
    plain = list(open_dataset(tmp_path / "data", cache=False))
    list(open_dataset(tmp_path / "data"))
    decoded.clear()
    for again, once in zip(open_dataset(tmp_path / "data"), plain, strict=True):
        assert_same(again, once)
        assert again.labels.unique().tolist() == [0, 1, 2]
    assert decoded == []


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "<i4", "<f4", ">f8", "?"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (5, 7, 3), (5, 1, 3)])
def test_arrays_come_back_bit_for_bit_in_their_type_as_views_that_cannot_be_written(cache, tmp_path, kind, shape):
    (tmp_path / "a").write_bytes(b"1")
    array = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    strided = np.asfortranarray(array)
    assert cache.get(tmp_path / "a", lambda: strided) is strided
    again = cache.get(tmp_path / "a", lambda: pytest.fail("decoded again"))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert np.array_equal(again, array)
    assert not again.flags.writeable


def test_grey_that_was_saved_as_colour_takes_a_third(cache, tmp_path):
    grey = np.random.default_rng(0).integers(0, 200, (60, 70), dtype=np.uint8)
    for name, array in (("grey", np.stack([grey] * 3, -1)), ("colour", np.stack([grey, grey, 255 - grey], -1))):
        (tmp_path / name).write_bytes(name.encode())
        before = sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file())
        cache.get(tmp_path / name, lambda array=array: array)
        taken = sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file()) - before
        assert taken / 2 - grey.size * (1 if name == "grey" else 3) < 100  # two names each
        assert np.array_equal(cache.get(tmp_path / name, lambda: pytest.fail("decoded again")), array)


def test_label_maps_are_kept_in_the_smallest_type(settled, tmp_path):
    for name, count in (("few", 9), ("many", 300)):
        for part in ("images", "labels"):
            (tmp_path / name / part).mkdir(parents=True)
        write(tmp_path / name / "images/a.png", np.random.default_rng(0).integers(0, 99, (20, 20, 3), dtype=np.uint8))
        write(tmp_path / name / "labels/a.png", (np.arange(400).reshape(20, 20) % (count + 1)).astype(np.uint16))
        opened = open_dataset(tmp_path / name)
        assert opened[0].labels.max() == count
        record = opened.records[0]
        parts = ("labels", "a.png", "a", "../images/a.png", (20, 20), False, None, MAX_PIXELS)
        kept = opened.cache.get(record.labels, lambda: pytest.fail("decoded"), *parts)
        assert kept.dtype == (np.uint8 if name == "few" else np.uint16)


def test_images_without_masks_are_not_kept(settled, write_pairs, decoded):
    folder = write_pairs()
    shutil.rmtree(folder / "labels")
    for _ in range(2):
        dataset = open_dataset(folder)
        list(dataset)
        dataset.image(0)
    assert len(decoded) == 2 * 9
    assert cache_bytes() == 0


def test_every_part_of_a_data_set_uses_its_cache(settled, masks, decoded):
    whole = open_dataset(masks)
    parts = [
        whole.annotated(),
        whole.part(None),
        whole.where(lambda record: True),
        whole.with_records(whole.records),
        whole.training_part(),
    ]
    list(whole)
    decoded.clear()
    for part in parts:
        assert part.cache == whole.cache
        list(part)
    assert decoded == []


def test_the_masks_of_touching_pieces_are_kept_apart_from_the_numbers_of_the_file(settled, write_pairs):
    record = open_dataset(write_pairs()).records[0]
    numbers = np.zeros((96, 112), np.uint8)
    numbers[:4, :4] = numbers[50:60, 50:60] = 7
    write(record.labels, numbers)
    for _ in range(2):
        assert load(record, cache=pixel_cache()).labels.max() == 1
        assert load(replace(record, components=True), cache=pixel_cache()).labels.max() == 2


def test_an_image_as_labels_is_another_entry(settled, write_pairs):
    record = open_dataset(write_pairs()).records[0]
    for _ in range(2):
        sample = load(replace(record, image=record.labels), cache=pixel_cache())
        assert sample.labels.max() > 1 > sample.image.max()


def test_another_page_and_a_smaller_limit_are_other_entries(settled, tmp_path):
    """What a person says of the files counts: a page is not taken for another, and a limit holds for what was kept as well."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    pages = np.random.default_rng(0).integers(0, 99, (2, 20, 20), dtype=np.uint8)
    numbers = np.stack([np.eye(20, dtype=np.uint8), 2 * np.eye(20, dtype=np.uint8)[::-1]])
    tifffile.imwrite(tmp_path / "images/a.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels/a.tif", numbers, photometric="minisblack")
    for _ in range(2):
        for page in (1, 2):
            sample = open_dataset(tmp_path, reading=ReadOptions(page=page))[0]
            assert torch.equal((sample.image[0] * 255).round().byte(), torch.from_numpy(pages[page - 1]))
            assert torch.equal(sample.labels > 0, torch.from_numpy(numbers[page - 1] > 0))
        with pytest.raises(ImageError, match="400 pixels"):
            open_dataset(tmp_path, reading=ReadOptions(page=1, max_pixels=300))[0]


def test_a_range_is_applied_to_what_was_kept(settled, write_pairs, decoded):
    folder = write_pairs()
    plain = open_dataset(folder)[0].image
    wide = open_dataset(folder, reading=ReadOptions(value_range=(0, 510)))[0].image
    assert torch.allclose(wide * 2, plain, atol=1e-6)
    assert len(decoded) == 2  # image and labels, once each


@pytest.mark.timeout(60)
def test_a_pipe_is_not_read(settled, masks, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert PixelCache(tmp_path / "kept").get(tmp_path / "pipe.png", lambda: np.zeros((1, 1))).size == 1
    pipe = masks / "field-0/masks/pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match=r"pipe\.png: no such image file"):
        open_dataset(masks)[0]


# Files that change


@pytest.fixture
def flat(tmp_path):
    """A data set of files whose size does not tell what is in them."""
    for part in ("images", "labels"):
        (tmp_path / "flat" / part).mkdir(parents=True)
    write_flat(tmp_path / "flat", 1)
    return tmp_path / "flat"


def write_flat(folder, number):
    labels = np.zeros((8, 9), np.uint8)
    labels[: number + 1] = 1
    tifffile.imwrite(folder / "images/a.tif", np.full((8, 9), number, np.uint8))
    tifffile.imwrite(folder / "labels/a.tif", labels)


def seen(folder, **options):
    sample = open_dataset(folder, **options)[0]
    return round(float(sample.image[0, 0, 0]) * 255), int(sample.labels.sum()) // 9 - 1


@pytest.mark.parametrize("how", ["in place", "replaced", "time put back", "replaced and time put back"])
def test_a_file_that_changes_is_decoded_again(settled, flat, tmp_path, how):
    assert seen(flat) == (1, 1)
    times = {path: path.stat() for path in (flat / "images/a.tif", flat / "labels/a.tif")}
    if how.startswith("replaced"):
        shutil.copytree(flat, tmp_path / "other")
        write_flat(tmp_path / "other", 3)
        for path in times:
            os.replace(tmp_path / "other" / path.relative_to(flat), path)
    else:
        write_flat(flat, 3)
    for path, before in times.items():
        assert path.stat().st_size == before.st_size
        if how.endswith("put back"):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert seen(flat) == seen(flat) == (3, 3)


def test_files_that_change_many_times_within_a_second_are_never_mistaken(flat):
    deadline = time.monotonic() + 1
    for number in range(7):
        write_flat(flat, number)
        assert seen(flat) == seen(flat) == (number, number)
    assert time.monotonic() < deadline + 5


def test_what_changed_just_now_is_not_kept_and_what_is_older_is(flat, monkeypatch):
    seen(flat)
    assert cache_bytes() == 0
    monkeypatch.setattr(module.time, "time_ns", lambda: time.clock_gettime_ns(time.CLOCK_REALTIME) + 3 * 10**9)
    seen(flat)
    assert cache_bytes() > 0


def test_a_file_that_changes_while_it_is_read_is_not_kept(cache, tmp_path):
    (tmp_path / "a").write_bytes(b"1")

    def read():
        (tmp_path / "a").write_bytes(b"2")
        return np.ones((2, 2))

    cache.get(tmp_path / "a", read)
    assert not cache.folder.exists()


MASK = np.zeros((96, 112), np.uint8)
MASK[90:, 100:] = 255


def add(folder):
    write(folder / "99999.png", MASK)


def remove(folder):
    (folder / "00002.png").unlink()


def edit(folder):
    write(folder / "00001.png", MASK)


def swap(folder):
    (folder / "00001.png").rename(folder / "x.png")
    (folder / "00002.png").rename(folder / "00001.png")
    (folder / "x.png").rename(folder / "00002.png")


@pytest.mark.parametrize("change", [add, remove, edit, swap])
def test_a_folder_of_masks_that_changes_is_read_again(settled, masks, change):
    before = open_dataset(masks)[0].labels
    change(masks / "field-0/masks")
    plain = open_dataset(masks, cache=False)[0].labels
    assert not torch.equal(plain, before)
    for _ in range(2):
        assert torch.equal(open_dataset(masks)[0].labels, plain)


def test_a_data_set_that_was_moved_copied_or_touched_is_not_decoded_again_and_kept_once(
    settled, masks, decoded, tmp_path
):
    first = list(open_dataset(masks))
    kept = entries(pixel_cache().folder)
    assert len(kept) == 4
    shutil.copytree(masks, tmp_path / "copied")
    masks.rename(tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("*.png"):
        path.touch()
    decoded.clear()
    for place in ("copied", "moved", "copied"):
        for again, once in zip(open_dataset(tmp_path / place), first, strict=True):
            assert torch.equal(again.labels, once.labels)
            assert torch.equal(again.image, once.image)
            assert again.source.path.is_relative_to(tmp_path / place)
    assert decoded == []
    assert entries(pixel_cache().folder) == kept


def test_two_data_sets_of_the_same_names_sizes_and_times_are_told_apart(settled, flat, tmp_path):
    shutil.copytree(flat, tmp_path / "other")
    write_flat(tmp_path / "other", 4)
    for folder in (flat, tmp_path / "other"):
        for path in folder.rglob("*.tif"):
            os.utime(path, ns=(0, 0))
    for _ in range(2):
        assert (seen(flat), seen(tmp_path / "other")) == ((1, 1), (4, 4))


def test_labels_of_an_image_of_the_same_name_in_another_folder_are_told_apart(settled, tmp_path):
    for folder in "AB":
        (tmp_path / folder).mkdir()
        Image.new("L", (9, 9), 99).save(tmp_path / folder / "x.png")
    outlines = [[2, 2, 5, 2, 5, 5, 2, 5], [1, 6, 8, 6, 8, 8, 1, 8]]
    table = {
        "images": [{"id": number, "file_name": f"{folder}/x.png"} for number, folder in enumerate("AB")],
        "annotations": [{"image_id": number, "segmentation": [one]} for number, one in enumerate(outlines)],
    }
    (tmp_path / "i.json").write_text(json.dumps(table))
    areas = []
    for folder in "ABAB":
        (tmp_path / "manifest.csv").write_text(f"id,image,labels\nx,{folder}/x.png,i.json\n")
        areas.append(int(open_dataset(tmp_path / "manifest.csv")[0].labels.sum()))
    assert areas == [9, 14, 9, 14]


def test_the_same_content_under_another_suffix_is_read_as_without_the_cache(settled, write_pairs):
    folder = write_pairs(fluorescence=1, stained=0)
    list(open_dataset(folder))
    (folder / "images/field-0.png").rename(folder / "images/field-0.tif")

    def outcome(use):
        try:
            return open_dataset(folder, cache=use)[0].image.tolist()
        except ImageError as error:
            return str(error)

    assert outcome(True) == outcome(False)


def test_what_cannot_be_read_is_refused_every_time(settled, write_pairs, refusal):
    folder = write_pairs(fluorescence=1, stained=0)
    path = folder / "labels/field-0.png"
    path.write_bytes(path.read_bytes()[:60])
    lines = {refusal(ImageError, lambda: open_dataset(folder)[0]) for _ in range(2)}
    assert len(lines) == 1
    assert str(path) in lines.pop()


# By content


def test_verifying_compares_content_whatever_the_stamp_says(settled, flat, monkeypatch):
    assert seen(flat) == (1, 1)
    lying = module._Stamp((("a", 1, 1, 1, 1),), True)
    monkeypatch.setattr(module, "_stamp", lambda path: lying)
    assert seen(flat) == (1, 1)
    write_flat(flat, 5)
    assert seen(flat) == (1, 1)  # such a stamp cannot tell
    assert seen(flat, cache="verify") == (5, 5)
    assert seen(flat) == (5, 5)


def test_verifying_decodes_nothing_that_is_the_same(settled, masks, decoded):
    list(open_dataset(masks))
    decoded.clear()
    list(open_dataset(masks, cache="verify"))
    assert decoded == []


def test_a_file_of_many_images_is_hashed_once(cache, tmp_path, monkeypatch):
    hashed = []
    real = module._content
    monkeypatch.setattr(module, "_content", lambda path: (hashed.append(path), real(path))[1])
    (tmp_path / "all.json").write_text("{}")
    for number in range(3):
        cache.get(tmp_path / "all.json", lambda number=number: np.full((2, 2), number), number)
    assert len(hashed) == 1
    for number in range(3):
        assert cache.get(tmp_path / "all.json", lambda: pytest.fail("decoded again"), number)[0, 0] == number


# Damage


def test_an_entry_with_any_byte_changed_is_made_again(cache, tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    array = np.arange(24, dtype=np.uint16).reshape(2, 4, 3)
    for place in range(module._HEADER.size + array.nbytes):
        cache.get(tmp_path / "a", lambda: array)
        entry = next(path for path in cache.folder.rglob("*") if path.is_file())
        data = bytearray(entry.read_bytes())
        data[place] ^= 1 << place % 8
        entry.write_bytes(data)
        made = []
        again = cache.get(tmp_path / "a", lambda made=made: (made.append(1), array)[1])
        assert np.array_equal(again, array)
        assert made == [1], place
    assert len(entries(cache.folder)) == 1


@pytest.mark.parametrize("length", [0, 1, 40, 64, -1])
@pytest.mark.parametrize("name", [0, 1])
def test_an_entry_that_is_cut_off_is_made_again(cache, tmp_path, length, name):
    (tmp_path / "a").write_bytes(b"1")
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    cache.get(tmp_path / "a", lambda: array)
    entry = sorted(path for path in cache.folder.rglob("*") if path.is_file())[name]
    entry.write_bytes(entry.read_bytes()[:length])
    for _ in range(2):
        assert np.array_equal(cache.get(tmp_path / "a", lambda: array), array)
    assert np.array_equal(cache.get(tmp_path / "a", lambda: pytest.fail("decoded again")), array)


def test_an_entry_that_was_deleted_is_made_again(settled, masks):
    first = open_dataset(masks)[0]
    shutil.rmtree(pixel_cache().folder)
    assert_same(open_dataset(masks)[0], first)
    assert entries(pixel_cache().folder)


# Where nothing can be kept


def works_without(masks):
    for _ in range(2):
        for sample, plain in zip(open_dataset(masks), open_dataset(masks, cache=False), strict=True):
            assert_same(sample, plain)


def test_without_a_cache_nothing_is_written(settled, masks):
    list(open_dataset(masks, cache=False))
    assert cache_bytes() == 0
    assert open_dataset(masks, cache=False).cache == NO_PIXELS


def test_a_folder_that_cannot_be_written_is_no_cache(settled, masks, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file stands where the folder should be")
    monkeypatch.setenv("NUCSTYLE_CACHE", str(tmp_path / "file"))
    works_without(masks)
    monkeypatch.setenv("NUCSTYLE_CACHE", "/proc/nowhere")
    works_without(masks)


def test_a_person_without_a_home_has_no_cache(settled, masks, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    for name in ("NUCSTYLE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert open_dataset(masks).cache == NO_PIXELS
    assert cache_bytes() == 0
    works_without(masks)


def test_a_disk_that_is_nearly_full_is_left_alone(settled, masks, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1 << 30))
    works_without(masks)
    assert cache_bytes() == 0


def no_space(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile(io.FileIO):
    """Takes ten bytes."""

    def write(self, data):
        super().write(bytes(data)[:10])
        no_space()


OPEN = Path.open


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (Path, "mkdir", no_space),
        (
            Path,
            "open",
            lambda path, mode="r", *rest, **more: (FullFile if mode == "wb" else OPEN)(path, mode, *rest, **more),
        ),
        (module.os, "replace", no_space),
    ],
    ids=["folder", "content", "name"],
)
def test_a_disk_that_fills_up_leaves_nothing_behind(settled, masks, monkeypatch, owner, name, instead):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, instead)
        works_without(masks)
    assert cache_bytes() == 0


def test_a_disk_without_hard_links_compares_content(settled, masks, decoded, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", refuse)
    first = list(open_dataset(masks))
    decoded.clear()
    for again, once in zip(open_dataset(masks), first, strict=True):
        assert_same(again, once)
    assert decoded == []


def test_nothing_is_written_beside_the_data(settled, masks):
    def listing(folder):
        return sorted((path, path.stat().st_mtime_ns) for path in Path(folder).rglob("*"))

    for folder in (masks, sample_folder()):
        before = listing(folder)
        list(open_dataset(folder))
        assert listing(folder) == before


# Several at once


def test_threads_read_what_one_reads(settled, masks, write_pairs):
    for folder in (masks, write_pairs(fluorescence=9, stained=9)):
        plain = list(open_dataset(folder, cache=False))
        for _ in range(3):
            dataset = open_dataset(folder, keep=True)
            dataset.read_all(SILENT)
            for sample, once in zip(dataset, plain, strict=True):
                assert_same(sample, once)


@pytest.fixture
def shared(monkeypatch):
    """How many images were shared out among processes, call by call, on a machine with two processors."""
    counts = []

    def listening(work, count, **shown):
        counts.append(count)
        share_out(work, count, **shown)

    monkeypatch.setattr(forks, "usable_cpus", lambda: 2)
    monkeypatch.setattr(dataset_module, "share_out", listening)
    return counts


needs_forks = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@needs_forks
def test_processes_decode_what_is_read_the_first_time(settled, masks, write_pairs, shared):
    for folder in (masks, write_pairs(fluorescence=9, stained=9)):
        plain = list(open_dataset(folder, cache=False))
        dataset = open_dataset(folder)
        dataset.read_all(SILENT)
        assert shared == [len(plain)]
        for sample, once in zip(dataset, plain, strict=True):
            assert_same(sample, once)
        open_dataset(folder).read_all(SILENT)
        assert shared == [len(plain)], "nothing is shared out the second time"
        shared.clear()


@needs_forks
@pytest.mark.parametrize("case", ["young", "no cache", "full disk", "no links", "not annotated"])
def test_nothing_is_decoded_by_processes_that_cannot_keep_it(monkeypatch, write_pairs, shared, case):
    folder = write_pairs(fluorescence=4, stained=4)
    if case != "young":
        monkeypatch.setattr(module, "_SETTLED_NS", -(10**12))
    if case == "full disk":
        monkeypatch.setattr(module, "_SPARE_BYTES", 1 << 60)
    if case == "no links":
        monkeypatch.setattr(module.os, "link", no_space)
    if case == "not annotated":
        shutil.rmtree(folder / "labels")
    open_dataset(folder, cache=case != "no cache").read_all(SILENT)
    assert shared == []


@needs_forks
def test_a_damaged_file_does_not_keep_processes_from_decoding_and_the_first_one_is_named(
    settled, write_pairs, shared, refusal
):
    folder = write_pairs(fluorescence=12, stained=0)
    for number in (0, 3, 9):
        (folder / "images" / f"field-{number}.png").write_bytes(b"")
    assert "field-0.png" in refusal(ImageError, open_dataset(folder).read_all, SILENT)
    assert shared == [12]


@needs_forks
def test_images_without_labels_are_not_decoded_for_the_cache(settled, write_pairs, shared):
    folder = write_pairs(fluorescence=6, stained=0)
    (folder / "labels/field-2.png").unlink()
    open_dataset(folder).read_all(SILENT)
    assert shared == [5]


@needs_forks
def test_a_look_at_some_images_tells_that_nothing_is_new(settled, write_pairs, shared, monkeypatch):
    folder = write_pairs(fluorescence=40, stained=0)
    open_dataset(folder).read_all(SILENT)
    looked = []
    real = dataset_module._is_known
    monkeypatch.setattr(dataset_module, "_is_known", lambda *given: looked.append(1) or real(*given))
    open_dataset(folder).read_all(SILENT)
    assert shared == [40]
    assert 16 <= len(looked) <= 32


def test_reading_all_names_the_first_file_that_cannot_be_used(settled, write_pairs, refusal):
    folder = write_pairs(fluorescence=9, stained=0)
    for number in (3, 5):
        (folder / "images" / f"field-{number}.png").write_bytes(b"")
    assert "field-3.png" in refusal(ImageError, open_dataset(folder).read_all, SILENT)


def test_many_threads_that_want_one_entry_all_get_it(cache, tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    array = np.random.default_rng(0).integers(0, 200, (300, 300), dtype=np.uint8)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(np.array_equal(cache.get(tmp_path / "a", lambda: array), array)))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12
    assert len(entries(cache.folder)) == 1


OPENS = """
import sys
from nucstyle.core.protocols import SILENT
from nucstyle.data import pixel_cache
from nucstyle.data.dataset import open_dataset
pixel_cache._SETTLED_NS = -10**12
for _ in range(3):
    dataset = open_dataset(sys.argv[1])
    dataset.read_all(SILENT)
print(sum(int(sample.labels.sum()) + int((sample.image * 255).round().sum()) for sample in dataset))
"""


@pytest.mark.slow
def test_processes_that_open_a_data_set_at_the_same_time_do_not_disturb_each_other(settled, write_pairs):
    folder = write_pairs(fluorescence=9, stained=9)
    command = [sys.executable, "-c", OPENS, str(folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate(timeout=200)[0] for one in both]
    expected = sum(
        int(sample.labels.sum()) + int((sample.image * 255).round().sum())
        for sample in open_dataset(folder, cache=False)
    )
    assert [int(text) for text in said] == [expected] * 2
    assert len(entries(pixel_cache().folder)) == 36


def test_a_data_set_goes_to_workers_with_its_cache(settled, masks, decoded):
    first = list(open_dataset(masks))
    again = pickle.loads(pickle.dumps(open_dataset(masks)))
    decoded.clear()
    assert_same(again[0], first[0])
    assert decoded == []
