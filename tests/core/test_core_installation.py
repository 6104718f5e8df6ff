import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from nucstyle.core.errors import InstallationError, OptionError
from nucstyle.core.installation import check_torch_pair, choose_device


@pytest.fixture
def installed(monkeypatch):
    """`installed(torch="2.14.1", torchvision=None)` pretends these versions; None = not installed."""

    def pretend(**versions):
        def version(name):
            if versions[name] is None:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)

    return pretend


@pytest.fixture
def graphics_cards(monkeypatch):
    """`graphics_cards(2)` pretends a machine with two."""

    def pretend(number):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return pretend


@pytest.mark.parametrize(("package", "floor"), [("torch", (2, 10)), ("pillow", (12, 3))])
def test_versions_with_known_holes_are_not_accepted(package, floor):
    """torch: CVE-2025-32434 up to 2.5.1 and CVE-2026-24747 up to 2.9; Pillow: decoders up to 12.2."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (needed,) = (line for line in project["dependencies"] if re.match(rf"{package}\b", line))
    asked = re.fullmatch(rf"{package}>=([\d.]+)", needed)
    assert tuple(map(int, asked[1].split("."))) >= floor


def test_the_installed_packages_are_a_pair():
    check_torch_pair()


@pytest.mark.parametrize(
    ("torch_", "vision"), [("2.14.1", "0.29.1"), ("2.10.0+cpu", "0.25.0+cpu"), ("2.14.1", "0.29.0")]
)
def test_versions_that_belong_together_pass(installed, torch_, vision):
    installed(torch=torch_, torchvision=vision)
    check_torch_pair()


@pytest.mark.parametrize(
    ("torch_", "vision"),
    [("2.14.1", "0.28.1"), ("2.13.0", "0.29.1"), ("2.14.1+cpu", "0.25.0+cu128"), ("2.14.1", "1.29.1")],
)
def test_versions_that_do_not_belong_together_are_refused_with_the_remedy(installed, torch_, vision):
    installed(torch=torch_, torchvision=vision)
    with pytest.raises(InstallationError) as caught:
        check_torch_pair()
    message = str(caught.value)
    assert message.startswith(f"torch {torch_} and torchvision {vision} are not a pair; ")
    assert "pip install torch==" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("missing", ["torch", "torchvision"])
def test_a_missing_package_is_named_with_the_remedy(installed, missing):
    installed(**{"torch": "2.14.1", "torchvision": "0.29.1", missing: None})
    with pytest.raises(InstallationError, match=rf"^{missing} is not installed; install a matching pair.*pip install"):
        check_torch_pair()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("operator torchvision::nms does not exist\n  at line 5"), ImportError("no _C"), OSError("x.so")],
)
def test_a_pair_of_two_kinds_is_refused_in_one_line_with_the_remedy(installed, monkeypatch, error):
    installed(torch="2.14.1+cpu", torchvision="0.29.1+cu130")

    class Failing:
        def find_spec(self, name, path=None, target=None):
            if name == "torchvision":
                raise error

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    with pytest.raises(InstallationError) as caught:
        check_torch_pair()
    message = str(caught.value)
    assert "do not work together" in message
    assert str(error).splitlines()[0] in message
    assert "pip install" in message
    assert "\n" not in message


def test_auto_takes_a_graphics_card_where_there_is_one(graphics_cards):
    graphics_cards(0)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    graphics_cards(1)
    assert choose_device("auto") == "cuda"
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize(
    "name", ["gpu", "CUDA", "", "tpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cuda:1:1", "x\ny"]
)
@pytest.mark.parametrize("number", [0, 2])
def test_an_unknown_device_is_refused_with_those_there_are(graphics_cards, name, number):
    graphics_cards(number)
    with pytest.raises(OptionError, match=r"unknown device; use auto, cpu, cuda or mps$") as caught:
        choose_device(name)
    assert str(caught.value).startswith(f"--device {name}: ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_this_machine_lacks_is_refused(graphics_cards, name):
    graphics_cards(0)
    with pytest.raises(OptionError, match=rf"^--device {name}: this machine has no such device; "):
        choose_device(name)


def test_graphics_cards_are_numbered_from_nought(graphics_cards):
    graphics_cards(2)
    assert [choose_device(name) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda", "cuda:0", "cuda:1"]
    with pytest.raises(OptionError, match="no such device"):
        choose_device("cuda:2")
