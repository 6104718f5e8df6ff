import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nucstyle.core.errors import ImageError
from nucstyle.core.symmetry import ALL
from nucstyle.metrics.dsb import THRESHOLDS, dsb_score
from nucstyle.metrics.matching import Counts
from nucstyle.metrics.objects import Found

UNIT_MEASURES = ("dsb_score", "f1", "precision", "recall", "pq", "sq", "rq", "aji")
EMPTY = np.zeros((4, 5), dtype=np.int32)
SOME = np.array([[0, 0, 1, 1, 0]] * 2 + [[7, 0, 0, 0, 0]] * 2, dtype=np.int32)


def strip(*runs):
    """One row of pixels from (number, length) pairs."""
    return np.array([[number for number, length in runs for _ in range(length)]])


def test_thresholds_are_the_ten_of_the_competition():
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_hand_worked_one_nucleus_found_exactly_and_one_missed():
    truth = strip((1, 10), (0, 5), (2, 10))
    predicted = strip((4, 10), (0, 15))
    score = dsb_score(truth, predicted)
    assert score.counts == (Counts(1, 0, 1),) * 10
    assert score.dsb_score == 0.5  # 1 / (1 + 0 + 1) at every threshold
    assert (score.precision, score.recall, score.f1) == (1.0, 0.5, 2 / 3)
    assert (score.sq, score.rq, score.pq) == (1.0, 2 / 3, 2 / 3)
    assert score.aji == 10 / 20


def test_hand_worked_one_nucleus_at_an_iou_of_exactly_four_fifths():
    truth = strip((1, 10), (0, 2))
    predicted = strip((0, 2), (1, 8), (0, 2))
    score = dsb_score(truth, predicted)
    # Above 0.50, 0.55, ..., 0.75: six hits of ten; 0.80 itself is a miss.
    assert list(score.dsb_ap.values()) == [1.0] * 6 + [0.0] * 4
    assert score.dsb_score == 0.6
    assert score.aji == 8 / 10


def test_hand_worked_two_nuclei_and_one_invented():
    truth = strip((1, 10), (0, 5), (2, 10), (0, 5))
    predicted = strip((3, 9), (0, 6), (2, 6), (0, 4), (1, 5))
    score = dsb_score(truth, predicted)
    # IoU 0.9 and 0.6. At 0.50 and 0.55: 2 / (2 + 1 + 0); from 0.60 to 0.85: 1 / (1 + 2 + 1); from 0.90 on: nothing.
    assert list(score.dsb_ap.values()) == [2 / 3] * 2 + [1 / 4] * 6 + [0.0] * 2
    assert score.dsb_score == pytest.approx((2 * 2 / 3 + 6 / 4) / 10, abs=1e-15)
    assert (score.precision, score.recall, score.f1) == (2 / 3, 1.0, 4 / 5)
    assert (score.sq, score.pq) == (pytest.approx(0.75), pytest.approx(0.6))
    assert score.aji == (9 + 6) / (10 + 10 + 5)
    assert score.recall70_by_size["tiny"] == Found(1, 2)
    assert (score.splits, score.merges) == (0, 0)


@pytest.mark.parametrize("k", range(10, 20))
@pytest.mark.parametrize("scale", [1, 3, 7])
def test_an_iou_of_exactly_the_threshold_is_a_miss(k, scale):
    truth = strip((1, 20 * scale))
    predicted = strip((1, k * scale), (0, (20 - k) * scale))
    hits = [entry.true_positives for entry in dsb_score(truth, predicted).counts]
    assert hits == [1] * (k - 10) + [0] * (20 - k)


def test_one_pixel_above_the_threshold_is_a_hit():
    assert dsb_score(strip((1, 21)), strip((1, 11), (0, 10))).counts[0] == Counts(1, 0, 0)


def test_score_equals_the_naive_one_on_a_thousand_pairs(naive, random_pairs):
    for truth, predicted in random_pairs:
        assert dsb_score(truth, predicted).dsb_score == pytest.approx(naive.dsb_score(truth, predicted), abs=1e-15)


def test_the_thousand_pairs_hold_hits_misses_and_empty_maps(random_pairs):
    scores = [dsb_score(truth, predicted).dsb_score for truth, predicted in random_pairs]
    assert sum(0 < score < 1 for score in scores) > 200
    assert sum(score == 1 for score in scores) > 20
    assert sum(not truth.any() and not predicted.any() for truth, predicted in random_pairs) > 20


def test_every_nucleus_matches_at_most_once(random_pairs):
    for truth, predicted in random_pairs:
        n_true, n_predicted = (len(set(labels.ravel().tolist()) - {0}) for labels in (truth, predicted))
        for entry in dsb_score(truth, predicted).counts:
            assert min(entry.true_positives, entry.false_positives, entry.false_negatives) >= 0
            assert entry.true_positives + entry.false_negatives == n_true
            assert entry.true_positives + entry.false_positives == n_predicted


@settings(deadline=None)
@given(st.data())
def test_no_measure_changes_when_nuclei_are_renumbered(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))
    maps = [data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 5))) for _ in range(2)]
    numbers = st.lists(st.integers(1, 2**40), min_size=5, max_size=5, unique=True)
    renumbered = [np.array([0, *data.draw(numbers)])[labels] for labels in maps]
    assert dsb_score(*renumbered) == dsb_score(*maps)


@settings(deadline=None)
@given(st.data())
def test_the_score_does_not_change_when_both_maps_are_turned(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))
    maps = [data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 5))) for _ in range(2)]
    symmetry = data.draw(st.sampled_from(ALL))
    turned = [np.rot90(m[:, ::-1] if symmetry.mirrored else m, symmetry.quarter_turns) for m in maps]
    assert dsb_score(*turned).dsb_ap == dsb_score(*maps).dsb_ap


@settings(deadline=None)
@given(st.data())
def test_truth_and_prediction_may_change_places(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))
    a, b = (data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 5))) for _ in range(2))
    there, back = dsb_score(a, b), dsb_score(b, a)
    assert (there.dsb_score, there.pq) == (back.dsb_score, back.pq)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert (there.splits, there.merges) == (back.merges, back.splits)


@settings(deadline=None)
@given(st.data())
def test_every_measure_is_finite_and_in_its_range(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6))
    maps = [data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 3))) for _ in range(2)]
    score = dsb_score(*maps)
    for value in [getattr(score, name) for name in UNIT_MEASURES] + list(score.dsb_ap.values()):
        assert type(value) is float
        assert math.isfinite(value)
        assert 0.0 <= value <= 1.0


def test_a_map_scores_one_against_itself():
    score = dsb_score(SOME, SOME)
    assert [getattr(score, name) for name in UNIT_MEASURES] == [1.0] * len(UNIT_MEASURES)


def test_two_empty_maps_score_one():
    score = dsb_score(EMPTY, EMPTY)
    assert [getattr(score, name) for name in UNIT_MEASURES] == [1.0] * len(UNIT_MEASURES)
    assert set(score.dsb_ap.values()) == {1.0}
    assert score.counts == (Counts(0, 0, 0),) * 10
    assert set(score.recall70_by_size.values()) == {Found(0, 0)}
    assert (score.splits, score.merges) == (0, 0)


@pytest.mark.parametrize(("truth", "predicted"), [(EMPTY, SOME), (SOME, EMPTY)])
def test_one_empty_map_scores_zero(truth, predicted):
    score = dsb_score(truth, predicted)
    assert [getattr(score, name) for name in UNIT_MEASURES] == [0.0] * len(UNIT_MEASURES)
    assert set(score.dsb_ap.values()) == {0.0}


def test_a_map_without_background_is_scored_like_any_other():
    full = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    assert dsb_score(full, full).counts[0] == Counts(2, 0, 0)
    assert dsb_score(full, np.where(full == 1, 0, full)).counts[0] == Counts(1, 0, 1)


def test_a_nucleus_of_one_pixel_counts():
    labels = np.zeros((5, 5), dtype=np.uint16)
    labels[0, 0] = 65_535
    assert dsb_score(labels, labels).counts[-1] == Counts(1, 0, 0)


def test_maps_of_different_shape_are_refused():
    with pytest.raises(ImageError, match=r"\(20, 40\).*\(40, 20\)"):
        dsb_score(np.zeros((20, 40), dtype=int), np.zeros((40, 20), dtype=int))


def test_an_image_score_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        dsb_score(SOME, SOME).dsb_score = 1.0
