"""Seconds to open a data set: a plain Pillow loop, the first opening with nucstyle, and the next, from its cache.

    python benchmarks/reading.py DATA

DATA is `stage1_train` of DSB 2018 or another data set whose images are annotated. All its files are read once before, so that the
disk is not measured, and the cache is a temporary folder. The Pillow loop decodes every image and mask and throws them away;
nucstyle decodes them, merges the masks to label maps, and gives samples: (3, H, W) float32 and (H, W) int32. Give it the machine
alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nucstyle.core.installation import usable_cpus
from nucstyle.core.protocols import SILENT
from nucstyle.data import cache, pixel_cache
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.formats.dsb2018 import mask_files

FIRST_GOAL, SECOND_GOAL = 3, 20
WAIT_S = 3
"""Files that are younger than two seconds are not kept."""


def with_pillow(files: Iterable[Path]) -> None:
    """Decode files one after the other."""
    for file in files:
        with Image.open(file) as image:
            np.asarray(image)


def with_nucstyle(data: Path) -> None:
    """Open a data set and read all of it."""
    open_dataset(data).read_all(SILENT)


def seconds(work: Callable[..., None], *arguments: object) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def differing(one: Dataset, other: Dataset) -> int:
    """How many samples are not the same, bit for bit."""
    pairs = zip(one, other, strict=True)
    return sum(
        not (torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) and a.source == b.source)
        for a, b in pairs
        if a.labels is not None and b.labels is not None
    )


def label_bytes(dataset: Dataset) -> int:
    """What the label maps take as they are kept."""
    labels = [sample.labels for sample in dataset if sample.labels is not None]
    return sum(one.numel() * np.min_scalar_type(int(one.max())).itemsize for one in labels)


def main() -> None:
    """The whole comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    plain = open_dataset(data, cache=False)
    images = [record.image for record in plain.records]
    labels = [record.labels for record in plain.records if record.labels is not None]
    masks = [file for place in labels for file in (mask_files(place) if place.is_dir() else [place])]
    for file in (*images, *masks):
        file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[cache.FOLDER_VARIABLE] = folder
        time.sleep(WAIT_S)
        first = seconds(with_nucstyle, data)
        second = min(seconds(with_nucstyle, data) for _ in range(3))
        verified = seconds(lambda: open_dataset(data, cache="verify").read_all(SILENT))
        wrong = differing(plain, open_dataset(data))
        kept, of_labels = cache.cache_bytes(), label_bytes(plain)
        entries = sum(1 for _ in Path(folder, pixel_cache.KIND).rglob("*") if _.is_file()) // 2
    of_images, of_masks = seconds(with_pillow, images), seconds(with_pillow, masks)
    loop = of_images + of_masks
    print(
        f"{len(images)} images, {len(masks)} files of labels, {usable_cpus()} processors, load {os.getloadavg()[0]:.1f}"
    )
    print("| what | seconds | ratio | goal |\n| --- | ---: | ---: | ---: |")
    print(f"| plain Pillow loop, images | {of_images:.2f} | | |")
    print(f"| plain Pillow loop, labels | {of_masks:.2f} | | |")
    print(f"| first opening | {first:.2f} | {loop / first:.1f} of the whole loop | {FIRST_GOAL} |")
    print(f"| second opening | {second:.2f} | {of_masks / second:.1f} of the labels alone | {SECOND_GOAL} |")
    print(f"| second opening with `verify` | {verified:.2f} | {of_masks / verified:.1f} | |")
    print(f"\ncache: {kept / 1e6:.0f} MB in {entries} entries, of which label maps {of_labels / 1e6:.0f} MB")
    print(f"samples that differ from those read without the cache: {wrong}")


if __name__ == "__main__":
    main()
