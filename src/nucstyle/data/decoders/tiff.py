"""TIFF, with tifffile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import UnidentifiedImageError

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import Array, check_pixels


def decode(path: Path, colours: bool) -> Array:
    """The pixels of a file as (H, W) or (H, W, C); without `colours`, a palette's indices."""
    with path.open("rb") as stream:
        if stream.read(2) not in (b"II", b"MM"):
            raise UnidentifiedImageError
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        page = series.keyframe
        check_pixels(path, page.imagewidth * page.imagelength)
        if len(file.series) > 1 or (series.ndim > 2 and series.axes not in ("YXS", "SYX", "CYX", "YXC")):
            msg = f"{path}: holds several images {series.shape} ({series.axes}); save the wanted page as its own file"
            raise ImageError(msg)
        if colours and not _holds_intensities(page):
            kind = tifffile.PHOTOMETRIC(page.photometric).name
            msg = f"{path}: {kind} colours are not read; convert the image to grey or RGB first"
            raise ImageError(msg)
        array = series.asarray()
    if series.axes in ("SYX", "CYX"):
        array = np.moveaxis(array, 0, -1)
    return np.asarray(array)


def _holds_intensities(page: tifffile.TiffPage) -> bool:
    """Whether what tifffile gives are grey or RGB values; it leaves palettes, inverted grey and other spaces alone."""
    kind, compression = page.photometric, page.compression
    decoded = kind == tifffile.PHOTOMETRIC.YCBCR and compression == tifffile.COMPRESSION.JPEG
    return decoded or kind in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
