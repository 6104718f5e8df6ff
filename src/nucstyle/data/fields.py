"""Tiles of one field of view, found in the pixels: the border of one continues that of another, or both show the same.

Tiles of one field must stay in one part of a division, else what a model has seen is asked of it again. File names rarely say
which belong together. Compared are only images of one size and type.

Two tiles are neighbours when each fits the other better than any other image does, clearly so, and the step across the seam is no
larger than steps within the tiles. As in puzzle solvers (Pomeranz et al. 2011, "best buddies"), being each other's best is what
makes this safe: the best of many strangers may look fair, but hardly both ways. Tiles that are joined must also have room in
the plane: no two at one place. What is on a border decides, so tiles that meet in empty background stay apart, and so do
tiles that overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, uniform_filter

from nucstyle.data.image_io import Array

# N = images, L = length of a border in pixels, C = channels, T = side of a thumbnail

Floats = npt.NDArray[np.float32]

_SMOOTHING_PX = 1.0
"""Borders are smoothed along their length: noise does not continue across a seam."""
_COMPRESSION = 2.0
"""Beyond so many median deviations brightness counts by its logarithm: else one bright nucleus outweighs a whole border."""
_NOISE = 0.25
"""Added to that: so much of the root mean squared step to the line beside."""
_THUMBNAIL, _SURROUNDINGS = 32, 9
_CLEARLY = 0.75
"""How far a neighbour is from a perfect fit, at most, as a share of what the next best image leaves."""
_STRANGERS = 0.8
"""What the next best image is taken to reach at least: among few images, chance is underestimated."""
_MOST_STEP = 3.0
"""Mean squared step across a seam, at most, as a multiple of the step within the tiles."""
_SHORTEST_PX = 16
"""On shorter borders too little is to be seen."""
_TWINS = 0.8
"""Correlation of thumbnails from which on two images show the same; strangers of DSB 2018 reach 0.5."""
_BLOCK = 2048
"""So many images are compared with all others at a time."""


@dataclass(frozen=True, slots=True)
class Border:
    """One side of an image."""

    line: Floats
    """(L * C,) smoothed brightness, from left to right or from top to bottom."""
    shape: Floats
    """The same, compressed, with mean 0 and length 1; zeros where nothing is to be seen."""
    step: float
    """Mean squared difference to the line beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What of an image is compared with others."""

    kind: tuple[object, ...]
    """Size and type; only images of one kind are compared."""
    left: Border
    right: Border
    top: Border
    bottom: Border
    thumbnail: Floats
    """(T * T,) without what is as large as the image, such as uneven light; mean 0, length 1, or zeros."""


@dataclass(frozen=True, slots=True)
class Seam:
    """Two neighbours in a field, by their places in the list."""

    first: int
    second: int
    is_below: bool
    """Whether the second lies below the first; else at its right."""
    misfit: float
    """0 = they fit perfectly, 1 = no better than the next best image."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Which images show one field."""

    numbers: tuple[int, ...]
    """Of each image, the place of the first image of its field."""
    seams: tuple[Seam, ...]
    twins: tuple[tuple[int, int], ...]
    """Images that show the same, each with an earlier one."""


def outline(pixels: Array) -> Outline:
    """Take from an image what tells its neighbours.

    Args:
        pixels: (H, W) or (H, W, C) as in the file, of any real type. The intensity rule must not have been applied: it
            stretches every tile by itself.
    """
    rows = pixels.reshape(*pixels.shape[:2], -1)
    columns = rows.transpose(1, 0, 2)
    return Outline(
        kind=(pixels.shape, pixels.dtype.str),
        left=_border(columns[:2]),
        right=_border(columns[:-3:-1]),
        top=_border(rows[:2]),
        bottom=_border(rows[:-3:-1]),
        thumbnail=_thumbnail(rows),
    )


def _border(lines: Array) -> Border:
    """(2, L, C), the outermost line first."""
    smooth = gaussian_filter1d(lines.astype(np.float32), _SMOOTHING_PX, axis=1)
    line, step = smooth[0].ravel(), float(np.mean((smooth[0] - smooth[-1]) ** 2))
    middle = np.median(line)
    # Of a border that is mostly empty the deviation is next to nothing; noise stands for it then.
    deviation = _COMPRESSION * float(np.median(np.abs(line - middle))) + _NOISE * step**0.5
    compressed = np.arcsinh((line - middle) / deviation) if deviation > 0 else line - middle
    return Border(line, _unit(compressed), step)


def _thumbnail(image: Array) -> Floats:
    """(H, W, C) -> (T * T,)."""
    size = image.shape[:2]
    ys, xs = (np.arange(many) * side // many for side in size for many in (min(_THUMBNAIL, side),))
    sums = np.add.reduceat(np.add.reduceat(image, ys, axis=0, dtype=np.float64), xs, axis=1).sum(axis=2)
    means = sums / np.outer(np.diff([*ys, size[0]]), np.diff([*xs, size[1]]))
    return _unit((means - uniform_filter(means, _SURROUNDINGS)).ravel())


def _unit(values: npt.NDArray[np.floating]) -> Floats:
    centred = values.astype(np.float64) - values.mean()
    length = float(np.sqrt((centred**2).sum()))
    # Of a constant border rounding leaves a shape.
    empty = length <= 1e-6 * max(1.0, float(np.abs(values).max(initial=0)))
    return np.zeros(len(values), np.float32) if empty else (centred / length).astype(np.float32)


def find_fields(outlines: Sequence[Outline]) -> Fields:
    """Group images by field of view.

    Args:
        outlines: Of all images.
    """
    kinds: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, one in enumerate(outlines):
        kinds[one.kind].append(index)
    twins = [pair for members in kinds.values() for pair in _find_twins(outlines, members)]
    copies = {second for _, second in twins}
    seams: list[Seam] = []
    for members in kinds.values():
        # Copies would compete for the same neighbours, and neither would be the best by far.
        seams += _find_seams(outlines, [index for index in members if index not in copies])
    kept = _join(len(outlines), sorted(seams, key=lambda seam: seam.misfit))
    numbers = _numbers(len(outlines), [*twins, *((seam.first, seam.second) for seam in kept)])
    return Fields(tuple(numbers), tuple(kept), tuple(twins))


def _find_twins(outlines: Sequence[Outline], members: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each image that shows the same as an earlier one, with the first such."""
    thumbnails = np.stack([outlines[index].thumbnail for index in members])
    for start in range(0, len(members), _BLOCK):
        alike = np.tril(thumbnails[start : start + _BLOCK] @ thumbnails.T >= _TWINS, k=start - 1)
        for row in np.flatnonzero(alike.any(axis=1)):
            yield members[int(alike[row].argmax())], members[start + int(row)]


@dataclass(frozen=True, slots=True)
class _Best:
    """Of each row or column of a matrix of fits: where the best is, how good, and the next best."""

    place: npt.NDArray[np.int64]
    fit: Floats
    second: Floats


def _find_seams(outlines: Sequence[Outline], members: Sequence[int]) -> Iterator[Seam]:
    for before, after, is_below in (("right", "left", False), ("bottom", "top", True)):
        firsts: list[Border] = [getattr(outlines[index], before) for index in members]
        seconds: list[Border] = [getattr(outlines[index], after) for index in members]
        if len(members) < 2 or len(firsts[0].line) < _SHORTEST_PX:
            continue
        best_after, best_before = _best_fits(firsts, seconds)
        for row, column in enumerate(best_after.place):
            # Where the column has a better row, this one is second at best, and the misfit is 1 or more.
            second = max(best_after.second[row], best_before.second[column], _STRANGERS)
            misfit = float((1 - best_after.fit[row]) / max(1 - second, 1e-6))
            if misfit < _CLEARLY and _step(firsts[row], seconds[column]) < _MOST_STEP:
                yield Seam(members[row], members[int(column)], is_below, misfit)


def _best_fits(firsts: Sequence[Border], seconds: Sequence[Border]) -> tuple[_Best, _Best]:
    """The best second border of each first one, and the best first of each second; no image fits itself."""
    rows, columns = (np.stack([border.shape for border in borders]) for borders in (firsts, seconds))
    along, across = [], []
    for start in range(0, len(rows), _BLOCK):
        fits = rows[start : start + _BLOCK] @ columns.T
        places = np.arange(len(fits))
        fits[places, start + places] = -1
        along.append(_best_of(fits))
        across.append(_best_of(fits.T, offset=start))
    return _merged(along), _best_across(across)


def _best_of(fits: Floats, offset: int = 0) -> _Best:
    place = fits.argmax(axis=1)
    fit = np.take_along_axis(fits, place[:, None], axis=1)[:, 0]
    second = np.partition(fits, -2, axis=1)[:, -2] if fits.shape[1] > 1 else np.full_like(fit, -1)
    return _Best(place + offset, fit, second)


def _merged(blocks: Sequence[_Best]) -> _Best:
    return _Best(*(np.concatenate([getattr(one, name) for one in blocks]) for name in ("place", "fit", "second")))


def _best_across(blocks: Sequence[_Best]) -> _Best:
    """The best of all blocks of rows, for each column."""
    best = blocks[0]
    for other in blocks[1:]:
        wins = other.fit > best.fit
        second = np.where(wins, np.maximum(best.fit, other.second), np.maximum(other.fit, best.second))
        best = _Best(np.where(wins, other.place, best.place), np.maximum(best.fit, other.fit), second)
    return best


def _step(first: Border, second: Border) -> float:
    """The mean squared step across a seam, as a multiple of that within the tiles."""
    within = (first.step + second.step) / 2
    across = float(np.mean((first.line - second.line) ** 2))
    return across / within if within > 0 else float(across > 0) * np.inf


def _join(many: int, seams: Sequence[Seam]) -> list[Seam]:
    """The seams, best first, that give every tile a place of its own in its field."""
    fields = {
        index: {index: (0, 0)} for index in range(many)
    }  # of each image, all tiles of its field with row and column
    kept = []
    for seam in seams:
        own, other = fields[seam.first], fields[seam.second]
        row, column = own[seam.first]
        wanted = (row + seam.is_below, column + (not seam.is_below))
        if own is other:
            kept += [seam] if own[seam.second] == wanted else []
            continue
        shift = tuple(there - here for there, here in zip(wanted, other[seam.second], strict=True))
        moved = {index: (place[0] + shift[0], place[1] + shift[1]) for index, place in other.items()}
        if set(moved.values()) & set(own.values()):
            continue
        own.update(moved)
        fields.update(dict.fromkeys(moved, own))
        kept.append(seam)
    return kept


def _numbers(many: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Of each of so many images, the first image that pairs connect it with."""
    numbers: Mapping[int, set[int]] = {index: {index} for index in range(many)}
    groups = dict(numbers)
    for first, second in pairs:
        if groups[first] is not groups[second]:
            together = groups[first] | groups[second]
            groups.update(dict.fromkeys(together, together))
    return [min(groups[index]) for index in range(many)]
