"""What a result came from: the images, the masks, the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nucstyle.core.errors import OptionError
from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import LOG, read_log
from nucstyle.data.weights import Weights


def data_fingerprint(dataset: Dataset) -> dict[str, Any]:
    """How many images, a hash over ids, modalities and the sizes of the files, and how these are read, for `config.toml`."""
    lines = [
        f"{record.id} {record.modality} {_size(record.image)} {_size(record.labels)}" for record in dataset.records
    ]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
    return {"images": len(dataset), "ids_sha256": digest, **dataset.reading.to_table()}


def examples_fingerprint(dataset: Dataset, polarity: Mapping[str, int]) -> dict[str, Any]:
    """`data_fingerprint` of images that lend their colours, with the sign of each modality that was measured of them."""
    return {**data_fingerprint(dataset), "polarity": dict(polarity)}


def contents_fingerprint(dataset: Dataset) -> dict[str, Any]:
    """`data_fingerprint` with a hash over what is in the files, for images that may have been corrected since."""
    of = {path: _contents(path) for path in {None, *dataset.files}}  # one file may hold the outlines of all images
    lines = [f"{record.id} {of[record.image]} {of[record.labels]}" for record in dataset.records]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
    return {**data_fingerprint(dataset), "contents_sha256": digest}


def _contents(path: Path | None) -> str:
    """A hash over a file, or over all files of a folder of masks; what cannot be opened is refused when it is read."""
    digest = hashlib.sha256()
    try:
        for file in _files(path):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError:
        return "unreadable"
    return digest.hexdigest()


def _files(path: Path | None) -> list[Path]:
    """The file, or the files of a folder, in order."""
    if path is None:
        return []
    return sorted(file for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file())


def _size(path: Path | None) -> int:
    """Bytes of a file, or of all files of a folder of masks; what is no file, or has vanished, is refused when it is read."""
    if path is None:
        return -1
    try:
        return sum(file.stat().st_size for file in _files(path))
    except OSError:
        return 0


def provenance(
    dataset: Dataset,
    recipe: str,
    seed: int,
    steps: int,
    *,
    start: Weights | None = None,
    style: Weights | None = None,
    judge: Weights | None = None,
    examples: Dataset | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a weights file says of its training: the ids and masks it saw, recipe, seed, steps, how files were read.

    What the weights that it went on from had seen, and those of the style model that restyled its images and of the judge that
    chose among them, it has seen as well, whether that was done in the training or before (`made_by`); and, without masks, the
    images that lent their colours.
    """
    earlier = seen_by(start, style, judge)
    seen = {record.id for part in (dataset, examples) if part is not None for record in part.records}
    masks = {record.id for record in dataset.records if record.labels is not None}
    return {
        **{
            name: sorted(own.union(earlier[name], (made_by or {}).get(name, ())))
            for name, own in (("trained_on", seen), ("masks_seen", masks))
        },
        "recipe": recipe,
        "seed": seed,
        "steps": steps,
        **({"init_sha256": start.sha256} if start else {}),
        **dataset.reading.to_table(),
    }


def skipped_steps(run: Path) -> int:
    """How many steps of a training were skipped because a loss was not finite."""
    return sum("skipped" in line for line in read_log(run / LOG))


def seen_by(*weights: Weights | None) -> dict[str, list[str]]:
    """The ids that models had seen, `trained_on`, and those whose masks they had seen, `masks_seen`."""
    known = [one.metadata for one in weights if one is not None]
    return {name: sorted(set().union(*(one.get(name, ()) for one in known))) for name in ("trained_on", "masks_seen")}


def check_unseen(ids: Collection[str], what: str, weights: Mapping[str, Weights | None]) -> None:
    """Refuse weights that have seen images which are to be scored, with masks or without.

    Args:
        ids: Of the images.
        what: Which images these are, for the message.
        weights: Of the models that take part, by the option that they were given by.

    Raises:
        OptionError: With an image named.
    """
    for option, one in weights.items():
        seen = set(ids) & set().union(*seen_by(one).values())
        if seen:
            remedy = "give weights that were trained on the part train alone"
            if what == "--test":
                remedy = "leave these images out of --test, or give weights that have not seen them"
            msg = f"{option}: these weights were trained with {len(seen)} of the {what} images, {min(seen)} among them; {remedy}"
            raise OptionError(msg)
