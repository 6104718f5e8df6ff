"""`translate`: an image in every modality, as a grid (figure 3 of the paper) and as single pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nucstyle.core import rng
from nucstyle.core.errors import DatasetError, ImageError, InputError
from nucstyle.core.precision import deterministic
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.resize import middle, resize_image
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.image_io import from_unit, read_image, write_pixels, write_png, written_as
from nucstyle.data.manifest import Record, check_file_names, check_unique, file_name
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.data.unread import warn_of_unread_pictures
from nucstyle.data.weights import load_weights
from nucstyle.modality.model import ModalityModel
from nucstyle.report.page import write_report
from nucstyle.report.pictures import VIEW_PX, style_grid
from nucstyle.style.model import StyleModel
from nucstyle.workflows.load import find_weights, style_from_weights
from nucstyle.workflows.provenance import data_fingerprint

GRID_ROWS = 20
"""So many images are in the grid; the single pictures are of all."""
EXEMPLAR = "_exemplar"
"""Name of the picture in the style of the exemplar: modalities have no underscore."""
_CELL_PX = 256
"""Greatest side of a cell of the grid."""
_NAME_LENGTH = 16
"""Characters of an id in the grid."""


@dataclass(frozen=True, slots=True)
class _Exemplar:
    """The picture whose style is copied."""

    name: str
    image: Tensor
    """(3, H, W) float32 in [0, 1]."""
    target: int
    """Number of its modality."""
    attribute: Tensor
    """(1, A), its style."""
    sha256: str
    """Of the file."""


@dataclass(frozen=True, slots=True)
class _Style:
    """What an image is to look like."""

    name: str
    """Of the picture's file."""
    target: int
    """Number of the modality."""
    attribute: Tensor
    """(1, A), the style within it."""
    origin: Literal["own", "drawn", "exemplar"]
    """The image's own style, one drawn from those of training images, or that of the exemplar."""


def translate(
    images: Path | str | Sequence[Path | str],
    out: Path,
    *,
    progress: Progress = SILENT,
    style: Path | str = "dsb2018",
    exemplar: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    reading: ReadOptions = DEFAULT,
    overwrite: bool = False,
) -> Path:
    """Show images in every modality that a style model knows.

    Args:
        images: Files, folders, globs or manifests; masks are not read.
        out: The run folder: `grid.png`, `pictures/ID/TARGET.png` (`.tif` where the image is not of 8 bits), `result.json`,
            `report.html`.
        progress: Shown to the person.
        style: Style weights: a name, a file or a run.
        exemplar: A picture whose style is copied as well, to `pictures/ID/_exemplar.png`.
        seed: Of the styles drawn; a picture depends on it, the image and its id alone, not on the other images.
        device: `auto`, `cpu`, `cuda`, ...
        reading: How files are read where they leave it open; of the exemplar, how large it may be.
        overwrite: Replace a run in `out`.

    Returns:
        `out`.

    Raises:
        InputError: The options are at fault, or images could not be used: the others are done, then these are listed.
    """
    given = [images] if isinstance(images, str | Path) else list(images)
    dataset = _open(given, reading)
    for one in given:
        warn_of_unread_pictures(Path(one), dataset.records, progress)
    weights_file = find_weights(style, "style")
    inputs = [*(Path(one) for one in given), weights_file, *dataset.files, *([exemplar] if exemplar else [])]
    check_target(out, resume=False, overwrite=overwrite, inputs=inputs)
    weights = load_weights(weights_file, kind="style")
    model = style_from_weights(weights, str(weights_file), device=device)
    recogniser = ModalityModel.from_state(weights.metadata.get("modality_model", {}))
    shown = _read_exemplar(model, exemplar, reading.max_pixels) if exemplar else None
    config: dict[str, Any] = {
        "verb": "translate",
        "seed": seed,
        "style_sha256": weights.sha256,
        "data": data_fingerprint(dataset),
        **({"exemplar_sha256": shown.sha256} if shown else {}),
    }
    with RunFolder.open(out, config, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device=str(model.device), precision="auto")
        restyler = _Restyler(run.path, model, recogniser, shown, seed, progress)
        with deterministic(str(model.device)):
            refused = restyler.restyle(dataset)
        restyler.write_grid()
        run.write_result(
            {
                "format": 1,
                "verb": "translate",
                "seed": seed,
                "style_sha256": weights.sha256,
                "modalities": list(model.modalities),
                "exemplar": _told(model, shown) if shown else None,
                "grid": {"rows": GRID_ROWS, "view_px": VIEW_PX},
                "images": restyler.told,
            }
        )
        write_report(run.path)
    if refused:
        msg = f"{len(refused)} of {len(dataset)} images could not be used: " + "; ".join(refused)
        raise InputError(msg)
    return out


def _open(given: Sequence[Path | str], reading: ReadOptions) -> Dataset:
    """All images that were given, each file once, without their masks.

    Raises:
        DatasetError: Nothing there, two images of one id, or an id that cannot name a folder.
    """
    records: dict[str, Record] = {}
    for one in given:
        for record in open_dataset(one, reading=reading).records:
            records.setdefault(os.path.realpath(record.image), replace(record, labels=None))
    dataset = Dataset(list(records.values()), reading=reading)
    if not len(dataset):
        msg = "no images; give files, folders, globs or manifests"
        raise DatasetError(msg)
    check_unique(dataset.records, "the images given")
    check_file_names(dataset.records)
    return dataset


def _read_exemplar(model: StyleModel, path: Path, max_pixels: int) -> _Exemplar:
    """Read the picture whose style is copied.

    Raises:
        ImageError: It cannot be used.
    """
    image, _ = read_image(path, ReadOptions(max_pixels=max_pixels))
    target = model.recognise(image[None])
    attribute = model.encode_attribute(image[None], target).cpu()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _Exemplar(path.name, image, int(target), attribute, digest)


def _told(model: StyleModel, exemplar: _Exemplar) -> dict[str, Any]:
    return {
        "name": exemplar.name,
        "modality": model.modalities[exemplar.target],
        "attribute": exemplar.attribute[0].tolist(),
    }


class _Restyler:
    """Restyles one image after the other; holds no more of them than the cells of the grid.

    Attributes:
        told: By id what `result.json` says of an image.
    """

    def __init__(
        self,
        folder: Path,
        model: StyleModel,
        recogniser: ModalityModel,
        exemplar: _Exemplar | None,
        seed: int,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._model = model
        self._recogniser = recogniser
        self._exemplar = exemplar
        self._seed = seed
        self._progress = progress
        self.told: dict[str, dict[str, Any]] = {}
        self._rows: list[tuple[str, int, list[Tensor]]] = []  # name, number of the source, cells

    def restyle(self, dataset: Dataset) -> list[str]:
        """Write the pictures of every image; returns a line for each image that could not be used."""
        refused: list[str] = []
        self._progress.start("restyle", len(dataset), "image")
        for index in range(len(dataset)):
            try:
                sample = dataset[index]
            except ImageError as error:
                refused.append(str(error))
            else:
                self._restyle(sample)
            self._progress.advance(index + 1)
        return refused

    def _restyle(self, sample: Sample) -> None:
        source = self._source(sample)
        folder = self._folder / "pictures" / file_name(sample.id)
        folder.mkdir(parents=True, exist_ok=True)
        as_read, cells, pictures = written_as(sample.source, colour=True), [_cell(sample.image)], {}
        for style in self._styles(sample, source):
            made = self._model.translate(
                sample.image[None],
                source=torch.tensor([source]),
                target=torch.tensor([style.target]),
                attribute=style.attribute,
            )[0]
            file = write_pixels(folder / style.name, from_unit(made, as_read))
            pictures[style.name] = {
                "target": self._model.modalities[style.target],
                "style": style.origin,
                "attribute": style.attribute[0].tolist(),
                "file": file.relative_to(self._folder).as_posix(),
            }
            cells.append(_cell(made))
        self.told[sample.id]["pictures"] = pictures
        if len(self._rows) < GRID_ROWS:
            self._rows.append((sample.id, source, cells))

    def _source(self, sample: Sample) -> int:
        """The number of the modality that the image has: the manifest's if the model knows it, else the nearest; and say so."""
        found, names = self._recogniser.assess(sample.image), self._model.modalities
        is_named = sample.modality in names
        source = names.index(sample.modality) if sample.modality in names else found.number
        if not is_named and (found.is_new or sample.modality):
            why = (
                f"the style model does not know {sample.modality}"
                if sample.modality
                else "looks like nothing that the style model has seen"
            )
            self._progress.say(f"warning: {sample.id}: {why}; taken for {names[source]}, the nearest")
        self.told[sample.id] = {
            "source": names[source],
            "source_from": "manifest" if is_named else "recognised",
            "is_new": found.is_new,
        }
        return source

    def _styles(self, sample: Sample, source: int) -> list[_Style]:
        styles = []
        for number, name in enumerate(self._model.modalities):
            target = torch.tensor([number])
            if number == source:
                own = self._model.encode_attribute(sample.image[None], target).cpu()
                styles.append(_Style(name, number, own, "own"))
                continue
            generator = rng.generator("translate", self._seed, sample.id, name)
            drawn = self._model.draw_attribute(target, mode="per-domain", generator=generator)
            styles.append(_Style(name, number, drawn, "drawn"))
        if self._exemplar is not None:
            styles.append(_Style(EXEMPLAR, self._exemplar.target, self._exemplar.attribute, "exemplar"))
        return styles

    def write_grid(self) -> None:
        """Write `grid.png`, unless no image could be used; the exemplar stands above the column in its style."""
        if not self._rows:
            return
        names = self._model.modalities
        columns = ["original", *names]
        rows = [cells for *_, cells in self._rows]
        labels = [f"{_printable(name)[:_NAME_LENGTH]}\n{names[source]}" for name, source, _ in self._rows]
        framed: list[int | None] = [source + 1 for _, source, _ in self._rows]
        if self._exemplar is not None:
            columns.append(f"like {_printable(self._exemplar.name)[:_NAME_LENGTH]}")
            nothing = torch.ones(3, 1, 1)
            rows.insert(0, [nothing] * (len(names) + 1) + [_cell(self._exemplar.image)])
            labels.insert(0, f"exemplar\n{names[self._exemplar.target]}")
            framed.insert(0, None)
        write_png(self._folder / "grid.png", style_grid(rows, row_names=labels, column_names=columns, framed=framed))


def _cell(image: Tensor) -> Tensor:
    """(3, H, W) -> (3, h, w) on the CPU: the middle of a large field, made smaller."""
    rows, columns = (middle(side, VIEW_PX) for side in image.shape[-2:])
    shown = image[:, rows, columns]
    height, width = shown.shape[-2:]
    factor = min(1.0, _CELL_PX / max(height, width))
    return resize_image(shown, (max(1, round(height * factor)), max(1, round(width * factor)))).cpu()


def _printable(name: str) -> str:
    """Names of files that are not UTF-8, or hold control characters, cannot be drawn as they are."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)
