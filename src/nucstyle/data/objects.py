"""`objects.csv` of a conversion: a line a nucleus, its centre, and of the columns of `predict` those that need no image.

What is known of an image is kept beside the table until all images are there, so that a stopped conversion goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nucstyle.core.spans import Measures
from nucstyle.data.formats import fragments
from nucstyle.data.manifest import LineWriter, Record, file_name

OBJECTS = "objects.csv"
COLUMNS = (
    "image_id",
    "label",
    "score",
    "x0",
    "y0",
    "x1",
    "y1",
    "area_px",
    "centroid_x",
    "centroid_y",
    "modality",
)
_PLACE = ".objects"


def keep(folder: Path, image_id: str, measures: Measures, scores: Mapping[int, float]) -> None:
    """Keep what was measured of an image.

    Args:
        folder: Of the data set.
        image_id: Of the image.
        measures: A line for each nucleus, which is numbered 1..N in their order.
        scores: By that number, where they are known.
    """
    boxes = [values.tolist() for values in (measures.x0, measures.y0, measures.x1, measures.y1, measures.area_px)]
    centres = zip(measures.centroid_x.tolist(), measures.centroid_y.tolist(), strict=True)
    lines = [
        f"{label},{f'{scores[label]:.4f}' if label in scores else ''},{','.join(map(str, box))},{x:.4f},{y:.4f}\n"
        for label, (box, (x, y)) in enumerate(zip(zip(*boxes, strict=True), centres, strict=True), start=1)
    ]
    fragments.keep(folder, file_name(image_id), "".join(lines), place=_PLACE)


def is_kept(folder: Path, image_id: str) -> bool:
    """Whether that is there."""
    return fragments.kept(folder, file_name(image_id), place=_PLACE) is not None


def write(folder: Path, records: Iterable[Record]) -> None:
    """Write the table from what was kept, image by image."""
    with (folder / OBJECTS).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = LineWriter(file)
        writer.writerow(COLUMNS)
        for record in records:
            for line in (fragments.kept(folder, file_name(record.id), place=_PLACE) or "").splitlines():
                writer.writerow([record.id, *line.split(","), record.modality or ""])


def drop(folder: Path) -> None:
    """Forget what was kept, once the table and all else is written."""
    fragments.drop(folder, place=_PLACE)
