"""One file a layout of data on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from nucstyle.data.image_io import Array


@dataclass(frozen=True, slots=True)
class Written:
    """Where an image and its labels were written."""

    image: Path
    labels: Path | None = None
    """A label image or a folder of masks; None = not annotated."""


class Writer(Protocol):
    """Writes images of a layout, one at a time."""

    def __call__(self, folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
        """Write one image.

        Args:
            folder: Of the data set.
            name: Of the files, without a suffix.
            pixels: (H, W) or (H, W, 3), of any type that images have in files; written as they are.
            labels: (H, W) int32, 1..N; None = not annotated.
            part: train, validation, test, or None = not divided.
        """
