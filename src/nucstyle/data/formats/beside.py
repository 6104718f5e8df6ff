"""Images with a file of outlines of the same name: in a folder beside `images/`, or beside the image itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nucstyle.core.errors import DatasetError
from nucstyle.data.formats import image_files, pairs
from nucstyle.data.manifest import Record


def evidence(path: Path, place: str, endings: Sequence[str]) -> str | None:
    """The folder holds `images/` and a folder of outlines but no label images, or images with outlines beside them.

    Args:
        path: What may be a data set.
        place: Name of the folder of outlines.
        endings: Of the names of files of outlines, in small letters.
    """
    if not path.is_dir():
        return None
    if (path / "images").is_dir():
        has_labels = any((path / name).is_dir() for name in pairs.LABEL_FOLDERS)  # which keep more than outlines do
        return f"it holds images/ and {place}/" if (path / place).is_dir() and not has_labels else None
    names = {image.stem for image in image_files(path)}
    found = (file.name for file in sorted(path.iterdir()) if names.intersection(_stems(file, endings)))
    name = next(found, None)
    return f"{name} lies beside its image" if name else None


def index(path: Path, place: str, endings: Sequence[str]) -> list[Record]:
    """List the images, sorted by name, each with the outlines of the same name.

    Args:
        path: The data set.
        place: Name of the folder of outlines.
        endings: Of the names of files of outlines, in small letters.

    Raises:
        DatasetError: Doubled names, or outlines that belong to no image.
    """
    is_divided = (path / "images").is_dir()
    images = path / "images" if is_divided else path
    records = {record.id: record for record in pairs.index_files(image_files(images))}
    found: dict[str, Path] = {}
    folder = path / place if is_divided else path
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (stems := _stems(file, endings)):
            continue
        stem = next((stem for stem in stems if stem in records), None)
        if stem is None:
            msg = f"{file}: no image of that name in {images}; remove the file, or name it like its image"
            raise DatasetError(msg)
        if stem in found:
            msg = f"{found[stem]} and {file}: outlines of one image twice; keep the file that counts"
            raise DatasetError(msg)
        found[stem] = file
    return [replace(record, labels=found.get(stem)) for stem, record in records.items()]


def _stems(file: Path, endings: Sequence[str]) -> list[str]:
    """The names that the image of a file of outlines may have; none if it is no such file."""
    lower = file.name.lower()
    return [file.name[: -len(ending)] for ending in endings if lower.endswith(ending) and file.is_file()]
