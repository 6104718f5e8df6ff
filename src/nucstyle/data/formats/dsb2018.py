"""The layout of DSB 2018 (BBBC038): `<id>/images/<id>.png` and `<id>/masks/*.png`, one binary mask a nucleus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.formats import Written, image_files, listed_files
from nucstyle.data.image_io import Array, covered_pixels, is_unread_picture, write_pixels
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
        ImageError: There is none, or one of a kind that is not read, or the folder cannot be read, or is gone.
    """
    try:
        files, others = listed_files(folder)
    except OSError as error:
        msg = f"{folder}: the masks cannot be listed ({error.strerror}); correct the path or its permissions"
        raise ImageError(msg) from None
    for file in others:
        if is_unread_picture(file.name) and file.is_file():
            msg = f"{file}: masks of this kind are not read; convert it to PNG"
            raise ImageError(msg)
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
    size, covered = covered_pixels(files[0], reading)
    labels = np.zeros(size[0] * size[1], np.int32)
    labels[covered] = 1
    for number, file in enumerate(files[1:], start=2):
        its_size, covered = covered_pixels(file, reading)
        if its_size != size:
            msg = f"{file}: size {its_size} differs from {size} of {files[0].name} beside it"
            raise ImageError(msg)
        labels[covered[labels[covered] == 0]] = number
    return torch.from_numpy(labels.reshape(size))
