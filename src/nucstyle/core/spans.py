"""Spans: the pixels of nuclei as runs along the rows of an image, which take little memory however large the image is.

A span is as long as it can be: what lies left and right of it in its row is of another number. All functions want the spans of
each nucleus in reading order (from top to bottom, then from left to right), as `spans_of` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# H, W = height, width of the label map; S = spans; N = nuclei

Whole = npt.NDArray[np.int64]
Corners = Literal["apart", "joined"]
"""Whether pixels of one number that touch at a corner alone are pieces of their own (4-connectivity) or one (8-connectivity)."""


class Spans(NamedTuple):
    """Runs of pixels of one number each."""

    number: Whole
    """(S,) from 1."""
    row: Whole
    """(S,) from 0."""
    first: Whole
    """(S,) the first column."""
    end: Whole
    """(S,) the last column + 1."""

    def take(self, which: npt.NDArray[Any]) -> Spans:
        """Some of them: (S,) bool, or indices."""
        return Spans(*(values[which] for values in self))

    def by_number(self) -> Spans:
        """Those of each nucleus together, the nuclei in the order of their numbers."""
        return self.take(np.argsort(self.number, kind="stable"))


class Measures(NamedTuple):
    """What nuclei measure, each in one line, by ascending number; pixels are counted from the corner of the image."""

    number: Whole
    """(N,) from 1."""
    area_px: Whole
    """(N,) the number of pixels."""
    x0: Whole
    """(N,) the first column, as `y0` the first row."""
    y0: Whole
    x1: Whole
    """(N,) the last column + 1, as `y1` the last row + 1."""
    y1: Whole
    moment_x: Whole
    """(N,) twice the sum of the places of all pixels, whose centres lie at 0.5, 1.5 and so on; as `moment_y`."""
    moment_y: Whole

    @property
    def centroid_x(self) -> npt.NDArray[np.float64]:
        """(N,) the mean place of the pixels, from the left border of the image."""
        return self.moment_x / (2 * self.area_px)

    @property
    def centroid_y(self) -> npt.NDArray[np.float64]:
        """(N,) the mean place of the pixels, from the upper border of the image."""
        return self.moment_y / (2 * self.area_px)


def spans_of(labels: npt.NDArray[Any], top: int = 0) -> Spans:
    """The spans of a label map, or of a band of its rows.

    Args:
        labels: (H, W) of any integer type, 0 = background.
        top: The row of the image that is the first of the band.
    """
    is_first = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=is_first[:, 1:])
    at = np.flatnonzero(is_first)
    ends = np.append(at[1:], labels.size)
    number = labels[is_first].astype(np.int64)
    is_nucleus = number > 0
    at, ends, number = at[is_nucleus], ends[is_nucleus], number[is_nucleus]
    row, first = np.divmod(at, max(1, labels.shape[1]))
    return Spans(number, row + top, first, first + ends - at)


def joined(parts: Sequence[Spans]) -> Spans:
    """Several spans as one, in the order of the parts."""
    return Spans(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def painted(spans: Spans, size: tuple[int, int], top: int = 0) -> npt.NDArray[np.int32]:
    """The label map, or a band of its rows; the inverse of `spans_of`.

    Args:
        spans: Those of the rows from `top`, in reading order; numbers fit int32.
        size: (height, width) of the band.
        top: Its first row.
    """
    height, width = size
    starts = (spans.row - top) * width + spans.first
    bounds = np.zeros(2 * len(starts) + 2, np.int64)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = starts, starts + spans.end - spans.first, height * width
    values = np.zeros(len(bounds) - 1, np.int32)
    values[1::2] = spans.number
    return np.repeat(values, np.diff(bounds)).reshape(size)


def measure(spans: Spans) -> Measures:
    """What the nuclei measure."""
    length = spans.end - spans.first
    moments = (spans.end**2 - spans.first**2, (2 * spans.row + 1) * length)
    return merged([Measures(spans.number, length, spans.first, spans.row, spans.end, spans.row + 1, *moments)])


def merged(tables: Sequence[Measures]) -> Measures:
    """Several tables as one, in which a number that several have stands once; lines of a table may repeat numbers as well."""
    number = np.concatenate([table.number for table in tables])
    order = np.argsort(number, kind="stable")
    firsts = np.flatnonzero(np.diff(number[order], prepend=-1))

    def reduced(name: str, how: np.ufunc) -> Whole:
        values = np.concatenate([getattr(table, name) for table in tables])[order]
        return np.asarray(how.reduceat(values, firsts)) if len(firsts) else values

    ways = {"area_px": np.add, "x0": np.minimum, "y0": np.minimum, "x1": np.maximum, "y1": np.maximum}
    ways |= {"moment_x": np.add, "moment_y": np.add}
    return Measures(number[order][firsts], **{name: reduced(name, how) for name, how in ways.items()})


def places(spans: Spans, column: Whole, rows: int = 0) -> Whole:
    """(S,) one number for a column in the row of each span, or in one some rows below, so that all are in order.

    Args:
        spans: Grouped by number.
        column: (S,) one for each span, up to the width of the image.
        rows: -1, 0 or 1.
    """
    rank = np.cumsum(np.diff(spans.number, prepend=-1) != 0)
    height = int(spans.row.max(initial=0)) + 3  # a row above and one below are within
    width = int(spans.end.max(initial=0)) + 2
    return np.asarray((rank * height + spans.row + rows) * width + column)


def pieces(spans: Spans, corners: Corners) -> Whole:
    """(S,) the connected piece of a nucleus that each span belongs to, from 0 by number and then by the first pixel.

    Args:
        spans: Grouped by number.
        corners: What is connected.
    """
    # In the row below, spans of the number that end after this one begins, up to the last that begins before this one ends.
    is_joined = corners == "joined"
    low = np.searchsorted(
        places(spans, spans.end), places(spans, spans.first, 1), side="left" if is_joined else "right"
    )
    high = np.searchsorted(
        places(spans, spans.first), places(spans, spans.end, 1), side="right" if is_joined else "left"
    )
    counts = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(counts)), counts)
    lower = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(len(upper))
    links = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(len(counts), len(counts)))
    _, found, piece = np.unique(connected_components(links, directed=False)[1], return_index=True, return_inverse=True)
    rank = np.empty(len(found), np.int64)
    rank[np.argsort(found)] = np.arange(len(found))
    return rank[piece]
