"""Figures as SVG text: the same data gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f", "#f0e442")
"""Told apart in every common form of colour blindness (Okabe and Ito)."""
_STYLE: Any = {
    "svg.hashsalt": "nucstyle",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = file.getvalue()
    return text[text.index("<svg") :]


def scatter(points: Sequence[tuple[str, float, float, str]]) -> str:
    """The images in the plane of their two principal axes, a colour a modality (paper, Fig. 2a).

    Args:
        points: (id, x, y, modality) of each image.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2))
        axes = figure.subplots()
        for place, name in enumerate(sorted({modality for *_, modality in points})):
            own = [(x, y) for _, x, y, modality in points if modality == name]
            colour = COLOURS[place % len(COLOURS)]
            axes.scatter(
                [x for x, _ in own], [y for _, y in own], s=26, c=colour, label=f"{name} ({len(own)})", alpha=0.8
            )
        axes.set_xlabel("first principal axis of hue, saturation and value")
        axes.set_ylabel("second principal axis")
        axes.legend(frameon=False, loc="best")
        return _svg(figure)


def curves(series: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> str:
    """Small plots side by side: one a term, in it one line a run, as logged (no smoothing).

    Args:
        series: Term -> run -> (step, value).
    """
    columns = min(4, len(series))
    rows = -(-len(series) // columns)
    with mpl.rc_context(_STYLE):
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
