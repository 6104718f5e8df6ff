"""What lies beside the files of a data set as if it were meant, and is not read: such images and labels vanish without a word."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from nucstyle.core.protocols import Progress
from nucstyle.data.findings import Finding
from nucstyle.data.formats.pairs import LABEL_FOLDERS
from nucstyle.data.image_io import is_image_name, is_unread_picture
from nucstyle.data.layouts import MANIFEST, NAMED
from nucstyle.data.manifest import Record

_IMAGES = "images"
_MEANT = ("label", "labels", "mask", "masks", "annotation", "annotations")
"""Names of folders, in small letters, that look as if they held labels."""
_ENDINGS = ("_label", "_labels", "_mask", "_masks")
"""Of names of images, in small letters, that look like labels of another."""
NOT_READ = "files of that kind are not read, export them to TIFF, for example with Fiji"
"""What is said of `unread_pictures`."""
_HARMLESS_SUFFIXES = (".txt", ".md", ".csv", ".json")
_HARMLESS_NAMES = ("thumbs.db", "desktop.ini")


def unread(data: Path, layout: str, records: Sequence[Record], told: Collection[Path]) -> Iterator[Finding]:
    """Files, and folders of labels, that nothing reads.

    Args:
        data: The data set.
        layout: What the data set was taken for. A manifest says itself what counts, so that nothing beside it is missed.
        records: What is read of it.
        told: Files that are known not to fit.
    """
    if layout == MANIFEST:
        return
    yield from _named_as_labels(records)
    if layout == NAMED:
        return
    labels = [record.labels for record in records if record.labels is not None]
    used = {(path.parent, path.name.casefold()) for file in labels for path in (file, file.parent)}
    known = {*told, *labels, *(record.image for record in records)}
    for folder in dict.fromkeys(record.image.parent for record in records):
        root = folder.parent if folder.name == _IMAGES and folder != data else folder
        if root != folder:
            yield from _files(root, known)
        for file in unread_pictures([root]):
            yield Finding(kind="unread-file", says="nothing reads it", files=(file,))
        yield from _folders(root, used, () if root == folder else LABEL_FOLDERS)


def unread_pictures(folders: Iterable[Path]) -> Iterator[Path]:
    """Pictures of kinds that are not read, microscopes' own among them, that lie in these folders, by name."""
    for folder in dict.fromkeys(folders):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if is_unread_picture(file.name) and not file.name.startswith(".") and file.is_file():
                yield file


def warn_of_unread_pictures(data: Path, records: Sequence[Record], progress: Progress) -> None:
    """Say which pictures beside the images of a folder are left out since they are of a kind that is not read.

    Args:
        data: The data set; one that is no folder, or has a manifest, says itself what counts.
        records: What is read of it.
        progress: Told.
    """
    if not data.is_dir() or (data / "manifest.csv").is_file():
        return
    left = list(unread_pictures([data, *(record.image.parent for record in records if data in record.image.parents)]))
    if left:
        progress.say(f"warning: {in_short(left)}: left out; {NOT_READ}")


def in_short(files: Sequence[Path]) -> str:
    """The first by its path, the others by their number."""
    return f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _named_as_labels(records: Sequence[Record]) -> Iterator[Finding]:
    """Images without labels that are named as if they were the labels of another."""
    images = {(record.image.parent, record.image.stem): record.image for record in records}
    for record in (record for record in records if record.labels is None):
        stem = record.image.stem
        ending = next((ending for ending in _ENDINGS if stem.lower().endswith(ending)), "")
        other = images.get((record.image.parent, stem[: -len(ending)])) if ending else None
        if other is not None:
            says = f"taken for an image, but named as if it were the labels of {other.name}"
            yield Finding(kind="unread-labels", says=says, files=(record.image,), ids=(record.id,))


def _files(root: Path, known: Collection[Path]) -> Iterator[Finding]:
    """Of a folder that holds `images/`, the files in this and in folders of labels that are not known."""
    for folder in (root / name for name in (_IMAGES, *LABEL_FOLDERS)):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file not in known and _is_meant(file, known) and file.is_file():
                yield Finding(kind="unread-file", says="nothing reads it", files=(file,))


def _is_meant(file: Path, known: Collection[Path]) -> bool:
    """Whether a file in a folder of images or labels that is not known looks as if somebody wanted it to be read."""
    name = file.name.lower()
    if name.startswith(".") or name in _HARMLESS_NAMES or name.endswith(_HARMLESS_SUFFIXES):
        return False
    if file.parent in known:  # of masks, where other pictures are refused; or told as a whole
        return not is_image_name(name) and not is_unread_picture(name)
    return file.parent.name != _IMAGES or not is_image_name(name)  # of images, tables may leave some out


def _folders(root: Path, used: Collection[tuple[Path, str]], looked_into: Collection[str]) -> Iterator[Finding]:
    """Folders that are named as if they held labels, and from which none are read."""
    for folder in sorted(entry for entry in root.iterdir() if entry.name.casefold() in _MEANT and entry.is_dir()):
        is_used = (root, folder.name.casefold()) in used or folder.name in looked_into
        if not is_used and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            yield Finding(kind="unread-labels", says="nothing reads this folder", files=(folder,))
