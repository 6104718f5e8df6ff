"""The raw data of nnU-Net v2, whose labels are classes: inner of a nucleus and its border (github.com/MIC-DKFZ/nnUNet).

`instances/` holds the label images as well, so that nothing is lost; nnU-Net does not look there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
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
FOLDS = 5
"""As many as nnU-Net trains."""


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its labels; those of the part `test` and those without labels are nnU-Net's test images.

    Arguments and result as `formats.Writer`, but the image must be (H, W, 3), since all must have as many channels.
    """
    kind = "Ts" if part == "test" or labels is None else "Tr"
    images, classes, instances = folder / f"images{kind}", folder / f"labels{kind}", folder / "instances"
    for place in (images, classes, instances):
        place.mkdir(parents=True, exist_ok=True)
    image = write_pixels(images / f"{name}_0000", pixels, as_tiff=True)
    if labels is None:
        return Written(image)
    numbers = labels.numpy()
    borders = find_boundaries(numbers, mode="inner")  # type: ignore[no-untyped-call]
    write_pixels(
        classes / name,
        np.where(borders, CLASSES[_BORDER], numbers > 0).astype(np.uint8),
        as_tiff=True,
    )
    write_labels(instances / f"{name}.tif", labels, are_nuclei=True)
    return Written(image, instances / f"{name}.tif")


def finish(folder: Path, records: Sequence[Record], copies: Set[str]) -> None:
    """Write `dataset.json` and `splits_final.json`: left alone, nnU-Net would divide copies from their image.

    It looks for the latter in its folder of preprocessed data. Where images are divided into train and validation, each of the
    folds is that division; otherwise fields of view are dealt to them in turn. Copies are never validated on.

    Args:
        folder: Of the data set.
        records: Of all images, with their fields of view.
        copies: The ids of restyled copies.
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
    held_out = [one.field_of_view for one in trained if one.split == "validation"]
    if held_out:
        folds = [set(held_out)] * FOLDS
    else:
        fields = sorted({one.field_of_view or one.id for one in trained})
        folds = [set(fields[number::FOLDS]) for number in range(min(FOLDS, len(fields)))]
    divided = [_fold(trained, held, copies) for held in folds]
    write_text(folder / "splits_final.json", json.dumps(divided, indent=1) + "\n")


def _fold(trained: Sequence[Record], held: Set[str | None], copies: Set[str]) -> dict[str, list[str]]:
    is_held = [(one.field_of_view or one.id) in held for one in trained]
    return {
        "train": [_name(one) for one, held_out in zip(trained, is_held, strict=True) if not held_out],
        "val": [
            _name(one) for one, held_out in zip(trained, is_held, strict=True) if held_out and one.id not in copies
        ],
    }


def _name(record: Record) -> str:
    return record.image.stem.removesuffix("_0000")
