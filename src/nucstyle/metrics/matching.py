"""Which nuclei of two label maps lie on each other, and by how many pixels: the one table that every score reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nucstyle.core.errors import ImageError, OptionError

# N = true nuclei, M = predicted nuclei, K = pairs of them that share a pixel, P = pixels, R = runs of equal pixels


@dataclass(frozen=True, slots=True)
class Counts:
    """How many nuclei were found, invented and missed at one threshold of the IoU."""

    true_positives: int
    """Pairs that match; never more than the smaller number of nuclei."""
    false_positives: int
    """Predicted nuclei without a match."""
    false_negatives: int
    """True nuclei without a match."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlap:
    """Two label maps of one image, compared nucleus by nucleus.

    The nuclei of either map are counted from 0 in reading order: by their first pixel, row by row. The table therefore
    does not depend on the numbers in the label maps. Only pairs that share a pixel are kept, sorted by true and then by
    predicted nucleus, so that the memory grows with the pixels and not with N times M.
    """

    truth_areas: NDArray[np.int64]
    """(N,), pixels of each true nucleus, at least 1."""
    predicted_areas: NDArray[np.int64]
    """(M,), pixels of each predicted nucleus, at least 1."""
    truth_index: NDArray[np.int64]
    """(K,), the true nucleus of each pair, 0 to N - 1."""
    predicted_index: NDArray[np.int64]
    """(K,), the predicted nucleus of each pair, 0 to M - 1."""
    shared: NDArray[np.int64]
    """(K,), pixels that the two have in common, at least 1."""

    @property
    def united(self) -> NDArray[np.int64]:
        """(K,), pixels that either nucleus of a pair covers."""
        return self.truth_areas[self.truth_index] + self.predicted_areas[self.predicted_index] - self.shared

    @property
    def pair_iou(self) -> NDArray[np.float64]:
        """(K,), intersection over union of each pair, in (0, 1]."""
        return self.shared / self.united

    @property
    def intersection(self) -> NDArray[np.int64]:
        """(N, M), pixels in common, written out with its zeros."""
        return self._spread(self.shared)

    @property
    def iou(self) -> NDArray[np.float64]:
        """(N, M), intersection over union in [0, 1], written out with its zeros."""
        return self._spread(self.pair_iou)

    def _spread(self, values: NDArray[Any]) -> NDArray[Any]:
        table = np.zeros((self.truth_areas.size, self.predicted_areas.size), dtype=values.dtype)
        table[self.truth_index, self.predicted_index] = values
        return table

    def above(self, numerator: int, denominator: int) -> NDArray[np.bool_]:
        """Which pairs have an IoU strictly greater than numerator / denominator.

        Compared in whole numbers: 11 pixels of 20 are not above 0.55, although no float equals 0.55.

        Returns:
            (K,) bool.
        """
        return self.shared * denominator > self.united * numerator

    def count(self, numerator: int, denominator: int) -> Counts:
        """Match nuclei whose IoU is strictly greater than numerator / denominator.

        Nuclei of one map do not overlap, so from 1/2 on a nucleus has at most one match, and no assignment is needed.

        Raises:
            OptionError: The threshold is below 1/2.
        """
        if 2 * numerator < denominator:
            msg = f"matches are unique from an IoU of 1/2 on, got {numerator}/{denominator}; use above() for the pairs"
            raise OptionError(msg)
        matched = int(self.above(numerator, denominator).sum())
        return Counts(matched, self.predicted_areas.size - matched, self.truth_areas.size - matched)


def overlap(truth: ArrayLike, predicted: ArrayLike) -> Overlap:
    """Compare two label maps.

    Args:
        truth: (H, W) of any integer type, 0 = background, any other number = one nucleus, gaps allowed.
        predicted: (H, W), likewise; the types of the two may differ.

    Returns:
        The table. Either map may be without nuclei, or without background.

    Raises:
        ImageError: The shapes differ, or a map is not two-dimensional, not of integers, or has negative numbers.
    """
    true_map, predicted_map = _checked(truth, "truth"), _checked(predicted, "predicted")
    if true_map.shape != predicted_map.shape:
        msg = (
            f"label maps of one image must have one shape, got truth {true_map.shape} and predicted "
            f"{predicted_map.shape}; look for a transposed, cropped or resized map, or a wrong pair"
        )
        raise ImageError(msg)
    # Pixels come in runs in which neither map changes. Runs are far fewer than pixels, so sorting them is cheap.
    true_pixels, predicted_pixels = true_map.ravel(), predicted_map.ravel()  # (P,)
    starts = _run_starts(true_pixels, predicted_pixels)  # (R,)
    lengths = np.diff(starts, append=true_pixels.size)
    true_runs, truth_areas = _in_reading_order(true_pixels[starts], lengths)
    predicted_runs, predicted_areas = _in_reading_order(predicted_pixels[starts], lengths)
    both = (true_runs >= 0) & (predicted_runs >= 0)
    pairs, inverse = np.unique(true_runs[both] * predicted_areas.size + predicted_runs[both], return_inverse=True)
    truth_index, predicted_index = np.divmod(pairs, max(predicted_areas.size, 1))
    return Overlap(
        truth_areas=truth_areas,
        predicted_areas=predicted_areas,
        truth_index=truth_index,
        predicted_index=predicted_index,
        shared=_total(inverse, lengths[both], pairs.size),
    )


def _checked(labels: ArrayLike, name: str) -> NDArray[Any]:
    """The label map as an array, or an ImageError."""
    array = np.asarray(labels)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        msg = (
            f"{name}: a label map must be (H, W) of integers, got {array.shape} {array.dtype}; "
            "number the nuclei of a mask first, one number each"
        )
        raise ImageError(msg)
    if array.size and array.min() < 0:
        msg = f"{name}: a label map must not be negative, got {array.min()}; use 0 for what is no nucleus"
        raise ImageError(msg)
    return array


def _run_starts(truth: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.int64]:
    """Where a new run begins: (P,), (P,) -> (R,)."""
    changes = (truth[1:] != truth[:-1]) | (predicted[1:] != predicted[:-1])
    return np.concatenate([np.zeros(min(truth.size, 1), dtype=np.int64), np.flatnonzero(changes) + 1])


def _in_reading_order(labels: NDArray[Any], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the nuclei from 0 by their first run; the background becomes -1. (R,), (R,) -> (R,), and (N,) areas."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    background = values == 0
    first[background] = -1
    rank = np.empty(values.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(values.size) - int(background.sum())
    numbers = rank[inverse]
    nucleus = numbers >= 0
    return numbers, _total(numbers[nucleus], lengths[nucleus], values.size - int(background.sum()))


def _total(index: NDArray[np.int64], pixels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Sum pixels by index; the sums are floats in between, exact up to 2**53."""
    return np.bincount(index, weights=pixels, minlength=size).astype(np.int64)
