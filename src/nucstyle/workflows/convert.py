"""`convert`: a data set, or what `predict` found, in another layout, images included."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nucstyle.core.errors import DatasetError, ImageError, InputError
from nucstyle.core.labels import count, relabel
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.formats import in_words
from nucstyle.data.image_io import Array, read_labels, read_pixels, to_unit
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.layouts import Writing, as_written, writing_of
from nucstyle.data.manifest import Record, check_file_names, file_name, read_manifest, write_manifest
from nucstyle.data.predictions import LABELS, PREDICTIONS
from nucstyle.data.run_folder import CONFIG, LOG, RunFolder, check_target, read_config, read_log, write_text
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
        out: The data set, and the run folder: `manifest.csv`, `report.html`.
        to: The layout that is written, one of `data.layouts.WRITABLE`.
        progress: Shown to the person.
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open; pixels are written as they are, whatever their range.
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
    scores = _scores(run / "objects.csv")
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


def _renumbered(scores: Mapping[int, float], found: Tensor) -> dict[int, float]:
    """Scores by the numbers that nuclei have once they are numbered 1..N."""
    numbers = np.unique(found.numpy())
    return {now: scores[before] for now, before in enumerate(numbers[numbers > 0].tolist(), 1) if before in scores}


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
        return all((self._folder / line[name]).exists() for name in names if line[name])

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
        pixels, found = _read(entry, self._reading)
        image, annotation, losses = self._write_files(entry, pixels, found)
        line = {
            "id": entry.record.id,
            "image": self._relative(image),
            "labels": self._relative(annotation),
            "nuclei": 0 if found is None else count(found),
            "losses": dict(losses),
        }
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._lines[entry.record.id] = line

    def _write_files(
        self, entry: _Entry, pixels: Array | None, found: Tensor | None
    ) -> tuple[Path | None, Path | None, Mapping[str, int]]:
        """The files of image and nuclei, and what is lost in them.

        Raises:
            ImageError: The image is missing, and the layout needs it.
        """
        folder, layout, name, part = self._folder, self._layout, file_name(entry.record.id), entry.record.split
        ready = None if pixels is None else as_written(pixels, colour=layout.needs_colour)
        labels = None if found is None else relabel(found)
        if found is not None and labels is not None and layout.write_nuclei:
            image = None if ready is None else layout.write(folder, name, ready, None, part).image
            return image, *layout.write_nuclei(folder, name, labels, _renumbered(entry.scores, found))
        if ready is None:
            msg = (
                f"{entry.record.image}: {entry.missing} was not found, and this layout needs the image; "
                "use --to pairs, geojson or imagej"
            )
            raise ImageError(msg)
        written = layout.write(folder, name, ready, labels, part)
        return written.image, written.labels, written.losses

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
