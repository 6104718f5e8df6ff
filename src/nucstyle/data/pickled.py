"""Arrays out of pickles, of which nothing is run.

A pickle is a program: it names functions and calls them. This reader knows the four names that NumPy's arrays need, each standing
for a plain description, and refuses every other before it is looked for.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nucstyle.core.errors import ImageError, Interrupted

_INTEGER = re.compile(r"[<>=|][iub][1248]")


def read_pickled(path: Path) -> object:
    """The one object in an `.npy` file that `numpy.save` wrote of something else than an array.

    Returns:
        Plain values, with a `PickledArray` for each array and None for each single number of NumPy's.

    Raises:
        ImageError: It is no such file, is damaged, or names something that could be code.
    """
    try:
        with path.open("rb") as file:
            return _unpickled(file)
    except ImageError as error:
        msg = f"{path}: {error}; save the masks as TIFF"
        raise ImageError(msg) from None
    except Interrupted:
        raise
    except Exception as error:  # damaged pickles raise nearly anything, MemoryError for lengths that no file has
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{path}: cannot be read ({reason}); the file is damaged, replace it"
        raise ImageError(msg) from None


def _unpickled(file: BinaryIO) -> object:
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        msg = f"version {version} of npy is not read"
        raise ImageError(msg)
    shape, _, kind = headers[version](file)
    if shape != () or kind != np.dtype(object):
        msg = f"holds an array {shape} of {kind}, not one object"
        raise ImageError(msg)
    holder = _Unpickler(file).load()
    return holder.raw[0] if isinstance(holder, PickledArray) and isinstance(holder.raw, list) else None


class _PickledType:
    """What a pickle says of a `numpy.dtype`."""

    def __init__(self, name: object) -> None:
        self.name = name
        self.order: object = "="

    def __setstate__(self, state: Sequence[object]) -> None:
        self.order = state[1]


class PickledArray:
    """What a pickle says of a `numpy.ndarray`. NumPy's own way to make one of it trusts the pickle with memory."""

    shape: object = None
    kind: object = None
    is_column_major: object = False
    raw: Any = None
    """The bytes of numbers, or a list of objects."""

    def __setstate__(self, state: Sequence[object]) -> None:
        _, self.shape, self.kind, self.is_column_major, self.raw = state

    def integers(self, where: str) -> npt.NDArray[Any] | None:
        """The array, of the type that it has; None = not of integers.

        Args:
            where: For messages.

        Raises:
            ImageError: Its bytes are not those of its shape.
        """
        name = f"{self.kind.order}{self.kind.name}" if isinstance(self.kind, _PickledType) else ""
        if not _INTEGER.fullmatch(name) or not isinstance(self.raw, bytes) or not isinstance(self.shape, tuple):
            return None
        try:
            return np.frombuffer(self.raw, np.dtype(name)).reshape(
                self.shape, order="F" if self.is_column_major else "C"
            )
        except (TypeError, ValueError) as error:
            msg = f"{where}: cannot be read ({error}); the file is damaged, replace it"
            raise ImageError(msg) from None


class _Nothing:
    """Stands for a global that may only be named. No attribute of it can be set, so that no file changes how the next is read."""

    __slots__ = ()


class _NewType(_Nothing):
    __slots__ = ()

    def __call__(self, name: object, *_: object) -> _PickledType:
        return _PickledType(name)


class _NewArray(_Nothing):
    __slots__ = ()

    def __call__(self, *_: object) -> PickledArray:
        return PickledArray()


class _NoNumber(_Nothing):
    __slots__ = ()

    def __call__(self, *_: object) -> None:
        """Single numbers stand beside the masks and are not needed."""


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ADMITTED: Mapping[tuple[str, str], _Nothing] = {
    ("numpy", "ndarray"): _Nothing(),
    ("numpy", "dtype"): _NewType(),
    **{(module, "_reconstruct"): _NewArray() for module in _MODULES},
    **{(module, "scalar"): _NoNumber() for module in _MODULES},
}


class _Unpickler(pickle.Unpickler):
    """Makes plain values and descriptions of arrays; whatever else a pickle names is refused before it is looked for."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  (as in the base class)
        """What a global stands for.

        Raises:
            ImageError: It is none of the admitted; it is named.
        """
        if (module, name) not in _ADMITTED:
            msg = f"holds {module}.{name}, which is no array and could be code"
            raise ImageError(msg)
        return _ADMITTED[module, name]
