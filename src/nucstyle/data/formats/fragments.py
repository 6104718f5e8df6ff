"""Layouts with one file for all images keep what they know of each beside it, until all are there and are joined.

So images can be written one at a time, and a work that was stopped goes on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nucstyle.data.run_folder import write_text

PARTS = ".parts"
"""The folder where a layout keeps them."""


def keep(folder: Path, name: str, text: str, *, place: str = PARTS) -> None:
    """Keep what is known of an image.

    Args:
        folder: Of the data set.
        name: Of the image's files, without a suffix.
        text: In the words of the layout.
        place: Name of the folder within, as for the others.
    """
    (folder / place).mkdir(parents=True, exist_ok=True)
    write_text(folder / place / name, text)


def kept(folder: Path, name: str, *, place: str = PARTS) -> str | None:
    """What is known of an image; None where it has been joined already."""
    file = folder / place / name
    return file.read_text(encoding="utf-8") if file.is_file() else None


def drop(folder: Path, *, place: str = PARTS) -> None:
    """Forget all, once joined. They go at once: what is left of a deletion that is cut off never counts again."""
    going = folder / f"{place}-joined"
    if (folder / place).is_dir():
        shutil.rmtree(going, ignore_errors=True)
        (folder / place).rename(going)
    shutil.rmtree(going, ignore_errors=True)
