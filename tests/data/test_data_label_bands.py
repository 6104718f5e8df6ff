"""Label images that are read and written in bands of rows."""

import tracemalloc

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from nucstyle.core.contours import trace
from nucstyle.core.errors import ImageError
from nucstyle.core.labels import components, relabel
from nucstyle.core.spans import measure, spans_of
from nucstyle.data import label_bands
from nucstyle.data.decoders import ReadOptions, SizeError, tiff
from nucstyle.data.image_io import read_labels, write_labels
from nucstyle.data.label_bands import BandedNuclei, in_bands, read_label_bands, write_label_bands
from nucstyle.data.label_rules import MaskError, touches


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


@pytest.mark.parametrize("page", [1, 2])
def test_uncompressed_numbers_are_read_a_few_rows_at_a_time(tmp_path, monkeypatch, labels, page):
    monkeypatch.setattr(tiff, "_MOST_AT_ONCE", 310 * 20 + 1)
    stack = np.stack([labels, labels[::-1]]).astype(">u4")
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", byteorder=">")
    reading = ReadOptions(page=page)
    assert {len(band) for band in tiff.bands(tmp_path / "a.tif", reading)} == {20, 3}
    np.testing.assert_array_equal(joined(tmp_path / "a.tif", 50, reading=reading)[0], stack[page - 1])


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


def test_label_maps_that_predict_writes_can_be_read_in_bands(tmp_path):
    numbers = np.arange(10**6, dtype=np.int32).reshape(1000, 1000) // 500
    write_labels(tmp_path / "a.tif", torch.from_numpy(numbers))
    np.testing.assert_array_equal(joined(tmp_path / "a.tif", 512, reading=ReadOptions(max_pixels=500_000))[0], numbers)


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
    ("array", "error", "reason"),
    [
        (np.array([[0, -1]] * 40, np.int16), ImageError, "labels run from -1 to 0"),
        (np.array([[0, 0.5]] * 40, np.float32), ImageError, "no whole numbers"),
        (np.array([[True, False]] * 40), MaskError, "only whether it is of a nucleus"),
    ],
    ids=["negative", "fractions", "bits"],
)
def test_what_is_no_label_image_is_none_in_bands_either(tmp_path, refusal, array, error, reason):
    tifffile.imwrite(tmp_path / "a.tif", np.tile(array, (1, 40)), tile=(16, 16))
    assert reason in refusal(error, joined, tmp_path / "a.tif", 16)


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


# Nuclei


def cut(labels, rows):
    """A label map in bands."""
    return BandedNuclei(lambda: ((top, labels[top : top + rows]) for top in range(0, len(labels), rows)))


label_maps = arrays(
    np.int32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 0, 1, 2, 7, 2**31 - 1]),
)


@pytest.mark.parametrize("corners", ["apart", "joined"])
@settings(deadline=None)
@given(labels=label_maps, rows=st.integers(1, 10))
def test_every_nucleus_comes_once_and_whole_however_bands_cut_it(labels, rows, corners):
    nuclei = cut(labels, rows)
    expected = trace(relabel(torch.from_numpy(labels)), corners=corners)
    found = sorted(nuclei.outlines(corners), key=lambda one: one[0])
    assert [number for number, _ in found] == list(range(1, len(nuclei) + 1))
    outlines = [outline for _, own in found for outline in own]
    for one, other in zip(outlines, expected, strict=True):
        assert (one.number, [ring.tolist() for ring in one.rings]) == (
            other.number,
            [ring.tolist() for ring in other.rings],
        )


@settings(deadline=None)
@given(labels=label_maps, rows=st.integers(1, 10))
def test_bands_are_numbered_as_the_whole_and_measured_as_the_whole(labels, rows):
    nuclei = cut(labels, rows)
    assert np.array_equal(np.concatenate(list(nuclei.bands())), relabel(torch.from_numpy(labels)).numpy())
    assert nuclei.size == labels.shape
    for one, other in zip(nuclei.measures, measure(spans_of(labels)), strict=True):
        assert np.array_equal(one, other)


@settings(deadline=None)
@given(labels=label_maps, rows=st.integers(1, 10))
def test_what_tells_labels_from_masks_is_counted_in_bands_as_on_the_whole(labels, rows):
    nuclei = cut(labels, rows)
    pieces = components(torch.from_numpy(labels)).numpy()
    numbers, found = nuclei.measures.number, nuclei._pieces()
    for number, touching, n_pieces, largest in zip(numbers, nuclei._touching(), *found, strict=True):
        assert touching == (touches(labels) & (labels == number)).sum()
        own = np.unique(pieces[labels == number], return_counts=True)[1]
        assert (n_pieces, largest) == (len(own), own.max())


def test_nuclei_wait_no_longer_than_for_their_last_band():
    labels = np.repeat(np.array([1, 1, 2, 0, 3, 1, 4], np.int32), 2)[:, None]
    assert [sorted(set(spans.number)) for spans in cut(labels, 2).finished()] == [[], [], [2], [], [3], [1], [4]]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("seed", range(6))
def test_what_the_whole_image_tells_to_be_no_labels_is_refused_in_bands_of_any_height(
    tmp_path, monkeypatch, seed, rows
):
    """Smoothed masks, masks and specks that a network found: the verdict is that on the whole image."""
    rng = np.random.default_rng(seed)
    specks = np.zeros((30, 31), np.uint8)
    specks.flat[rng.choice(930, 300, replace=False)] = np.arange(300) % 60 + 1
    mask = np.kron(rng.random((6, 6)) > 0.5, np.ones((5, 5)))
    blurred = np.mean([np.roll(mask, k, k % 2) * 255 for k in range(5)], axis=0).astype(np.uint8)
    noise = rng.integers(0, 250, (30, 30), dtype=np.uint8)
    bow = np.full((30, 5), 255, np.uint8)  # in most bands two pieces, and one on the whole
    bow[:-1, 1:-1] = 0
    two = bow * (np.arange(30) != 29)[:, None].astype(np.uint8)
    one_in_band = np.kron(np.eye(5), np.ones((2, 2)))[:, ::2].astype(np.uint8) * 255
    one_in_band[1::2] = 0
    numbered = np.arange(900, dtype=np.uint16).reshape(30, 30)
    ones, splinters = (mask > 0).astype(np.uint8), bow.copy()
    splinters[5:25:4, 2] = 255
    splinters = splinters // 255
    monkeypatch.setattr(label_bands, "ROWS", rows)
    for array in (specks, blurred, noise, bow, two, one_in_band, numbered, ones, splinters):
        tifffile.imwrite(tmp_path / "a.tif", array, rowsperstrip=1, compression="deflate")
        outcomes = []
        for read in (read_labels, BandedNuclei.of_file):
            try:
                outcomes.append(read(tmp_path / "a.tif") is None)
            except ImageError as error:
                outcomes.append(f"{type(error).__name__} {error}")
        assert outcomes[0] == outcomes[1]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, refusal, labels):
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint16))
    nuclei = BandedNuclei.of_file(tmp_path / "a.tif")
    for other in (labels + 100, np.where(labels == 3, 5000, labels), np.where(labels == 3, 0, labels)):
        tifffile.imwrite(tmp_path / "a.tif", other.astype(np.uint16))
        for go_through in (nuclei.bands, nuclei.outlines):
            assert "a.tif: has changed while it was read" in refusal(ImageError, list, go_through())


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


def test_one_nucleus_in_pieces_that_was_written_in_bands_is_no_mask(tmp_path):
    numbers = np.kron(np.eye(3, dtype=np.int32), np.ones((2, 3), np.int32))[:, ::2]
    numbers[1::2] = 0
    write_label_bands(tmp_path / "a.tif", [numbers], size=numbers.shape, largest=1)
    assert torch.equal(read_labels(tmp_path / "a.tif"), torch.from_numpy(numbers))
    assert len(BandedNuclei.of_file(tmp_path / "a.tif")) == 1


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
    nuclei = BandedNuclei.of_file(tmp_path / "a.tif")
    found = sum(len(np.unique(spans.number)) for spans in nuclei.finished())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == len(nuclei) == n_nuclei
    assert set(nuclei.measures.area_px) == {int(((np.mgrid[:40, :40] - 20) ** 2).sum(axis=0).__lt__(15**2).sum())}
    assert peak < 14 * 4 * rows * side + 200 * n_nuclei + 20e6, f"{peak / 1e6:.0f} MB"
