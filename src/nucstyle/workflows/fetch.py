"""`fetch`: a public data set, from its publisher into a folder that every verb opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nucstyle.core.errors import DatasetError, OptionError
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.archives import unpack
from nucstyle.data.fetch import (
    RECORDS,
    FileRecord,
    Patience,
    check_same,
    download,
    read_records,
    record_of,
    write_records,
)
from nucstyle.data.formats.rle import read_table
from nucstyle.data.image_io import looks_like
from nucstyle.data.layouts import index_as, recognise
from nucstyle.data.manifest import Record, write_manifest
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.splits import with_known_split
from nucstyle.data.weights import copy_durably

ADDRESS = "https://data.broadinstitute.org/bbbc/BBBC038/"
"""Where the Broad Bioimage Benchmark Collection keeps DSB 2018, as its set BBBC038 (CC0)."""
_LAYOUT = "dsb2018"
_ZIP_START = b"PK"
_SHOWN_BYTES = 40


@dataclass(frozen=True, slots=True)
class Part:
    """A part of DSB 2018 as it is published."""

    archive: str
    """Holds `ID/images/ID.png`, and for training images `ID/masks/*.png`."""
    solution: str | None = None
    """The masks of test images, as a table of run lengths."""

    @property
    def files(self) -> list[str]:
        """Names of the files that make it up."""
        return [self.archive, *([self.solution] if self.solution else [])]


PARTS = {
    "train": Part("stage1_train.zip"),
    "test": Part("stage1_test.zip", "stage1_solution.csv"),
    "stage2": Part("stage2_test_final.zip", "stage2_solution_final.csv"),
}
"""By what `--part` calls them."""


def fetch(
    name: str,
    out: Path,
    *,
    progress: Progress = SILENT,
    part: str = "train",
    from_dir: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    address: str = ADDRESS,
    patience: Patience | None = None,
) -> Path:
    """Fetch a public data set.

    Args:
        name: `dsb2018`.
        out: The data set: `manifest.csv`, the archive and the folder of its name, for test images the table of their masks, and
            `fetch.json` with size and SHA-256 of what came at the first download, which later ones are compared with.
        progress: Shown to the person.
        part: `train`, `test` (of stage 1) or `stage2`.
        from_dir: A folder that holds the published files already; nothing is downloaded then.
        resume: Go on in `out`; what is there is compared with its record and not downloaded again.
        overwrite: Replace what an earlier call wrote to `out`; its records stay.
        address: Of the folder of the publisher, or of a mirror.
        patience: With the server; None = the defaults.

    Returns:
        `out`.

    Raises:
        InputError: The options are at fault, or the files cannot be had, are not what they should be, or not what came first.
    """
    chosen = _part(name, part)
    _check_given(chosen, from_dir)
    inputs = [from_dir] if from_dir else []
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    known = read_records(out / RECORDS)
    config = {"verb": "fetch", "dataset": name, "part": part}
    with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
        write_records(run.path / RECORDS, known)
        work = _Work(run.path, known, from_dir, address, patience, progress)
        if run.is_finished() and (out / Path(chosen.archive).stem).is_dir():
            work.check(chosen)
            return out
        run.write_environment(device="cpu", precision="as published")
        records = work.fetch(chosen)
        write_manifest(run.path / "manifest.csv", records)
        run.write_result(
            {
                "format": 1,
                "verb": "fetch",
                "dataset": name,
                "part": part,
                "images": len(records),
                "files": {file: asdict(work.records[file]) for file in chosen.files if file in work.records},
            }
        )
    return out


def _part(name: str, part: str) -> Part:
    if name != _LAYOUT:
        msg = f"{name}: no data set that can be fetched; known: {_LAYOUT}"
        raise OptionError(msg)
    if part not in PARTS:
        msg = f"--part {part}: unknown; known: {', '.join(PARTS)}"
        raise OptionError(msg)
    return PARTS[part]


def _check_given(part: Part, folder: Path | None) -> None:
    """Refuse a folder in which a file is missing, before anything is written."""
    missing = [file for file in part.files if folder and not (folder / file).is_file()]
    if missing:
        msg = f"{folder}: no {missing[0]} in it; put {' and '.join(part.files)} of {ADDRESS} there"
        raise DatasetError(msg)


class _Work:
    """Brings the files of a part into a folder.

    Attributes:
        records: Of all files that came to this folder.
    """

    def __init__(
        self,
        folder: Path,
        known: dict[str, FileRecord],
        from_dir: Path | None,
        address: str,
        patience: Patience | None,
        progress: Progress,
    ) -> None:
        self.records = dict(known)
        self._folder, self._from_dir, self._address = folder, from_dir, address
        self._patience, self._progress = patience, progress

    def check(self, part: Part) -> None:
        """Compare the files that are there with their records; whoever needs the space may have deleted an archive."""
        for file in part.files:
            for place in (self._folder, *([self._from_dir] if self._from_dir else [])):
                if (place / file).is_file():
                    self._check_same(file, place / file)

    def fetch(self, part: Part) -> list[Record]:
        """Get, unpack and list a part."""
        counted = self._counted(part.solution) if part.solution else set[str]()
        records = self._images(part.archive)
        if part.solution is None:
            return with_known_split(records)
        table = self._folder / part.solution
        missing = counted.difference(record.id for record in records)
        if missing:
            msg = f"{table}: {len(missing)} of its images are not in {part.archive}, such as {min(missing)}; fetch both again"
            raise DatasetError(msg)
        # Images that did not count in the competition have no masks.
        return [replace(record, labels=table, split="test") for record in records if record.id in counted]

    def _images(self, archive: str) -> list[Record]:
        """Get and unpack an archive; returns the images in it."""
        folder = self._folder / Path(archive).stem
        if not folder.is_dir():  # it gets its name when it is whole
            path = self._got(archive, _check_zip)
            try:
                unpack(path, folder, progress=self._progress)
            except DatasetError:
                if archive not in self.records and self._from_dir is None:
                    path.unlink()  # never proven whole, so that the next call gets it again
                raise
        records = index_as(_LAYOUT, _root(folder))
        self._record(archive)
        return records

    def _counted(self, table: str) -> set[str]:
        """Get a table of masks; returns the images that it counts."""
        path = self._got(table, counted_ids)
        if self._from_dir:
            copy_durably(path, self._folder / table)
        self._record(table)
        return counted_ids(path, str(path))

    def _got(self, file: str, check: Callable[[Path, str], object]) -> Path:
        """The file, compared with its record: in the folder that was given, here already, or downloaded."""
        place = self._place(file)
        if place.is_file():
            check(place, str(place))
            self._check_same(file, place)
            return place
        url = self._address.rstrip("/") + "/" + file

        def check_arrived(arrived: Path) -> None:
            check(arrived, url)
            self._check_same(file, arrived)

        download(url, place, check=check_arrived, patience=self._patience, progress=self._progress)
        return place

    def _check_same(self, file: str, path: Path) -> None:
        check_same(path, self.records.get(file), where=self._folder / RECORDS)

    def _place(self, file: str) -> Path:
        return (self._from_dir or self._folder) / file

    def _record(self, file: str) -> None:
        """Record what came, once it has proven to be what it should be."""
        if file not in self.records and self._place(file).is_file():
            self.records[file] = record_of(self._place(file))
            write_records(self._folder / RECORDS, self.records)


def _check_zip(path: Path, where: str) -> None:
    with path.open("rb") as file:
        head = file.read(_SHOWN_BYTES)
    if not head.startswith(_ZIP_START):
        raise DatasetError(_not_this(path, where, "a zip archive", head))


def _not_this(path: Path, where: str, what: str, head: bytes) -> str:
    return f"{where}: not {what} ({looks_like(path)}; first bytes {head!r}); look at {ADDRESS} with a browser"


def counted_ids(path: Path, where: str) -> set[str]:
    """The images whose masks a solution of DSB 2018 gives, and which counted in the competition.

    Args:
        path: A table with the columns `ImageId`, `EncodedPixels` and maybe `Usage`; rows whose usage is `Ignored` do not count.
        where: What to call it in messages.

    Raises:
        DatasetError: Not such a table, or no row in it counts.
    """
    try:
        ids = set(read_table(path).lines)
    except DatasetError:  # which names a line; of a page of a web server, its first bytes tell more
        ids = set()
    if not ids:
        with path.open("rb") as file:
            head = file.read(_SHOWN_BYTES)
        raise DatasetError(_not_this(path, where, "a table of ImageId and EncodedPixels", head))
    return ids


def _root(folder: Path) -> Path:
    """The folder of the folders of images: this one, or the one in it that the archive was made of.

    Raises:
        DatasetError: There is none.
    """
    for place in (folder, *_folders(folder)):
        found = recognise(place)
        if found and found[0] == _LAYOUT:
            return place
    msg = f"{folder}: no folder ID/images in it; delete {folder.name} and its archive, and fetch it again"
    raise DatasetError(msg)


def _folders(folder: Path) -> Sequence[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())
