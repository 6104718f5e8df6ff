"""PNG, JPEG and BMP, with Pillow; plain PNG, and 16-bit colour, which Pillow would reduce to 8 bits, with imagecodecs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import (
    Array,
    ReadOptions,
    Wanted,
    check_size,
    page_index,
    png,
    refuse_transparent,
    upright,
    without_alpha,
)

# Each by its first bytes and not through `Image.open`, whose limit of pixels is one for the whole process.
_FILES: Mapping[bytes, Callable[[BytesIO, str], ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": jpeg_factory,
    b"BM": BmpImageFile,
}
_MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F")
_PNG_DEPTH, _PNG_COLOUR = 24, 25
"""The bytes of a PNG that hold the bits of one channel, and the kind of its colours."""
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MOST_DEFLATED = 1032
"""So many times smaller deflate makes bytes at best (zlib.net/zlib_tech.html)."""
_ORIENTATION = 274


def decode(path: Path, wanted: Wanted, reading: ReadOptions) -> Array:
    """The pixels of a file, as `decoders` says."""
    data = path.read_bytes()
    with _open(data) as file:
        _check_frames(file, path, wanted, reading)
        check_size(path, file.width, file.height, reading)
        if file.format in ("JPEG", "MPO") and wanted is Wanted.NUMBERS:
            msg = f"{path}: JPEG changes the numbers of nuclei; save the labels as PNG or TIFF"
            raise ImageError(msg)
        if file.format == "PNG":
            _check_png(data, file)
        array = _pixels(file, data, path, wanted)
        # Of a PNG, only now: the chunk may come after the pixels.
        orientation = _orientation(file.info.get("exif", b""))
    return upright(without_alpha(array, path), orientation)


def _open(data: bytes) -> ImageFile:
    """Read the header.

    Raises:
        UnidentifiedImageError: It is none of these files.
    """
    for head, opened in _FILES.items():
        if data.startswith(head):
            try:
                return opened(BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # what `Image.open` takes for another format
                break
    raise UnidentifiedImageError


def _check_frames(file: ImageFile, path: Path, wanted: Wanted, reading: ReadOptions) -> None:
    """Go to the picture that is meant; a frame of an animation is drawn upon those before it, so it is no image of its own."""
    count = getattr(file, "n_frames", 1)
    if count > 1 and file.format == "PNG":
        msg = f"{path}: is animated, with {count} frames; save the wanted frame as its own file"
        raise ImageError(msg)
    index = page_index(path, count, f"({count} pictures)" if count > 1 else "a single picture", wanted, reading)
    if index:
        file.seek(index)


def _check_png(data: bytes, file: ImageFile) -> None:
    """Compare size and checksums with what the header promises: Pillow stops at the last pixel, before the last checksum."""
    bits = file.width * file.height * data[_PNG_DEPTH] * _PNG_CHANNELS[data[_PNG_COLOUR]]
    if len(data) * _MOST_DEFLATED * 8 < bits:
        msg = f"its header promises {file.height} x {file.width} pixels, more than {len(data)} bytes can hold"
        raise OSError(msg)
    png.check_sums(data)


def _pixels(file: ImageFile, data: bytes, path: Path, wanted: Wanted) -> Array:
    depth = data[_PNG_DEPTH] if file.format == "PNG" else 8
    if wanted is Wanted.NUMBERS:
        return _numbers(file, data, depth)
    if file.mode == "P":
        return np.array(file.convert("RGBA" if "transparency" in file.info else "RGB"))
    if file.mode == "CMYK":  # JPEG of four inks, which Pillow has made alike whether Adobe inverted them or not
        return np.array(file.convert("RGB"))
    if file.mode not in _MODES:
        msg = f"{path}: colour mode {file.mode} is not read; convert the image to RGB first"
        raise ImageError(msg)
    array = _deep(file, data, depth)
    key = file.info.get("transparency")
    if key is not None and _occurs(array, key, depth):
        refuse_transparent(path)
    return array


def _deep(file: ImageFile, data: bytes, depth: int) -> Array:
    """All bits: of 16 in colour, Pillow would keep 8. Of 8, imagecodecs gives what Pillow does in half the time."""
    if depth == 16 and file.mode in ("LA", "RGB", "RGBA"):
        return np.asarray(imagecodecs.png_decode(data))[..., : len(file.getbands())]
    if file.format == "PNG" and depth == 8 and file.mode in ("L", "RGB", "RGBA") and png.is_plain(data):
        return np.asarray(imagecodecs.png_decode(data))
    return np.array(file)


def _numbers(file: ImageFile, data: bytes, depth: int) -> Array:
    """As in the file: indices of a palette, and grey of 2 or 4 bits, which Pillow stretches to 255."""
    array = _deep(file, data, depth)
    return array // (255 // (2**depth - 1)) if file.mode == "L" and depth < 8 else array


def _occurs(array: Array, key: int | tuple[int, int, int], depth: int) -> bool:
    """Whether a pixel has the one colour that a PNG declares transparent, in numbers of its own depth."""
    shown = np.multiply(key, 255 // (2**depth - 1) if depth < 8 else 1)
    same = (array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array) == shown
    return bool((same.all(axis=-1) if array.ndim == 3 else same).any())


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory of EXIF; 1 where there is none, or the bytes make no sense."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, start + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        return 1
    return 1
