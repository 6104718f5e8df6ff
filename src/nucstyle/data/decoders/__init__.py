"""One file a kind of image file: what is in a file becomes an array, unscaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from nucstyle.core.errors import ImageError

Array = npt.NDArray[Any]
MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded (twice Pillow's own warning limit)."""


def check_pixels(path: Path, pixels: int) -> None:
    """Refuse an image by what its header says, before anything is decoded.

    Raises:
        ImageError: It has too many pixels.
    """
    if pixels > MAX_PIXELS:
        msg = f"{path}: {pixels:,} pixels, at most {MAX_PIXELS:,} are read whole; crop or tile the image"
        raise ImageError(msg)
