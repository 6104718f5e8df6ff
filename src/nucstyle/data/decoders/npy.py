"""Arrays that NumPy saved. Nothing in such a file is executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import Array, ReadOptions, Wanted, check_size, page_index, without_alpha

HEAD = b"\x93NUMPY"
"""The first bytes."""
_MOST_CHANNELS = 4


def decode(path: Path, wanted: Wanted, reading: ReadOptions) -> Array:
    """The pixels of a file, as `decoders` says: (H, W), (H, W, 1), (H, W, 3), RGBA, or a stack of those.

    Which axis is which, such a file does not say: three axes are a stack, unless the last is as short as channels are.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "object" in str(error).lower():
            msg = f"{path}: holds Python objects, which are not read, since they may run code; save a plain array"
            raise ImageError(msg) from None
        raise
    inner = 3 if array.ndim > 2 and array.shape[-1] <= _MOST_CHANNELS else 2
    if array.ndim < inner or 0 in array.shape:
        msg = f"{path}: an image is (height, width) or (height, width, 3), got {array.shape}; convert it first"
        raise ImageError(msg)
    *leading, height, width = array.shape[: array.ndim - (inner - 2)]
    check_size(path, width, height, reading)
    planes = array.reshape(-1, *array.shape[len(leading) :])
    index = page_index(path, len(planes), str(array.shape), wanted, reading)
    return without_alpha(np.array(planes[index]), path, is_declared=False)
