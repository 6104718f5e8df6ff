"""What numbers in a file are the labels of nuclei, and what only looks like it: the latter is refused, not guessed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nucstyle.core.errors import ImageError
from nucstyle.core.labels import components, relabel
from nucstyle.data.decoders import Array

_PART = 1 << 22
Labels = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
_MASK_TOPS = (255, 65535)
"""The number of foreground in masks of 8 and 16 bits; 1 is a number that the only nucleus of an image has as well."""
_FEW_NUMBERS = 10
"""So few numbers are never taken for the greys of a smoothed edge."""
_SPECK_PX = 5
"""Pieces of fewer pixels are specks. Of the labels of the sample images, none of the nuclei is in such pieces, of masks that
were smoothed or once were JPEG, at least 93 of 100 numbers are."""


class MaskError(ImageError):
    """A mask of foreground was given where nuclei have numbers."""


class SmoothedError(ImageError):
    """The edges of a label image were smoothed, so that numbers stand there that are no nuclei."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the numbers of a label image are told by, each in the order of the numbers."""

    numbers: Counts
    """(N,) those that occur but 0, ascending."""
    areas: Counts
    """(N,) pixels of each."""
    touching: Callable[[], Counts]
    """(N,) those of its pixels that have another number but 0 at their side; counted where needed, as `pieces`."""
    pieces: Callable[[], Counts]
    """(N,) connected pieces of each; pixels that touch at a corner are connected."""


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
        _check_mask(told, path)
    _check_edges(told, path)


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


def _check_mask(told: Numbers, path: Path) -> None:
    if len(told.numbers) == 1 and (top := int(told.numbers[0])) in _MASK_TOPS:
        pieces = int(told.pieces()[0])
        if pieces > 1:
            _refuse_mask(path, f"has no numbers but 0 and {top}, in {pieces} pieces")


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
    pieces = told.pieces()
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

    def pieces() -> Counts:
        found = components(torch.from_numpy(labels)).numpy()
        number_of: npt.NDArray[np.int32] = np.zeros(int(found.max()) + 1, np.int32)
        number_of[found] = labels
        return _histogram(number_of[1:], size)[present]

    def touching() -> Counts:
        return _histogram(labels[touches(labels)], size)[present]

    return Numbers(present if known is None else known, counts[present], touching, pieces)


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
