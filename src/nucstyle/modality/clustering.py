"""Dividing images into imaging modalities by K-means on their colour statistics (paper, section 2.2 and Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from nucstyle.core.errors import DatasetError, WeightsError
from nucstyle.core.rng import derive_seed
from nucstyle.modality.features import Array, ImageStatistics, measure
from nucstyle.modality.naming import colour_word, sentence, short_name

STATE_FORMAT = 1
RESTARTS = 20
"""K-means is run this often from other starts and the tightest result kept."""

# N = images, K = modalities, D = features


@dataclass(frozen=True, slots=True)
class Modality:
    """One imaging modality, as found."""

    name: str
    """`[a-z0-9-]+`, for example `purple-on-white`."""
    centre: tuple[float, ...]
    """(D,) mean features of its images."""
    polarity: int
    """1 if objects are brighter than the background, -1 if darker; found without masks."""
    polarity_confidence: float
    """Share of the images that vote for the sign, weighted by how clearly they do; 0.5 = a guess, 1 = unanimous."""
    sentence: str
    """For people."""
    n_images: int
    """How many images it was found from."""


@dataclass(frozen=True, slots=True)
class ModalityModel:
    """Which modality an image belongs to: that of the nearest centre in the space of colour statistics."""

    modalities: tuple[Modality, ...]
    """In the order of their numbers, largest first."""
    axes: tuple[tuple[float, ...], ...]
    """(2, D) principal axes of the images it was fitted to, for pictures."""
    origin: tuple[float, ...]
    """(D,) mean of the images it was fitted to."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of their numbers."""
        return tuple(modality.name for modality in self.modalities)

    @classmethod
    def fit(cls, statistics: Sequence[ImageStatistics], *, k: int = 6, seed: int = 0) -> Self:
        """Find modalities by K-means.

        Args:
            statistics: Of the images to divide, at least one.
            k: How many modalities; 6 in the paper. Fewer are found where there are fewer different images.
            seed: Of the K-means starts; the same seed and images give the same modalities.

        Raises:
            DatasetError: No image, or k below 1.
        """
        if not statistics or k < 1:
            msg = f"cannot divide {len(statistics)} images into {k} modalities; both must be at least 1"
            raise DatasetError(msg)
        features = np.stack([one.features for one in statistics])
        k = min(k, len(np.unique(features.round(6), axis=0)))
        with threadpool_limits(limits=1):  # a sum over several threads may differ in the last bit from run to run
            numbers = KMeans(k, n_init=RESTARTS, random_state=derive_seed(seed, "k-means") % 2**32).fit_predict(
                features
            )
        return cls.from_groups(statistics, numbers.tolist())

    @classmethod
    def from_groups(cls, statistics: Sequence[ImageStatistics], groups: Sequence[int] | Sequence[str]) -> Self:
        """Describe modalities that are already known, for example those of a manifest that a person edited.

        Args:
            statistics: Of each image.
            groups: The group of each image; a text is the modality's name, a number is replaced by a name in words.
        """
        features = np.stack([one.features for one in statistics])
        taken: list[str] = []
        modalities = []
        sizes = {group: sum(other == group for other in groups) for group in groups}
        for group in sorted(sizes, key=lambda group: (-sizes[group], _first(groups, group))):
            members = [one for one, other in zip(statistics, groups, strict=True) if other == group]
            modality = _describe(members, group if isinstance(group, str) else None, taken)
            taken.append(modality.name)
            modalities.append(modality)
        axes = np.zeros((2, features.shape[1]))
        if len(features) > 2 and np.ptp(features, axis=0).any():
            found = PCA(2, svd_solver="full").fit(features).components_
            # The sign of a principal axis is arbitrary: fix it, so that pictures of two runs look alike.
            axes[:] = found * np.sign(found[np.arange(2), np.abs(found).argmax(axis=1)])[:, None]
        return cls(tuple(modalities), tuple(map(tuple, axes.tolist())), tuple(features.mean(axis=0).tolist()))

    def distances(self, features: Array) -> Array:
        """(N, D) -> (N, K): Euclidean distances to the centres."""
        centres = np.array([modality.centre for modality in self.modalities])
        return np.asarray(np.linalg.norm(features[:, None] - centres[None], axis=2))

    def number(self, image: Tensor) -> int:
        """The number of the modality of one image, (3, H, W) float32 in [0, 1]."""
        return int(self.distances(measure(image).features[None]).argmin())

    def predict(self, image: Tensor) -> str:
        """The name of the modality of one image, (3, H, W) float32 in [0, 1]."""
        return self.names[self.number(image)]

    def embed(self, features: Array) -> Array:
        """(N, D) -> (N, 2): position in the plane of the two principal axes."""
        return np.asarray((features - np.array(self.origin)) @ np.array(self.axes).T)

    def state(self) -> dict[str, Any]:
        """Plain values, enough for `from_state`."""
        modalities = [
            {
                "name": modality.name,
                "centre": list(modality.centre),
                "polarity": modality.polarity,
                "polarity_confidence": modality.polarity_confidence,
                "sentence": modality.sentence,
                "n_images": modality.n_images,
            }
            for modality in self.modalities
        ]
        axes = [list(axis) for axis in self.axes]
        return {"format": STATE_FORMAT, "modalities": modalities, "axes": axes, "origin": list(self.origin)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Make a model from what `state` returned.

        Raises:
            WeightsError: Another format version, or a part is missing.
        """
        if state.get("format") != STATE_FORMAT:
            msg = (
                f"modality model of format {state.get('format')}, this version reads {STATE_FORMAT}; run discover again"
            )
            raise WeightsError(msg)
        try:
            modalities = tuple(
                Modality(**{**fields, "centre": tuple(fields["centre"])}) for fields in state["modalities"]
            )
            return cls(modalities, tuple(tuple(axis) for axis in state["axes"]), tuple(state["origin"]))
        except (KeyError, TypeError) as error:
            msg = f"damaged modality model ({error}); run discover again"
            raise WeightsError(msg) from None


def _first(groups: Sequence[int] | Sequence[str], group: int | str) -> int:
    return next(index for index, other in enumerate(groups) if other == group)


def _describe(members: Sequence[ImageStatistics], name: str | None, taken: Sequence[str]) -> Modality:
    votes = np.array([one.skew for one in members])
    strength = float(np.abs(votes).sum())
    polarity = 1 if votes.sum() >= 0 else -1
    confidence = float(np.abs(votes[np.sign(votes) == polarity]).sum()) / strength if strength > 0 else 0.5
    tails = np.stack([one.brightest if polarity > 0 else one.darkest for one in members])
    objects = colour_word(tails.mean(axis=0).tolist())
    background = colour_word(np.median([one.background for one in members], axis=0).tolist())
    return Modality(
        name=name or short_name(objects, background, taken),
        centre=tuple(np.mean([one.features for one in members], axis=0).tolist()),
        polarity=polarity,
        polarity_confidence=confidence,
        sentence=sentence(objects, background, polarity, len(members)),
        n_images=len(members),
    )


def silhouette(features: Array, groups: Sequence[str]) -> float | None:
    """Mean silhouette in [-1, 1], or None where it is not defined (one group, or every image a group)."""
    if not 1 < len(set(groups)) < len(groups):
        return None
    return float(silhouette_score(features, list(groups)))
