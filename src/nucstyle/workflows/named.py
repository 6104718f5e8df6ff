"""The modality of every image of a data set that is to be trained on, and whose masks may be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nucstyle.core.errors import ImageError, OptionError
from nucstyle.core.protocols import Progress
from nucstyle.data.dataset import Dataset
from nucstyle.data.ledger import refuse_restyled
from nucstyle.data.run_folder import RunFolder
from nucstyle.data.weights import Weights
from nucstyle.modality.model import ModalityModel
from nucstyle.workflows.discover import (
    DiscoverConfig,
    Discovery,
    find_modalities,
    read_modality_model,
    write_discovery,
)

FOLDER = "modalities"
"""Of a training's run folder: what was found, a run folder of its own."""


@dataclass(frozen=True, slots=True)
class NamedImages:
    """Images with their modalities, and how these were found."""

    images: Dataset
    """Of train and validation, and those that are not divided; each has a modality."""
    found: Discovery
    settings: DiscoverConfig

    @property
    def polarity(self) -> dict[str, int]:
        """1 where the objects of a modality are brighter than their surroundings, -1 where darker."""
        return {one.name: one.polarity for one in self.found.model.modalities}

    def bare_training_part(self) -> Dataset:
        """The images to learn from without their masks, whose files are not even opened."""
        return masked(self.images, (), self.found.model.names).part("train", None)

    def write(self, run: RunFolder, *, seed: int) -> None:
        """Keep what was found in the run folder of a training."""
        with RunFolder.open(run.path / FOLDER, self.settings.to_table(), resume=True) as sub:
            write_discovery(sub, self.images, self.found, seed=seed)


def name_images(dataset: Dataset, data: Path, *, k: int | None, seed: int, progress: Progress) -> NamedImages:
    """Find the modality of every image but those of the test part; those that a manifest names hold.

    Args:
        dataset: The images.
        data: Where they were opened: a modality.json beside a manifest says how they were measured.
        k: How many modalities to discover; None = as many as are named, and 6 where none is.
        seed: Of the division.
        progress: Shown to the person.

    Raises:
        DatasetError: There is no training image.
        OptionError: The images are restyled ones.
    """
    refuse_restyled(data, "finding modalities")
    dataset.training_part()
    settings = _settings_beside(data, DiscoverConfig(k=k, seed=seed))
    seen = dataset.part("train", "validation", None)  # validation images only say from where on an image is new
    found = find_modalities(seen, settings, progress=progress)
    return NamedImages(seen.with_records(found.records), found, settings)


def _settings_beside(data: Path, settings: DiscoverConfig) -> DiscoverConfig:
    """Measure as `discover` did where the manifest is one that it wrote: its modality.json lies beside it."""
    beside = (data.parent if data.suffix == ".csv" else data) / "modality.json"
    if not beside.is_file():
        return settings
    model = read_modality_model(beside)
    return replace(settings, features=model.features, clahe=model.clahe)


def with_modalities(
    dataset: Dataset, model: ModalityModel, progress: Progress, *, refused: list[str] | None = None
) -> Dataset:
    """Give each image a modality that the model knows: the manifest's if it does, else the nearest, and say what is odd.

    Args:
        dataset: The images.
        model: Knows modalities.
        progress: Shown to the person.
        refused: Where images that cannot be read are listed; they are left out. None = the first is an error.

    Raises:
        ImageError: The first image that cannot be read.
    """
    unknown = [index for index, record in enumerate(dataset.records) if record.modality not in model.names]
    if not unknown:
        return dataset
    progress.start("recognise modalities", len(unknown), "image")
    records, taken, new = dict(enumerate(dataset.records)), Counter[tuple[str, str]](), 0
    for done, index in enumerate(unknown, start=1):
        try:
            found, named = model.assess(dataset.image(index)), records[index].modality
        except ImageError as error:
            if refused is None:
                raise
            refused.append(str(error))
            del records[index]
            continue
        records[index] = replace(records[index], modality=found.name)
        new += found.is_new
        if named is not None:
            taken[named, found.name] += 1
        progress.advance(done)
    _say_what_is_odd(taken, new, progress)
    if len(records) < len(dataset):
        return dataset.like(list(records.values()), keep=dataset.keeps)
    return dataset.with_records(list(records.values()))


def _say_what_is_odd(taken: Counter[tuple[str, str]], new: int, progress: Progress) -> None:
    for (named, name), count in sorted(taken.items()):
        progress.say(
            f"warning: the style model does not know {named}; images of it that are measured as {name}: {count}"
        )
    if new:
        progress.say(
            f"warning: images that look like none of the style model's modalities, so the nearest is taken: {new}"
        )


def masked(dataset: Dataset, annotated: Sequence[str] | None, names: Sequence[str]) -> Dataset:
    """The data set with the masks of some modalities alone.

    Args:
        dataset: Images with their modalities.
        annotated: Names of modalities; None = leave all masks.
        names: The modalities that there are.

    Raises:
        OptionError: A name that is none of them.
    """
    if annotated is None:
        return dataset
    unknown = sorted(set(annotated) - set(names))
    if unknown:
        msg = f"--annotated {', '.join(unknown)}: no such modality; there are {', '.join(names)}"
        raise OptionError(msg)
    records = [one if one.modality in annotated else replace(one, labels=None) for one in dataset.records]
    return dataset.like(records, keep=dataset.keeps)


def check_masks_seen(
    named: NamedImages | None, annotated: Sequence[str] | None, weights: Mapping[str, Weights | None]
) -> None:
    """Refuse weights that have seen masks which `annotated` hides: what they learned from these would come in by the back door.

    Args:
        named: The images of the training; None where all masks may be seen.
        annotated: Modalities whose masks may be seen; None = all.
        weights: Of the models that take part in the training, by the option that they were given by.

    Raises:
        OptionError: With an image named.
    """
    for option, one in weights.items():
        seen = hidden_masks_seen(named, annotated, one)
        if seen:
            msg = (
                f"{option}: these weights were trained with masks of {len(seen)} images that --annotated "
                f"{','.join(annotated or ())} hides, {seen[0]} among them; give weights that were trained with the same "
                "--annotated"
            )
            raise OptionError(msg)


def hidden_masks_seen(named: NamedImages | None, annotated: Sequence[str] | None, weights: Weights | None) -> list[str]:
    """The ids of the images whose masks `annotated` hides, but the weights have seen; none where all may be seen."""
    if named is None or annotated is None or weights is None:
        return []
    hidden = {record.id for record in named.images.records if record.modality not in annotated}
    return sorted(hidden.intersection(weights.metadata.get("masks_seen", ())))
