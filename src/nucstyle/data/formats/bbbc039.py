"""BBBC039 as its archives unpack (bbbc.broadinstitute.org/BBBC039): `images/*.tif`, `masks/*.png`, `metadata/training.txt` etc.

A mask is an RGBA image whose red says 0 for background and colours nuclei so that no two that touch are alike: every connected
piece of one value is a nucleus. Green and blue are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from nucstyle.core.errors import DatasetError
from nucstyle.data.formats import pairs
from nucstyle.data.manifest import Record

_LISTS: Mapping[str, str] = {"training": "train", "validation": "validation", "test": "test"}
"""Names of the lists in `metadata/`, and the part that each stands for."""


def evidence(path: Path) -> str | None:
    """`images/`, `masks/` and a list of the training images."""
    held = [name for name in _LISTS if (path / "metadata" / f"{name}.txt").is_file()]
    if not held or not (path / "images").is_dir() or not (path / "masks").is_dir():
        return None
    return f"it holds images/, masks/ and metadata/{held[0]}.txt"


def index(folder: Path) -> list[Record]:
    """List the images, sorted by id, with the part whose list names them.

    Raises:
        DatasetError: As `pairs.index`, or a list that names an image twice or one that is not there.
    """
    records = pairs.index(folder)
    parts = _parts(folder / "metadata")
    unknown = sorted(parts.keys() - {record.id for record in records})
    if unknown:
        msg = (
            f"{folder / 'metadata'}: lists {unknown[0]}, which is not in {folder / 'images'} ({len(unknown)} such names); "
            "unpack all images"
        )
        raise DatasetError(msg)
    return [
        replace(record, split=parts.get(record.id), components=record.labels is not None)
        for record in sorted(records, key=lambda record: record.id)
    ]


def _parts(metadata: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    for name, split in _LISTS.items():
        file = metadata / f"{name}.txt"
        if not file.is_file():
            continue
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        for image in (PurePosixPath(line.strip()).stem for line in lines if line.strip()):
            if parts.setdefault(image, split) != split:
                msg = f"{file}: names {image}, which another list has as well; leave it in one"
                raise DatasetError(msg)
    return parts
