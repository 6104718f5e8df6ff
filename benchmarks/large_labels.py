"""Seconds and memory that a label image larger than the memory takes to be measured and converted, as Markdown.

    python benchmarks/large_labels.py [--side 20000] [--step 50] [--from tiles|strips|uncompressed] > table.md

Discs on a grid, one of them in two places far apart, are written as a deflated label TIFF in tiles, with a grey image beside it.
Each layout is written by `nucstyle convert` in a process of its own. The goal is a peak of resident memory under 1.5 GiB, a
few hundred MB of which are Python and its packages. Give it the machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from nucstyle.data.label_bands import read_label_bands, write_label_bands

GOAL_MIB = 1536
LAYOUTS = ("pairs", "geojson", "imagej")
HOW = {
    "tiles": {"tile": (512, 512), "compression": "deflate"},
    "strips": {"rowsperstrip": 64, "compression": "deflate"},
    "uncompressed": {},
}


def discs(side: int, step: int) -> Iterator[npt.NDArray[np.int32]]:
    """The label map in bands of one row of discs; the last disc has the number of the first."""
    ys, xs = np.mgrid[:step, :step] - (step - 1) / 2
    disc = ys**2 + xs**2 < (0.4 * step) ** 2
    across = side // step
    for row in range(across):
        band = np.zeros((step, side), np.int32)
        numbers = np.repeat(np.arange(across) + row * across + 1, step) % (across**2 - 1) + 1
        band[:, : across * step] = np.where(np.tile(disc, across), numbers, 0)
        yield band
    if rest := side - across * step:
        yield np.zeros((rest, side), np.int32)


def draw(folder: Path, side: int, step: int, how: str) -> int:
    """Write image and labels; returns the number of nuclei."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    nuclei = (side // step) ** 2 - 1
    labels = folder / "labels" / "field.tif"
    write_label_bands(labels, discs(side, step), size=(side, side), largest=nuclei)
    if how != "tiles":
        tifffile.imwrite(labels, tifffile.imread(labels), **HOW[how])
    tile = np.full((512, 512), 20, np.uint8)
    count = (-(-side // 512)) ** 2
    tifffile.imwrite(
        folder / "images" / "field.tif",
        (tile for _ in range(count)),
        shape=(side, side),
        dtype=np.uint8,
        **HOW["tiles"],
    )
    return nuclei


def convert(data: Path, out: Path, layout: str) -> tuple[float, float]:
    """Run the verb; returns seconds and the peak of resident memory in MiB."""
    command = [sys.executable, "-m", "nucstyle.cli", "convert", str(data), str(out), "--to", layout]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"convert --to {layout} failed")
    return time.perf_counter() - start, used.ru_maxrss / 1024


def is_right(data: Path, out: Path, layout: str, nuclei: int) -> bool:
    """Whether all nuclei are there: in label images pixel by pixel, in outlines by their number, in the table by its lines."""
    with (out / "objects.csv").open() as file:
        lines = sum(1 for _ in file) - 1
    result = json.loads((out / "result.json").read_text())["nuclei"]
    if layout == "pairs":
        both = (read_label_bands(folder / "labels" / "field.tif") for folder in (data, out))
        same = all(np.array_equal(one[1], other[1]) for one, other in zip_longest(*both))
    elif layout == "geojson":
        with (out / "geojson" / "field.geojson").open() as file:
            same = sum('"type":"Feature"' in line for line in file) == nuclei
    else:
        with zipfile.ZipFile(out / "rois" / "field_rois.zip") as archive:
            same = len(archive.namelist()) == nuclei + 1  # one is in two places
    return same and lines == result == nuclei


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="of the field, in pixels")
    parser.add_argument("--step", type=int, default=50, help="from disc to disc, in pixels")
    parser.add_argument("--from", dest="how", choices=HOW, default="tiles", help="how the labels are stored")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        # In a process of its own: on Linux, a process begins with the peak of the one that started it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            nuclei = pool.submit(draw, data, arguments.side, arguments.step, arguments.how).result()
        megabytes = (data / "labels" / "field.tif").stat().st_size / 1e6
        print(
            f"{nuclei:,} nuclei in {arguments.side:,} x {arguments.side:,} pixels, {arguments.how}, {megabytes:.0f} MB, "
            f"load {os.getloadavg()[0]:.1f}\n"
        )
        print(
            f"| convert --to | seconds | peak MiB (goal {GOAL_MIB}) | all nuclei there |\n| --- | ---: | ---: | --- |"
        )
        for layout in LAYOUTS:
            seconds, peak = convert(data, Path(folder) / layout, layout)
            right = is_right(data, Path(folder) / layout, layout, nuclei)
            print(f"| {layout} | {seconds:.0f} | {peak:.0f} | {'yes' if right else 'NO'} |", flush=True)


if __name__ == "__main__":
    main()
