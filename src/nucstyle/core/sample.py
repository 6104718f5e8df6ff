"""The value types that every part of nucstyle hands on: a field, and what was found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from nucstyle.core.errors import ImageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an image came from and what its numbers meant there."""

    path: Path | None = None
    """The file, or None for an array in memory."""
    dtype: str = "uint8"
    """NumPy name of the type in the file."""
    channels: int = 3
    """1 for grey (no channel axis in memory), 3 for colour."""
    low: float = 0.0
    """The value in the file that became 0."""
    high: float = 255.0
    """The value in the file that became 1."""
    pixel_size_um: float | None = None
    """Side of a pixel in micrometres, where the file says it."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One augmentation that was applied, with everything that was drawn for it."""

    name: str
    """Class name of the augmentation."""
    drawn: Mapping[str, object] = field(default_factory=dict)
    """Plain values; enough to apply it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A microscopy field and, where annotated, its nuclei.

    Raises:
        ImageError: The image or the labels break an invariant stated at the fields.
    """

    id: str
    """Unique in its data set."""
    image: Tensor
    """(3, H, W) float32 in [0, 1], finite."""
    labels: Tensor | None = None
    """(H, W) int32, 0 = background, 1..N = nuclei; None = not annotated. All zero = annotated and empty."""
    modality: str | None = None
    """Name of the imaging modality, once known."""
    source: Source | None = None
    """Where the image came from; None for one made in memory."""
    history: tuple[Applied, ...] = ()
    """What was done to the pixels, in order."""
    whole: Tensor | None = None
    """(3, H', W') float32 in [0, 1], the field that a crop was cut from, for what is measured over a field: an empty crop has no
    colour of nuclei. None = the image itself is the field."""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[0] != 3 or self.image.dtype != torch.float32:
            msg = f"{self.id}: an image must be (3, H, W) float32, got {tuple(self.image.shape)} {self.image.dtype}"
            raise ImageError(msg)
        if self.labels is None:
            return
        if self.labels.dtype != torch.int32 or self.labels.shape != self.image.shape[1:]:
            msg = (
                f"{self.id}: labels must be int32 of the image's size {tuple(self.image.shape[1:])}, "
                f"got {tuple(self.labels.shape)} {self.labels.dtype}"
            )
            raise ImageError(msg)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def with_pixels(self, image: Tensor, applied: Applied, *, modality: str | None = None) -> Self:
        """The same field with other pixels; the labels stay the same object. What it was cut from no longer looks like it.

        Args:
            image: (3, H, W) float32 in [0, 1].
            applied: What was done.
            modality: What the field looks like now; None = as before.
        """
        history = (*self.history, applied)
        return replace(self, image=image, modality=modality or self.modality, history=history, whole=None)

    @property
    def field(self) -> Tensor:
        """(3, H', W'), what to measure over: the field that this was cut from, else the image."""
        return self.image if self.whole is None else self.whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The nuclei found in one image, best score first. N = nuclei, S = side of a mask crop.

    Masks are kept as small crops of the box: a thousand full-size masks would fill the memory.
    """

    boxes: Tensor
    """(N, 4) float32, x0 y0 x1 y1 in pixels of the image."""
    scores: Tensor
    """(N,) float32 in [0, 1], not increasing."""
    masks: Tensor
    """(N, S, S) float32 in [0, 1]: probability of nucleus, stretched over the box."""
    size: tuple[int, int]
    """(height, width) of the image in pixels."""
    is_capped: bool = False
    """Whether a limit of the detector was met, so that there may be more nuclei."""

    def __len__(self) -> int:
        return int(self.boxes.shape[0])
