"""Outlines and run lengths that hide each other: a few are read as they are, many are no nuclei and are refused."""

from __future__ import annotations

from collections.abc import Callable

from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import ImageError

_FEWEST, _SHARE = 2, 0.5
"""So many nuclei, and such a share, must be without a pixel to be refused: data sets have some small ones within others."""


class LostError(ImageError):
    """Most nuclei of an image get no pixel: others cover them, or their outlines enclose none."""


def refuse_lost(drawn: Drawn, n_nuclei: int, name: Callable[[int], str], *, where: str) -> Drawn:
    """Refuse a region drawn around nuclei, nuclei that stand there twice, and places that are no pixels.

    Args:
        drawn: What became of the nuclei.
        n_nuclei: So many were drawn.
        name: What the file calls the nucleus of a number.
        where: For messages.

    Returns:
        `drawn`, where enough is left.

    Raises:
        LostError: At least two and at least half of the nuclei have no pixel.
    """
    n_lost = len(drawn.lost)
    if n_lost < max(_FEWEST, _SHARE * n_nuclei):
        return drawn
    if len(drawn.covered) >= len(drawn.empty):
        what = f"{name(drawn.covered[0])} is covered by what comes before it"
        remedy = "leave out what is drawn around nuclei or stands there twice"
    else:
        what = f"{name(drawn.empty[0])} holds no centre of a pixel"
        remedy = "give places in pixels, and leave out what is empty"
    msg = f"{where}: {n_lost} of {n_nuclei} nuclei get no pixel, for example {what}; {remedy}"
    raise LostError(msg)
