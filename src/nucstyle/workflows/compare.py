"""`compare`: arms x seeds, all trained alike, scored, and summed up with intervals (paper, table 1; docs/method.md)."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nucstyle.augment.references import References
from nucstyle.core.errors import (
    ConfigMismatchError,
    DatasetError,
    FolderInUseError,
    OptionError,
    RunFolderError,
    TrainingError,
)
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import resolve_precision
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.ledger import seen_in_making
from nucstyle.data.manifest import check_file_names
from nucstyle.data.pixel_cache import CacheUse
from nucstyle.data.run_folder import (
    CONFIG,
    RunFolder,
    check_target,
    differences,
    read_config,
    settled,
    told_difference,
)
from nucstyle.data.weights import Weights, load_weights
from nucstyle.report.page import write_report
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.training.segmenter_trainer import SegmenterRecipe
from nucstyle.workflows.arms import (
    NONE,
    ArmGate,
    check_style_names,
    make_arm,
    make_gate,
    measure_references,
    parts_of,
    takes_examples,
    tell_unknown_names,
)
from nucstyle.workflows.cells import (
    HIDDEN,
    OTHER,
    TEST,
    VALIDATION,
    Cell,
    Scoring,
    cell_folder,
    check_configs,
    check_scorable,
    drop_training_state,
    finished_cells,
    is_complete,
    is_finished,
    read_cell,
    run_cell,
    score_cell,
)
from nucstyle.workflows.comparison import ALL, MINORITY, describe_images, sum_up
from nucstyle.workflows.comparison_pictures import draw_gallery, draw_restyled_images
from nucstyle.workflows.evaluate import largest_modality
from nucstyle.workflows.load import find_weights, load_style
from nucstyle.workflows.named import NamedImages, check_masks_seen, name_images, with_modalities
from nucstyle.workflows.provenance import check_unseen, contents_fingerprint, data_fingerprint, examples_fingerprint
from nucstyle.workflows.recipes import segmenter_recipe
from nucstyle.workflows.train_segmenter import SegmenterRun, check_settings, visible_parts
from nucstyle.workflows.trunk import TrunkSource, settle_trunk

ARMS = ("none", "recolour", "style", "style+colour")
PROTOCOLS = ("full", "transfer")
_SHARED = ("data", "recipe", "trunk_sha256", "trunk_parts")
"""Of `config.toml`: what all cells of a protocol have alike."""
_SHIPPED = "dsb2018"
"""Style weights where none are named."""
_PATIENCE_S = 3600
"""Others that work in the same run hold it while they draw and sum up: seconds, or many minutes on a busy machine."""

Key = tuple[str, int]
"""A cell: an arm and a seed."""


def compare(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    arms: Sequence[str] = ARMS,
    seeds: int = 3,
    protocol: str = "full",
    annotated: Sequence[str] | None = None,
    recipe: str = "lite",
    overrides: Sequence[str] = (),
    style: Path | str | None = None,
    gate: bool = True,
    judge: Path | str | None = "dsb2018",
    trunk: Path | str | None = None,
    on: str = VALIDATION,
    tta: Sequence[str] = ("none", "fast"),
    cells: Sequence[str] | None = None,
    test: Path | str | None = None,
    keep_weights: bool = True,
    device: str = "auto",
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    cache: CacheUse = True,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train every arm with every seed, from the same weights, on the same crops, for as many steps; score all; sum up.

    Args:
        data: A folder, file, glob or manifest, divided into train, validation and test.
        out: The run folder: a cell in `PROTOCOL/ARM/seed-N/`, `PROTOCOL/result.json` and `report.html` over the finished ones.
        progress: Shown to the person.
        arms: See `arms`.
        seeds: How many; they are 0, 1, ...
        protocol: `full`: all training masks. `transfer`: those of `annotated` alone; images of the others lend their colours.
        annotated: Modalities whose masks may be used in `transfer`; None = the one with the most training images.
        recipe: Of the segmenter: name or file.
        overrides: `key=value` on top of it.
        style: Style weights for arms with `style`: a name, a file or a run; None = the shipped ones, in the protocol `full`.
        gate: Whether restyled crops that lost their nuclei are drawn again.
        judge: Weights of the network that looks for new nuclei then; None = none does.
        trunk: A file with the weights of a ResNet-101, or of a detector on one, for recipes with one.
        on: The part whose scores are summed up: `validation`, `test`, or in `transfer` `hidden`, the training images whose masks
            are hidden: their colours were seen, their masks were not, and mostly they are more than those of the other parts.
            Validation images are always scored: the arm without a GAN that the others are compared to is chosen by them.
        tta: Modes of test-time augmentation.
        cells: `ARM:SEED` of the cells to work at; None = all. The summary is over all that are finished.
        test: Another annotated data set to score every cell on.
        keep_weights: Whether weights stay once a cell is scored; checkpoints do not.
        device: `auto`, `cpu`, `cuda`, ...
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open, those of `test` as well.
        cache: Whether to use what was decoded before, as for `open_dataset`.
        resume: Go on in `out`; finished cells are not trained again.
        overwrite: Replace a comparison in `out`.

    Returns:
        What `PROTOCOL/result.json` holds.

    Raises:
        InputError: The data or the options are at fault, among them a style model that has seen what is scored or hidden.
        TrainingError: The losses of some cells do not stay finite; the others are done.
        Interrupted: A signal; `resume` goes on.
    """
    place, folder = choose_device(device), out / protocol
    chosen = choose_cells(arms, seeds, cells)
    _check_options(arms, protocol, annotated, on, tta, style)
    if style is None and _with_style(arms):
        style = _SHIPPED
        progress.say(f"style model: {style}, which comes with nucstyle, for --style names none")
    asked = segmenter_recipe(recipe, overrides)
    asked, source = settle_trunk(asked, trunk, start=None, run=folder if resume else None, progress=progress)
    dataset = open_dataset(data, format=format, reading=reading, cache=cache)
    check_file_names(dataset.records)
    other = _other_images(test, dataset, reading, cache)
    given = [Path(one) for one in (style, judge, trunk, test) if one is not None and Path(one).exists()]
    inputs = [Path(data), Path(recipe), *given, *dataset.files, *(other.files if other is not None else ())]
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    named = name_images(dataset, Path(data), k=None, seed=0, progress=progress)
    largest = largest_modality(named.images)
    if protocol == "transfer" and annotated is None:
        annotated = [largest or ""]
    train, validation = visible_parts(dataset, named, annotated, progress)
    check_settings(asked, overrides, train, None, arms, progress)
    parts = _scored_parts(dataset, named, other, on, annotated, progress)
    scoring = Scoring(
        parts,
        tta,
        largest,
        pictures=False,
        fingerprints={OTHER: contents_fingerprint(other)} if other is not None else {},
        contents={part: contents_fingerprint(one)["contents_sha256"] for part, one in parts.items() if part != OTHER},
    )
    styled, seeing = _models(style, gate, judge, named, annotated, place, asked, progress)
    tell_unknown_names(train.records, styled, progress)
    models = {"--style": styled, "--judge": seeing.judge if seeing is not None else None}
    check_masks_seen(named, annotated, models)
    for part in (VALIDATION, TEST):
        check_unseen([record.id for record in dataset.records if record.split == part], part, models)
    check_unseen([record.id for record in other.records] if other is not None else [], "--test", models)
    comparison = _Comparison(
        every=dataset,
        named=named,
        train=train,
        validation=validation,
        recipe=asked,
        trunk=source,
        style=style,
        style_weights=styled,
        gate=seeing,
        device=place,
        made_by=seen_in_making(Path(data)),
        protocol=protocol,
        annotated=annotated,
        references=functools.cache(lambda: measure_references(named)),
    )
    if not all(is_finished(cell_folder(folder, *key)) for key in chosen):
        train.read_all(progress)
        validation.read_all(progress)
    with RunFolder.open(
        out,
        {"verb": "compare", "data": data_fingerprint(dataset)},
        resume=resume,
        overwrite=overwrite,
        inputs=inputs,
        patience_s=_PATIENCE_S,
    ) as run:
        run.write_environment(device=place, precision=comparison.precision)
        named.write(run, seed=0)
    return _work(out, comparison, scoring, chosen, on=on, keep_weights=keep_weights, progress=progress)


def choose_cells(arms: Sequence[str], seeds: int, cells: Sequence[str] | None) -> list[Key]:
    """The cells to work at, seed by seed, so that an interrupted comparison compares something.

    Raises:
        OptionError: No arm, an arm twice, or a cell that is none of them.
    """
    if not arms or len(set(arms)) < len(arms) or seeds < 1:
        msg = f"--arms {','.join(arms)} --seeds {seeds}: one arm and one seed at least, and every arm once"
        raise OptionError(msg)
    every = [(arm, seed) for seed in range(seeds) for arm in arms]
    if cells is None:
        return every
    named = {f"{arm}:{seed}": (arm, seed) for arm, seed in every}
    unknown = [one for one in cells if one not in named]
    if unknown:
        msg = f"--cells {unknown[0]}: none of the cells of --arms and --seeds; there are {', '.join(named)}"
        raise OptionError(msg)
    return [key for name, key in named.items() if name in cells]


def _check_options(
    arms: Sequence[str],
    protocol: str,
    annotated: Sequence[str] | None,
    on: str,
    ttas: Sequence[str],
    style: Path | str | None,
) -> None:
    """Refuse what cannot be meant, before anything is read."""
    if protocol not in PROTOCOLS:
        msg = f"--protocol {protocol}: use one of {', '.join(PROTOCOLS)}"
        raise OptionError(msg)
    if protocol == "full" and annotated is not None:
        msg = "--annotated hides masks, and the protocol full uses all; give --protocol transfer with it"
        raise OptionError(msg)
    if on not in (VALIDATION, TEST, HIDDEN):
        msg = f"--on {on}: use {VALIDATION}, {TEST} or {HIDDEN}"
        raise OptionError(msg)
    if on == HIDDEN and protocol != "transfer":
        msg = f"--on {HIDDEN}: the protocol {protocol} hides no masks of training images; give --protocol transfer with it"
        raise OptionError(msg)
    for one in ttas:
        TestTimeAugmentation(one)
    if style is not None and not _with_style(arms):
        msg = f"--style {style}: no arm of --arms {','.join(arms)} is with style; name one there, or leave --style out"
        raise OptionError(msg)
    if style is None and _with_style(arms) and protocol != "full":
        msg = (
            f"--protocol {protocol}: an arm with style needs --style NAME|FILE|RUN, a model that has seen no mask but those of "
            "--annotated (without it, of the modality with most training images); nucstyle train-style --annotated MODALITY "
            "makes one"
        )
        raise OptionError(msg)


def _with_style(arms: Sequence[str]) -> bool:
    """Whether any arm restyles by a model."""
    return any("style" in parts_of(arm) for arm in arms)


def _other_images(test: Path | str | None, dataset: Dataset, reading: ReadOptions, cache: CacheUse) -> Dataset | None:
    """The annotated images of `--test`; images that nobody annotated, such as those that DSB 2018 ignores, are left out.

    Raises:
        DatasetError: There is none, or one is among the data that is trained on.
    """
    if test is None:
        return None
    other = open_dataset(test, reading=reading, cache=cache).annotated()
    check_file_names(other.records)
    if not len(other):
        msg = f"{test}: no annotated image in it, so --test has nothing to score; use predict"
        raise DatasetError(msg)
    used = {record.id for record in dataset.records if record.split != TEST}
    both = sorted(used.intersection(record.id for record in other.records))
    if both:
        msg = (
            f"{test}: {len(both)} of its images have names of images that are trained on or chosen by, {both[0]} among them; "
            "leave them out of --test, or rename them where they are others"
        )
        raise DatasetError(msg)
    return other


def _scored_parts(
    dataset: Dataset,
    named: NamedImages,
    other: Dataset | None,
    on: str,
    annotated: Sequence[str] | None,
    progress: Progress,
) -> dict[str, Dataset]:
    """The annotated images of each part, all masks visible, with their modalities.

    Raises:
        DatasetError: A part has none, or a modality has the name of a group of images.
    """
    parts = {VALIDATION: named.images.part(VALIDATION, keep=True).annotated()}
    if on == TEST:
        parts[TEST] = _recognised(dataset.part(TEST).annotated(), named, progress)
    if on == HIDDEN:
        seen = annotated or ()
        parts[HIDDEN] = named.images.training_part().where(lambda record: record.modality not in seen).annotated()
    if other is not None:
        parts[OTHER] = _recognised(other, named, progress)
    for part, images in parts.items():
        if not len(images):
            remedy = "fill the column split of the manifest"
            if part == HIDDEN:
                remedy = "every training image with masks is of an annotated modality; use --on validation, or annotate fewer"
            msg = f"--on {on}: no annotated image of the part {part}, so nothing can be scored; {remedy}"
            raise DatasetError(msg)
        taken = [record for record in images.records if record.modality in (ALL, MINORITY)]
        if taken:
            msg = (
                f"{taken[0].image}: its modality is named {taken[0].modality}, as a comparison names a group of images itself; "
                "name the modality otherwise in the manifest"
            )
            raise DatasetError(msg)
    return parts


def _recognised(dataset: Dataset, named: NamedImages, progress: Progress) -> Dataset:
    """Images with the modality that their manifest names, else the nearest; names that training images lack are said."""
    known = {record.modality for record in named.images.records}
    foreign = Counter(one.modality for one in dataset.records if one.modality is not None and one.modality not in known)
    if foreign:
        told = ", ".join(f"{name} ({count})" for name, count in sorted(foreign.items()))
        progress.say(
            f"warning: some images that are scored are of modalities that the training data do not name, {told}: they count as "
            f"minority; where it is one of {', '.join(sorted(name for name in known if name))}, name it so in the manifest, "
            "or leave the column modality empty to have it recognised"
        )
    unnamed = dataset.where(lambda record: record.modality is None)
    if not len(unnamed):
        return dataset
    found = {one.id: one for one in with_modalities(unnamed, named.found.model, progress).records}
    return dataset.with_records([found.get(record.id, record) for record in dataset.records])


def _models(
    style: Path | str | None,
    gate: bool,
    judge: Path | str | None,
    named: NamedImages,
    annotated: Sequence[str] | None,
    device: str,
    recipe: SegmenterRecipe,
    progress: Progress,
) -> tuple[Weights | None, ArmGate | None]:
    """What the style model had seen, and the gate, where there is one."""
    if style is None:
        return None, None
    weights = load_weights(find_weights(style, "style"), kind="style")
    check_style_names(recipe.style, weights)
    if not gate:
        return weights, None
    precision = resolve_precision(recipe.training.precision, device)
    made = make_gate(judge, named=named, annotated=annotated, device=device, precision=precision, progress=progress)
    return weights, made


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """What all cells of a protocol share."""

    every: Dataset
    """All images of the data."""
    named: NamedImages
    train: Dataset
    validation: Dataset
    """To choose the best model of a training by: the masks that the protocol lets see."""
    recipe: SegmenterRecipe
    trunk: TrunkSource
    style: Path | str | None
    style_weights: Weights | None
    gate: ArmGate | None
    device: str
    made_by: Mapping[str, Any]
    protocol: str
    annotated: Sequence[str] | None
    references: Callable[[], References]
    """Measured when the first arm asks for them."""

    @functools.cached_property
    def precision(self) -> Literal["bf16", "fp32"]:
        """Number format of the trainings."""
        return resolve_precision(self.recipe.training.precision, self.device)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """For `config.toml` of the protocol: what every cell must agree on."""
        plain = self.run_of((NONE, 0)).config("compare")
        shared = {name: value for name, value in plain.items() if name in ("verb", *_SHARED)}
        return {**shared, "protocol": self.protocol, "annotated": list(self.annotated or ())}

    @property
    def restyled_by(self) -> dict[str, Any]:
        """The style model and the gate."""
        sha256 = self.style_weights.sha256 if self.style_weights is not None else ""
        return {"style_sha256": sha256, "gate": self.gate.to_table() if self.gate else {}}

    def run_of(self, key: Key) -> SegmenterRun:
        """The training of a cell."""
        arm, seed = key
        references = self.references() if takes_examples(arm) else None
        made = make_arm(
            arm,
            style=self.style if "style" in parts_of(arm) else None,
            config=self.recipe.style,
            gate=self.gate,
            references=references,
            device=self.device,
            precision=self.precision,
        )
        return SegmenterRun(
            self.train,
            made,
            self.recipe,
            seed,
            self.device,
            validation=self.validation,
            trunk=self.trunk,
            made_by=self.made_by,
            examples=self.named.bare_training_part() if references is not None else None,
            polarity=self.named.polarity if references is not None else {},
        )

    @functools.cached_property
    def examples(self) -> dict[str, Any]:
        """Of the images that lend their colours, for the cells of arms that take examples."""
        return examples_fingerprint(self.named.bare_training_part(), self.named.polarity)

    def check(self, cells: Iterable[Cell], scoring: Scoring) -> None:
        """Refuse cells that are trained otherwise than asked, or scored on other files.

        Where no style model is given, cells with one must agree with each other.

        Args:
            cells: What is finished, or begun.
            scoring: On what they are to be compared.

        Raises:
            RunFolderError: With the first value that differs.
        """
        remedy = "give all options as they were, remove the cell, or use another --out"
        if self.style_weights is None:  # then the first of them is the measure
            styled: dict[str, Any] | None = None
            styled_remedy = "the cells with style do not agree with each other; remove those that should not count"
        else:
            styled = {**self.restyled_by, "recipe": {"style": self.config["recipe"]["style"]}}
            styled_remedy = remedy
        for arm, seed, cell in cells:
            config = read_config(cell)
            if (config.get("augment"), config.get("seed")) != (arm, seed):
                trained = f"{config.get('augment')}, seed {config.get('seed')}"
                msg = f"{cell}: this cell was trained as {trained}, as which its folder is not named; rename it, or remove it"
                raise RunFolderError(msg)
            _refuse(cell, self._unlike(arm, config), remedy)
            if "style" in parts_of(arm):
                styled = styled or _style_of(settled(config))
                _refuse(cell, _first_difference(_style_of(config), styled), styled_remedy)
            if is_finished(cell):
                _check_contents(cell, scoring)

    def _unlike(self, arm: str, config: Mapping[str, Any]) -> str | None:
        """In what a cell differs from what is asked for, but for how images are restyled."""
        asked = {name: self.config[name] for name in _SHARED if name in self.config}
        if takes_examples(arm):
            asked["data"] = {**asked["data"], "examples": self.examples}
        return _first_difference({name: config[name] for name in _SHARED if name in config}, asked)


def _style_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell with style was restyled by, and how."""
    by = {"style_sha256": config.get("style_sha256", ""), "gate": config.get("gate", {})}
    return {**by, "recipe": {"style": config["recipe"]["style"]}}


def _first_difference(own: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """The first difference of a cell in words."""
    found = differences(own, asked)
    return next((told_difference(own, key, *values) for key, values in found.items()), None)


def _refuse(cell: Path, unlike: str | None, remedy: str) -> None:
    """Refuse a cell that is unlike the others in something.

    Raises:
        RunFolderError: It is.
    """
    if unlike is not None:
        msg = f"{cell}: this cell cannot be compared with the others, {unlike}; {remedy}"
        raise RunFolderError(msg)


def _check_contents(cell: Path, scoring: Scoring) -> None:
    """Refuse a cell that was scored on images or masks whose files have changed since.

    Raises:
        RunFolderError: With the part.
    """
    said = read_cell(cell).get("contents", {})
    for part, now in scoring.contents.items():
        if said.get(part, now) != now:
            msg = (
                f"{cell}: was scored on {part} images or masks whose files are others now, so that it cannot be compared with "
                "cells that are scored on these; give the old files, remove the cell, or use another --out"
            )
            raise RunFolderError(msg)


def _work(
    out: Path,
    comparison: _Comparison,
    scoring: Scoring,
    chosen: Sequence[Key],
    *,
    on: str,
    keep_weights: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Train and score what is not done yet, and sum up after every cell."""
    folder = out / comparison.protocol
    _check_made(folder, comparison, scoring, chosen)
    _describe(folder, comparison, scoring, progress)
    todo = _left_to_do(folder, scoring, chosen, keep_weights=keep_weights, progress=progress)
    failed, unlike, held = [], [], []
    for number, key in enumerate(todo, start=1):
        cell = cell_folder(folder, *key)
        progress.say(f"cell {number} of {len(todo)}: {key[0]}, seed {key[1]}")
        try:
            _do(cell, key, comparison, scoring, progress)
        except TrainingError as error:
            failed.append(f"{key[0]}, seed {key[1]}: {error}")
        except FolderInUseError:
            progress.say("another process works at this cell, so it is passed over")
            held.append(f"{key[0]}:{key[1]}")
        except ConfigMismatchError as error:  # begun in another number format
            progress.say(f"passed over: {error}")
            unlike.append(str(error))
        else:
            _drop_left_over(cell, keep_weights=keep_weights, progress=progress)
            _conclude(out, comparison, scoring, on)
    result = _conclude(out, comparison, scoring, on)
    if held:
        progress.say(
            f"other processes worked at {', '.join(held)}; what is summed up here is without those that were not finished yet"
        )
    _raise_for(failed, unlike, len(todo))
    return result


def _left_to_do(
    folder: Path, scoring: Scoring, chosen: Sequence[Key], *, keep_weights: bool, progress: Progress
) -> list[Key]:
    """The cells that are not complete; of the others, what is not kept is dropped."""
    todo = []
    for key in chosen:
        if is_complete(cell_folder(folder, *key), scoring):
            _drop_left_over(cell_folder(folder, *key), keep_weights=keep_weights, progress=progress)
        else:
            todo.append(key)
    return todo


def _raise_for(failed: Sequence[str], unlike: Sequence[str], todo: int) -> None:
    """Say at the end which cells are missing.

    Raises:
        TrainingError: The losses of some did not stay finite.
        RunFolderError: Some could not go on.
    """
    passed_over = f"{len(unlike)} of {todo} cells were passed over: {'; '.join(unlike)}"
    if failed:
        msg = f"{len(failed)} of {todo} cells could not be trained: {'; '.join(failed)}"
        raise TrainingError(f"{msg}. {passed_over}" if unlike else msg)
    if unlike:
        raise RunFolderError(passed_over)


def _describe(folder: Path, comparison: _Comparison, scoring: Scoring, progress: Progress) -> None:
    """Write what is scored, and pictures of the style model, before any training."""
    with RunFolder.open(folder, comparison.config, resume=True, patience_s=_PATIENCE_S) as run:
        run.write_environment(device=comparison.device, precision=comparison.precision)
        describe_images(folder, comparison.named.images, comparison.train, scoring, progress, every=comparison.every)
        if comparison.style is not None:
            model = load_style(comparison.style, device=comparison.device)
            draw_restyled_images(
                folder,
                model,
                comparison.gate.gate if comparison.gate else None,
                train=comparison.named.bare_training_part(),
                annotated=comparison.train,
                origin=comparison.restyled_by,
            )


def _drop_left_over(cell: Path, *, keep_weights: bool, progress: Progress) -> None:
    """Drop what a killed process left in a finished cell, and weights that are not kept; not while another works there."""
    try:
        with RunFolder.open(cell, read_config(cell), resume=True):
            drop_training_state(cell, keep_weights=keep_weights)
    except RunFolderError as error:
        progress.say(f"nothing is dropped there: {error}")


def _check_made(folder: Path, comparison: _Comparison, scoring: Scoring, chosen: Sequence[Key]) -> None:
    """Refuse cells that were finished or begun otherwise, or cannot be scored any more, before any work."""
    check_configs(folder)
    asked = [(*key, cell_folder(folder, *key)) for key in chosen]
    begun = [one for one in asked if (one[2] / CONFIG).is_file() and not is_finished(one[2])]
    comparison.check([*finished_cells(folder), *begun], scoring)
    for key in chosen:
        check_scorable(cell_folder(folder, *key), scoring)


def _do(cell: Path, key: Key, comparison: _Comparison, scoring: Scoring, progress: Progress) -> None:
    """Train a cell where that is not done yet, and score it on what it has not been scored on."""
    if not is_finished(cell):
        run_cell(cell, comparison.run_of(key), scoring, progress=progress)
    # Also what another process finished since, on what that one did not score.
    score_cell(cell, scoring, device=comparison.device, progress=progress)


def _conclude(out: Path, comparison: _Comparison, scoring: Scoring, on: str) -> dict[str, Any]:
    """Sum up the finished cells, and write the pages."""
    folder = out / comparison.protocol
    with RunFolder.open(folder, comparison.config, resume=True, patience_s=_PATIENCE_S):
        cells = list(finished_cells(folder))
        comparison.check(cells, scoring)  # another process may have finished some since, with other settings
        result = sum_up(folder, comparison.config, scoring, on, cells=cells)
        draw_gallery(folder, scoring.parts[on], result)
    with RunFolder.open(out, read_config(out), resume=True, patience_s=_PATIENCE_S):
        for path in (folder, out):
            write_report(path)
    return result
