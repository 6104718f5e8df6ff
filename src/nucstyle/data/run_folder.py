"""Run folders: what a verb writes, and all that `report`, `--resume` and a reader need.

`config.toml environment.json log.jsonl result.json report.html checkpoints/ samples/`, as far as the verb has them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from nucstyle.core.config import read_toml, to_toml
from nucstyle.core.errors import ConfigError, ConfigMismatchError, FolderInUseError, RunFolderError
from nucstyle.core.installation import instruction_set
from nucstyle.data.weights import replace_durably

CONFIG, ENVIRONMENT, LOG, RESULT, REPORT = "config.toml", "environment.json", "log.jsonl", "result.json", "report.html"
MEASURES = "measures.jsonl"
"""What was measured of a model while it was trained, one JSON object a line."""
FIGURES = "figures"
"""Folder of figures as files, for slides and papers."""
_LOCK = ".lock"
_STEPS = "recipe.training.steps"
_STYLE, _RESTYLED_BY = "recipe.style.", "style_sha256"
_TOLD = 3
"""So many differences of two configs are told."""
_NEWER: dict[str, Any] = {
    "recipe.style.sources": [],
    "recipe.style.lift": 1.0,
    "recipe.training.rate_factor": 1.0,
    "recipe.inference.shrink_beyond": 0.0,
    "recipe.inference.mask_offset_px": 0.0,
    "recipe.inference.clahe_clip_limit": 0.01,
    "recipe.inference.clahe_tiles": 8,
    "recipe.inference.clahe_darker_than": 0.25,
}
"""Settings that runs may lack which were begun before there were such: what was done then, not what is the default now."""
_NEWER_OPTIONS: dict[str, dict[str, Any]] = {"augment": {"lift": 1.0}}
"""Options of a verb, likewise."""
_NEWER_AND_UNUSED = {"recipe.inference.tta"}
"""The same, without effect on what runs do that go on: a run without one goes on with any."""
_PACKAGES = ("nucstyle", "torch", "torchvision", "numpy", "scipy", "scikit-image", "scikit-learn", "pillow", "tifffile")


class RunFolder:
    """An open run folder; use `RunFolder.open` as a context manager.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        inputs: Iterable[Path] = (),
        patience_s: float = 0,
    ) -> Self:
        """Create a run folder, or go on in one.

        Args:
            path: The folder; an empty or absent one is always fine.
            config: Plain values that determine the result; `config["verb"]` names the verb.
            resume: Go on in a run of the same config.
            overwrite: Delete an older run first; only a folder that holds our `config.toml` is ever deleted.
            inputs: Files and folders that the verb reads, which the run must not sit on.
            patience_s: How long to wait for another process that has the folder open.

        Raises:
            FolderInUseError: Another process has it open, or, to be deleted, a run within it.
            ConfigMismatchError: The folder holds a run of another config, to go on with.
            RunFolderError: The folder holds something else, cannot be written, or is one of the inputs.
        """
        check_target(path, resume=resume, overwrite=overwrite, inputs=inputs)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, FileLock(path / _LOCK, timeout=patience_s))
            run._lock.acquire()
        except Timeout:
            msg = f"{path}: in use by another nucstyle process; wait for it or choose another folder"
            raise FolderInUseError(msg) from None
        except OSError as error:
            msg = f"{path}: cannot be written: {error.strerror}; choose another folder"
            raise RunFolderError(msg) from None
        try:
            # Looked at again now that nobody else can change it.
            old = check_target(path, resume=resume, overwrite=overwrite, inputs=inputs)
            if resume and old is not None:
                _compare(path, old, config)
            if overwrite:
                run._clear()
            if not (path / CONFIG).exists():
                write_text(path / CONFIG, to_toml(config))
        except BaseException:
            run._lock.release()
            raise
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _clear(self) -> None:
        self._refuse_what_is_in_use()
        # config.toml goes last: a deletion that is cut off leaves a folder that --overwrite still recognises.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == CONFIG):
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _refuse_what_is_in_use(self) -> None:
        """Refuse to delete runs within this one, such as cells of a comparison, while another process works at them.

        Raises:
            FolderInUseError: With the first of them.
        """
        for lock in sorted(self.path.rglob(_LOCK)):
            if lock.parent != self.path:
                try:
                    with FileLock(lock, timeout=0):
                        pass
                except Timeout:
                    msg = (
                        f"{self.path}: another nucstyle process works at {lock.parent}; stop it before --overwrite deletes "
                        "that, or choose another folder"
                    )
                    raise FolderInUseError(msg) from None
                except OSError as error:
                    msg = f"{lock.parent}: cannot be written: {error.strerror}; choose another folder"
                    raise RunFolderError(msg) from None

    def write_environment(self, *, device: str, precision: str) -> None:
        """Record what the run was made with: versions, machine, time. Nothing in it changes the result's bytes."""
        record = {
            "versions": {"python": platform.python_version(), **package_versions()},
            "platform": platform.platform(),
            "processor": platform.machine(),
            "instruction_set": instruction_set(),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": device,
            "precision": precision,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_text(self.path / ENVIRONMENT, json.dumps(record, indent=1))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`; its presence says that the run is finished."""
        write_json(self.path / RESULT, result)

    def is_finished(self) -> bool:
        """Whether a `result.json` was written."""
        return (self.path / RESULT).exists()


def _keep_apart(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write a run over what the verb reads."""
    target = Path(os.path.realpath(path))  # unlike Path.resolve, it does not end on links that run in a circle
    for given in inputs:
        place = Path(os.path.realpath(given))
        if target in (place, *place.parents):
            msg = f"{path}: the output folder would hold the input {given}; choose another folder"
            raise RunFolderError(msg)


def check_outside(path: Path, data: Path) -> None:
    """Refuse to write a data set into the folder of another, where its images would be taken for that one's.

    Raises:
        RunFolderError: The folder lies in that of the data.
    """
    place, target = Path(os.path.realpath(data)), Path(os.path.realpath(path))
    if place.is_dir() and place in target.parents:
        msg = f"{path}: lies in the data {data}, which would hold both data sets then; choose another folder"
        raise RunFolderError(msg)


def package_versions() -> dict[str, str]:
    """The installed versions of what shapes a result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def check_target(path: Path, *, resume: bool, overwrite: bool, inputs: Iterable[Path] = ()) -> dict[str, Any] | None:
    """Refuse a target that must not be written, before any work is done.

    Returns:
        The old config where there is one.

    Raises:
        RunFolderError: See `RunFolder.open`.
    """
    _keep_apart(path, inputs)
    if resume and overwrite:
        msg = "--resume and --overwrite exclude each other; give one of them"
        raise RunFolderError(msg)
    if path.exists() and not path.is_dir():
        msg = f"{path}: is a file; give a folder to write to"
        raise RunFolderError(msg)
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        msg = f"{path}: {parent} cannot be written; choose another folder"
        raise RunFolderError(msg)
    content = (
        [entry.name for entry in path.iterdir() if entry.name not in (_LOCK, CONFIG + ".part")] if path.is_dir() else []
    )
    if not content:
        return None
    if CONFIG not in content:
        msg = f"{path}: holds files but no {CONFIG} of a run; choose another folder"
        raise RunFolderError(msg)
    old = read_config(path)
    if not resume and not overwrite:
        verb = old.get("verb")
        msg = (
            f"{path}: holds a run of {verb}; add --overwrite to replace it or, where the verb has it, --resume to go on"
        )
        raise RunFolderError(msg)
    return old


def read_config(path: Path) -> dict[str, Any]:
    """The `config.toml` of a run folder.

    Raises:
        RunFolderError: There is none, or it is not ours.
    """
    file = path / CONFIG
    if not file.is_file():
        msg = f"{path}: not a run folder (no {CONFIG} in it)"
        raise RunFolderError(msg)
    try:
        table = read_toml(file.read_text(encoding="utf-8"), where=str(file))
    except (UnicodeDecodeError, ConfigError):
        table = {}
    if "verb" not in table:
        msg = f"{path}: its {CONFIG} is damaged or was not written by nucstyle; choose another folder"
        raise RunFolderError(msg)
    return table


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on in a run of another config, naming what differs."""
    found = differences(old, new)
    if not found:
        return
    told = [told_difference(old, key, *found[key]) for key in sorted(found, key=_is_hash)]
    more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    trains = new.get("verb") in ("train-style", "train-segmenter")
    longer = "; to train longer, go on from this one in a new run with --init" if trains and _STEPS in found else ""
    msg = f"{path}: cannot resume, {'; '.join(told[:_TOLD])}{more}. Give all options as they were, or start a new run{longer}"
    raise ConfigMismatchError(msg)


def _is_hash(key: str) -> bool:
    return key.endswith("_sha256")


def told_difference(old: Mapping[str, Any], key: str, before: Any, after: Any) -> str:  # noqa: ANN401  (what a config holds)
    """What is said of a key in which a run's config, `old`, differs from another; see `differences`."""
    if _is_hash(key):
        return f"{key.removesuffix('_sha256')} {_of_hashes(key, before, after)}"
    return _of_values(old, key, before, after)


def _of_values(old: Mapping[str, Any], key: str, before: object, after: object) -> str:
    """What is said of two values that differ."""
    said = f"{key} was {before!r} and is now {after!r}"
    if key in _flat(old):
        return said
    if key in _NEWER:
        return f"{said} (newer than this run: --set {key.removeprefix('recipe.')}={before} goes on with it)"
    if key in _NEWER_OPTIONS.get(old.get("verb", ""), {}):
        return f"{said} (newer than this run: --{key} {before} goes on with it)"
    return said


def _of_hashes(key: str, before: str | None, after: str | None) -> str:
    """What is said of two hashes that differ."""
    if after is None:
        return "was given and is not now"
    other = "other files or modalities" if key.endswith("ids_sha256") else "other files"
    return "was not given and is now" if before is None else f"has {other} than before"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys, dotted, in which two configs differ once they are written, each with both values.

    A setting that `old` lacks since it is newer than that run counts with what the run did, see `_NEWER`. How images are restyled
    counts only where a style model is named, for nothing is restyled without.
    """
    said, after = _flat(read_toml(to_toml(old), where="old")), _flat(read_toml(to_toml(new), where="new"))
    before = {key: value for key, value in _flat(settled(old)).items() if key in said or key in after}
    keys = sorted((before.keys() | after.keys()) - (_NEWER_AND_UNUSED - before.keys()))
    found = {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}
    if _RESTYLED_BY in before or _RESTYLED_BY in after:
        return found
    return {key: values for key, values in found.items() if not key.startswith(_STYLE)}


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with settings that are newer than it as what it did, see `_NEWER`."""
    whole: dict[str, Any] = read_toml(to_toml(config), where="config")
    for key, value in (_NEWER | _NEWER_OPTIONS.get(whole.get("verb", ""), {})).items():
        *tables, name = key.split(".")
        table: Any = whole
        for one in tables:
            table = table.get(one) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.setdefault(name, value)
    return whole


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON in one fixed form (sorted keys, indented), so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, *, remedy: str = "run the verb again with --overwrite") -> dict[str, Any]:
    """Read a JSON object that a run wrote.

    Args:
        path: The file.
        remedy: What helps where it is damaged.

    Raises:
        RunFolderError: Missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path}: missing; the run has not finished, go on with --resume"
        raise RunFolderError(msg) from None
    except (ValueError, RecursionError, OSError) as error:
        msg = f"{path}: cannot be read ({error}); {remedy}"
        raise RunFolderError(msg) from None
    if not isinstance(value, dict):
        msg = f"{path}: does not hold a JSON object; {remedy}"
        raise RunFolderError(msg)
    return value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`; a write that was cut off leaves a part of one, which is passed over."""
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader sees the old one or the whole new one."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        replace_durably(partial, path)
    finally:
        partial.unlink(missing_ok=True)
