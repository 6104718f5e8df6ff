"""The layout of StarDist's examples: `train/images/NAME.tif` with `train/masks/NAME.tif` (github.com/stardist/stardist)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nucstyle.data.formats import Written
from nucstyle.data.image_io import Array, write_labels, write_pixels

UNANNOTATED = "unannotated"
"""Folder of images without labels: StarDist's examples ask that every image has some."""


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its labels to `folder/PART`; arguments and result as `formats.Writer`."""
    place = folder / (UNANNOTATED if labels is None else part or "train")
    (place / "images").mkdir(parents=True, exist_ok=True)
    image = write_pixels(place / "images" / name, pixels, as_tiff=True)
    if labels is None:
        return Written(image)
    (place / "masks").mkdir(exist_ok=True)
    masks = place / "masks" / f"{name}.tif"
    write_labels(masks, labels)
    return Written(image, masks)
