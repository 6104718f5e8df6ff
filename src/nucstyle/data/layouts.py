"""The layouts of data sets on disk: how each is recognised, listed and written. Each has a file in `formats/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nucstyle.core.errors import DatasetError, OptionError
from nucstyle.data.formats import (
    BandedWriter,
    NucleiWriter,
    Writer,
    bbbc039,
    cellpose,
    coco,
    domains,
    dsb2018,
    geojson,
    imagej,
    nnunet,
    nuinsseg,
    pairs,
    rle,
    stardist,
)
from nucstyle.data.image_io import Array
from nucstyle.data.manifest import Misfit, Record

MANIFEST = "manifest"
"""The layout that is a `manifest.csv`, which says everything itself."""
NAMED = "images"
"""What is no layout: files that are named one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How a layout is recognised and listed."""

    evidence: Callable[[Path], str | None]
    """What in a folder or file speaks for this layout, in words; None = nothing."""
    index: Callable[[Path], list[Record]]
    """Lists the images; reads names, and of files that describe many images their contents, but no pixels."""
    survey: Callable[[Path], tuple[list[Record], list[Misfit]]] | None = None
    """The same for the doctor: what can be listed, and everything that does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a layout is written."""

    write: Writer
    """Writes one image."""
    write_nuclei: NucleiWriter | None = None
    """Writes the nuclei of one image alone; None = the layout needs the image."""
    write_banded: BandedWriter | None = None
    """The same of label maps of any size."""
    finish: Callable[[Path, Sequence[Record], Set[str]], None] | None = None
    """Writes what the layout has beside its images, once all are there: of the folder, all images as they were written (copies
    have the field of view of their image), and the ids of those that are restyled copies."""
    check_name: Callable[[Record], None] | None = None
    """Refuses an id that its program would take for something else."""
    needs_labels: bool = False
    """Whether its program refuses images without labels among those it trains on."""
    needs_colour: bool = False
    """Whether all images must have three channels."""


# The order is that of recognition: from what is told by many signs to what is told by few.
_READERS: Mapping[str, Reader] = {
    "bbbc039": Reader(evidence=bbbc039.evidence, index=bbbc039.index),
    "nuinsseg": Reader(evidence=nuinsseg.evidence, index=nuinsseg.index),
    "coco": Reader(evidence=coco.evidence, index=coco.index, survey=coco.survey),
    "rle": Reader(evidence=rle.evidence, index=rle.index),
    "stardist": Reader(evidence=stardist.evidence, index=stardist.index),
    "dsb2018": Reader(evidence=dsb2018.evidence, index=dsb2018.index, survey=dsb2018.survey),
    "domains": Reader(evidence=domains.evidence, index=domains.index),
    "cellpose": Reader(evidence=cellpose.evidence, index=cellpose.index),
    "geojson": Reader(evidence=geojson.evidence, index=geojson.index),
    "imagej": Reader(evidence=imagej.evidence, index=imagej.index),
    "pairs": Reader(evidence=pairs.evidence, index=pairs.index, survey=pairs.survey),
}
_WRITINGS: Mapping[str, Writing] = {
    "pairs": Writing(write=pairs.write, write_nuclei=pairs.write_nuclei, write_banded=pairs.write_banded),
    "dsb2018": Writing(write=dsb2018.write),
    "rle": Writing(write=rle.write, finish=rle.finish, check_name=rle.check_name),
    "coco": Writing(write=coco.write, finish=coco.finish),
    "cellpose": Writing(write=cellpose.write, check_name=cellpose.check_name, needs_labels=True),
    "stardist": Writing(write=stardist.write, needs_labels=True),
    "nnunet": Writing(write=nnunet.write, finish=nnunet.finish, needs_labels=True, needs_colour=True),
    "geojson": Writing(write=geojson.write, write_nuclei=geojson.write_nuclei, write_banded=geojson.write_banded),
    "imagej": Writing(write=imagej.write, write_nuclei=imagej.write_nuclei, write_banded=imagej.write_banded),
}
READABLE = (*_READERS, MANIFEST)
"""Names for `--format`."""
WRITABLE = tuple(_WRITINGS)
"""Names for `--to`."""


def index_as(name: str, path: Path) -> list[Record]:
    """The images of a folder or file that is of a layout other than a manifest.

    Raises:
        DatasetError: It is not of this layout, or its parts do not fit each other.
    """
    return _READERS[name].index(path)


def survey_as(name: str, path: Path) -> tuple[list[Record], list[Misfit]]:
    """What can be listed of a folder or file that is of a layout other than a manifest, and what does not fit."""
    reader = _READERS[name]
    try:
        return reader.survey(path) if reader.survey is not None else (reader.index(path), [])
    except DatasetError as error:
        return [], [Misfit("layout", (path,), str(error))]


def recognise(path: Path) -> tuple[str, str] | None:
    """The layout of a folder or file that is no manifest, and what speaks for it in words; None = of none that is known."""
    for name, reader in _READERS.items():
        if reason := reader.evidence(path):
            return name, reason
    return None


def folder_of(path: Path) -> Path:
    """Where the layout of a folder begins: in `images/` where labels lie among the images, and nothing beside it tells more."""
    images, found = path / "images", recognise(path)
    if (
        found is None
        or found[0] != "pairs"
        or not images.is_dir()
        or any((path / name).is_dir() for name in pairs.LABEL_FOLDERS)
    ):
        return path
    within = recognise(images)
    return path if within is None or within[0] in ("pairs", "domains") else images


def writing_of(name: str) -> Writing:
    """How a layout is written.

    Raises:
        OptionError: There is none.
    """
    if name not in WRITABLE:
        msg = f"--to {name}: unknown; known: {', '.join(WRITABLE)}"
        raise OptionError(msg)
    return _WRITINGS[name]


def as_written(pixels: Array, *, colour: bool) -> Array:
    """The pixels of a file as layouts write them: as they are, but 1-bit ones as 0 and 255.

    Args:
        pixels: (H, W) or (H, W, 3).
        colour: Whether grey images get three channels.
    """
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    return np.repeat(pixels[..., None], 3, axis=2) if colour and pixels.ndim == 2 else pixels


def check_readable(name: str) -> None:
    """Refuse the name of a layout that cannot be read.

    Raises:
        DatasetError: With those that can.
    """
    if name not in READABLE:
        msg = f"--format {name}: unknown; known: {', '.join(READABLE)}"
        raise DatasetError(msg)
