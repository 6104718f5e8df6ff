"""A cell of a comparison: one arm trained with one seed, images predicted, and the written label files scored.

`demo` and `compare` train and score by this alone. `ARM/seed-N/` is a run folder with `PART/tta-MODE/predictions/`; its
`result.json` says that it is finished: `scores` by part of the data and mode of test-time augmentation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nucstyle.core.config import build
from nucstyle.core.errors import InputError, RunFolderError
from nucstyle.core.precision import Precision
from nucstyle.core.protocols import Progress
from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import CONFIG, RESULT, RunFolder, read_config, read_json, settled
from nucstyle.metrics.summary import summarise
from nucstyle.segmentation.detector import InferenceConfig
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.training.checkpoint import drop_checkpoints
from nucstyle.workflows.arms import gate_result, is_arm
from nucstyle.workflows.evaluate import score_files
from nucstyle.workflows.load import WEIGHTS, load_segmenter
from nucstyle.workflows.predict import predict_into
from nucstyle.workflows.selection import drop_measured
from nucstyle.workflows.submission import SUBMISSION, submission
from nucstyle.workflows.train_segmenter import SegmenterRun, fit_segmenter

VALIDATION = "validation"
"""The part that everything is chosen by."""
TEST = "test"
HIDDEN = "hidden"
"""Training images whose masks the protocol `transfer` hides from the trainings."""
OTHER = "other"
"""Images of another data set."""
_PREFIX = "seed-"

Cell = tuple[str, int, Path]
"""Arm, seed and folder of a cell."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What every cell is scored on."""

    parts: Mapping[str, Dataset]
    """Annotated images by the name of their part."""
    ttas: Sequence[str]
    """Modes of test-time augmentation."""
    largest: str | None
    """The modality with the most training images; the others are the minority."""
    pictures: bool = True
    """Whether previews and overlays are written beside the label files."""
    fingerprints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By part, of images that are not those that cells are trained on, and may be others the next time."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """By part, of the others: a hash over their files, so that it is noticed where they have changed."""

    def known(self, result: Mapping[str, Any], part: str) -> dict[str, Any]:
        """By mode what a cell's `result.json` says of a part; nothing where that was said of other images."""
        if result.get("scored_on", {}).get(part) != self.fingerprints.get(part):
            return {}
        scores: dict[str, Any] = result.get("scores", {}).get(part, {})
        return scores

    def missing(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(part, mode) that a cell has no scores of."""
        return [(part, tta) for part in self.parts for tta in self.ttas if tta not in self.known(result, part)]


def cell_folder(parent: Path, arm: str, seed: int) -> Path:
    """The run folder of an arm and a seed."""
    return parent / arm / f"{_PREFIX}{seed}"


def predictions_folder(cell: Path, part: str, tta: str) -> Path:
    """Where a cell's label files of a part lie."""
    return cell / part / f"tta-{tta}"


def is_finished(cell: Path) -> bool:
    """Whether a cell is trained and scored, with or without its weights."""
    return (cell / RESULT).is_file()


def is_complete(cell: Path, scoring: Scoring) -> bool:
    """Whether nothing is left to do for a cell."""
    return is_finished(cell) and not scoring.missing(read_cell(cell))


def read_cell(cell: Path) -> dict[str, Any]:
    """What a finished cell's `result.json` holds.

    Raises:
        RunFolderError: It is damaged.
    """
    return read_json(cell / RESULT, remedy=f"remove {cell}, and the cell is made anew")


def finished_cells(parent: Path) -> Iterator[Cell]:
    """(arm, seed, folder) of every finished cell; folders that are not named as an arm are somebody's own, put aside."""
    return (one for one in _with_result(parent) if (one[2] / CONFIG).is_file())


def check_configs(parent: Path) -> None:
    """Refuse a cell that has a result and has lost its `config.toml`, so that nobody can tell what it was trained as.

    Raises:
        RunFolderError: With the cell.
    """
    for _, _, cell in _with_result(parent):
        if not (cell / CONFIG).is_file():
            msg = f"{cell}: has a {RESULT}, but no {CONFIG} to say how it was trained; bring that back, or remove the cell"
            raise RunFolderError(msg)


def _with_result(parent: Path) -> Iterator[Cell]:
    for cell in sorted(parent.glob(f"*/{_PREFIX}*")):
        seed = cell.name.removeprefix(_PREFIX)
        if seed.isdecimal() and is_arm(cell.parent.name) and is_finished(cell):
            yield cell.parent.name, int(seed), cell


def run_cell(cell: Path, segmenter_run: SegmenterRun, scoring: Scoring, *, progress: Progress) -> dict[str, Any]:
    """Train a cell and score it.

    Args:
        cell: Its run folder; a training that was interrupted goes on.
        segmenter_run: The training.
        scoring: On what.
        progress: Shown to the person.

    Returns:
        Its `result.json`.

    Raises:
        RunFolderError: The folder holds a cell of another config.
        TrainingError, Interrupted: As the training.
    """
    with RunFolder.open(cell, segmenter_run.config("cell"), resume=True) as run:
        if not run.is_finished():
            fit_segmenter(run, segmenter_run, progress=progress)
            result = {
                "format": 1,
                "verb": "cell",
                "seed": segmenter_run.seed,
                "recipe": segmenter_run.recipe.name,
                "arm": segmenter_run.arm.name,
                "scores": {},
                **gate_result(segmenter_run.arm),
            }
            _score(run, result, scoring, segmenter_run.device, segmenter_run.precision, progress)
    return read_cell(cell)


def score_cell(cell: Path, scoring: Scoring, *, device: str, progress: Progress) -> dict[str, Any]:
    """Score a finished cell on what it has not been scored on; its weights must be there if anything is missing.

    Raises:
        RunFolderError: They are not, or another process has the cell open (`FolderInUseError`).
    """
    if not is_complete(cell, scoring):
        check_scorable(cell, scoring)
        config = read_config(cell)
        precision: Precision = config["precision"] if config["device"] == device.partition(":")[0] else "auto"
        with RunFolder.open(cell, config, resume=True) as run:
            result = read_cell(cell)  # another process may have scored it since
            if scoring.missing(result):
                _score(run, result, scoring, device, precision, progress)
    return read_cell(cell)


def check_scorable(cell: Path, scoring: Scoring) -> None:
    """Refuse a finished cell whose weights are gone where they are needed.

    Raises:
        RunFolderError: With what is missing.
    """
    if is_finished(cell) and not is_complete(cell, scoring) and not (cell / WEIGHTS).is_file():
        part, tta = scoring.missing(read_cell(cell))[0]
        msg = (
            f"{cell}: finished, but it has no score of these {part} images with tta {tta}, and its {WEIGHTS} is gone; bring it "
            "back, or remove the folder to train the cell again"
        )
        raise RunFolderError(msg)


def drop_training_state(cell: Path, *, keep_weights: bool) -> None:
    """Delete what only an unfinished training needs, and the weights unless they are kept."""
    drop_checkpoints(cell)
    drop_measured(cell)
    if not keep_weights:
        (cell / WEIGHTS).unlink(missing_ok=True)


def _score(
    run: RunFolder, result: dict[str, Any], scoring: Scoring, device: str, precision: Precision, progress: Progress
) -> None:
    """Predict and score what is missing, and write the result."""
    segmenter = load_segmenter(run.path, device=device, precision=precision)
    # As the cell says, not its weights: they may be older than a setting, which then has today's default.
    segmenter.inference = build(
        InferenceConfig, settled(read_config(run.path))["recipe"]["inference"], where=str(run.path)
    )
    missing = scoring.missing(result)
    for part in {part for part, _ in missing}:
        known = scoring.known(result, part)
        if not known:  # what lies there is of other images, or of a scoring that broke off
            shutil.rmtree(run.path / part, ignore_errors=True)
        result["scores"][part] = known
    if scoring.contents:
        scored = {part: one for part, one in scoring.contents.items() if part in dict(missing)}
        result["contents"] = {**result.get("contents", {}), **scored}
    if scoring.fingerprints:
        result["scored_on"] = {part: dict(one) for part, one in scoring.fingerprints.items()}
    for part, tta in missing:
        dataset, folder = scoring.parts[part], predictions_folder(run.path, part, tta)
        shutil.rmtree(folder, ignore_errors=True)
        outcome = predict_into(
            folder,
            dataset,
            segmenter,
            TestTimeAugmentation(tta),
            pictures=scoring.pictures,
            progress=progress,
            stage=f"predict ({result['arm']}, {part}, tta {tta})",
        )
        outcome.require_all()
        scores = score_files(dataset, folder / "predictions", progress=progress)
        modalities = {record.id: record.modality for record in dataset.records}
        result["scores"][part][tta] = summarise(scores, modalities, scoring.largest)
        if part == OTHER:
            _submit(folder, progress)
    run.write_result(result)


def _submit(folder: Path, progress: Progress) -> None:
    """Write the predictions of other data as the Data Science Bowl takes them; a name that it cannot take is said."""
    try:
        submission(folder, progress=progress)
    except InputError as error:
        progress.say(f"no {SUBMISSION} is written in {folder}: {error}")
