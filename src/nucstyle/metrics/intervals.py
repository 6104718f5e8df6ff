"""The difference between two ways of training, paired by image and seed, with an interval (docs/method.md, comparison).

Tiles of one field of view and the trainings of one seed go together, so fields and seeds are what is drawn anew, not images.
Where several values are measured of each image, as of the styles that it is restyled in, images are drawn anew with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nucstyle.core.errors import OptionError

RESAMPLES = 10_000
MIN_FIELDS = 5
"""With fewer independent fields there is no interval: the percentiles of so few would only look like one."""
_ROUNDING = 1e-9
"""A mean of differences is not exactly 0 where these cancel each other; scores of images differ by more."""
_CHUNK = 1000
"""Resamples that are summed up together, so that memory stays bounded."""

# S = seeds, N = images, F = fields of view, R = resamples


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one arm is than another."""

    mean: float
    """Over images and seeds."""
    low: float | None
    """Lower end of the 95 % interval; None under `MIN_FIELDS` fields."""
    high: float | None
    """Its upper end."""
    fields: int
    """Independent fields of view."""
    seeds: int
    """Trainings of each arm."""
    better: int
    """Images whose mean difference over the seeds is above 0."""
    worse: int
    """Images whose mean difference over the seeds is below 0."""
    images: Mapping[str, float]
    """By id: the mean difference over the seeds."""


def paired_difference(
    one: Sequence[Mapping[str, float]],
    other: Sequence[Mapping[str, float]],
    fields: Mapping[str, str | None],
    *,
    resamples: int = RESAMPLES,
) -> Difference:
    """The difference of scores `one` - `other` with its 95 % percentile interval, fields and seeds drawn anew together.

    Every image weighs the same within a resample. An image whose field is not known is a field of its own.

    Args:
        one: Of each seed, the score of each image by id.
        other: Of the same seeds and the same images.
        fields: The field of view of each image by id, None where not known; may name further images.
        resamples: How often fields and seeds are drawn.

    Returns:
        The same for the same scores: the draws are seeded.

    Raises:
        OptionError: No image, or the two are not of the same seeds and images.
    """
    images = sorted(one[0]) if one else []
    if not images or len(one) != len(other) or any(set(scores) != set(images) for scores in (*one, *other)):
        msg = "scores can only be compared of the same images and as many seeds, one at least; score both arms on the same data"
        raise OptionError(msg)
    differences = np.array([[a[name] - b[name] for name in images] for a, b in zip(one, other, strict=True)])  # (S, N)
    numbers = _field_numbers([fields[name] or f"image {name}" for name in images])
    count = int(numbers.max()) + 1
    low, high = interval(differences, numbers, resamples=resamples) if count >= MIN_FIELDS else (None, None)
    gains = {name: math.fsum(differences[:, n]) / len(one) for n, name in enumerate(images)}
    return Difference(
        mean=math.fsum(gains.values()) / len(images),
        low=low,
        high=high,
        fields=count,
        seeds=len(one),
        better=sum(gain > _ROUNDING for gain in gains.values()),
        worse=sum(gain < -_ROUNDING for gain in gains.values()),
        images=gains,
    )


def interval(
    differences: npt.NDArray[np.float64], fields: npt.NDArray[np.int64], *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of a mean, seeds and fields of view drawn anew together.

    Args:
        differences: (S, N).
        fields: (N,): the number of each image's field, 0..F-1.
        resamples: How often.
    """
    count = int(fields.max()) + 1
    rng = np.random.default_rng(0)
    seeds_drawn = rng.integers(len(differences), size=(resamples, len(differences)))  # (R, S)
    sums = np.stack([np.bincount(fields, weights=row, minlength=count) for row in differences])  # (S, F)
    sizes = np.bincount(fields, minlength=count)  # (F,)
    means = []
    for start in range(0, resamples, _CHUNK):
        seeds = seeds_drawn[start : start + _CHUNK]
        chosen = rng.integers(count, size=(len(seeds), count))  # the same for every group of as many fields
        of_seeds = sums[:, chosen].sum(axis=2)  # (S, R)
        total = np.take_along_axis(of_seeds.T, seeds, axis=1).mean(axis=1)  # (R,)
        means.append(total / sizes[chosen].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


class ImageResampling:
    """Images drawn anew many times, each with all of its draws.

    Args:
        ids: Of the image of each draw.
        times: How often.
    """

    def __init__(self, ids: Sequence[str], times: int = 2000) -> None:
        names, self._place = np.unique(ids, return_inverse=True)
        self._drawn = np.random.default_rng(0).integers(0, len(names), (times, len(names)))
        self._counts = np.bincount(self._place)

    def means(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """(times,) mean of a value of each draw over every set of images."""
        sums = np.bincount(self._place, weights=np.asarray(values, dtype=float))
        means: npt.NDArray[np.float64] = sums[self._drawn].sum(axis=1) / self._counts[self._drawn].sum(axis=1)
        return means

    def interval(self, resampled: npt.NDArray[np.float64]) -> list[float]:
        """The 95 % percentile interval."""
        return [float(one) for one in np.percentile(resampled, (2.5, 97.5))]


def _field_numbers(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """(N,): fields numbered 0..F-1."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
