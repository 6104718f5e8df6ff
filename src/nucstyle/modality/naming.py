"""Modalities in words: a short name for files and a sentence for people."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

_HUES = (
    (15, "red"),
    (45, "orange"),
    (70, "yellow"),
    (165, "green"),
    (200, "cyan"),
    (255, "blue"),
    (315, "purple"),
    (345, "pink"),
    (361, "red"),
)
_MIN_SATURATION = 0.08
"""Below it a colour is called a grey; pale stains have about 0.1."""


def colour_word(rgb: Sequence[float]) -> str:
    """The everyday word for a colour: black, grey, white, or a hue.

    Args:
        rgb: Three numbers in [0, 1].
    """
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(channel) for channel in rgb))
    if value < 0.16:
        return "black"
    if saturation < _MIN_SATURATION:
        return "white" if value > 0.75 else "grey"
    word = next(name for limit, name in _HUES if hue * 360 < limit)
    return "pink" if word == "purple" and saturation < 0.25 and value > 0.8 else word


def short_name(objects: str, background: str, taken: Sequence[str]) -> str:
    """A name such as `purple-on-white`, with a number where that is taken."""
    base = f"{objects}-on-{background}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


def sentence(objects: str, background: str, polarity: int, n_images: int) -> str:
    """For example "black background, brighter grey objects; 541 images"."""
    relation = "brighter" if polarity > 0 else "darker"
    plural = "image" if n_images == 1 else "images"
    return f"{background} background, {relation} {objects} objects; {n_images} {plural}"
