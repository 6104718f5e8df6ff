"""What a result came from: the images, the masks, the recipe."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nucstyle.data.dataset import Dataset


def data_fingerprint(dataset: Dataset) -> dict[str, Any]:
    """How many images, and a hash over ids, modalities and whether they are annotated, for `config.toml`."""
    lines = [f"{record.id} {record.modality} {record.labels is not None}" for record in dataset.records]
    digest = hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
    return {"images": len(dataset), "ids_sha256": digest}


def provenance(dataset: Dataset, recipe: str, seed: int, steps: int) -> dict[str, Any]:
    """What a weights file says of its training: the ids it saw, the ids whose masks it saw, recipe, seed, steps."""
    return {
        "trained_on": sorted(record.id for record in dataset.records),
        "masks_seen": sorted(record.id for record in dataset.records if record.labels is not None),
        "recipe": recipe,
        "seed": seed,
        "steps": steps,
    }


def skipped_steps(run: Path) -> int:
    """How many steps of a training were skipped because a loss was not finite."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return sum("skipped" in json.loads(line) for line in lines)
