import numpy as np
import pytest

from nucstyle.metrics.matching import overlap
from nucstyle.metrics.panoptic import Panoptic, panoptic


def test_quality_equals_the_naive_one_on_a_thousand_pairs(naive, random_pairs):
    for truth, predicted in random_pairs:
        expected = naive.panoptic_quality(truth, predicted)
        assert panoptic(overlap(truth, predicted)).pq == pytest.approx(expected, abs=1e-15)


def test_recognition_quality_is_the_harmonic_mean_of_precision_and_recall(random_pairs):
    for truth, predicted in random_pairs:
        quality = panoptic(overlap(truth, predicted))
        if quality.precision and quality.recall:
            harmonic = 2 / (1 / quality.precision + 1 / quality.recall)
            assert quality.rq == quality.f1 == pytest.approx(harmonic)


def test_quality_is_the_product_of_segmentation_and_recognition():
    assert Panoptic(precision=1.0, recall=0.25, f1=0.4, sq=0.5).pq == 0.5 * 0.4


def test_an_iou_of_one_half_is_no_match():
    quality = panoptic(overlap(np.array([[1, 1]]), np.array([[1, 0]])))
    assert quality == Panoptic(precision=0.0, recall=0.0, f1=0.0, sq=0.0)
