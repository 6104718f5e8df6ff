"""Reading the nuclei of a record, whatever kind of file holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from nucstyle.core.errors import ImageError
from nucstyle.core.labels import components
from nucstyle.data.formats import dsb2018
from nucstyle.data.image_io import read_labels
from nucstyle.data.manifest import Record


class LabelReader(Protocol):
    """Reads the nuclei of one image from a file of one kind."""

    def __call__(self, path: Path, record: Record, size: tuple[int, int]) -> Tensor:
        """Read them.

        Args:
            path: The file or folder, `record.labels`.
            record: The image, for files that describe several.
            size: (height, width) of the image in pixels, for files that hold outlines.

        Returns:
            (H, W) int32, 0 = background; numbers need not be contiguous.

        Raises:
            ImageError: The file is damaged, or says nothing of this image.
        """


_READERS: dict[str, LabelReader] = {}
"""By the suffix of the file; what is not here is a label image."""


def read_nuclei(record: Record, size: tuple[int, int]) -> Tensor | None:
    """The nuclei of an image.

    Args:
        record: The image.
        size: Its (height, width) in pixels.

    Returns:
        (H, W) int32 of the image's size, 0 = background, numbers as in the file; None = not annotated.

    Raises:
        ImageError: The labels cannot be read, or are of another size.
    """
    labels = nuclei_as_stored(record, size)
    if labels is not None and tuple(labels.shape) != size:
        msg = (
            f"{record.labels}: labels are {labels.shape[0]} x {labels.shape[1]} pixels (height x width), their image "
            f"{record.image} is {size[0]} x {size[1]}; give the labels of this image"
        )
        raise ImageError(msg)
    return labels


def nuclei_as_stored(record: Record, size: tuple[int, int]) -> Tensor | None:
    """As `read_nuclei`, but of whatever size the file has.

    Raises:
        ImageError: The labels cannot be read.
    """
    path = record.labels
    if path is None:
        return None
    if path.is_dir():
        return dsb2018.read_mask_folder(path)
    if reader := _READERS.get(path.suffix.lower()):
        return reader(path, record, size)
    return components(read_labels(path)) if record.components else read_labels(path)
