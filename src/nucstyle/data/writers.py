"""Writing data sets, in every layout that there is a writer for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from nucstyle.core.errors import DatasetError, OptionError
from nucstyle.data.formats import Writer, cellpose, dsb2018, nnunet, pairs, stardist
from nucstyle.data.manifest import Record


@dataclass(frozen=True, slots=True)
class Layout:
    """How a layout is written, and what it asks for."""

    write: Writer
    needs_labels: bool = False
    """Whether its program refuses images without labels among those it trains on."""
    needs_colour: bool = False
    """Whether all images must have three channels."""


_LAYOUTS: Mapping[str, Layout] = {
    "pairs": Layout(pairs.write),
    "dsb2018": Layout(dsb2018.write),
    "cellpose": Layout(cellpose.write, needs_labels=True),
    "stardist": Layout(stardist.write, needs_labels=True),
    "nnunet": Layout(nnunet.write, needs_labels=True, needs_colour=True),
}
_FINISH: Mapping[str, Callable[[Path, Sequence[Record], Set[str]], None]] = {"nnunet": nnunet.finish}
LAYOUTS = tuple(_LAYOUTS)
"""Names for `--to`."""


def layout_of(name: str) -> Layout:
    """The layout of a name.

    Raises:
        OptionError: There is none.
    """
    if name not in _LAYOUTS:
        msg = f"--to {name}: unknown; known: {', '.join(LAYOUTS)}"
        raise OptionError(msg)
    return _LAYOUTS[name]


def check_name(layout: str, record: Record) -> None:
    """Refuse an id that the program of a layout would take for something else.

    Raises:
        DatasetError: With the image named.
    """
    if layout == "cellpose" and record.id.endswith(cellpose.SUFFIX):
        msg = f"{record.image}: Cellpose takes names that end in {cellpose.SUFFIX} for labels; rename the image"
        raise DatasetError(msg)


def finish_layout(layout: str, folder: Path, records: Sequence[Record], copies: Set[str]) -> None:
    """Write what a layout has beside its images, once all are there.

    Args:
        layout: Its name.
        folder: Of the data set.
        records: Of all images as they were written; copies have the field of view of their image.
        copies: The ids of those that are restyled copies.
    """
    if layout in _FINISH:
        _FINISH[layout](folder, records, copies)
