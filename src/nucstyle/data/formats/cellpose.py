"""The layout of Cellpose (github.com/MouseLand/cellpose): `NAME.tif` beside `NAME_masks.tif`, a folder for each part.

`NAME_masks.png`, `NAME_cp_masks.*` of its command line and `NAME_seg.npy` of its window are read as well. The latter is pickled
and can hold code: what is neither plain values nor an array is refused before it runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data.formats import SPLIT_FOLDERS, UNANNOTATED, Written, ids_of, image_files
from nucstyle.data.image_io import Array, write_labels, write_pixels
from nucstyle.data.label_rules import as_labels
from nucstyle.data.manifest import Record
from nucstyle.data.pickled import PickledArray, read_pickled

SUFFIX = "_masks"
SEGMENTED = "_seg.npy"
"""End of the name of what Cellpose's window saves."""
_LABEL_ENDINGS = (
    *(f"{kind}{suffix}" for kind in (SUFFIX, "_cp_masks") for suffix in (".tif", ".tiff", ".png")),
    SEGMENTED,
)
"""In the order in which they count, where an image has several."""
_OUTPUTS = re.compile(r".*(_masks|_cp_output|_flows|_flows_[0-2]|_cellprob)")
"""Names of files that Cellpose writes beside images, as it leaves them out itself (its `io.get_image_files`)."""
_PLACES: Mapping[str, str | None] = {"": None, **SPLIT_FOLDERS, UNANNOTATED: None}


def evidence(path: Path) -> str | None:
    """A file named as Cellpose names labels, in the folder or in one of a part; no `images/`, which is the layout of pairs."""
    if not path.is_dir() or (path / "images").is_dir():
        return None
    for name in _PLACES:
        if found := sorted(_label_files(path / name)):
            return f"{found[0].relative_to(path).as_posix()} is named as Cellpose names labels"
    return f"images lie in {UNANNOTATED}/" if image_files(path / UNANNOTATED) else None


def _label_files(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return [file for file in place.iterdir() if file.name.endswith(_LABEL_ENDINGS) and not file.name.startswith(".")]


def index(folder: Path) -> list[Record]:
    """List the images, sorted by id; folders `train`, `val` or `validation`, and `test` say their part.

    Raises:
        DatasetError: Labels of no image.
    """
    found = [(image, labels, split) for name, split in _PLACES.items() for image, labels in _pairs(folder / name)]
    ids = ids_of([image for image, _, _ in found], folder)
    records = [
        Record(id=name, image=image, labels=labels, split=split)
        for name, (image, labels, split) in zip(ids, found, strict=True)
    ]
    return sorted(records, key=lambda record: record.id)


def _pairs(place: Path) -> list[tuple[Path, Path | None]]:
    images = [
        file for file in image_files(place) if not _OUTPUTS.fullmatch(file.stem) and not file.name.endswith(SEGMENTED)
    ]
    candidates = {image: [place / f"{image.stem}{ending}" for ending in _LABEL_ENDINGS] for image in images}
    known = {file for files in candidates.values() for file in files}
    lonely = sorted(file for file in _label_files(place) if file not in known)
    if lonely:
        msg = f"{lonely[0]}: no image of its name beside it ({len(lonely)} such label files); put it there"
        raise DatasetError(msg)
    return [(image, next((file for file in files if file.is_file()), None)) for image, files in candidates.items()]


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its labels to `folder/PART`; arguments and result as `formats.Writer`."""
    place = folder / (UNANNOTATED if labels is None else part or "train")
    place.mkdir(parents=True, exist_ok=True)
    image = write_pixels(place / name, pixels, as_tiff=True)
    if labels is None:
        return Written(image)
    masks = place / f"{name}{SUFFIX}.tif"
    write_labels(masks, labels, are_nuclei=True)
    return Written(image, masks)


def check_name(record: Record) -> None:
    """Refuse an id that Cellpose would take for what it writes itself.

    Raises:
        DatasetError: With the image named.
    """
    if ending := _OUTPUTS.fullmatch(record.id):
        kind = "labels" if ending[1] == SUFFIX else "its own output"
        msg = f"{record.image}: Cellpose takes names that end in {ending[1]} for {kind}; rename the image"
        raise DatasetError(msg)


def read_nuclei(path: Path, record: Record, size: tuple[int, int]) -> Drawn:
    """Read the masks in what Cellpose's window saves; as `label_files.LabelReader`."""
    saved = read_pickled(path)
    masks = saved.get("masks") if isinstance(saved, dict) else None
    labels = masks.integers(str(path)) if isinstance(masks, PickledArray) else None
    if labels is None or labels.ndim != 2:
        what = "none" if labels is None else f"of shape {labels.shape}"
        msg = f"{path}: Cellpose keeps masks (height, width) of integers, here are {what}; save the masks as TIFF"
        raise ImageError(msg)
    return Drawn(torch.from_numpy(as_labels(labels, path, may_be_mask=record.components)))
