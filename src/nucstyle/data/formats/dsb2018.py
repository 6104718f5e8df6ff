"""The layout of DSB 2018 (BBBC038): `<id>/images/<id>.png` and `<id>/masks/*.png`, one binary mask a nucleus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data.formats import Written
from nucstyle.data.image_io import IMAGE_SUFFIXES, Array, covered_pixels, write_pixels
from nucstyle.data.manifest import Record


def evidence(path: Path) -> str | None:
    """Some sub-folder holds an `images` folder, and the folder itself none: that is the layout of pairs."""
    if not path.is_dir() or (path / "images").is_dir():
        return None
    held = next((entry for entry in sorted(path.iterdir()) if (entry / "images").is_dir()), None)
    return f"{held.name}/images is a folder of its own" if held else None


def index(folder: Path) -> list[Record]:
    """List the images, sorted by id.

    Raises:
        DatasetError: A sub-folder holds no image or several.
    """
    records = []
    for entry in sorted(entry for entry in folder.iterdir() if (entry / "images").is_dir()):
        images = sorted(file for file in (entry / "images").iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if len(images) != 1:
            msg = f"{entry / 'images'}: holds {len(images)} images, the DSB-2018 layout has exactly one"
            raise DatasetError(msg)
        masks = entry / "masks"
        records.append(Record(id=entry.name, image=images[0], labels=masks if masks.is_dir() else None))
    return records


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and a mask for each nucleus; arguments and result as `formats.Writer`. The layout knows no parts.

    An image that is annotated and shows no nucleus gets one mask that is empty: without any it would read as not annotated.
    """
    place = folder / name
    (place / "images").mkdir(parents=True, exist_ok=True)
    image = write_pixels(place / "images" / name, pixels)
    if labels is None:
        return Written(image)
    (place / "masks").mkdir(exist_ok=True)
    numbers = labels.numpy()
    for number in range(1, max(1, int(numbers.max(initial=0))) + 1):
        write_pixels(place / "masks" / f"{number:05d}", np.where(numbers == number, 255, 0).astype(np.uint8))
    return Written(image, place / "masks")


def mask_files(folder: Path) -> list[Path]:
    """The masks in a folder, in the order that gives the numbers of their nuclei.

    Raises:
        ImageError: The folder cannot be read, or is gone.
    """
    try:
        names = sorted(os.listdir(folder))  # as text: comparing paths takes longer than reading some masks
    except OSError as error:
        msg = f"{folder}: the masks cannot be listed ({error.strerror}); correct the path or its permissions"
        raise ImageError(msg) from None
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]


def read_mask_folder(folder: Path) -> Tensor:
    """Merge a folder of binary masks into one label map.

    Args:
        folder: PNG files; the order of their names gives the numbers. Where two overlap, the first keeps the pixel.

    Returns:
        (H, W) int32; numbers of masks that are empty or wholly covered are missing.

    Raises:
        ImageError: No mask in the folder, masks of different sizes, or more than the size of int32.
    """
    files = mask_files(folder)
    if not files:
        msg = f"{folder}: no masks in it; remove the folder if the image is not annotated"
        raise ImageError(msg)
    size, covered = covered_pixels(files[0])
    labels = np.zeros(size[0] * size[1], np.int32)
    labels[covered] = 1
    for number, file in enumerate(files[1:], start=2):
        its_size, covered = covered_pixels(file)
        if its_size != size:
            msg = f"{file}: size {its_size} differs from {size} of {files[0].name} beside it"
            raise ImageError(msg)
        labels[covered[labels[covered] == 0]] = number
    return torch.from_numpy(labels.reshape(size))
