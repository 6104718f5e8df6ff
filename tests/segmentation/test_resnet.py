"""ResNet-101, the published trunk: its maps, whose weights it takes, and what is refused. Nothing is downloaded."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet101
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from nucstyle.core.errors import WeightsError
from nucstyle.core.rng import seeded
from nucstyle.segmentation import resnet
from nucstyle.segmentation.detector import InferenceConfig, Segmenter, SegmenterConfig
from nucstyle.segmentation.resnet import (
    PARTS,
    ResNetTrunk,
    fitting_parts,
    imagenet_files,
    load_parts,
    read_trunk_file,
)

PUBLISHED = {"network": "resnet101", "pyramid_channels": 256, "box_head_size": 1024, "mask_layers": 4}
"""The shape of the published recipes."""


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


@pytest.fixture(scope="module")
def detector():
    """Tensors of a detector of 91 classes as torchvision makes and names them, at random."""
    with seeded("detector"):
        backbone = resnet_fpn_backbone(backbone_name="resnet101", weights=None, trainable_layers=5)
        return MaskRCNN(backbone, 91).state_dict()


def shapes_of(**config):
    """A detector of ours without values."""
    with torch.device("meta"):
        return Segmenter(SegmenterConfig(**PUBLISHED | config), InferenceConfig()).network


def test_of_a_detector_everything_is_taken_that_does_not_depend_on_its_classes(detector):
    with seeded("ours"):
        network = Segmenter(SegmenterConfig(**PUBLISHED), InferenceConfig()).network
    outputs = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.part.mask_fcn_logits.")
    before = {name: one.clone() for name, one in network.state_dict().items() if name.startswith(outputs)}
    network.backbone.part.load(detector, where="test")
    load_parts(network, detector, fitting_parts(network, detector), where="test")
    ours = {
        name.replace(".part.", ".").replace("backbone.layers.", "backbone."): one
        for name, one in network.state_dict().items()
    }
    differing = {name for name, one in detector.items() if not torch.equal(one, ours[name])}
    assert {name.rpartition(".")[0] for name in differing} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }
    assert len(before) == 6
    assert all(torch.equal(network.state_dict()[name], one) for name, one in before.items())


def test_the_older_names_of_torchvisions_files_are_known(detector):
    def older_name(name):
        name = re.sub(r"mask_head\.(\d)\.0", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}", name)
        return re.sub(r"(blocks\.\d)\.0|(head\.conv)\.0\.0", r"\1\2", name)

    older = {older_name(name): one for name, one in detector.items()}
    assert len(older.keys() - detector.keys()) == 26
    assert fitting_parts(shapes_of(), older) == tuple(PARTS)
    network = Segmenter(SegmenterConfig(**PUBLISHED), InferenceConfig()).network
    load_parts(network, older, list(PARTS), where="test")
    for part, place in PARTS.items():
        for name, one in network.get_submodule(place).state_dict().items():
            assert torch.equal(one, detector[f"{part}.{name}"])


def test_parts_of_other_shapes_are_left_out_whole(detector):
    assert fitting_parts(shapes_of(), {}) == ()
    assert fitting_parts(shapes_of(pyramid_channels=64), detector) == ()
    more_anchors = shapes_of(anchor_ratios=(0.25, 0.5, 1.0, 2.0))
    assert fitting_parts(more_anchors, detector) == tuple(name for name in PARTS if name != "rpn.head")
    assert "roi_heads.mask_head" not in fitting_parts(shapes_of(mask_layers=3), detector)
    network = Segmenter(SegmenterConfig(**PUBLISHED | {"anchor_ratios": (1.0,)}), InferenceConfig()).network
    before = {name: one.clone() for name, one in network.rpn.state_dict().items()}
    with pytest.raises(WeightsError, match=r"test: does not fit this network: there is no rpn.head"):
        load_parts(network, detector, ["rpn.head"], where="test")
    assert all(torch.equal(one, before[name]) for name, one in network.rpn.state_dict().items())


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
    assert not imagenet_files()
    (tmp_path / "checkpoints").mkdir()
    names = ["resnet101-0123.pth", "resnet101-4567.pth"]
    for name in (*names, "resnet50-0123.pth"):
        (tmp_path / "checkpoints" / name).touch()
    assert [path.name for path in imagenet_files()] == names
