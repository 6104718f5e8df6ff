"""`objects.csv`: a line a nucleus, of what `predict` finds and of what `convert` writes, which need not have the image.

What a conversion knows of an image is kept beside the table until all images are there, so that it goes on when it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nucstyle.core.spans import Measures
from nucstyle.data.formats import fragments
from nucstyle.data.manifest import LineWriter, Record, file_name

OBJECTS = "objects.csv"
_ALWAYS = ("image_id", "label", "score", "x0", "y0", "x1", "y1", "area_px")
PREDICTED = (*_ALWAYS, "perimeter_px", "eccentricity", "mean_intensity", "modality")
"""Columns, of `predict`."""
CONVERTED = (*_ALWAYS, "centroid_x", "centroid_y", "modality")
"""Columns, of `convert`."""
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


def write_kept(folder: Path, records: Iterable[Record]) -> None:
    """Write the table from what was kept, image by image."""
    rows = (
        [record.id, *line.split(","), record.modality or ""]
        for record in records
        for line in (fragments.kept(folder, file_name(record.id), place=_PLACE) or "").splitlines()
    )
    write(folder, CONVERTED, rows)


def write(folder: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write the table: one of the two kinds of columns, and the cells of each nucleus."""
    with (folder / OBJECTS).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = LineWriter(file)
        writer.writerow(columns)
        writer.writerows(rows)


def drop(folder: Path) -> None:
    """Forget what was kept, once the table and all else is written."""
    fragments.drop(folder, place=_PLACE)
