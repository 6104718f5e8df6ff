"""What a result came from: the images, the masks, the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import LOG, read_log
from nucstyle.data.weights import Weights


def data_fingerprint(dataset: Dataset) -> dict[str, Any]:
    """How many images, and a hash over ids, modalities and the sizes of the files, for `config.toml`."""
    lines = [
        f"{record.id} {record.modality} {_size(record.image)} {_size(record.labels)}" for record in dataset.records
    ]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
    return {"images": len(dataset), "ids_sha256": digest}


def _size(path: Path | None) -> int:
    """Bytes of a file, or of all files of a folder of masks; -1 = none, or gone since it was listed, as reading it will say."""
    try:
        return (
            -1 if path is None else sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
        )
    except OSError:
        return -1


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
    """What a weights file says of its training: the ids it saw, the ids whose masks it saw, recipe, seed, steps.

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
    }


def skipped_steps(run: Path) -> int:
    """How many steps of a training were skipped because a loss was not finite."""
    return sum("skipped" in line for line in read_log(run / LOG))


def seen_by(*weights: Weights | None) -> dict[str, list[str]]:
    """The ids that models had seen, `trained_on`, and those whose masks they had seen, `masks_seen`."""
    known = [one.metadata for one in weights if one is not None]
    return {name: sorted(set().union(*(one.get(name, ()) for one in known))) for name in ("trained_on", "masks_seen")}
