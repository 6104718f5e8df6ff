"""Figures as SVG text: the same data gives the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f", "#f0e442", "#882255", "#117733")
"""Told apart in every common form of colour blindness (Okabe and Ito, and two of Tol)."""
_MOST_ROWS = 12
STYLE: Any = {
    "svg.hashsalt": "nucstyle",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = file.getvalue()
    return text[text.index("<svg") :]


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """The colour of each modality, the same in every picture of a run."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def modalities(
    points: Sequence[tuple[float, float, str]], examples: Mapping[str, Sequence[Path]], folder: Path
) -> tuple[Path, ...]:
    """Write the paper's Fig. 2: the images in the plane of their principal axes, and examples of each modality.

    Args:
        points: (x, y, modality) of each image.
        examples: Modality -> pictures, largest modality first.
        folder: Where `modalities.png`, `modalities.svg` and `modalities.csv` go.

    Returns:
        The pictures.
    """
    colours = colours_of(list(examples))
    shown = dict(list(examples.items())[:_MOST_ROWS])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, max(3.6, 0.78 * len(shown) + 0.8)), layout="constrained")
        left, right = cast(Any, figure.subfigures(1, 2, width_ratios=(1.0, 1.15)))
        axes = left.subplots()
        for name, colour in colours.items():
            own = [(x, y) for x, y, modality in points if modality == name]
            axes.scatter(
                [x for x, _ in own], [y for _, y in own], s=16, c=colour, label=f"{name} ({len(own)})", alpha=0.8, lw=0
            )
        axes.set_xlabel("first principal axis of what was measured of the colours")
        axes.set_ylabel("second principal axis")
        axes.legend(frameon=False, loc="best", fontsize=8)
        columns = max((len(pictures) for pictures in shown.values()), default=1) or 1
        grid = right.subplots(len(shown), columns, squeeze=False)
        for row, (name, pictures) in zip(grid, shown.items(), strict=True):
            for cell in row:
                cell.set_axis_off()
            for cell, picture in zip(row, pictures, strict=False):
                with Image.open(picture) as file:
                    cell.imshow(np.asarray(file.convert("RGB")))
            row[0].set_title(name, loc="left", fontsize=8, color=colours[name], pad=2)
        files = save_figure(figure, folder, "modalities")
    write_table(folder / "modalities.csv", [["x", "y", "modality"], *points])
    return files


def candidates(tried: Sequence[Mapping[str, Any]], chosen: int, folder: Path) -> tuple[Path, ...]:
    """Write how well each number of modalities divides the images, and which was taken.

    Args:
        tried: `k`, `silhouette`, `standard_error`, `stability` of each.
        chosen: The number taken.
        folder: Where `candidates.png`, `candidates.svg` and `candidates.csv` go.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        axes = figure.subplots()
        k = [one["k"] for one in tried]
        silhouette, error = ([one[name] for one in tried] for name in ("silhouette", "standard_error"))
        axes.errorbar(
            k, silhouette, yerr=error, c=COLOURS[0], marker="o", capsize=3, label="silhouette, one standard error"
        )
        axes.plot(
            k,
            [one["stability"] for one in tried],
            c=COLOURS[1],
            marker="s",
            ls="--",
            label="stability of the least stable group (Jaccard)",
        )
        axes.axvline(chosen, c="#7f7f7f", lw=1, ls=":")
        axes.set_xlabel("number of groups")
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05)
        axes.set_xticks(k)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        files = save_figure(figure, folder, "candidates")
    columns = ("k", "silhouette", "standard_error", "stability")
    write_table(folder / "candidates.csv", [columns, *([one[name] for name in columns] for one in tried)])
    return files


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, ...]:
    """As PNG for slides and SVG for a paper; the same data gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = (folder / f"{name}.png", folder / f"{name}.svg")
    figure.savefig(files[0], dpi=200, metadata={"Software": None})
    files[1].write_text(_svg(figure), encoding="utf-8")
    return files


def write_table(path: Path, table: Sequence[Sequence[object]]) -> None:
    """What a figure shows, as CSV: the header and its rows."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)


def curves(series: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> str:
    """Small plots side by side: one a term, in it one line a run, as logged (no smoothing).

    Args:
        series: Term -> run -> (step, value).
    """
    columns = min(4, len(series))
    rows = -(-len(series) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * columns, 1.8 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(series) :]:
            axes.set_axis_off()
        for axes, (term, runs) in zip(grid.flat, series.items(), strict=False):
            for place, (run, points) in enumerate(runs.items()):
                axes.plot(
                    [step for step, _ in points], [value for _, value in points], c=COLOURS[place], lw=1.1, label=run
                )
            axes.set_title(term.replace("_", " "), fontsize=9)
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if len(next(iter(series.values()))) > 1:
            grid.flat[0].legend(frameon=False, fontsize=8)
        return _svg(figure)
