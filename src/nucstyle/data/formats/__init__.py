"""One file a layout of data on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from tempfile import SpooledTemporaryFile
from typing import Protocol

from torch import Tensor

from nucstyle.data.image_io import Array, is_image_name, write_pixels
from nucstyle.data.label_bands import BandedNuclei

SPLIT_FOLDERS: Mapping[str, str] = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
"""Names of folders that say which part their images belong to."""
_MOST_WAITING = 1 << 25
"""So many bytes of a file that is written in order wait in memory, more on the disk."""
UNANNOTATED = "unannotated"
"""Folder of images without labels, in layouts whose programs take every image for one that has some."""


@dataclass(frozen=True, slots=True)
class Written:
    """Where an image and its labels were written."""

    image: Path
    labels: Path | None = None
    """A label image, a file of outlines, a folder of masks, or the file that describes all images; None = not annotated."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """What the layout cannot hold, and how often that was so, for example holes_filled: 2."""


def in_words(losses: Mapping[str, int]) -> str:
    """Losses for a person: `holes filled: 2, nuclei in pieces: 1`."""
    return ", ".join(f"{what.replace('_', ' ')}: {count}" for what, count in sorted(losses.items()))


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


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, not below it, by name; hidden files, as some systems leave beside images, are none.

    What has the name of an image and is no file (a folder, a pipe, a link to nowhere) is refused when it is read.
    """
    return listed_images(folder) if folder.is_dir() else []


def listed_images(folder: Path) -> list[Path]:
    """As `image_files`, of a folder that must be there.

    Raises:
        OSError: It cannot be listed.
    """
    return listed_files(folder)[0]


def listed_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """As `listed_images`, and all else in the folder that is not hidden."""
    # Sorted as text: comparing paths takes longer than reading some masks.
    names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    images = [folder / name for name in names if is_image_name(name)]
    others = [] if len(images) == len(names) else [folder / name for name in names if not is_image_name(name)]
    return images, others


def ids_of(images: Sequence[Path], root: Path) -> list[str]:
    """Ids of images: their names without a suffix, and for names that occur twice with the folders below the root before them.

    Args:
        images: Files, as a rule below the root.
        root: Of the data set.
    """
    counts = Counter(image.stem for image in images)
    return [
        image.stem if counts[image.stem] == 1 else Path(os.path.relpath(image, root)).with_suffix("").as_posix()
        for image in images
    ]


class NucleiWriter(Protocol):
    """Writes the nuclei of images of a layout alone, where the images are not at hand or have their own files anyway."""

    def __call__(
        self, folder: Path, name: str, labels: Tensor, scores: Mapping[int, float] | None = None
    ) -> tuple[Path, Mapping[str, int]]:
        """Write the nuclei of one image.

        Args:
            folder: Of the data set.
            name: Of the file, without a suffix.
            labels: (H, W) int32, 1..N.
            scores: Of nuclei, by number, where they are known; left out where the layout has no place for them.

        Returns:
            The file, and what is lost in it as in `Written.losses`.
        """


class BandedWriter(Protocol):
    """Writes the nuclei of images of a layout alone, as `NucleiWriter`, of label maps of any size."""

    def __call__(
        self, folder: Path, name: str, nuclei: BandedNuclei, scores: Mapping[int, float] | None = None
    ) -> tuple[Path, Mapping[str, int]]:
        """Write the nuclei of one image; arguments and result as `NucleiWriter`."""


@contextmanager
def in_order(folder: Path) -> Iterator[InOrder]:
    """A place for pieces of a file; many of them wait in a file without a name in that folder, gone with the block."""
    with SpooledTemporaryFile(max_size=_MOST_WAITING, mode="w+b", dir=str(folder)) as file:
        yield InOrder(file)


class InOrder:
    """Pieces of a file that are ready in any order, and come in that of their keys.

    Args:
        file: Where they wait.
    """

    def __init__(self, file: SpooledTemporaryFile[bytes]) -> None:
        self._file = file
        self._places: list[tuple[tuple[float, ...], int, int]] = []

    def add(self, *key: float, piece: bytes) -> None:
        """Keep a piece; no two have the same key."""
        self._places.append((key, self._file.tell(), len(piece)))
        self._file.write(piece)

    def __iter__(self) -> Iterator[tuple[tuple[float, ...], bytes]]:
        for key, start, length in sorted(self._places):
            self._file.seek(start)
            yield key, self._file.read(length)


def copy_image(folder: Path, name: str, image: Path) -> Path:
    """Copy a TIFF of any size to `images/` as it is; returns the copy. Arguments as `Writer`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    return Path(copyfile(image, folder / "images" / f"{name}.tif"))


def write_with(write_nuclei: NucleiWriter, folder: Path, name: str, pixels: Array, labels: Tensor | None) -> Written:
    """Write an image to `images/` and, where it is annotated, its nuclei to a file of their own; arguments as `Writer`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    image = write_pixels(folder / "images" / name, pixels)
    return Written(image) if labels is None else Written(image, *write_nuclei(folder, name, labels))
