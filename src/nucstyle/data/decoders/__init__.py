"""One file a kind of image file: what is in a file becomes an array, unscaled. What they share stands here.

A decoder takes (path, wanted, reading) and returns (H, W) or (H, W, 3), right way up, of the file's own type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nucstyle.core.errors import ImageError, OptionError

Array = npt.NDArray[Any]
MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded, unless more are allowed (twice Pillow's own warning limit)."""


class SizeError(ImageError):
    """A file has too many pixels to be read whole."""


class Wanted(Enum):
    """What a file is read for."""

    COLOURS = "colours"
    """An image: grey or colours as they are shown, whatever stands for them in the file."""
    NUMBERS = "numbers"
    """A label image: the numbers in the file, whatever colours stand for them on the screen."""
    MASK = "mask"
    """Where one nucleus is: bright on dark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What a person says about files that do not say it themselves, and how large they may be.

    Raises:
        OptionError: A value that is not possible.
    """

    max_pixels: int = MAX_PIXELS
    """Images of more pixels are refused by their header."""
    value_range: tuple[float, float] | None = None
    """The values in the files that become 0 and 1; None = the intensity rule of `image_io`."""
    page: int | None = None
    """Which image of a file that holds several, from 1; None = such files are refused."""
    connected_components: bool = False
    """Whether every connected piece of one number in a label image is a nucleus, as in masks of 0 and 255."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            msg = f"--max-pixels {self.max_pixels}: give 1 or more"
            raise OptionError(msg)
        if self.page is not None and self.page < 1:
            msg = f"--page {self.page}: pages are counted from 1"
            raise OptionError(msg)
        if self.value_range is not None and not -math.inf < self.value_range[0] < self.value_range[1] < math.inf:
            low, high = self.value_range
            msg = f"--range {low:g},{high:g}: the first value must be below the second"
            raise OptionError(msg)

    def to_table(self) -> dict[str, Any]:
        """What results depend on, for `config.toml`: empty where all is as it is by itself."""
        said = {
            "range": list(self.value_range) if self.value_range else None,
            "page": self.page,
            "connected_components": self.connected_components or None,
        }
        table = {name: value for name, value in said.items() if value is not None}
        return {"reading": table} if table else {}


DEFAULT = ReadOptions()
"""Files speak for themselves."""


def parse_range(text: str) -> tuple[float, float]:
    """Turn LOW,HIGH into two numbers.

    Raises:
        OptionError: It is not two numbers.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        msg = f"--range {text}: give two numbers with a comma between them, for example 0,4095"
        raise OptionError(msg) from None
    return low, high


def check_size(path: Path, width: int, height: int, reading: ReadOptions) -> None:
    """Refuse an image by what its header says, before anything is decoded.

    Raises:
        SizeError: It has too many pixels.
    """
    if width * height > reading.max_pixels:
        msg = (
            f"{path}: {width * height:,} pixels ({height} x {width}), at most {reading.max_pixels:,} are read whole; "
            "crop or tile the image, or raise --max-pixels"
        )
        raise SizeError(msg)


def page_index(path: Path, count: int, understood: str, wanted: Wanted, reading: ReadOptions) -> int:
    """The place, from 0, of the image that is meant in a file of several. Labels beside a stack may be a single image.

    Args:
        path: For messages.
        count: How many images the file holds.
        understood: What was understood of them, for messages.
        wanted: What the file is read for.
        reading: Which one.

    Raises:
        ImageError: None was chosen, or one that is not there.
    """
    page = reading.page
    if count == 1 and (page is None or wanted is not Wanted.COLOURS):
        return 0
    if page is None:
        msg = f"{path}: holds several images {understood}; give --page 1 to {count}, or save the wanted page as its own file"
        raise ImageError(msg)
    if page > count:
        msg = f"{path}: has no page {page}, it holds {understood}; give --page 1{f' to {count}' if count > 1 else ''}"
        raise ImageError(msg)
    return page - 1


def refuse_transparent(path: Path) -> None:
    """Refuse an image whose colours depend on what lies behind.

    Raises:
        ImageError: Always.
    """
    msg = f"{path}: has transparent pixels; flatten it on a background first"
    raise ImageError(msg)


def without_alpha(array: Array, path: Path, *, is_declared: bool = True) -> Array:
    """Leave out an opaque alpha channel and the axis of a single channel.

    Args:
        array: (H, W) or (H, W, C).
        path: For messages.
        is_declared: Whether the file says that the last of 2 or 4 channels is alpha.

    Returns:
        (H, W) or (H, W, 3).

    Raises:
        ImageError: There are transparent pixels, or the channels are neither grey nor red, green and blue.
    """
    if array.ndim == 3 and array.shape[2] in (2, 4):
        alpha = array[..., -1]
        opaque = np.iinfo(alpha.dtype).max if np.issubdtype(alpha.dtype, np.integer) else 1
        if (alpha == opaque).all():
            array = array[..., :-1]
        elif is_declared:
            refuse_transparent(path)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] != 3:
        refuse_channels(path, array.shape[2])
    if array.ndim not in (2, 3) or 0 in array.shape:
        msg = f"{path}: an image is (height, width) or (height, width, 3), got {array.shape}; convert it first"
        raise ImageError(msg)
    return array


def refuse_channels(path: Path, channels: int) -> None:
    """Refuse an image whose channels nobody can name.

    Raises:
        ImageError: Always.
    """
    msg = (
        f"{path}: has {channels} channels, not 1 or 3; save one of them, or red, green and blue, as an image of its own"
    )
    raise ImageError(msg)


def upright(array: Array, orientation: int) -> Array:
    """Turn an image as its file says that it is to be shown.

    Args:
        array: (H, W) or (H, W, C).
        orientation: 1 to 8, the tag 274 of TIFF 6.0 and EXIF; any other number is taken for 1.
    """
    if orientation in (5, 6, 7, 8):  # rows and columns change places
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
