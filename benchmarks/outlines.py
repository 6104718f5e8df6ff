"""Seconds that outlines take: ImageJ's ROIs and GeoJSON of 10,000 nuclei, written and read, as Markdown on standard output.

    python benchmarks/outlines.py [--nuclei 10000] [--side 4000] > table.md

The goal is under 10 s for writing either.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nucstyle.core.contours import rasterise, trace
from nucstyle.data.formats import geojson, imagej
from nucstyle.data.manifest import Record

GOAL_S = 10


def draw(nuclei: int, side: int) -> Tensor:
    """(side, side) int32: ragged ellipses on a grid, some with holes and loose pixels, none across its cell."""
    rng = np.random.default_rng(0)
    columns = int(np.ceil(np.sqrt(nuclei)))
    cell = side // columns
    ys, xs = np.mgrid[:cell, :cell] - (cell - 1) / 2
    labels = np.zeros((side, side), np.int32)
    for number in range(nuclei):
        height, width = rng.uniform(0.2, 0.45, 2) * cell
        inside = (ys / height) ** 2 + (xs / width) ** 2 + rng.normal(0, 0.05, ys.shape) < 1
        row, column = number // columns * cell, number % columns * cell
        labels[row : row + cell, column : column + cell][inside] = number + 1
    return torch.from_numpy(labels)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nuclei", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=4_000, help="of the field, in pixels")
    arguments = parser.parse_args()
    labels = draw(arguments.nuclei, arguments.side)
    size = (arguments.side, arguments.side)
    traced_s, outlines = timed(lambda: trace(labels))
    filled_s, filled = timed(lambda: rasterise(outlines, size).labels)
    assert torch.equal(filled, labels)
    print(
        f"{arguments.nuclei:,} nuclei in {arguments.side} x {arguments.side} pixels; seconds, goal for writing: {GOAL_S}\n"
    )
    print("| | write | read | MB | read back |\n|---|---|---|---|---|")
    print(f"| outlines alone | {traced_s:.1f} | {filled_s:.1f} | | equal |")
    with tempfile.TemporaryDirectory() as folder:
        for name, layout in (("GeoJSON", geojson), ("ROI zip", imagej)):
            written_s, (path, losses) = timed(lambda layout=layout: layout.write_nuclei(Path(folder), "field", labels))
            record = Record(id="field", image=path)
            read_s, found = timed(
                lambda layout=layout, path=path, record=record: layout.read(path, record, size).labels
            )
            same = "equal" if torch.equal(found, labels) else ", ".join(f"{what}: {n}" for what, n in losses.items())
            print(f"| {name} | {written_s:.1f} | {read_s:.1f} | {path.stat().st_size / 1e6:.1f} | {same} |")


if __name__ == "__main__":
    main()
