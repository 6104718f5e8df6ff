"""What `predict` leaves in a run folder for other verbs and programs: label maps and `images.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nucstyle.core.errors import RunFolderError
from nucstyle.data.manifest import LineWriter, file_name

PREDICTIONS = "predictions"
"""The folder of label maps."""
LABELS = "_labels.tif"
"""What is added to the name of an image."""
IMAGES = "images.csv"


class PredictedImage(NamedTuple):
    """A line of `images.csv`; the columns are named like the fields."""

    image_id: str
    width: int
    """In pixels, as `height`."""
    height: int
    n_objects: int
    """Nuclei found."""
    modality: str
    """Empty where not known."""


def label_file(run: Path, image_id: str) -> Path:
    """Where the label map of an image lies."""
    return run / PREDICTIONS / f"{file_name(image_id)}{LABELS}"


def write_images(run: Path, images: Iterable[PredictedImage]) -> None:
    """Write `images.csv`."""
    with (run / IMAGES).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = LineWriter(file)
        writer.writerow(PredictedImage._fields)
        writer.writerows(images)


def read_images(run: Path) -> list[PredictedImage]:
    """Read `images.csv`.

    Raises:
        RunFolderError: It is not there, or damaged; the line is named.
    """
    path = run / IMAGES
    if not path.is_file():
        msg = f"{run}: holds no {IMAGES}; give a run of predict that has ended"
        raise RunFolderError(msg)
    images = []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                width, height, n_objects = (int(row[name]) for name in ("width", "height", "n_objects"))
                images.append(PredictedImage(row["image_id"], width, height, n_objects, row["modality"]))
        except (KeyError, TypeError, ValueError, csv.Error):
            msg = f"{path}: line {reader.line_num}: not a line as predict writes it; predict again"
            raise RunFolderError(msg) from None
    return images
