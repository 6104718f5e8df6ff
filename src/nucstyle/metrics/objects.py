"""What kind of nucleus is missed, and how: by size, by being cut in pieces, by being lumped with its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nucstyle.metrics.matching import Overlap

SIZE_GROUPS_PX = {"tiny": 1, "small": 100, "medium": 300, "large": 1000}
"""The groups of true nuclei by the smallest area of each; a group ends where the next begins. The bounds are ours."""


@dataclass(frozen=True, slots=True)
class Found:
    """How many true nuclei of a group were found."""

    found: int
    """Nuclei found."""
    n: int
    """Nuclei in the group."""


def recall70_by_size(overlap: Overlap) -> dict[str, Found]:
    """Count the true nuclei that some predicted one covers with an IoU strictly greater than 0.7, by area.

    The threshold is that of the organisers of DSB 2018 for missed nuclei (Caicedo et al. 2019, evaluation.py).

    Returns:
        Every group of `SIZE_GROUPS_PX` in its order, also where it has no nucleus.
    """
    group = np.searchsorted(list(SIZE_GROUPS_PX.values()), overlap.truth_areas, side="right") - 1
    hit = overlap.truth_index[overlap.above(7, 10)]
    n = np.bincount(group, minlength=len(SIZE_GROUPS_PX))
    found = np.bincount(group[hit], minlength=len(SIZE_GROUPS_PX))
    return {name: Found(int(found[i]), int(n[i])) for i, name in enumerate(SIZE_GROUPS_PX)}


def count_splits(overlap: Overlap) -> int:
    """The number of true nuclei that were cut: two or more predicted nuclei have an IoU greater than 0.1 with it.

    The definition of the organisers of DSB 2018 (Caicedo et al. 2019, evaluation.py). Crumbs do not count, and neither
    does a nucleus cut in ten or more equal pieces. 0 if either map has no nucleus.
    """
    return _shared_by_several(overlap.truth_index[overlap.above(1, 10)])


def count_merges(overlap: Overlap) -> int:
    """The number of predicted nuclei that lump: two or more true nuclei have an IoU greater than 0.1 with it.

    The mirror image of `count_splits`: a blob over ten or more equal nuclei does not count. 0 if either map has no
    nucleus.
    """
    return _shared_by_several(overlap.predicted_index[overlap.above(1, 10)])


def _shared_by_several(index: NDArray[np.int64]) -> int:
    return int((np.bincount(index) > 1).sum())
