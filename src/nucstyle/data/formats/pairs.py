"""Images beside label images: `images/NAME.*` with `labels/NAME.*` or `masks/NAME.*`, or a folder of images alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from nucstyle.data.formats import Written, image_files, write_with
from nucstyle.data.image_io import Array, write_labels
from nucstyle.data.label_bands import BandedNuclei, write_label_bands
from nucstyle.data.manifest import Misfit, Record, listed

LABEL_FOLDERS = ("labels", "masks")
"""Of label images, beside `images/`."""


def evidence(path: Path) -> str | None:
    """The folder holds `images/`, or images themselves."""
    if not path.is_dir():
        return None
    if (path / "images").is_dir():
        return "it holds images/"
    return "images lie in it" if image_files(path) else None


def _by_stem(files: Iterable[Path]) -> tuple[dict[str, Path], list[Misfit]]:
    """Name -> its first file, and the names that several files have."""
    found: dict[str, Path] = {}
    doubled = []
    for file in files:
        other = found.setdefault(file.stem, file)
        if other is not file:
            msg = f"{other} and {file}: the same name twice; which belongs to which cannot be told, rename one"
            doubled.append(Misfit("duplicated-name", (other, file), msg))
    return found, doubled


def index(folder: Path) -> list[Record]:
    """List the images, sorted by name, each with the label image of the same name.

    Raises:
        DatasetError: Doubled names, two label folders, or a label image that belongs to no image.
    """
    return listed(survey(folder))


def survey(folder: Path) -> tuple[list[Record], list[Misfit]]:
    """List the images as `index` does, and what does not fit; of doubled names and of label folders the first is taken."""
    if not (folder / "images").is_dir():
        return survey_files(image_files(folder))
    label_folders = [folder / name for name in LABEL_FOLDERS if (folder / name).is_dir()]
    records, misfits = _survey(folder / "images", label_folders[0] if label_folders else None)
    if len(label_folders) > 1:
        msg = f"{folder}: holds both labels/ and masks/; keep the one that counts"
        misfits.insert(0, Misfit("layout", tuple(label_folders), msg))
    return records, misfits


def matched(images: Path, labels: Path | None) -> list[Record]:
    """The images of a folder, each with the label image of its name in another.

    Raises:
        DatasetError: Doubled names, or a label image that belongs to no image.
    """
    return listed(_survey(images, labels))


def _survey(images: Path, labels: Path | None) -> tuple[list[Record], list[Misfit]]:
    known, misfits = _by_stem(image_files(images))
    found, doubled = _by_stem(image_files(labels)) if labels else ({}, [])
    misfits += doubled
    if lonely := [found[stem] for stem in sorted(found.keys() - known.keys())]:
        msg = f"{lonely[0]}: no image of that name in {images} ({len(lonely)} such label files)"
        misfits.append(Misfit("labels-without-image", tuple(lonely), msg))
    return [Record(id=stem, image=image, labels=found.get(stem)) for stem, image in known.items()], misfits


def index_files(files: Iterable[Path]) -> list[Record]:
    """Images without annotation; the id is the name without its suffix.

    Raises:
        DatasetError: Doubled names.
    """
    return listed(survey_files(files))


def survey_files(files: Iterable[Path]) -> tuple[list[Record], list[Misfit]]:
    """Images without annotation, and the names that several have."""
    found, doubled = _by_stem(files)
    return [Record(id=stem, image=file) for stem, file in found.items()], doubled


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its labels; arguments and result as `formats.Writer`. The layout knows no parts."""
    return write_with(write_nuclei, folder, name, pixels, labels)


def write_nuclei(
    folder: Path, name: str, labels: Tensor, scores: Mapping[int, float] | None = None
) -> tuple[Path, Mapping[str, int]]:
    """Write labels without their image; arguments and result as `formats.NucleiWriter`. There is no place for scores."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    file = folder / "labels" / f"{name}.tif"
    write_labels(file, labels, are_nuclei=True)
    return file, {}


def write_banded(
    folder: Path, name: str, nuclei: BandedNuclei, scores: Mapping[int, float] | None = None
) -> tuple[Path, Mapping[str, int]]:
    """Write labels of any size, in tiles; arguments and result as `formats.BandedWriter`."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    file = folder / "labels" / f"{name}.tif"
    write_label_bands(file, nuclei.bands(), size=nuclei.size, largest=len(nuclei))
    return file, {}
