"""The aggregated Jaccard index: one IoU over all nuclei of an image."""

from __future__ import annotations

import numpy as np

from nucstyle.metrics.matching import Overlap


def aggregated_jaccard(overlap: Overlap) -> float:
    """The aggregated Jaccard index (Kumar et al. 2017, algorithm 1).

    Each true nucleus is joined with the predicted one of the largest IoU. The pixels in common and the pixels of the
    union are summed over the true nuclei; true and predicted nuclei that were joined with nothing add their pixels to
    the union.

    This is the variant of the paper: one predicted nucleus may serve several true ones. The MATLAB code of its authors
    instead takes a predicted nucleus away once it has served, which makes the result depend on the order of the
    numbers, and AJI+ (HoVer-Net) assigns one to one. Of predicted nuclei with equally large IoU, the first in reading
    order is taken.

    Returns:
        In [0, 1]; 1.0 if neither map has a nucleus, 0.0 if only one has.
    """
    total_area = int(overlap.truth_areas.sum() + overlap.predicted_areas.sum())
    if not total_area:
        return 1.0
    ranked = np.lexsort((overlap.predicted_index, -overlap.pair_iou, overlap.truth_index))
    joined, first = np.unique(overlap.truth_index[ranked], return_index=True)
    best = ranked[first]
    unjoined = np.ones(overlap.truth_areas.size, dtype=np.bool_)
    unjoined[joined] = False
    unused = np.ones(overlap.predicted_areas.size, dtype=np.bool_)
    unused[overlap.predicted_index[best]] = False
    common = int(overlap.shared[best].sum())
    union = int(overlap.united[best].sum())
    union += int(overlap.truth_areas[unjoined].sum()) + int(overlap.predicted_areas[unused].sum())
    return common / union
