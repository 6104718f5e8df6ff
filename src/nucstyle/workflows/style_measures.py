"""How well a style model keeps nuclei and reaches its targets, over all pairs of modalities.

Real images are measured once; restyled ones are then compared with them. What is annotated only serves for measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from nucstyle.core import rng
from nucstyle.core.errors import DatasetError
from nucstyle.core.protocols import SILENT, Judge, Progress, Translator
from nucstyle.data.dataset import Dataset
from nucstyle.data.manifest import Record
from nucstyle.metrics.intervals import ImageResampling
from nucstyle.metrics.translation import (
    KEPT,
    KEPT_INVERTED,
    FalseObjects,
    colour_spread,
    dice,
    false_objects,
    goal_shares,
    kernel_distance,
    separation,
    signed_separation,
)

Item = TypeVar("Item")
Array = npt.NDArray[np.float64]
Trunk = Callable[[Tensor], Sequence[Tensor]]
"""(B, 3, H, W) in [0, 1] -> feature maps."""

WINDOW_PX = 256
"""Images are judged by a window of at most this side: the one with the most nucleus pixels."""
CROP_PX = 128
"""Features are taken of disjoint crops of this side."""
MIN_SEPARATION = 0.8
"""Nuclei with less than this signed separation are not kept; sources with less are not asked."""
FEW = 3
"""A modality with fewer annotated images than this is measured on training images, and marked."""
POOR_JUDGE = 0.5
"""With a lower Dice on real images a judge says little of restyled ones."""
_LEAST_DICE = 1e-6
"""Is asked at least, so that shares of what a judge reaches that sees nothing are numbers."""
_MIN_RESAMPLED = 5
"""With fewer images there is no interval; the share of each is given instead."""
_TRAINING_SOURCES = 12
_SIGN_IMAGES = 24
_CLASSIFIER_CROPS = 1000
"""Crops a modality that the classifier is taught with, at most."""

# H, W = size of an image, N = crops, D = features


class Window(NamedTuple):
    """The part of an annotated image that is judged."""

    id: str
    image: Tensor
    """(3, H, W) in [0, 1]."""
    labels: npt.NDArray[np.int32]
    """(H, W)."""


@dataclass(frozen=True, slots=True)
class RealModality:
    """What is known of the real images of a modality."""

    sources: tuple[Window, ...]
    """Windows to restyle."""
    from_train: bool
    """Whether they are training images, for want of others."""
    sign: int
    """1 if nuclei are brighter than their surroundings in most annotated training images, else -1."""
    judged: Mapping[str, tuple[float, FalseObjects]]
    """By id what the judge sees of each source as it is: its Dice, and false objects."""
    features: Array
    """(N, D) of the crops of training and other reference images."""
    trained: npt.NDArray[np.bool_]
    """(N,) whether the crop is of a training image."""
    fields: tuple[str, ...]
    """Field of view of each crop."""
    colour_spread: float
    """Of the mean colours of the images."""

    @property
    def usable(self) -> list[Window]:
        """The sources whose own nuclei are well separated."""
        measured = [(w, signed_separation(grey(w.image), w.labels, polarity=self.sign)) for w in self.sources]
        return [window for window, value in measured if value is not None and value > MIN_SEPARATION]

    @property
    def dice(self) -> float | None:
        """Of the judge on the sources as they are, mean; None where none is annotated."""
        return self.dice_of(self.judged)

    @property
    def false_per_nucleus(self) -> float:
        """False objects that the judge sees in the sources as they are, for each true nucleus."""
        return self.false_of(self.judged)

    def dice_of(self, ids: Iterable[str]) -> float | None:
        """The mean over some of the sources, one that is named twice counting twice; None for none."""
        found = [self.judged[one][0] for one in ids]
        return float(np.mean(found)) if found else None

    def false_of(self, ids: Iterable[str]) -> float:
        """Over some of the sources, one that is named twice counting twice."""
        return _per_nucleus([self.judged[one][1] for one in ids])

    def floor(self) -> float | None:
        """Kernel distance between two halves of the real crops, divided by field; None for a single field."""
        first = set(sorted(set(self.fields))[::2])
        inside = np.array([one in first for one in self.fields])
        if min(int(inside.sum()), int((~inside).sum())) < 2:
            return None
        return kernel_distance(self.features[inside], self.features[~inside])


@dataclass(slots=True)
class Draws:
    """The restyled images of a (source, target) pair, measured."""

    ids: list[str] = field(default_factory=list)
    separation: list[float] = field(default_factory=list)
    """Signed, in the direction of the target's annotated training images."""
    dice: list[float] = field(default_factory=list)
    """Of the judge on the restyled image against the masks of its source."""
    false: list[FalseObjects] = field(default_factory=list)
    cycle: list[float] = field(default_factory=list)
    """Mean absolute difference in [0, 1] after the way back."""
    recognised: list[bool] = field(default_factory=list)
    """Whether the ModalityModel takes the image for its target."""
    taken: list[bool] = field(default_factory=list)
    """Whether the classifier of features takes the image for its target."""
    features: list[Array] = field(default_factory=list)


class Measurer:
    """Real images, measured once; then any number of style models with the same modalities.

    Modalities of which there is no image are left out of `real`: nothing can be said of them.

    Args:
        evaluated: Annotated images to restyle, each with its modality.
        train: Training images, each with its modality.
        judge: Sees nuclei; trained on real images.
        trunk: Gives features.
        modalities: Names, in the order of the models.
        polarity: 1 or -1 of each modality, as found without masks.
        trust_masks: Whether the sign is rather that of most of the annotated training images, where there are any.
        references: Images that restyled ones are compared with, beside the training images; None = the evaluated ones.
        reference_images: At most this many images a modality give features; None = all.
        progress: Shown to the person.

    Raises:
        DatasetError: No image with masks: there is nothing to compare with. Or images of one modality only.
    """

    def __init__(
        self,
        evaluated: Dataset,
        train: Dataset,
        judge: Judge,
        trunk: Trunk,
        modalities: Sequence[str],
        *,
        polarity: Sequence[int],
        trust_masks: bool = True,
        references: Dataset | None = None,
        reference_images: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.modalities = tuple(modalities)
        self._evaluated, self._train, self._judge, self._trunk = evaluated, train, judge, trunk
        self._others = evaluated if references is None else references
        self._polarity, self._trust_masks = dict(zip(modalities, polarity, strict=True)), trust_masks
        there = {one.modality for one in (*train.records, *self._others.records)}
        present = [name for name in self.modalities if name in there]
        _refuse_what_cannot_be_compared(present, evaluated, train)
        self.real: dict[str, RealModality] = {}
        progress.start("measure real images", len(present), "modality")
        for number, name in enumerate(present, start=1):
            self.real[name] = self._measure(name, reference_images)
            progress.advance(number)
        for line in self._remarks():
            progress.say(line)
        self._classifier = self._fit_classifier()

    def _remarks(self) -> Iterator[str]:
        """What makes the measures weaker than they look."""
        for name, one in self.real.items():
            if one.from_train:
                yield (
                    f"{name}: fewer than {FEW} annotated images to restyle, so {len(one.sources)} training images are, which the "
                    "model has seen; its measures are marked: of train"
                )
            if one.dice is not None and one.dice < POOR_JUDGE:
                yield (
                    f"{name}: the judge finds nuclei of real images with a Dice of {one.dice:.2f} only, so that Dice and false "
                    "objects of restyled ones say little; give one that was trained longer, or with more masks, by --judge"
                )

    def _measure(self, name: str, reference_images: int | None) -> RealModality:
        found, spare = windows(self._evaluated, name), []
        if len(found) < FEW:
            spare = windows(self._train, name, limit=_TRAINING_SOURCES)
        sources, from_train = spare or found, bool(spare)
        features, trained, fields, colours = self._references(name, reference_images)
        return RealModality(
            sources=tuple(sources),
            from_train=from_train,
            sign=self._sign(name),
            judged={one.id: self._judged(one.image, one.labels) for one in sources},
            features=features,
            trained=trained,
            fields=fields,
            colour_spread=colour_spread(colours),
        )

    def _sign(self, name: str) -> int:
        """The sign of most annotated training images, or that found without masks."""
        if not self._trust_masks:
            return self._polarity[name]
        found = [separation(grey(one.image), one.labels) for one in windows(self._train, name, limit=_SIGN_IMAGES)]
        brighter = [value > 0.5 for value in found if value is not None]
        if not brighter:
            return self._polarity[name]
        return 1 if sum(brighter) * 2 >= len(brighter) else -1

    def _references(self, name: str, limit: int | None) -> tuple[Array, npt.NDArray[np.bool_], tuple[str, ...], Array]:
        """Features of the crops of all reference images, whether each is for training, its field; the images' mean colours."""
        train = {one.id for one in self._train.records}
        both: dict[str, Record] = {
            one.id: one for one in (*self._others.records, *self._train.records) if one.modality == name
        }
        real = self._others.like(_thinned(sorted(both.values(), key=lambda one: one.id not in train), limit))
        features: list[Array] = []
        trained: list[bool] = []
        fields: list[str] = []
        colours = []
        for index, record in enumerate(real.records):
            image = real.image(index)
            features.append(crop_features(image, self._trunk))
            trained += [record.id in train] * len(features[-1])
            fields += [record.field_of_view or record.id] * len(features[-1])
            colours.append(image.mean(dim=(1, 2)).numpy())
        return np.concatenate(features), np.array(trained), tuple(fields), np.array(colours)

    def _judged(self, image: Tensor, labels: npt.NDArray[np.int32]) -> tuple[float, FalseObjects]:
        seen = self._judge.foreground(image[None])[0, 0].cpu().numpy() > 0.5
        return dice(seen, labels > 0), false_objects(seen, labels)

    def _fit_classifier(self) -> Pipeline:
        """Logistic regression on the trunk's features of real training crops, the modalities weighted alike.

        A modality without training images, as another laboratory's data may have, is taught with what there is.
        """
        known = [one.features[one.trained] if one.trained.any() else one.features for one in self.real.values()]
        chosen = [features[:: -(-len(features) // _CLASSIFIER_CROPS)] for features in known]
        numbers = np.repeat([self.modalities.index(name) for name in self.real], [len(one) for one in chosen])
        model = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
        return make_pipeline(StandardScaler(), model).fit(np.concatenate(chosen), numbers)

    def draw(
        self, model: Translator, source: str, target: str, *, draws: int, seed: int, keep: int = 0
    ) -> tuple[Draws, list[tuple[Window, Tensor]]]:
        """Restyle the sources of a modality into another, in turn or evenly chosen, and measure the results.

        Args:
            model: To measure.
            source: Name of a modality.
            target: Name of a modality.
            draws: How many.
            seed: Of the styles drawn.
            keep: Give back the first so many pictures.

        Returns:
            The measures, and (source, restyled) pictures.
        """
        measured, kept, usable = Draws(), [], _thinned(self.real[source].usable, draws)
        for k in range(draws if usable else 0):
            window = usable[k % len(usable)]
            made = self._restyle(model, window, source, target, rng.generator(seed, source, target, k), measured)
            if k < keep:
                kept.append((window, made))
        return measured, kept

    def _restyle(
        self, model: Translator, window: Window, source: str, target: str, generator: torch.Generator, draws: Draws
    ) -> Tensor:
        one, other = (torch.tensor([self.modalities.index(name)]) for name in (source, target))
        image = window.image[None]
        attribute = model.draw_attribute(other, mode="per-domain", generator=generator)
        made = model.translate(image, source=one, target=other, attribute=attribute).cpu()
        again = model.translate(made, source=other, target=one, attribute=model.encode_attribute(image, one)).cpu()
        kept, counted = self._judged(made[0], window.labels)
        draws.ids.append(window.id)
        draws.separation.append(signed_separation(grey(made[0]), window.labels, polarity=self.real[target].sign) or 0.0)
        draws.dice.append(kept)
        draws.false.append(counted)
        draws.cycle.append(float((again - image).abs().mean()))
        draws.recognised.append(int(model.recognise(made)) == int(other))
        draws.features.append(crop_features(made[0], self._trunk))
        draws.taken.append(self._taken_for(draws.features[-1]) == target)
        return made[0]

    def summary(self, source: str, target: str, draws: Draws) -> dict[str, Any]:
        """What the draws of a pair say, beside what the real images of both modalities say."""
        own, real = self.real[source], self.real[target]
        row: dict[str, Any] = {
            "source": source,
            "target": target,
            "from_train": own.from_train,
            "draws": len(draws.ids),
            "images": len(set(draws.ids)),
        }
        if not draws.ids:
            return row
        kept, images = [value > MIN_SEPARATION for value in draws.separation], sorted(set(draws.ids))
        features = np.concatenate(draws.features)
        untranslated = np.concatenate([crop_features(one.image, self._trunk) for one in own.usable if one.id in images])
        return row | {
            "nuclei_kept": float(np.mean(kept)),
            "nuclei_kept_asked": KEPT_INVERTED if own.sign > real.sign else KEPT,
            **self._spread(source, target, draws, kept),
            "separation": float(np.mean(draws.separation)),
            "dice": float(np.mean(draws.dice)),
            "dice_share": float(np.mean(draws.dice)) / self.dice_asked(source, target, draws.ids),
            "false_per_nucleus": _per_nucleus(draws.false),
            "false_allowed": self.false_allowed(source, target, draws.ids),
            "taken_for_target": float(np.mean(draws.taken)),
            "recognised": float(np.mean(draws.recognised)),
            "kernel_distance": _distance(features, real.features),
            "kernel_distance_untranslated": _distance(untranslated, real.features),
            "kernel_distance_floor": real.floor(),
            "cycle_error": float(np.mean(draws.cycle)),
        }

    def _spread(self, source: str, target: str, draws: Draws, kept: Sequence[bool]) -> dict[str, Any]:
        """How sure the shares are: 95 % intervals by resampling images, or the share of each of few images."""
        if len(set(draws.ids)) < _MIN_RESAMPLED:
            return {"nuclei_kept_interval": None, "nuclei_kept_by_image": _by_image(draws.ids, kept)}
        real = self.real[target].dice
        again = ImageResampling(draws.ids)
        own = again.means([self.real[source].judged[one][0] for one in draws.ids])
        asked = np.maximum(_LEAST_DICE, np.minimum(own, 1.0 if real is None else real))
        return {
            "nuclei_kept_interval": again.interval(again.means(kept)),
            "nuclei_kept_by_image": None,
            "dice_share_interval": again.interval(again.means(draws.dice) / asked),
            "false_per_nucleus_interval": again.interval(
                again.means([one.false for one in draws.false]) / again.means([one.nuclei for one in draws.false])
            ),
            "taken_for_target_interval": again.interval(again.means(draws.taken)),
        }

    def dice_asked(self, source: str, target: str, ids: Iterable[str]) -> float:
        """The smaller of the judge's Dice on the sources that were drawn and on real images of the target, as far as known."""
        known = [one for one in (self.real[source].dice_of(ids), self.real[target].dice) if one is not None]
        return max(_LEAST_DICE, min(known, default=1.0))

    def false_allowed(self, source: str, target: str, ids: Iterable[str]) -> float:
        """Tenth of a false object per nucleus more than on the sources that were drawn, or on real images of the target."""
        return max(self.real[source].false_of(ids), self.real[target].false_per_nucleus) + 0.1

    def _taken_for(self, features: Array) -> str:
        """The modality that the classifier takes an image for: the likeliest over its crops, (N, D)."""
        likely = self._classifier.predict_log_proba(features).mean(axis=0)
        return self.modalities[int(self._classifier.classes_[likely.argmax()])]

    def diversity(self, model: Translator, target: str, *, seed: int, attributes: int = 20) -> float:
        """Spread of the mean colour of one image over drawn attributes; the mean over a source image of each modality."""
        number, spreads = torch.tensor([self.modalities.index(target)]), []
        for source, real in self.real.items():
            if not real.sources:
                continue
            place, image, colours = self.modalities.index(source), real.sources[0].image[None], []
            for k in range(attributes):
                generator = rng.generator(seed, "diversity", source, target, k)
                attribute = model.draw_attribute(number, mode="per-domain", generator=generator)
                made = model.translate(image, source=torch.tensor([place]), target=number, attribute=attribute)
                colours.append(made[0].mean(dim=(1, 2)).cpu().numpy())
            spreads.append(colour_spread(np.array(colours)))
        return float(np.mean(spreads))

    def self_error(self, model: Translator, name: str) -> float | None:
        """Mean absolute difference of the sources from their self-reconstruction, in [0, 1]; None without sources."""
        if not self.real[name].sources:
            return None
        number = torch.tensor([self.modalities.index(name)])
        errors = [
            (model.reconstruct(one.image[None], number).cpu() - one.image).abs().mean()
            for one in self.real[name].sources
        ]
        return float(torch.stack(errors).mean())


def quality(pairs: Sequence[Mapping[str, Any]]) -> float | None:
    """One number to choose a model by: how near all pairs of different modalities are to the goals, 1 = all are met.

    The mean over pairs and goals of the share of each goal that is reached; None where no pair could be measured.
    """
    shares: list[float] = []
    for pair in pairs:
        if not pair["draws"] or pair["source"] == pair["target"]:
            continue
        shares += goal_shares(pair).values()
    return float(np.mean(np.clip(shares, 0, 1))) if shares else None


def windows(dataset: Dataset, modality: str, *, limit: int | None = None) -> list[Window]:
    """The window with the most nuclei of each annotated image of a modality.

    Args:
        dataset: Images with their modalities.
        modality: Its name.
        limit: At most this many, evenly spread over the data set; None = all.
    """
    chosen = [
        index
        for index, record in enumerate(dataset.records)
        if record.modality == modality and record.labels is not None
    ]
    return [_fullest(dataset, index) for index in _thinned(chosen, limit)]


def _thinned(items: list[Item], limit: int | None) -> list[Item]:
    if limit is None or len(items) <= limit:
        return items
    return [items[k * len(items) // limit] for k in range(limit)]


def _fullest(dataset: Dataset, index: int) -> Window:
    sample = dataset[index]
    assert sample.labels is not None
    (height, width), nuclei = sample.size, (sample.labels > 0).numpy()
    tall, wide = min(WINDOW_PX, height), min(WINDOW_PX, width)
    places = [
        (slice(top, top + tall), slice(left, left + wide))
        for top in range(0, height - tall + 1, -(-tall // 2))
        for left in range(0, width - wide + 1, -(-wide // 2))
    ]
    place = max(places, key=lambda one: int(nuclei[one].sum()))
    return Window(sample.id, sample.image[:, *place], sample.labels[place].numpy())


@torch.no_grad()
def crop_features(image: Tensor, trunk: Trunk, batch: int = 32) -> Array:
    """Features of the disjoint crops of an image: the means of the trunk's maps.

    Args:
        image: (3, H, W) in [0, 1].
        trunk: Gives the maps.
        batch: Crops at a time.

    Returns:
        (N, D); a side shorter than a crop is left whole.
    """
    height, width = image.shape[1:]
    tall, wide = min(CROP_PX, height), min(CROP_PX, width)
    crops = [
        image[:, top : top + tall, left : left + wide]
        for top in range(0, height - tall + 1, tall)
        for left in range(0, width - wide + 1, wide)
    ]
    rows = []
    for start in range(0, len(crops), batch):
        maps = trunk(torch.stack(crops[start : start + batch]).contiguous(memory_format=torch.channels_last))
        rows.append(torch.cat([one.float().mean(dim=(2, 3)) for one in maps], dim=1))
    return torch.cat(rows).cpu().double().numpy()


def grey(image: Tensor) -> Array:
    """(3, H, W) -> (H, W) mean of R, G and B."""
    values: Array = image.mean(dim=0).double().cpu().numpy()
    return values


def _per_nucleus(counted: Sequence[FalseObjects]) -> float:
    return sum(one.false for one in counted) / max(1, sum(one.nuclei for one in counted))


def _distance(one: Array, other: Array) -> float | None:
    return kernel_distance(one, other) if min(len(one), len(other)) > 1 else None


def _refuse_what_cannot_be_compared(present: Sequence[str], evaluated: Dataset, train: Dataset) -> None:
    if len(present) < 2:
        msg = f"the images are of {len(present)} modality that the model knows; it is measured between two or more"
        raise DatasetError(msg)
    if not len(evaluated.annotated()) + len(train.annotated()):
        msg = "none of the images has masks; how well nuclei are kept is measured against them"
        raise DatasetError(msg)


def _by_image(ids: Sequence[str], values: Sequence[bool]) -> dict[str, float]:
    """The share of each image."""
    return {
        name: float(np.mean([v for one, v in zip(ids, values, strict=True) if one == name]))
        for name in sorted(set(ids))
    }
