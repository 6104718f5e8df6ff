"""Outlines of nuclei along pixel edges, and the way back from outlines to pixels.

Places are x to the right and y down, in pixels: (0, 0) is the outer corner of the first pixel, (0.5, 0.5) its centre. An outline
runs along the edges of pixels, not through their centres, so what it encloses are whole pixels and its area is their number.

The outline of a label map is found from the edges between pixels of different numbers ("cracks"): runs of them are straight
segments, each of which is followed by exactly one other. They are found from spans (`core.spans`), so that a label map need not
be in memory. Where two pixels of one nucleus touch at a corner alone, two segments of it arrive and two leave. `corners="apart"`
turns back to the own pixel there: such pixels are pieces of their own, as in 4-connectivity. `corners="joined"` goes on to the
other pixel, as in 8-connectivity; it is what ImageJ traces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import ImageError
from nucstyle.core.spans import Corners, Spans, pieces, places, spans_of

# H, W = height, width of the label map; V = corners of a ring; S = straight segments of all rings

Ring = npt.NDArray[Any]
"""(V, 2) x, y of the corners of a closed line, the first not repeated."""
FARTHEST_PX = 1e7
"""Places farther out are no places in an image, and their products would lose the pixel."""
_MOST_CROSSINGS, _MOST_PAINTED = 1 << 24, 1 << 22
"""So many crossings of rows by outlines, and pixels to be painted, are held at once."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What encloses a nucleus, or a piece of it."""

    number: int
    """Of the nucleus, from 1; its pieces have the same."""
    rings: tuple[Ring, ...]
    """A point is inside if it is inside an odd number of these: the exterior comes first, then holes."""

    @property
    def holes(self) -> tuple[Ring, ...]:
        """All rings but the exterior."""
        return self.rings[1:]

    @property
    def area_px(self) -> float:
        """Area of the exterior less the holes, in pixels."""
        exterior, *holes = (abs(_signed_area(ring)) for ring in self.rings)
        return exterior - sum(holes)


def _signed_area(ring: Ring) -> float:
    """The shoelace formula: positive where the corners run clockwise as seen on the screen."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def trace(labels: Tensor, *, corners: Corners = "apart") -> list[Outline]:
    """Outline all nuclei along pixel edges; the inverse of `rasterise`.

    Args:
        labels: (H, W) of any integer type, 0 = background.
        corners: Whether pixels that touch at a corner alone are pieces of their own. `apart`: no ring passes a point twice, and
            only at single points does a hole touch the exterior or another hole, as the simple-features standard asks of
            polygons. `joined`: a ring may touch itself at corners.

    Returns:
        One outline a piece, ordered by number, then by the first pixel. Exteriors run clockwise as seen on the screen, holes
        against it; rings hold int64 corners, none of them on a straight line.
    """
    return trace_spans(spans_of(labels.cpu().numpy()), corners=corners)


def trace_spans(spans: Spans, *, corners: Corners = "apart") -> list[Outline]:
    """As `trace`, of some nuclei of a label map of any size.

    Args:
        spans: All of each of these nuclei.
        corners: As for `trace`.
    """
    spans = spans.by_number()
    piece = pieces(spans, corners)
    number = np.zeros(int(piece.max(initial=-1)) + 1, np.int64)
    number[piece] = spans.number
    rings: list[list[Ring]] = [[] for _ in number]
    for place, ring in _rings(spans, piece, corners):
        rings[place].append(ring)
    return [Outline(one, tuple(own)) for one, own in zip(number.tolist(), rings, strict=True)]


class _Segments(NamedTuple):
    """Straight lines, each with its piece to the right as one walks along it."""

    piece: npt.NDArray[Any]
    """(S,)"""
    start: npt.NDArray[Any]
    """(S, 2) x, y"""
    end: npt.NDArray[Any]
    """(S, 2) x, y"""
    way: npt.NDArray[Any]
    """(S,) 0 = to the right or down, 1 = to the left or up."""


def _rings(spans: Spans, piece: npt.NDArray[Any], corners: Corners) -> Iterator[tuple[int, Ring]]:
    """All closed lines around connected pieces, with the piece that they belong to; its exterior comes first."""
    across = _joined(_edges_across(spans, piece, way=0), _edges_across(spans, piece, way=1))
    down = _joined(_edges_down(spans, piece, way=0), _edges_down(spans, piece, way=1))
    # A right turn leads from right to down, from left to up, from down to left, from up to right.
    flip = corners == "joined"
    following = np.concatenate(
        [
            _follow(across, down, across.way ^ flip) + len(across.piece),
            _follow(down, across, (1 - down.way) ^ flip),
        ]
    )
    segments = _joined(across, down)
    for cycle in _cycles(following.tolist()):
        # The first segment of a piece is the topmost, so its ring is the exterior.
        ring = segments.start[cycle]
        for part in _simple(ring) if corners == "apart" else [ring]:
            yield int(segments.piece[cycle[0]]), part


def _joined(*parts: _Segments) -> _Segments:
    return _Segments(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def _edges_across(spans: Spans, piece: npt.NDArray[Any], *, way: int) -> _Segments:
    """The lines above pieces, walked to the right (way 0), or those below them, to the left (1).

    They are where spans have none of their number in the next row: what one of two sets of intervals has and the other has not.
    """
    own = places(spans, spans.first), places(spans, spans.end)
    step = 1 if way == 0 else -1
    other = places(spans, spans.first, step), places(spans, spans.end, step)  # as seen from the row above or below
    place = np.concatenate([*own, *other])
    order = np.argsort(place, kind="stable")
    cover = np.cumsum(np.repeat(np.array([1, -1, 2, -2]), len(piece))[order])
    place = place[order]
    at = np.flatnonzero((cover[:-1] == 1) & (place[1:] > place[:-1]))
    owner = np.searchsorted(own[0], place[at], side="right") - 1
    ends = [
        np.stack([spans.first[owner] + place[bound] - own[0][owner], spans.row[owner] + way], axis=1)
        for bound in (at, at + 1)
    ]
    start, end = ends if way == 0 else ends[::-1]
    return _Segments(piece[owner], start, end, np.full(len(at), way))


def _edges_down(spans: Spans, piece: npt.NDArray[Any], *, way: int) -> _Segments:
    """The lines at the right of pieces, walked down (way 0), or those at their left, up (1)."""
    column = spans.end if way == 0 else spans.first
    order = np.lexsort((spans.row, column, piece))
    piece, column, row = piece[order], column[order], spans.row[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(piece) != 0) | (np.diff(column) != 0) | (np.diff(row) != 1)
    firsts = np.flatnonzero(is_first)
    lengths = np.diff(np.append(firsts, len(order)))
    piece, column, row = piece[firsts], column[firsts], row[firsts]
    ends = [np.stack([column, row], axis=1), np.stack([column, row + lengths], axis=1)]
    start, end = ends if way == 0 else ends[::-1]
    return _Segments(piece, start, end, np.full(len(firsts), way))


def _follow(segments: _Segments, candidates: _Segments, wanted: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(S,) which of the candidates, which are perpendicular, begins where a segment of the same piece ends.

    Args:
        segments: S lines.
        candidates: S other lines.
        wanted: (S,) the way of the one to take where two begin there.
    """
    width = int(max(segments.end[:, 0].max(initial=0), candidates.start[:, 0].max(initial=0))) + 1
    pieces = int(segments.piece.max(initial=0)) + 1

    def key(places: npt.NDArray[Any], piece: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(((places[:, 1] * width + places[:, 0]) * pieces + piece) * 2)

    begins = key(candidates.start, candidates.piece) + candidates.way
    order = np.argsort(begins, kind="stable")
    keys = key(segments.end, segments.piece) + wanted
    at = np.searchsorted(begins[order], keys)
    is_there = begins[order[np.minimum(at, len(order) - 1)]] == keys
    # Where the wanted way is not there the other one is: in its place, or before it.
    return np.asarray(order[np.where(is_there, at, at - wanted)])


def _cycles(following: list[int]) -> Iterator[list[int]]:
    """The cycles of a permutation, each from its smallest number."""
    is_seen = bytearray(len(following))
    for first in range(len(following)):
        if is_seen[first]:
            continue
        cycle, current = [], first
        while not is_seen[current]:
            is_seen[current] = 1
            cycle.append(current)
            current = following[current]
        yield cycle


def _simple(ring: Ring) -> list[Ring]:
    """Cut a ring where it passes a corner twice; the part that holds its first corner comes first.

    That of an exterior is its topmost, where nothing can touch, so the parts cut off are holes that touch it at a corner.
    """
    if len(ring) < 8:  # with fewer corners there is no way back to one of them
        return [ring]
    corners = list(map(tuple, ring.tolist()))
    if len(set(corners)) == len(corners):
        return [ring]
    parts: list[Ring] = []
    path: list[tuple[int, ...]] = []
    places: dict[tuple[int, ...], int] = {}
    for corner in corners:
        if corner in places:
            loop = path[places[corner] :]
            parts.append(np.array(loop))
            for passed in loop[1:]:
                del places[passed]
            del path[places[corner] + 1 :]
        else:
            places[corner] = len(path)
            path.append(corner)
    return [np.array(path), *parts]


def rasterise(outlines: Sequence[Outline], size: tuple[int, int], *, where: str = "outlines") -> Drawn:
    """Fill outlines: a pixel belongs to a nucleus if its centre is inside; the inverse of `trace`.

    A centre on an outline belongs to what lies right of it or below, so that of two outlines that share an edge exactly one has
    it. Where an outline crosses itself, the even-odd rule counts.

    Args:
        outlines: Nuclei and pieces of nuclei, with any real places. What lies outside the image is cut off. Where two numbers
            claim a pixel, the first in order keeps it; one that covers no centre of a pixel, or is wholly covered, gets none.
        size: (height, width) of the image in pixels.
        where: For messages.

    Returns:
        The label map, the pixels that several numbers claim, and the numbers that got none.

    Raises:
        ImageError: An outline has fewer than three corners, places that are no numbers, or lies wholly outside the image.
    """
    canvas = _Canvas(
        numbers=np.array([outline.number for outline in outlines], np.int32),
        labels=np.zeros(size[0] * size[1], np.int32),
        is_shared=np.zeros(size[0] * size[1], bool),
        has_claimed=np.zeros(len(outlines), bool),
        has_kept=np.zeros(len(outlines), bool),
    )
    if outlines:
        for owner, first, end in _spans(_lines(outlines, size, where), size, where):
            _paint(canvas, owner, first, end)
    numbers = set(canvas.numbers.tolist())
    claimed, kept = (set(canvas.numbers[has].tolist()) for has in (canvas.has_claimed, canvas.has_kept))
    return Drawn(
        torch.from_numpy(canvas.labels.reshape(size)),
        torch.from_numpy(canvas.is_shared.reshape(size)) if canvas.is_shared.any() else None,
        covered=tuple(sorted(claimed - kept)),
        empty=tuple(sorted(numbers - claimed)),
    )


class _Canvas(NamedTuple):
    """What is painted on, and what is noted of it. O = outlines, P = pixels of the image."""

    numbers: npt.NDArray[np.int32]
    """(O,) of the nuclei."""
    labels: npt.NDArray[np.int32]
    """(P,) 0 = background."""
    is_shared: npt.NDArray[np.bool_]
    """(P,) whether several numbers claim it."""
    has_claimed: npt.NDArray[np.bool_]
    """(O,) whether the outline encloses the centre of a pixel."""
    has_kept: npt.NDArray[np.bool_]
    """(O,) whether one of those has its number."""


class _Lines(NamedTuple):
    """The lines between the corners of all outlines, in order. L = lines."""

    owner: npt.NDArray[Any]
    """(L,) place of the outline in the list."""
    start: npt.NDArray[Any]
    """(L, 2) x, y"""
    end: npt.NDArray[Any]
    """(L, 2) x, y"""


def _lines(outlines: Sequence[Outline], size: tuple[int, int], where: str) -> _Lines:
    """Take outlines apart, and refuse those that cannot be filled.

    Raises:
        ImageError: See `rasterise`.
    """
    lengths = np.array([len(ring) for outline in outlines for ring in outline.rings])
    owner = np.repeat(np.arange(len(outlines)), [len(outline.rings) for outline in outlines])
    if (short := owner[lengths < 3]).size:
        msg = (
            f"{where}: outline {outlines[short[0]].number} has fewer than three corners and encloses nothing; remove it"
        )
        raise ImageError(msg)
    start = np.concatenate([ring for outline in outlines for ring in outline.rings]).astype(np.float64)
    following = np.arange(1, len(start) + 1)
    ends = np.cumsum(lengths)
    following[ends - 1] = ends - lengths
    owner = np.repeat(owner, lengths)
    if (bad := owner[~(np.abs(start) <= FARTHEST_PX).all(axis=1)]).size:  # not so of NaN either
        msg = (
            f"{where}: outline {outlines[bad[0]].number} has places that are no pixels, such as NaN or 1e30; remove it"
        )
        raise ImageError(msg)
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    low, high = np.minimum.reduceat(start, firsts), np.maximum.reduceat(start, firsts)
    if (outside := np.flatnonzero(((high <= 0) | (low >= size[::-1])).any(axis=1))).size:
        (x0, y0), (x1, y1) = low[outside[0]], high[outside[0]]
        msg = (
            f"{where}: outline {outlines[outside[0]].number} (x {x0:g} to {x1:g}, y {y0:g} to {y1:g}) lies outside its image "
            f"of {size[1]} x {size[0]} pixels (width x height); give the outlines of this image, in pixels"
        )
        raise ImageError(msg)
    return _Lines(owner, start, start[following])


def _spans(lines: _Lines, size: tuple[int, int], where: str) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """The pixels inside, in rows: (place of the outline, first, end) as places in the flattened image, by outline.

    Raises:
        ImageError: An outline crosses rows so often that memory would not suffice.
    """
    height, width = size
    # The rows whose centres a line crosses, in half-open intervals, so that a corner on a centre is crossed once.
    levels = np.stack([lines.start[:, 1], lines.end[:, 1]], axis=1)
    rows = np.ceil(np.sort(levels, axis=1) - 0.5).clip(0, height).astype(np.int64)
    counts = rows[:, 1] - rows[:, 0]
    totals = np.bincount(lines.owner, counts).astype(np.int64)
    if totals.max() > _MOST_CROSSINGS:
        msg = f"{where}: an outline crosses rows of pixels {totals.max():,} times; that is no nucleus, replace the file"
        raise ImageError(msg)
    for batch in _batches(totals, _MOST_CROSSINGS):
        among = slice(*np.searchsorted(lines.owner, (batch.start, batch.stop)))
        within = _ranges(counts[among])
        line = np.repeat(np.arange(among.start, among.stop), counts[among])
        row = rows[line, 0] + within
        # From the upper to the lower end, whichever way it is walked, so that neighbours compute the same crossings.
        is_upward = (lines.start[line, 1] > lines.end[line, 1])[:, None]
        (ax, ay), (bx, by) = (
            np.where(is_upward, *ends).T
            for ends in ((lines.end[line], lines.start[line]), (lines.start[line], lines.end[line]))
        )
        x = ax + (row + 0.5 - ay) * (bx - ax) / (by - ay)
        column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)  # a centre on the line is at its right
        # Sorted, every second crossing of a row enters the outline and the next one leaves it.
        crossings = np.sort(((lines.owner[line] - batch.start) * height + row) * (width + 1) + column)
        rest, columns = np.divmod(crossings, width + 1)
        owner, row = np.divmod(rest[::2], height)
        yield owner + batch.start, row * width + columns[::2], row * width + columns[1::2]


def _paint(canvas: _Canvas, owner: npt.NDArray[Any], first: npt.NDArray[Any], end: npt.NDArray[Any]) -> None:
    """Give spans of pixels the numbers of their outlines, the first that claims a pixel."""
    lengths = end - first
    canvas.has_claimed[owner[lengths > 0]] = True
    for batch in _batches(lengths, _MOST_PAINTED):
        at = np.repeat(first[batch], lengths[batch]) + _ranges(lengths[batch])
        owners = np.repeat(owner[batch], lengths[batch])
        painted = canvas.numbers[owners]
        is_free = canvas.labels[at] == 0
        # Of several values for one place NumPy keeps the last.
        canvas.labels[at[is_free][::-1]] = painted[is_free][::-1]
        is_own = canvas.labels[at] == painted
        canvas.has_kept[owners[is_own]] = True
        canvas.is_shared[at[~is_own]] = True


def _ranges(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[2, 0, 3] -> [0, 1, 0, 1, 2]."""
    return np.asarray(np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))


def _batches(counts: npt.NDArray[Any], most: int) -> Iterator[slice]:
    """Slices whose counts add up to at most so many, or are of one element."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, end)
        start = end
