"""`manifest.csv`: which image belongs to which labels, modality, part and field of view. A person may edit it."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from nucstyle.core.errors import DatasetError

COLUMNS = ("id", "image", "labels", "modality", "split", "field_of_view")
COMPONENTS = "components"
"""A further column, written where some line needs it: `yes` where connected pieces of one number are nuclei of their own."""
_MOST_BYTES = 255 - 32
"""What file systems take for a name, less what is added to an id."""
SPLITS = ("train", "validation", "test")
_MODALITY = re.compile(r"(?=.*[a-z])[a-z0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of a manifest: an image on disk and what is known of it."""

    id: str
    """Unique in the data set."""
    image: Path
    """The image file."""
    labels: Path | None = None
    """A label image, a file of outlines, a folder of binary masks, or None = not annotated."""
    modality: str | None = None
    """A name in [a-z0-9-]+, None where not known."""
    split: str | None = None
    """train, validation, test, or None = not divided."""
    field_of_view: str | None = None
    """Images of one field must stay in one part; None where not known."""
    components: bool = False
    """Whether every connected piece of one number in the labels is a nucleus, as in masks of 0 and 255."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """What keeps a data set from being listed: files, or lines, that do not fit the others."""

    kind: str
    """One of `findings.KINDS`."""
    files: tuple[Path, ...]
    message: str
    """One line: what, where, what to do."""


def listed(survey: tuple[list[Record], list[Misfit]]) -> list[Record]:
    """The records of a survey in which everything fits.

    Raises:
        DatasetError: The first misfit.
    """
    records, misfits = survey
    if misfits:
        raise DatasetError(misfits[0].message)
    return records


def read_manifest(path: Path) -> list[Record]:
    """Read a manifest.

    Raises:
        DatasetError: A missing column, a doubled id, or a value that is not allowed; the line is named.
    """
    return listed(survey_manifest(path))


def survey_manifest(path: Path) -> tuple[list[Record], list[Misfit]]:
    """Read what can be read of a manifest.

    Returns:
        The good lines, and what is wrong with each of the others.

    Raises:
        DatasetError: It is no such table at all.
    """
    if path.exists() and not path.is_file():
        msg = f"{path}: not a regular file; give a manifest.csv"
        raise DatasetError(msg)
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; give a manifest.csv"
        raise DatasetError(msg) from None
    try:
        return _read_table(content.decode("utf-8-sig"), path)  # line breaks inside a quoted field stay as they are
    except UnicodeDecodeError as error:
        survey = _of_odd_names(content, path)
        if survey is None:
            msg = f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8"
            raise DatasetError(msg) from None
        return survey


def _of_odd_names(content: bytes, path: Path) -> tuple[list[Record], list[Misfit]] | None:
    """Names of files need not be UTF-8, and stand in a manifest as they are; None where the files are not there either."""
    try:
        records, misfits = _read_table(content.decode("utf-8-sig", "surrogateescape"), path)
    except DatasetError:
        return None
    return (records, misfits) if records and all(os.path.lexists(record.image) for record in records) else None


def _read_table(text: str, path: Path) -> tuple[list[Record], list[Misfit]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return _read_rows(reader, path)
    except csv.Error as error:
        msg = f"{path}: line {reader.line_num + 1}: not a table of comma-separated values ({error})"
        raise DatasetError(msg) from None


def _read_rows(reader: csv.DictReader[str], path: Path) -> tuple[list[Record], list[Misfit]]:
    missing = [column for column in COLUMNS[:2] if column not in (reader.fieldnames or ())]
    if missing:
        commas = "; save it with commas between the columns" if ";" in "".join(reader.fieldnames or ()) else ""
        msg = f"{path}: line 1: no column {missing[0]!r}; the first line must be {','.join(COLUMNS)}{commas}"
        raise DatasetError(msg)
    records: dict[str, Record] = {}
    misfits = []
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        try:
            record = _record(row, path.parent, where)
        except DatasetError as error:
            misfits.append(Misfit("manifest-line", (path,), str(error)))
            continue
        if record.id in records:
            msg = f"{where}: the id {record.id!r} stands here for the second time; ids are unique"
            misfits.append(Misfit("duplicated-name", (records[record.id].image, record.image), msg))
            continue
        records[record.id] = record
    return list(records.values()), misfits


def _record(row: dict[str, str], folder: Path, where: str) -> Record:
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if not values["id"] or not values["image"]:
        msg = f"{where}: id and image must not be empty"
        raise DatasetError(msg)
    if values["modality"] and not _MODALITY.fullmatch(values["modality"]):
        msg = f"{where}: modality {values['modality']!r}; use small letters, digits and hyphens"
        raise DatasetError(msg)
    if values["split"] and values["split"] not in SPLITS:
        msg = f"{where}: split {values['split']!r}; known: {', '.join(SPLITS)}, or empty"
        raise DatasetError(msg)
    components = (row.get(COMPONENTS) or "").strip()
    if components not in ("", "yes", "no"):
        msg = f"{where}: {COMPONENTS} {components!r}; known: yes, no, or empty"
        raise DatasetError(msg)
    return Record(
        id=values["id"],
        image=folder / values["image"],
        labels=folder / values["labels"] if values["labels"] else None,
        modality=values["modality"] or None,
        split=values["split"] or None,
        field_of_view=values["field_of_view"] or None,
        components=components == "yes",
    )


class LineWriter:
    """Writes lines of comma-separated values that come back as they are.

    Python's `csv` leaves a carriage return without quotes, which ends the line on reading.

    Args:
        file: Opened with `newline=""`.
    """

    def __init__(self, file: TextIO) -> None:
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, cells: Iterable[object]) -> None:
        """Write a line."""
        line = [str(cell) for cell in cells]
        (self._quoted if any("\r" in cell for cell in line) else self._plain).writerow(line)

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write several lines."""
        for row in rows:
            self.writerow(row)


def write_manifest(path: Path, records: Iterable[Record]) -> None:
    """Write a manifest; paths are stored relative to it."""
    lines = list(records)
    with_components = any(record.components for record in lines)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = LineWriter(file)
        writer.writerow([*COLUMNS, *([COMPONENTS] if with_components else [])])
        for record in lines:
            labels = _relative(record.labels, path.parent) if record.labels else ""
            image = _relative(record.image, path.parent)
            known = [record.modality or "", record.split or "", record.field_of_view or ""]
            components = ["yes" if record.components else ""] if with_components else []
            writer.writerow([record.id, image, labels, *known, *components])


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def check_unique(records: Sequence[Record], where: str) -> None:
    """Refuse two images of one id.

    Raises:
        DatasetError: With both files named.
    """
    seen: dict[str, Path] = {}
    for record in records:
        if record.id in seen:
            msg = f"{where}: {seen[record.id]} and {record.image} have the same id {record.id!r}; rename one of them"
            raise DatasetError(msg)
        seen[record.id] = record.image


def file_name(image_id: str) -> str:
    """The id as part of a file name: ids come from file names, only separators must go."""
    return image_id.replace("/", "_").replace("\\", "_")


def check_file_names(records: Iterable[Record]) -> None:
    """Refuse ids that cannot name a file, or whose files would overwrite each other.

    Raises:
        DatasetError: With the image, or both ids, named.
    """
    taken: dict[str, str] = {}
    for record in records:
        name = file_name(record.id)
        if not name.strip(".") or "\0" in name or len(os.fsencode(name)) > _MOST_BYTES:
            msg = f"{record.image}: the id {record.id!r} cannot name a file; rename the image"
            raise DatasetError(msg)
        other = taken.setdefault(name, record.id)
        if other != record.id:
            msg = f"{record.image}: the ids {other!r} and {record.id!r} give the same file name; rename one"
            raise DatasetError(msg)
