"""Loading trained models: by the name of shipped weights, from a file, or from the run that trained them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nucstyle.core.errors import WeightsError
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import Precision, autocast, resolve_precision
from nucstyle.data.weights import Weights, load_state, load_weights, save_weights
from nucstyle.modality.model import ModalityModel
from nucstyle.segmentation.backbone import Lite0Trunk, load_trunk_weights
from nucstyle.segmentation.detector import Segmenter
from nucstyle.segmentation.judge import ForegroundJudge
from nucstyle.style.model import StyleModel

WEIGHTS = "weights.safetensors"
"""Name of the result of a training in its run folder."""

JUDGE = "judge"
"""The folder of the judge in a run of `train-style`."""

SHIPPED_SEGMENTER = "lite-dsb2018"
"""Name of the segmenter that came with the package."""


Kind = Literal["style", "segmenter", "judge"]
SHIPPED_KINDS: tuple[Kind, ...] = ("style", "segmenter", "judge")
"""What weights can be given by name."""


def shipped(kind: str) -> list[str]:
    """Names of the weights of a kind that came with the package."""
    folder = resources.files("nucstyle.weights")
    names = (entry.name for entry in folder.iterdir())
    prefix, suffix = f"{kind}-", ".safetensors"
    return sorted(
        name[len(prefix) : -len(suffix)] for name in names if name.startswith(prefix) and name.endswith(suffix)
    )


def find_weights(what: str | Path, kind: Kind) -> Path:
    """Turn NAME, FILE or RUN into a file; the judge of a run of `train-style` is found by that run as well.

    Raises:
        WeightsError: None of the three.
    """
    path = Path(what)
    if path.is_file():
        return path
    if path.is_dir():
        if kind == "judge" and (path / JUDGE / WEIGHTS).is_file():
            return path / JUDGE / WEIGHTS
        if (path / WEIGHTS).is_file():
            return path / WEIGHTS
        msg = f"{path}: no {WEIGHTS} in it; give the run folder of a finished training"
        raise WeightsError(msg)
    if str(what) in shipped(kind):
        return Path(str(resources.files("nucstyle.weights").joinpath(f"{kind}-{what}.safetensors")))
    names = ", ".join(shipped(kind)) or "none yet"
    other = next((f"; {what} names a shipped {one}" for one in SHIPPED_KINDS if str(what) in shipped(one)), "")
    msg = f"{what}: no such file or run folder, nor the name of shipped {kind} weights ({names}){other}"
    raise WeightsError(msg)


def load_style(what: str | Path, *, device: str = "auto", precision: Precision = "auto") -> StyleModel:
    """Load a style model.

    Args:
        what: Name of shipped weights, a weights file, or the run folder of a training.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `auto`, `bf16` or `fp32`.

    Raises:
        WeightsError: Not found, damaged, or of another kind.
        OptionError: No such device.
    """
    path = find_weights(what, "style")
    return style_from_weights(load_weights(path, kind="style"), str(path), device=device, precision=precision)


def style_from_weights(
    weights: Weights, where: str, *, device: str = "auto", precision: Precision = "auto"
) -> StyleModel:
    """Make a style model from a loaded file; `where` names it in messages."""
    place = choose_device(device)
    modality_model = ModalityModel.from_state(weights.metadata.get("modality_model", {}))
    model = StyleModel.from_state(
        weights.tensors,
        weights.metadata,
        recogniser=modality_model.number,
        load=partial(load_state, where=where),
        autocast=autocast(place, resolve_precision(precision, place)),
    )
    return model.to(place)


def save_style(path: Path, model: StyleModel, modality_model: ModalityModel, provenance: Mapping[str, Any]) -> str:
    """Write a style file with its ModalityModel and where it comes from, in half precision; returns the SHA-256."""
    tensors, values = model.state()
    tensors = {name: one.half() if name.startswith("networks.") else one for name, one in tensors.items()}
    metadata = {**values, "modality_model": modality_model.state(), **provenance}
    return save_weights(path, tensors, kind="style", metadata=metadata)


def load_segmenter(
    what: str | Path = SHIPPED_SEGMENTER, *, device: str = "auto", precision: Precision = "auto"
) -> Segmenter:
    """Load a segmenter; arguments and errors as `load_style`."""
    path = find_weights(what, "segmenter")
    weights = load_weights(path, kind="segmenter")
    place = choose_device(device)
    segmenter = Segmenter.from_state(
        weights.tensors,
        weights.metadata,
        load=partial(load_state, where=str(path)),
        autocast=autocast(place, resolve_precision(precision, place)),
    )
    segmenter.network.to(place)
    return segmenter


def save_segmenter(path: Path, segmenter: Segmenter, provenance: Mapping[str, Any]) -> str:
    """Write a segmenter file with where it comes from, in half precision; returns the SHA-256."""
    tensors, values = segmenter.state()
    return save_weights(path, _half(tensors), kind="segmenter", metadata={**values, **provenance})


def load_judge(what: str | Path, *, device: str = "auto", precision: Precision = "auto") -> ForegroundJudge:
    """Load a judge; arguments and errors as `load_style`."""
    path = find_weights(what, "judge")
    weights = load_weights(path, kind="judge")
    place = choose_device(device)
    judge = ForegroundJudge.from_state(
        weights.tensors,
        weights.metadata,
        load=partial(load_state, where=str(path)),
        autocast=autocast(place, resolve_precision(precision, place)),
    )
    judge.network.to(place)
    return judge


def save_judge(path: Path, judge: ForegroundJudge, provenance: Mapping[str, Any]) -> str:
    """Write a judge file with where it comes from, in half precision; returns the SHA-256."""
    tensors, values = judge.state()
    return save_weights(path, _half(tensors), kind="judge", metadata={**values, **provenance})


def _half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}


def load_trunk() -> Lite0Trunk:
    """The shipped trunk, for features: weights as they are, fixed."""
    trunk = Lite0Trunk()
    load_trunk_weights(trunk)
    return trunk.eval().requires_grad_(False).to(memory_format=torch.channels_last)
