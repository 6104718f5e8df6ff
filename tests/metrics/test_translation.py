import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucstyle.core.errors import OptionError
from nucstyle.metrics.translation import (
    colour_spread,
    dice,
    edge_agreement,
    false_objects,
    kernel_distance,
    lost_nuclei,
    separation,
    signed_separation,
)


@pytest.fixture
def labels():
    """Two square nuclei, (40, 60)."""
    drawn = np.zeros((40, 60), np.int32)
    drawn[8:18, 8:18], drawn[20:32, 35:50] = 1, 7
    return drawn


# Separation


def test_bright_nuclei_are_separated_and_the_sign_counts(labels):
    bright = np.where(labels > 0, 0.8, 0.1)
    assert separation(bright, labels) == 1
    assert separation(1 - bright, labels) == 0
    assert separation(np.full(labels.shape, 0.3), labels) == 0.5
    assert signed_separation(bright, labels, polarity=1) == 1
    assert signed_separation(bright, labels, polarity=-1) == 0
    assert signed_separation(1 - bright, labels, polarity=-1) == 1


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
@settings(deadline=None, max_examples=25)
def test_separation_is_the_share_of_pairs_in_order(seed, levels):
    rng = np.random.default_rng(seed)
    labels = np.zeros((20, 20), np.int32)
    labels[7:12, 8:13] = 3
    grey = rng.integers(0, levels, labels.shape) / levels
    ys, xs = np.nonzero(labels)
    ring = [
        grey[y, x] for y in range(20) for x in range(20) if not labels[y, x] and 1 < np.hypot(ys - y, xs - x).min() <= 6
    ]
    pairs = [(inside > outside) + 0.5 * (inside == outside) for inside in grey[labels > 0] for outside in ring]
    assert separation(grey, labels) == pytest.approx(np.mean(pairs))


def test_what_is_far_away_or_on_another_nucleus_does_not_count(labels):
    grey = np.where(labels > 0, 0.5, 0.1)
    grey[labels == 7] = 0.9  # brighter than the other nucleus, and no part of its ring
    grey[0, :] = grey[:, 0] = 1.0
    assert separation(grey, labels) == 1


def test_a_nucleus_that_no_longer_stands_out_is_lost_and_the_sign_counts(labels):
    grey = np.where(labels > 0, 0.8, 0.1)
    one_gone = np.where(labels == 7, 0.8, 0.1)
    assert lost_nuclei(grey, grey, labels, signs=(1, 1)) == 0
    assert lost_nuclei(grey, 1 - grey, labels, signs=(1, -1)) == 0
    assert lost_nuclei(grey, 1 - grey, labels, signs=(1, 1)) == 1
    assert lost_nuclei(grey, one_gone, labels, signs=(1, 1)) == 0.5
    # one that did not stand out before cannot be lost
    assert lost_nuclei(one_gone, one_gone, labels, signs=(1, 1)) == 0
    assert lost_nuclei(np.full(labels.shape, 0.5), grey, labels, signs=(1, 1)) is None
    assert lost_nuclei(grey, grey, np.zeros_like(labels), signs=(1, 1)) is None
    assert lost_nuclei(grey, grey, np.ones_like(labels), signs=(1, 1)) is None


def test_each_nucleus_is_compared_with_its_own_ring(labels):
    ramp = np.linspace(0.0, 0.6, 60)[None].repeat(
        40, axis=0
    )  # the background is brighter on the right than nuclei on the left
    before = ramp + 0.2 * (labels > 0)
    assert lost_nuclei(before, before, labels, signs=(1, 1)) == 0
    assert lost_nuclei(before, ramp + 0.2 * (labels == 1), labels, signs=(1, 1)) == 0.5


def test_edges_agree_where_they_are_and_whatever_their_sign(labels):
    grey = np.where(labels > 0, 0.8, 0.1)
    assert edge_agreement(grey, grey) == pytest.approx(1)
    assert edge_agreement(grey, 1 - 0.5 * grey) == pytest.approx(1)
    assert edge_agreement(grey, grey[:, ::-1]) < 0.3
    flat = np.full(labels.shape, 0.3)
    assert edge_agreement(flat, grey) == 1
    assert edge_agreement(grey, flat) == 0


def test_no_nucleus_or_no_ring_has_no_separation(labels):
    assert separation(np.zeros((9, 9)), np.zeros((9, 9), np.int32)) is None
    assert separation(np.zeros((9, 9)), np.ones((9, 9), np.int32)) is None
    one = np.ones((9, 9), np.int32)
    one[0] = 0
    assert separation(np.zeros((9, 9)), one) is None  # the only background touches the nucleus
    assert signed_separation(np.zeros((9, 9)), one, polarity=-1) is None


# What a judge sees


def test_dice_of_equal_half_and_no_overlap(labels):
    truth = labels > 0
    assert dice(truth, truth) == 1
    assert dice(~truth, truth) == 0
    assert dice(truth & (labels == 7), truth) == pytest.approx(2 * 180 / (180 + 280))
    assert dice(np.zeros_like(truth), np.zeros_like(truth)) == 1


def test_false_objects_are_counted_and_specks_and_true_nuclei_are_not(labels):
    seen = labels > 0
    assert false_objects(seen, labels).false == 0
    seen[2:7, 30:36] = True
    seen[38, 2:5] = True  # a speck
    seen[34:39, 50:58] = True
    found = false_objects(seen, labels)
    assert (found.false, found.nuclei, found.per_nucleus) == (2, 2, 1.0)


def test_a_nucleus_that_is_seen_too_large_is_not_false(labels):
    seen = np.zeros_like(labels, bool)
    seen[5:21, 5:21] = True  # 256 px, of which 100 are the nucleus
    assert false_objects(seen, labels).false == 0


def test_an_empty_field_counts_as_one_nucleus():
    seen = np.zeros((20, 20), bool)
    seen[2:8, 2:8] = seen[12:18, 12:18] = True
    found = false_objects(seen, np.zeros((20, 20), np.int32))
    assert (found.nuclei, found.per_nucleus) == (0, 2.0)


# Style


def test_the_kernel_distance_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(5, 3)), rng.normal(1, 2, size=(7, 3))

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = [
        np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (one, other)
    ]
    between = np.mean([kernel(a, b) for a in one for b in other])
    assert kernel_distance(one, other) == pytest.approx(sum(within) - 2 * between)
    assert kernel_distance(one, other) == pytest.approx(kernel_distance(other, one))


def test_the_kernel_distance_of_one_distribution_is_about_nothing_and_grows_with_the_shift():
    rng = np.random.default_rng(1)
    draw = lambda shift: rng.normal(shift, 1, size=(60, 8))  # noqa: E731
    same = np.array([kernel_distance(draw(0), draw(0)) for _ in range(100)])
    assert abs(same.mean()) < 3 * same.std() / 10  # a biased estimate is above 0 for every pair
    assert (same < 0).any()
    assert kernel_distance(draw(0), draw(1)) > 1
    assert kernel_distance(draw(0), draw(2)) > kernel_distance(draw(0), draw(1))


@pytest.mark.parametrize("shapes", [((1, 3), (4, 3)), ((4, 3), (1, 3)), ((4, 3), (4, 2))])
def test_samples_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(OptionError, match="kernel distance"):
        kernel_distance(*(np.zeros(shape) for shape in shapes))


def test_the_spread_of_colours_is_nothing_for_equal_ones():
    assert colour_spread(np.tile([0.2, 0.5, 0.7], (9, 1))) == pytest.approx(0)
    assert colour_spread(np.array([[0.0, 0, 0], [1, 0, 0]])) == 0.5


def test_sizes_must_agree(labels):
    with pytest.raises(OptionError):
        lost_nuclei(np.zeros((40, 60)), np.zeros((40, 59)), labels, signs=(1, 1))
    with pytest.raises(OptionError):
        edge_agreement(np.zeros((40, 60)), np.zeros((40, 59)))
    for measure in (separation, false_objects, dice):
        with pytest.raises(OptionError, match="sizes differ"):
            measure(np.zeros((3, 4), bool), labels)
