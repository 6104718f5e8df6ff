import numpy as np
import pytest

from nucstyle.metrics.aji import aggregated_jaccard
from nucstyle.metrics.matching import overlap


def aji(truth, predicted):
    return aggregated_jaccard(overlap(np.array(truth), np.array(predicted)))


def test_index_equals_the_naive_one_on_a_thousand_pairs(naive, random_pairs):
    for truth, predicted in random_pairs:
        assert aji(truth, predicted) == pytest.approx(naive.aggregated_jaccard(truth, predicted), abs=1e-15)


def test_one_prediction_may_serve_two_nuclei():
    # Each joins the whole blob: common 2 + 2, union 4 + 4.
    assert aji([[1, 1, 2, 2]], [[1, 1, 1, 1]]) == 4 / 8


def test_an_unused_prediction_adds_to_the_union():
    # The left piece (2 of 3 pixels) is joined, the right one is left over: common 2, union 3 + 1.
    assert aji([[1, 1, 1]], [[1, 1, 2]]) == 2 / 4


def test_a_missed_nucleus_adds_to_the_union():
    assert aji([[1, 1, 0, 2]], [[1, 1, 0, 0]]) == 2 / 3


def test_of_equal_pieces_the_first_in_reading_order_is_joined_whatever_its_number():
    # Both halves of the first nucleus have an IoU of 1/2; the right one also serves the second nucleus.
    truth, predicted = [[1, 1, 1, 1, 2, 2]], [[5, 5, 6, 6, 0, 0], [0, 0, 0, 0, 0, 0]]
    truth = [*truth, [0] * 6]
    assert aji(truth, predicted) == aji(truth, [[6, 6, 5, 5, 0, 0], [0] * 6]) == 2 / (4 + 2 + 2)
