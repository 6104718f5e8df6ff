"""The layout of DSB 2018 (BBBC038): `<id>/images/<id>.png` and `<id>/masks/*.png`, one binary mask a nucleus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.formats import Written, image_files
from nucstyle.data.image_io import Array, read_mask, write_pixels
from nucstyle.data.manifest import Misfit, Record, listed


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
    return listed(survey(folder))


def survey(folder: Path) -> tuple[list[Record], list[Misfit]]:
    """List the images as `index` does, and the sub-folders that hold no image or several."""
    records, misfits = [], []
    entries = folder.iterdir() if folder.is_dir() else ()
    for entry in sorted(entry for entry in entries if (entry / "images").is_dir()):
        images = image_files(entry / "images")
        if len(images) != 1:
            msg = f"{entry / 'images'}: holds {len(images)} images, the DSB-2018 layout has exactly one"
            misfits.append(Misfit("layout", (entry / "images",), msg))
            continue
        masks = entry / "masks"
        records.append(Record(id=entry.name, image=images[0], labels=masks if os.path.lexists(masks) else None))
    return records, misfits


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
    """The masks in a folder, in the order that gives them their numbers.

    Raises:
        ImageError: There is none.
    """
    files = image_files(folder)
    if not files:
        msg = f"{folder}: no masks in it; remove the folder if the image is not annotated"
        raise ImageError(msg)
    return files


def read_mask_folder(folder: Path, reading: ReadOptions = DEFAULT) -> Tensor:
    """Merge a folder of binary masks into one label map.

    Args:
        folder: PNG files; the order of their names gives the numbers. Where two overlap, the first keeps the pixel.
        reading: How files are read where they leave it open.

    Returns:
        (H, W) int32; numbers of masks that are empty or wholly covered are missing.

    Raises:
        ImageError: No mask in the folder, masks of different sizes, or more than the size of int32.
    """
    files = mask_files(folder)
    first = read_mask(files[0], reading)
    labels = torch.zeros(first.shape, dtype=torch.int32)
    for number, file in enumerate(files, start=1):
        mask = torch.from_numpy(read_mask(file, reading) if number > 1 else first)
        if mask.shape != labels.shape:
            msg = f"{file}: size {tuple(mask.shape)} differs from {tuple(labels.shape)} of {files[0].name} beside it"
            raise ImageError(msg)
        labels[mask & (labels == 0)] = number
    return labels
