"""`convert`: a data set, or what `predict` found, in another layout, images included."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nucstyle.core.errors import DatasetError, ImageError, InputError
from nucstyle.core.labels import relabel
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data import objects
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions, SizeError, Wanted
from nucstyle.data.formats import copy_image, in_words
from nucstyle.data.image_io import Array, is_tiff, read_labels, read_pixels, refusing, tiff_size, to_unit
from nucstyle.data.label_bands import BandedNuclei
from nucstyle.data.label_files import check_same_size, read_nuclei
from nucstyle.data.layouts import WRITABLE, Writing, as_written, writing_of
from nucstyle.data.manifest import Record, check_file_names, file_name, read_manifest, write_manifest
from nucstyle.data.predictions import LABELS, PREDICTIONS
from nucstyle.data.run_folder import (
    CONFIG,
    LOG,
    RunFolder,
    check_outside,
    check_target,
    read_config,
    read_log,
    write_text,
)
from nucstyle.report.page import write_report
from nucstyle.workflows.provenance import data_fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One image that is to be written."""

    record: Record
    """With the label map in place of the image where that is not found."""
    missing: Path | None = None
    """What is not found then: the image, or the manifest that named it."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """Of nuclei, by their numbers in the file."""


def convert(
    data: Path | str,
    out: Path,
    *,
    to: str,
    progress: Progress = SILENT,
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a data set in another layout, so that it can be read without the first.

    Args:
        data: A folder, file, glob or manifest; or a run of `predict`, whose label maps are written with the images that they
            were found in and, in GeoJSON, with their scores. Where these images are gone, the nuclei are written alone.
        out: The data set, and the run folder: `manifest.csv`, `objects.csv` (a line a nucleus), `report.html`.
        to: The layout that is written, one of `data.layouts.WRITABLE`.
        progress: Shown to the person.
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open; pixels are written as they are, whatever their range. Images of
            more pixels than it allows are copied, and their labels read in bands, where both are TIFF and the layout allows it.
        resume: Go on in `out`; what is there is not written again.
        overwrite: Replace what an earlier call wrote to `out`.

    Returns:
        `out`.

    Raises:
        InputError: The options are at fault, or images could not be used: the others are done, then these are listed.
    """
    layout = writing_of(to)
    entries = _entries(Path(data), format, reading)
    dataset = Dataset([entry.record for entry in entries])
    check_file_names(dataset.records)
    if layout.check_name:
        for record in dataset.records:
            layout.check_name(record)
    inputs = [Path(data), *dataset.files]
    check_outside(out, Path(data))
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    config = {"verb": "convert", "to": to, "data": data_fingerprint(dataset), **reading.to_table()}
    refused: dict[str, str] = {}
    with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device="cpu", precision="as in the files")
        if not run.is_finished():
            work = _Work(run.path, layout, reading)
            refused = work.write(entries, progress)
            run.write_result(
                {"format": 1, "verb": "convert", "to": to, "refused": list(refused), **work.finish(entries)}
            )
        objects.drop(run.path)
        write_report(run.path)
    if refused:
        msg = (
            f"{len(refused)} of {len(dataset)} images could not be used, the others are done: "
            f"{'; '.join(refused.values())}"
        )
        raise InputError(msg)
    return out


def _entries(data: Path, format: str | None, reading: ReadOptions) -> list[_Entry]:  # noqa: A002
    """What there is to write.

    Raises:
        DatasetError: As `open_dataset`, or a run of `predict` holds no label map.
    """
    is_run = format is None and (data / CONFIG).is_file() and (data / "predictions").is_dir()
    if is_run and read_config(data)["verb"] == "predict":
        return _predicted(data)
    return [_Entry(record=record) for record in open_dataset(data, format=format, reading=reading).records]


def _predicted(run: Path) -> list[_Entry]:
    """What a run of `predict` found; of one that was stopped, the label maps alone."""
    if (run / "manifest.csv").is_file():
        records = read_manifest(run / "manifest.csv")
    else:
        files = sorted((run / PREDICTIONS).glob(f"*{LABELS}"))
        records = [Record(id=file.name.removesuffix(LABELS), image=file, labels=file) for file in files]
    if not records:
        msg = f"{run}: holds no label map in predictions/; give another run, or predict again with --overwrite"
        raise DatasetError(msg)
    scores = _scores(run / objects.OBJECTS)
    entries = []
    for record in records:
        missing = record.image if not record.image.is_file() else None
        if record.image == record.labels:
            missing = run / "manifest.csv"
        known = replace(record, image=record.labels or record.image) if missing else record
        entries.append(_Entry(record=known, missing=missing, scores=scores.get(file_name(record.id), {})))
    return entries


def _scores(path: Path) -> dict[str, dict[int, float]]:
    """The column `score` of `objects.csv`, by file name of the image and number of the nucleus.

    Raises:
        DatasetError: A line holds no number, or a column is missing.
    """
    scores: dict[str, dict[int, float]] = {}
    if not path.is_file():
        return scores
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                scores.setdefault(file_name(row["image_id"]), {})[int(row["label"])] = _finite(row["score"])
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            msg = f"{path}: line {rows.line_num}: no image_id, label and score ({error}); predict again"
            raise DatasetError(msg) from None
    return scores


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        msg = f"{text} is no score"
        raise ValueError(msg)
    return number


def _read(entry: _Entry, reading: ReadOptions) -> tuple[Array | None, Tensor | None]:
    """The pixels of an image, where there is one, and its nuclei, where it is annotated.

    Raises:
        ImageError: They cannot be used.
    """
    record = entry.record
    if entry.missing:
        return None, read_labels(record.image, reading)
    pixels = read_pixels(record.image, reading)
    if pixels.dtype.kind not in "bui":
        to_unit(pixels, where=str(record.image))  # refuses what could not be read back, such as NaN
    return pixels, read_nuclei(record, (pixels.shape[0], pixels.shape[1]), reading)


def _renumbered(scores: Mapping[int, float], nuclei: BandedNuclei) -> dict[int, float]:
    """Scores by the numbers that nuclei have once they are numbered 1..N."""
    return {now: scores[one] for now, one in enumerate(nuclei.measures.number.tolist(), 1) if one in scores}


def _labels_of(entry: _Entry) -> Path | None:
    return entry.record.image if entry.missing else entry.record.labels


def _files_of(entry: _Entry) -> dict[Path, Wanted]:
    """What is read of an image, and what for."""
    files = {} if entry.missing else {entry.record.image: Wanted.COLOURS}
    labels = _labels_of(entry)
    return files if labels is None else files | {labels: Wanted.NUMBERS}


def _is_large(entry: _Entry, reading: ReadOptions) -> bool:
    """Whether an image need not be read whole, and is larger than may be: it and its labels are TIFF, and these have numbers.

    Raises:
        ImageError: A file is missing or damaged.
    """
    files = _files_of(entry)
    is_masked = entry.record.components and not entry.missing
    if is_masked or not all(_is_tiff(file) for file in files):
        return False
    sizes = [tiff_size(file, wanted, reading)[0] for file, wanted in files.items()]
    return any(math.prod(size) > reading.max_pixels for size in sizes)


def _remedy(entry: _Entry) -> str:
    """How an image that is too large to be read whole can be converted."""
    *others, last = (name for name in WRITABLE if writing_of(name).write_banded)
    odd = next((file for file in _files_of(entry) if not _is_tiff(file)), None)
    return (
        f"If image and labels are TIFF in tiles or strips{f', as {odd} is not' if odd else ''}, and nuclei have numbers, "
        f"--to {', '.join(others)} or {last} takes them of any size"
    )


def _is_tiff(path: Path) -> bool:
    if path.is_dir():  # of masks
        return False
    with refusing(path):
        return is_tiff(path)


def _check_large(record: Record, nuclei: BandedNuclei | None, reading: ReadOptions) -> None:
    """Refuse an image that cannot be copied as the file it is.

    Raises:
        ImageError: Its header says that it has another size than the labels, or it has other pages.
    """
    size, is_alone = tiff_size(record.image, Wanted.COLOURS, reading)
    if nuclei is not None:
        check_same_size(record, nuclei.size, size)
    if not is_alone:
        msg = (
            f"{record.image}: an image of {size[0]} x {size[1]} pixels is copied as the file it is, and this one holds others "
            "as well; save the wanted page as its own file, or raise --max-pixels"
        )
        raise ImageError(msg)


class _Done(NamedTuple):
    """What was written of an image."""

    image: Path | None
    labels: Path | None
    losses: Mapping[str, int]
    nuclei: BandedNuclei | None
    """None = not annotated."""


class _Work:
    """Writes one image after the other, and a line of the log for each; what the log has is not written again."""

    def __init__(self, folder: Path, layout: Writing, reading: ReadOptions) -> None:
        self._folder, self._layout, self._reading = folder, layout, reading
        self._lines = {line["id"]: line for line in read_log(folder / LOG) if self._is_there(line)}
        # Without what a write left that was cut off, to which the next line would be added.
        write_text(folder / LOG, "".join(f"{json.dumps(line)}\n" for line in self._lines.values()))

    def _is_there(self, line: Mapping[str, Any]) -> bool:
        # Labels of a layout that is finished at the end may stand in one file for all, which is not there before.
        names = ("image",) if self._layout.finish else ("image", "labels")
        is_measured = not line["labels"] or objects.is_kept(self._folder, line["id"])
        return is_measured and all((self._folder / line[name]).exists() for name in names if line[name])

    def write(self, entries: Sequence[_Entry], progress: Progress) -> dict[str, str]:
        """Write all that is missing; returns, by id, a line for each image that could not be used."""
        refused: dict[str, str] = {}
        progress.start("convert", len(entries), "image")
        for number, entry in enumerate(entries, start=1):
            if entry.record.id not in self._lines:
                try:
                    self._write_one(entry)
                except ImageError as error:
                    refused[entry.record.id] = str(error)
            progress.advance(number)
        lost = [entry.missing for entry in entries if entry.missing and entry.record.id in self._lines]
        if lost:
            progress.say(f"warning: {lost[0]} was not found; of {len(lost)} images the nuclei were written alone")
        if losses := self._told()["losses"]:
            progress.say(f"warning: the layout cannot hold everything; {in_words(losses)}")
        return refused

    def _write_one(self, entry: _Entry) -> None:
        try:
            is_large = self._layout.write_banded is not None and _is_large(entry, self._reading)
            done = self._write_large(entry) if is_large else self._write_whole(entry)
        except SizeError as error:
            msg = f"{error}. {_remedy(entry)}"
            raise ImageError(msg) from None
        record = entry.record
        if done.nuclei is not None:
            objects.keep(self._folder, record.id, done.nuclei.measures, _renumbered(entry.scores, done.nuclei))
        line = {
            "id": record.id,
            "image": self._relative(done.image),
            "labels": self._relative(done.labels),
            "nuclei": 0 if done.nuclei is None else len(done.nuclei),
            "losses": dict(done.losses),
        }
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._lines[record.id] = line

    def _write_whole(self, entry: _Entry) -> _Done:
        """Write an image, and its nuclei where it has some.

        Raises:
            ImageError: They cannot be used, or the image is missing, and the layout needs it.
        """
        folder, layout, name, part = self._folder, self._layout, file_name(entry.record.id), entry.record.split
        pixels, found = _read(entry, self._reading)
        ready = None if pixels is None else as_written(pixels, colour=layout.needs_colour)
        labels, nuclei = (None, None) if found is None else (relabel(found), BandedNuclei.of_map(found))
        if labels is not None and nuclei is not None and layout.write_nuclei:
            image = None if ready is None else layout.write(folder, name, ready, None, part).image
            return _Done(image, *layout.write_nuclei(folder, name, labels, _renumbered(entry.scores, nuclei)), nuclei)
        if ready is None:
            msg = (
                f"{entry.record.image}: {entry.missing} was not found, and this layout needs the image; "
                "use --to pairs, geojson or imagej"
            )
            raise ImageError(msg)
        written = layout.write(folder, name, ready, labels, part)
        return _Done(written.image, written.labels, written.losses, nuclei)

    def _write_large(self, entry: _Entry) -> _Done:
        """The same of an image that memory may not hold: it is copied, and its labels are read in bands.

        Raises:
            ImageError: A file cannot be used, or the two are of different sizes.
        """
        folder, record, labels = self._folder, entry.record, _labels_of(entry)
        nuclei = None if labels is None else BandedNuclei.of_file(labels, self._reading)
        image = None
        if not entry.missing:
            _check_large(record, nuclei, self._reading)
            image = copy_image(folder, file_name(record.id), record.image)
        if nuclei is None or self._layout.write_banded is None:
            return _Done(image, None, {}, None)
        scores = _renumbered(entry.scores, nuclei)
        return _Done(image, *self._layout.write_banded(folder, file_name(record.id), nuclei, scores), nuclei)

    def _relative(self, path: Path | None) -> str:
        return path.relative_to(self._folder).as_posix() if path else ""

    def finish(self, entries: Sequence[_Entry]) -> dict[str, Any]:
        """Write what names all images, once they are there; returns what there is, for `result.json`."""
        lines = [(entry.record, self._lines[entry.record.id]) for entry in entries if entry.record.id in self._lines]
        records = [
            replace(
                record,
                image=self._folder / line["image"],
                labels=self._folder / line["labels"] if line["labels"] else None,
                components=False,
            )
            for record, line in lines
            if line["image"]
        ]
        objects.write_kept(self._folder, [record for record, line in lines if line["labels"]])
        if records:
            write_manifest(self._folder / "manifest.csv", records)
            if self._layout.finish:
                self._layout.finish(self._folder, records, set())
        return self._told()

    def _told(self) -> dict[str, Any]:
        lines = self._lines.values()
        losses: Counter[str] = sum((Counter(line["losses"]) for line in lines), Counter())
        return {
            "images": len(lines),
            "annotated": sum(bool(line["labels"]) for line in lines),
            "nuclei": sum(line["nuclei"] for line in lines),
            "without_image": sum(not line["image"] for line in lines),
            "losses": dict(losses),
        }
