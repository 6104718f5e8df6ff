"""The layout of StarDist's examples: `train/images/NAME.tif` with `train/masks/NAME.tif` (github.com/stardist/stardist).

`test/`, `val/` or `validation/` beside `train/` are parts as well; each is a folder of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from nucstyle.data.formats import SPLIT_FOLDERS, UNANNOTATED, Written, ids_of, pairs
from nucstyle.data.image_io import Array, write_labels, write_pixels
from nucstyle.data.manifest import Record

_PLACES: Mapping[str, str | None] = {**SPLIT_FOLDERS, UNANNOTATED: None}


def evidence(path: Path) -> str | None:
    """Folders of parts hold `images/`, and the folder itself does not."""
    if not path.is_dir() or (path / "images").is_dir():
        return None
    held = [name for name in _PLACES if (path / name / "images").is_dir()]
    return f"{held[0]}/images is the folder of a part" if held else None


def index(folder: Path) -> list[Record]:
    """List the images, sorted by id, with the part that their folder says.

    Raises:
        DatasetError: As `pairs.index`, of each part.
    """
    records = [
        replace(record, split=split)
        for name, split in _PLACES.items()
        if (folder / name / "images").is_dir()
        for record in pairs.index(folder / name)
    ]
    ids = ids_of([record.image for record in records], folder)
    named = [replace(record, id=name) for name, record in zip(ids, records, strict=True)]
    return sorted(named, key=lambda record: record.id)


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its labels to `folder/PART`; arguments and result as `formats.Writer`."""
    place = folder / (UNANNOTATED if labels is None else part or "train")
    (place / "images").mkdir(parents=True, exist_ok=True)
    image = write_pixels(place / "images" / name, pixels, as_tiff=True)
    if labels is None:
        return Written(image)
    (place / "masks").mkdir(exist_ok=True)
    masks = place / "masks" / f"{name}.tif"
    write_labels(masks, labels, are_nuclei=True)
    return Written(image, masks)
