"""Weights files: tensors as safetensors with plain metadata and a SHA-256 of the tensors, verified on every load.

The same file serves shipped weights, the result of a training and the checkpoint that a training resumes from. Nothing
in it can run code, and one flipped bit is noticed (safetensors itself has no checksum of the data).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nucstyle.core.errors import WeightsError
from nucstyle.data.image_io import looks_like

FORMAT = 1
"""Version of the file's own layout; a newer one is refused."""
_KEY = "nucstyle"
_HEADER_DIGEST = "header_sha256"


@dataclass(frozen=True, slots=True)
class Weights:
    """What a weights file holds."""

    tensors: dict[str, Tensor]
    """By name, on the CPU."""
    metadata: dict[str, Any]
    """Plain values: what `save_weights` was given."""
    sha256: str
    """Of the tensors: names, types, shapes and bytes."""


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names; hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _header_sha256(header: Mapping[str, Any]) -> str:
    """SHA-256 of the header but for this number itself; hexadecimal."""
    plain = json.loads(json.dumps({key: value for key, value in header.items() if key != _HEADER_DIGEST}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def save_weights(path: Path, tensors: Mapping[str, Tensor], *, kind: str, metadata: Mapping[str, Any]) -> str:
    """Write a weights file; a reader sees the old file or the whole new one, also after a power loss.

    Args:
        path: Where to.
        tensors: By name; stored contiguous.
        kind: What the file is for: `style`, `segmenter`, `trunk`, ...
        metadata: Plain values that JSON can hold.

    Returns:
        The SHA-256 of the tensors.

    Raises:
        OSError: The disk is full or the folder cannot be written; an older file is left as it was.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    sha256 = tensors_sha256(plain)
    header = {**metadata, "format": FORMAT, "kind": kind, "sha256": sha256}
    header[_HEADER_DIGEST] = _header_sha256(header)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(save(plain, metadata={_KEY: json.dumps(header, sort_keys=True)}))
        replace_durably(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return sha256


def replace_durably(partial: Path, path: Path) -> None:
    """Flush a finished file or folder to the disk, then rename it, then flush the folder that holds the name."""
    for file in sorted(partial.rglob("*")) if partial.is_dir() else [partial]:
        flush(file)
    os.replace(partial, path)
    flush(path.parent)


def copy_durably(source: Path, path: Path) -> None:
    """Copy a file; a reader sees the old file or the whole new one, also after a power loss."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(source.read_bytes())
    replace_durably(partial, path)


def flush(path: Path) -> None:
    """Have the system write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_weights(path: Path, *, kind: str) -> Weights:
    """Read and verify a weights file.

    Args:
        path: The file.
        kind: What it must be for.

    Raises:
        WeightsError: Missing, damaged, of another kind or of a newer format, or a tensor holds NaN or infinity.
    """
    header, tensors = _read(path)
    if not isinstance(header, dict):
        msg = f"{path}: a safetensors file, but not one of nucstyle's; give a file that nucstyle wrote"
        raise WeightsError(msg)
    if header.get("format") != FORMAT:
        msg = f"{path}: weights format {header.get('format')}, this version reads {FORMAT}; update nucstyle"
        raise WeightsError(msg)
    if header.get(_HEADER_DIGEST) != _header_sha256(header):
        msg = f"{path}: damaged, the SHA-256 of its header is not the one it was written with; take another copy of it"
        raise WeightsError(msg)
    if header.get("kind") != kind:
        msg = f"{path}: these are {header.get('kind')} weights, {kind} weights are needed here"
        raise WeightsError(msg)
    sha256 = tensors_sha256(tensors)
    if sha256 != header.get("sha256"):
        msg = f"{path}: damaged, the SHA-256 of its tensors is not the one it was written with; take another copy of it"
        raise WeightsError(msg)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            msg = f"{path}: tensor {name!r} holds NaN or infinity; the training that wrote it failed"
            raise WeightsError(msg)
    metadata = {key: value for key, value in header.items() if key not in {"format", "kind", "sha256", _HEADER_DIGEST}}
    return Weights(tensors=tensors, metadata=metadata, sha256=sha256)


def _read(path: Path) -> tuple[object, dict[str, Tensor]]:
    """Our header (None where there is none) and the tensors of a safetensors file."""
    if not path.is_file():
        msg = f"{path}: no such weights file"
        raise WeightsError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        return json.loads(text) if text else None, tensors
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions"
        raise WeightsError(msg) from None
    except (SafetensorError, ValueError, RecursionError) as error:
        reason = f"{_first_line(error)}; {looks_like(path)}"
        msg = f"{path}: damaged or not a weights file ({reason}); take another copy of it"
        raise WeightsError(msg) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Put tensors into a module; all names and shapes are compared before any is touched.

    Args:
        module: Takes the tensors in its own types (half-precision files are widened).
        tensors: By the module's names.
        where: The file, for messages.

    Raises:
        WeightsError: A tensor is missing, left over, or of another shape.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        what = f"lacks {missing[0]!r}" if missing else f"has the unknown {extra[0]!r}"
        msg = f"{where}: does not fit this network: {what} ({len(missing)} missing, {len(extra)} unknown tensors)"
        raise WeightsError(msg)
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            msg = (
                f"{where}: does not fit this network: {name!r} is {tuple(tensors[name].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
            raise WeightsError(msg)
    module.load_state_dict(dict(tensors))
