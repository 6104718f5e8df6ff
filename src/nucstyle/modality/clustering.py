"""Dividing points into groups: K-means, K-means around groups that a person has named, and how many groups there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_samples
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from nucstyle.core.rng import derive_seed, generator
from nucstyle.modality.features import Array

Groups = npt.NDArray[np.int64]

RESTARTS = 20
"""K-means is run this often from other starts and the tightest result kept."""
MOST_MODALITIES = 10
"""`--k auto` looks no further."""
SUBSAMPLES, SUBSAMPLE_SHARE = 20, 0.9
MIN_STABILITY = 0.95
"""A modality of which more than this is lost (Jaccard index) when a tenth of the images is left out is not trusted."""
MIN_SIZE = 3
"""Fewer images than this are no modality for `--k auto`: they join the nearest one."""
MIN_SILHOUETTE = 0.25
"""Below it there is no structure (Kaufman and Rousseeuw 1990): one modality."""
_MOST_IMAGES = 3000
"""The silhouette needs all distances, so of more images `--k auto` looks at a sample."""
MOST_CENTRES, STRAYED_SHARE = 8, 0.05
"""Of one modality, and when it gets another, see `centres_of`; `--k auto` gives no larger share of images to other groups."""
_ROUNDS, _FEW_RESTARTS = 30, 3

# N = images, D = features, K = groups


@dataclass(frozen=True, slots=True)
class Candidate:
    """One number of modalities that was tried, and how well it divides the images."""

    k: int
    silhouette: float
    """Mean over images, in [-1, 1]."""
    standard_error: float
    """Of that mean."""
    stability: float
    """Of the least stable group of at least `MIN_SIZE` images: mean Jaccard index with the most similar group that is found
    without a tenth of the images."""
    modalities: int
    """Groups of at least `MIN_SIZE` images."""
    strays: int
    """Images of smaller groups."""


def kmeans(features: Array, k: int, *, seed: int, restarts: int = RESTARTS) -> KMeans:
    """K-means with many restarts; the same points and seed give the same groups on any number of threads.

    Args:
        features: (N, D), at least one.
        k: How many groups; at most as many as there are different points are made.
        seed: Of the starts.
        restarts: How many starts.
    """
    k = min(k, len(np.unique(features, axis=0)))
    with threadpool_limits(limits=1):  # a sum over several threads may differ in the last bit from run to run
        return KMeans(k, n_init=restarts, random_state=derive_seed(seed, "k-means") % 2**32).fit(features)


def choose_k(features: Array, *, seed: int) -> tuple[int, tuple[Candidate, ...]]:
    """How many groups there are.

    Among the numbers whose groups are stable under resampling (Hennig 2007, Cluster-wise assessment of cluster stability; but
    for tiny ones of few images in all), the *largest* whose mean silhouette is within two standard errors of the best: too
    coarse a division mixes stains, one that is a little too fine costs nothing.

    Args:
        features: (N, D); of more than 3,000 a sample is looked at.
        seed: Of K-means and the samples.

    Returns:
        The number, and everything that was tried, for a curve. 1 if nothing is stable or there is no structure. Images of
        groups under `MIN_SIZE` are still to be given to the others, with `without_tiny`.
    """
    features = features[_shuffled(len(features), seed, "choose k")[:_MOST_IMAGES]]
    most = min(MOST_MODALITIES, len(np.unique(features, axis=0)), len(features) - 1)
    candidates = tuple(_candidate(features, k, seed=seed) for k in range(2, most + 1))
    most_strays = max(1, STRAYED_SHARE * len(features))
    sound = [
        one for one in candidates if one.modalities > 1 and one.stability >= MIN_STABILITY and one.strays <= most_strays
    ]
    best = max(sound, key=lambda one: one.silhouette, default=None)
    if best is None or best.silhouette < MIN_SILHOUETTE:
        return 1, candidates
    return max(one.k for one in sound if one.silhouette >= best.silhouette - 2 * best.standard_error), candidates


def _shuffled(count: int, *seed: object) -> Groups:
    return torch.randperm(count, generator=generator(*seed)).numpy()


def _candidate(features: Array, k: int, *, seed: int) -> Candidate:
    groups = kmeans(features, k, seed=seed).labels_
    values = silhouette_samples(features, groups)
    agreement = []
    for turn in range(SUBSAMPLES):
        part = _shuffled(len(features), seed, "stability", turn)[: max(2, round(SUBSAMPLE_SHARE * len(features)))]
        agreement.append(_jaccard(groups[part], kmeans(features[part], k, seed=seed).labels_, k))
    large = np.bincount(groups, minlength=k) >= MIN_SIZE
    return Candidate(
        k=k,
        silhouette=float(values.mean()),
        standard_error=float(values.std() / np.sqrt(len(values))),
        stability=float(np.mean(agreement, axis=0)[large].min(initial=1.0)),
        modalities=int(large.sum()),
        strays=int((~large[groups]).sum()),
    )


def _jaccard(groups: Groups, others: Groups, k: int) -> Array:
    """(k,) of each group the Jaccard index with the most similar one of another division; 0 where it is empty."""
    shared = contingency_matrix(groups, others).astype(float)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    values = np.zeros(k)
    values[np.unique(groups)] = (shared / union).max(axis=1)
    return values


def without_tiny(features: Array, groups: Groups) -> Groups:
    """(N,) the groups after the images of those under `MIN_SIZE` have joined the nearest of the others."""
    large = np.flatnonzero(np.bincount(groups) >= MIN_SIZE)
    if not len(large):
        return np.zeros_like(groups)
    centres = [features[groups == group].mean(axis=0, keepdims=True) for group in large]
    return np.where(np.isin(groups, large), groups, large[nearest_group(features, centres)])


def centres_of(features: Array, groups: Groups) -> list[Array]:
    """Centres for groups that are given, so that the nearest centre of nearly every point is one of its own group.

    A group that K-means found needs one, its mean. A group that a person merged from several gets more, by K-means within
    it, while two of its points and a twentieth of them are nearer to another group, and up to `MOST_CENTRES`. A single image
    that was moved does not draw others along.

    Args:
        features: (N, D).
        groups: (N,) 0..G-1, none empty.

    Returns:
        Of each group (n, D), n >= 1.
    """
    members = [features[groups == group] for group in range(int(groups.max()) + 1)]
    most = [min(MOST_CENTRES, len(np.unique(own, axis=0))) for own in members]
    centres = [own.mean(axis=0, keepdims=True) for own in members]
    while True:
        strayed = np.bincount(groups[nearest_group(features, centres) != groups], minlength=len(members))
        open_ = [
            group
            for group in np.flatnonzero(strayed >= [max(2, STRAYED_SHARE * len(own)) for own in members])
            if len(centres[group]) < most[group]
        ]
        if not open_:
            return centres
        group = max(open_, key=lambda group: (int(strayed[group]), -int(group)))
        centres[group] = kmeans(
            members[group], len(centres[group]) + 1, seed=0, restarts=_FEW_RESTARTS
        ).cluster_centers_


def distances_to(features: Array, centres: Sequence[Array]) -> Array:
    """(N, D) and of each group (n, D) -> (N, G): Euclidean distance to the nearest centre of each group."""
    return np.stack([cdist(features, own).min(axis=1) for own in centres], axis=1)


def nearest_group(features: Array, centres: Sequence[Array]) -> Groups:
    """(N,) the group with the nearest centre."""
    found: Groups = distances_to(features, centres).argmin(axis=1)
    return found


def kmeans_around(features: Array, named: Sequence[int | None], k: int, *, seed: int) -> Groups:
    """K-means around groups that are known of some images (constrained K-means: Basu, Banerjee and Mooney, ICML 2002).

    Args:
        features: (N, D).
        named: Of each image its group 0..G-1, which holds, or None. Where no image has one, this is `kmeans`.
        k: How many groups in all; those beyond G form among the images without a name, from the farthest one outwards.
        seed: Of K-means.

    Returns:
        (N,) group of each image; named ones keep theirs.
    """
    fixed = np.array([-1 if group is None else group for group in named])
    free = fixed < 0
    if free.all():
        found: Groups = kmeans(features, k, seed=seed).labels_
        return found
    if not free.any():
        return fixed
    centres = dict(enumerate(centres_of(features[~free], fixed[~free])))
    for group in range(len(centres), k):
        distance = np.where(free, distances_to(features, list(centres.values())).min(axis=1), 0)
        if not distance.any():
            break
        centres[group] = features[[distance.argmax()]]
    groups = fixed
    for _ in range(_ROUNDS):
        places = np.array(list(centres))
        found = np.where(free, places[nearest_group(features, list(centres.values()))], fixed)
        if np.array_equal(found, groups):
            break
        groups = found
        left, numbers = np.unique(groups, return_inverse=True)
        centres = dict(zip(left.tolist(), centres_of(features, numbers), strict=True))
    return groups


def silhouettes(features: Array, groups: Sequence[str]) -> Array | None:
    """(N,) silhouette of each image in [-1, 1], or None where it is not defined (one group, or every image a group).

    All distances are needed: of more than 3,000 images NaN stands for those that a sample left out.
    """
    few = np.sort(_shuffled(len(features), 0, "silhouettes")[:_MOST_IMAGES])
    part = [groups[index] for index in few]
    if not 1 < len(set(part)) < len(part):
        return None
    values = np.full(len(features), np.nan)
    values[few] = silhouette_samples(features[few], part)
    return values
