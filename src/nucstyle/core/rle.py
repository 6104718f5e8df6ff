"""Run lengths: the pixels of a nucleus as a few numbers.

Pixels are counted down the first column, then down the second (column-major). Two ways to write them:

- DSB 2018 (the evaluation page of kaggle.com/c/data-science-bowl-2018): `start length start length ...`, the first pixel being 1.
- COCO (cocodataset.org/#format-data): the lengths of background and nucleus in turn, background first; plain, or packed into
  printable characters as the reference implementation does (github.com/cocodataset/cocoapi, common/maskApi.c).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import ImageError

# R = runs of a nucleus, P = pixels of a nucleus
Numbers = npt.NDArray[np.int64]

_DIGITS = re.compile(r"[0-9 ]*")
_BITS, _MORE, _FIRST = 5, 32, 48
"""Of packed counts: bits in a character, the bit that says that more follow, and the character of zero."""
_MOST_CHARACTERS = 9
"""Of one packed count; 45 bits are more pixels than any image has."""


class Runs(NamedTuple):
    """The pixels of one nucleus."""

    starts: Numbers
    """(R,) first pixels, counted column-major from 0, ascending."""
    lengths: Numbers
    """(R,) at least 1; a run ends before the next one starts, or where it does."""

    def pixels(self) -> Numbers:
        """(P,) the pixels, counted column-major from 0, ascending."""
        before = np.cumsum(self.lengths) - self.lengths
        return np.repeat(self.starts - before, self.lengths) + np.arange(self.lengths.sum())


def runs_of(labels: Tensor) -> dict[int, Runs]:
    """The runs of every nucleus of a label map, as long as they can be.

    Args:
        labels: (H, W) of any integer type, 0 = background.

    Returns:
        By number, ascending. No pixel is in two of them, since a label map cannot say that.
    """
    flat = labels.cpu().numpy().ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1)) if flat.size else np.zeros(0, np.int64)
    lengths = np.diff(starts, append=flat.size)
    numbers = flat[starts]
    order = np.argsort(numbers, kind="stable")
    present, firsts = np.unique(numbers[order], return_index=True)
    parts = np.split(order, firsts[1:])
    return {
        int(number): Runs(starts[part], lengths[part]) for number, part in zip(present, parts, strict=True) if number
    }


def label_map(nuclei: Mapping[int, Numbers], size: tuple[int, int]) -> Drawn:
    """Draw nuclei.

    Args:
        nuclei: By number, from 1 and ascending: the (P,) pixels of each, counted column-major from 0, none twice. Where two claim
            a pixel, the first keeps it.
        size: (height, width) in pixels.

    Returns:
        The label map, the pixels that several claim, and the numbers that got none.
    """
    height, width = size
    flat, is_shared = np.zeros(height * width, np.int32), np.zeros(height * width, bool)
    covered: list[int] = []
    for number, pixels in nuclei.items():
        is_taken = flat[pixels] > 0
        if is_taken.any():
            is_shared[pixels[is_taken]] = True
            flat[pixels[~is_taken]] = number
            if is_taken.all():
                covered.append(number)
        else:
            flat[pixels] = number
    labels = np.ascontiguousarray(flat.reshape(width, height).T)
    shared = np.ascontiguousarray(is_shared.reshape(width, height).T) if is_shared.any() else None
    return Drawn(
        torch.from_numpy(labels),
        None if shared is None else torch.from_numpy(shared),
        covered=tuple(covered),
        empty=tuple(number for number, pixels in nuclei.items() if not pixels.size),
    )


def encode_dsb(runs: Runs) -> str:
    """Write runs as DSB 2018 does: `start length start length ...`, counted from 1."""
    return " ".join(map(str, np.column_stack([runs.starts + 1, runs.lengths]).ravel().tolist()))


def decode_dsb(text: str, size: tuple[int, int], *, where: str) -> Runs:
    """Read runs as DSB 2018 writes them; the inverse of `encode_dsb`.

    Args:
        text: Digits and spaces; empty = no pixel.
        size: (height, width) of the image in pixels.
        where: For messages.

    Raises:
        ImageError: Other characters, an odd count, a start below 1 or a length of 0, starts that do not ascend, a pixel named
            twice, or one outside the image.
    """
    if not _DIGITS.fullmatch(text):
        _refuse(where, f"{_shortened(text)} is not made of digits and spaces")
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except (OverflowError, ValueError):
        _refuse(where, f"{_shortened(text)} holds a number that no image has pixels for")
    if numbers.size % 2:
        _refuse(where, f"{numbers.size} numbers, which are not pairs of start and length")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    height, width = size
    pixels = height * width
    beyond = (starts >= pixels) | (lengths > pixels - starts)
    faults = (
        (starts < 0, "starts before pixel 1, the first"),
        (lengths < 1, "has no length"),
        (beyond, f"ends after pixel {pixels}, the last of {height} x {width}"),
        (np.diff(starts, prepend=-1) < 0, "starts before the run in front of it; runs must ascend"),
        (starts < np.r_[0, (starts + lengths)[:-1]], "names pixels of the run in front of it again"),
    )
    for is_wrong, what in faults:
        if is_wrong.any():
            first = int(np.argmax(is_wrong))
            _refuse(where, f"run {first + 1}, `{starts[first] + 1} {lengths[first]}`, {what}")
    return Runs(starts, lengths)


def encode_counts(runs: Runs, pixels: int) -> list[int]:
    """Write runs as COCO does: how many pixels of background, of the nucleus, of background, and so on.

    Args:
        runs: Of a nucleus.
        pixels: Of the image.
    """
    ends = runs.starts + runs.lengths
    gaps = runs.starts - np.r_[0, ends][:-1]
    tail = pixels - (int(ends[-1]) if ends.size else 0)
    return [*np.column_stack([gaps, runs.lengths]).ravel().tolist(), *([tail] if tail or not ends.size else [])]


def decode_counts(counts: Sequence[object], size: tuple[int, int], *, where: str) -> Runs:
    """Read runs as COCO writes them; the inverse of `encode_counts`.

    Args:
        counts: Whole numbers, not negative.
        size: (height, width) of the image in pixels, which they must fill.
        where: For messages.

    Raises:
        ImageError: Something else than such numbers, or more or fewer pixels than the image has.
    """
    numbers: list[int] = []
    for count in counts:
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            _refuse(where, f"a count is {_shortened(str(count))}, not a whole number from 0")
        numbers.append(count)
    (height, width), total = size, sum(numbers)
    if total != height * width:
        share = "more than" if total > height * width else f"only {total} of"
        _refuse(where, f"the counts fill {share} the {height} x {width} = {height * width} pixels of the image")
    lengths = np.array(numbers, np.int64)
    starts = np.cumsum(lengths) - lengths
    is_run = lengths[1::2] > 0
    return Runs(starts[1::2][is_run], lengths[1::2][is_run])


def pack_counts(counts: Sequence[int]) -> str:
    """Write counts in few characters, as COCO's compressed run lengths.

    From the fourth on, a count is told by its difference from the last but one. A number goes 5 bits at a time, lowest first,
    into a character that also says whether more follow; the highest bit of the last is the sign.
    """
    numbers = np.array(counts, np.int64)
    numbers[3:] -= np.array(counts[1:-2], np.int64)
    size = np.ones(len(numbers), np.int64)
    for characters in range(1, _MOST_CHARACTERS):
        half = 1 << (_BITS * characters - 1)
        size += (numbers < -half) | (numbers >= half)
    firsts = np.cumsum(size) - size
    packed = np.zeros(int(size.sum()), np.uint8)
    for place in range(int(size.max(initial=0))):
        has = size > place
        bits = (numbers[has] >> (_BITS * place)) & (_MORE - 1)
        packed[firsts[has] + place] = bits + np.where(size[has] > place + 1, _MORE, 0) + _FIRST
    return packed.tobytes().decode("ascii")


def unpack_counts(text: str, *, where: str) -> list[int]:
    """Read counts from COCO's compressed run lengths; the inverse of `pack_counts`.

    Raises:
        ImageError: Characters that do not occur there, or a number that is cut off or too long.
    """
    if not text:
        return []
    values = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64) - _FIRST
    if (values < 0).any() or (values >= 2 * _MORE).any():
        _refuse(where, f"{_shortened(text)} is not compressed run lengths")
    is_last = values < _MORE
    ends = np.flatnonzero(is_last)
    sizes = np.diff(ends, prepend=-1)
    if not is_last[-1] or sizes.max() > _MOST_CHARACTERS:
        _refuse(where, f"{_shortened(text)} is cut off or damaged")
    firsts = ends - sizes + 1
    places = np.arange(values.size) - np.repeat(firsts, sizes)
    numbers = np.add.reduceat((values & (_MORE - 1)) << (_BITS * places), firsts)
    is_negative = values[ends] >= _MORE // 2
    numbers -= np.where(is_negative, 1 << (_BITS * sizes), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return [int(number) for number in numbers]


def _refuse(where: str, what: str) -> NoReturn:
    msg = f"{where}: run lengths: {what}; write them again from the masks"
    raise ImageError(msg)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
