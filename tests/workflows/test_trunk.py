"""Where the weights of a ResNet-101 come from, settled once for a run, its `--resume` and all its processes."""

import hashlib
from types import SimpleNamespace

import pytest
import torch

from nucstyle.core.config import to_table, to_toml
from nucstyle.core.errors import OptionError, WeightsError
from nucstyle.workflows import trunk as trunk_room
from nucstyle.workflows.recipes import segmenter_recipe
from nucstyle.workflows.trunk import TrunkSource, settle_trunk

RECIPE = segmenter_recipe("mirzaev")


@pytest.fixture
def said(monkeypatch):
    """A machine without weights, and what the person is told."""
    monkeypatch.setattr(trunk_room, "imagenet_files", list)
    lines = []
    return SimpleNamespace(lines=lines, say=lines.append)


def settle(said, *, recipe=RECIPE, trunk=None, start=None, run=None):
    settled, source = settle_trunk(recipe, trunk, start=start, run=run, progress=said)
    return settled.segmenter.resnet_norm, source


def begun(folder, norm, sha256=None, *, parts=(), checkpoint=False):
    """The run folder of a training that was stopped."""
    table = to_table(RECIPE)
    table["segmenter"]["resnet_norm"] = norm
    folder.mkdir()
    config = {"verb": "train-segmenter", "recipe": table, **({"trunk_sha256": sha256} if sha256 else {})}
    config |= {"trunk_parts": list(parts)} if parts else {}
    (folder / "config.toml").write_text(to_toml(config))
    if checkpoint:
        (folder / "checkpoints" / "step-000004").mkdir(parents=True)
    return folder


@pytest.fixture
def weights(tmp_path):
    """A file, and its hash."""
    path = tmp_path / "resnet101-0123.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_taken_with_a_frozen_norm_given_or_found(said, weights, monkeypatch):
    path, sha256 = weights
    assert settle(said, trunk=path) == ("frozen", TrunkSource(path, sha256))
    monkeypatch.setattr(trunk_room, "imagenet_files", lambda: [path])
    assert settle(said) == ("frozen", TrunkSource(path, sha256))
    assert said.lines == [f"the ResNet-101 starts with the weights that torchvision has downloaded: {path}"]


def test_without_weights_the_trunk_starts_at_random_with_a_norm_that_learns_and_that_is_said(said):
    assert settle(said) == ("group", TrunkSource())
    assert "--trunk FILE" in said.lines[0]


def test_a_file_that_is_not_there_or_has_no_use_is_refused(said, tmp_path, weights):
    with pytest.raises(WeightsError, match=r"missing.pth: no such file"):
        settle(said, trunk=tmp_path / "missing.pth")
    with pytest.raises(OptionError, match="brings its own weights"):
        settle(said, recipe=segmenter_recipe("lite"), trunk=weights[0])
    with pytest.raises(OptionError, match="weights of --init hold a trunk already"):
        settle(said, trunk=weights[0], start=SimpleNamespace(metadata={}))


def test_a_trunk_from_scratch_can_be_asked_for_but_not_together_with_a_file(said, weights, monkeypatch):
    monkeypatch.setattr(trunk_room, "imagenet_files", lambda: [weights[0]])
    scratch = segmenter_recipe("mirzaev", ["resnet_norm=group"])
    assert settle(said, recipe=scratch) == ("group", TrunkSource())
    with pytest.raises(OptionError, match="is for a trunk that starts at random"):
        settle(said, recipe=scratch, trunk=weights[0])


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_weights_to_go_on_from_bring_their_norm_whatever_the_machine_holds(said, norm, weights, monkeypatch):
    monkeypatch.setattr(trunk_room, "imagenet_files", lambda: [weights[0]])
    start = SimpleNamespace(metadata={"segmenter": {"resnet_norm": norm}})
    assert settle(said, start=start) == (norm, TrunkSource())


def test_a_run_goes_on_as_it_was_begun_whatever_the_machine_holds_now(said, tmp_path, weights, monkeypatch):
    path, sha256 = weights
    scratch = begun(tmp_path / "scratch", "group")
    loaded = begun(tmp_path / "loaded", "frozen", sha256, checkpoint=True)
    fresh = begun(tmp_path / "fresh", "frozen", sha256)
    assert settle(said, run=loaded) == ("frozen", TrunkSource(None, sha256))
    with pytest.raises(WeightsError, match=r"not on this machine; give --trunk FILE"):
        settle(said, run=fresh)
    assert settle(said, run=fresh, trunk=path) == ("frozen", TrunkSource(path, sha256))
    newer = tmp_path / "resnet101-0001.pth"
    newer.write_bytes(b"another")
    monkeypatch.setattr(trunk_room, "imagenet_files", lambda: [newer, path])
    assert settle(said, run=fresh) == ("frozen", TrunkSource(path, sha256))
    assert settle(said, run=scratch) == ("group", TrunkSource())
    assert not said.lines
    monkeypatch.setattr(trunk_room, "imagenet_files", lambda: [path])
    assert settle(said, run=tmp_path / "new") == ("frozen", TrunkSource(path, sha256))


@pytest.fixture
def detector(tmp_path):
    """A file of a detector whose proposals fit the recipe and whose pyramid does not, and its hash."""
    head = {"conv.0.0": (256, 256, 3, 3), "cls_logits": (3, 256, 1, 1), "bbox_pred": (12, 256, 1, 1)}
    tensors = {f"rpn.head.{name}.weight": torch.zeros(shape) for name, shape in head.items()}
    tensors |= {f"rpn.head.{name}.bias": torch.zeros(shape[0]) for name, shape in head.items()}
    tensors["backbone.fpn.inner_blocks.0.0.weight"] = torch.zeros(8, 256, 1, 1)
    path = tmp_path / "detector.pth"
    torch.save(tensors, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_else_of_a_detectors_file_is_taken_is_settled_for_the_run_and_said(said, tmp_path, detector):
    path, sha256 = detector
    assert settle(said, trunk=path) == ("frozen", TrunkSource(path, sha256, ("rpn.head",)))
    (line,) = said.lines
    assert "are taken: ResNet-101, rpn.head; of other shapes, so they start at random: backbone.fpn" in line
    fresh = begun(tmp_path / "fresh", "frozen", sha256, parts=["rpn.head"])
    assert settle(said, run=fresh, trunk=path) == ("frozen", TrunkSource(path, sha256, ("rpn.head",)))
    loaded = begun(tmp_path / "loaded", "frozen", sha256, parts=["rpn.head"], checkpoint=True)
    assert settle(said, run=loaded) == ("frozen", TrunkSource(None, sha256, ("rpn.head",)))
    older = begun(tmp_path / "older", "frozen", sha256)  # before there was more to take than the ResNet
    assert settle(said, run=older, trunk=path) == ("frozen", TrunkSource(path, sha256))
