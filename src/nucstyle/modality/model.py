"""The model that says which imaging modality an image belongs to, and whether it is like anything seen (paper, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.decomposition import PCA
from torch import Tensor

from nucstyle.core.clahe import ClaheConfig, enhance
from nucstyle.core.errors import DatasetError, WeightsError
from nucstyle.modality.clustering import centres_of, distances_to, kmeans
from nucstyle.modality.features import FEATURES, N_FEATURES, Array, Features, ImageStatistics, measure
from nucstyle.modality.naming import colour_word, sentence, short_name

STATE_FORMAT = 2
FALSE_ALARMS = 0.03
"""The share of images like those seen that may be called new."""

# N = images, K = modalities, D = features


@dataclass(frozen=True, slots=True)
class Modality:
    """One imaging modality, as found."""

    name: str
    """`[a-z0-9-]+`, for example `purple-on-white`."""
    centres: tuple[tuple[float, ...], ...]
    """(n, D) one, the mean features of its images; more where a person merged modalities or moved images."""
    polarity: int
    """1 if objects are brighter than the background, -1 if darker; found without masks."""
    polarity_confidence: float
    """Share of the images that vote for the sign, weighted by how clearly they do; 0.5 = a guess, 1 = unanimous."""
    sentence: str
    """For people."""
    n_images: int
    """How many images it was found from."""


@dataclass(frozen=True, slots=True)
class Novelty:
    """From which distance on an image is called new (split conformal prediction: Vovk, Gammerman and Shafer 2005)."""

    threshold: float
    """Largest distance to the nearest centre that is still like what was seen."""
    expected_false_alarms: float
    """Share of further images of the same kind that will be called new: on average at most this, in [0, 1]."""
    n_images: int
    """How many images it was calibrated on."""
    calibrated_on: str
    """`validation`; or, where that has too few images, `fitted` or `fitted and validation`: then the rate is optimistic, because
    the centres were fitted to these images."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What the model says of one image."""

    name: str
    """Of the nearest modality."""
    number: int
    """Its number."""
    distance: float
    """To its nearest centre, in units of the features."""
    is_new: bool
    """Farther away than nearly every image that the model was calibrated on: the modality is likely to be another one."""


@dataclass(frozen=True, slots=True)
class ModalityModel:
    """Which modality an image belongs to: that of the nearest centre in the space of colour statistics."""

    modalities: tuple[Modality, ...]
    """In the order of their numbers, largest first."""
    axes: tuple[tuple[float, ...], ...]
    """(2, D) principal axes of the images it was fitted to, for pictures."""
    origin: tuple[float, ...]
    """(D,) mean of the images it was fitted to."""
    novelty: Novelty
    """When an image is new."""
    features: Features = "chroma"
    """Which features were measured."""
    clahe: ClaheConfig | None = None
    """What dark images went through before they were measured; None = nothing."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of their numbers."""
        return tuple(modality.name for modality in self.modalities)

    @classmethod
    def fit(
        cls,
        statistics: Sequence[ImageStatistics],
        *,
        k: int = 6,
        seed: int = 0,
        features: Features = "chroma",
        clahe: ClaheConfig | None = None,
    ) -> Self:
        """Find modalities by K-means.

        Args:
            statistics: Of the images to divide, at least one.
            k: How many modalities; 6 in the paper. Fewer are found where there are fewer different images.
            seed: Of the K-means starts; the same seed and images give the same modalities.
            features: How `statistics` were measured.
            clahe: What the images went through before.

        Raises:
            DatasetError: No image, or k below 1.
        """
        if not statistics or k < 1:
            msg = f"cannot divide {len(statistics)} images into {k} modalities; both must be at least 1"
            raise DatasetError(msg)
        numbers = kmeans(np.stack([one.features for one in statistics]), k, seed=seed).labels_
        return cls.from_groups(statistics, numbers.tolist(), features=features, clahe=clahe)

    @classmethod
    def from_groups(
        cls,
        statistics: Sequence[ImageStatistics],
        groups: Sequence[int | str],
        *,
        reserved: Sequence[str] = (),
        features: Features = "chroma",
        clahe: ClaheConfig | None = None,
    ) -> Self:
        """Describe modalities that are already known, for example those of a manifest that a person edited.

        Args:
            statistics: Of each image.
            groups: The group of each image; a text is the modality's name, a number is replaced by a name in words.
            reserved: Names that a number must not be replaced by.
            features: How `statistics` were measured.
            clahe: What the images went through before.
        """
        points = np.stack([one.features for one in statistics])
        first = {group: place for place, group in reversed(list(enumerate(groups)))}
        sizes = {group: sum(other == group for other in groups) for group in first}
        order = sorted(first, key=lambda group: (-sizes[group], first[group]))
        centres = centres_of(points, np.array([order.index(group) for group in groups]))
        taken = [*reserved, *(group for group in order if isinstance(group, str))]
        modalities = []
        for group, own in zip(order, centres, strict=True):
            members = [one for one, other in zip(statistics, groups, strict=True) if other == group]
            modality = _describe(members, own, group if isinstance(group, str) else None, taken)
            taken.append(modality.name)
            modalities.append(modality)
        axes = np.zeros((2, points.shape[1]))
        if len(points) > 1 and np.ptp(points, axis=0).any():
            found = PCA(2, svd_solver="full").fit(points).components_
            # The sign of a principal axis is arbitrary: fix it, so that pictures of two runs look alike.
            axes[:] = found * np.sign(found[np.arange(2), np.abs(found).argmax(axis=1)])[:, None]
        return cls(
            modalities=tuple(modalities),
            axes=_tuples(axes),
            origin=tuple(points.mean(axis=0).tolist()),
            novelty=_novelty(distances_to(points, centres).min(axis=1), "fitted"),
            features=features,
            clahe=clahe,
        )

    def calibrated(self, validation: Array, fitted: Array) -> Self:
        """The same model with the novelty threshold taken from images that it was not fitted to.

        Args:
            validation: (N, D) features of validation images; with none, nothing changes.
            fitted: (N, D) features of those that it was fitted to: taken as well where the others are too few to tell.
        """
        if not len(validation):
            return self
        if len(validation) >= 1 / FALSE_ALARMS - 1:
            return replace(self, novelty=_novelty(self.distances(validation).min(axis=1), "validation"))
        both = self.distances(np.concatenate([fitted, validation])).min(axis=1)
        return replace(self, novelty=_novelty(both, "fitted and validation"))

    def measure(self, image: Tensor) -> ImageStatistics:
        """Measure an image, (3, H, W) float32 in [0, 1], as the images were that this model was fitted to."""
        return measure_as(image, self.features, self.clahe)

    def distances(self, features: Array) -> Array:
        """(N, D) -> (N, K): Euclidean distances to the nearest centre of each modality."""
        return distances_to(features, [np.array(modality.centres) for modality in self.modalities])

    def recognise(self, features: Array) -> Recognition:
        """What the model says of one image, given its features (D,)."""
        distances = self.distances(features[None])[0]
        number = int(distances.argmin())
        distance = float(distances[number])
        return Recognition(self.names[number], number, distance, distance > self.novelty.threshold)

    def assess(self, image: Tensor) -> Recognition:
        """The modality of one image, (3, H, W) float32 in [0, 1], and whether it is new."""
        return self.recognise(self.measure(image).features)

    def number(self, image: Tensor) -> int:
        """The number of the modality of one image, (3, H, W) float32 in [0, 1]."""
        return self.assess(image).number

    def predict(self, image: Tensor) -> str:
        """The name of the modality of one image, (3, H, W) float32 in [0, 1]."""
        return self.assess(image).name

    def embed(self, features: Array) -> Array:
        """(N, D) -> (N, 2): position in the plane of the two principal axes."""
        return np.asarray((features - np.array(self.origin)) @ np.array(self.axes).T)

    def state(self) -> dict[str, Any]:
        """Plain values, enough for `from_state`."""
        values = asdict(self)
        values["modalities"] = [
            {**modality, "centres": [list(centre) for centre in modality["centres"]]}
            for modality in values["modalities"]
        ]
        values["axes"], values["origin"] = [list(axis) for axis in self.axes], list(self.origin)
        if self.clahe:
            values["clahe"] = self.clahe.state()
        return {"format": STATE_FORMAT, **values}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Make a model from what `state` returned.

        Raises:
            WeightsError: Another format version, or a part is missing or is not what it should be.
        """
        if state.get("format") != STATE_FORMAT:
            msg = (
                f"modality model of format {state.get('format')}, this version reads {STATE_FORMAT}; run discover again"
            )
            raise WeightsError(msg)
        try:
            model = cls(
                modalities=tuple(
                    Modality(**{**fields, "centres": _tuples(np.array(fields["centres"], float))})
                    for fields in state["modalities"]
                ),
                axes=_tuples(np.array(state["axes"], float)),
                origin=tuple(map(float, state["origin"])),
                novelty=Novelty(**state["novelty"]),
                features=FEATURES[FEATURES.index(state["features"])],
                clahe=ClaheConfig.from_state(state["clahe"]),
            )
            if not model._is_whole():
                msg = "its numbers do not fit each other"
                raise ValueError(msg)
        except (KeyError, TypeError, ValueError) as error:
            msg = f"damaged modality model ({error}); run discover again"
            raise WeightsError(msg) from None
        return model

    def _is_whole(self) -> bool:
        """Whether every point has as many coordinates as the features, and all are finite."""
        points = [self.origin, *self.axes, *(centre for modality in self.modalities for centre in modality.centres)]
        return (
            {len(point) for point in points} == {N_FEATURES[self.features]}
            and len(self.axes) == 2
            and len(set(self.names)) == len(self.modalities) > 0
            and all(modality.centres and modality.polarity in (-1, 1) for modality in self.modalities)
            and bool(np.isfinite(points).all())
        )


def measure_as(image: Tensor, features: Features, clahe: ClaheConfig | None) -> ImageStatistics:
    """Measure an image, (3, H, W) float32 in [0, 1], after its contrast was enhanced where that is wanted."""
    return measure(enhance(image, clahe) if clahe else image, features=features)


def _tuples(values: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())


def _novelty(distances: Array, calibrated_on: str) -> Novelty:
    """The threshold that a further image of the same kind exceeds with a probability of at most the expected rate."""
    count = len(distances)
    rank = min(count, math.ceil((count + 1) * (1 - FALSE_ALARMS)))
    return Novelty(
        threshold=float(np.sort(distances)[rank - 1]),
        expected_false_alarms=1 - rank / (count + 1),
        n_images=count,
        calibrated_on=calibrated_on,
    )


def _describe(members: Sequence[ImageStatistics], centres: Array, name: str | None, taken: Sequence[str]) -> Modality:
    votes = np.array([one.skew for one in members])
    strength = float(np.abs(votes).sum())
    polarity = 1 if votes.sum() >= 0 else -1
    confidence = float(np.abs(votes[np.sign(votes) == polarity]).sum()) / strength if strength > 0 else 0.5
    tails = np.stack([one.brightest if polarity > 0 else one.darkest for one in members])
    objects = colour_word(tails.mean(axis=0).tolist())
    background = colour_word(np.median([one.background for one in members], axis=0).tolist())
    return Modality(
        name=name or short_name(objects, background, taken),
        centres=_tuples(centres),
        polarity=polarity,
        polarity_confidence=confidence,
        sentence=sentence(objects, background, polarity, len(members)),
        n_images=len(members),
    )
