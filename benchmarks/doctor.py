"""How many faults made on purpose the doctor finds, and how long it takes, as Markdown on standard output.

    python benchmarks/doctor.py DATA

DATA is an annotated data set whose labels are good, such as `stage1_train`. On its parts train and validation, labels are
exchanged between random pairs of images of one size, and moved by 15 pixels down and to the left; then DATA itself is looked
through.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nucstyle.core.protocols import SILENT
from nucstyle.core.threads import for_each
from nucstyle.data.dataset import load, open_dataset
from nucstyle.data.doctor import conclude
from nucstyle.data.examine import Examined, examine
from nucstyle.data.image_io import write_labels
from nucstyle.data.manifest import Record
from nucstyle.workflows.check import check

SHIFT_PX, ROUNDS = 15, 3


def looked_at(records: Sequence[Record]) -> list[Examined]:
    """Every record examined."""
    return list(for_each(examine, records, stage="look", unit="image", progress=SILENT))


def moved(labels: Tensor) -> Tensor:
    """Down and to the left; what leaves the image is lost."""
    there = torch.zeros_like(labels)
    there[SHIFT_PX:, :-SHIFT_PX] = labels[:-SHIFT_PX, SHIFT_PX:]
    return there


def exchanged(images: Sequence[Examined], generator: random.Random) -> tuple[list[Record], set[frozenset[str]]]:
    """Records of which random pairs of one size have each other's labels, and the pairs."""
    sizes: dict[object, list[Record]] = defaultdict(list)
    for one in images:
        sizes[one.size].append(one.record)
    records, pairs = [], set()
    for same in sizes.values():
        generator.shuffle(same)
        for first, second in zip(same[::2], same[1::2], strict=False):
            records += [replace(first, labels=second.labels), replace(second, labels=first.labels)]
            pairs.add(frozenset((first.id, second.id)))
    return records, pairs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    generator = random.Random(0)
    found = made = 0
    with tempfile.TemporaryDirectory() as name:
        good, shifted = [], []
        for record in open_dataset(data).part("train", "validation", None).annotated().records:
            labels = load(record).labels
            if labels is None or not (moved(labels) > 0).any():
                continue
            for folder, values, records in (("good", labels, good), ("moved", moved(labels), shifted)):
                path = Path(name) / f"{record.id}-{folder}.tif"
                write_labels(path, values)
                records.append(replace(record, labels=path))
        plain, displaced = looked_at(good), looked_at(shifted)
        for _ in range(ROUNDS):
            records, pairs = exchanged(plain, generator)
            told = [one for one in conclude(looked_at(records))[0] if one.kind == "swapped-labels"]
            found, made = found + len(pairs & {frozenset(one.ids) for one in told}), made + len(pairs)
    kinds = [{one.kind for one in image.findings} for image in displaced]
    false = [one for one in conclude(plain)[0] if one.kind in ("swapped-labels", "shifted-labels")]
    started = time.perf_counter()
    result = check(data).result()
    seconds = time.perf_counter() - started
    print("| what | value |\n| --- | --- |")
    print(f"| pairs of exchanged labels that are told | {found} of {made} |")
    print(
        f"| labels moved by {SHIFT_PX} px that are told | {sum('shifted-labels' in one for one in kinds)} of {len(kinds)} |"
    )
    print(f"| the same told of good labels | {len(false)} of {len(plain)} |")
    counts = ", ".join(f"{one['count']} {kind}" for kind, one in result["findings"].items())
    print(f"| findings in DATA | {counts or 'none'} |")
    print(f"| seconds to look through its {result['images']} images | {seconds:.1f} |")


if __name__ == "__main__":
    main()
