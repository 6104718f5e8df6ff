"""The modality of every image of a data set that is to be trained on, and whose masks may be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nucstyle.core.errors import OptionError
from nucstyle.core.protocols import Progress
from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import RunFolder
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
    """
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
    return Dataset(records, keep=dataset.keeps)
