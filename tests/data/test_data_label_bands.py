"""Label images that are read and written in bands of rows."""

import tracemalloc

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import ReadOptions, SizeError
from nucstyle.data.image_io import read_labels
from nucstyle.data.label_bands import in_bands, read_label_bands, write_label_bands


@pytest.fixture
def labels(field):
    """(203, 310) int32, about 40 nuclei."""
    return field(5, size=(203, 310), nuclei=40)[1]


HOW = {
    "uncompressed": {},
    "big endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 7},
    "deflated strips": {"rowsperstrip": 7, "compression": "deflate"},
    "one deflated strip": {"rowsperstrip": 1000, "compression": "deflate"},
    "tiles": {"tile": (64, 32)},
    "deflated tiles": {"tile": (32, 64), "compression": "deflate", "predictor": True},
    "tiles larger than the image": {"tile": (512, 512), "compression": "zstd"},
    "12 bits": {"bitspersample": 12},
    "BigTIFF": {"bigtiff": True, "tile": (64, 64), "compression": "lzw"},
}


def joined(path, rows, **options):
    """The whole, and where its bands began."""
    found = list(read_label_bands(path, rows=rows, **options))
    assert all(band.dtype == np.int32 for _, band in found)
    return np.concatenate([band for _, band in found]), [top for top, _ in found]


@pytest.mark.parametrize("rows", [1, 10, 64, 203, 1000])
@pytest.mark.parametrize("how", HOW)
def test_bands_are_the_rows_of_the_whole(tmp_path, labels, how, rows):
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint16), **HOW[how])
    whole, tops = joined(tmp_path / "a.tif", rows)
    np.testing.assert_array_equal(whole, labels)
    assert tops == list(range(0, 203, rows))


def test_files_that_cannot_be_read_in_parts_are_read_whole(tmp_path, labels):
    small = labels.astype(np.uint8)
    Image.fromarray(small).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", small)
    tifffile.imwrite(tmp_path / "a.tif", small, extratags=[(274, "H", 1, 6, True)], tile=(32, 32))
    tifffile.imwrite(tmp_path / "b.tif", np.stack([small] * 3, -1), photometric="rgb", tile=(32, 32))
    for name in ("a.png", "a.npy", "a.tif", "b.tif"):
        np.testing.assert_array_equal(joined(tmp_path / name, 50)[0], read_labels(tmp_path / name).numpy())


@pytest.mark.parametrize("how", [{}, {"compression": "deflate", "tile": (32, 32)}, {"truncate": True}], ids=str)
def test_a_page_of_a_stack_is_read_in_bands(tmp_path, refusal, labels, how):
    stack = np.stack([labels * 0, labels, labels[::-1]]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **how)
    for page in (2, 3):
        np.testing.assert_array_equal(
            joined(tmp_path / "a.tif", 50, reading=ReadOptions(page=page))[0], stack[page - 1]
        )
    assert "holds several images" in refusal(ImageError, joined, tmp_path / "a.tif", 50)


def test_the_largest_size_is_that_of_what_is_held_at_a_time(tmp_path, refusal, labels):
    few = ReadOptions(max_pixels=310 * 64)
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint16), tile=(64, 64), compression="deflate")
    np.testing.assert_array_equal(joined(tmp_path / "a.tif", 10, reading=few)[0], labels)
    fewer = ReadOptions(max_pixels=310 * 64 - 1)
    assert "are read whole" in refusal(SizeError, joined, tmp_path / "a.tif", 10, reading=fewer)
    tifffile.imwrite(tmp_path / "b.tif", labels.astype(np.uint16), rowsperstrip=1000, compression="deflate")
    assert "are read whole" in refusal(SizeError, joined, tmp_path / "b.tif", 10, reading=few)
    assert "are read whole" in refusal(SizeError, read_labels, tmp_path / "a.tif", few)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[0, -1]] * 40, np.int16), "labels run from -1 to 0"),
        (np.array([[0, 0.5]] * 40, np.float32), "no whole numbers"),
        (np.array([[True, False]] * 40), "only whether it is of a nucleus"),
        (np.kron(np.eye(4) * 255, np.eye(10)).astype(np.uint8), "no numbers but 0 and 255"),
    ],
    ids=["negative", "fractions", "bits", "mask"],
)
def test_what_is_no_label_image_is_none_in_bands_either(tmp_path, refusal, array, reason):
    tifffile.imwrite(tmp_path / "a.tif", np.tile(array, (1, 40)), tile=(16, 16))
    assert reason in refusal(ImageError, joined, tmp_path / "a.tif", 16)


def test_damage_is_refused_in_bands_too(tmp_path, refusal, labels):
    path = tmp_path / "a.tif"
    assert refusal(ImageError, joined, path, 16) == f"{path}: no such image file"
    tifffile.imwrite(path, labels.astype(np.uint16), tile=(64, 64), compression="deflate")
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    assert "missing or cut off" in refusal(ImageError, joined, path, 16)
    path.write_bytes(data[:1500] + bytes(100) + data[1600:])
    assert refusal(ImageError, joined, path, 16).startswith(f"{path}: cannot be decoded (")
    path.write_bytes(b"<html>")
    assert "it looks like an HTML page" in refusal(ImageError, joined, path, 16)


# Writing


@pytest.mark.parametrize(("largest", "kind"), [(65_535, np.uint16), (65_536, np.uint32)])
@pytest.mark.parametrize("heights", [(203,), (1, 202), (100, 3, 100), (50,) * 4 + (3,), (0, 203, 0)], ids=str)
def test_written_bands_come_back_however_they_were_cut(tmp_path, labels, heights, largest, kind):
    numbers = labels.copy()
    numbers[numbers == 1] = largest
    path = tmp_path / "a.tif"
    write_label_bands(path, iter(np.split(numbers, np.cumsum(heights)[:-1])), size=numbers.shape, largest=largest)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].is_tiled
        assert file.pages[0].dtype == kind
    assert torch.equal(read_labels(path), torch.from_numpy(numbers))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (257, 511), (3, 1000)], ids=str)
def test_images_of_any_size_are_written(tmp_path, size):
    numbers = np.zeros(size, np.int64)
    numbers[0, 0] = 7
    write_label_bands(tmp_path / "a.tif", [numbers], size=size, largest=7)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif").numpy(), numbers)


@pytest.mark.parametrize(
    ("bands", "reason"),
    [
        ([np.zeros((5, 9), int)], "5 rows came of an image 10 high"),
        ([np.zeros((11, 9), int)], "11 rows came of an image 10 high"),
        ([np.zeros((10, 8), int)], "a band of (10, 8) pixels in an image 9 wide"),
        ([np.full((10, 9), 8)], "labels run from 8 to 8; they must be 0 to 7"),
        ([np.full((10, 9), -1)], "labels run from -1 to -1"),
        ([], "0 rows came of an image 10 high"),
    ],
    ids=["too few rows", "too many rows", "too narrow", "too large a number", "negative", "nothing"],
)
def test_bands_that_do_not_fit_leave_what_was_there(tmp_path, refusal, bands, reason):
    (tmp_path / "a.tif").write_bytes(b"before")
    assert reason in refusal(ImageError, write_label_bands, tmp_path / "a.tif", bands, size=(10, 9), largest=7)
    assert (tmp_path / "a.tif").read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("rows", [256, 257, 512, 600])
def test_rows_that_end_with_a_tile_are_counted_as_well(tmp_path, refusal, rows):
    for cuts in ([], [1], [100, 200, 256]):
        bands = np.split(np.zeros((rows, 9), int), cuts)
        message = refusal(ImageError, write_label_bands, tmp_path / "a.tif", bands, size=(300, 9), largest=7)
        assert f"{rows} rows came of an image 300 high" in message
        assert list(tmp_path.iterdir()) == []


def test_an_error_on_the_way_leaves_nothing_half_written(tmp_path):
    def bands():
        yield np.zeros((300, 9), int)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_label_bands(tmp_path / "a.tif", bands(), size=(600, 9), largest=7)
    assert list(tmp_path.iterdir()) == []


def test_bands_do_not_depend_on_how_pieces_were_cut():
    array = np.arange(70).reshape(35, 2)
    for cuts in ([], [1], [5, 10, 11, 30], list(range(1, 35))):
        for rows in (1, 3, 10, 35, 50):
            bands = list(in_bands(np.split(array, cuts), rows))
            assert [len(band) for band in bands] == [min(rows, 35 - top) for top in range(0, 35, rows)]
            np.testing.assert_array_equal(np.concatenate(bands), array)


# Memory


def drawn(side, rows):
    """Discs of their own numbers on a grid, in bands."""
    ys, xs = np.mgrid[:40, :40]
    disc = (ys - 20) ** 2 + (xs - 20) ** 2 < 15**2
    across = side // 40
    for top in range(0, side, rows):
        row = (np.arange(top, top + rows) // 40)[:, None]
        number = row * across + np.arange(side)[None, :] // 40 + 1
        yield np.where(np.tile(disc, (rows // 40, across)), number, 0).astype(np.int32)


@pytest.mark.parametrize("side", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_large_label_images_are_written_and_measured_in_little_memory(tmp_path, side):
    rows, n_nuclei = 200, (side // 40) ** 2
    tracemalloc.start()
    write_label_bands(tmp_path / "a.tif", drawn(side, rows), size=(side, side), largest=n_nuclei)
    areas = np.zeros(n_nuclei + 1, np.int64)
    for _, band in read_label_bands(tmp_path / "a.tif", rows=rows):
        areas += np.bincount(band.reshape(-1), minlength=len(areas))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(areas[1:]) == {int(((np.mgrid[:40, :40] - 20) ** 2).sum(axis=0).__lt__(15**2).sum())}
    assert peak < 14 * 4 * rows * side + 20e6, f"{peak / 1e6:.0f} MB"
