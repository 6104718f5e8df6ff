"""Images beside label images: `images/NAME.*` with `labels/NAME.*` or `masks/NAME.*`, or a folder of images alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from nucstyle.data.formats import Written
from nucstyle.data.image_io import IMAGE_SUFFIXES, Array, write_labels, write_pixels
from nucstyle.data.manifest import Misfit, Record, listed

_LABEL_FOLDERS = ("labels", "masks")


def evidence(path: Path) -> str | None:
    """The folder holds `images/`, or images themselves."""
    if not path.is_dir():
        return None
    if (path / "images").is_dir():
        return "it holds images/"
    return "images lie in it" if _images(path) else None


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES)


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
        return survey_files(_images(folder))
    images, misfits = _by_stem(_images(folder / "images"))
    label_folders = [folder / name for name in _LABEL_FOLDERS if (folder / name).is_dir()]
    if len(label_folders) > 1:
        msg = f"{folder}: holds both labels/ and masks/; keep the one that counts"
        misfits.append(Misfit("layout", tuple(label_folders), msg))
    labels, doubled = _by_stem(_images(label_folders[0])) if label_folders else ({}, [])
    misfits += doubled
    if lonely := [labels[stem] for stem in sorted(labels.keys() - images.keys())]:
        msg = f"{lonely[0]}: no image of that name in {folder / 'images'} ({len(lonely)} such label files)"
        misfits.append(Misfit("labels-without-image", tuple(lonely), msg))
    return [Record(id=stem, image=image, labels=labels.get(stem)) for stem, image in images.items()], misfits


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
    for place in ("images", "labels"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    image = write_pixels(folder / "images" / name, pixels)
    if labels is None:
        return Written(image)
    file = folder / "labels" / f"{name}.tif"
    write_labels(file, labels)
    return Written(image, file)
