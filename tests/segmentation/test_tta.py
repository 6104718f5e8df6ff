"""Test-time augmentation and tiles: every view is undone exactly, so views that agree change nothing; nor do seams."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.ops import box_iou

from nucstyle.core import symmetry
from nucstyle.core.clahe import ClaheConfig
from nucstyle.core.errors import ImageError, OptionError
from nucstyle.core.labels import boxes as boxes_of
from nucstyle.core.rng import generator
from nucstyle.segmentation.detector import Boxes, InferenceConfig, SegmenterConfig
from nucstyle.segmentation.tiling import predict_tiles, segment
from nucstyle.segmentation.tta import VIEWS, TestTimeAugmentation, View


class Thresholding:
    """A detector that is right in every view: a nucleus is a connected bright spot. Its masks are cut from the image."""

    device = torch.device("cpu")

    def __init__(self, *, config=None, blind_to=()):
        self.config = config or SegmenterConfig()
        self.inference = InferenceConfig()
        self.blind_to = list(blind_to)
        """Numbers of the calls in which nothing is found."""
        self.calls = 0

    def see(self, image):
        return image

    def detect_boxes(self, image):
        self.calls += 1
        if self.calls - 1 in self.blind_to:
            return Boxes(torch.zeros(0, 4), torch.zeros(0))
        labels, _ = ndimage.label(image[0].numpy() > 0.4)
        found = boxes_of(torch.from_numpy(labels.astype(np.int32)))
        brightness = torch.tensor([float(image[0][torch.from_numpy(labels == n + 1)].max()) for n in range(len(found))])
        order = brightness.argsort(descending=True, stable=True)
        return Boxes(found[order], brightness[order].clamp(max=1))

    def detect_masks(self, image, boxes):
        masks = torch.zeros(len(boxes), 28, 28)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
            ys = (y0 + (torch.arange(28) + 0.5) / 28 * (y1 - y0)).long().clamp(0, image.shape[1] - 1)
            xs = (x0 + (torch.arange(28) + 0.5) / 28 * (x1 - x0)).long().clamp(0, image.shape[2] - 1)
            mask.copy_((image[0][ys][:, xs] > 0.4).float())
        return masks


def spots(height=90, width=140, *, ellipses=((20, 25, 12, 5), (50, 100, 6, 14), (70, 40, 9, 9), (12, 120, 7, 7))):
    """Bright ellipses (y, x, half height, half width), of falling brightness, none of them symmetric in the field."""
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    image = torch.zeros(3, height, width)
    for number, (y, x, a, b) in enumerate(ellipses):
        image[:, ((ys - y) / a) ** 2 + ((xs - x) / b) ** 2 < 1] = 1 - 0.1 * number
    return image


def image_of(height, width):
    return torch.rand(3, height, width, generator=generator("tta", height, width))


def matched(prediction, other):
    """Boxes of the other prediction in the order of this one's, by overlap; each has one partner."""
    partner = box_iou(prediction.boxes, other.boxes).argmax(dim=1)
    assert sorted(partner.tolist()) == list(range(len(other)))
    return partner


def test_modes_are_named_and_begin_with_the_plain_view():
    assert {name: len(views) for name, views in VIEWS.items()} == {
        "none": 1,
        "fast": 4,
        "full": 12,
        "deep-retina": 15,
        "mirzaev": 2,
    }
    for views in VIEWS.values():
        assert views[0] == View()
        assert len(set(views)) == len(views)
    assert {view.symmetry for view in VIEWS["fast"]} == {
        symmetry.IDENTITY,
        symmetry.LEFT_RIGHT,
        symmetry.UP_DOWN,
        symmetry.HALF_TURN,
    }
    assert {view.symmetry for view in VIEWS["full"]} == set(symmetry.ALL)
    assert {view.scale for view in VIEWS["full"]} == {1.0, 0.75, 1.5}
    assert sum(view.gamma != 1.0 for view in VIEWS["full"]) == 2


def test_an_unknown_mode_is_refused_with_those_known():
    with pytest.raises(OptionError, match="--tta slow: unknown; known: none, fast, full, deep-retina, mirzaev"):
        TestTimeAugmentation("slow")


def test_no_view_at_all_is_refused():
    with pytest.raises(OptionError, match="at least one view"):
        TestTimeAugmentation([])


def test_fast_is_the_default():
    assert TestTimeAugmentation().views == VIEWS["fast"]


@pytest.mark.parametrize("view", [View(one) for one in symmetry.ALL])
@pytest.mark.parametrize("size", [(90, 140), (91, 61), (64, 64)])
def test_every_symmetry_is_undone_to_the_last_bit(view, size):
    """One turned view of a detector that is always right gives what the plain view gives, and masks that fit."""
    image = spots(*size, ellipses=[(20, 25, 12, 5), (45, 40, 6, 14)])
    plain = TestTimeAugmentation("none").predict(Thresholding(), image)
    turned = TestTimeAugmentation([view]).predict(Thresholding(), image)
    assert torch.equal(turned.boxes, plain.boxes)
    assert torch.equal(turned.scores, plain.scores)
    # Two sampling points of a mask may fall on either side of a pixel's border.
    assert float((turned.masks - plain.masks).abs().mean()) < 0.03


@pytest.mark.parametrize("mode", ["fast", [View(one) for one in symmetry.ALL]])
def test_views_that_agree_change_nothing(mode):
    image = spots()
    plain = TestTimeAugmentation("none").predict(Thresholding(), image)
    merged = TestTimeAugmentation(mode).predict(Thresholding(), image)
    assert len(plain) == 4
    assert torch.equal(merged.boxes, plain.boxes)
    torch.testing.assert_close(merged.scores, plain.scores)
    assert float((merged.masks - plain.masks).abs().mean()) < 0.03


@pytest.mark.parametrize("size", [(90, 140), (250, 431)])
@pytest.mark.parametrize("scale", [0.75, 1.5, 2.3])
def test_boxes_seen_at_another_size_come_back_to_the_image(size, scale):
    image = spots(*size)
    plain = TestTimeAugmentation("none").predict(Thresholding(), image)
    scaled = TestTimeAugmentation([View(scale=scale)]).predict(Thresholding(), image)
    partner = matched(plain, scaled)
    assert float((plain.boxes - scaled.boxes[partner]).abs().max()) < 1.5


def test_the_full_mode_finds_each_nucleus_once():
    image = spots()
    plain = TestTimeAugmentation("none").predict(Thresholding(), image)
    merged = TestTimeAugmentation("full").predict(Thresholding(), image)
    partner = matched(plain, merged)
    assert float((plain.boxes - merged.boxes[partner]).abs().max()) < 1.5


def test_colours_are_jittered_before_anything_else_and_stay_in_range():
    image = torch.full((3, 4, 6), 0.64)
    seen = View(gamma=0.5, gains=(1.0, 0.5, 2.0)).apply(image, (4, 6))
    torch.testing.assert_close(seen[:, 0, 0], torch.tensor([0.8, 0.4, 1.0]))


def test_a_view_is_magnified_then_moved():
    image = image_of(5, 8)
    assert View(symmetry.Symmetry(1)).apply(image, (10, 16)).shape == (3, 16, 10)
    assert torch.equal(View().apply(image, (5, 8)), image)


def test_the_score_is_the_mean_over_views_and_a_view_that_misses_counts_nothing():
    image = spots()
    plain = TestTimeAugmentation("none").predict(Thresholding(), image)
    missed = TestTimeAugmentation("fast").predict(Thresholding(blind_to=[1]), image)
    torch.testing.assert_close(missed.scores, plain.scores * 3 / 4)
    assert torch.equal(missed.boxes, plain.boxes)
    alone = TestTimeAugmentation("fast").predict(Thresholding(blind_to=[0, 1, 3]), image)
    torch.testing.assert_close(alone.scores, plain.scores / 4)
    assert torch.equal(alone.boxes, plain.boxes)


def test_masks_are_the_mean_over_views():
    class Opinionated(Thresholding):
        def detect_masks(self, image, boxes):
            self.asked = getattr(self, "asked", 0) + 1
            return torch.full((len(boxes), 28, 28), 0.1 * self.asked)

    prediction = TestTimeAugmentation("fast").predict(Opinionated(), spots())
    torch.testing.assert_close(prediction.masks, torch.full((4, 28, 28), 0.25))


def test_scores_do_not_rise_down_the_list(segmenter):
    for mode in VIEWS:
        prediction = TestTimeAugmentation(mode).predict(segmenter, image_of(40, 56))
        assert len(prediction) > 1
        assert bool((prediction.scores.diff() <= 0).all())
        assert prediction.scores.dtype == prediction.boxes.dtype == prediction.masks.dtype == torch.float32


def test_an_image_of_nothing_is_a_prediction_of_nothing():
    prediction = TestTimeAugmentation("full").predict(Thresholding(), torch.zeros(3, 33, 20))
    assert len(prediction) == 0
    assert prediction.boxes.shape == (0, 4)
    assert prediction.masks.shape == (0, 28, 28)
    assert prediction.size == (33, 20)


def test_329_nuclei_are_found_and_written():
    centres = [(10 + 20 * i, 10 + 20 * j, 7, 7) for i in range(7) for j in range(47)]
    ys, xs = torch.meshgrid(torch.arange(140) + 0.5, torch.arange(940) + 0.5, indexing="ij")
    image = torch.zeros(3, 140, 940)
    for y, x, radius, _ in centres:
        image[:, (ys - y) ** 2 + (xs - x) ** 2 < radius**2] = 0.9
    decoded = segment(Thresholding(), image, TestTimeAugmentation("fast"))
    assert len(decoded.scores) == 329
    assert torch.equal(decoded.labels > 0, image[0] > 0)


@pytest.mark.parametrize("mode", VIEWS)
def test_no_more_nuclei_than_configured(segmenter_of, mode):
    generous = segmenter_of(box_nms_iou=0.9, max_nuclei=6)
    assert len(TestTimeAugmentation(mode).predict(generous, image_of(40, 40))) == 6


@pytest.mark.parametrize("moved", [symmetry.LEFT_RIGHT, symmetry.UP_DOWN, symmetry.HALF_TURN])
@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_a_mirrored_image_has_the_mirrored_prediction_of_a_real_network(segmenter, moved, size):
    """The four views of a mirrored image are the four views of the image, so the network need not be symmetric."""
    image = image_of(*size)
    fast = TestTimeAugmentation("fast")
    prediction, mirrored = fast.predict(segmenter, image), fast.predict(segmenter, moved.apply(image))
    assert len(prediction) == len(mirrored) > 2
    expected = moved.apply_boxes(prediction.boxes, size)
    partner = box_iou(expected, mirrored.boxes).argmax(dim=1)
    assert sorted(partner.tolist()) == list(range(len(mirrored)))
    torch.testing.assert_close(mirrored.boxes[partner], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(mirrored.scores[partner], prediction.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored.masks[partner], moved.apply(prediction.masks), atol=1e-3, rtol=0)


def test_a_turned_square_has_the_turned_prediction_when_all_symmetries_are_views(segmenter):
    image, turn = image_of(48, 48), symmetry.Symmetry(1)
    every = TestTimeAugmentation([View(one) for one in symmetry.ALL])
    prediction, turned = every.predict(segmenter, image), every.predict(segmenter, turn.apply(image))
    expected = turn.apply_boxes(prediction.boxes, (48, 48))
    partner = box_iou(expected, turned.boxes).argmax(dim=1)
    torch.testing.assert_close(turned.boxes[partner], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(turned.masks[partner], turn.apply(prediction.masks), atol=1e-3, rtol=0)


def test_a_real_network_is_not_symmetric_so_the_laws_above_say_something(segmenter):
    image = image_of(64, 64)
    plain = TestTimeAugmentation("none")
    one = plain.predict(segmenter, image).boxes
    other = symmetry.LEFT_RIGHT.apply_boxes(plain.predict(segmenter, image.flip(-1)).boxes, (64, 64))
    best = box_iou(one, other).amax(dim=1)
    assert float(best.min()) < 0.99


@pytest.mark.parametrize(("size", "seen"), [((256, 256), (512, 512)), ((37, 53), (74, 106)), ((401, 20), (401, 20))])
def test_a_field_is_seen_at_its_size_times_the_magnification_and_no_other(size, seen):
    looked_at = []

    class Watching(Thresholding):
        def see(self, image):
            looked_at.append(tuple(image.shape[1:]))
            return image

    TestTimeAugmentation("none").predict(Watching(), torch.zeros(3, *size))
    assert looked_at == [seen]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 50), (33, 1), (31, 33)])
def test_images_of_a_few_pixels_are_predicted_in_every_mode(segmenter, size):
    for mode in ("none", "fast"):
        decoded = segment(segmenter, image_of(*size), TestTimeAugmentation(mode))
        assert decoded.labels.shape == size
        assert int(decoded.labels.max()) == len(decoded.scores)


def test_images_of_every_size_keep_it(segmenter):
    sizes = [(side, side) for side in range(1, 34)] + [(1, side) for side in range(1, 34)]
    for size in [*sizes, (1, 500), (500, 1), (161, 519), (390, 239)]:
        decoded = segment(segmenter, image_of(*size), TestTimeAugmentation("none"))
        assert decoded.labels.shape == size
        assert int(decoded.labels.max()) == len(decoded.scores)
        assert bool(decoded.scores.isfinite().all())


@pytest.mark.parametrize("size", [(1, 500), (161, 519), (390, 239)])
def test_the_real_trunk_keeps_odd_sizes_too(segmenter_of, size):
    decoded = segment(segmenter_of(real=True), image_of(*size), TestTimeAugmentation("none"))
    assert decoded.labels.shape == size
    assert int(decoded.labels.max()) == len(decoded.scores)


@pytest.mark.parametrize("size", [(1, 1), (1, 50)])
def test_images_of_a_few_pixels_survive_being_made_smaller(segmenter, size):
    prediction = TestTimeAugmentation("full").predict(segmenter, image_of(*size))
    assert bool((prediction.boxes >= 0).all())
    assert bool((prediction.boxes <= torch.tensor([size[1], size[0], size[1], size[0]])).all())


def test_prediction_is_deterministic_and_leaves_the_global_stream_alone(segmenter):
    image = image_of(40, 40)
    before = torch.random.get_rng_state()
    first, second = (TestTimeAugmentation("fast").predict(segmenter, image) for _ in range(2))
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.masks, second.masks)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_segmenters_own_thresholds_are_used_for_labels():
    strict = Thresholding()
    strict.inference = InferenceConfig(score=0.85)
    decoded = segment(strict, spots(), TestTimeAugmentation("none"))
    assert decoded.scores.tolist() == pytest.approx([1.0, 0.9])
    strict.inference = InferenceConfig(score=0.5, mask_threshold=math.inf)
    assert len(segment(strict, spots(), TestTimeAugmentation("none")).scores) == 0


# tiles


def in_tiles(detector, tile_px, overlap_px=40, *, enlarge=1.0):
    detector.inference = InferenceConfig(
        tile_px=tile_px, overlap_px=overlap_px, enlarge_below_px=1000, enlarge_factor=enlarge
    )
    return detector


@pytest.mark.parametrize("mode", ["none", "fast"])
@pytest.mark.parametrize("tile_px", [64, 100, 150, 299])
def test_every_nucleus_is_found_once_whatever_the_tiles(tile_px, mode):
    image = torch.zeros(3, 300, 420)
    for number in range(99):
        row, column = divmod(number, 11)
        y, x, radius = 17 + 31 * row + 3 * (column % 2), 19 + 37 * column, 7 + number % 4
        ys, xs = torch.meshgrid(torch.arange(300) + 0.5, torch.arange(420) + 0.5, indexing="ij")
        image[:, (ys - y) ** 2 + (xs - x) ** 2 < radius**2] = 0.5 + 0.005 * number
    views = TestTimeAugmentation(mode)
    whole = segment(in_tiles(Thresholding(), 1000), image, views)
    tiled = segment(in_tiles(Thresholding(), tile_px), image, views)
    assert len(whole.scores) == len(tiled.scores) == 99
    assert torch.equal(tiled.scores, whole.scores)
    assert float((tiled.labels != whole.labels).float().mean()) < 2e-3


def test_the_magnification_is_that_of_the_whole_field_and_tiles_are_counted_after_it():
    looked_at = []

    class Watching(Thresholding):
        def see(self, image):
            looked_at.append(tuple(image.shape[1:]))
            return image

    predict_tiles(in_tiles(Watching(), 200, 20, enlarge=2.0), torch.zeros(3, 150, 100), TestTimeAugmentation("none"))
    # 300 x 200 after enlargement: two tiles of 150 x 200, each seen 20 px farther where there is more.
    assert looked_at == [(170, 200), (170, 200)]


def test_a_field_in_which_more_may_be_than_the_model_may_find_says_so(segmenter_of):
    few = segmenter_of(box_nms_iou=0.9, max_nuclei=6)
    many = segmenter_of(box_nms_iou=0.9, max_nuclei=2000, proposals_after_nms=2000)
    for detector, capped in ((few, True), (many, False)):
        for tile_px in (64, 1024):
            detector.inference = InferenceConfig(tile_px=tile_px, score=0.0)
            decoded = segment(detector, image_of(60, 80), TestTimeAugmentation("none"))
            assert decoded.is_capped == capped


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 20, 20, dtype=torch.uint8), r"must be \(3, H, W\) float"),
        (torch.zeros(1, 20, 20), r"must be \(3, H, W\) float"),
        (torch.full((3, 20, 20), torch.nan), "not finite"),
        (torch.full((3, 20, 20), 200.0), r"must lie in \[0, 1\], got 200 to 200"),
    ],
)
def test_what_is_no_image_is_refused_at_the_door(image, message):
    with pytest.raises(ImageError, match=message):
        segment(Thresholding(), image, TestTimeAugmentation("none"))


def test_dark_images_are_enhanced_in_prediction_as_in_training():
    image = spots() * 0.2
    dark, enhancing = Thresholding(), Thresholding()
    enhancing.inference = InferenceConfig(clahe=True)
    assert len(segment(dark, image, TestTimeAugmentation("none")).scores) == 0
    assert len(segment(enhancing, image, TestTimeAugmentation("none")).scores) >= 3
    enhancing.inference = InferenceConfig(clahe=True, clahe_darker_than=0.05)
    assert len(segment(enhancing, image, TestTimeAugmentation("none")).scores) == 0


def test_contrast_is_recorded_in_full_and_by_default_as_everywhere():
    assert InferenceConfig().contrast is None
    assert InferenceConfig(clahe=True).contrast == ClaheConfig()
    told = InferenceConfig(clahe=True, clahe_clip_limit=0.02, clahe_tiles=4, clahe_darker_than=0.5)
    assert told.contrast == ClaheConfig(clip_limit=0.02, tiles=4, darker_than=0.5)


@pytest.mark.parametrize(("mode", "views"), [("none", 1), ("mirzaev", 2), ("fast", 4)])
def test_where_no_mode_is_given_the_views_are_those_of_the_recipe(monkeypatch, mode, views):
    segmenter, sizes, see = Thresholding(), [], Thresholding.see
    segmenter.inference = InferenceConfig(tta=mode)
    monkeypatch.setattr(Thresholding, "see", lambda self, image: sizes.append(image.shape) or see(self, image))
    found = segment(segmenter, spots())
    assert len(sizes) == views
    assert torch.equal(found.labels, segment(segmenter, spots(), mode).labels)


@pytest.mark.parametrize(
    ("scaling", "size", "factor"),
    [
        ("small-fields", (256, 256), 2.0),
        ("small-fields", (256, 500), 1.0),
        ("shorter-side", (256, 400), 2.0),
        ("shorter-side", (900, 1200), 1.0),
        ("longer-side", (256, 512), 1.0),
        ("longer-side", (512, 1024), 0.5),
    ],
)
def test_fields_are_scaled_as_the_recipe_says(scaling, size, factor):
    assert InferenceConfig(scaling=scaling).magnification(size) == pytest.approx(factor)


@pytest.mark.parametrize("mode", ["deep-retina", "mirzaev"])
def test_the_published_merges_find_each_nucleus_once(mode):
    image = spots()
    plain = segment(Thresholding(), image, TestTimeAugmentation("none"))
    merged = segment(Thresholding(), image, TestTimeAugmentation(mode))
    assert len(plain.scores) == len(merged.scores) == 4
    assert float((plain.labels > 0).ne(merged.labels > 0).float().mean()) < 0.01


def test_nuclei_are_shaped_after_the_published_merges_not_before():
    """Each of two mirrored views sees little more than the left half; only the whole is as large as is asked for."""

    class HalfBlind(Thresholding):
        def detect_masks(self, image, boxes):
            masks = super().detect_masks(image, boxes)
            masks[:, :, 17:] = 0
            return masks

    image = spots(ellipses=[(20, 30, 10, 10)])
    whole = segment(Thresholding(), image, TestTimeAugmentation("none")).labels
    detector = HalfBlind()
    detector.inference = InferenceConfig(min_area_px=int(0.8 * whole.sum()), enlarge_below_px=0)
    assert len(segment(detector, image, TestTimeAugmentation("none")).scores) == 0
    merged = segment(detector, image, TestTimeAugmentation("mirzaev")).labels
    assert int((merged != whole).sum()) <= 2  # a box that is mirrored twice moves by its rounding


def test_arrays_are_segmented_as_files_of_them_would_be():
    image = spots()
    whole = segment(Thresholding(), image, TestTimeAugmentation("fast"))
    grey = (image[0].numpy() * 255).round().astype(np.uint8)
    for array in (grey, np.stack([grey] * 3, axis=-1), grey / np.float32(255)):
        found = segment(Thresholding(), array)
        assert torch.equal(found.labels, whole.labels)
    with pytest.raises(ImageError, match=r"float images must lie in \[0, 1\]"):
        segment(Thresholding(), grey.astype(np.float32))


def test_where_nothing_is_found_a_second_look_is_taken_at_smaller_nuclei():
    class Nearsighted(Thresholding):
        """Sees nothing that is wider than 12 px."""

        def detect_boxes(self, image):
            boxes, scores, _ = super().detect_boxes(image)
            narrow = boxes[:, 2] - boxes[:, 0] <= 12
            return Boxes(boxes[narrow], scores[narrow])

    image = spots(ellipses=[(45, 70, 20, 20)])
    for retry, count in ((1.0, 0), (4.0, 1)):
        detector = Nearsighted()
        detector.inference = InferenceConfig(enlarge_below_px=0, retry_shrink=retry)
        decoded = segment(detector, image, TestTimeAugmentation("none"))
        assert len(decoded.scores) == count
    assert 1000 < int((decoded.labels > 0).sum()) < 1700  # the disc has 1257 pixels, at its own size again


class Focused(Thresholding):
    """Sees only what is shown at 10 to 200 px, and is surest at 32."""

    def detect_boxes(self, image):
        boxes, scores, _ = super().detect_boxes(image)
        width = boxes[:, 2] - boxes[:, 0]
        seen = (width >= 10) & (width <= 200)
        return Boxes(boxes[seen], (scores - 0.01 * (width - 32).abs())[seen].clamp(0.51, 1))


@pytest.mark.parametrize("radius", [5, 16, 60])
def test_nuclei_far_from_the_usual_size_get_a_second_look_at_the_right_one(radius):
    image = spots(300, 300, ellipses=[(90, 80, radius, radius), (215, 225, radius, radius)])
    plain, looking_twice = Focused(), Focused()
    plain.inference = InferenceConfig(enlarge_below_px=0)
    looking_twice.inference = InferenceConfig(enlarge_below_px=0, rescale_beyond=2.0)
    for detector in (plain, looking_twice):
        decoded = segment(detector, image, TestTimeAugmentation("none"))
        assert len(decoded.scores) == 2
    far = radius in (5, 60)
    assert plain.calls == 1
    assert looking_twice.calls == (2 if far else 1)
    assert float(decoded.scores[1]) > 0.75  # the last was the one that looks twice
    assert (float(segment(plain, image, TestTimeAugmentation("none")).scores[1]) > 0.75) == (not far)


class Fragmenting(Thresholding):
    """Takes what is shown at more than 70 px for four nuclei, one a quarter, with gaps between them."""

    def detect_boxes(self, image):
        boxes, scores, _ = super().detect_boxes(image)
        large = boxes[:, 2] - boxes[:, 0] > 70
        left, top, right, bottom = boxes[large].unbind(dim=1)
        x, y = (left + right) / 2, (top + bottom) / 2
        corners = (
            (left, top, x - 2, y - 2),
            (x + 2, top, right, y - 2),
            (left, y + 2, x - 2, bottom),
            (x + 2, y + 2, right, bottom),
        )
        quarters = torch.cat([torch.stack(corner, dim=1) for corner in corners])
        return Boxes(torch.cat([boxes[~large], quarters]), torch.cat([scores[~large], scores[large].repeat(4)]))


@pytest.mark.parametrize(
    ("rescale", "shrink", "count"),
    [(2.5, 0.0, 4), (2.5, 1.6, 1), (2.5, None, 1), (0.0, None, 4), (1.6, 0.0, 1), (1.6, 2.5, 4)],
)
def test_a_large_nucleus_that_falls_to_pieces_is_found_whole_by_a_second_look(rescale, shrink, count):
    detector = Fragmenting()
    limit = {} if shrink is None else {"shrink_beyond": shrink}  # weights from before there was one lack it
    detector.inference = InferenceConfig(enlarge_below_px=0, rescale_beyond=rescale, **limit)
    decoded = segment(detector, spots(200, 200, ellipses=[(90, 100, 58, 58)]), TestTimeAugmentation("none"))
    assert len(decoded.scores) == count
    assert detector.calls == (1 if count == 4 else 2)


def test_small_nuclei_do_not_get_a_second_look_by_the_limit_for_large_ones():
    detector = Focused()
    detector.inference = InferenceConfig(enlarge_below_px=0, rescale_beyond=2.5, shrink_beyond=1.2)
    assert len(segment(detector, spots(ellipses=[(45, 70, 8, 8)]), TestTimeAugmentation("none")).scores) == 1
    assert detector.calls == 1


def test_a_second_look_that_finds_less_is_not_taken():
    class OnlySmall(Thresholding):
        """Sees nothing that is shown at 20 px or more."""

        def detect_boxes(self, image):
            boxes, scores, _ = super().detect_boxes(image)
            small = boxes[:, 2] - boxes[:, 0] < 20
            return Boxes(boxes[small], scores[small])

    detector = OnlySmall()
    detector.inference = InferenceConfig(enlarge_below_px=0, rescale_beyond=2.0)
    decoded = segment(
        detector, spots(200, 200, ellipses=[(60, 60, 5, 5), (120, 130, 5, 5)]), TestTimeAugmentation("none")
    )
    assert detector.calls == 2
    assert len(decoded.scores) == 2


@pytest.mark.parametrize("wander", [-3.0, 3.0])
def test_a_nucleus_on_a_seam_is_found_once_though_the_tiles_disagree_where_it_is(wander):
    class Wandering(Thresholding):
        """Is wrong by some pixels, each time in the other direction."""

        def detect_boxes(self, image):
            boxes, scores, _ = super().detect_boxes(image)
            return Boxes(boxes + torch.tensor([1.0, 0, 1, 0]) * wander * (1 if self.calls % 2 else -1), scores)

    image = spots(100, 200, ellipses=[(50, 100, 12, 12)])
    detector = in_tiles(Wandering(), 100)
    assert len(segment(detector, image, TestTimeAugmentation("none")).scores) == 1


def test_a_diameter_that_is_none_is_refused():
    for diameter in (0, -3.0, math.nan):
        with pytest.raises(OptionError, match="must be positive"):
            segment(Thresholding(), spots(), TestTimeAugmentation("none"), diameter_px=diameter)


def test_a_diameter_that_is_told_is_what_nuclei_are_shown_by():
    looked_at = []

    class Watching(Thresholding):
        def see(self, image):
            looked_at.append(tuple(image.shape[1:]))
            return image

    detector = Watching()
    detector.inference = InferenceConfig(diameter_px=32)
    segment(detector, image_of(100, 150), TestTimeAugmentation("none"), diameter_px=8)
    segment(detector, image_of(500, 600), TestTimeAugmentation("none"), diameter_px=64)
    assert looked_at == [(400, 600), (250, 300)]
