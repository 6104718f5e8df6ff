"""What numbers in a file are the labels of nuclei, and what only looks like it: the latter is refused, not guessed at.

Masks in a folder have one nucleus each: rules of their own tell a label image and an inverted mask among them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from nucstyle.core.errors import ImageError
from nucstyle.core.labels import components, relabel
from nucstyle.data.decoders import Array

_PART = 1 << 22
Labels = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
_MASK_TOPS = (255, 65535)
"""The number of foreground in masks of 8 and 16 bits; any other is one that the only nucleus of an image may have as well."""
_SEVERAL_PIECES = 3
"""Of the 28,986 masks of a nucleus of DSB 2018, two are in two pieces and none in more."""
_FEW_NUMBERS = 10
"""So few numbers are never taken for the greys of a smoothed edge."""
_RIM, _FLAT_PX, _MUCH = 1 / 8, 5, 0.05
"""Of masks that were smoothed or once were JPEG, squares of that side have a number within so much of the darkest or brightest.
Of label images in which nuclei touch, more than that share of what is drawn are corners of others."""
_SPECK_PX = 5
"""Pieces of fewer pixels are specks. Of the labels of the sample images, none of the nuclei is in such pieces, of masks that
were smoothed or once were JPEG, at least 93 of 100 numbers are."""


class MaskError(ImageError):
    """A mask of foreground was given where nuclei have numbers."""


class SmoothedError(ImageError):
    """The edges of a label image were smoothed, so that numbers stand there that are no nuclei."""


class Pieces(NamedTuple):
    """The connected pieces of each number; pixels that touch at a corner are connected."""

    counts: Counts
    """(N,) how many."""
    largest: Counts
    """(N,) pixels of the largest."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the numbers of a label image are told by, each in the order of the numbers."""

    numbers: Counts
    """(N,) those that occur but 0, ascending."""
    areas: Counts
    """(N,) pixels of each."""
    touching: Callable[[], Counts]
    """(N,) those of its pixels that have another number but 0 at their side; counted where needed, as `pieces`."""
    pieces: Callable[[], Pieces]


def as_labels(array: Array, path: Path, *, may_be_mask: bool = False) -> Labels:
    """Take numbers from a file for labels.

    Args:
        array: (H, W) or (H, W, 3), as in the file.
        path: For messages.
        may_be_mask: Whether a mask is fine, since its connected pieces will get numbers.

    Returns:
        (H, W) int32, 0 = background.

    Raises:
        ImageError: As `as_numbers` and `check_numbers`.
    """
    labels = as_numbers(array, path, may_be_mask=may_be_mask)
    check_numbers(_told_by(labels), path, may_be_mask=may_be_mask)
    return labels


def as_numbers(array: Array, path: Path, *, may_be_mask: bool = False) -> Labels:
    """Take numbers from a file, or a part of it, for labels, as far as single pixels tell; arguments and result as `as_labels`.

    Raises:
        ImageError: Colours, bits, or numbers that are not whole, negative or too large.
    """
    single = _one_channel(array, path)
    if single.dtype == np.bool_ and not may_be_mask:
        _refuse_mask(path, "says of each pixel only whether it is of a nucleus")
    return _whole_numbers(single, path)


def check_numbers(told: Numbers, path: Path, *, may_be_mask: bool = False) -> None:
    """Refuse what the whole of a label image tells to be none.

    Args:
        told: Of all its pixels.
        path: For messages.
        may_be_mask: As for `as_labels`.

    Raises:
        ImageError: A mask, or a mask with smoothed edges.
    """
    if not may_be_mask:
        _check_mask(told, path, _MASK_TOPS)
    _check_edges(told, path)


def check_drawn(labels: Labels, path: Path) -> None:
    """Refuse the only nucleus of an image if it is foreground, where a file draws each nucleus by itself.

    Args:
        labels: (H, W) whose numbers are the order in the file.
        path: For messages.

    Raises:
        MaskError: It is in pieces as `are_nuclei` says.
    """
    top = labels.max(initial=0)
    if top > 0 and ((labels == 0) | (labels == top)).all():
        _check_mask(_told_by(labels), path, ())


def are_nuclei(count: int, largest_px: int, all_px: int) -> bool:
    """Whether the pieces of one number, or of one mask, are nuclei of their own: several, and none with half of the pixels.

    So a nucleus with two splinters stays one.
    """
    return count >= _SEVERAL_PIECES and 2 * largest_px < all_px


def _one_channel(array: Array, path: Path) -> Array:
    """The one channel, of colour images that of all that are not empty, if they agree."""
    if array.ndim == 2:
        return array
    used: list[Array] = [channel for channel in np.moveaxis(array, -1, 0) if channel.any()] or [array[..., 0]]
    if not all(np.array_equal(channel, used[0]) for channel in used[1:]):
        msg = f"{path}: colours are no numbers of nuclei; save the labels with one channel, or with a palette"
        raise ImageError(msg)
    return used[0]


def _whole_numbers(array: Array, path: Path) -> Labels:
    if array.dtype.kind not in "buif":
        msg = f"{path}: a label image has whole numbers, got {array.dtype}; save it as integers"
        raise ImageError(msg)
    if array.dtype.kind == "f":
        odd = ~np.isfinite(array) | (array != np.floor(array))
        if odd.any():
            msg = (
                f"{path}: {np.count_nonzero(odd)} labels are no whole numbers, {array[odd][0]:g} for one; save integers"
            )
            raise ImageError(msg)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if low < 0 or high > np.iinfo(np.int32).max:
        msg = f"{path}: labels run from {low:g} to {high:.0f}; they must be 0 to 2147483647"
        raise ImageError(msg)
    return array.astype(np.int32)


def _check_mask(told: Numbers, path: Path, tops: Collection[int]) -> None:
    """Refuse one number in pieces: if it is one of `tops`, in any, else in those that are nuclei."""
    if len(told.numbers) != 1:
        return
    number, (counts, largest) = int(told.numbers[0]), told.pieces()
    count = int(counts[0])
    if are_nuclei(count, int(largest[0]), int(told.areas[0])) or (count > 1 and number in tops):
        _refuse_mask(path, f"has no numbers but 0 and {number}, in {count} pieces")


def _refuse_mask(path: Path, what: str) -> None:
    msg = (
        f"{path}: {what}, but every nucleus needs a number of its own; use --connected-components if each connected piece "
        "is a nucleus, or number them"
    )
    raise MaskError(msg)


def _check_edges(told: Numbers, path: Path) -> None:
    """Smoothed edges give new numbers: specks of them lie between nucleus and background, and touch other numbers.

    Of what a network finds before it has learnt much, most nuclei may be specks that touch as well. But they are numbered without
    gaps, each is in one place, and that no smoothed mask is.
    """
    count = len(told.numbers)
    if count <= _FEW_NUMBERS or not _most(2 * told.touching() > told.areas):
        return
    pieces = told.pieces().counts
    if count == told.numbers[-1] and not _most(pieces > 1):
        return
    if _most(told.areas < _SPECK_PX * pieces):
        msg = (
            f"{path}: looks anti-aliased: most of its {count} numbers are specks of a few pixels between others; "
            "save the labels without smoothing and never as JPEG"
        )
        raise SmoothedError(msg)


def _told_by(labels: Labels) -> Numbers:
    """What tells of a whole label image."""
    top = int(labels.max(initial=0))
    known: Counts | None = None
    if top > labels.size:
        known = np.unique(labels[labels > 0]).astype(np.int64)
        labels = relabel(torch.from_numpy(labels)).numpy()
    size = int(labels.max(initial=0)) + 1
    counts = _histogram(labels.reshape(-1), size)
    present = np.flatnonzero(counts[1:]) + 1

    def pieces() -> Pieces:
        found = components(torch.from_numpy(labels)).numpy()
        areas = _histogram(found.reshape(-1), int(found.max()) + 1)
        number_of: npt.NDArray[np.int32] = np.zeros(len(areas), np.int32)
        number_of[found] = labels
        largest: Counts = np.zeros(size, np.int64)
        np.maximum.at(largest, number_of[1:], areas[1:])
        return Pieces(_histogram(number_of[1:], size)[present], largest[present])

    def touching() -> Counts:
        return _histogram(labels[touches(labels)], size)[present]

    return Numbers(present if known is None else known, counts[present], touching, pieces)


def check_one_nucleus(grey: Array, path: Path) -> None:
    """Refuse a label image among masks of a nucleus each, where half of its nuclei would vanish and the others become one.

    Smoothed edges and JPEG give a mask more than two numbers as well. But these rise and fall, and only the inside of the nucleus
    is flat. The nuclei of a label image are flat, each at a level of its own, and most lie apart.

    Args:
        grey: (H, W) of any real type, not all the same.
        path: For messages.

    Raises:
        ImageError: It is a label image.
    """
    low, top = grey.min(), grey.max()
    is_drawn = grey > low
    if (grey[is_drawn] == top).all():
        return
    rows, columns = (is_drawn.any(axis=axis).nonzero()[0] for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if _has_flat_levels(grey[box], low, top) or _is_of_flat_pieces(grey[box], is_drawn[box]):
        msg = (
            f"{path}: a label image where a folder has one mask a nucleus; put it beside images/ as masks/NAME, or write a mask "
            "for each of its numbers"
        )
        raise ImageError(msg)


def _has_flat_levels(grey: Array, low: np.generic, top: np.generic) -> bool:
    """Whether much lies amid squares of one number that is neither dark nor bright."""
    height, width = (side - _FLAT_PX + 1 for side in grey.shape)
    if min(height, width) < 1:
        return False
    inside = grey[:height, :width]
    is_flat = np.ones(inside.shape, bool)
    for row in range(_FLAT_PX):
        for column in range(_FLAT_PX):
            is_flat &= grey[row : row + height, column : column + width] == inside
    level = (inside[is_flat].astype(np.float64) - float(low)) / (float(top) - float(low))
    bright = (
        1 - _RIM if float(top) <= np.iinfo(np.uint8).max else 1
    )  # where JPEG ends, the inside is the brightest number
    n_between = np.count_nonzero((level > _RIM) & (level < bright))
    return bool(_MUCH * np.count_nonzero(grey > low) < n_between)


def _is_of_flat_pieces(grey: Array, is_drawn: npt.NDArray[np.bool_]) -> bool:
    """Whether most lies in connected pieces that have one number throughout, and not all the same."""
    piece, count = ndimage.label(is_drawn, np.ones((3, 3), bool))
    number_of: Array = np.zeros(count + 1, grey.dtype)
    number_of[piece] = grey
    areas = np.bincount(piece[is_drawn], minlength=count + 1)
    odd = np.bincount(piece[is_drawn & (grey != number_of[piece])], minlength=count + 1)
    is_flat = (odd == 0) & (areas >= _SPECK_PX)
    return len(np.unique(number_of[is_flat])) > 1 and 2 * int(areas[is_flat].sum()) > int(areas.sum())


def check_upright(mask: npt.NDArray[np.bool_], path: Path) -> None:
    """Refuse an inverted mask: foreground all along the border of the field, and a hole in it, which is the nucleus.

    A nucleus that fills a crop has background in a corner or none, as a rule; one with a hole of a few pixels is let pass.

    Args:
        mask: (H, W).
        path: For messages.

    Raises:
        ImageError: It is inverted.
    """
    hole_px = mask.size - np.count_nonzero(mask)
    if hole_px >= _SPECK_PX and all(side.all() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
        msg = (
            f"{path}: all is nucleus but {hole_px} pixels amid the field: the mask is inverted; make the nucleus bright"
        )
        raise ImageError(msg)


def _most(values: npt.NDArray[np.bool_]) -> bool:
    return 2 * int(np.count_nonzero(values)) > len(values)


def _histogram(labels: Labels, size: int) -> Counts:
    """How often each number below `size` occurs in a row of numbers; a part at a time, since NumPy makes them wider first."""
    counts: Counts = np.zeros(size, np.int64)
    for start in range(0, len(labels), _PART):
        counts += np.bincount(labels[start : start + _PART], minlength=size)
    return counts


def touches(labels: Labels) -> npt.NDArray[np.bool_]:
    """Where a pixel of a nucleus has one of another at its side."""
    is_touching: npt.NDArray[np.bool_] = np.zeros(labels.shape, bool)
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differ = (labels[one] != labels[other]) & (labels[one] > 0) & (labels[other] > 0)
        is_touching[one] |= differ
        is_touching[other] |= differ
    return is_touching
