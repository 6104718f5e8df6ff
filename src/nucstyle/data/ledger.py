"""`augment_manifest.csv`: a line for every image of a larger data set, as soon as its files are written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nucstyle.core.errors import OptionError, RunFolderError
from nucstyle.data.manifest import COLUMNS, LineWriter, Record
from nucstyle.data.run_folder import RESULT, read_json
from nucstyle.data.weights import replace_durably

LEDGER = "augment_manifest.csv"
LEDGER_COLUMNS = (
    *COLUMNS,
    "copy",
    "status",
    "source_id",
    "source_modality",
    "target_modality",
    "attribute",
    "seed",
    "style_sha256",
    "separation",
    "lost",
    "new",
    "edges",
    "outcomes",
)
ORIGINAL, RESTYLED, REFUSED = "original", "restyled", "refused"
"""Status of a line: as it was; a copy in another style; no copy, since the gate refused every style."""

Row = dict[str, str]


class Ledger:
    """The lines of images whose files are there.

    A write that was cut off leaves a part of a line, which is taken off, and lines whose files are gone are forgotten.

    Args:
        folder: Of the data set.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows = _read(folder / LEDGER)

    @property
    def done(self) -> set[tuple[str, str]]:
        """(id of the source, number of the copy) of every line; 0 is the original."""
        return {(row["source_id"], row["copy"]) for row in self.rows}

    def add(self, record: Record, row: Row) -> None:
        """Add a line; by then the files are there, unless the copy was refused."""
        has_image = row["status"] != REFUSED
        table = {
            "id": record.id,
            "image": record.image.relative_to(self._folder).as_posix() if has_image else "",
            "labels": record.labels.relative_to(self._folder).as_posix() if record.labels and has_image else "",
            "modality": record.modality or "",
            "split": record.split or "",
            "field_of_view": record.field_of_view or "",
            **row,
        }
        whole = {name: table.get(name, "") for name in LEDGER_COLUMNS}
        with (self._folder / LEDGER).open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = LineWriter(file)
            if not file.tell():
                writer.writerow(LEDGER_COLUMNS)
            writer.writerow(whole.values())
        self.rows.append(whole)

    def sort(self, ids: Sequence[str]) -> None:
        """Bring the lines into the order of the data set, in which they are unless the work was stopped."""
        places = {name: place for place, name in enumerate(ids)}
        self.rows.sort(key=lambda row: (places[row["source_id"]], int(row["copy"])))
        _write(self._folder / LEDGER, self.rows)

    def records(self) -> list[Record]:
        """What was written, for `manifest.csv`."""
        return [
            Record(
                id=row["id"],
                image=self._folder / row["image"],
                labels=self._folder / row["labels"] if row["labels"] else None,
                modality=row["modality"] or None,
                split=row["split"] or None,
                field_of_view=row["field_of_view"] or None,
            )
            for row in self.rows
            if row["status"] != REFUSED
        ]


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    lines = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    try:
        if next(lines, list(LEDGER_COLUMNS)) != list(LEDGER_COLUMNS):
            msg = f"{path}: damaged, its first line is not {','.join(LEDGER_COLUMNS[:3])},...; start again with --overwrite"
            raise RunFolderError(msg)
        rows = [dict(zip(LEDGER_COLUMNS, line, strict=True)) for line in lines if len(line) == len(LEDGER_COLUMNS)]
    except csv.Error as error:
        msg = f"{path}: damaged ({error}); start again with --overwrite"
        raise RunFolderError(msg) from None
    kept = [row for row in rows if _is_whole(row, path.parent)]
    _write(path, kept)
    return kept


def _is_whole(row: Row, folder: Path) -> bool:
    """Whether a line says what can be, and its files are there."""
    try:
        outcomes = json.loads(row["outcomes"] or "{}")
        files = [folder / row[name] for name in ("image", "labels") if row[name]]
        is_meant = row["copy"].isdecimal() and row["status"] in (ORIGINAL, RESTYLED, REFUSED)
        return is_meant and isinstance(outcomes, dict) and all(file.exists() for file in files)
    except (ValueError, RecursionError, OSError):  # no JSON, or a name that no file can have
        return False


def _write(path: Path, rows: Sequence[Row]) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = LineWriter(file)
        for line in (LEDGER_COLUMNS, *(row.values() for row in rows)):
            writer.writerow(line)
    replace_durably(partial, path)


def _folder_of(data: Path) -> Path:
    return data if data.is_dir() else data.parent


def refuse_restyled(data: Path, purpose: str) -> None:
    """Refuse a data set of `augment` where real images are asked for, or the modality that a mask was drawn in.

    Args:
        data: The folder or its manifest.
        purpose: What it was to serve for.

    Raises:
        OptionError: It holds restyled images.
    """
    if (_folder_of(data) / LEDGER).is_file():
        msg = f"{data}: holds restyled images ({LEDGER}); {purpose} needs real ones, give the data that it was made of"
        raise OptionError(msg)


def seen_in_making(data: Path) -> Mapping[str, Any]:
    """What the models had seen that restyled the images of a data set: `trained_on`, `masks_seen`; nothing for other data."""
    folder = _folder_of(data)
    if not (folder / LEDGER).is_file() or not (folder / RESULT).is_file():
        return {}
    seen: Mapping[str, Any] = read_json(folder / RESULT).get("seen", {})
    return seen
