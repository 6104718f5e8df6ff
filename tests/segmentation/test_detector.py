"""The segmenter: nothing resized, nothing capped, boxes in float32, and a state that makes it anew."""

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from nucstyle.core.config import build
from nucstyle.core.errors import ConfigError, WeightsError
from nucstyle.core.labels import boxes as boxes_of
from nucstyle.core.precision import autocast
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample
from nucstyle.data.weights import load_state
from nucstyle.segmentation.dense import cut_masks
from nucstyle.segmentation.detector import Boxes, InferenceConfig, Segmenter, SegmenterConfig
from nucstyle.segmentation.targets import to_detection_target
from nucstyle.segmentation.tiling import segment


def image_of(height, width, seed=0):
    return torch.rand(3, height, width, generator=generator("image", height, width, seed))


def load(module, tensors):
    load_state(module, tensors, where="test")


class Shown(nn.Module):
    """A trunk that hands the image on."""

    def forward(self, padded):
        return OrderedDict({"0": padded})


class Taught(nn.Module):
    """Pools what a perfect mask head has been taught to say of the bright nucleus in a box: the target of training."""

    def forward(self, maps, boxes, sizes):
        return cut_masks(bright(maps), torch.ones(len(boxes[0]), dtype=torch.int32), boxes[0], 28)


def bright(maps):
    return (maps["0"][0, 0] >= 0.5).int()


class AsLogits(nn.Module):
    def forward(self, masks):
        return torch.stack([masks, masks], dim=1).logit(eps=1e-6)


def target_of(side):
    labels = torch.zeros(side, side, dtype=torch.int32)
    labels[5:25, 10:30] = 1
    return to_detection_target(Sample(id="one", image=torch.zeros(3, side, side), labels=labels), min_side_px=1)


@pytest.mark.parametrize("size", [(256, 256), (64, 96), (40, 50), (1, 1), (1, 50)])
def test_the_trunk_sees_every_pixel_as_it_is_with_zeros_up_to_a_multiple_of_32(segmenter, size):
    image = image_of(*size)
    seen = segmenter.see(image)
    height, width = size
    assert seen.size == size
    assert seen.padded.shape == (1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    assert torch.equal(seen.padded[0, :, :height, :width], image)
    assert int((seen.padded != 0).sum()) <= image.numel()


@pytest.mark.parametrize("size", [(256, 256), (480, 352), (544, 96), (40, 608), (1, 1)], ids=str)
def test_every_anchor_is_on_the_cell_that_it_belongs_to(segmenter, size):
    seen = segmenter.see(image_of(*size))
    rpn, levels = segmenter.network.rpn, list(seen.maps.values())
    anchors = rpn.anchor_generator(ImageList(seen.padded, [seen.size]), levels)[0]
    ratios = len(segmenter.config.anchor_ratios)
    for stride, level in zip((4, 8, 16, 32, 64), levels, strict=True):
        count = level.shape[2] * level.shape[3] * ratios
        own, anchors = anchors[:count].reshape(level.shape[2], level.shape[3], ratios, 4), anchors[count:]
        ys, xs = torch.meshgrid(*(torch.arange(side) * stride for side in level.shape[2:]), indexing="ij")
        assert torch.equal((own[..., 0] + own[..., 2]) / 2, xs[..., None].expand(-1, -1, ratios).float())
        assert torch.equal((own[..., 1] + own[..., 3]) / 2, ys[..., None].expand(-1, -1, ratios).float())
    assert len(anchors) == 0


def test_training_sees_the_pixels_and_boxes_as_they_are_too(segmenter):
    image, target = image_of(64, 64), target_of(64)
    segmenter.network.train()
    batch, moved = segmenter.network.transform([image], [target])
    assert torch.equal(batch.tensors[0], image)
    assert torch.equal(moved[0]["boxes"], target["boxes"])
    assert torch.equal(moved[0]["label_map"], target["label_map"])


@pytest.mark.parametrize("first", [(1, 1), (2, 3), (1, 50), (35, 35), (66, 20), (300, 20)], ids=str)
def test_what_was_seen_first_does_not_change_what_is_found_later(segmenter_of, first):
    image, results = image_of(96, 80), []
    for size in (image.shape[1:], first):
        segmenter = segmenter_of()
        seen = segmenter.see(image_of(*size))
        segmenter.detect_boxes(seen)
        segmenter.detect_masks(seen, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
        seen = segmenter.see(image)
        boxes, scores, _ = segmenter.detect_boxes(seen)
        results.append((boxes, scores, segmenter.detect_masks(seen, boxes[:5])))
    assert len(results[0][0]) > 5
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_more_than_a_hundred_boxes_come_through(segmenter_of):
    generous = segmenter_of(box_nms_iou=1.0)
    boxes, scores, _ = generous.detect_boxes(generous.see(image_of(128, 128)))
    assert len(boxes) == len(scores) > 150


@pytest.mark.parametrize("limit", [1, 7, 120])
def test_the_configured_number_of_nuclei_is_the_cap(segmenter_of, limit):
    generous = segmenter_of(box_nms_iou=1.0, max_nuclei=limit)
    boxes, _, is_capped = generous.detect_boxes(generous.see(image_of(128, 128)))
    assert len(boxes) == limit
    assert is_capped


def test_every_cap_of_torchvision_is_the_configs(segmenter_of):
    config = SegmenterConfig(
        proposals_before_nms_train=11,
        proposals_after_nms_train=12,
        proposals_before_nms=13,
        proposals_after_nms=18,
        proposal_nms_iou=0.61,
        proposal_foreground_iou=0.62,
        proposal_background_iou=0.23,
        anchors_per_image=15,
        anchors_positive=0.4,
        regions_per_image=16,
        regions_positive=0.33,
        region_foreground_iou=0.45,
        max_nuclei=17,
        box_score=0.18,
        box_nms_iou=0.19,
        pyramid_channels=8,
        box_head_size=20,
        mask_layers=2,
    )
    network = Segmenter(config, InferenceConfig()).network
    rpn, heads = network.rpn, network.roi_heads
    assert rpn._pre_nms_top_n == {"training": 11, "testing": 13}
    assert rpn._post_nms_top_n == {"training": 12, "testing": 18}
    assert rpn.fg_bg_sampler.batch_size_per_image == 15
    assert heads.fg_bg_sampler.batch_size_per_image == 16
    assert (rpn.fg_bg_sampler.positive_fraction, heads.fg_bg_sampler.positive_fraction) == (0.4, 0.33)
    assert rpn.nms_thresh == 0.61
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.62, 0.23)
    assert heads.proposal_matcher.high_threshold == heads.proposal_matcher.low_threshold == 0.45
    assert (heads.detections_per_img, heads.score_thresh, heads.nms_thresh) == (17, 0.18, 0.19)
    assert heads.box_head.part.fc7.out_features == 20
    assert len(heads.mask_head.part) == 2
    assert heads.box_predictor.part.cls_score.out_features == 2


@pytest.mark.parametrize(("proposals", "found", "capped"), [(200, 51, True), (200, 50, False), (20_000, 51, False)])
def test_a_limit_of_proposals_that_is_met_is_told_where_there_are_few_of_them_a_nucleus(
    segmenter_of, proposals, found, capped
):
    limited = segmenter_of(proposals_before_nms=proposals, proposals_after_nms=proposals)
    seen = limited.see(image_of(128, 128))
    limited.network.roi_heads.score_thresh = float(limited.detect_boxes(seen).scores[found])
    boxes, _, is_capped = limited.detect_boxes(seen)
    assert len(boxes) == found
    assert is_capped == capped


def test_the_default_config_lets_a_thousand_nuclei_through():
    config = SegmenterConfig()
    assert config.max_nuclei >= 1000
    assert config.proposals_before_nms >= config.max_nuclei
    assert config.proposals_after_nms >= config.max_nuclei


def test_boxes_come_best_first_inside_the_image_and_above_the_score(segmenter_of):
    picky = segmenter_of(box_score=0.28)
    boxes, scores, _ = picky.detect_boxes(picky.see(image_of(70, 90)))
    assert len(boxes) > 1
    assert bool((scores.diff() <= 0).all())
    assert float(scores.min()) > 0.28
    assert bool((boxes >= 0).all())
    assert bool((boxes <= torch.tensor([90.0, 70.0, 90.0, 70.0])).all())
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())


def test_masks_are_probabilities_a_crop_for_every_box(segmenter):
    seen = segmenter.see(image_of(64, 64))
    masks = segmenter.detect_masks(seen, torch.tensor([[3.0, 4.0, 20.0, 30.0], [0.0, 0.0, 64.0, 64.0]]))
    assert masks.shape == (2, 28, 28)
    assert 0 <= float(masks.min()) < float(masks.max()) <= 1
    assert not torch.equal(masks[0], masks[1])


def test_boxes_are_computed_in_float32_where_convolutions_run_in_bfloat16(segmenter_of):
    half = segmenter_of(autocast=autocast("cpu", "bf16"), box_nms_iou=1.0)
    whole = segmenter_of(box_nms_iou=1.0)
    seen = half.see(image_of(64, 640))
    # The trunk did run in bfloat16: its numbers are those of a float32 with eight bits.
    assert all(features.dtype == torch.float32 for features in seen.maps.values())
    assert all(torch.equal(features, features.bfloat16().float()) for features in seen.maps.values())
    assert not torch.equal(seen.maps["0"], whole.see(image_of(64, 640)).maps["0"])
    boxes, scores, _ = half.detect_boxes(seen)
    assert boxes.dtype == scores.dtype == torch.float32
    # bfloat16 knows only even numbers beyond 256, and only multiples of four beyond 512.
    far = boxes[(boxes > 257) & (boxes < 639)]
    assert len(far) > 20
    assert float((far % 1 != 0).float().mean()) > 0.9
    assert float((far != far.bfloat16().float()).float().mean()) > 0.9
    assert half.detect_masks(seen, boxes[:3]).dtype == torch.float32


def test_losses_are_float32_under_bfloat16_and_reach_every_weight(segmenter_of):
    half = segmenter_of(real=True, autocast=autocast("cpu", "bf16"))
    losses = half.losses([image_of(64, 64)], [target_of(64)])
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, one in half.network.named_parameters() if one.requires_grad and one.grad is None]
    assert without == []


def test_looking_leaves_no_gradient_and_no_training_mode_behind(segmenter):
    segmenter.losses([image_of(64, 64)], [target_of(64)])
    seen = segmenter.see(image_of(64, 64))
    boxes, scores, _ = segmenter.detect_boxes(seen)
    assert not any(one.requires_grad for one in (boxes, scores, segmenter.detect_masks(seen, boxes[:1])))
    assert not segmenter.network.training
    segmenter.losses([image_of(64, 64)], [target_of(64)])
    assert segmenter.network.training


@pytest.mark.parametrize(
    ("size", "factor"), [((256, 256), 2.0), ((400, 100), 2.0), ((401, 100), 1.0), ((100, 401), 1.0), ((1, 1), 2.0)]
)
def test_small_fields_are_enlarged_by_their_longer_side(size, factor):
    assert InferenceConfig().magnification(size) == factor


def test_a_segmenter_made_from_its_state_gives_the_same_answers(segmenter_of):
    segmenter = segmenter_of(real=True)
    tensors, values = segmenter.state()
    stored = {name: tensor.clone() for name, tensor in tensors.items()}
    again = Segmenter.from_state(stored, json.loads(json.dumps(values)), load=load)
    assert again.config == segmenter.config
    assert again.inference == segmenter.inference
    image = image_of(64, 80)
    found, same = (one.detect_boxes(one.see(image)) for one in (segmenter, again))
    assert torch.equal(found.boxes, same.boxes)
    assert torch.equal(found.scores, same.scores)


def test_training_and_prediction_share_their_weights_by_name_whatever_the_number_format(segmenter_of):
    half = segmenter_of(real=True, autocast=autocast("cpu", "bf16"))
    tensors, values = half.state()
    whole = Segmenter.from_state(tensors, values, load=load)
    assert list(whole.state()[0]) == list(tensors)


@pytest.mark.parametrize("missing", ["segmenter", "inference"])
def test_a_state_that_lacks_a_part_is_refused_by_its_name(segmenter, missing):
    tensors, values = segmenter.state()
    del values[missing]
    with pytest.raises(WeightsError, match=f"without '{missing}'"):
        Segmenter.from_state(tensors, values, load=load)


def test_a_state_of_another_shape_is_refused(segmenter_of):
    segmenter = segmenter_of(real=True)
    tensors, values = segmenter.state()
    values["segmenter"]["box_head_size"] = 17
    with pytest.raises(WeightsError, match="does not fit this network"):
        Segmenter.from_state(tensors, values, load=load)


@pytest.mark.parametrize(
    ("kind", "table", "key"),
    [
        (SegmenterConfig, {"max_nuclei": 0}, "max_nuclei"),
        (SegmenterConfig, {"box_score": 1.5}, "box_score"),
        (SegmenterConfig, {"box_nms_iou": -0.1}, "box_nms_iou"),
        (SegmenterConfig, {"anchor_sizes_px": [8, 16]}, "anchor_sizes_px"),
        (SegmenterConfig, {"max_nuclie": 5}, "max_nuclie.*did you mean 'max_nuclei'"),
        (InferenceConfig, {"score": 2}, "score"),
        (InferenceConfig, {"enlarge_factor": 0}, "enlarge_factor"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_by_its_key(kind, table, key):
    with pytest.raises(ConfigError, match=key):
        build(kind, table, where="recipe x")


@pytest.fixture
def perfect(segmenter, monkeypatch):
    """A segmenter that answers of one bright nucleus on black exactly what it was taught."""
    heads = segmenter.network.roi_heads
    segmenter.network.backbone = Shown()
    heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = Taught(), nn.Identity(), AsLogits()
    monkeypatch.setattr(segmenter, "detect_boxes", lambda seen: Boxes(boxes_of(bright(seen.maps)), torch.ones(1)))
    return segmenter


@pytest.mark.parametrize("tta", ["none", "fast"])
@pytest.mark.parametrize(("radius", "y", "x"), [(4, 40.2, 40.7), (8, 60.5, 100.1), (16, 40.9, 75.4), (9, 3.0, 117.0)])
@pytest.mark.parametrize("enlarged", [1.0, 1.5])
def test_masks_lie_where_the_nuclei_of_training_lie(perfect, radius, y, x, tta, enlarged):
    rows, columns = torch.arange(90) + 0.5, torch.arange(120) + 0.5
    wanted = (rows[:, None] - y) ** 2 + (columns - x) ** 2 < radius**2
    perfect.inference = InferenceConfig(enlarge_factor=enlarged)
    found = segment(perfect, wanted.float().expand(3, -1, -1), tta).labels > 0
    assert (found & wanted).sum() > 0.96 * (found | wanted).sum()
    assert (found.nonzero().double().mean(dim=0) - wanted.nonzero().double().mean(dim=0)).abs().max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_other_floats_are_looked_at_as_float32(segmenter, dtype):
    image = image_of(64, 80).to(dtype)
    found = segment(segmenter, image, "none")
    assert torch.equal(found.labels, segment(segmenter, image.float(), "none").labels)
    assert found.labels.shape == (64, 80)
