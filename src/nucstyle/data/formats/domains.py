"""Images by style, as networks that translate between styles are trained with, and no labels.

Either `trainA/`, `trainB/` and so on, with `testA/` beside them (CycleGAN and its successors), or `domain/NAME/`. The name of the
folder is the modality.
"""

from __future__ import annotations

import re
from pathlib import Path

from nucstyle.core.errors import DatasetError
from nucstyle.data.formats import SPLIT_FOLDERS, ids_of, image_files
from nucstyle.data.manifest import Record

_PREFIXED = re.compile(rf"({'|'.join(SPLIT_FOLDERS)})([A-Z])")
_HOLDER = "domain"


def evidence(path: Path) -> str | None:
    """Folders are named `trainA` and the like and hold images, or `domain` is a folder of folders of images."""
    held = [place.relative_to(path).as_posix() for place, _, _ in _places(path) if image_files(place)]
    return f"{held[0]} holds the images of a domain" if held else None


def _places(folder: Path) -> list[tuple[Path, str, str | None]]:
    """Each folder of images with the name and the part that its own name says."""
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    prefixed: list[tuple[Path, str, str | None]] = [
        (entry, found[2], SPLIT_FOLDERS[found[1]]) for entry in entries if (found := _PREFIXED.fullmatch(entry.name))
    ]
    if prefixed:
        return prefixed
    holder = folder / _HOLDER if (folder / _HOLDER).is_dir() else folder if folder.name == _HOLDER else None
    if holder is None:
        return []
    return [(entry, entry.name, None) for entry in sorted(holder.iterdir()) if entry.is_dir()]


def index(folder: Path) -> list[Record]:
    """List the images, sorted by id, with the modality and the part that their folder says.

    Raises:
        DatasetError: Two folders whose names are one modality.
    """
    found = []
    names: dict[tuple[str, str | None], Path] = {}
    for place, name, split in _places(folder):
        modality = _modality(name)
        other = names.setdefault((modality, split), place)
        if other != place:
            msg = f"{other} and {place}: both names mean the modality {modality!r}; rename one"
            raise DatasetError(msg)
        found += [(image, modality, split) for image in image_files(place)]
    ids = ids_of([image for image, _, _ in found], folder)
    records = [
        Record(id=name, image=image, modality=modality, split=split)
        for name, (image, modality, split) in zip(ids, found, strict=True)
    ]
    return sorted(records, key=lambda record: record.id)


def _modality(name: str) -> str:
    """A folder's name in small letters, digits and hyphens, with at least one letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain if re.search("[a-z]", plain) else f"domain-{plain}".rstrip("-")
