import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile

import nucstyle
from nucstyle.core.errors import ImageError
from nucstyle.core.sample import Source
from nucstyle.data import image_io
from nucstyle.data.decoders import ReadOptions
from nucstyle.data.image_io import (
    from_unit,
    read_image,
    read_labels,
    read_mask,
    to_unit,
    write_labels,
    write_pixels,
    write_png,
)

GREY8, RGB8, GREY16, RGB16 = "grey8", "rgb8", "grey16", "rgb16"
LABELS = ("labels8", "labels16", "labels in a palette")


@pytest.fixture
def picture(field):
    """(96, 112, 3) uint8."""
    return field(3, stained=True)[0]


@pytest.fixture
def write_depths(tmp_path, picture, field, write_png_chunks):
    """Writes one PNG of each depth and number of channels, and a palette one, of an image or of labels."""

    def write_labels(path, kind):
        labels = Image.fromarray(field(3)[1].astype(np.uint16 if kind == "labels16" else np.uint8))
        if kind == "labels in a palette":
            labels.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        labels.save(path)
        return path

    def write(kind):
        path = tmp_path / f"{kind}.png"
        if kind in LABELS:
            return write_labels(path, kind)
        if kind in (GREY8, RGB8):
            Image.fromarray(picture[..., 0] if kind == GREY8 else picture).save(path)
        elif kind == "palette":
            Image.fromarray(picture).quantize(16).save(path)
        else:
            deep = picture.astype(">u2") * 137 + 11
            deep = deep[..., 0] if kind == GREY16 else deep
            write_png_chunks(path, 112, 96, 16, 0 if kind == GREY16 else 2, [row.tobytes() for row in deep])
        return path

    return write


def levels(image):
    """How many different values there are."""
    return len(torch.unique(image))


def mode_of(path):
    """Pillow's word for what is in a file."""
    with Image.open(path) as file:
        return file.mode


def first(read):
    """The tensor of what was read."""
    return read[0] if isinstance(read, tuple) else read


# The intensity rule


def test_eight_bit_numbers_are_divided_by_255(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    image, source = read_image(tmp_path / "a.png")
    assert torch.equal(image, torch.from_numpy(picture).permute(2, 0, 1).float() / 255)
    assert image.is_contiguous()
    assert source == Source(path=tmp_path / "a.png", dtype="uint8", channels=3, low=0.0, high=255.0)


def test_a_dark_eight_bit_image_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 5), 7, np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].unique().tolist() == [pytest.approx(7 / 255)]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_of_sixteen_bits_the_percentiles_become_nought_and_one(tmp_path, suffix):
    array = np.random.default_rng(0).integers(200, 4096, (64, 80)).astype(np.uint16)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(array).save(path) if suffix == ".png" else tifffile.imwrite(path, array)
    image, source = read_image(path)
    low, high = np.percentile(array, (0.1, 99.9))
    assert (source.dtype, source.channels, source.low, source.high) == ("uint16", 1, low, high)
    np.testing.assert_allclose(image[0].numpy(), ((array - low) / (high - low)).clip(0, 1), atol=1e-6)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_going_back_from_sixteen_bits_gives_every_number_between_the_percentiles_exactly(tmp_path):
    array = np.random.default_rng(0).integers(0, 65536, (64, 80)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array)
    image, source = read_image(tmp_path / "a.tif")
    back = from_unit(image, source)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert np.array_equal(back, array.clip(np.rint(source.low), np.rint(source.high)))


def test_going_back_from_eight_bits_is_exact(tmp_path, picture):
    for name, array in (("colour", picture), ("grey", picture[..., 1])):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        assert np.array_equal(from_unit(*read_image(tmp_path / f"{name}.png")), array)


def test_going_back_clips_to_the_type_and_rounds():
    image = torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0]).expand(3, 1, 5)
    wide = Source(dtype="uint8", channels=1, low=-100.0, high=300.0)
    assert from_unit(image, wide).tolist() == [[0, 20, 100, 180, 255]]
    binary = Source(dtype="bool", channels=1, low=0.0, high=1.0)
    assert from_unit(image, binary).tolist() == [[False, False, False, True, True]]


def test_a_grey_source_gets_the_mean_of_the_colours_back():
    image = torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand(3, 2, 2)
    assert from_unit(image, Source(dtype="float32", channels=1, low=0.0, high=1.0)).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_ramp_on_a_large_offset_keeps_its_contrast(tmp_path):
    for array in (33_000 + np.arange(400, dtype=np.uint16), 4_000_000_000 + np.arange(400, dtype=np.uint32)):
        tifffile.imwrite(tmp_path / "a.tif", array.reshape(20, 20))
        assert levels(read_image(tmp_path / "a.tif")[0]) >= 250


def test_one_hot_pixel_does_not_darken_the_rest():
    array = np.random.default_rng(0).integers(100, 1000, (64, 64)).astype(np.uint16)
    before, _, _ = to_unit(array)
    array[5, 5] = 65535
    after, _, high = to_unit(array)
    assert high < 1100
    assert (after - before).abs().mean() < 0.01


def test_floats_of_any_scale_mean_the_same(tmp_path):
    array = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    images = []
    for scale in (1, 65535, 1e300):
        tifffile.imwrite(tmp_path / "a.tif", (array * np.float64(scale)).astype(np.float64))
        images.append(read_image(tmp_path / "a.tif")[0])
    assert torch.isfinite(images[2]).all()
    torch.testing.assert_close(images[0], images[1])
    torch.testing.assert_close(images[0], images[2])


def test_signed_numbers_keep_their_order(tmp_path):
    array = np.arange(-200, 200, dtype=np.int16).reshape(20, 20)
    tifffile.imwrite(tmp_path / "a.tif", array)
    image, source = read_image(tmp_path / "a.tif")
    assert source.low < 0 < source.high
    assert bool((image[0].reshape(-1).diff() >= 0).all())
    assert np.array_equal(from_unit(image, source)[1:-1], array[1:-1])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("value", [0, 100])
def test_a_constant_image_is_finite_and_comes_back(tmp_path, kind, value):
    array = np.full((6, 7), value, kind)
    tifffile.imwrite(tmp_path / "a.tif", array)
    image, source = read_image(tmp_path / "a.tif")
    assert torch.isfinite(image).all()
    assert np.array_equal(from_unit(image, source), array)


def test_a_given_range_takes_the_place_of_the_rule(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 1000], [2000, 4000]], np.uint16))
    image, source = read_image(tmp_path / "a.tif", ReadOptions(value_range=(1000, 3000)))
    assert image[0].tolist() == [[0, 0], [0.5, 1]]
    assert (source.low, source.high) == (1000, 3000)


# Modes


@pytest.mark.parametrize("size", [(3, 5), (4, 5), (2, 2), (1, 9), (33, 17)], ids=str)
def test_one_picture_is_the_same_in_every_mode(tmp_path, size):
    black_and_white = Image.fromarray((np.random.default_rng(1).random(size) > 0.5).astype(np.uint8) * 255)
    expected = torch.from_numpy(np.array(black_and_white)).float().div(255).expand(3, -1, -1)
    for mode, channels in (("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)):
        black_and_white.convert(mode).save(tmp_path / f"{mode}.png")
        assert mode_of(tmp_path / f"{mode}.png") == mode
        image, source = read_image(tmp_path / f"{mode}.png")
        assert torch.equal(image, expected), mode
        assert source.channels == channels, mode


def test_a_palette_image_has_the_colours_of_its_palette(tmp_path, picture):
    palette = Image.fromarray(picture).quantize(16)
    palette.save(tmp_path / "a.png")
    expected = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1).float() / 255
    assert torch.equal(read_image(tmp_path / "a.png")[0], expected)


def test_sixteen_bit_colour_keeps_sixteen_bits(tmp_path, write_png_chunks):
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    colour = np.stack([ramp, ramp[::-1], ramp.T], axis=-1)
    write_png_chunks(tmp_path / "a.png", 64, 64, 16, 2, [row.astype(">u2").tobytes() for row in colour])
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
    image, source = read_image(tmp_path / "a.png")
    assert (source.dtype, source.channels) == ("uint16", 3)
    assert levels(image) > 4000
    assert torch.equal(image, read_image(tmp_path / "a.tif")[0])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_refused(tmp_path, refusal, mode, picture):
    image = Image.fromarray(picture).convert(mode)
    image.putpixel((3, 4), (*image.getpixel((3, 4))[:-1], 254))
    image.save(tmp_path / "a.png")
    message = refusal(ImageError, read_image, tmp_path / "a.png")
    assert message == f"{tmp_path / 'a.png'}: has transparent pixels; flatten it on a background first"


def test_a_colour_that_a_png_declares_transparent_is_refused_where_it_occurs(tmp_path, refusal, picture):
    picture = picture.clip(1, 255)
    for array, colour in ((picture.copy(), (0, 0, 0)), (picture[..., 0].copy(), 0)):
        path = tmp_path / "a.png"
        Image.fromarray(array).save(path, transparency=colour)
        read_image(path)  # declared, but no pixel has it
        array[5, 5] = 0
        Image.fromarray(array).save(path, transparency=colour)
        assert "has transparent pixels" in refusal(ImageError, read_image, path)
    Image.fromarray(picture).quantize(4).save(path, transparency=0)
    assert "has transparent pixels" in refusal(ImageError, read_image, path)


def test_a_tiff_may_be_compressed_planar_big_endian_or_jpeg_inside(tmp_path, picture):
    expected = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    for options in ({"compression": "lzw"}, {"compression": "zstd"}, {"byteorder": ">"}, {"tile": (32, 32)}):
        tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", **options)
        assert torch.equal(read_image(tmp_path / "a.tif")[0], expected)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(picture, -1, 0), photometric="rgb", planarconfig="separate")
    assert torch.equal(read_image(tmp_path / "a.tif")[0], expected)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", compression="jpeg", compressionargs={"level": 95})
    assert (read_image(tmp_path / "a.tif")[0] - expected).abs().mean() < 0.02


@pytest.mark.parametrize(
    "array", [np.zeros((3, 4, 5)), np.zeros((4, 5, 4)), np.zeros(5), np.zeros((0, 5)), np.zeros((1, 4, 5, 3))]
)
def test_an_array_of_another_shape_is_refused(refusal, array):
    message = refusal(ImageError, to_unit, array, where="my array")
    assert message.startswith("my array: an image is (height, width) or (height, width, 3), got ")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_and_counted(tmp_path, refusal, bad):
    array = np.random.default_rng(0).random((8, 9)).astype(np.float32)
    array[2, 3:6] = bad
    tifffile.imwrite(tmp_path / "a.tif", array)
    for read in (read_image, read_mask):
        message = refusal(ImageError, read, tmp_path / "a.tif")
        assert message == f"{tmp_path / 'a.tif'}: 3 pixels are NaN or infinite; replace them first"


def test_complex_numbers_are_refused(tmp_path, refusal):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9), np.complex64))
    for read in (read_image, read_mask):
        assert "pixels are real numbers, got complex64" in refusal(ImageError, read, tmp_path / "a.tif")


# Files that are no images, and damaged ones

NO_IMAGES = {
    "the file is empty": b"",
    "it looks like an HTML page": b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "it is a Git LFS pointer; fetch the real file": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
    "it begins with b'%!PS-Ado'": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "it begins with b'GIF89a\\x01\\x00'": b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
    "it begins with b'\\x89PNG\\r\\n\\x1a\\n'": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("reason", NO_IMAGES)
@pytest.mark.parametrize("read", [read_image, read_labels, read_mask])
def test_a_file_that_is_no_image_is_refused_with_what_it_looks_like(tmp_path, refusal, read, reason, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(NO_IMAGES[reason])
    assert (
        refusal(ImageError, read, path)
        == f"{path}: not a PNG, JPEG, BMP, TIFF or NPY image ({reason}); replace the file"
    )


@pytest.mark.parametrize("read", [read_image, read_labels, read_mask])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, refusal, read):
    for path in (tmp_path / "a.png", tmp_path):
        assert re.match(rf"{path}: no such (image|label) file$", refusal(ImageError, read, path))


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        *((read_image, kind) for kind in (GREY8, RGB8, GREY16, RGB16, "palette")),
        *((read_labels, kind) for kind in LABELS),
    ],
)
def test_a_png_cut_off_anywhere_is_refused_or_whole(refusal, write_depths, kind, read):
    path = write_depths(kind)
    whole, data = read(path), path.read_bytes()
    for length in (1, 8, 20, 33, 60, len(data) // 3, len(data) // 2, len(data) - 60, len(data) - 14):
        path.write_bytes(data[:length])
        assert str(path) in refusal(ImageError, read, path)
    path.write_bytes(data[:-12])  # only the end mark is missing: every pixel is there
    assert torch.equal(first(read(path)), first(whole))


def wrong_bytes(data, *places):
    """The file again and again, each time with another byte wrong."""
    rng = np.random.default_rng(5)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        yield place, bytes(damaged)


@pytest.mark.parametrize("kind", [GREY8, RGB8, GREY16, RGB16, "palette", *LABELS])
def test_a_png_with_one_wrong_byte_is_refused_or_the_same(write_depths, read_or_refuse, kind):
    path = write_depths(kind)
    readers = [read_image, read_labels] if kind in LABELS else [read_image]
    whole, data = [first(read(path)) for read in readers], path.read_bytes()
    # Pillow's own check stops at the last pixel, so the end of the file is looked at more closely.
    places = np.random.default_rng(4).integers(0, len(data), 60)
    for place, damaged in wrong_bytes(data, *places, *range(len(data) - 300, len(data), 5)):
        path.write_bytes(damaged)
        for read, expected in zip(readers, whole, strict=True):
            found = read_or_refuse(read, path)
            if not isinstance(found, str):
                assert torch.equal(found, expected), f"another image after a change of byte {place}"


def test_a_tiff_with_one_wrong_byte_never_ends_in_anything_but_an_image_or_a_refusal(tmp_path, picture, read_or_refuse):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture[:24, :24], photometric="rgb", compression="deflate")
    data = path.read_bytes()
    for _, damaged in wrong_bytes(data, *range(8, 260, 4), *range(260, len(data), 40)):
        path.write_bytes(damaged)
        read_or_refuse(read_image, path)


def test_nobody_may_tell_pillow_to_fill_up_truncated_files():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    files = sorted(Path(nucstyle.__file__).parent.rglob("*.py"))
    assert len(files) > 40
    assert [file for file in files if "LOAD_TRUNCATED_IMAGES" in file.read_text()] == []


# Labels


@pytest.mark.parametrize("colours", [4, 256])
def test_the_indices_of_a_palette_are_the_labels(tmp_path, colours):
    indices = np.kron((np.arange(256) % colours).reshape(16, 16), np.ones((3, 2))).astype(np.uint8)
    image = Image.fromarray(indices).convert("L")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 3 * colours).tolist())
    image.save(tmp_path / "a.png")
    assert mode_of(tmp_path / "a.png") == "P"
    assert torch.equal(read_labels(tmp_path / "a.png"), torch.from_numpy(indices.astype(np.int32)))
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    assert torch.equal(read_labels(tmp_path / "a.tif"), torch.from_numpy(indices.astype(np.int32)))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32, np.int64])
def test_labels_keep_their_numbers_whatever_their_type(tmp_path, kind):
    array = np.array([[0, 7, 7], [100, 0, 1]], kind)
    tifffile.imwrite(tmp_path / "a.tif", array)
    labels = read_labels(tmp_path / "a.tif")
    assert labels.dtype == torch.int32
    assert labels.tolist() == array.tolist()


def test_a_background_that_is_declared_transparent_does_no_harm_to_labels(tmp_path, field):
    _, labels = field(2)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "a.png", transparency=0)
    assert torch.equal(read_labels(tmp_path / "a.png"), torch.from_numpy(labels))


def test_labels_in_a_jpeg_are_refused(tmp_path, refusal, picture):
    Image.fromarray(picture[..., 0]).save(tmp_path / "a.jpg")
    assert "save the labels as PNG or TIFF" in refusal(ImageError, read_labels, tmp_path / "a.jpg")


@pytest.mark.parametrize(("nuclei_", "kind"), [(0, "uint16"), (300, "uint16"), (65_535, "uint16"), (70_000, "uint32")])
def test_written_labels_come_back_whatever_their_number(tmp_path, nuclei_, kind):
    labels = torch.zeros(600, 500, dtype=torch.int32)
    dots = labels[::2, ::2]  # nuclei of a pixel, apart from each other
    dots.copy_(
        torch.arange(1, dots.numel() + 1).reshape(dots.shape)
        * (torch.arange(dots.numel()) < nuclei_).reshape(dots.shape)
    )
    write_labels(tmp_path / "a.tif", labels)
    assert tifffile.imread(tmp_path / "a.tif").dtype == kind
    assert torch.equal(read_labels(tmp_path / "a.tif"), labels)


def test_written_labels_are_the_same_bytes_every_time(tmp_path, nuclei):
    for name in ("a.tif", "b.tif"):
        write_labels(tmp_path / name, nuclei.labels)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_png_that_cannot_be_written_whole_leaves_the_one_before(tmp_path, nuclei, monkeypatch):
    write_png(tmp_path / "a.png", nuclei.image)

    def cut_off(_, path, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", cut_off)
        with pytest.raises(OSError, match="No space left"):
            write_png(tmp_path / "a.png", nuclei.image * 0)
    assert torch.equal(read_image(tmp_path / "a.png")[0], nuclei.image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_written_png_comes_back_rounded_to_eight_bits(tmp_path, nuclei):
    write_png(tmp_path / "a.png", nuclei.image)
    assert torch.equal(read_image(tmp_path / "a.png")[0], nuclei.image)  # they were bytes to begin with
    write_png(tmp_path / "a.png", torch.tensor([-0.5, 0.0021, 0.5, 1.5]).expand(3, 1, 4))
    assert (read_image(tmp_path / "a.png")[0][0] * 255).round().tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("top", [1, 255])
def test_a_mask_is_the_same_as_noughts_and_ones_or_255_grey_or_colour(tmp_path, top):
    mask = np.random.default_rng(2).random((9, 8)) > 0.5
    array = mask.astype(np.uint8) * top
    Image.fromarray(array).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([array] * 3, -1)).save(tmp_path / "colour.png")
    Image.fromarray(mask).save(tmp_path / "bits.png")
    tifffile.imwrite(tmp_path / "float.tif", array.astype(np.float32) * 0.9)
    for name in ("grey.png", "colour.png", "bits.png", "float.tif"):
        read = read_mask(tmp_path / name)
        assert read.dtype == bool
        assert np.array_equal(read, mask), name


def test_a_black_mask_is_empty(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    assert not read_mask(tmp_path / "a.png").any()


# Large images


def whole_to_unit(array, low, high):
    """The intensity rule without bands."""
    wide = array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
    unit = np.clip((wide - low) / (high - low), 0, 1).astype(np.float32)
    return np.stack([unit] * 3) if array.ndim == 2 else unit.transpose(2, 0, 1)


def whole_from_unit(image, source):
    """The way back without bands, of a type of integers."""
    array = image.mean(0).numpy() if source.channels < 3 else image.permute(1, 2, 0).numpy()
    scaled = array.astype(np.float64) * (source.high - source.low) + source.low
    info = np.iinfo(source.dtype)
    return np.clip(np.rint(scaled), info.min, info.max).astype(source.dtype)


@pytest.mark.parametrize("kind", ["uint8", ">u2", "int32"])
@pytest.mark.parametrize("shape", [(1, 1), (37, 11), (37, 11, 3), (3, 500, 3), (500, 3)])
def test_bands_of_rows_give_the_bits_of_the_whole(monkeypatch, kind, shape):
    monkeypatch.setattr(image_io, "_BAND_PX", 100)
    array = np.random.default_rng(0).integers(0, 250, shape).astype(kind)
    unit, low, high = to_unit(array)
    assert unit.is_contiguous()
    if high > low:
        np.testing.assert_array_equal(unit.numpy(), whole_to_unit(array, low, high))
    channels = 1 if array.ndim == 2 else 3
    source = Source(dtype=array.dtype.newbyteorder("=").name, channels=channels, low=low, high=high)
    image = torch.rand(unit.shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(from_unit(image, source), whole_from_unit(image, source))


# Writing pixels


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 3)])
def test_written_pixels_come_back_in_the_type_that_they_had(tmp_path, kind, shape):
    array = np.random.default_rng(0).integers(0, 250, shape).astype(kind)
    file = write_pixels(tmp_path / "cells.v2", array)
    assert file.name == ("cells.v2.png" if kind == "uint8" else "cells.v2.tif")
    again, source = read_image(file, ReadOptions(value_range=(0, 255)))
    assert source.dtype == kind
    np.testing.assert_allclose(from_unit(again, source), array, rtol=0, atol=1e-4 if kind.startswith("float") else 0)
    assert write_pixels(tmp_path / "twice", array).read_bytes() == file.read_bytes()
