"""How well a restyled image keeps its nuclei and reaches its target: pure functions on pixels and features.

A fitted classifier between nucleus and background has no sign, so it would not see nuclei that stay bright on a light ground;
these measures do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_gradient_magnitude
from scipy.ndimage import label as connected

from nucstyle.core.errors import OptionError

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

RING_PX = (1.0, 6.0)
"""A ring around nuclei lies farther than the first and at most as far as the second from them."""
MIN_OBJECT_PX = 16
"""Smaller predicted objects are specks, not nuclei."""
FALSE_OVERLAP = 0.25
"""A predicted object of which less than this lies on true nuclei is false."""
STANDS_OUT = 0.1
"""A nucleus whose contrast is less than this share of the image's median does not stand out."""
KEPT, KEPT_INVERTED = 0.9, 0.95
"""Share of the draws that must keep their nuclei; the second where bright nuclei become dark ones."""
DICE_SHARE = 0.85
"""Of the smaller of the judge's Dice on source and real target, so much is asked of restyled images."""
FLAT = 1e-6
"""Gradients that deviate less than this are those of an image without edges."""

# H, W = size of the image, N, M = images or crops, D = features


def rings(labels: Labels) -> Labels:
    """What surrounds each nucleus, at the distances of `RING_PX`.

    Args:
        labels: (H, W) integers, 0 = background.

    Returns:
        (H, W), the number of the nucleus in whose ring a pixel lies, which is the nearest; 0 elsewhere.
    """
    if not labels.any():
        return np.zeros_like(labels)
    away, nearest = distance_transform_edt(labels == 0, return_indices=True)
    is_around = (away > RING_PX[0]) & (away <= RING_PX[1])
    found = np.zeros_like(labels)
    found[is_around] = labels[tuple(nearest[:, is_around])]
    return found


def separation(grey: npt.NDArray[np.floating], labels: Labels, around: Labels | None = None) -> float | None:
    """Are nuclei brighter than what surrounds them?

    The area under the ROC curve of the grey values of nucleus pixels against those of the rings around the nuclei.

    Args:
        grey: (H, W) mean of R, G and B.
        labels: (H, W) integers, 0 = background.
        around: Their `rings`; None = find them.

    Returns:
        In [0, 1]: 1 = every nucleus pixel is brighter than every ring pixel, 0.5 = no difference, 0 = all darker. None where
        there is no nucleus or no ring.

    Raises:
        OptionError: Image and labels are of different sizes.
    """
    _check_sizes(grey, labels)
    nuclei = labels > 0
    if not nuclei.any() or nuclei.all():
        return None
    ring = (rings(labels) if around is None else around) > 0
    inside, outside = np.sort(grey[nuclei]), np.sort(grey[ring])
    if not len(outside):
        return None
    # For each pixel of a nucleus, those of the rings that are darker, and half of those that are equal.
    darker, not_brighter = (np.searchsorted(outside, inside, side).sum(dtype=np.int64) for side in ("left", "right"))
    return float((darker + not_brighter) / (2 * len(inside) * len(outside)))


def signed_separation(
    grey: npt.NDArray[np.floating], labels: Labels, *, polarity: int, around: Labels | None = None
) -> float | None:
    """`separation` in the direction that a modality should have: 1 = right and complete, 0 = complete and of the wrong sign.

    Args:
        grey: (H, W) mean of R, G and B.
        labels: (H, W) integers, 0 = background.
        polarity: 1 if nuclei should be brighter than the background, -1 if darker.
        around: As for `separation`.
    """
    value = separation(grey, labels, around)
    return value if value is None or polarity > 0 else 1 - value


def lost_nuclei(
    before: npt.NDArray[np.floating],
    after: npt.NDArray[np.floating],
    labels: Labels,
    *,
    signs: tuple[int, int],
    around: Labels | None = None,
) -> float | None:
    """Share of nuclei that stood out from the ring around them and no longer do; `separation` hardly sees one of many.

    A nucleus stands out if its mean grey value differs from that of its ring, in the right direction, by at least `STANDS_OUT` of
    what is usual (the median) in the image.

    Args:
        before: (H, W) mean of R, G and B of the source.
        after: (H, W) of the restyled image.
        labels: (H, W) integers, 0 = background.
        signs: Of both: 1 if nuclei should be brighter than the background, -1 if darker.
        around: As for `separation`.

    Returns:
        In [0, 1]; None where no nucleus stood out.

    Raises:
        OptionError: Images and labels are of different sizes.
    """
    for grey in (before, after):
        _check_sizes(grey, labels)
    if not labels.any() or labels.all():
        return None
    inside, outside = labels.ravel(), (rings(labels) if around is None else around).ravel()
    stood, stands = (
        _stand_out(grey.ravel(), inside, outside, sign) for grey, sign in zip((before, after), signs, strict=True)
    )
    return float((stood & ~stands).sum() / stood.sum()) if stood.any() else None


def _stand_out(grey: npt.NDArray[np.floating], labels: Labels, around: Labels, sign: int) -> Mask:
    """(N,) pixels -> whether each label differs from its ring; false for numbers of no nucleus, and for nuclei without a ring."""
    count = int(labels.max()) + 1
    means = []
    for where in (labels, around):
        pixels = np.bincount(where, minlength=count)
        sums = np.bincount(where, weights=grey, minlength=count)
        means.append(np.divide(sums, pixels, out=np.full(count, np.nan), where=pixels > 0))
    contrast = sign * (means[0] - means[1])
    contrast[0] = np.nan
    known: Mask = np.isfinite(contrast)
    if not known.any():
        return known
    usual = max(0.0, float(np.median(contrast[known])))
    return np.asarray(known & (np.nan_to_num(contrast) > STANDS_OUT * usual))


def edge_agreement(before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> float:
    """Whether edges are where they were: the correlation of the gradient magnitudes of two images, smoothed over a pixel.

    Args:
        before: (H, W) mean of R, G and B of the source.
        after: (H, W) of the restyled image.

    Returns:
        In [-1, 1]; 1 where the source has no edges at all, so that there is nothing to keep.

    Raises:
        OptionError: They are of different sizes.
    """
    _check_sizes(before, after)
    one, other = (gaussian_gradient_magnitude(grey.astype(np.float64), sigma=1.0) for grey in (before, after))
    if float(one.std()) < FLAT:
        return 1.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) if float(other.std()) >= FLAT else 0.0


def dice(predicted: Mask, truth: Mask) -> float:
    """Twice the overlap over the sum of the areas, in [0, 1]; 1 where both are empty.

    Args:
        predicted: (H, W) bool.
        truth: (H, W) bool.

    Raises:
        OptionError: They are of different sizes.
    """
    _check_sizes(predicted, truth)
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class FalseObjects:
    """Predicted foreground objects that are not on nuclei."""

    false: int
    """How many."""
    nuclei: int
    """True nuclei of the image."""

    @property
    def per_nucleus(self) -> float:
        """False objects per true nucleus; an image without nuclei counts as one with one."""
        return self.false / max(1, self.nuclei)


def false_objects(predicted: Mask, labels: Labels) -> FalseObjects:
    """Count objects (8-connected, of at least `MIN_OBJECT_PX`) that lie on the background of the truth.

    Args:
        predicted: (H, W) bool, foreground as a judge sees it.
        labels: (H, W) integers, 0 = background.

    Raises:
        OptionError: They are of different sizes.
    """
    _check_sizes(predicted, labels)
    objects, count = connected(predicted, np.ones((3, 3)))
    nuclei = labels > 0
    false = 0
    for number, place in enumerate(find_objects(objects, count), start=1):
        own = objects[place] == number
        false += int(own.sum() >= MIN_OBJECT_PX and nuclei[place][own].mean() < FALSE_OVERLAP)
    return FalseObjects(false, len(np.unique(labels[nuclei])))


def kernel_distance(features: Array, others: Array) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1) ** 3 (Binkowski et al. 2018, there called KID).

    Its expectation is 0 for two samples of one distribution, so it may be a little below 0. It is not the FID, and the
    features here are not those of Inception.

    Args:
        features: (N, D), N >= 2.
        others: (M, D), M >= 2.

    Raises:
        OptionError: Fewer than two samples, or features of different sizes.
    """
    if min(len(features), len(others)) < 2 or features.shape[1] != others.shape[1]:
        msg = f"a kernel distance needs two samples or more of equal size on both sides, got {features.shape}, {others.shape}"
        raise OptionError(msg)

    def kernel(one: Array, other: Array) -> Array:
        values: Array = (one @ other.T / one.shape[1] + 1) ** 3
        return values

    def without_itself(one: Array) -> float:
        values = kernel(one, one)
        return float((values.sum() - np.trace(values)) / (len(one) * (len(one) - 1)))

    return without_itself(features) + without_itself(others) - 2 * float(kernel(features, others).mean())


def goal_shares(pair: Mapping[str, Any]) -> dict[str, float]:
    """How much of each goal a (source, target) pair reaches; 1 or more = met.

    K: nuclei kept in the share of draws that is asked: 95 % where bright nuclei become dark ones, else 90 %. D: the judge's
    Dice at least 0.85 of the smaller of its Dice on the source and on real images of the target. F: false objects per nucleus
    at most 0.1 above the larger of the two. C: 85 % taken for the target. M: kernel distance at most the larger of a third of
    the untranslated source's and 1.5 times the floor.

    Args:
        pair: As in the `pairs` of a `result.json` of `evaluate-style`, with draws.
    """
    distance = pair["kernel_distance"]
    limit = max((pair["kernel_distance_untranslated"] or 0) / 3, 1.5 * (pair["kernel_distance_floor"] or 0))
    return {
        "K": pair["nuclei_kept"] / pair["nuclei_kept_asked"],
        "D": pair["dice_share"] / DICE_SHARE,
        "F": at_most(pair["false_per_nucleus"], pair["false_allowed"]),
        "C": pair["taken_for_target"] / 0.85,
        "M": 1.0 if distance is None else at_most(distance, limit),
    }


def at_most(value: float, limit: float) -> float:
    """Share of an upper limit that is reached: 1 or more where the value lies below it."""
    return 1.0 if value <= limit else max(0.0, limit) / value


def colour_spread(means: Array) -> float:
    """How much images differ in colour: the root of the summed variances of their mean R, G and B.

    Args:
        means: (N, 3) mean colour of each image, in [0, 1].
    """
    return float(np.sqrt(means.var(axis=0).sum()))


def _check_sizes(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> None:
    if one.shape != other.shape:
        msg = f"sizes differ: {one.shape} and {other.shape}; give the labels of this image"
        raise OptionError(msg)
