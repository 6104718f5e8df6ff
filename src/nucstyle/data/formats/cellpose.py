"""The layout of Cellpose (github.com/MouseLand/cellpose): `NAME.tif` beside `NAME_masks.tif`, a folder for each part."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nucstyle.core.errors import DatasetError
from nucstyle.data.formats import Written
from nucstyle.data.image_io import Array, write_labels, write_pixels
from nucstyle.data.manifest import Record

SUFFIX = "_masks"
UNANNOTATED = "unannotated"
"""Folder of images without labels, which Cellpose refuses among the others."""


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its labels to `folder/PART`; arguments and result as `formats.Writer`."""
    place = folder / (UNANNOTATED if labels is None else part or "train")
    place.mkdir(parents=True, exist_ok=True)
    image = write_pixels(place / name, pixels, as_tiff=True)
    if labels is None:
        return Written(image)
    masks = place / f"{name}{SUFFIX}.tif"
    write_labels(masks, labels)
    return Written(image, masks)


def check_name(record: Record) -> None:
    """Refuse an id that Cellpose would take for labels.

    Raises:
        DatasetError: With the image named.
    """
    if record.id.endswith(SUFFIX):
        msg = f"{record.image}: Cellpose takes names that end in {SUFFIX} for labels; rename the image"
        raise DatasetError(msg)
