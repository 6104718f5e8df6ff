"""TIFF, with tifffile, which decodes numbers and leaves colours, orientation and missing parts to us."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import (
    Array,
    ReadOptions,
    Wanted,
    check_size,
    page_index,
    refuse_channels,
    upright,
    without_alpha,
)

HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes, of either order of bytes, with offsets of 32 and 64 bits."""
_MOST_CHANNELS = 4
_ORIENTATION = 274
_SOFTWARE = 305
_COLOURS = "CYX"
_MOST_AT_ONCE = 1 << 22
"""Pixels that are read at once where the file does not say it."""

_MOST_DIRECTORIES = 1 << 18
"""More pages than any file has; to follow so many takes seconds."""

# What tifffile says of odd tags would come to the terminal, with text of the file in it. Who logs, still gets it.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Plane:
    """One image of a file that is open."""

    page: tifffile.TiffPage | tifffile.TiffFrame
    """Where its numbers are."""
    keyframe: tifffile.TiffPage
    """How they are to be understood."""
    decode: Callable[[], Array]
    """(H, W), (H, W, C) or, where `is_planar`, (C, H, W)."""
    is_planar: bool = False
    offset: int | None = None
    """The byte of the file where its numbers begin, if they are written there one after the other."""


def decode(path: Path, wanted: Wanted, reading: ReadOptions) -> Array:
    """The pixels of a file, as `decoders` says."""
    with opened(path, wanted, reading) as plane:
        page = plane.keyframe
        check_size(path, page.imagewidth, page.imagelength, reading)
        if wanted is not Wanted.NUMBERS:
            _check_colours(page, path, wanted)
        array = plane.decode()
        orientation = page.tags.valueof(_ORIENTATION, default=1)
        if plane.is_planar:
            array = np.moveaxis(array, 0, -1)
        if wanted is not Wanted.NUMBERS:
            array = _as_shown(array, page)
    is_alpha = any(kind in (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA) for kind in page.extrasamples)
    return upright(without_alpha(array, path, is_declared=is_alpha), orientation)


@contextmanager
def opened(path: Path, wanted: Wanted, reading: ReadOptions) -> Iterator[Plane]:
    """Open a file at the image that is meant, and check that all its numbers are there; none is decoded yet.

    Raises:
        ImageError: It holds several images, too many channels, or only a part of what its header promises.
    """
    # OME's XML names other files, which tifffile would read as well; without it, a file is what it holds.
    with tifffile.TiffFile(path, is_ome=False) as file:
        _check_chain(file)
        plane = _plane(file, path, wanted, reading)
        if plane.keyframe.samplesperpixel > _MOST_CHANNELS:
            refuse_channels(path, plane.keyframe.samplesperpixel)
        _check_segments(plane, file.filehandle.size)
        yield plane


def _check_chain(file: tifffile.TiffFile) -> None:
    """Follow the directories, each of which names the next: of some chains tifffile would make pages for ever, or nearly.

    A circle that leads back to the first is where other readers stop as well.
    """
    form, stream, seen = file.tiff, file.filehandle, dict[int, None]()
    stream.seek(8 if form.is_bigtiff else 4)
    while (place := _number(stream.read(form.offsetsize), form.offsetformat)) and place < stream.size:
        if place in seen:
            if place == next(iter(seen)):
                return
            msg = "its directories run in a circle"
            raise ValueError(msg)
        seen[place] = None
        stream.seek(place)
        entries = _number(stream.read(form.tagnosize), form.tagnoformat)
        if entries == 0 or len(seen) > _MOST_DIRECTORIES:
            msg = f"a directory at byte {place} is empty" if entries == 0 else f"over {_MOST_DIRECTORIES:,} directories"
            raise ValueError(msg)
        stream.seek(min(stream.size, place + form.tagnosize + entries * form.tagsize))


def _number(data: bytes, form: str) -> int:
    """0 where the file ends."""
    return int(struct.unpack(form, data)[0]) if len(data) == struct.calcsize(form) else 0


def _plane(file: tifffile.TiffFile, path: Path, wanted: Wanted, reading: ReadOptions) -> Plane:
    try:
        series = file.series
    except MemoryError:  # nothing is decoded here: it is tags that ask for so much
        msg = "its tags ask for more memory than there is"
        raise ValueError(msg) from None
    if len(series) != 1:
        understood = ", ".join(str(one.shape) for one in series)
        return _plane_of(file.pages[page_index(path, len(file.pages), understood, wanted, reading)])
    one = series[0]
    if (
        reading.page is None
        and wanted is Wanted.COLOURS
        and one.axes == _COLOURS
        and _is_colour_composite(file, one.shape[0])
    ):
        return Plane(one.keyframe, one.keyframe, one.asarray, is_planar=True)
    inner = 3 if one.axes.endswith(("YXS", "SYX", "YXC")) else 2
    count = math.prod(one.shape[:-inner])
    index = page_index(path, count, f"{one.shape} axes {one.axes}", wanted, reading)
    if len(one.pages) == count:
        return _plane_of(one.pages[index])
    if one.dataoffset is None or one.dtype is None:
        msg = f"{path}: holds {one.shape} axes {one.axes} in one piece; save the wanted page as its own file"
        raise ImageError(msg)
    # One header for the whole stack, as ImageJ writes large ones.
    shape = one.shape[-inner:]
    offset = one.dataoffset + index * math.prod(shape) * one.dtype.itemsize
    kind = np.dtype(f"{file.byteorder}{one.dtype.char}")
    return Plane(
        one.keyframe,
        one.keyframe,
        lambda: np.array(np.memmap(path, kind, "r", offset, shape)),
        one.axes.endswith("SYX"),
        offset,
    )


def _is_colour_composite(file: tifffile.TiffFile, channels: int) -> bool:
    """Whether ImageJ shows the channels of a file as red, green and blue; without lookup tables those are its first colours."""
    told = file.imagej_metadata or {}
    if channels != 3 or told.get("mode") not in ("composite", "color"):
        return False
    tables = told.get("LUTs")
    return tables is None or np.array_equal([table[:, -1] for table in tables], np.eye(3) * 255)


def _plane_of(page: tifffile.TiffPage | tifffile.TiffFrame | None) -> Plane:
    if page is None or page.keyframe is None:
        msg = "the page is missing"
        raise ValueError(msg)
    offset = page.dataoffsets[0] if page.keyframe.is_final and page.dataoffsets else None
    return Plane(page, page.keyframe, page.asarray, page.axes == "SYX", offset)


def _check_segments(plane: Plane, size: int) -> None:
    """Where strips or tiles are missing, tifffile would leave black."""
    page = plane.page
    needed = math.prod(plane.keyframe.chunked)
    if len(page.dataoffsets) != needed or len(page.databytecounts) != needed:
        msg = f"{needed} strips or tiles are needed for its size, it has {len(page.dataoffsets)}"
        raise ValueError(msg)
    for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        if count <= 0 or offset + count > size:
            msg = f"strip or tile {number} is missing or cut off"
            raise ValueError(msg)


def header(path: Path, wanted: Wanted, reading: ReadOptions) -> tuple[tuple[int, int], bool]:
    """The (height, width) of an image as it is shown, and whether the file holds nothing else; its pixels are not decoded.

    Raises:
        ImageError: As `opened`, or its colours are not read.
    """
    with opened(path, wanted, reading) as plane:
        page = plane.keyframe
        if wanted is not Wanted.NUMBERS:
            _check_colours(page, path, wanted)
        size = page.imagelength, page.imagewidth
        is_turned = page.tags.valueof(_ORIENTATION, default=1) in range(5, 9)
        channels = 3 if plane.is_planar else page.samplesperpixel
        is_alone = sum(math.prod(one.shape) for one in page.parent.series) == math.prod(size) * channels
    return (size[::-1] if is_turned else size), is_alone


def software(path: Path) -> str:
    """The program that a file says it was written by; empty where it does not say it."""
    with tifffile.TiffFile(path, is_ome=False) as file:
        return str(file.pages.first.tags.valueof(_SOFTWARE, default=""))


def bands(path: Path, reading: ReadOptions) -> Iterator[Array]:
    """The numbers of a file of one channel from top to bottom, a row of tiles or a strip at a time.

    Args:
        path: The file.
        reading: The page; the largest size holds for what is in memory at a time.

    Yields:
        (rows, W), of the file's type.

    Raises:
        ImageError: As `opened`, or a single strip or row of tiles is too large.
    """
    with opened(path, Wanted.NUMBERS, reading) as plane:
        page = plane.keyframe
        is_upright = page.tags.valueof(_ORIENTATION, default=1) not in range(2, 9)
        if is_upright and page.samplesperpixel == page.imagedepth == 1 and page.dtype is not None:
            if plane.offset is not None:
                kind = np.dtype(f"{page.parent.byteorder}{page.dtype.char}")
                yield from _rows_in_place(page, path, kind, plane.offset)
                return
            if len(plane.page.dataoffsets) > 1:
                yield from _rows_of_segments(plane, path, reading)
                return
        yield decode(path, Wanted.NUMBERS, reading)


def _rows_in_place(page: tifffile.TiffPage, path: Path, kind: np.dtype[Any], offset: int) -> Iterator[Array]:
    step = max(1, _MOST_AT_ONCE // page.imagewidth)
    for top in range(0, page.imagelength, step):
        rows = min(step, page.imagelength - top)
        # Not mapped: what was read of a mapped file counts as memory of the process.
        place = offset + top * page.imagewidth * kind.itemsize
        yield np.fromfile(path, kind, rows * page.imagewidth, offset=place).reshape(rows, page.imagewidth)


def _rows_of_segments(plane: Plane, path: Path, reading: ReadOptions) -> Iterator[Array]:
    page, file = plane.keyframe, plane.page.parent.filehandle
    length, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    check_size(path, page.imagewidth, min(length, page.imagelength), reading)
    numbers = iter(range(len(plane.page.dataoffsets)))
    for top in range(0, page.imagelength, length):
        band: Array = np.empty((min(length, page.imagelength - top), page.imagewidth), page.dtype)
        for left in range(0, page.imagewidth, width):
            number = next(numbers)
            file.seek(plane.page.dataoffsets[number])
            decoded, *_ = page.decode(file.read(plane.page.databytecounts[number]), number)
            if decoded is None:
                msg = f"strip or tile {number} is missing"
                raise ValueError(msg)
            band[:, left : left + width] = decoded[0, : len(band), : page.imagewidth - left, 0]
        yield band


def _check_colours(page: tifffile.TiffPage, path: Path, wanted: Wanted) -> None:
    """Refuse what would have to be guessed."""
    kind, single = page.photometric, page.samplesperpixel == 1
    can_be_read = {
        PHOTOMETRIC.MINISBLACK: True,
        PHOTOMETRIC.RGB: True,
        PHOTOMETRIC.PALETTE: single and page.colormap is not None,
        PHOTOMETRIC.YCBCR: page.compression == COMPRESSION.JPEG,  # tifffile makes RGB of it, and of nothing else
        PHOTOMETRIC.SEPARATED: page.samplesperpixel == 4 and page.dtype == np.uint8,
        # ImageJ saves masks like this whose nuclei are 255, scanners some whose nuclei are 0.
        PHOTOMETRIC.MINISWHITE: single and wanted is Wanted.COLOURS and page.dtype in (np.bool_, np.uint8, np.uint16),
    }
    if not can_be_read.get(PHOTOMETRIC(kind), False):
        msg = f"{path}: {PHOTOMETRIC(kind).name} colours are not read; convert the image to grey or RGB first"
        raise ImageError(msg)


def _as_shown(array: Array, page: tifffile.TiffPage) -> Array:
    """Grey or RGB of what stands for them in the file."""
    kind, bits = page.photometric, page.bitspersample
    if kind == PHOTOMETRIC.PALETTE and page.colormap is not None:
        return _coloured(array, page.colormap)
    if kind == PHOTOMETRIC.SEPARATED:
        return np.array(Image.fromarray(array, mode="CMYK").convert("RGB"))
    if kind == PHOTOMETRIC.MINISWHITE:
        array = ~array if array.dtype == np.bool_ else array.dtype.type(2**bits - 1) - array
    if array.dtype == np.uint8 and isinstance(bits, int) and bits < 8:
        array = (array.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    return array


def _coloured(array: Array, colormap: npt.NDArray[np.uint16]) -> Array:
    """The colours of a palette, (3, N) of 16 bits; some programs write 8 (libtiff takes them for such by the same sign)."""
    is_wide = int(colormap.max()) > 255
    colours: Array = (colormap >> 8 if is_wide else colormap).astype(np.uint8)
    return np.moveaxis(colours[:, array], 0, -1)
