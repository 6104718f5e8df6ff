"""Odd files: each is read by the rule of docs/guide.md, or refused in one line; none gives another image than the true one."""

import logging
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from nucstyle.core.errors import ImageError, OptionError
from nucstyle.data.decoders import ReadOptions, SizeError, npy, raster, tiff
from nucstyle.data.image_io import read_image, read_labels, read_mask, read_pixels, write_pixels


@pytest.fixture
def picture(field):
    """(96, 112, 3) uint8."""
    return field(3, stained=True)[0]


@pytest.fixture
def labels(field):
    """(96, 112) uint8."""
    return field(3)[1].astype(np.uint8)


def unit(picture):
    """What an 8-bit picture is read as."""
    colour = picture if picture.ndim == 3 else np.stack([picture] * 3, -1)
    return torch.from_numpy(np.ascontiguousarray(colour)).permute(2, 0, 1).float() / 255


def page(number):
    return ReadOptions(page=number)


# Inks, and grey that is stored the other way round


def write_inks(path, picture, kind):
    inks = Image.fromarray(picture).convert("CMYK")
    if kind == "CMYK JPEG":
        inks.save(path, quality=98, subsampling=0)
    elif kind == "YCCK JPEG":  # Adobe stores inks inverted
        encoded = imagecodecs.jpeg_encode(255 - np.array(inks), level=98, colorspace="CMYK", outcolorspace="YCCK")
        path.write_bytes(encoded)
    else:
        tifffile.imwrite(path, np.array(inks), photometric="separated")


@pytest.mark.parametrize("kind", ["CMYK JPEG", "YCCK JPEG", "CMYK TIFF"])
def test_inks_become_red_green_and_blue_and_black_ink_is_no_alpha(tmp_path, picture, kind):
    path = tmp_path / "a.jpg"
    write_inks(path, picture, kind)
    image, source = read_image(path)
    assert (source.dtype, source.channels) == ("uint8", 3)
    assert (image - unit(picture)).abs().mean() < 0.02
    mask = picture.max(axis=2) > np.median(picture)
    write_inks(path, np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255, kind)
    assert (read_mask(path) == mask).mean() > 0.98


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, bool])
def test_grey_whose_nought_is_white_is_turned_round(tmp_path, picture, kind):
    grey = picture[..., 0] > 128 if kind is bool else picture[..., 0].astype(kind)
    stored = ~grey if kind is bool else np.iinfo(kind).max - grey
    tifffile.imwrite(tmp_path / "a.tif", stored.astype(kind), photometric="miniswhite")
    tifffile.imwrite(tmp_path / "b.tif", grey, photometric="minisblack")
    assert torch.equal(read_image(tmp_path / "a.tif")[0], read_image(tmp_path / "b.tif")[0])
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), grey)


def test_labels_whose_nought_is_shown_white_keep_their_numbers_and_masks_are_refused(tmp_path, refusal, labels):
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="miniswhite")
    assert torch.equal(read_labels(tmp_path / "a.tif"), torch.from_numpy(labels.astype(np.int32)))
    assert "MINISWHITE colours are not read" in refusal(ImageError, read_mask, tmp_path / "a.tif")


@pytest.mark.parametrize("step", [257, 1], ids=["16 bits", "8 bits"])
def test_a_palette_in_a_tiff_gives_its_colours(tmp_path, picture, step):
    indexed = Image.fromarray(picture).quantize(16)
    palette = np.zeros((3, 256), np.uint16)
    palette[:, :16] = np.array(indexed.getpalette()[:48], np.uint16).reshape(16, 3).T * step
    tifffile.imwrite(tmp_path / "a.tif", np.array(indexed), photometric="palette", colormap=palette)
    assert torch.equal(read_image(tmp_path / "a.tif")[0], unit(np.array(indexed.convert("RGB"))))


@pytest.mark.parametrize(("bits", "kind"), [(2, np.uint8), (4, np.uint8), (12, np.uint16)])
def test_packed_numbers_of_a_tiff_are_grey_from_black_to_white_and_labels_as_they_are(tmp_path, bits, kind):
    array = (np.arange(63 * 64) % 2**bits).astype(kind).reshape(63, 64)
    tifffile.imwrite(tmp_path / "a.tif", array, bitspersample=bits, photometric="minisblack")
    image, _ = read_image(tmp_path / "a.tif")
    assert (image.min(), image.max()) == (0, 1)
    assert len(torch.unique(image)) > 0.97 * 2**bits
    if bits == 4:
        assert read_labels(tmp_path / "a.tif").unique().tolist() == list(range(16))


def test_a_png_of_four_bits_is_grey_from_black_to_white_and_labels_as_they_are(tmp_path, write_png_chunks):
    numbers = np.kron(np.arange(16).reshape(2, 8), np.ones((4, 4))).astype(np.uint8)
    rows = [row.tobytes() for row in numbers[:, ::2] << 4 | numbers[:, 1::2]]
    write_png_chunks(tmp_path / "a.png", 32, 8, 4, 0, rows)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png").numpy(), numbers)
    torch.testing.assert_close(read_image(tmp_path / "a.png")[0][0], torch.from_numpy(numbers / np.float32(15)))


def test_twelve_bits_in_a_file_of_sixteen_are_not_dark(tmp_path, picture):
    tifffile.imwrite(tmp_path / "a.tif", picture[..., 0].astype(np.uint16) * 16)
    image = read_image(tmp_path / "a.tif")[0]
    assert image.mean() > 0.5
    assert image.max() == 1


def test_a_sixteen_bit_ramp_keeps_its_levels(tmp_path):
    Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")[0][0].reshape(-1)
    assert len(torch.unique(image)) > 65_000
    assert (image == 1).float().mean() < 0.002


# Orientation


def write_turned(path, array, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, extratags=[(274, "H", 1, orientation, True)])
    else:
        Image.fromarray(array).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 0, 9])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_an_image_is_turned_as_its_file_says(tmp_path, picture, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    write_turned(path, picture, orientation)
    as_stored = tmp_path / f"b{suffix}"
    write_turned(as_stored, picture, 1)
    expected = Image.fromarray(read_pixels(as_stored))
    expected.getexif()[274] = orientation
    expected = np.array(ImageOps.exif_transpose(expected))
    np.testing.assert_array_equal(read_pixels(path), expected)
    assert torch.equal(read_image(path)[0], unit(expected))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_labels_and_masks_are_turned_as_their_file_says(tmp_path, labels, suffix):
    write_turned(tmp_path / f"a{suffix}", labels, 6)
    expected = np.rot90(labels, -1)
    np.testing.assert_array_equal(read_labels(tmp_path / f"a{suffix}").numpy(), expected)
    write_turned(tmp_path / f"a{suffix}", np.uint8(labels == 1), 6)
    np.testing.assert_array_equal(read_mask(tmp_path / f"a{suffix}"), expected == 1)


def test_sizes_are_compared_after_turning(tmp_path, refusal, picture, labels):
    from nucstyle.data.dataset import open_dataset

    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    write_turned(tmp_path / "images/a.png", picture, 6)
    write_turned(tmp_path / "labels/a.png", labels, 6)
    sample = open_dataset(tmp_path)[0]
    assert sample.size == (112, 96)
    assert torch.equal(sample.labels > 0, torch.from_numpy(np.rot90(labels, -1) > 0))
    write_turned(tmp_path / "labels/a.png", labels, 1)
    message = refusal(ImageError, open_dataset(tmp_path).__getitem__, 0)
    assert "96 x 112" in message
    assert "112 x 96" in message


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0II*\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0XX", b"\x1b[2J" * 20]
)
def test_exif_that_makes_no_sense_is_as_none(tmp_path, picture, exif):
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), picture)


def test_a_link_to_nowhere_is_told_as_such(tmp_path, refusal):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    message = refusal(ImageError, read_image, tmp_path / "a.png")
    assert message == f"{tmp_path / 'a.png'}: is a link to {tmp_path / 'gone.png'}, which is no file; mend it"


# Several images in a file


STACKS = {
    "(5, 16, 16) axes QYX": ((5, 16, 16), {"photometric": "minisblack"}),
    "(3, 16, 16) axes QYX": ((3, 16, 16), {"photometric": "minisblack"}),
    "(3, 3, 3) axes QYX": ((3, 3, 3), {"photometric": "minisblack"}),
    "(2, 4, 16, 16) axes TZYX": ((2, 4, 16, 16), {"imagej": True, "metadata": {"axes": "TZYX"}}),
    "(2, 16, 16) axes CYX": ((2, 16, 16), {"imagej": True, "metadata": {"axes": "CYX"}}),
    "(5, 16, 16, 3) axes QYXS": ((5, 16, 16, 3), {"photometric": "rgb"}),
    "(4, 3, 16, 16) axes QSYX": ((4, 3, 16, 16), {"photometric": "rgb", "planarconfig": "separate"}),
    "(6, 16, 16) axes QYX": ((6, 16, 16), {"photometric": "minisblack", "compression": "deflate"}),
    "(7, 16, 16) axes QYX": ((7, 16, 16), {"photometric": "minisblack", "truncate": True}),
    "(3, 16, 16) axes IYX": ((3, 16, 16), {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}}),
}


@pytest.mark.parametrize("understood", STACKS)
def test_a_tiff_of_several_images_is_refused_with_what_was_understood_unless_a_page_is_chosen(
    tmp_path, refusal, understood
):
    shape, how = STACKS[understood]
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, **how)
    inner = 3 if "S" in understood else 2
    pages = array.reshape(-1, *shape[-inner:])
    for read in (read_image, read_labels, read_mask):
        message = refusal(ImageError, read, path)
        assert message == (
            f"{path}: holds several images {understood}; give --page 1 to {len(pages)}, "
            "or save the wanted page as its own file"
        )
    for number, expected in enumerate(pages, start=1):
        shown = np.moveaxis(expected, 0, -1) if understood.endswith("SYX") else expected
        np.testing.assert_array_equal(read_pixels(path, page(number)), shown)
    message = refusal(ImageError, read_image, path, page(len(pages) + 1))
    assert f"has no page {len(pages) + 1}, it holds {understood}" in message


def test_a_tiff_of_pages_of_several_sizes_is_refused_unless_a_page_is_chosen(tmp_path, refusal):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(np.full((16, 16), 3, np.uint8))
        file.write(np.full((8, 8), 5, np.uint8))
    assert "holds several images (16, 16), (8, 8); give --page 1 to 2" in refusal(ImageError, read_image, path)
    assert np.array_equal(read_pixels(path, page(2)), np.full((8, 8), 5))
    assert "has no page 3" in refusal(ImageError, read_image, path, page(3))


def test_a_single_image_has_page_one_and_no_other_but_labels_beside_a_stack_may_be_single(tmp_path, refusal, labels):
    labels = np.uint8(labels == 1)
    Image.fromarray(labels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", labels)
    np.save(tmp_path / "a.npy", labels)
    for name in ("a.png", "a.tif", "a.npy"):
        np.testing.assert_array_equal(read_pixels(tmp_path / name, page(1)), labels)
        assert "has no page 2" in refusal(ImageError, read_image, tmp_path / name, page(2))
        np.testing.assert_array_equal(read_labels(tmp_path / name, page(2)).numpy(), labels)
        assert read_mask(tmp_path / name, page(2)).any()


def test_the_page_of_a_label_stack_is_that_of_the_image_stack(tmp_path, labels):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([labels * 0, labels]), photometric="minisblack")
    assert torch.equal(read_labels(tmp_path / "a.tif", page(2)), torch.from_numpy(labels.astype(np.int32)))


def tables(*colours):
    """Lookup tables of ImageJ, from black to a colour each."""
    return [(np.array(colour)[:, None] * np.arange(256)).astype(np.uint8) for colour in colours]


RED, GREEN, BLUE = (1, 0, 0), (0, 1, 0), (0, 0, 1)


@pytest.mark.parametrize("told", [{}, {"LUTs": tables(RED, GREEN, BLUE)}], ids=["no tables", "tables"])
@pytest.mark.parametrize("mode", ["composite", "color"])
def test_the_channels_of_a_colour_composite_are_its_colours_or_each_a_page(tmp_path, picture, mode, told):
    channels = np.moveaxis(picture, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", channels, imagej=True, metadata={"axes": "CYX", "mode": mode, **told})
    assert torch.equal(read_image(tmp_path / "a.tif")[0], unit(picture))
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif", page(2)), picture[..., 1])


@pytest.mark.parametrize(
    "how",
    [
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"imagej": True, "metadata": {"axes": "CYX", "mode": "grayscale"}},
        {"imagej": True, "metadata": {"axes": "CYX", "mode": "composite", "LUTs": tables(GREEN, GREEN, GREEN)}},
        {"imagej": True, "metadata": {"axes": "CYX", "mode": "composite", "LUTs": tables(BLUE, GREEN, RED)}},
        {"photometric": "minisblack", "metadata": {"axes": "CYX"}},
    ],
    ids=["no mode", "grey", "all green", "another order", "not of ImageJ"],
)
def test_three_channels_that_are_not_said_to_be_colours_are_refused_unless_a_page_is_chosen(tmp_path, refusal, how):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 16, 16), np.uint8), **how)
    assert "holds several images (3, 16, 16) axes CYX; give --page 1 to 3" in refusal(
        ImageError, read_image, tmp_path / "a.tif"
    )


def test_three_by_three_pixels_in_colour_are_told_from_three_pages(tmp_path):
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(array, -1, 0), photometric="rgb", planarconfig="separate")
    for name in ("a.tif", "b.tif"):
        np.testing.assert_array_equal(read_pixels(tmp_path / name), array)


def test_a_tiff_does_not_make_other_files_be_read(tmp_path, labels):
    first, second = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    tifffile.imwrite(second, labels * 0 + 9, ome=True)
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint8" SizeX="112" SizeY="96" SizeZ="1" SizeC="1" SizeT="2">'
        '<Channel ID="Channel:0:0"/><TiffData IFD="0" FirstT="0" PlaneCount="1"/>'
        '<TiffData IFD="0" FirstT="1" PlaneCount="1"><UUID FileName="b.ome.tif">urn:uuid:1</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(first, labels, description=xml, metadata=None)
    np.testing.assert_array_equal(read_pixels(first), labels)


@pytest.mark.parametrize("channels", [2, 4, 5, 60_000])
def test_channels_that_nobody_can_name_are_refused(tmp_path, refusal, channels):
    size = (2, 3) if channels > 5 else (16, 17)
    array = np.random.default_rng(0).integers(0, 255, (*size, channels)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig")
    np.save(tmp_path / "a.npy", array)
    for read in (read_image, read_labels, read_mask):
        assert f"has {channels} channels, not 1 or 3" in refusal(ImageError, read, path)
    if channels < 5:
        assert f"has {channels} channels, not 1 or 3" in refusal(ImageError, read_image, tmp_path / "a.npy")


@pytest.mark.parametrize("channels", [2, 4])
def test_opaque_alpha_in_a_tiff_or_an_array_is_left_out_and_other_is_refused(tmp_path, refusal, picture, channels):
    colour = picture if channels == 4 else picture[..., :1]
    array = np.concatenate([colour, np.full((96, 112, 1), 255, np.uint8)], axis=-1)
    photometric = "rgb" if channels == 4 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, planarconfig="contig", extrasamples=[2])
    np.save(tmp_path / "a.npy", array)
    for name in ("a.tif", "a.npy"):
        assert torch.equal(read_image(tmp_path / name)[0], unit(colour if channels == 4 else colour[..., 0])), name
    array[3, 4, -1] = 254
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, planarconfig="contig", extrasamples=[2])
    assert "has transparent pixels; flatten it" in refusal(ImageError, read_image, tmp_path / "a.tif")


@pytest.mark.parametrize("height", [3, 4])
def test_rows_are_not_taken_for_channels(tmp_path, height):
    array = np.random.default_rng(0).integers(0, 255, (height, 9)).astype(np.uint8)
    Image.fromarray(array).convert("LA").save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", array)
    np.save(tmp_path / "a.npy", array)
    for name in ("a.png", "a.tif", "a.npy"):
        np.testing.assert_array_equal(read_pixels(tmp_path / name), array)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (3, 2), (4, 4), (33, 31)], ids=str)
def test_images_of_any_size_are_read(tmp_path, size):
    array = np.random.default_rng(0).integers(0, 255, size).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    Image.fromarray(array).save(tmp_path / "a.bmp")
    tifffile.imwrite(tmp_path / "a.tif", array)
    np.save(tmp_path / "a.npy", array)
    for name in ("a.png", "a.bmp", "a.tif", "a.npy"):
        np.testing.assert_array_equal(read_pixels(tmp_path / name), array)
        assert read_image(tmp_path / name)[0].shape == (3, *size)


# Pictures that move, come in pairs, or are interlaced


def test_an_animation_is_refused(tmp_path, refusal, picture):
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    for read in (read_image, read_labels, read_mask):
        message = refusal(ImageError, read, tmp_path / "a.png")
        assert message == f"{tmp_path / 'a.png'}: is animated, with 2 frames; save the wanted frame as its own file"


def test_of_a_jpeg_with_several_pictures_one_must_be_chosen(tmp_path, refusal, picture):
    path = tmp_path / "a.jpg"
    two = [Image.fromarray(picture), Image.fromarray(255 - picture[:40])]
    two[0].save(path, format="MPO", save_all=True, append_images=two[1:], quality=95)
    message = refusal(ImageError, read_image, path)
    assert message.startswith(f"{path}: holds several images (2 pictures); give --page 1 to 2")
    for number, expected in ((1, picture), (2, 255 - picture[:40])):
        image = read_image(path, page(number))[0]
        assert image.shape[1:] == expected.shape[:2]
        assert (image - unit(expected)).abs().mean() < 0.03
    assert "JPEG changes the numbers" in refusal(ImageError, read_labels, path, page(1))


PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and the steps, of each pass (PNG specification, section 8)."""


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_interlaced_pngs_are_read(tmp_path, write_png_chunks, picture, depth, channels):
    array = picture[..., 0] if channels == 1 else picture
    array = array if depth == 8 else array.astype(np.uint16) * 251
    rows = [
        row.astype(">u2" if depth == 16 else np.uint8).tobytes()
        for x, y, dx, dy in PASSES
        for row in array[y::dy, x::dx]
    ]
    write_png_chunks(tmp_path / "a.png", 112, 96, depth, 0 if channels == 1 else 2, rows, passes=True)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), array)


def test_the_number_of_bits_that_count_is_a_remark_and_changes_nothing(tmp_path, write_png_chunks):
    array = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    rows = [row.astype(">u2").tobytes() for row in array]
    write_png_chunks(tmp_path / "a.png", 8, 8, 16, 0, rows, extra=[(b"sBIT", b"\x0c")])
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), array)


def test_a_transparent_colour_of_sixteen_bits_is_refused_where_it_occurs(tmp_path, refusal, write_png_chunks):
    deep = np.arange(3 * 64, dtype=np.uint16).reshape(8, 8, 3) * 200 + 513
    for array, kind in ((deep, 2), (deep[..., 0], 0)):
        rows = [row.astype(">u2").tobytes() for row in array]
        key = np.atleast_1d(array[3, 3])
        for shown, is_refused in ((key, True), (key + 1, False)):
            extra = [(b"tRNS", shown.astype(">u2").tobytes())]
            write_png_chunks(tmp_path / "a.png", 8, 8, 16, kind, rows, extra=extra)
            if is_refused:
                assert "has transparent pixels" in refusal(ImageError, read_image, tmp_path / "a.png")
            else:
                np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), array)


def test_a_transparent_grey_of_four_bits_is_refused_where_it_occurs(tmp_path, refusal, write_png_chunks):
    for key, is_refused in ((5, True), (6, False)):
        extra = [(b"tRNS", struct.pack(">H", key))]
        write_png_chunks(tmp_path / "a.png", 4, 2, 4, 0, [b"\x01\x25", b"\x33\x7f"], extra=extra)
        if is_refused:
            assert "has transparent pixels" in refusal(ImageError, read_image, tmp_path / "a.png")
        else:
            read_image(tmp_path / "a.png")


# Names that lie


@pytest.mark.parametrize("kind", ["png", "tif", "jpg", "bmp", "npy"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp", "a.npy", "a"])
def test_a_file_is_what_its_first_bytes_say_not_its_name(tmp_path, picture, kind, name):
    if kind == "tif":
        tifffile.imwrite(tmp_path / "true.tif", picture)
    elif kind == "npy":
        np.save(tmp_path / "true.npy", picture)
    else:
        Image.fromarray(picture).save(tmp_path / f"true.{kind}", **({"quality": 98} if kind == "jpg" else {}))
    (tmp_path / f"true.{kind}").rename(tmp_path / name)
    assert (read_image(tmp_path / name)[0] - unit(picture)).abs().mean() < (0.02 if kind == "jpg" else 1e-7)


def test_labels_in_a_jpeg_are_refused_whatever_it_is_called(tmp_path, refusal, labels):
    Image.fromarray(labels).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert "JPEG changes the numbers" in refusal(ImageError, read_labels, tmp_path / "a.png")


# Arrays


@pytest.mark.parametrize("kind", [">u2", "<f8", "f2", "int64", "bool"])
def test_arrays_are_read_as_images_of_their_type(tmp_path, picture, kind):
    array = (picture > 128 if kind == "bool" else picture).astype(kind)
    np.save(tmp_path / "a.npy", array)
    image, source = read_image(tmp_path / "a.npy")
    assert source.dtype == np.dtype(kind).name
    assert image.shape == (3, 96, 112)
    assert (image.min(), image.max()) == (0, 1)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.npy"), array)
    np.save(tmp_path / "b.npy", np.asfortranarray(array))
    np.testing.assert_array_equal(read_pixels(tmp_path / "b.npy"), array)


def test_a_stack_of_arrays_is_refused_unless_a_page_is_chosen(tmp_path, refusal, picture):
    stack = np.stack([picture, 255 - picture])
    np.save(tmp_path / "a.npy", stack)
    np.save(tmp_path / "b.npy", np.moveaxis(picture, -1, 0))
    assert "holds several images (2, 96, 112, 3); give --page 1 to 2" in refusal(
        ImageError, read_image, tmp_path / "a.npy"
    )
    assert "holds several images (3, 96, 112); give --page 1 to 3" in refusal(
        ImageError, read_image, tmp_path / "b.npy"
    )
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.npy", page(2)), stack[1])
    np.testing.assert_array_equal(read_pixels(tmp_path / "b.npy", page(3)), picture[..., 2])


def test_objects_in_an_array_are_refused_and_nothing_runs(tmp_path, refusal):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.save(tmp_path / "a.npy", np.array([[Bomb()]], object), allow_pickle=True)
    for read in (read_image, read_labels):
        assert "holds Python objects, which are not read" in refusal(ImageError, read, tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((0, 5)), np.array(3.0), np.zeros((4, 5, 0))], ids=str)
def test_an_array_that_is_no_image_is_refused(tmp_path, refusal, array):
    np.save(tmp_path / "a.npy", array)
    assert "an image is (height, width)" in refusal(ImageError, read_image, tmp_path / "a.npy")


@pytest.mark.parametrize("array", [np.zeros((4, 5), complex), np.zeros((4, 5), "S3"), np.zeros((4, 5), [("a", "u1")])])
def test_an_array_of_no_real_numbers_is_refused(tmp_path, refusal, array):
    np.save(tmp_path / "a.npy", array)
    assert "pixels are real numbers" in refusal(ImageError, read_image, tmp_path / "a.npy")


# Damage


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "deflate"},
        {"tile": (32, 32)},
        {"tile": (32, 32), "compression": "lzw"},
        {"rowsperstrip": 8},
        {"rowsperstrip": 8, "compression": "zstd"},
        {"photometric": "rgb", "planarconfig": "separate"},
        {"rowsperstrip": 8, "compression": "jpeg"},
    ],
    ids=str,
)
def test_a_tiff_cut_off_anywhere_is_refused(tmp_path, refusal, picture, how):
    path = tmp_path / "a.tif"
    array = np.moveaxis(picture, -1, 0) if "planarconfig" in how else picture[..., 0]
    tifffile.imwrite(path, array, **how)
    data = path.read_bytes()
    for length in (*range(1, 500, 7), *range(500, len(data), len(data) // 40), len(data) - 1):
        path.write_bytes(data[:length])
        for read in (read_image, read_labels):
            assert str(path) in refusal(ImageError, read, path)


@pytest.mark.parametrize("suffix", [".npy", ".bmp"])
def test_an_array_or_a_bitmap_cut_off_anywhere_is_refused(tmp_path, refusal, picture, suffix):
    path = tmp_path / f"a{suffix}"
    np.save(path, picture) if suffix == ".npy" else Image.fromarray(picture).save(path)
    data = path.read_bytes()
    for length in (*range(1, 200, 9), *range(200, len(data), len(data) // 30), len(data) - 1):
        path.write_bytes(data[:length])
        assert str(path) in refusal(ImageError, read_image, path)


def test_tags_that_ask_for_absurd_things_end_soon_and_without_much_memory(tmp_path, labels, read_or_refuse):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, labels, rowsperstrip=8, compression="deflate", description="\x1b[2J" * 20, metadata=None)
    data = path.read_bytes()
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    places = [start, *(start + 2 + 12 * entry + part for entry in range(entries) for part in (0, 2, 4, 8))]
    places.append(start + 2 + 12 * entries)  # where the next directory is
    began = time.monotonic()
    tracemalloc.start()
    for place in places:
        for wrong in (0, 0x7FFF, 0xFFFFFFFF):
            damaged = bytearray(data)
            width = 2 if place == start or (place - start - 2) % 12 < 4 else 4
            damaged[place : place + width] = (wrong & (256**width - 1)).to_bytes(width, "little")
            path.write_bytes(damaged)
            found = read_or_refuse(read_labels, path)
            assert isinstance(found, str) or found.numel() < 3e6
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6
    assert time.monotonic() - began < 60


def test_directories_of_a_tiff_that_run_in_a_circle_end(tmp_path, read_or_refuse):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((2, 16, 16), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        first, second = (one.offset for one in file.pages)
    data = bytearray(path.read_bytes())
    for offset in (first, second):
        (entries,) = struct.unpack_from("<H", data, offset)
        struct.pack_into("<I", data, offset + 2 + 12 * entries, first)
        path.write_bytes(data)
        began = time.monotonic()
        found = read_or_refuse(read_image, path)
        assert isinstance(found, str) or found.shape == (3, 16, 16)
        assert time.monotonic() - began < 5


def chained(path, *, bigtiff, entries, following):
    """A TIFF of one page, and another directory of some entries after it; each names the next, counted from 0, or a byte."""
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), photometric="minisblack", bigtiff=bigtiff)
    with tifffile.TiffFile(path) as file:
        first = file.pages[0].offset
    count, offset, entry = ("<Q", "<Q", 20) if bigtiff else ("<H", "<I", 12)
    data = bytearray(path.read_bytes())
    (own,) = struct.unpack_from(count, data, first)
    places = [first, len(data)]
    to = [places[one] if one < len(places) else one for one in following]
    struct.pack_into(offset, data, first + struct.calcsize(count) + entry * own, to[0])
    copied = data[first + struct.calcsize(count) :][: entry * entries]
    path.write_bytes(data + struct.pack(count, entries) + copied + struct.pack(offset, to[1]))


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    ("entries", "following", "says"),
    [
        (0, (1, 1), "is empty"),
        (0, (1, 0), "is empty"),
        (9, (1, 1), "its directories run in a circle"),
    ],
    ids=["empty and its own next", "empty and back to the first", "its own next"],
)
def test_a_chain_of_directories_that_would_be_followed_for_ever_is_refused(
    tmp_path, refusal, bigtiff, entries, following, says
):
    path = tmp_path / "a.tif"
    chained(path, bigtiff=bigtiff, entries=entries, following=following)
    assert says in refusal(ImageError, read_image, path)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("following", [(0, 0), (1 << 30, 0)], ids=["back to the first", "past the end"])
def test_a_chain_of_directories_that_ends_wrongly_is_read_up_to_there(tmp_path, bigtiff, following):
    chained(tmp_path / "a.tif", bigtiff=bigtiff, entries=9, following=following)
    assert read_image(tmp_path / "a.tif")[0].shape == (3, 16, 16)


def test_a_chain_of_very_many_directories_is_refused_soon(tmp_path, refusal):
    path = tmp_path / "a.tif"
    one = struct.Struct("<HHHIII")  # a directory of one entry: the width, 16
    places = [8 + one.size * number for number in range(300_000)]
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8) + b"".join(one.pack(1, 256, 3, 1, 16, to + one.size) for to in places)
    )
    began = time.monotonic()
    assert "over 262,144 directories" in refusal(ImageError, read_image, path)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("part", ["count", "offset"])
def test_a_tile_that_is_missing_is_refused_instead_of_black(tmp_path, refusal, labels, part):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, labels, tile=(32, 32), compression="deflate")
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[325 if part == "count" else 324]
    data = bytearray(path.read_bytes())
    width = {3: 2, 4: 4}[tag.dtype]
    wrong = 0 if part == "count" else len(data)
    data[tag.valueoffset + width : tag.valueoffset + 2 * width] = wrong.to_bytes(width, "little")
    path.write_bytes(data)
    assert "strip or tile 1 is missing or cut off" in refusal(ImageError, read_labels, path)


def test_a_tiff_that_claims_more_rows_than_it_has_is_refused_instead_of_black(tmp_path, refusal, labels):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, labels, rowsperstrip=8, compression="deflate")
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags[257].valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, place, 4000)
    path.write_bytes(data)
    assert "500 strips or tiles are needed for its size, it has 12" in refusal(ImageError, read_labels, path)


def test_tags_that_do_not_fit_into_memory_are_damage(tmp_path, refusal, labels, monkeypatch):
    def too_much(self):
        raise MemoryError

    tifffile.imwrite(tmp_path / "a.tif", labels)
    monkeypatch.setattr(tiff.tifffile.TiffFile, "series", property(too_much))
    assert "its tags ask for more memory than there is" in refusal(ImageError, read_image, tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy"])
def test_a_file_that_asks_for_more_memory_than_there_is_is_refused_by_its_name(
    tmp_path, refusal, labels, monkeypatch, name
):
    def too_much(*_):
        raise MemoryError

    np.save(tmp_path / "a.npy", labels)
    Image.fromarray(labels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", labels)
    for decoder in (tiff, raster, npy):
        monkeypatch.setattr(decoder, "check_size", too_much)
    for read in (read_image, read_labels, read_mask if name != "a.png" else read_image):
        message = refusal(ImageError, read, tmp_path / name)
        assert message.startswith(f"{tmp_path / name}: needs more memory than there is; crop or tile the image")


def test_a_file_that_may_not_be_read_is_refused_with_the_reason(tmp_path, refusal, labels, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, labels)

    def forbidden(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(tiff.tifffile, "TiffFile", forbidden)
    assert refusal(ImageError, read_image, path) == (
        f"{path}: cannot be read (Permission denied); check the file and its permissions"
    )


# Limits


def test_a_header_within_the_limit_that_promises_more_than_its_bytes_can_hold_is_refused(
    tmp_path, refusal, write_png_chunks
):
    path = write_png_chunks(tmp_path / "a.png", 10_000, 10_000, 8, 2)
    message = refusal(ImageError, read_image, path)
    assert "its header promises 10000 x 10000 pixels, more than 66 bytes can hold" in message


def test_our_own_limit_decides_what_is_too_large_and_pillows_does_not(tmp_path, refusal, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    small, large = (np.zeros((10, width, 3), np.uint8) for width in (10, 11))
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".npy"):
        for name, array in (("small", small), ("large", large)):
            path = tmp_path / f"{name}{suffix}"
            if suffix == ".tif":
                tifffile.imwrite(path, array, photometric="rgb")
            elif suffix == ".npy":
                np.save(path, array)
            else:
                Image.fromarray(array).save(path)
        limit = ReadOptions(max_pixels=100)
        read_image(tmp_path / f"small{suffix}", limit)
        message = refusal(SizeError, read_image, tmp_path / f"large{suffix}", limit)
        assert message.endswith(
            "110 pixels (10 x 11), at most 100 are read whole; crop or tile the image, or raise --max-pixels"
        )
        for read in (read_labels, read_mask, read_pixels):
            assert "at most 100 are read whole" in refusal(SizeError, read, tmp_path / f"large{suffix}", limit)
        read_image(tmp_path / f"large{suffix}", ReadOptions(max_pixels=110))


def test_a_slide_of_twenty_thousand_by_twenty_thousand_is_refused_with_a_remedy(tmp_path, refusal):
    path = tmp_path / "a.tif"
    tile = zlib.compress(bytes(512 * 512))
    tifffile.imwrite(
        path, iter([tile] * 40**2), shape=(20_000, 20_000), dtype=np.uint8, tile=(512, 512), compression="adobe_deflate"
    )
    for read in (read_image, read_labels):
        message = refusal(SizeError, read, path)
        assert "400,000,000 pixels (20000 x 20000), at most 178,956,970 are read whole; crop or tile" in message


PEAK = """
import resource, sys
from pathlib import Path
from nucstyle.core.errors import ImageError
from nucstyle.data.image_io import read_image, read_labels, read_mask

def peak():
    own = Path("/proc/self/status")  # getrusage begins with the peak of the process that started this one
    if own.is_file():
        return next(int(line.split()[1]) for line in own.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
for path in sys.argv[1:]:
    for read in (read_image, read_labels, read_mask):
        try:
            read(Path(path))
        except ImageError as error:
            print(error)
print(peak() - before)
"""


def test_bombs_and_lies_are_refused_without_the_memory_that_they_ask_for(tmp_path, write_png_chunks):
    bombs = []
    for side in (14_000, 20_000):  # honest, black and white: 23 and 47 KiB
        rows = [bytes(side // 8)] * side
        bombs.append(write_png_chunks(tmp_path / f"{side}.png", side, side, 1, 0, rows))
        assert bombs[-1].stat().st_size < 60_000
    bombs.append(write_png_chunks(tmp_path / "lie.png", 100_000, 100_000, 8, 6))
    bombs.append(write_png_chunks(tmp_path / "small-lie.png", 13_000, 13_000, 8, 6))
    text = zlib.compress(bytes(50_000_000))
    bombs.append(
        write_png_chunks(tmp_path / "text.png", 8, 8, 8, 0, [bytes(8)] * 8, extra=[(b"zTXt", b"a\0\0" + text)])
    )
    (tmp_path / "lie.npy").write_bytes(np.lib.format.magic(1, 0) + npy_header((13_000, 13_000)))
    bombs.append(tmp_path / "lie.npy")
    command = [sys.executable, "-c", PEAK, *map(str, bombs)]
    *lines, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 3 * len(bombs)
    assert int(grown) < 20_000 * (1 if sys.platform == "linux" else 1024), "in kilobytes"


def npy_header(shape):
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_pixels": 0}, "--max-pixels 0"),
        ({"page": 0}, "--page 0"),
        ({"value_range": (5, 5)}, "--range 5,5"),
        ({"value_range": (9, 5)}, "--range 9,5"),
        ({"value_range": (0, float("inf"))}, "--range 0,inf"),
        ({"value_range": (float("nan"), 1)}, "--range nan,1"),
    ],
)
def test_options_that_are_not_possible_are_refused_by_their_name(refusal, options, named):
    assert refusal(OptionError, ReadOptions, **options).startswith(f"{named}: ")


def test_a_config_says_of_the_reading_what_results_depend_on_and_nothing_else():
    assert ReadOptions(max_pixels=5).to_table() == {}
    table = ReadOptions(value_range=(0, 4095), page=2, connected_components=True).to_table()
    assert table == {"reading": {"range": [0, 4095], "page": 2, "connected_components": True}}


# What else is in a file


def test_texts_and_profiles_in_a_file_are_neither_shown_nor_written_again(tmp_path, picture, capfd):
    told = PngInfo()
    told.add_text("Comment", "\x1b[2J secret")
    exif = Image.Exif()
    exif[0x010E] = "\x1b[2J secret"
    Image.fromarray(picture).save(tmp_path / "a.png", pnginfo=told, exif=exif, icc_profile=b"secret" * 1000)
    tifffile.imwrite(tmp_path / "a.tif", picture, description="\x1b[2J secret", metadata=None, photometric="rgb")
    for name in ("a.png", "a.tif"):
        for as_tiff in (False, True):
            written = write_pixels(tmp_path / "again", read_pixels(tmp_path / name), as_tiff=as_tiff)
            assert b"secret" not in written.read_bytes()
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_what_tifffile_says_of_odd_tags_goes_to_those_who_log_and_not_to_the_terminal(tmp_path, labels, capfd, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, labels, description="\x1b[2J" * 20, metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        struct.pack_into("<I", data, file.pages[0].tags[270].offset + 8, 0xFFFFFFF0)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="tifffile"):
        np.testing.assert_array_equal(read_labels(path).numpy(), labels)
    assert "invalid value offset" in caplog.text
    assert any(isinstance(one, logging.NullHandler) for one in logging.getLogger("tifffile").handlers)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def files_of_all_kinds(tmp_path, picture, labels):
    """(name, bytes, whether the format has a checksum)."""
    small, numbers = picture[:40, :48], labels[:40, :48]
    for name, array in (("colour.png", small), ("grey.png", numbers), ("a.jpg", small), ("a.bmp", small)):
        Image.fromarray(array).save(tmp_path / name)
    np.save(tmp_path / "a.npy", small)
    for name, how in (("plain", {}), ("deflate", {"compression": "deflate"}), ("tiles", {"tile": (16, 16)})):
        tifffile.imwrite(tmp_path / f"{name}.tif", numbers, photometric="minisblack", **how)
    tifffile.imwrite(tmp_path / "lzw.tif", small, photometric="rgb", compression="lzw", predictor=True)
    return [(path.name, path.read_bytes(), path.suffix == ".png") for path in sorted(tmp_path.iterdir())]


@pytest.mark.parametrize("rounds", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_damage_of_any_kind_ends_in_an_image_or_a_refusal(tmp_path, picture, labels, read_or_refuse, rounds):
    rng, path, tried = np.random.default_rng(11), tmp_path / "x", 0
    for name, data, has_sums in files_of_all_kinds(tmp_path, picture, labels):
        path.write_bytes(data)
        readers = (
            [read_image, read_labels] if name in ("grey.png", "plain.tif", "deflate.tif", "tiles.tif") else [read_image]
        )
        whole = [read_or_refuse(read, path) for read in readers]
        for number in range(rounds):
            damaged = bytearray(data)
            start = int(rng.integers(len(data)))
            if number % 3 == 0:  # a run of wrong bytes
                damaged[start : start + 8] = rng.bytes(8)
            elif number % 3 == 1:  # some are missing
                del damaged[start : start + int(rng.integers(1, 40))]
            else:  # the header
                damaged[start % 64] = int(rng.integers(256))
            path.write_bytes(damaged)
            for read, expected in zip(readers, whole, strict=True):
                tried += 1
                found = read_or_refuse(read, path)
                if has_sums and not isinstance(found, str):
                    assert torch.equal(found, expected), f"another image of {name} after damage {number}"
    assert tried >= 13 * rounds
