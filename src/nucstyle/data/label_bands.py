"""Label images larger than the memory, from top to bottom: bands of rows are read from TIFF and written to it.

`BandedNuclei` gives every nucleus of such an image once and whole, although bands cut through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NoReturn, Self

import numpy as np
import tifffile
from torch import Tensor

from nucstyle.core.contours import Outline, trace_spans
from nucstyle.core.errors import ImageError
from nucstyle.core.spans import Corners, Measures, Spans, joined, measure, merged, painted, pieces, spans_of
from nucstyle.data.decoders import DEFAULT, Array, ReadOptions, Wanted, tiff
from nucstyle.data.image_io import LABELS_SOFTWARE, is_tiff, label_type, read_labels, refusing, says_labels, tiff_size
from nucstyle.data.label_rules import Counts, Labels, Numbers, Pieces, as_numbers, check_numbers, touches
from nucstyle.data.weights import replace_durably

ROWS = 512
"""Rows of a band."""
_MOST_PX = 1 << 23
"""Bands of images so wide that they would have more pixels have fewer rows."""
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
        ImageError: As `read_labels`, but for masks and smoothed edges, which only the whole image tells: see `BandedNuclei`.
    """
    whole = tiff.bands(path, reading) if path.is_file() and is_tiff(path) else _whole(path, reading)
    top = 0
    with refusing(path):
        for band in in_bands(whole, rows):
            yield top, as_numbers(band, path)
            top += len(band)


def _whole(path: Path, reading: ReadOptions) -> Iterator[Array]:
    yield read_labels(path, reading).numpy()


class BandedNuclei:
    """The nuclei of a label map of any size, numbered 1..N in the order of the numbers that they had.

    The map is gone through once to measure them, and once again for each use. Memory holds a band, a line for each nucleus, and
    the spans of nuclei that a later band goes on with: a number may occur in places far apart.

    Args:
        bands: Begins anew from the top: (first row, (any rows, W) int32), from top to bottom.
        where: For messages.

    Attributes:
        measures: A line for each nucleus, with the number that it had.
        size: (height, width) in pixels.
    """

    def __init__(self, bands: Callable[[], Iterable[tuple[int, Labels]]], *, where: str = "labels") -> None:
        self._bands, self._where = bands, where
        tables = [measure(spans_of(np.zeros((0, 0), np.int32)))]
        height = width = 0
        for top, band in bands():
            tables.append(measure(spans_of(band, top)))
            height, width = top + len(band), band.shape[1]
        self.measures: Measures = merged(tables)
        self.size = height, width

    @classmethod
    def of_map(cls, labels: Tensor) -> Self:
        """Those of a label map in memory, (H, W) of any integer type."""
        return cls(lambda: [(0, labels.cpu().numpy())])

    @classmethod
    def of_file(cls, path: Path, reading: ReadOptions = DEFAULT) -> Self:
        """Those of a label image.

        Args:
            path: As for `read_label_bands`.
            reading: As for `read_label_bands`.

        Raises:
            ImageError: As `read_labels`.
        """
        width = tiff_size(path, Wanted.NUMBERS, reading)[0][1] if path.is_file() and is_tiff(path) else 1
        rows = max(1, min(ROWS, _MOST_PX // width))
        nuclei = cls(lambda: read_label_bands(path, rows=rows, reading=reading), where=str(path))
        if not says_labels(path):
            check_numbers(nuclei._told(), path)
        return nuclei

    def __len__(self) -> int:
        """How many there are."""
        return len(self.measures.number)

    def finished(self) -> Iterator[Spans]:
        """All spans of some nuclei, of each nucleus once, as soon as no later band holds pixels of it.

        Raises:
            ImageError: The file has changed since it was measured.
        """
        waiting = spans_of(np.zeros((0, 0), np.int32))
        for top, (height, _), spans in self._numbered():
            held = joined([waiting, spans])
            is_whole = self.measures.y1[held.number - 1] <= top + height
            yield held.take(is_whole)
            waiting = held.take(~is_whole)

    def outlines(self, corners: Corners = "apart") -> Iterator[tuple[int, list[Outline]]]:
        """The number of each nucleus and the outlines of its pieces as `contours.trace` gives them; nuclei in any order."""
        for spans in self.finished():
            for number, own in groupby(trace_spans(spans, corners=corners), key=lambda outline: outline.number):
                yield number, list(own)

    def bands(self) -> Iterator[Labels]:
        """The label map, numbered 1..N, from top to bottom: (any rows, W)."""
        for top, size, spans in self._numbered():
            yield painted(spans, size, top)

    def _numbered(self) -> Iterator[tuple[int, tuple[int, int], Spans]]:
        """The first row, (height, width) and spans of each band."""
        known, area_px = self.measures.number, 0
        for top, band in self._bands():
            spans = spans_of(band, top)
            at = np.searchsorted(known, spans.number)
            if len(at) and (int(at.max()) >= len(known) or not np.array_equal(known[at], spans.number)):
                self._refuse_change()
            area_px += int((spans.end - spans.first).sum())
            yield top, (band.shape[0], band.shape[1]), spans._replace(number=at + 1)
        if area_px != self.measures.area_px.sum():
            self._refuse_change()

    def _refuse_change(self) -> NoReturn:
        msg = f"{self._where}: has changed while it was read; leave it alone and begin again"
        raise ImageError(msg)

    def _told(self) -> Numbers:
        return Numbers(self.measures.number, self.measures.area_px, self._touching, self._pieces)

    def _pieces(self) -> Pieces:
        counts: Counts = np.zeros(len(self), np.int64)
        largest: Counts = np.zeros(len(self), np.int64)
        for spans in self.finished():
            grouped = spans.by_number()
            piece = pieces(grouped, "joined")
            areas: Counts = np.zeros(int(piece.max(initial=-1)) + 1, np.int64)
            np.add.at(areas, piece, grouped.end - grouped.first)
            places = grouped.number[np.unique(piece, return_index=True)[1]] - 1
            counts += np.bincount(places, minlength=len(self))
            np.maximum.at(largest, places, areas)
        return Pieces(counts, largest)

    def _touching(self) -> Counts:
        """Pixels at whose side another number is; the last row of a band waits for the first of the next."""
        counts: Counts = np.zeros(len(self), np.int64)
        above: Labels = np.zeros((0, self.size[1]), np.int32)
        for top, band in self._bands():
            rows = np.concatenate([above, band])
            is_touching = touches(rows)
            is_touching[: max(0, len(above) - 1)] = False  # counted with the band before
            if top + len(band) < self.size[0]:
                is_touching[-1] = False
            counts += np.bincount(np.searchsorted(self.measures.number, rows[is_touching]), minlength=len(self))
            above = rows[-2:]
        return counts


def write_label_bands(path: Path, bands: Iterable[Array], *, size: tuple[int, int], largest: int) -> None:
    """Write a label image of nuclei that comes in bands as deflated TIFF in tiles: uint16, or uint32 past number 65,535.

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
            software=LABELS_SOFTWARE,
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
