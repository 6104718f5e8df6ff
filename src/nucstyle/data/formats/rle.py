"""Run lengths in a table, as DSB 2018 gives its test masks: `ImageId,EncodedPixels[,Height,Width,Usage]`, a line a nucleus.

The images lie beside the table, in `images/` beside it, or in `ID/images/` as in DSB 2018. An image with one line whose second
field is empty shows no nucleus; an image without a line is not annotated. Lines whose `Usage` is `Ignored` are left out, and so
are images that have no other. Where two nuclei claim a pixel, the first line keeps it.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TextIO

from torch import Tensor

from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.core.rle import Numbers, decode_dsb, encode_dsb, label_map, runs_of
from nucstyle.data.formats import Written, dsb2018, fragments, image_files, pairs
from nucstyle.data.image_io import Array, write_pixels
from nucstyle.data.manifest import Record
from nucstyle.data.overlaps import refuse_lost
from nucstyle.data.run_folder import write_text

TABLE = "labels.csv"
"""What is written."""
COLUMNS = ("ImageId", "EncodedPixels")
_ID, _PIXELS = COLUMNS
_HEIGHT, _WIDTH, _USAGE = "Height", "Width", "Usage"
HEADING = ",".join(COLUMNS) + "\n"
"""The first line of a submission."""
_HEADING_WITH_SIZE = ",".join([*COLUMNS, _HEIGHT, _WIDTH]) + "\n"
_IGNORED = "ignored"
_LONGEST_LINE = 1 << 24
"""Characters; a nucleus of a million runs would need as many."""


class _Line(NamedTuple):
    """A line of a table: a nucleus, or that there is none."""

    number: int
    text: str
    size: tuple[int, int] | None
    """(height, width) of the image in pixels, where the table says it."""


class _Table(NamedTuple):
    lines: Mapping[str, Sequence[_Line]]
    """By ImageId."""
    ignored: frozenset[str]
    """Images all of whose lines are left out."""
    n_ignored: int
    """Lines that are left out."""


def evidence(path: Path) -> str | None:
    """A table has the column EncodedPixels, and no label images or masks say the same: of the two those would count."""
    tables = [path] if path.is_file() else _tables(path)
    tables = [table for table in tables if _PIXELS in _header(table)]
    if not tables or (path.is_dir() and _is_labelled(path)):
        return None
    try:
        n_ignored = read_table(tables[0]).n_ignored
    except DatasetError:  # said when it is listed
        n_ignored = 0
    left_out = f"; {n_ignored} lines are left out, since their {_USAGE} is Ignored" if n_ignored else ""
    return f"{tables[0].name} has a column {_PIXELS}{left_out}"


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".csv" and file.is_file())


def _header(table: Path) -> str:
    if table.suffix.lower() != ".csv":
        return ""
    try:
        with table.open(encoding="utf-8", errors="replace") as file:
            return file.readline(_LONGEST_LINE)
    except OSError:
        return ""


def _is_labelled(folder: Path) -> bool:
    if (folder / "images").is_dir():
        return (folder / "labels").is_dir() or (folder / "masks").is_dir()
    return any((entry / "masks").is_dir() and (entry / "images").is_dir() for entry in folder.iterdir())


def index(path: Path) -> list[Record]:
    """List the images, sorted by id.

    Args:
        path: The table, or the folder that holds it.

    Raises:
        DatasetError: No table or several, one that is damaged, or lines for images that are not there.
    """
    file = path if path.is_file() else _only_table(path)
    table, images = read_table(file), _images(file.parent)
    found = {record.image: _name_in(table, record.image, file.parent) for record in images}
    lonely = sorted(table.lines.keys() - set(found.values()), key=lambda name: table.lines[name][0].number)
    if lonely:
        msg = (
            f"{file}: line {table.lines[lonely[0]][0].number}: no image of the name {lonely[0]!r} in {file.parent} "
            f"({len(lonely)} such names); put the images beside the table or into images/"
        )
        raise DatasetError(msg)
    return [
        Record(id=record.id, image=record.image, labels=file if found[record.image] else None)
        for record in images
        if not table.ignored.intersection(_names(record.image, file.parent))
    ]


def _only_table(folder: Path) -> Path:
    tables = [table for table in _tables(folder) if _PIXELS in _header(table)]
    if len(tables) != 1:
        names = f" ({', '.join(table.name for table in tables)})" if tables else ""
        msg = f"{folder}: holds {len(tables)} tables with a column {_PIXELS}{names}; keep one, or name it as DATA"
        raise DatasetError(msg)
    return tables[0]


def _images(folder: Path) -> list[Record]:
    if (folder / "images").is_dir():
        return pairs.index_files(image_files(folder / "images"))
    return pairs.index_files(image_files(folder)) or dsb2018.index(folder)


def _names(image: Path, folder: Path) -> list[str]:
    """What a table may call an image: its name without or with suffix, or its folder in the manner of DSB 2018."""
    place = image.parent.parent
    is_own = image.parent.name == "images" and os.path.abspath(place.parent) == os.path.abspath(folder)
    return [image.stem, image.name, *([place.name] if is_own else [])]


def _name_in(table: _Table, image: Path, folder: Path) -> str | None:
    """The name by which a table knows an image; None = it has no line."""
    return next((name for name in _names(image, folder) if name in table.lines), None)


def read_nuclei(path: Path, record: Record, size: tuple[int, int]) -> Drawn:
    """Draw the nuclei that a table says an image has; as `label_files.LabelReader`.

    Raises:
        ImageError: No line of the image, run lengths that cannot be or that stand there twice, or most nuclei without a pixel.
    """
    table = read_table(path)
    name = _name_in(table, record.image, path.parent)
    if name is None:
        msg = f"{path}: no line for {record.image}; add one, with an empty {_PIXELS} if it shows no nucleus"
        raise ImageError(msg)
    lines = table.lines[name]
    nuclei: dict[int, Numbers] = {}
    seen: dict[tuple[bytes, bytes], int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {line.number}"
        if line.size not in (None, size):
            msg = f"{where}: {_HEIGHT} and {_WIDTH} are {line.size}, the image {record.image} is {size}; give its own"
            raise ImageError(msg)
        if not line.text:  # it says that there is no nucleus
            continue
        runs = decode_dsb(line.text, size, where=where)
        first = seen.setdefault((runs.starts.tobytes(), runs.lengths.tobytes()), line.number)
        if first != line.number:
            msg = f"{where}: run lengths: the same nucleus stands in line {first}; leave one of the lines out"
            raise ImageError(msg)
        nuclei[number] = runs.pixels()
    return refuse_lost(
        label_map(nuclei, size), len(nuclei), lambda number: f"line {lines[number - 1].number}", where=str(path)
    )


def read_table(path: Path) -> _Table:
    """Read a table; kept in memory until the file changes.

    Raises:
        DatasetError: It cannot be read or is no such table; the line is named.
    """
    try:
        state = path.stat()
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; give the table of run lengths"
        raise DatasetError(msg) from None
    return _read_once(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_once(path: Path, size: int, changed_ns: int) -> _Table:
    before = csv.field_size_limit(_LONGEST_LINE)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _gathered(path, _rows(path, file))
    except UnicodeDecodeError as error:
        msg = f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8"
        raise DatasetError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; give the table of run lengths"
        raise DatasetError(msg) from None
    finally:
        csv.field_size_limit(before)


def _bounded(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of a file; one that would fill the memory is refused before it does."""
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            msg = f"{path}: line {number}: longer than {_LONGEST_LINE:,} characters, which no nucleus needs; write it again"
            raise DatasetError(msg)
        yield line


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and fields of each line below the first."""
    reader = csv.reader(_bounded(path, file), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            commas = "; save it with commas between the columns" if ";" in "".join(header) else ""
            msg = f"{path}: line 1: no column {missing[0]!r}; the first line must be {','.join(COLUMNS)}{commas}"
            raise DatasetError(msg)
        for row in reader:
            if not row:  # an empty line
                continue
            if len(row) != len(header):
                msg = f"{path}: line {reader.line_num}: has {len(row)} fields, the first line has {len(header)}; correct it"
                raise DatasetError(msg)
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        msg = f"{path}: line {reader.line_num}: not a table of comma-separated values ({error}); write it again"
        raise DatasetError(msg) from None


def _gathered(path: Path, rows: Iterator[tuple[int, dict[str, str]]]) -> _Table:
    lines: dict[str, list[_Line]] = {}
    ignored: set[str] = set()
    n_ignored = 0
    for number, row in rows:
        where = f"{path}: line {number}"
        name = row[_ID]
        if not name.strip():
            msg = f"{where}: {_ID} is empty; give the name of the image"
            raise DatasetError(msg)
        if row.get(_USAGE, "").strip().lower() == _IGNORED:
            ignored.add(name)
            n_ignored += 1
            continue
        line = _Line(number, row[_PIXELS].strip(), _size(row, where))
        others = lines.setdefault(name, [])
        if others and not (line.text and others[0].text):
            msg = (
                f"{where}: an empty {_PIXELS} says that {name} shows no nucleus, but it has {len(others)} lines before; "
                "leave one of them out"
            )
            raise DatasetError(msg)
        others.append(line)
    return _Table(lines, frozenset(ignored - lines.keys()), n_ignored)


def _size(row: Mapping[str, str], where: str) -> tuple[int, int] | None:
    values = [row.get(name, "").strip() for name in (_HEIGHT, _WIDTH)]
    if not any(values):
        return None
    if not all(value.isascii() and value.isdigit() and len(value) < 10 for value in values):
        msg = f"{where}: {_HEIGHT} {values[0]!r} and {_WIDTH} {values[1]!r}; give both in pixels, or neither"
        raise DatasetError(msg)
    return int(values[0]), int(values[1])


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image, and keep its lines for `finish`; arguments and result as `formats.Writer`. The layout knows no parts.

    Two nuclei never share a pixel, which DSB 2018 refuses: a label map cannot say it.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    image = write_pixels(folder / "images" / name, pixels)
    if labels is None:
        return Written(image)
    fragments.keep(folder, name, rows_of(name, labels, with_size=True))
    table = folder / TABLE
    if not table.exists():
        write_text(table, _HEADING_WITH_SIZE)
    return Written(image, table)


def rows_of(name: str, labels: Tensor, *, with_size: bool = False) -> str:
    """The lines of an image: one for each nucleus by number, or one with an empty second field where there is none.

    Args:
        name: The ImageId.
        labels: (H, W) of any integer type, 0 = background.
        with_size: Whether Height and Width follow.
    """
    size = tuple(labels.shape) if with_size else ()
    texts = [encode_dsb(runs) for runs in runs_of(labels).values()]
    return _joined([name, text, *size] for text in texts or [""])


def _joined(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def finish(folder: Path, records: Sequence[Record], copies: Set[str]) -> None:
    """Join the lines of all images, in their order, in `labels.csv`.

    Args:
        folder: Of the data set.
        records: Of all images.
        copies: Ids of copies, which are images like others here.
    """
    names = [record.image.stem for record in records if record.labels]
    texts = [fragments.kept(folder, name) or _lines_again(folder / TABLE, name) for name in names]
    write_text(folder / TABLE, "".join([_HEADING_WITH_SIZE, *texts]))
    fragments.drop(folder)


def _lines_again(table: Path, name: str) -> str:
    """The lines of an image that were joined before: a work that is stopped after that joins again."""
    lines = read_table(table).lines.get(name)
    if lines is None:
        msg = f"{table}: the lines of {name} are lost; write the data set again with --overwrite"
        raise DatasetError(msg)
    return _joined([name, line.text, *(line.size or ())] for line in lines)


def check_name(record: Record) -> None:
    """Refuse an id that cannot stand in a table.

    Raises:
        DatasetError: With the image named.
    """
    try:
        record.id.encode("utf-8")
    except UnicodeEncodeError:
        msg = f"{record.image}: the id {record.id!r} is no text and cannot stand in a table; rename the image"
        raise DatasetError(msg) from None
