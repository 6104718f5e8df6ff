"""PNG, JPEG and BMP, with Pillow; 16-bit colour, which Pillow would reduce to 8 bits, with imagecodecs."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import Array, check_pixels

_FORMATS = ("PNG", "JPEG", "BMP")
_PNG_DEPTH = 24
"""The byte of a PNG that holds the bits of one channel."""


def decode(path: Path, colours: bool) -> Array:
    """The pixels of a file as (H, W) or (H, W, C); without `colours`, a palette's indices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit decides
        file = Image.open(path, formats=_FORMATS)
    with file:
        check_pixels(path, file.width * file.height)
        if file.format == "JPEG" and not colours:
            msg = f"{path}: JPEG changes the numbers of nuclei; save the labels as PNG or TIFF"
            raise ImageError(msg)
        if file.format == "PNG":
            data = path.read_bytes()
            _check_sums(data)
            if data[_PNG_DEPTH] == 16 and file.mode in ("LA", "RGB", "RGBA"):
                return np.asarray(imagecodecs.png_decode(data))  # Pillow would keep 8 bits of the 16
        if not colours:
            return np.array(file)
        if file.mode == "P" or (file.mode in ("1", "L", "RGB") and "transparency" in file.info):
            return np.array(file.convert("RGBA" if "transparency" in file.info else "RGB"))
        if file.mode not in ("1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F"):
            msg = f"{path}: colour mode {file.mode} is not read; convert the image to RGB first"
            raise ImageError(msg)
        return np.array(file)


def _check_sums(png: bytes) -> None:
    """Compare the checksum of every chunk: Pillow stops at the last pixel, before that of the last data."""
    place = 8
    while place < len(png) and png[place + 4 : place + 8] != b"IEND":
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        if len(png) < end + 4 or zlib.crc32(png[place + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            msg = f"the chunk at byte {place} is cut off or changed"
            raise OSError(msg)
        place = end + 4
