"""Writing data sets, in every layout that there is a writer for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nucstyle.core.errors import OptionError
from nucstyle.data.formats import Writer, cellpose, dsb2018, nnunet, pairs, stardist
from nucstyle.data.manifest import Record

_WRITERS: Mapping[str, Writer] = {
    "pairs": pairs.write,
    "dsb2018": dsb2018.write,
    "cellpose": cellpose.write,
    "stardist": stardist.write,
    "nnunet": nnunet.write,
}
_FINISH: Mapping[str, Callable[[Path, Sequence[Record]], None]] = {"nnunet": nnunet.finish}
LAYOUTS = tuple(_WRITERS)
"""Names for `--to`."""


def writer_of(layout: str) -> Writer:
    """What writes the images of a layout.

    Raises:
        OptionError: There is no such layout.
    """
    if layout not in _WRITERS:
        msg = f"--to {layout}: unknown; known: {', '.join(LAYOUTS)}"
        raise OptionError(msg)
    return _WRITERS[layout]


def finish_layout(layout: str, folder: Path, records: Sequence[Record]) -> None:
    """Write what a layout has beside its images, once all are there.

    Args:
        layout: Its name.
        folder: Of the data set.
        records: Of all images as they were written.
    """
    if layout in _FINISH:
        _FINISH[layout](folder, records)
