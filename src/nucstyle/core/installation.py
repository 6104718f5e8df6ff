"""Finding out whether the installed packages fit each other, and what the machine can do."""

from __future__ import annotations

import os
import re
from importlib import metadata

from nucstyle.core.errors import InstallationError, OptionError

_REMEDY = (
    "install a matching pair, for example `pip install torch==2.14.1 torchvision==0.29.1`, "
    "or both from PyTorch's own CPU wheels"
)


def _minor(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_working_folder() -> None:
    """Refuse to start in a folder that was deleted: torch's MKL ends the process there, and no relative path means anything.

    Raises:
        OptionError: It was.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        msg = "the working folder was deleted; change to one that is there"
        raise OptionError(msg) from None


def check_torch_pair() -> None:
    """Compare the installed torch and torchvision before either is used.

    torchvision 0.N belongs to torch 2.(N - 15); both must also be of one kind (with or without CUDA), which shows when
    torchvision looks for its operators.

    Raises:
        InstallationError: One is missing or they are not a pair.
    """
    try:
        torch_version, vision_version = metadata.version("torch"), metadata.version("torchvision")
    except metadata.PackageNotFoundError as error:
        msg = f"{error.name} is not installed; {_REMEDY}"
        raise InstallationError(msg) from None
    major, minor = _minor(torch_version)
    if major == 2 and _minor(vision_version) != (0, minor + 15):
        msg = f"torch {torch_version} and torchvision {vision_version} are not a pair; {_REMEDY}"
        raise InstallationError(msg)
    try:
        import torchvision  # noqa: F401  (slow, and may fail: that is what is being found out)
    except (RuntimeError, ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        msg = f"torch {torch_version} and torchvision {vision_version} do not work together ({reason}); {_REMEDY}"
        raise InstallationError(msg) from None


def choose_device(name: str) -> str:
    """Turn a `--device` option into the name of a device that exists.

    Args:
        name: `auto` (CUDA if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        OptionError: No such device on this machine.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    kind, colon, number = name.partition(":")
    known = kind in ("cuda", "mps") and (number.isdecimal() if colon else True)
    if known and kind == "cuda" and torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count():
        return name
    if name == "mps" and torch.backends.mps.is_available():
        return name
    what = "this machine has no such device" if known else "unknown device"
    msg = f"--device {name}: {what}; use auto, cpu, cuda or mps"
    raise OptionError(msg)


def usable_cpus() -> int:
    """Processors that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def instruction_set() -> str:
    """The widest instructions torch computes with here, as it names them (AVX2, AVX512); another machine may round otherwise."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())
