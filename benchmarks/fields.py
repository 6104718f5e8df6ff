"""How well tiles of one field of view are found, against the known fields of DSB 2018, as Markdown on standard output.

    python benchmarks/fields.py DATA TRUTH.csv [--on validation|all] [--strips FOLDER]

DATA is `stage1_train` (a folder with ID/images/ID.png); TRUTH has the columns image_id, field_of_view. By default only the parts
train and validation are looked at. The truth knows complete groups of four; pairs that it lacks are not wrong for that. So
borders that cannot meet (left with left, right with right, and so on) are compared as well: what is found among them is chance.
`--strips` writes a picture of every seam between images that the truth holds apart, worst fit first, for looking at.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

from nucstyle.core.resize import resize_image
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.fields import Fields, Outline, Seam, find_fields, outline
from nucstyle.data.image_io import read_pixels, write_png

STRIP_PX, WIDTH_PX = 56, 400
Pairs = set[tuple[str, str]]


def pairs_of(groups: Sequence[object], ids: Sequence[str]) -> Pairs:
    """All pairs of images of one group."""
    members: dict[object, list[str]] = {}
    for group, name in zip(groups, ids, strict=True):
        members.setdefault(group, []).append(name)
    return {pair for same in members.values() for pair in combinations(sorted(same), 2)}


def by_chance(outlines: Sequence[Outline]) -> int:
    """Seams between borders that cannot meet; there are as many comparisons as in earnest."""
    mirrored = (
        [replace(one, left=one.right, top=one.bottom) for one in outlines],
        [replace(one, right=one.left, bottom=one.top) for one in outlines],
    )
    return sum(len(find_fields(control).seams) for control in mirrored)


def share(part: Pairs, whole: Pairs) -> str:
    """`333 of 348 (0.957)`."""
    found = len(part & whole)
    return f"{found} of {len(whole)} ({found / len(whole):.3f})" if whole else "0 of 0"


def measure(dataset: Dataset, truth: dict[str, str]) -> tuple[list[tuple[str, str]], Fields]:
    """Name and value of everything that is told."""
    ids = [record.id for record in dataset.records]
    started = time.perf_counter()
    pixels = [read_pixels(record.image) for record in dataset.records]
    read = time.perf_counter()
    outlines = [outline(one) for one in pixels]
    outlined = time.perf_counter()
    fields = find_fields(outlines)
    compared = time.perf_counter()
    known, found = pairs_of([truth[name] for name in ids], ids), pairs_of(fields.numbers, ids)
    grouped = {name for pair in known for name in pair}
    both = {pair for pair in found if grouped.issuperset(pair)}
    parts = {number: set[str | None]() for number in fields.numbers}
    for number, record in zip(fields.numbers, dataset.records, strict=True):
        parts[number].add(record.split)
    sizes = Counter(Counter(fields.numbers).values())
    return [
        ("images", str(len(ids))),
        (
            "fields found, by their number of images",
            ", ".join(f"{count} of {size}" for size, count in sorted(sizes.items())),
        ),
        ("recall: pairs of the truth that are found", share(found, known)),
        ("pairs found that the truth has", share(known, found)),
        ("the same, where the truth knows the group of both images", share(known, both)),
        ("seams found", str(len(fields.seams))),
        ("seams found where none can be", str(by_chance(outlines))),
        ("images that show nearly the same", str(len(fields.twins))),
        ("fields that the shipped division cuts", str(sum(len(names) > 1 for names in parts.values()))),
        (
            "seconds to read, to outline, to compare",
            f"{read - started:.1f}, {outlined - read:.1f}, {compared - outlined:.2f}",
        ),
    ], fields


def write_strips(folder: Path, dataset: Dataset, seams: Sequence[Seam]) -> None:
    """The surroundings of each seam, which runs from left to right through the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, seam in enumerate(sorted(seams, key=lambda one: -one.misfit)):
        first, second = dataset.image(seam.first), dataset.image(seam.second)
        if not seam.is_below:
            first, second = first.transpose(1, 2), second.transpose(1, 2)
        strip = torch.cat([first[:, -STRIP_PX:], second[:, :STRIP_PX]], dim=1)
        low, high = strip.quantile(0.01), strip.quantile(0.99)
        shown = ((strip - low) / (high - low).clamp(min=0.03)).clamp(0, 1) ** 0.6
        size = (round(WIDTH_PX * shown.shape[1] / shown.shape[2]), WIDTH_PX)
        names = "-".join(dataset.records[index].id[:8] for index in (seam.first, seam.second))
        write_png(folder / f"{place:03d}-{names}.png", resize_image(shown, size))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--on", choices=("validation", "all"), default="validation")
    parser.add_argument("--strips", type=Path)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    dataset = dataset if arguments.on == "all" else dataset.part("train", "validation", None)
    with arguments.truth.open() as file:
        truth = {row["image_id"]: row["field_of_view"] for row in csv.DictReader(file)}
    rows, fields = measure(dataset, truth)
    print("| what | value |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |")
    if arguments.strips:
        field = [truth[record.id] for record in dataset.records]
        write_strips(arguments.strips, dataset, [one for one in fields.seams if field[one.first] != field[one.second]])


if __name__ == "__main__":
    main()
