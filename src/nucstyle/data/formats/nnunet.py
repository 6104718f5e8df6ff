"""The raw data of nnU-Net v2, whose labels are classes: inner of a nucleus and its border (github.com/MIC-DKFZ/nnUNet).

`instances/` holds the label images as well, so that nothing is lost; nnU-Net does not look there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from skimage.segmentation import find_boundaries
from torch import Tensor

from nucstyle.data.formats import Written
from nucstyle.data.image_io import Array, write_labels, write_pixels
from nucstyle.data.manifest import Record
from nucstyle.data.run_folder import write_text

CLASSES = {"background": 0, "nucleus": 1, "border": 2}
_BORDER = "border"


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its labels; those of the part `test` and those without labels are nnU-Net's test images.

    Arguments and result as `formats.Writer`; grey images are written with three channels, since all must have as many.
    """
    kind = "Ts" if part == "test" or labels is None else "Tr"
    images, classes, instances = folder / f"images{kind}", folder / f"labels{kind}", folder / "instances"
    for place in (images, classes, instances):
        place.mkdir(parents=True, exist_ok=True)
    colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    image = write_pixels(images / f"{name}_0000", colours, as_tiff=True)
    if labels is None:
        return Written(image)
    numbers = labels.numpy()
    borders = find_boundaries(numbers, mode="inner")  # type: ignore[no-untyped-call]
    write_pixels(
        classes / name,
        np.where(borders, CLASSES[_BORDER], numbers > 0).astype(np.uint8),
        as_tiff=True,
    )
    write_labels(instances / f"{name}.tif", labels)
    return Written(image, instances / f"{name}.tif")


def finish(folder: Path, records: Iterable[Record]) -> None:
    """Write `dataset.json`, and `splits_final.json` where images are divided: copies of an image must not be divided from it.

    nnU-Net looks for the latter in its folder of preprocessed data; copy it there before training with fold 0.
    """
    trained = [one for one in records if one.labels is not None and one.split != "test"]
    table = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": CLASSES,
        "numTraining": len(trained),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    write_text(folder / "dataset.json", json.dumps(table, indent=1) + "\n")
    names = {
        part: [_name(one) for one in trained if (one.split or "train") == part] for part in ("train", "validation")
    }
    if names["validation"]:
        fold = {"train": names["train"], "val": names["validation"]}
        write_text(folder / "splits_final.json", json.dumps([fold], indent=1) + "\n")


def _name(record: Record) -> str:
    return record.image.stem.removesuffix("_0000")
