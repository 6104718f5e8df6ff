"""Reading the nuclei of a record, whatever kind of file holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import ImageError
from nucstyle.core.labels import components
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.formats import cellpose, coco, dsb2018, geojson, imagej, rle
from nucstyle.data.image_io import read_labels
from nucstyle.data.label_rules import check_drawn
from nucstyle.data.manifest import Record


class LabelReader(Protocol):
    """Reads the nuclei of one image from a file of one kind."""

    def __call__(self, path: Path, record: Record, size: tuple[int, int]) -> Drawn:
        """Read them.

        Args:
            path: The file or folder, `record.labels`.
            record: The image, for files that describe several.
            size: (height, width) of the image in pixels, for files that hold outlines.

        Returns:
            A map of numbers, which need not be contiguous, and what was lost in drawing it.

        Raises:
            ImageError: The file is damaged, or says nothing of this image, or most of its nuclei get no pixel.
        """


_READERS: dict[str, LabelReader] = {
    ".csv": rle.read_nuclei,
    ".json": coco.read_nuclei,
    cellpose.SEGMENTED: cellpose.read_nuclei,
    geojson.SUFFIX: geojson.read,
    ".zip": imagej.read,
    ".roi": imagej.read,
}
"""By how the name of the file ends; what is not here is a label image."""


def read_nuclei(record: Record, size: tuple[int, int], reading: ReadOptions = DEFAULT) -> Tensor | None:
    """The nuclei of an image.

    Args:
        record: The image.
        size: Its (height, width) in pixels.
        reading: How files are read where they leave it open.

    Returns:
        (H, W) int32 of the image's size, 0 = background, numbers as in the file; None = not annotated.

    Raises:
        ImageError: The labels cannot be read, or are of another size.
    """
    stored = nuclei_as_stored(record, size, reading)
    if stored is None:
        return None
    check_same_size(record, (stored.labels.shape[0], stored.labels.shape[1]), size)
    return stored.labels


def check_same_size(record: Record, found: tuple[int, int], size: tuple[int, int]) -> None:
    """Compare the (height, width) of labels with those of their image.

    Raises:
        ImageError: They differ.
    """
    if found != size:
        msg = (
            f"{record.labels}: labels are {found[0]} x {found[1]} pixels (height x width), their image "
            f"{record.image} is {size[0]} x {size[1]}; give the labels of this image"
        )
        raise ImageError(msg)


def nuclei_as_stored(record: Record, size: tuple[int, int], reading: ReadOptions = DEFAULT) -> Drawn | None:
    """As `read_nuclei`, but of whatever size the file has, and with what was lost in drawing outlines or run lengths.

    Raises:
        ImageError: The labels cannot be read.
    """
    path = record.labels
    if path is None:
        return None
    reader = next((one for ending, one in _READERS.items() if path.name.lower().endswith(ending)), None)
    if path.is_dir():
        stored = Drawn(dsb2018.read_mask_folder(path, reading))
    elif reader:
        stored = reader(path, record, size)
    else:
        stored = Drawn(read_labels(path, reading, may_be_mask=record.components))
    if record.components:
        return replace(stored, labels=components(stored.labels))
    if path.is_dir() or reader:  # a label image was judged by more
        check_drawn(stored.labels.numpy(), path)
    return stored
