"""Parity with the tools of the field: cellseg-metrics, which the lock holds; stardist and cellpose where they are installed."""

import numpy as np
import pytest
from skimage.segmentation import relabel_sequential

from nucstyle.metrics.aji import aggregated_jaccard
from nucstyle.metrics.dsb import dsb_score
from nucstyle.metrics.matching import overlap
from nucstyle.metrics.panoptic import panoptic

THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]
ABOVE = 1e-6
"""Peers that take an IoU at the threshold for a match are asked just above it."""


def field(rng, side=96, count=14):
    """Discs, and what a segmenter might find of them: moved, larger, smaller, halved, joined, missed and invented ones."""
    ys, xs = np.mgrid[:side, :side]
    truth, found = np.zeros((side, side), dtype=np.int32), np.zeros((side, side), dtype=np.int32)
    for number in range(1, count + 1):
        y, x, radius = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(3, 10)
        truth[(ys - y) ** 2 + (xs - x) ** 2 < radius**2] = number
        if rng.random() < 0.15:
            continue
        y, x, radius = y + rng.normal(0, 1), x + rng.normal(0, 1), radius * rng.uniform(0.7, 1.2)
        own = (ys - y) ** 2 + (xs - x) ** 2 < radius**2
        found[own] = number - int(rng.random() < 0.15)  # joined with the one before
        if rng.random() < 0.15:
            found[own & (xs > x)] = count + number
    return truth, found


@pytest.fixture(scope="module")
def pairs(random_pairs):
    """Fields of discs, and tiny pairs of all kinds, in which both maps have nuclei and background."""
    rng = np.random.default_rng(7)
    every = [field(rng) for _ in range(40)] + random_pairs[:300]
    every = [tuple(relabel_sequential(np.asarray(one))[0].astype(np.int32) for one in pair) for pair in every]
    return [pair for pair in every if all(one.any() and not one.all() for one in pair)]


def test_panoptic_quality_is_that_of_cellseg_metrics(pairs):
    peer = pytest.importorskip("cellseg_metrics")
    for truth, found in pairs:
        ours, theirs = panoptic(overlap(truth, found)), peer.panoptic_quality(truth, found, thresh=0.5)
        assert ours.pq == pytest.approx(theirs["pq"], abs=1e-6)
        assert ours.sq == pytest.approx(theirs["sq"], abs=1e-6)
        assert ours.rq == pytest.approx(theirs["dq"], abs=1e-6)


def test_precision_is_what_cellseg_metrics_calls_average_precision(pairs):
    peer = pytest.importorskip("cellseg_metrics")
    for truth, found in pairs:
        assert panoptic(overlap(truth, found)).precision == pytest.approx(
            peer.average_precision(truth, found, thresh=0.5), abs=1e-6
        )


def test_the_aggregated_jaccard_index_is_that_of_cellseg_metrics_where_both_join_alike():
    """It joins by the largest intersection, with all that are as large; the paper and ours by the largest IoU, with one."""
    peer = pytest.importorskip("cellseg_metrics")
    rng, compared = np.random.default_rng(8), 0
    for truth, found in (field(rng, count=10) for _ in range(60)):
        table = overlap(truth, found)
        common = table.intersection
        is_tied = (common == common.max(axis=1, keepdims=True)).sum(axis=1)[common.any(axis=1)] > 1
        if is_tied.any() or not np.array_equal(common.argmax(axis=1), table.iou.argmax(axis=1)):
            continue
        compared += 1
        assert aggregated_jaccard(table) == pytest.approx(peer.aggregated_jaccard_index(truth, found), abs=1e-6)
    assert compared > 20


def test_every_threshold_of_the_dsb_score_is_what_stardist_calls_accuracy(pairs):
    peer = pytest.importorskip("stardist.matching")
    for truth, found in pairs:
        ours = dsb_score(truth, found).dsb_ap
        theirs = peer.matching(truth, found, thresh=[one + ABOVE for one in THRESHOLDS])
        assert list(ours.values()) == pytest.approx([one.accuracy for one in theirs])
        half = panoptic(overlap(truth, found))
        assert (half.precision, half.recall, half.f1) == pytest.approx(
            (theirs[0].precision, theirs[0].recall, theirs[0].f1)
        )
        assert half.pq == pytest.approx(theirs[0].panoptic_quality)


def test_every_threshold_of_the_dsb_score_is_what_cellpose_calls_average_precision(pairs):
    peer = pytest.importorskip("cellpose.metrics")
    truths, founds = zip(*pairs, strict=True)
    theirs, *_ = peer.average_precision(list(truths), list(founds), threshold=[one + ABOVE for one in THRESHOLDS])
    for truth, found, accuracy in zip(truths, founds, theirs, strict=True):
        ours = list(dsb_score(truth, found).dsb_ap.values())
        assert ours == pytest.approx(accuracy.tolist(), abs=1e-6)
