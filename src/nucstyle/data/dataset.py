"""One way to open any data set: `open_dataset(path)` gives samples, whatever the layout on disk."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.core.forks import can_fork, share_out
from nucstyle.core.labels import relabel
from nucstyle.core.protocols import Progress
from nucstyle.core.sample import Sample, Source
from nucstyle.core.threads import for_each
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.formats import pairs
from nucstyle.data.image_io import Array, image_of, read_pixels
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.layouts import MANIFEST, NAMED, READABLE, check_readable, folder_of, recognise, survey_as
from nucstyle.data.manifest import Misfit, Record, check_unique, listed, survey_manifest
from nucstyle.data.pixel_cache import NO_PIXELS, CacheUse, PixelCache, pixel_cache
from nucstyle.data.splits import with_known_split
from nucstyle.data.unread import NOT_READ, in_short, unread_pictures

_LOOKED_AT = 16
"""So many images tell whether a data set was read before."""


class Dataset(Sequence[Sample]):
    """Images on disk, read when asked for.

    Args:
        records: What there is.
        keep: Whether images stay in memory once read (8-bit images as bytes).
        reading: How files are read where they leave it open.
        cache: What was decoded of annotated images before.

    Attributes:
        records: As given.
        reading: As given.
        cache: As given.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        keep: bool = False,
        reading: ReadOptions = DEFAULT,
        cache: PixelCache = NO_PIXELS,
    ) -> None:
        self.records = tuple(records)
        self.reading = reading
        self.cache = cache
        self._kept: dict[int, Sample] | None = {} if keep else None
        self._bytes: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # slices: use `where`
        """Read one image with its labels; see `load`."""
        if self._kept is None:
            return load(self.records[index], self.reading, self.cache)
        if index not in self._kept:
            sample = load(self.records[index], self.reading, self.cache)
            if sample.source and (sample.source.dtype, sample.source.low, sample.source.high) == ("uint8", 0, 255):
                # An 8-bit image costs a quarter as bytes; the way back divides by 255 again, so no bit is lost.
                self._bytes[index] = (sample.image * 255).round().byte()
                sample = replace(sample, image=torch.empty(3, *sample.size, device="meta"))
            self._kept[index] = sample
        sample = self._kept[index]
        return replace(sample, image=self._bytes[index].float() / 255) if index in self._bytes else sample

    @property
    def keeps(self) -> bool:
        """Whether images stay in memory once read."""
        return self._kept is not None

    def image(self, index: int) -> Tensor:
        """One image alone, (3, H, W) float32 in [0, 1]; labels are not read, unless what is read stays in memory.

        Raises:
            ImageError: It cannot be used.
        """
        return self[index].image if self.keeps else _load_image(self.records[index], self.reading, self.cache)[0]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def read_all(self, progress: Progress) -> None:
        """Read every image once, so that what cannot be used is refused before any work; kept in memory if `keep`.

        Raises:
            ImageError: The first image that cannot be used.
        """
        if can_fork() and (annotated := self._unknown()):
            share_out(
                lambda n: self._decode(annotated[n]),
                len(annotated),
                stage="decode images",
                unit="image",
                progress=progress,
            )
        for _ in for_each(self.__getitem__, range(len(self)), stage="read images", unit="image", progress=progress):
            pass

    def _unknown(self) -> list[Record]:
        """The annotated images, where the cache most likely holds little of them yet, by a look at some, and can keep them."""
        annotated = [record for record in self.records if record.labels is not None]
        for record in annotated[:: max(1, len(annotated) // _LOOKED_AT)] if self.cache.keeps else ():
            if not _is_known(record, self.reading, self.cache):
                self._decode(
                    record
                )  # so that a table of many images is read before processes are forked, which have it then
                if _is_known(record, self.reading, self.cache):
                    return annotated
        return []

    def _decode(self, record: Record) -> None:
        """Put an image and its labels into the cache."""
        with suppress(ImageError):  # whoever reads it will say so
            pixels = _pixels(record, self.reading, self.cache)
            _load_labels(record, (pixels.shape[0], pixels.shape[1]), self.reading, self.cache)

    def like(self, records: Sequence[Record], *, keep: bool = False) -> Dataset:
        """Other images, read in the same way."""
        return Dataset(records, keep=keep, reading=self.reading, cache=self.cache)

    def with_records(self, records: Sequence[Record]) -> Dataset:
        """The same images, already read ones included, with other records, for example once modalities are known.

        Args:
            records: One for each image, of the same files.
        """
        same = self.like(records, keep=self.keeps)
        if self._kept is not None:
            same._bytes = self._bytes
            same._kept = {
                index: replace(sample, modality=records[index].modality) for index, sample in self._kept.items()
            }
        return same

    def where(self, condition: Callable[[Record], bool], *, keep: bool = False) -> Dataset:
        """The part of the data set whose records meet a condition."""
        return self.like([record for record in self.records if condition(record)], keep=keep)

    @property
    def files(self) -> list[Path]:
        """Every file and folder that the data set reads."""
        return [file for record in self.records for file in (record.image, record.labels) if file is not None]

    def training_part(self) -> Dataset:
        """The images to learn from, kept in memory: those of `train` and those that are not divided.

        Raises:
            DatasetError: There is none.
        """
        train = self.part("train", None, keep=True)
        if not len(train):
            msg = f"{self.records[0].image}: none of the {len(self)} images is of the part train; correct the column split"
            raise DatasetError(msg)
        return train

    def annotated(self) -> Dataset:
        """The images that have masks, already read ones included."""
        chosen = [index for index, record in enumerate(self.records) if record.labels is not None]
        same = self.like([self.records[index] for index in chosen], keep=self.keeps)
        if self._kept is not None:
            same._bytes = {new: self._bytes[old] for new, old in enumerate(chosen) if old in self._bytes}
            same._kept = {new: self._kept[old] for new, old in enumerate(chosen) if old in self._kept}
        return same

    def part(self, *splits: str | None, keep: bool = False) -> Dataset:
        """The images of some parts: `train`, `validation`, `test`, or None for those that are not divided."""
        return self.where(lambda record: record.split in splits, keep=keep)


def load(record: Record, reading: ReadOptions = DEFAULT, cache: PixelCache = NO_PIXELS) -> Sample:
    """Read an image and its labels.

    Args:
        record: The image.
        reading: How files are read where they leave it open.
        cache: What was decoded before; only for annotated images, which are read again and again.

    Returns:
        A sample whose labels, where there are any, are numbered 1..N.

    Raises:
        ImageError: A file cannot be read, or labels and image differ in size.
    """
    image, source = _load_image(record, reading, cache)
    labels = _load_labels(record, (image.shape[1], image.shape[2]), reading, cache)
    return Sample(id=record.id, image=image, labels=labels, modality=record.modality, source=source)


def _load_image(record: Record, reading: ReadOptions, cache: PixelCache) -> tuple[Tensor, Source]:
    """(3, H, W) float32 in [0, 1], and where it came from."""
    return image_of(_pixels(record, reading, cache), record.image, reading)


def _pixels(record: Record, reading: ReadOptions, cache: PixelCache) -> Array:
    """(H, W) or (H, W, 3), as in the file."""
    kept = NO_PIXELS if record.labels is None else cache
    return kept.get(record.image, lambda: read_pixels(record.image, reading), *_parts(reading))


def _is_known(record: Record, reading: ReadOptions, cache: PixelCache) -> bool:
    return cache.knows(record.image, *_parts(reading))


def _parts(reading: ReadOptions) -> tuple[object, ...]:
    """What besides the file determines its pixels."""
    return ("image", reading.page, reading.max_pixels)


def _load_labels(record: Record, size: tuple[int, int], reading: ReadOptions, cache: PixelCache) -> Tensor | None:
    """(H, W) int32, 1..N; None = not annotated."""
    if record.labels is None:
        return None

    def read() -> Array:
        nuclei = read_nuclei(record, size, reading)
        assert nuclei is not None  # the record names labels
        numbers = relabel(nuclei).numpy()
        return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))

    # Readers of files of many images look for the id, or for the image's name and folder.
    image = _way(record.labels.parent, record.image)
    parts = ("labels", record.labels.name, record.id, image, size, record.components)
    return torch.from_numpy(cache.get(record.labels, read, *parts, reading.page, reading.max_pixels).astype(np.int32))


def _way(folder: Path, file: Path) -> str:
    """The path from one to the other, which stays the same where both are moved."""
    try:
        return os.path.relpath(file, folder)
    except ValueError:  # on another drive
        return os.path.abspath(file)


def open_dataset(
    data: Path | str,
    *,
    format: str | None = None,  # noqa: A002
    keep: bool = False,
    reading: ReadOptions = DEFAULT,
    cache: CacheUse = True,
) -> Dataset:
    """Open a data set.

    Args:
        data: A folder, a file, a glob or a `manifest.csv`. Folders: `images/` with `labels/`, `masks/`, `geojson/` or `rois/`,
            images alone, or one of the other layouts of `formats/`.
        format: One of `layouts.READABLE`; None = find out.
        keep: Whether images stay in memory once read.
        reading: How files are read where they leave it open: the range of values, the page, whether pieces are nuclei.
        cache: Whether what is decoded of annotated images is kept in the user's cache, so that they open faster the next time;
            `verify` = what is there is used only if the content of the files is the same, whatever their size and time.

    Returns:
        The data set; nothing but names has been read so far. Images of DSB 2018 carry the shipped division.

    Raises:
        DatasetError: Nothing there, no image in it, or parts that do not fit each other.
    """
    path = Path(data)
    listing = list_images(path, format)
    records = listed((listing.records, listing.misfits))
    if not records:
        msg = (
            f"{path}: no images in it; expected images/ with labels/ or masks/, ID/images with ID/masks, image files, or "
            f"one of {', '.join(READABLE)}"
        )
        if left := list(unread_pictures([path, path / "images"])):
            msg = f"{path}: no images in it but {in_short(left)}; {NOT_READ}"
        raise DatasetError(msg)
    check_unique(records, str(path))
    missing = [file for file in Dataset(records).files if not os.path.lexists(file)]
    if missing:
        msg = f"{path}: {missing[0]} does not exist ({len(missing)} missing); correct the path"
        raise DatasetError(msg)
    return Dataset(with_known_split(in_pieces(records, reading)), keep=keep, reading=reading, cache=pixel_cache(cache))


def in_pieces(records: Sequence[Record], reading: ReadOptions) -> list[Record]:
    """The records, each saying that connected pieces are nuclei, if the person says so."""
    if not reading.connected_components:
        return list(records)
    return [replace(record, components=record.labels is not None) for record in records]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a data set was taken for, and what it is made of."""

    layout: str
    """One of `layouts.READABLE`, or `layouts.NAMED`."""
    reason: str
    """What speaks for the layout, in words."""
    records: list[Record]
    """What can be listed; nothing but names has been looked at."""
    misfits: list[Misfit]


def list_images(path: Path, format: str | None = None) -> Listing:  # noqa: A002
    """Find out what a data set is, and list it as far as that can be done; arguments as `open_dataset`.

    Raises:
        DatasetError: Nothing there, an unknown format, or a table that is none.
    """
    if format is not None:
        check_readable(format)
    if not path.exists():
        files = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        if not files:
            msg = f"{path}: no such file or folder"
            raise DatasetError(msg)
        return _named(file for file in files if not file.is_dir())
    manifest = path / "manifest.csv" if path.is_dir() else path
    is_manifest = format is None and manifest.suffix == ".csv" and manifest.is_file() and not recognise(manifest)
    if format == MANIFEST or is_manifest:
        return Listing(MANIFEST, f"{manifest.name} lists the images", *survey_manifest(manifest))
    path = path if format == "pairs" else folder_of(path)
    if format is not None:
        return Listing(format, "--format says so", *survey_as(format, path))
    if found := recognise(path):
        return Listing(*found, *survey_as(found[0], path))
    return _named([] if path.is_dir() else [path])


def _named(files: Iterable[Path]) -> Listing:
    return Listing(NAMED, "files named one by one", *pairs.survey_files(files))


def require_labels(dataset: Dataset, purpose: str) -> None:
    """Refuse a data set in which an image is not annotated.

    Raises:
        DatasetError: With the first such image named.
    """
    bare = [record for record in dataset.records if record.labels is None]
    if bare:
        msg = (
            f"{bare[0].image}: not annotated ({len(bare)} of {len(dataset)} images), but {purpose} needs masks; "
            "add labels/ or leave these images out"
        )
        raise DatasetError(msg)
