"""`check`: what a data set was taken for, what is in it, and everything that is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nucstyle.core.errors import ImageError, InputError
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.resize import resize_image, resize_labels
from nucstyle.core.sample import Sample
from nucstyle.core.threads import for_each
from nucstyle.data.dataset import Dataset, load
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.doctor import Survey, conclude, joined_fields, sort_findings, survey
from nucstyle.data.examine import Examined, examine
from nucstyle.data.fields import Fields
from nucstyle.data.findings import KINDS, Box, Finding
from nucstyle.data.image_io import write_png
from nucstyle.data.manifest import Record
from nucstyle.data.run_folder import RunFolder, check_target, write_json
from nucstyle.report.page import write_report
from nucstyle.report.pictures import draw_overlay
from nucstyle.workflows.provenance import data_fingerprint

FINDINGS = "findings.json"
_SAID = 5
"""So many findings of a kind are printed; all are in `findings.json`."""
_NAMED = 3
"""So many files of a finding are printed."""
_SHOWN = 12
"""So many of a kind are shown on the page."""
_AROUND_PX, _VIEW_PX, _TILE_PX, _GAP_PX = 32, 192, 120, 4
"""Pixels around a fault; the longest side of a picture of one image, before it is enlarged; of each of two; and between them."""


@dataclass(frozen=True, slots=True)
class Checkup:
    """What the doctor says of a data set."""

    survey: Survey
    images: tuple[Examined, ...]
    """In the order of the data set."""
    findings: tuple[Finding, ...]
    """Worst first."""
    fields: Fields

    @property
    def errors(self) -> list[Finding]:
        """What stops a training, or makes it worthless."""
        return [one for one in self.findings if one.severity == "error"]

    def result(self) -> dict[str, Any]:
        """Plain values for `result.json`."""
        readable = [one.record for one in self.images if one.outline is not None]
        several = joined_fields(readable, self.fields)
        nuclei = [one.n_nuclei for one in self.images if one.n_nuclei is not None]
        kinds = Counter(one.kind for one in self.findings)
        return {
            "format": 1,
            "verb": "check",
            "layout": self.survey.layout,
            "reason": self.survey.reason,
            "images": len(self.images),
            "annotated": len(nuclei),
            "nuclei": {
                "all": sum(nuclei),
                "least": min(nuclei, default=0),
                "median": median(nuclei) if nuclei else 0,
                "most": max(nuclei, default=0),
            },
            "sizes": dict(Counter(f"{one.size[1]} x {one.size[0]}" for one in self.images if one.size)),
            "types": dict(Counter(_type(one) for one in self.images if one.size)),
            "modalities": dict(Counter(one.record.modality for one in self.images if one.record.modality)),
            "parts": dict(Counter(one.record.split for one in self.images if one.record.split)),
            "fields": {"several": len(several), "images": sum(map(len, several))},
            "findings": {kind: {"severity": KINDS[kind].severity, "count": count} for kind, count in kinds.items()},
            "errors": len(self.errors),
        }


def _type(one: Examined) -> str:
    """For example `uint16 up to 4095, grey`: 12 bits in 16."""
    colour = {1: "grey", 3: "RGB"}.get(one.channels, f"{one.channels} channels")
    if one.channels > 1 and one.colours is not None and len(one.colours) == 1:
        colour += " without colour"
    return f"{one.dtype}, {colour}" if one.dtype == "uint8" else f"{one.dtype} up to {_bound(one.most):g}, {colour}"


def _bound(most: float) -> float:
    """The largest number of so many bits; floats as they are, roughly."""
    return float(2 ** int(most).bit_length() - 1) if most >= 2 and most == int(most) else float(f"{most:.2g}")


def check(
    data: Path | str,
    out: Path | None = None,
    *,
    progress: Progress = SILENT,
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    overwrite: bool = False,
) -> Checkup:
    """Look at every file of a data set.

    Args:
        data: A folder, file, glob or manifest.
        out: A run folder for `findings.json`, `result.json`, `samples/` and `report.html`; None = write nothing.
        progress: Shown to the person.
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open.
        overwrite: Replace a run in `out`.

    Returns:
        What was found.

    Raises:
        InputError: There is nothing to look at, or `out` cannot be written.
    """
    surveyed = survey(data, format=format, reading=reading)
    dataset = Dataset(surveyed.records, reading=reading)
    inputs = [Path(data), *dataset.files]
    if out is not None:
        check_target(out, resume=False, overwrite=overwrite, inputs=inputs)
    look = partial(examine, reading=reading)
    images = list(for_each(look, dataset.records, stage="look at images", unit="image", progress=progress))
    found, fields = conclude(images)
    checkup = Checkup(surveyed, tuple(images), tuple(sort_findings([*surveyed.findings, *found])), fields)
    if out is not None:
        config = {"verb": "check", "data": data_fingerprint(dataset), **reading.to_table()}
        with RunFolder.open(out, config, overwrite=overwrite, inputs=inputs) as run:
            run.write_environment(device="cpu", precision="fp32")
            _write_findings(run.path, checkup, reading)
            run.write_result(checkup.result())
            write_report(run.path)
    return checkup


def refuse_errors(data: Path | str, checkup: Checkup) -> None:
    """End with exit code 2 where a training would fail.

    Raises:
        InputError: With the number of errors.
    """
    if checkup.errors:
        kinds = ", ".join(dict.fromkeys(one.kind for one in checkup.errors))
        msg = f"{data}: a training would fail or learn what is wrong: {_errors(len(checkup.errors))} ({kinds}); mend first"
        raise InputError(msg)


def _errors(count: int) -> str:
    return "1 error" if count == 1 else f"{count} errors"


# On the terminal


def describe(data: Path | str, checkup: Checkup) -> Iterator[str]:
    """What the terminal shows."""
    result = checkup.result()
    yield f"{data}: {result['layout']} ({result['reason']})"
    yield f"images: {result['images']}{_counts(result['sizes'])}"
    yield f"types: {_counts(result['types'])[2:] or 'none'}"
    nuclei = result["nuclei"]
    yield (
        f"nuclei: {nuclei['all']} in {result['annotated']} annotated images, {nuclei['least']} to {nuclei['most']} an image, "
        f"median {nuclei['median']:g}"
    )
    for name in ("modalities", "parts"):
        yield f"{name}: {_counts(result[name])[2:] or 'not known'}"
    yield f"fields of view: {result['fields']['several']} of several images, {result['fields']['images']} images in all"
    yield from _told(checkup.findings)
    if not checkup.findings:
        yield "nothing wrong was found"


def _counts(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda one: -one[1])
    told = ", ".join(f"{count} of {name}" for name, count in most[:_SAID])
    return (f": {told}" if told else "") + (
        f", {sum(n for _, n in most[_SAID:])} of others" if len(most) > _SAID else ""
    )


def _told(findings: Sequence[Finding]) -> Iterator[str]:
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for one in findings:
        by_kind[one.kind].append(one)
    for kind, same in by_kind.items():
        known = KINDS[kind]
        yield f"{known.severity}: {known.title} ({len(same)}; {kind}): {known.remedy}"
        for one in same[:_SAID]:
            # Errors of reading name their file themselves.
            named = "" if not one.files or str(one.files[0]) in one.says else f"{_listed(one.files)}: "
            yield f"  {named}{one.says}{_image(one)}"
        if len(same) > _SAID:
            yield f"  and {len(same) - _SAID} more"


def _listed(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(map(str, files[:_NAMED])) + more


def _image(finding: Finding) -> str:
    """Which image it is about, where a file that describes many does not say so."""
    name = next(iter(finding.ids), "")
    said = " ".join([finding.says, *map(str, finding.files)])
    return "" if name in said else f" (image {name})"


# On the page


def _write_findings(run: Path, checkup: Checkup, reading: ReadOptions) -> None:
    records = {one.record.id: one.record for one in checkup.images if one.outline is not None}
    shown: Counter[str] = Counter()
    (run / "samples").mkdir()
    rows = []
    for one in checkup.findings:
        row = {
            **asdict(one),
            "severity": one.severity,
            "remedy": KINDS[one.kind].remedy,
            "title": KINDS[one.kind].title,
        }
        row["files"] = [str(file) for file in one.files]
        del row["is_below"]
        if shown[one.kind] < _SHOWN and (picture := _picture(one, records, reading)) is not None:
            row["picture"] = f"{one.kind}-{shown[one.kind]:02d}.png"
            write_png(run / "samples" / row["picture"], picture)
            shown[one.kind] += 1
        rows.append(row)
    write_json(run / FINDINGS, {"format": 1, "findings": rows})


def _picture(finding: Finding, records: Mapping[str, Record], reading: ReadOptions) -> Tensor | None:
    """The place of a fault with the labels around it, or the images that it is about side by side; None = none can be read."""
    samples = [_readable(records[name], reading) for name in finding.ids[:2] if name in records]
    if not samples:
        return None
    if len(samples) == 1:
        return _overlay(samples[0] if finding.box is None else _around(samples[0], finding.box), _VIEW_PX)
    if finding.kind != "swapped-labels":  # the others are about images, which contours would hide
        samples = [replace(sample, labels=None) for sample in samples]
    first, second = (_smaller(sample, _TILE_PX) for sample in samples)
    if finding.is_below is not None:  # as one image, so that no step in brightness is made between them
        image = torch.cat([first.image, second.image], dim=1 if finding.is_below else 2)
        return _overlay(replace(first, image=image), 2 * _TILE_PX)
    pictures = [_overlay(sample, _TILE_PX) for sample in (first, second)]
    height = min(picture.shape[1] for picture in pictures)
    return torch.cat([pictures[0][:, :height], torch.ones(3, height, _GAP_PX), pictures[1][:, :height]], dim=2)


def _readable(record: Record, reading: ReadOptions) -> Sample:
    """The image with its labels, or alone where these cannot be used."""
    try:
        return load(record, reading)
    except ImageError:
        return load(replace(record, labels=None), reading)


def _around(sample: Sample, box: Box) -> Sample:
    """The part of an image that a fault lies in."""
    height, width = sample.size
    rows = slice(max(0, box[0] - _AROUND_PX), min(height, box[2] + _AROUND_PX))
    columns = slice(max(0, box[1] - _AROUND_PX), min(width, box[3] + _AROUND_PX))
    labels = None if sample.labels is None else sample.labels[rows, columns]
    part = replace(sample, image=sample.image[:, rows, columns], labels=labels)
    return _resized(part, max(1, _VIEW_PX // max(part.size)))


def _smaller(sample: Sample, longest: int) -> Sample:
    """The image with its labels, no longer than `longest`."""
    return _resized(sample, min(1.0, longest / max(sample.size)))


def _resized(sample: Sample, factor: float) -> Sample:
    size = (max(1, round(sample.size[0] * factor)), max(1, round(sample.size[1] * factor)))
    labels = None if sample.labels is None else resize_labels(sample.labels, size)
    return replace(sample, image=resize_image(sample.image, size), labels=labels)


def _overlay(sample: Sample, longest: int) -> Tensor:
    """An image with the contours of its labels, no longer than `longest` before contours are drawn."""
    small = _smaller(sample, longest)
    return draw_overlay(small.image, small.labels, torch.zeros(small.size, dtype=torch.int32))
