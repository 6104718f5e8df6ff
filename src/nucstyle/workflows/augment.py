"""`augment`: a data set becomes a larger one, with restyled copies of training images beside their masks (paper, section 2.3)."""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nucstyle.augment.gate import OUTCOMES
from nucstyle.augment.style import StyleTransfer
from nucstyle.core import rng
from nucstyle.core.errors import DatasetError, ImageError, InputError, OptionError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import deterministic
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.sample import Sample, Source
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.image_io import from_unit, read_pixels, write_png
from nucstyle.data.manifest import COLUMNS, Record, check_unique, write_manifest
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.weights import Weights, load_weights, replace_durably
from nucstyle.data.writers import finish_layout, writer_of
from nucstyle.modality.model import ModalityModel
from nucstyle.report.page import write_report
from nucstyle.report.pictures import draw_overlay
from nucstyle.workflows.arms import ArmGate, make_gate
from nucstyle.workflows.load import find_weights, style_from_weights
from nucstyle.workflows.named import with_modalities
from nucstyle.workflows.predict import check_names, file_name
from nucstyle.workflows.provenance import data_fingerprint

LEDGER = "augment_manifest.csv"
"""A line for every image, whether an original or a copy, as soon as its files are written."""
EXAMPLES = "examples.jsonl"
"""A line for each picture in `samples/`."""
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
_MEASURES = ("separation", "lost", "new", "edges")

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Copy:
    """One copy that is to be made."""

    number: int
    """From 1, of its image."""
    target: str


def augment(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    copies: int = 3,
    style: Path | str = "dsb2018",
    to: str = "pairs",
    targets: Sequence[str] | None = None,
    balance: bool = False,
    exclude_own: bool = False,
    rgb: bool = False,
    gate: bool = True,
    judge: Path | str | None = "dsb2018",
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a data set again, with restyled copies of its training images.

    Args:
        data: A folder, file, glob or manifest. Images of the part `train` and those that are not divided get copies; those of
            `validation` and `test` are written as they are. Copies inherit part and field of view.
        out: The data set, and the run folder: `manifest.csv`, `augment_manifest.csv`, `report.html`.
        progress: Shown to the person.
        copies: Of each training image.
        style: Style weights: a name, a file or a run.
        to: The layout that is written, one of `data.writers.LAYOUTS`.
        targets: Modalities that copies are moved into; None = all that the model knows.
        balance: Choose the targets so that, originals counted, all come as equally often as can be, instead of at random.
        exclude_own: Never move an image into the modality that it has.
        rgb: Write grey images with three channels, so that copies keep their colours; otherwise those of grey images are grey.
        gate: Whether copies in which nuclei are not where they were are drawn again, and left out after a few times.
        judge: Weights of the network that looks for new nuclei then: a name, a file or a run; None = none does.
        seed: Of the styles; a copy depends on it, the image and its id alone, and under `balance` on the ids of the others.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        resume: Go on in `out`; what is there is not made again.
        overwrite: Replace what an earlier call wrote to `out`.

    Returns:
        `out`.

    Raises:
        InputError: The options are at fault, or images could not be used: the others are done, then these are listed.
    """
    place, write_one = choose_device(device), writer_of(to)
    weights_file = find_weights(style, "style")
    weights = load_weights(weights_file, kind="style")
    model = style_from_weights(weights, str(weights_file), device=place)
    arm_gate = make_gate(judge, device=place) if gate else None
    makers = {
        name: StyleTransfer(
            model, p=1.0, targets=[name], exclude_own=exclude_own, gate=arm_gate.gate if arm_gate else None
        )
        for name in targets or model.modalities
    }
    if not makers:
        msg = f"no target modality; leave --targets out, or give some of {', '.join(model.modalities)}"
        raise OptionError(msg)
    dataset = open_dataset(data, format=format)
    check_names(dataset)
    inputs = [Path(data), weights_file, *dataset.files]
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    dataset = with_modalities(dataset, ModalityModel.from_state(weights.metadata["modality_model"]), progress)
    config = {
        "verb": "augment",
        "seed": seed,
        "copies": copies,
        "to": to,
        "targets": list(makers),
        "balance": balance,
        "exclude_own": exclude_own,
        "rgb": rgb or to == "nnunet",
        "style_sha256": weights.sha256,
        "data": data_fingerprint(dataset),
        **({"gate": arm_gate.to_table()} if arm_gate else {}),
    }
    planned = plan(dataset, copies=copies, targets=list(makers), balance=balance, exclude_own=exclude_own, seed=seed)
    with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device=place, precision="auto")
        if not run.is_finished():
            work = _Work(run.path, write_one, makers, weights, seed=seed, rgb=rgb or to == "nnunet")
            with deterministic(place):
                refused = work.write(dataset, planned, progress)
            if refused:
                msg = f"{len(refused)} of {len(dataset)} images could not be used, the others are done: " + "; ".join(
                    refused
                )
                raise InputError(msg)
            work.sort(dataset)
            records = work.records()
            write_manifest(run.path / "manifest.csv", records)
            finish_layout(to, run.path, records)
            run.write_result({"format": 1, "verb": "augment", "seed": seed, **work.summary(model.modalities, arm_gate)})
        write_report(run.path)
    return out


def plan(
    dataset: Dataset, *, copies: int, targets: Sequence[str], balance: bool, exclude_own: bool, seed: int
) -> list[list[_Copy]]:
    """Which copies are made of each image.

    Args:
        dataset: Images with their modalities.
        copies: Of each training image.
        targets: Names of modalities.
        balance: Whether the modalities are evened out: every copy goes to the modality that has fewest so far.
        exclude_own: Whether an image's own modality is no target; an image that has no other gets no copy.
        seed: Of the choice.

    Raises:
        DatasetError: There is no training image.
        OptionError: A number of copies that cannot be.
    """
    if copies < 1:
        msg = f"--copies {copies}: give 1 or more"
        raise OptionError(msg)
    chosen = [k for k, record in enumerate(dataset.records) if record.split in ("train", None)]
    if not chosen:
        msg = f"{dataset.records[0].image}: no image is of the part train, and only those get copies; correct the column split"
        raise DatasetError(msg)
    names = [dataset.records[k].modality or "" for k in chosen]
    planned: list[list[_Copy]] = [[] for _ in dataset.records]
    if not balance:
        for k, name in zip(chosen, names, strict=True):
            drawing = rng.generator("augment", "targets", seed, dataset.records[k].id)
            free = [target for target in targets if not (exclude_own and target == name)]
            drawn = [free[rng.integer(0, len(free), drawing)] for _ in range(copies)] if free else []
            planned[k] = [_Copy(number, target) for number, target in enumerate(drawn, start=1)]
        return planned
    for slot, target in _evened(names, copies, targets, exclude_own=exclude_own, seed=seed):
        k = chosen[slot]
        planned[k].append(_Copy(len(planned[k]) + 1, target))
    return planned


def _evened(
    names: Sequence[str], copies: int, targets: Sequence[str], *, exclude_own: bool, seed: int
) -> list[tuple[int, str]]:
    """A target for every copy of every image, in a random order of the images: the one that has fewest images so far."""
    counts = Counter(names)
    order = torch.randperm(len(names) * copies, generator=rng.generator("augment", "balance", seed)).tolist()
    heap = [(counts[target], number, target) for number, target in enumerate(targets)]
    heapq.heapify(heap)
    assigned = []
    for slot in (place % len(names) for place in order):
        passed = []
        while heap and exclude_own and heap[0][2] == names[slot]:
            passed.append(heapq.heappop(heap))
        if heap:
            count, number, target = heapq.heappop(heap)
            assigned.append((slot, target))
            heapq.heappush(heap, (count + 1, number, target))
        for one in passed:
            heapq.heappush(heap, one)
    return assigned


class _Work:
    """Writes one image after the other, and a line of the ledger for each; what the ledger has is not made again."""

    def __init__(
        self,
        folder: Path,
        write_one: Any,  # noqa: ANN401
        makers: Mapping[str, StyleTransfer],
        weights: Weights,
        *,
        seed: int,
        rgb: bool,
    ) -> None:
        self._folder, self._write, self._makers, self._weights = folder, write_one, makers, weights
        self._seed, self._rgb = seed, rgb
        self._rows = _read_ledger(folder / LEDGER)
        self._shown = {(one["source"], one["target"], one["outcome"]) for one in _read_examples(folder)}

    def write(self, dataset: Dataset, planned: Sequence[Sequence[_Copy]], progress: Progress) -> list[str]:
        """Write originals and copies; returns a line for each image that could not be used."""
        check_unique(
            [
                *dataset.records,
                *(
                    replace(record, id=copy_id(record.id, one.number))
                    for record, copies in zip(dataset.records, planned, strict=True)
                    for one in copies
                ),
            ],
            "the ids of copies",
        )
        (self._folder / "samples").mkdir(exist_ok=True)
        done, refused = {(row["source_id"], row["copy"]) for row in self._rows}, list[str]()
        progress.start("augment", len(dataset), "image")
        for index, record in enumerate(dataset.records):
            missing = [one for one in planned[index] if (record.id, str(one.number)) not in done]
            is_there = (record.id, "0") in done
            if missing or not is_there:
                try:
                    sample = dataset[index]
                    if not is_there:
                        self._write_original(sample, record)
                except ImageError as error:
                    refused.append(str(error))
                else:
                    for one in missing:
                        self._write_copy(sample, record, one)
            progress.advance(index + 1)
        return refused

    def _write_original(self, sample: Sample, record: Record) -> None:
        pixels = read_pixels(record.image)
        if self._rgb and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8) * 255
        written = self._write(self._folder, file_name(record.id), pixels, sample.labels, record.split)
        row = {"copy": "0", "status": ORIGINAL, "source_id": record.id}
        self._note(replace(record, image=written.image, labels=written.labels), row)

    def _write_copy(self, sample: Sample, record: Record, copy: _Copy) -> None:
        name, seed = copy_id(record.id, copy.number), rng.derive_seed(self._seed, record.id, copy.number)
        outcomes: Counter[str] = Counter()
        taken = None
        for made, verdict in self._makers[copy.target].attempts(sample, rng.generator(seed)):
            outcomes[verdict.outcome] += 1
            self._show(sample, made, copy.target, verdict.outcome)
            taken = made
        row = {
            "copy": str(copy.number),
            "status": REFUSED,
            "source_id": record.id,
            "source_modality": record.modality or "",
            "target_modality": copy.target,
            "seed": str(seed),
            "style_sha256": self._weights.sha256,
            "outcomes": json.dumps(outcomes, sort_keys=True),
        }
        if taken is None or not outcomes["accepted"]:
            self._note(replace(record, id=name, image=Path(), labels=None, modality=copy.target), row)
            return
        pixels = from_unit(taken.image, _target_source(sample.source, rgb=self._rgb))
        written = self._write(self._folder, file_name(name), pixels, taken.labels, record.split)
        drawn = taken.history[-1].drawn
        measured = drawn.get("gate", {})
        assert isinstance(measured, Mapping)
        row |= {
            "status": RESTYLED,
            "attribute": " ".join(f"{value:.9g}" for value in _numbers(drawn["attribute"])),
            **{measure: f"{measured[measure]:.4f}" for measure in _MEASURES if measure in measured},
        }
        self._note(replace(record, id=name, image=written.image, labels=written.labels, modality=copy.target), row)

    def _show(self, sample: Sample, made: Sample, target: str, outcome: str) -> None:
        """Keep a picture of the first image of each pair of modalities that ended so: source and result, masks outlined."""
        key = (sample.modality or "", target, outcome)
        if key in self._shown:
            return
        self._shown.add(key)
        nothing = torch.zeros(sample.size, dtype=torch.int32)
        views = [draw_overlay(one.image.cpu(), sample.labels, nothing) for one in (sample, made)]
        file = f"{key[0]}-to-{target}-{outcome.replace(' ', '-')}.png"
        write_png(self._folder / "samples" / file, torch.cat(views, dim=2))
        line = {"file": file, "id": sample.id, "source": key[0], "target": target, "outcome": outcome}
        with (self._folder / EXAMPLES).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")

    def _note(self, record: Record, row: Row) -> None:
        """Add a line to the ledger; by then the files are there."""
        has_image = row["status"] != REFUSED
        table = {
            "id": record.id,
            "image": _relative(record.image, self._folder) if has_image else "",
            "labels": _relative(record.labels, self._folder) if record.labels else "",
            "modality": record.modality or "",
            "split": record.split or "",
            "field_of_view": record.field_of_view or "",
            **row,
        }
        with (self._folder / LEDGER).open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.DictWriter(file, LEDGER_COLUMNS, lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(table)
        self._rows.append({name: table.get(name, "") for name in LEDGER_COLUMNS})

    def sort(self, dataset: Dataset) -> None:
        """Bring the ledger into the order of the data set, in which it is unless the work was stopped."""
        places = {record.id: place for place, record in enumerate(dataset.records)}
        self._rows.sort(key=lambda row: (places[row["source_id"]], int(row["copy"])))
        _write_ledger(self._folder / LEDGER, self._rows)

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
            for row in self._rows
            if row["status"] != REFUSED
        ]

    def summary(self, modalities: Sequence[str], gate: ArmGate | None) -> dict[str, Any]:
        """For `result.json`: how many images of each modality there are, and what the gate did."""
        counts = {status: Counter[str]() for status in (ORIGINAL, RESTYLED, REFUSED)}
        tally = torch.zeros(len(modalities), len(modalities), len(OUTCOMES), dtype=torch.int64)
        for row in self._rows:
            counts[row["status"]][row["modality"]] += 1
            if row["status"] == ORIGINAL:
                continue
            pair = modalities.index(row["source_modality"]), modalities.index(row["target_modality"])
            for outcome, count in json.loads(row["outcomes"]).items():
                tally[*pair, OUTCOMES.index(outcome)] += count
            tally[*pair, -1] += row["status"] == REFUSED and row["outcomes"] != "{}"
        told: dict[str, Any] = {"images": {status: dict(sorted(one.items())) for status, one in counts.items()}}
        if gate is not None:
            told["gate"] = {"outcomes": list(OUTCOMES), "modalities": list(modalities), "tally": tally.tolist()}
        return told


def copy_id(image_id: str, number: int) -> str:
    """The id of a copy."""
    return f"{image_id}-style{number}"


def _target_source(source: Source | None, *, rgb: bool) -> Source:
    """The type and range that a copy is written in: those of its image."""
    if source is None or source.dtype == "bool":
        return Source(channels=3 if rgb or source is None else source.channels)
    return replace(source, channels=3) if rgb else source


def _numbers(values: object) -> list[float]:
    assert isinstance(values, list)
    return values


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _read_ledger(path: Path) -> list[Row]:
    """The lines that are whole, of files that are there; a write that was cut off leaves a part of one, which is taken off."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    whole = text[: text.rfind("\n") + 1]
    rows = [row for row in csv.DictReader(io.StringIO(whole, newline="")) if None not in row.values()]
    kept = [row for row in rows if not row["image"] or (path.parent / row["image"]).is_file()]
    _write_ledger(path, kept)
    return kept


def _write_ledger(path: Path, rows: Sequence[Row]) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, LEDGER_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    replace_durably(partial, path)


def _read_examples(folder: Path) -> list[dict[str, str]]:
    path = folder / EXAMPLES
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
