"""NuInsSeg (doi.org/10.1038/s41597-024-03117-2): for each organ `tissue images/*.png` and `label masks modify/*.tif`.

Of the folders that it calls label masks, `label masks modify` counts: its authors say to evaluate with it (README of
github.com/masih4/NuInsSeg). In `label masks`, the pixels of two nuclei have the sum of their numbers, which is a third nucleus or
part of a distant one; it is read where the other is missing, and that is said.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nucstyle.data.formats import ids_of, pairs
from nucstyle.data.manifest import Record

_IMAGES = "tissue images"
_LABELS = ("label masks modify", "label masks")
"""In the order in which they count."""


def evidence(path: Path) -> str | None:
    """A folder in it holds `tissue images`."""
    organs = _organs(path)
    if not organs:
        return None
    labels = {folder.name for organ in organs if (folder := _label_folder(organ))}
    doubtful = f"; of {_LABELS[1]}, where nuclei overlap, the pixels are wrong" if _LABELS[1] in labels else ""
    return f"{organs[0].name}/{_IMAGES} is a folder{doubtful}"


def _organs(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if (entry / _IMAGES).is_dir()) if path.is_dir() else []


def _label_folder(organ: Path) -> Path | None:
    return next((organ / name for name in _LABELS if (organ / name).is_dir()), None)


def index(folder: Path) -> list[Record]:
    """List the images, sorted by id, each with the label image of its name.

    Raises:
        DatasetError: As `pairs.matched`, of each organ.
    """
    found = [record for organ in _organs(folder) for record in pairs.matched(organ / _IMAGES, _label_folder(organ))]
    ids = ids_of([record.image for record in found], folder)
    named = [replace(record, id=name) for name, record in zip(ids, found, strict=True)]
    return sorted(named, key=lambda record: record.id)
