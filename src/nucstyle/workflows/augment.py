"""`augment`: a data set becomes a larger one, with restyled copies of training images beside their masks (paper, section 2.3)."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nucstyle.augment.base import check_choice
from nucstyle.augment.gate import ACCEPTED, GIVEN_UP, OUTCOMES
from nucstyle.augment.style import StyleTransfer, generator_of
from nucstyle.core import rng
from nucstyle.core.errors import DatasetError, ImageError, InputError, OptionError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import deterministic
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.resize import middle
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.formats import in_words
from nucstyle.data.image_io import from_unit, read_pixels, write_png, written_as
from nucstyle.data.layouts import Writing, as_written, writing_of
from nucstyle.data.ledger import ORIGINAL, REFUSED, RESTYLED, Ledger, Row, refuse_restyled
from nucstyle.data.manifest import Record, check_file_names, check_unique, file_name, write_manifest
from nucstyle.data.pixel_cache import CacheUse
from nucstyle.data.run_folder import RunFolder, check_outside, check_target, read_log
from nucstyle.data.weights import Weights, load_weights
from nucstyle.modality.model import ModalityModel
from nucstyle.report.page import write_report
from nucstyle.report.pictures import VIEW_PX, draw_overlay
from nucstyle.workflows.arms import ArmGate, make_gate, tally_table
from nucstyle.workflows.load import find_weights, style_from_weights
from nucstyle.workflows.named import with_modalities
from nucstyle.workflows.provenance import data_fingerprint, seen_by

EXAMPLES = "examples.jsonl"
"""A line for each picture in `samples/`."""
_MEASURES = ("separation", "lost", "new", "edges")


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
    lift: float = 0.6,
    rgb: bool = False,
    gate: bool = True,
    judge: Path | str | None = "dsb2018",
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    cache: CacheUse = True,
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
        to: The layout that is written, one of `data.layouts.WRITABLE`.
        targets: Modalities that copies are moved into; None = all that the model knows.
        balance: Choose the targets so that, originals counted, all come as equally often as can be, instead of at random.
        exclude_own: Never move an image into the modality that it has.
        lift: Dim nuclei grow clearer before they are restyled, by a power from this to 1; see `StyleTransfer`. 1 = never.
        rgb: Write grey images with three channels, so that copies keep their colours; otherwise those of grey images are grey.
        gate: Whether copies in which nuclei are not where they were are drawn again, and left out after a few times.
        judge: Weights of the network that looks for new nuclei then: a name, a file or a run; None = none does.
        seed: Of the styles; a copy depends on it, the image and its id alone, and under `balance` on the ids of the others.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open.
        cache: Whether to use what was decoded before, as for `open_dataset`.
        resume: Go on in `out`; what is there is not made again.
        overwrite: Replace what an earlier call wrote to `out`.

    Returns:
        `out`.

    Raises:
        InputError: The options are at fault, or images could not be used: the others are done, then these are listed.
    """
    place, layout = choose_device(device), writing_of(to)
    weights_file = find_weights(style, "style")
    weights = load_weights(weights_file, kind="style")
    model = style_from_weights(weights, str(weights_file), device=place)
    check_choice(1.0, targets, model.modalities)
    arm_gate = make_gate(judge, device=place) if gate else None
    makers = {
        name: StyleTransfer(
            model,
            p=1.0,
            targets=[name],
            exclude_own=exclude_own,
            gate=arm_gate.gate if arm_gate else None,
            lift=lift,
        )
        for name in targets or model.modalities
    }
    dataset = open_dataset(data, format=format, reading=reading, cache=cache)
    inputs = [
        Path(data),
        weights_file,
        *dataset.files,
        *([find_weights(judge, "judge")] if gate and judge is not None else []),
    ]
    refuse_restyled(Path(data), "augmenting")
    check_outside(out, Path(data))
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    config = {
        "verb": "augment",
        "seed": seed,
        "copies": copies,
        "to": to,
        "targets": list(makers),
        "balance": balance,
        "exclude_own": exclude_own,
        "lift": lift,
        "rgb": rgb,
        "style_sha256": weights.sha256,
        "data": data_fingerprint(dataset),
        **({"gate": arm_gate.to_table()} if arm_gate else {}),
    }
    refused: list[str] = []
    recogniser = ModalityModel.from_state(weights.metadata["modality_model"])
    named = with_modalities(dataset, recogniser, progress, refused=refused)
    given = {record.id: record.modality for record in dataset.records}
    planned = plan(
        named,
        copies=copies,
        targets=list(makers),
        balance=balance,
        exclude_own=exclude_own,
        seed=seed,
        annotated_only=layout.needs_labels,
    )
    _check_names(named, planned, layout)
    with RunFolder.open(out, config, resume=resume, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device=place, precision="auto")
        work = _Work(run.path, layout, makers, weights, given, seed=seed, rgb=rgb or layout.needs_colour)
        if not run.is_finished():
            with deterministic(place):
                refused += work.write(named, planned, progress)
            work.finish(named)
            seen = seen_by(weights, arm_gate.judge if arm_gate else None)
            told = {"refused_images": refused, "seen": seen, **work.summary(model.modalities, arm_gate)}
            run.write_result({"format": 1, "verb": "augment", "seed": seed, **told})
            made = {status: sum(one.values()) for status, one in told["images"].items()}
            progress.say(
                f"{made[ORIGINAL]} images, {made[RESTYLED]} restyled copies, of images of the part train or of none; "
                f"{made[REFUSED]} copies were refused"
            )
        write_report(run.path)
    if refused:
        msg = f"{len(refused)} of {len(dataset)} images could not be used, the others are done: " + "; ".join(refused)
        raise InputError(msg)
    return out


def _check_names(dataset: Dataset, planned: Sequence[Sequence[_Copy]], layout: Writing) -> None:
    """Refuse images and copies whose files would overwrite each other, before anything is written.

    Raises:
        DatasetError: With both named.
    """
    copies = [
        replace(record, id=copy_id(record.id, one.number))
        for record, those in zip(dataset.records, planned, strict=True)
        for one in those
    ]
    everything = [*dataset.records, *copies]
    check_unique(everything, "the ids of copies")
    check_file_names(everything)
    if layout.check_name:
        for record in everything:
            layout.check_name(record)


def plan(
    dataset: Dataset,
    *,
    copies: int,
    targets: Sequence[str],
    balance: bool,
    exclude_own: bool,
    seed: int,
    annotated_only: bool = False,
) -> list[list[_Copy]]:
    """Which copies are made of each image.

    Args:
        dataset: Images with their modalities.
        copies: Of each training image.
        targets: Names of modalities.
        balance: Whether the modalities are evened out: every copy goes to the modality that has fewest so far.
        exclude_own: Whether an image's own modality is no target; an image that has no other gets no copy.
        seed: Of the choice.
        annotated_only: Whether images without masks get none.

    Raises:
        DatasetError: There is no training image.
        OptionError: A number of copies that cannot be.
    """
    if copies < 1:
        msg = f"--copies {copies}: give 1 or more"
        raise OptionError(msg)
    chosen = [
        k
        for k, record in enumerate(dataset.records)
        if record.split in ("train", None) and (record.labels is not None or not annotated_only)
    ]
    if not chosen:
        kind = "annotated image" if annotated_only else "image"
        msg = f"no {kind} is of the part train, and only those get copies; correct the columns split and labels"
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
        layout: Writing,
        makers: Mapping[str, StyleTransfer],
        weights: Weights,
        given: Mapping[str, str | None],
        *,
        seed: int,
        rgb: bool,
    ) -> None:
        self._folder, self._layout, self._makers, self._weights = folder, layout, makers, weights
        self._given, self._seed, self._rgb = given, seed, rgb
        self._ledger = Ledger(folder)
        self._losses = Counter[str]()
        self._shown = {(one["source"], one["target"], one["outcome"]) for one in read_log(folder / EXAMPLES)}

    def write(self, dataset: Dataset, planned: Sequence[Sequence[_Copy]], progress: Progress) -> list[str]:
        """Write originals and copies; returns a line for each image that could not be used."""
        (self._folder / "samples").mkdir(exist_ok=True)
        done, refused = self._ledger.done, list[str]()
        progress.start("augment", len(dataset), "image")
        for index, record in enumerate(dataset.records):
            missing = [one for one in planned[index] if (record.id, str(one.number)) not in done]
            is_there = (record.id, "0") in done
            if missing or not is_there:
                # Whatever is divided later, copies must stay with their image.
                record = replace(record, field_of_view=record.field_of_view or record.id)
                try:
                    sample = dataset[index]
                    if not is_there:
                        self._write_original(sample, record, dataset.reading)
                except ImageError as error:
                    refused.append(str(error))
                else:
                    for one in missing:
                        self._write_copy(sample, record, one)
            progress.advance(index + 1)
        if self._losses:
            progress.say(f"warning: the layout cannot hold everything; {in_words(self._losses)}")
        return refused

    def _write_original(self, sample: Sample, record: Record, reading: ReadOptions) -> None:
        pixels = as_written(read_pixels(record.image, reading), colour=self._rgb)
        written = self._layout.write(self._folder, file_name(record.id), pixels, sample.labels, record.split)
        self._losses.update(written.losses)
        original = replace(record, image=written.image, labels=written.labels, modality=self._given[record.id])
        self._ledger.add(
            original,
            {
                "copy": "0",
                "status": ORIGINAL,
                "source_id": record.id,
                "source_modality": record.modality or "",
            },
        )

    def _write_copy(self, sample: Sample, record: Record, copy: _Copy) -> None:
        name, seed = copy_id(record.id, copy.number), rng.derive_seed(self._seed, record.id, copy.number)
        outcomes: Counter[str] = Counter()
        made: Sample | None = None
        for made, verdict in self._makers[copy.target].attempts(sample, generator_of(seed)):
            outcomes[verdict.outcome] += 1
            self._show(sample, made, copy.target, verdict.outcome)
        restyled = replace(record, id=name, modality=copy.target)
        row = {
            "copy": str(copy.number),
            "status": RESTYLED if outcomes[ACCEPTED] else REFUSED,
            "source_id": record.id,
            "source_modality": record.modality or "",
            "target_modality": copy.target,
            "seed": str(seed),
            "style_sha256": self._weights.sha256,
            "outcomes": json.dumps(outcomes, sort_keys=True),
        }
        if made is not None:
            row |= _measured(made)
        if made is not None and outcomes[ACCEPTED]:
            pixels = from_unit(made.image, written_as(sample.source, colour=self._rgb))
            written = self._layout.write(self._folder, file_name(name), pixels, made.labels, record.split)
            self._losses.update(written.losses)
            restyled = replace(restyled, image=written.image, labels=written.labels)
        self._ledger.add(restyled, row)

    def _show(self, sample: Sample, made: Sample, target: str, outcome: str) -> None:
        """Keep a picture of the first image of each pair of modalities that ended so: source and result, masks outlined."""
        key = (sample.modality or "", target, outcome)
        if key in self._shown:
            return
        self._shown.add(key)
        place = tuple(middle(side, VIEW_PX) for side in sample.size)
        labels = None if sample.labels is None else sample.labels[place]
        nothing = torch.zeros([part.stop - part.start for part in place], dtype=torch.int32)
        views = [draw_overlay(one.image[:, *place].cpu(), labels, nothing) for one in (sample, made)]
        file = f"{key[0]}-to-{target}-{outcome.replace(' ', '-')}.png"
        write_png(self._folder / "samples" / file, torch.cat(views, dim=2))
        line = {"file": file, "id": sample.id, "source": key[0], "target": target, "outcome": outcome}
        with (self._folder / EXAMPLES).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")

    def finish(self, dataset: Dataset) -> None:
        """Write what names all images, once they are there."""
        self._ledger.sort([record.id for record in dataset.records])
        records = self._ledger.records()
        write_manifest(self._folder / "manifest.csv", records)
        if self._layout.finish:
            copies = {row["id"] for row in self._ledger.rows if row["copy"] != "0"}
            self._layout.finish(self._folder, records, copies)

    def summary(self, modalities: Sequence[str], gate: ArmGate | None) -> dict[str, Any]:
        """For `result.json`: how many images of each modality there are, and what the gate did."""
        counts = {status: Counter[str]() for status in (ORIGINAL, RESTYLED, REFUSED)}
        tally = torch.zeros(len(modalities), len(modalities), len(OUTCOMES), dtype=torch.int64)
        for row in self._ledger.rows:
            is_original = row["status"] == ORIGINAL
            counts[row["status"]][row["source_modality" if is_original else "target_modality"]] += 1
            if is_original:
                continue
            pair = modalities.index(row["source_modality"]), modalities.index(row["target_modality"])
            for outcome, count in json.loads(row["outcomes"]).items():
                tally[*pair, OUTCOMES.index(outcome)] += count
            tally[*pair, OUTCOMES.index(GIVEN_UP)] += row["status"] == REFUSED and row["outcomes"] != "{}"
        told: dict[str, Any] = {"images": {status: dict(sorted(one.items())) for status, one in counts.items()}}
        if gate is not None:
            told["gate"] = tally_table(modalities, tally)
        return told


def _measured(made: Sample) -> Row:
    """The style of the last attempt and what the gate measured of it."""
    drawn = made.history[-1].drawn
    values, gate = drawn["attribute"], drawn.get("gate", {})
    assert isinstance(values, list)
    assert isinstance(gate, Mapping)
    style = {"attribute": " ".join(f"{value:.9g}" for value in values)}
    return style | {measure: f"{gate[measure]:.4f}" for measure in _MEASURES if measure in gate}


def copy_id(image_id: str, number: int) -> str:
    """The id of a copy."""
    return f"{image_id}-style{number}"
