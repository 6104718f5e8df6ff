"""From samples to torchvision's targets: boxes that end after the last pixel, slivers left out, nothing lost silently."""

import pytest
import torch

from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.core.errors import ImageError
from nucstyle.core.labels import boxes
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample
from nucstyle.segmentation.targets import NUCLEUS, to_detection_target


def sample_with(labels):
    return Sample(id="field-x", image=torch.zeros(3, *labels.shape), labels=labels)


def rectangles(*corners, size=(20, 30)):
    """Nuclei 1, 2, ... as rectangles x0, y0, x1, y1 with x1, y1 excluded."""
    labels = torch.zeros(size, dtype=torch.int32)
    for number, (x0, y0, x1, y1) in enumerate(corners, start=1):
        labels[y0:y1, x0:x1] = number
    return sample_with(labels)


def target_of(sample, *, min_side_px=1):
    return to_detection_target(sample, min_side_px=min_side_px)


def masks_of(target):
    return target["label_map"] == target["numbers"][:, None, None]


def as_set(target):
    return {tuple(box) for box in target["boxes"].tolist()}


def test_boxes_end_after_the_last_pixel_so_that_one_pixel_is_a_box_of_area_one():
    corners = [(3, 4, 10, 9), (0, 0, 1, 1), (29, 19, 30, 20), (12, 2, 13, 18)]
    target = target_of(rectangles(*corners))
    assert as_set(target) == set(corners)
    widths, heights = (target["boxes"][:, 2:] - target["boxes"][:, :2]).unbind(1)
    assert (widths * heights).tolist() == masks_of(target).sum(dim=(1, 2)).tolist()


def test_box_and_mask_of_an_entry_belong_to_the_same_nucleus():
    target = target_of(rectangles((3, 4, 10, 9), (15, 1, 16, 2), (20, 10, 28, 20), (0, 15, 9, 18)))
    for box, mask in zip(target["boxes"], masks_of(target), strict=True):
        assert torch.equal(boxes(mask.to(torch.int32))[0], box)


def test_types_are_those_that_torchvision_asks_for():
    target = target_of(rectangles((3, 4, 10, 9), (15, 1, 18, 5)))
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in target.items()} == {
        "boxes": ((2, 4), torch.float32),
        "labels": ((2,), torch.int64),
        "numbers": ((2,), torch.int32),
        "label_map": ((20, 30), torch.int32),
        "ignored": ((0, 4), torch.float32),
    }
    assert target["labels"].tolist() == [1, 1]


@pytest.mark.parametrize(("min_side_px", "left"), [(1, 3), (2, 2), (3, 2), (4, 1)])
def test_slivers_are_left_out_by_their_narrower_side_and_listed(min_side_px, left):
    corners = [(0, 0, 20, 1), (0, 5, 3, 15), (10, 5, 18, 15)]
    target = target_of(rectangles(*corners), min_side_px=min_side_px)
    assert len(target["boxes"]) == len(target["numbers"]) == left
    assert as_set(target) | {tuple(box) for box in target["ignored"].tolist()} == set(corners)
    assert len(target["ignored"]) == 3 - left


def test_an_image_without_annotation_is_refused_by_its_name():
    with pytest.raises(ImageError, match="field-x: not annotated"):
        target_of(Sample(id="field-x", image=torch.zeros(3, 8, 8)))


@pytest.mark.parametrize("labels", [torch.zeros(8, 9, dtype=torch.int32), torch.eye(9, dtype=torch.int32)[:8]])
def test_an_image_in_which_nothing_is_left_has_a_target_of_no_nuclei(labels):
    target = target_of(sample_with((labels > 0).int() * 0 if not labels.any() else labels), min_side_px=9)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["numbers"].shape == (0,)


def test_a_thousand_random_crops_have_no_degenerate_box_and_none_is_lost(sample_of):
    cut = RandomCrop(CropConfig(size_px=48, zoom_low=0.5, zoom_high=2.5))
    fields = [sample_of(number) for number in range(5)]
    drawing = generator("thousand")
    empty = 0
    for number in range(1000):
        crop = cut.augment(fields[number % 5], drawing)
        target = to_detection_target(crop, min_side_px=3)
        found = target["boxes"]
        assert crop.size == (48, 48)
        assert ((found[:, 2:] - found[:, :2]) >= 3).all()
        assert found.numel() == 0 or (float(found.min()) >= 0 and float(found.max()) <= 48)
        assert masks_of(target).any(dim=2).any(dim=1).all()
        assert len(found) == len(target["labels"]) == len(target["numbers"])
        assert (target["labels"] == NUCLEUS).all()
        assert len(found) + len(target["ignored"]) == int(crop.labels.max())
        empty += len(found) == 0
    assert 0 < empty < 500


@pytest.mark.parametrize(
    "corners", [[], [(7, 7, 8, 8)], [(0, 0, 64, 1)], [(0, 0, 64, 64)], [(60, 60, 64, 64), (0, 20, 9, 33)]]
)
def test_the_training_losses_of_any_target_are_finite_and_so_are_their_gradients(segmenter, corners):
    sample = rectangles(*corners, size=(64, 64))
    image = torch.rand(3, 64, 64, generator=generator("image"))
    other = rectangles((5, 5, 20, 20), size=(64, 64))
    losses = segmenter.losses([image, image], [target_of(sample), target_of(other)])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert all(bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in segmenter.network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_batch_of_empty_images_alone_trains(segmenter):
    losses = segmenter.losses([torch.rand(3, 64, 64, generator=generator(1))], [target_of(rectangles(size=(64, 64)))])
    total = sum(losses.values())
    assert bool(total.isfinite())
    total.backward()
