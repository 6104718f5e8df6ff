"""Images beside label images: `images/NAME.*` with `labels/NAME.*` or `masks/NAME.*`, or a folder of images alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from nucstyle.core.errors import DatasetError
from nucstyle.data.formats import Written
from nucstyle.data.image_io import Array, is_image_name, write_labels, write_pixels
from nucstyle.data.manifest import Record

_LABEL_FOLDERS = ("labels", "masks")


def evidence(path: Path) -> str | None:
    """The folder holds `images/`, or images themselves."""
    if not path.is_dir():
        return None
    if (path / "images").is_dir():
        return "it holds images/"
    return "images lie in it" if _images(path) else None


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and is_image_name(file.name))


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            msg = (
                f"{found[file.stem]} and {file}: the same name twice; which belongs to which cannot be told, rename one"
            )
            raise DatasetError(msg)
        found[file.stem] = file
    return found


def index(folder: Path) -> list[Record]:
    """List the images, sorted by name, each with the label image of the same name.

    Raises:
        DatasetError: Doubled names, two label folders, or a label image that belongs to no image.
    """
    if not (folder / "images").is_dir():
        return index_files(_images(folder))
    images = _by_stem(_images(folder / "images"))
    label_folders = [folder / name for name in _LABEL_FOLDERS if (folder / name).is_dir()]
    if len(label_folders) > 1:
        msg = f"{folder}: holds both labels/ and masks/; keep the one that counts"
        raise DatasetError(msg)
    labels = _by_stem(_images(label_folders[0])) if label_folders else {}
    lonely = sorted(labels.keys() - images.keys())
    if lonely:
        msg = f"{labels[lonely[0]]}: no image of that name in {folder / 'images'} ({len(lonely)} such label files)"
        raise DatasetError(msg)
    return [Record(id=stem, image=image, labels=labels.get(stem)) for stem, image in images.items()]


def index_files(files: Iterable[Path]) -> list[Record]:
    """Images without annotation; the id is the name without its suffix."""
    return [Record(id=stem, image=file) for stem, file in _by_stem(files).items()]


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
