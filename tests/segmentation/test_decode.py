"""From detections to a label map: a partition, in which the better score wins."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nucstyle.core.rng import generator
from nucstyle.core.sample import Prediction
from nucstyle.segmentation.decode import decode, paste
from nucstyle.segmentation.detector import InferenceConfig

edges = st.floats(-20, 60, width=32)


def read(prediction, *, score=0.5, mask_threshold=0.5, **options):
    return decode(prediction, InferenceConfig(score=score, mask_threshold=mask_threshold, **options))


def soft_disc(side=28, radius=0.9):
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.sigmoid((radius - (axis[:, None] ** 2 + axis[None] ** 2).sqrt()) * 20)


@settings(deadline=None, max_examples=200)
@given(x0=edges, y0=edges, width=st.floats(1 / 64, 200, width=32), height=st.floats(1 / 64, 200, width=32))
def test_a_full_mask_fills_exactly_the_pixels_whose_centre_lies_in_the_box(x0, y0, width, height):
    box = torch.tensor([x0, y0, x0 + width, y0 + height])
    left, top, right, bottom = box.tolist()
    prediction = Prediction(boxes=box[None], scores=torch.ones(1), masks=torch.ones(1, 28, 28), size=(40, 50))
    ys, xs = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(50) + 0.5, indexing="ij")
    inside = (xs >= left) & (xs < right) & (ys >= top) & (ys < bottom)
    assert torch.equal(read(prediction).labels, inside.int())


@pytest.mark.parametrize("side", [1, 2, 27, 28, 29, 70, 90])
def test_a_box_of_whole_pixels_is_filled_to_its_corners_however_large(prediction_of, side):
    labels = read(prediction_of([(5, 3, 5 + side, 3 + side)], size=(100, 100))).labels
    assert int(labels.sum()) == side * side
    assert bool(labels[3 : 3 + side, 5 : 5 + side].all())


def test_mask_cells_are_stretched_over_the_box_in_their_order():
    mask = torch.zeros(4, 4)
    mask[0, 3], mask[2, 1] = 1, 1
    rows, columns, probability = paste(mask, torch.tensor([10.0, 20.0, 18.0, 28.0]), (64, 64))
    assert (rows, columns) == (slice(20, 28), slice(10, 18))
    whole = torch.zeros(64, 64)
    whole[rows, columns] = probability
    # Cells are two pixels wide: the corner cell is whole to the border, the inner one loses half of each pixel's neighbours.
    assert whole[20, 17] == 1
    assert whole[21, 16] == pytest.approx(0.75**2)
    assert whole[24:26, 12:14].tolist() == [[0.75**2] * 2] * 2
    assert whole[20, 10] == 0


def test_a_disc_on_the_crop_is_an_ellipse_on_the_image():
    drawing = generator("boxes")
    ys, xs = torch.meshgrid(torch.arange(100) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    for _ in range(30):
        corner, size = torch.rand(2, generator=drawing) * 40, 10 + torch.rand(2, generator=drawing) * 40
        (x, y), (half_width, half_height) = corner + size / 2, 0.8 * size / 2
        ellipse = ((xs - x) / half_width) ** 2 + ((ys - y) / half_height) ** 2 < 1
        box = torch.cat([corner, corner + size])
        prediction = Prediction(
            boxes=box[None], scores=torch.ones(1), masks=soft_disc(radius=0.8)[None], size=(100, 100)
        )
        found = read(prediction).labels > 0
        assert int((found & ellipse).sum()) / int((found | ellipse).sum()) > 0.97


@pytest.mark.parametrize(
    ("box", "filled"),
    [
        ((-5, -5, 4, 3), (slice(0, 3), slice(0, 4))),
        ((28, 27, 40, 99), (slice(27, 32), slice(28, 32))),
        ((-9, 5, 99, 6), (slice(5, 6), slice(0, 32))),
    ],
)
def test_masks_end_at_the_border_of_the_image(prediction_of, box, filled):
    expected = torch.zeros(32, 32, dtype=torch.int32)
    expected[filled] = 1
    assert torch.equal(read(prediction_of([box])).labels, expected)


@pytest.mark.parametrize("box", [(-9, -9, -1, -1), (32, 0, 40, 9), (5, 5, 5, 9), (9, 9, 3, 3), (5.6, 5.6, 6.4, 6.4)])
def test_a_box_without_a_pixel_of_the_image_leaves_nothing(prediction_of, box):
    decoded = read(prediction_of([box, (10, 10, 12, 12)]))
    assert torch.unique(decoded.labels).tolist() == [0, 1]
    assert decoded.scores.tolist() == pytest.approx([0.6])


def test_a_contested_pixel_belongs_to_the_better_score(prediction_of):
    decoded = read(prediction_of([(4, 4, 14, 14), (10, 4, 20, 14)], scores=[0.9, 0.7]))
    assert bool((decoded.labels[4:14, 4:14] == 1).all())
    assert bool((decoded.labels[4:14, 14:20] == 2).all())
    assert int((decoded.labels > 0).sum()) == 160


def test_a_nucleus_that_is_covered_whole_goes_and_takes_its_score_along(prediction_of):
    decoded = read(prediction_of([(4, 4, 14, 14), (6, 6, 9, 9), (20, 20, 22, 22)], scores=[0.9, 0.8, 0.7]))
    assert torch.unique(decoded.labels).tolist() == [0, 1, 2]
    assert decoded.scores.tolist() == pytest.approx([0.9, 0.7])
    assert int(decoded.labels[20, 20]) == 2
    assert decoded.dropped == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 12))
def test_labels_are_a_partition_numbered_by_falling_score(seed, count):
    drawing = generator("partition", seed)
    corners = torch.rand(count, 2, generator=drawing) * 40 - 5
    prediction = Prediction(
        boxes=torch.cat([corners, corners + torch.rand(count, 2, generator=drawing) * 20], dim=1),
        scores=torch.rand(count, generator=drawing).sort(descending=True).values,
        masks=torch.rand(count, 7, 7, generator=drawing),
        size=(33, 29),
    )
    decoded = read(prediction, score=0.3)
    assert decoded.labels.shape == (33, 29)
    assert decoded.labels.dtype == torch.int32
    present = torch.unique(decoded.labels[decoded.labels > 0])
    assert present.tolist() == list(range(1, len(decoded.scores) + 1))
    assert decoded.scores.tolist() == sorted(decoded.scores.tolist(), reverse=True)
    assert set(decoded.scores.tolist()) <= {one for one in prediction.scores.tolist() if one >= 0.3}


@pytest.mark.parametrize(
    ("threshold", "left"), [(0.0, 4), (0.25, 3), (math.nextafter(0.25, 1), 2), (0.75, 2), (1.0, 1)]
)
def test_scores_from_the_threshold_on_are_written(prediction_of, threshold, left):
    corners = [(x, 0, x + 3, 3) for x in range(0, 16, 4)]
    decoded = read(prediction_of(corners, scores=[1.0, 0.75, 0.25, 0.0]), score=threshold)
    assert len(decoded.scores) == left == int(decoded.labels.max())


def test_a_score_that_is_not_a_number_is_not_written(prediction_of):
    decoded = read(prediction_of([(0, 0, 3, 3), (4, 0, 7, 3)], scores=[math.nan, 0.9]), score=0.0)
    assert decoded.scores.tolist() == pytest.approx([0.9])
    assert int((decoded.labels > 0).sum()) == 9


@pytest.mark.parametrize(
    ("value", "threshold", "pixels"), [(0.501, 0.5, 25), (0.499, 0.5, 0), (0.0, 0.0, 25), (0.999, 1.0, 0)]
)
def test_pixels_from_the_mask_threshold_on_belong_to_the_nucleus(prediction_of, value, threshold, pixels):
    masks = torch.full((1, 28, 28), value)
    decoded = read(prediction_of([(2, 2, 7, 7)], masks=masks), mask_threshold=threshold)
    assert int((decoded.labels > 0).sum()) == pixels


def test_a_prediction_of_nothing_is_an_empty_map(prediction_of):
    decoded = read(prediction_of([], size=(5, 7)))
    assert decoded.labels.shape == (5, 7)
    assert not decoded.labels.any()
    assert decoded.scores.shape == (0,)
    assert decoded.scores.dtype == torch.float32


def test_329_discs_are_329_nuclei(prediction_of):
    boxes = [(20 * i + 2, 20 * j + 1, 20 * i + 18, 20 * j + 17) for i in range(47) for j in range(7)]
    masks = soft_disc().expand(329, -1, -1)
    decoded = read(prediction_of(boxes, size=(140, 940), masks=masks))
    assert len(decoded.scores) == 329 == int(decoded.labels.max())
    areas = torch.bincount(decoded.labels.flatten())[1:]
    assert (areas - areas.float().mean()).abs().max() < 1
    assert float(areas[0]) == pytest.approx(math.pi * (0.9 * 8) ** 2, rel=0.05)


# what the published recipes do to single nuclei


def ring(side=28):
    mask = torch.ones(side, side)
    mask[8:20, 8:20] = 0
    return mask


def test_holes_are_filled_where_that_is_asked_for(prediction_of):
    prediction = prediction_of([(0, 0, 28, 28)], masks=ring()[None])
    assert int((read(prediction).labels > 0).sum()) == 28 * 28 - 144
    assert int((read(prediction, fill_holes=True).labels > 0).sum()) == 28 * 28


def test_the_pixels_of_a_better_nucleus_in_a_hole_stay_its_own(prediction_of):
    masks = torch.stack([torch.ones(28, 28), ring()])
    labels = read(prediction_of([(10, 10, 18, 18), (0, 0, 28, 28)], masks=masks), fill_holes=True).labels
    assert int((labels == 1).sum()) == 64
    assert int((labels == 2).sum()) == 28 * 28 - 64


def test_gaps_of_a_pixel_are_closed(prediction_of):
    mask = torch.ones(28, 28)
    mask[14, :] = 0
    prediction = prediction_of([(0, 0, 28, 28)], masks=mask[None])
    assert not read(prediction).labels[14, 14]
    closed = read(prediction, close=True).labels
    assert closed[14, 1:27].all()
    assert not closed[29:].any()


def test_a_nucleus_grows_by_a_cross_but_not_out_of_the_image_nor_into_others(prediction_of):
    labels = read(prediction_of([(10, 10, 14, 14)]), dilate=True).labels
    assert int(labels.sum()) == 16 + 4 * 4
    assert labels[9, 10:14].all()
    assert not labels[9, 9]
    assert int(read(prediction_of([(0, 0, 4, 4)]), dilate=True).labels.sum()) == 16 + 8
    pair = read(prediction_of([(0, 0, 4, 4), (5, 0, 9, 4)]), dilate=True).labels
    assert (pair[:4, 4] == 1).all()
    assert (pair[:4, 5:9] == 2).all()


def test_nuclei_that_fall_apart_are_dropped_where_that_is_asked_for(prediction_of):
    prediction = prediction_of([(10, 0, 14, 30), (0, 10, 30, 16)])  # a better one across the second
    assert len(read(prediction).scores) == 2
    assert len(read(prediction, drop_fragments=True).scores) == 1
    assert (read(prediction).dropped, read(prediction, drop_fragments=True).dropped) == (0, 1)


def test_a_nucleus_that_had_two_parts_from_the_start_has_not_fallen_apart(prediction_of):
    mask = torch.ones(28, 28)
    mask[:, 12:16] = 0
    assert len(read(prediction_of([(0, 0, 28, 28)], masks=mask[None]), drop_fragments=True).scores) == 1
    # A better one takes all of one part: what is left is whole. It cuts the other part in two as well: it has fallen apart.
    masks = torch.stack([torch.ones(28, 28), mask])
    right = prediction_of([(14, 0, 28, 28), (0, 0, 28, 28)], masks=masks)
    assert len(read(right, drop_fragments=True).scores) == 2
    cut = torch.zeros(28, 28)
    cut[:, 14:] = 1
    cut[10:18] = 1
    assert (
        len(read(prediction_of([(0, 0, 28, 28)] * 2, masks=torch.stack([cut, mask])), drop_fragments=True).scores) == 1
    )
    assert len(read(prediction_of([(0, 0, 28, 28)] * 2, masks=torch.stack([cut, mask]))).scores) == 2


@pytest.mark.parametrize(("least", "left"), [(0, 2), (9, 2), (10, 1), (17, 0)])
def test_nuclei_of_few_pixels_are_not_written(prediction_of, least, left):
    prediction = prediction_of([(0, 0, 4, 4), (10, 10, 13, 13)])
    decoded = read(prediction, min_area_px=least)
    assert len(decoded.scores) == int(decoded.labels.max()) == left
    assert decoded.dropped == 2 - left


@pytest.mark.parametrize(("least", "left"), [(0.0, 3), (0.25, 3), (0.3, 2), (1.0, 1)])
def test_nuclei_that_better_ones_leave_too_little_of_are_dropped(prediction_of, least, left):
    # The second keeps a half of itself; the third, beside both, a quarter.
    prediction = prediction_of([(0, 0, 8, 8), (4, 0, 12, 8), (6, 0, 14, 8)])
    decoded = read(prediction, min_visible=least)
    assert len(decoded.scores) == int(decoded.labels.max()) == left
