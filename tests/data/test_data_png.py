import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from nucstyle.data import image_io
from nucstyle.data.decoders import png
from nucstyle.data.decoders.png import check_sums, decode_grey
from nucstyle.data.image_io import read_mask

PLAIN, LEFT, ABOVE, AVERAGE, NEAREST = range(5)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def neighbours(pixels):
    """Left, above, and between the two, of every pixel; 0 outside."""
    padded = np.pad(pixels.astype(int), ((1, 0), (1, 0)))
    return padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]


def nearest(left, above, between):
    """The predictor of Paeth, pixel by pixel, as the specification words it."""
    guess = left + above - between
    distances = [abs(guess - one) for one in (left, above, between)]
    first = (distances[0] <= distances[1]) & (distances[0] <= distances[2])
    return np.where(first, left, np.where(distances[1] <= distances[2], above, between))


def encode(pixels, filters, *, header=None, before=b"", packed=None, end=True):
    """A PNG whose rows have the filters that are asked for."""
    left, above, between = neighbours(pixels)
    guesses = (np.zeros_like(left), left, above, (left + above) // 2, nearest(left, above, between))
    rows = [
        bytes([kind]) + ((line - guesses[kind][row]) % 256).astype(np.uint8).tobytes()
        for row, (kind, line) in enumerate(zip(filters, pixels.astype(int), strict=True))
    ]
    height, width = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, *(header or (8, 0, 0, 0, 0)))
    data = zlib.compress(b"".join(rows)) if packed is None else packed
    half = len(data) // 2
    parts = [chunk(b"IHDR", head), before, chunk(b"IDAT", data[:half]), chunk(b"IDAT", data[half:])]
    return png.SIGNATURE + b"".join(parts) + (chunk(b"IEND", b"") if end else b"")


@st.composite
def pictures(draw):
    """Small pictures of few or many values, and a filter for every row."""
    values = st.sampled_from([0, 255]) if draw(st.booleans()) else st.integers(0, 255)
    pixels = draw(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=values))
    kinds = st.sampled_from([PLAIN, LEFT, ABOVE, NEAREST])
    return pixels, draw(st.lists(kinds, min_size=len(pixels), max_size=len(pixels)))


@settings(deadline=None, max_examples=300)
@given(pictures())
def test_every_filter_of_masks_is_undone(picture):
    pixels, filters = picture
    assert np.array_equal(decode_grey(encode(pixels, filters)), pixels)


@pytest.mark.parametrize("options", [{"optimize": True}, {"compress_level": 1}, {"compress_level": 9}])
def test_a_mask_that_pillow_wrote_is_the_same_as_pillow_reads_it(tmp_path, field, options):
    mask = np.where(field(1, size=(300, 411))[1] == 3, 255, 0).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.png", **options)
    assert np.array_equal(decode_grey((tmp_path / "a.png").read_bytes()), mask)


def test_a_file_without_its_last_chunk_has_the_same_pixels():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(decode_grey(encode(pixels, [LEFT] * 3, end=False)), pixels)


PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
PLAINLY = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))
FOR_OTHERS = {
    "averages": encode(PIXELS, [AVERAGE] * 3),
    "a filter that there is not": encode(PIXELS, [PLAIN] * 3, packed=zlib.compress(bytes([9]) + bytes(14))),
    "16 bits": encode(PIXELS, [PLAIN] * 3, header=(16, 0, 0, 0, 0)),
    "colour": encode(PIXELS, [PLAIN] * 3, header=(8, 2, 0, 0, 0)),
    "a palette": encode(PIXELS, [PLAIN] * 3, header=(8, 3, 0, 0, 0)),
    "interlaced": encode(PIXELS, [PLAIN] * 3, header=(8, 0, 0, 0, 1)),
    "transparent": encode(PIXELS, [PLAIN] * 3, before=chunk(b"tRNS", b"\0\3")),
    "an unknown chunk that matters": encode(PIXELS, [PLAIN] * 3, before=chunk(b"CgBI", b"")),
    "two headers": encode(PIXELS, [PLAIN] * 3, before=chunk(b"IHDR", bytes(13))),
    "too few rows": encode(PIXELS, [PLAIN] * 3, packed=zlib.compress(bytes(10))),
    "too many rows": encode(PIXELS, [PLAIN] * 3, packed=zlib.compress(bytes(20))),
    "packed data that are cut off": encode(PIXELS, [PLAIN] * 3, packed=PLAINLY[:-5]),
    "packed data with another checksum": encode(PIXELS, [PLAIN] * 3, packed=PLAINLY[:-1] + bytes([PLAINLY[-1] ^ 1])),
    "no data": png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 0, 0, 0, 0)) + chunk(b"IEND", b""),
    "a header that is too short": png.SIGNATURE + chunk(b"IHDR", bytes(9)) + chunk(b"IEND", b""),
    "no pixels": encode(PIXELS, [PLAIN] * 3, header=(8, 0, 0, 0, 0)).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 3, 8, 0, 0, 0, 0)),
    ),
    "very many pixels": png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 10**5, 10**5, 8, 0, 0, 0, 0)),
    "many rows that depend on others": encode(np.ones((400, 2), np.uint8), [LEFT] * 400),
    "nothing but the beginning": png.SIGNATURE,
    "another kind of file": b"GIF89a" + bytes(100),
    "an empty file": b"",
}


@pytest.mark.parametrize("case", FOR_OTHERS)
def test_what_is_not_a_plain_grey_png_is_left_to_a_general_decoder(case):
    assert decode_grey(FOR_OTHERS[case]) is None


def test_without_the_quick_library_all_is_left_to_the_general_decoder(monkeypatch):
    class Missing:
        available = False

    monkeypatch.setattr(png.imagecodecs, "ZLIBNG", Missing)
    assert decode_grey(encode(PIXELS, [PLAIN] * 3)) is None


def test_a_chunk_whose_checksum_differs_is_refused():
    data = encode(PIXELS, [PLAIN] * 3)
    for place in range(len(png.SIGNATURE) + 4, len(data) - 12):
        changed = bytearray(data)
        changed[place] ^= 16
        for read in (decode_grey, check_sums):
            try:
                found = read(bytes(changed))
            except OSError as error:
                assert "is cut off or changed" in str(error)  # noqa: PT017  (a changed length may also move the end)
            else:
                assert found is None or np.array_equal(found, PIXELS), place


MASKS = {
    "plain": encode(PIXELS, [NEAREST, ABOVE, LEFT]),
    "averages": FOR_OTHERS["averages"],
    "many rows": FOR_OTHERS["many rows that depend on others"],
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_is_the_same_whichever_decoder_reads_it(tmp_path, monkeypatch, case):
    path = tmp_path / "a.png"
    path.write_bytes(MASKS[case])
    quick = read_mask(path)
    monkeypatch.setattr(image_io.png, "decode_grey", lambda *given: None)
    assert np.array_equal(read_mask(path), quick)
    assert quick.any()
