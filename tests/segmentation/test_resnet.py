"""ResNet-101, the published trunk: its maps, whose weights it takes, and what is refused. Nothing is downloaded."""

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet101

from nucstyle.core.errors import WeightsError
from nucstyle.core.rng import seeded
from nucstyle.segmentation import resnet
from nucstyle.segmentation.resnet import ResNetTrunk, imagenet_file, read_trunk_file


@pytest.fixture(scope="module")
def trunk():
    """A trunk at random, with maps of eight channels."""
    with seeded("resnet"):
        return ResNetTrunk(8, "frozen").eval()


@pytest.fixture(scope="module")
def tensors():
    """Of a classifier."""
    with seeded("classifier"):
        return resnet101(weights=None).state_dict()


def test_the_maps_are_those_that_the_detector_wants(trunk):
    maps = trunk(torch.rand(1, 3, 96, 70))
    sizes = {name: tuple(one.shape) for name, one in maps.items()}
    assert sizes == {
        "0": (1, 8, 24, 18),
        "1": (1, 8, 12, 9),
        "2": (1, 8, 6, 5),
        "3": (1, 8, 3, 3),
        "pool": (1, 8, 2, 2),
    }


def test_a_grey_image_of_the_mean_of_imagenet_is_nothing_to_it(trunk):
    seen = []
    trunk.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    trunk(torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(1, 3, 64, 64))
    assert float(seen[0].abs().max()) < 1e-6


@pytest.mark.parametrize("prefix", ["", "backbone.body.", "module."])
def test_weights_of_a_classifier_or_a_detector_are_taken(tensors, prefix):
    taken = ResNetTrunk(8, "frozen")
    named = {prefix + name: one for name, one in tensors.items()} | {"rpn.head.conv.weight": torch.zeros(3)}
    taken.load(named, where="test")
    for name in ("conv1.weight", "layer4.2.conv3.weight", "bn1.running_var"):
        assert torch.equal(taken.layers.body.state_dict()[name], tensors[name])


def test_the_norm_of_a_trunk_from_scratch_learns_and_keeps_nothing_of_the_batches_that_it_saw():
    trunk = ResNetTrunk(8, "group").train()
    before = {name: one.clone() for name, one in trunk.named_buffers()}
    image = torch.rand(2, 3, 64, 64)
    both, alone = trunk(image)["0"], trunk(image[:1])["0"]
    assert torch.allclose(both[:1], alone, atol=1e-4)
    assert all(torch.equal(one, before[name]) for name, one in trunk.named_buffers())
    both.sum().backward()
    assert float(trunk.layers.body.bn1.weight.grad.abs().sum()) > 0


def test_weights_of_another_network_are_refused(trunk, tensors):
    fewer = {name: one for name, one in tensors.items() if not name.startswith("layer3.22")}
    with pytest.raises(WeightsError, match="does not fit this network"):
        trunk.load(fewer, where="test")


def test_files_of_tensors_are_read_and_nothing_in_them_is_executed(tmp_path, tensors):
    few = {name: tensors[name] for name in ("conv1.weight", "bn1.weight")}
    torch.save({"model": few}, tmp_path / "a.pth")
    save_file(few, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        found = read_trunk_file(tmp_path / name)
        assert torch.equal(found["conv1.weight"], few["conv1.weight"])


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_damaged_and_dangerous_files_are_refused_by_name(tmp_path, capsys):
    (tmp_path / "cut.pth").write_bytes(b"PK")
    (tmp_path / "cut.safetensors").write_bytes(b"x" * 20)
    torch.save(Evil(), tmp_path / "evil.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    for name in ("cut.pth", "cut.safetensors", "evil.pth", "list.pth", "missing.pth"):
        with pytest.raises(WeightsError, match=f"--trunk .*{name}: "):
            read_trunk_file(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_what_torchvision_downloaded_before_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(resnet.torch.hub, "get_dir", lambda: str(tmp_path))
    assert imagenet_file() is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet101-0123.pth").touch()
    assert imagenet_file() == tmp_path / "checkpoints" / "resnet101-0123.pth"
