"""Figures of a comparison, each as PNG, SVG and the CSV of what it shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nucstyle.report.figures import STYLE, colours_of, save_figure, write_table
from nucstyle.report.tables import accepted_share

_LIGHT = 0.6
"""Share above which the colour map is light."""
_SPREAD = 0.7
"""Width that the arms of a group take together."""


def scores(values: Mapping[str, Mapping[str, Sequence[float]]], folder: Path) -> Path:
    """Draw the score of every arm in every group: a line at the mean, a dot for each seed.

    Args:
        values: Arm -> group -> score of each seed.
        folder: Where `scores.png`, `scores.svg` and `scores.csv` go.
    """
    groups = list(next(iter(values.values())))
    rows = [
        [arm, group, seed, value]
        for arm, own in values.items()
        for group in groups
        for seed, value in enumerate(own[group])
    ]
    with mpl.rc_context(STYLE):
        figure, axes = _axes(groups)
        for arm, place, colour in _places(values, list(values)):
            for number, group in enumerate(groups):
                own = values[arm][group]
                if own:
                    axes.plot([number + place] * len(own), own, "o", c=colour, ms=3, alpha=0.7, mew=0)
                    axes.hlines(fmean(own), number + place - 0.06, number + place + 0.06, colors=colour, lw=2)
            axes.plot([], [], "o", c=colour, ms=4, label=arm)
        axes.set_ylabel("DSB score")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, ncols=min(6, len(values)), loc="lower left", bbox_to_anchor=(0, 1))
        return _write(figure, folder, "scores", [["arm", "group", "place_of_seed", "dsb_score"], *rows])


def differences(
    values: Mapping[str, Mapping[str, Mapping[str, Any]]], reference: str, arms: Sequence[str], folder: Path
) -> Path:
    """Draw how much better than a reference every arm is in every group, with 95 % intervals; images where there is none.

    Args:
        values: Arm -> group -> an entry of `differences` of a result.
        reference: The arm that is compared to.
        arms: All of the comparison, so that an arm has the same colour in every figure.
        folder: Where `differences-to-REFERENCE.png`, `.svg` and `.csv` go.
    """
    groups = list(next(iter(values.values())))
    names = ("mean", "low", "high", "fields", "seeds", "better", "worse")
    rows = [[arm, group, *(own[group][name] for name in names)] for arm, own in values.items() for group in groups]
    with mpl.rc_context(STYLE):
        figure, axes = _axes(groups)
        axes.axhline(0, c="#7f7f7f", lw=1)
        for arm, place, colour in _places(values, arms):
            for number, group in enumerate(groups):
                one, x = values[arm][group], number + place
                if one["low"] is None:
                    images = list(one["images"].values())
                    axes.plot([x] * len(images), images, "_", c=colour, ms=5, alpha=0.5)
                    axes.plot(x, one["mean"], "o", mfc="white", mec=colour, ms=5)
                else:
                    axes.vlines(x, one["low"], one["high"], colors=colour, lw=1.6)
                    axes.plot(x, one["mean"], "o", c=colour, ms=5)
            axes.plot([], [], "o", c=colour, ms=4, label=arm)
        axes.set_ylabel(f"DSB score above that of {reference}")
        axes.legend(frameon=False, fontsize=8, ncols=min(6, len(values)), loc="lower left", bbox_to_anchor=(0, 1))
        return _write(
            figure, folder, f"differences-to-{reference.replace('+', '-')}", [["arm", "group", *names], *rows]
        )


def learning(
    runs: Mapping[str, Sequence[Sequence[tuple[int, float]]]], name: str, title: str, arms: Sequence[str], folder: Path
) -> Path:
    """Draw the course of a number over the steps: a thin line a seed, all seeds of an arm in its colour.

    Args:
        runs: Arm -> of each seed (step, value).
        name: Of the files.
        title: Of the axis.
        arms: All of the comparison.
        folder: Where they go.
    """
    rows = [
        [arm, place, step, value]
        for arm, seeds in runs.items()
        for place, points in enumerate(seeds)
        for step, value in points
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for arm, _, colour in _places(runs, arms):
            for place, points in enumerate(runs[arm]):
                label = arm if place == 0 else None
                mark = "o" if len(points) == 1 else None  # of one point there is no line
                axes.plot(*zip(*points, strict=True), c=colour, lw=1, marker=mark, ms=3, alpha=0.8, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel(title)
        axes.legend(frameon=False, fontsize=8)
        return _write(figure, folder, name, [["arm", "place_of_seed", "step", "value"], *rows])


def gate(told: Mapping[str, Any], arm: str, folder: Path) -> Path:
    """Draw the share of restyled images that the gate let through, for each pair of modalities.

    Args:
        told: `modalities`, `outcomes` and `tally`, as in a `result.json`; of the outcomes the first is that an image passed, the
            last that the original was kept after the last attempt.
        arm: Whose images.
        folder: Where `gate-ARM.png`, `.svg` and `.csv` go; the latter with the count of every outcome.
    """
    names, outcomes = told["modalities"], told["outcomes"]
    rows = [
        [source, target, *counts]
        for source, row in zip(names, told["tally"], strict=True)
        for target, counts in zip(names, row, strict=True)
    ]
    shares = [[accepted_share(counts) for counts in row] for row in told["tally"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.1 * len(names) + 2.4, 0.55 * len(names) + 1.8), layout="constrained")
        axes = figure.subplots()
        drawn = [[float("nan") if share is None else share for share in row] for row in shares]
        axes.imshow(drawn, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                colour = "white" if share is not None and share <= _LIGHT else "black"
                axes.text(x, y, "-" if share is None else f"{share:.2f}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(names)), ["\n".join(wrap(name, 10)) for name in names], fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xlabel("restyled into")
        axes.set_ylabel("source")
        name = f"gate-{arm.replace('+', '-')}"
        return _write(figure, folder, name, [["source", "target", *outcomes], *rows])


def listed(pictures: Sequence[Mapping[str, Any]], name: str, folder: Path, *, without: Sequence[str] = ()) -> None:
    """Write what is said of each picture as `NAME.csv`; no file without a picture.

    Args:
        pictures: What is said of each, by column.
        name: Of the file.
        folder: Where it goes.
        without: Columns to leave out.
    """
    columns = [one for one in dict.fromkeys(key for told in pictures for key in told) if one not in without]
    if columns:
        folder.mkdir(exist_ok=True)
        write_table(folder / f"{name}.csv", [columns, *([told.get(one, "") for one in columns] for told in pictures)])
    else:
        (folder / f"{name}.csv").unlink(missing_ok=True)


def _axes(groups: Sequence[str]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(max(6.4, 1.25 * len(groups) + 1), 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_xticks(range(len(groups)), ["\n".join(wrap(group, 14)) for group in groups], fontsize=8)
    for border in range(1, len(groups)):
        axes.axvline(border - 0.5, c="#e4e7eb", lw=0.8)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    return figure, axes


def _places(drawn: Collection[str], arms: Sequence[str]) -> list[tuple[str, float, str]]:
    """(arm, shift from the middle of its group, colour) of those that are drawn."""
    step, colours = _SPREAD / max(1, len(drawn)), colours_of(arms)
    return [(arm, (place - (len(drawn) - 1) / 2) * step, colours[arm]) for place, arm in enumerate(drawn)]


def _write(figure: Figure, folder: Path, name: str, table: Sequence[Sequence[object]]) -> Path:
    """The three files; returns the PNG."""
    files = save_figure(figure, folder, name)
    write_table(folder / f"{name}.csv", table)
    return files[0]
