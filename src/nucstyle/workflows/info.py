"""`info`: what is installed, what this machine can do, and what a weights file or a run holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nucstyle.core.errors import InputError, WeightsError
from nucstyle.core.installation import choose_device, instruction_set
from nucstyle.core.precision import resolve_precision
from nucstyle.data.cache import cache_bytes, cache_folder
from nucstyle.data.run_folder import LOG, RESULT, RunFolder, check_target, package_versions, read_config, read_log
from nucstyle.data.weights import Weights, load_weights
from nucstyle.report.comparison import PROTOCOLS
from nucstyle.workflows.cells import finished_cells
from nucstyle.workflows.load import SHIPPED_KINDS, WEIGHTS, find_weights, shipped

_LONG = ("trained_on", "masks_seen", "modality_model")
_CACHE = "cache"
_KINDS = (*SHIPPED_KINDS, "trunk")


def info(what: str | None = None, out: Path | None = None, *, overwrite: bool = False) -> dict[str, Any]:
    """Describe the installation, or a weights file, or a run folder.

    Args:
        what: A weights file, a run folder, or the name of shipped weights, with their kind before it where several kinds have
            that name (`judge-dsb2018`); None = the installation.
        out: A run folder for `result.json`; None = write nothing.
        overwrite: Replace a run in `out`.

    Returns:
        Plain values by name.

    Raises:
        InputError: Nothing of the kind there, or damaged.
    """
    inputs = () if what is None else (Path(what),)
    if out is not None:
        check_target(out, resume=False, overwrite=overwrite, inputs=inputs)
    described = _installation() if what is None else _describe(Path(what))
    if out is not None:
        config = {"verb": "info", "what": what or "installation"}
        with RunFolder.open(out, config, overwrite=overwrite, inputs=inputs) as run:
            told = {name: value for name, value in described.items() if name != _CACHE}  # no path in a result
            run.write_result({"format": 1, "verb": "info", **told})
    return described


def _installation() -> dict[str, Any]:
    device = choose_device("auto")
    return {
        **package_versions(),
        "device": device,
        "number format": resolve_precision("auto", device),
        "instruction set": instruction_set(),
        "processor cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        _CACHE: f"{cache_folder() or 'none'} ({cache_bytes() / 1e6:.0f} MB; may be deleted at any time)",
        "shipped style weights": ", ".join(shipped("style")) or "none yet",
        "shipped segmenter weights": ", ".join(shipped("segmenter")) or "none yet",
        "shipped judges": ", ".join(shipped("judge")) or "none yet",
    }


def _describe(path: Path) -> dict[str, Any]:
    if path.is_dir():
        config = read_config(path)
        if config["verb"] == "compare" and "protocol" not in config:
            cells = {name: sum(1 for _ in finished_cells(path / name)) for name in PROTOCOLS}
            told = ", ".join(f"{name} {count}" for name, count in cells.items() if count)
            return {"run of": config["verb"], "finished cells": told or "none"}
        finished = (path / RESULT).is_file()
        described = {
            "run of": config["verb"],
            "finished": finished or f"no{_reached(path, config)}",
            "seed": config.get("seed"),
        }
        weights = path / WEIGHTS
        return {**described, **_describe(weights)} if weights.is_file() else described
    if not path.exists():
        path = _shipped_as(str(path))
    for kind in _KINDS:
        try:
            return {"weights": kind, **_weights(load_weights(path, kind=kind))}
        except InputError as error:
            if kind == _KINDS[-1] or "weights are needed here" not in str(error):
                raise
    msg = f"{path}: neither a weights file nor a run folder"
    raise InputError(msg)


def _reached(run: Path, config: Mapping[str, Any]) -> str:
    """How far an unfinished training has come, as far as its log says."""
    steps = [int(line["step"]) for line in read_log(run / LOG) if "step" in line]
    wanted = config.get("recipe", {}).get("training", {}).get("steps")
    return f", step {max(steps)} of {wanted}; the same command with --resume goes on" if steps and wanted else ""


def _shipped_as(name: str) -> Path:
    """The file of shipped weights.

    Raises:
        WeightsError: There are none of that name, or several.
    """
    known = {f"{kind}-{one}": (kind, one) for kind in SHIPPED_KINDS for one in shipped(kind)}
    chosen = [known[name]] if name in known else [pair for pair in known.values() if pair[1] == name]
    if len(chosen) == 1:
        kind, one = chosen[0]
        return find_weights(one, kind)
    if chosen:
        msg = f"{name}: there are several; give one of {', '.join(f'{kind}-{one}' for kind, one in chosen)}"
        raise WeightsError(msg)
    msg = f"{name}: no such weights file or run folder, nor the name of shipped weights ({', '.join(known)})"
    raise WeightsError(msg)


def _weights(weights: Weights) -> dict[str, Any]:
    values = {name: value for name, value in weights.metadata.items() if name not in _LONG}
    return {
        "sha256": weights.sha256,
        "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
        **values,
        "trained on images": len(weights.metadata.get("trained_on", [])),
        "masks seen of images": len(weights.metadata.get("masks_seen", [])),
    }
