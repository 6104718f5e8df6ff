"""Label images larger than the memory, from top to bottom: bands of rows are read from TIFF and written to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import DEFAULT, Array, ReadOptions, tiff
from nucstyle.data.image_io import is_tiff, label_type, read_labels, refusing
from nucstyle.data.label_rules import Labels, as_labels
from nucstyle.data.weights import replace_durably

ROWS = 512
"""Rows of a band."""
_TILE_PX = 256


def read_label_bands(path: Path, *, rows: int = ROWS, reading: ReadOptions = DEFAULT) -> Iterator[tuple[int, Labels]]:
    """Read a label image in bands. A TIFF with tiles, strips or uncompressed may be of any size, others as in `read_labels`.

    Args:
        path: As for `read_labels`.
        rows: Of each band; the last may have fewer.
        reading: The page; the largest size holds for what is in memory at a time.

    Yields:
        The first row of the band, and its numbers, (rows, W) int32. A nucleus may lie in several bands.

    Raises:
        ImageError: As `read_labels`; each band must be one by itself.
    """
    whole = tiff.bands(path, reading) if path.is_file() and is_tiff(path) else _whole(path, reading)
    top = 0
    with refusing(path):
        for band in in_bands(whole, rows):
            yield top, as_labels(band, path)
            top += len(band)


def _whole(path: Path, reading: ReadOptions) -> Iterator[Array]:
    yield read_labels(path, reading).numpy()


def write_label_bands(path: Path, bands: Iterable[Array], *, size: tuple[int, int], largest: int) -> None:
    """Write a label image that comes in bands as deflated TIFF in tiles: uint16, or uint32 past number 65,535.

    Args:
        path: Ends in `.tif`; it is there once all bands are.
        bands: (any rows, W) of any integer type, from top to bottom.
        size: (height, width) of the image in pixels.
        largest: No number is larger.

    Raises:
        ImageError: The bands are not of this size, or hold larger or negative numbers.
    """
    partial = path.with_name(path.name + ".part")
    checked = _Checked(path, bands, size[1], largest)
    try:
        tifffile.imwrite(
            partial,
            _tiles(checked, size[1], label_type(largest)),
            shape=size,
            dtype=label_type(largest),
            tile=(_TILE_PX, _TILE_PX),
            photometric="minisblack",
            compression="deflate",
            metadata={"axes": "YX"},
            maxworkers=1,  # more would encode ahead of what is written, and hold it
        )
        checked.expect(size[0])
        replace_durably(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class _Checked:
    """Bands that are counted and checked as they come: tifffile takes as many tiles as it needs, and no more."""

    def __init__(self, path: Path, bands: Iterable[Array], width: int, largest: int) -> None:
        self._path, self._bands, self._width, self._largest = path, iter(bands), width, largest
        self._rows = 0

    def __iter__(self) -> Iterator[Array]:
        for band in self._bands:
            if band.ndim != 2 or band.shape[1] != self._width:
                msg = f"{self._path}: a band of {band.shape} pixels in an image {self._width} wide; give whole rows"
                raise ImageError(msg)
            low, high = (band.min(), band.max()) if band.size else (0, 0)
            if low < 0 or high > self._largest:
                msg = f"{self._path}: labels run from {low} to {high}; they must be 0 to {self._largest}"
                raise ImageError(msg)
            self._rows += len(band)
            yield band

    def expect(self, height: int) -> None:
        """Refuse another number of rows."""
        for _ in self:  # what was not asked for
            pass
        if self._rows != height:
            msg = f"{self._path}: {self._rows} rows came of an image {height} high; give all rows of one image"
            raise ImageError(msg)


def _tiles(bands: Iterable[Array], width: int, kind: type[np.uint16 | np.uint32]) -> Iterator[Array]:
    """From left to right and top to bottom, those at the edges filled up with background."""
    for band in in_bands(bands, _TILE_PX):
        for left in range(0, width, _TILE_PX):
            tile: Array = np.zeros((_TILE_PX, _TILE_PX), kind)
            part = band[:, left : left + _TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile
    while True:  # tifffile would stumble over missing rows, which are counted afterwards
        yield np.zeros((_TILE_PX, _TILE_PX), kind)


def in_bands(pieces: Iterable[Array], rows: int) -> Iterator[Array]:
    """Divide an image that comes in pieces anew.

    Args:
        pieces: (any rows, W), from top to bottom.
        rows: Of each band.

    Yields:
        (rows, W); the last band may have fewer rows.
    """
    waiting: list[Array] = []
    held = 0
    for piece in pieces:
        for start in _cuts(len(piece), rows, held):
            part = piece[start : start + rows - held]
            waiting.append(part)
            held += len(part)
            if held == rows:
                yield np.concatenate(waiting)
                waiting, held = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _cuts(length: int, rows: int, held: int) -> Iterator[int]:
    """Where to begin in a piece of some length, if so many rows are held already."""
    if length:
        yield 0
    yield from range(rows - held, length, rows)
