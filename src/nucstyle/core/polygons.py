"""Filling outlines: which pixels a polygon covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def pixels_inside(corners: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The pixels whose centres lie inside a polygon.

    Coordinates are in pixels from the upper left corner of the image, so pixel (row, column) covers the square from (column, row)
    to (column + 1, row + 1), and its centre is at + 0.5. A centre on an outline belongs to what lies right of it or below, so
    that of two polygons that share an edge exactly one has it. Where the outline crosses itself, the even-odd rule counts.

    Args:
        corners: (N, 2) finite x and y; the last is joined to the first. What lies outside the image is cut off.
        size: (height, width) in pixels.

    Returns:
        (P,) the pixels, counted column-major from 0: column * height + row.
    """
    height, width = size
    starts, ends = corners.astype(np.float64), np.roll(corners.astype(np.float64), -1, axis=0)
    # From the upper to the lower end, whichever way it is walked, so that neighbours compute the same crossings.
    is_upward = (starts[:, 1] > ends[:, 1])[:, None]
    upper, lower = np.where(is_upward, ends, starts), np.where(is_upward, starts, ends)
    first, last = (np.clip(np.ceil(side[:, 1] - 0.5), 0, height).astype(np.int64) for side in (upper, lower))
    edge = np.repeat(np.arange(len(corners)), last - first)
    if not edge.size:
        return np.zeros(0, np.int64)
    row = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    share = (row + 0.5 - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    crossing = upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    top, left = int(row.min()), int(column.min())
    crossed = np.zeros((int(row.max()) + 1 - top, int(column.max()) + 1 - left), np.int64)
    np.add.at(crossed, (row - top, column - left), 1)
    rows, columns = np.nonzero(np.cumsum(crossed, axis=1) % 2)
    return np.asarray((columns + left) * height + rows + top, np.int64)
