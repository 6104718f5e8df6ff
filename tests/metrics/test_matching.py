import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nucstyle.core.errors import ImageError, OptionError
from nucstyle.metrics.matching import Counts, overlap


def label_maps(shape):
    return hnp.arrays(np.int32, shape, elements=st.integers(0, 4))


def test_overlap_counts_shared_pixels_of_every_pair():
    truth = np.array([[1, 1, 1, 0, 2, 2]])
    predicted = np.array([[5, 5, 0, 0, 5, 9]])
    table = overlap(truth, predicted)
    assert table.truth_areas.tolist() == [3, 2]
    assert table.predicted_areas.tolist() == [3, 1]
    assert table.intersection.tolist() == [[2, 0], [1, 1]]
    assert table.iou.tolist() == [[2 / 4, 0.0], [1 / 4, 1 / 2]]


def test_nuclei_are_counted_in_reading_order_whatever_their_numbers():
    table = overlap(np.array([[9, 9, 3], [1, 0, 3]]), np.array([[4, 4, 4], [4, 0, 2]]))
    assert table.truth_areas.tolist() == [2, 2, 1]
    assert table.intersection.tolist() == [[2, 0], [1, 1], [1, 0]]


@settings(deadline=None)
@given(st.data())
def test_overlap_equals_counting_pixel_by_pixel(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    truth, predicted = data.draw(label_maps(shape)), data.draw(label_maps(shape))
    table = overlap(truth, predicted)
    true_ids = [i for i in dict.fromkeys(truth.ravel().tolist()) if i]
    predicted_ids = [j for j in dict.fromkeys(predicted.ravel().tolist()) if j]
    expected = [[int(((truth == i) & (predicted == j)).sum()) for j in predicted_ids] for i in true_ids]
    assert table.intersection.shape == (len(true_ids), len(predicted_ids))
    assert table.intersection.tolist() == expected
    assert table.truth_areas.tolist() == [int((truth == i).sum()) for i in true_ids]
    assert table.predicted_areas.tolist() == [int((predicted == j).sum()) for j in predicted_ids]
    assert table.intersection.dtype == np.int64
    assert table.iou.dtype == np.float64


@pytest.mark.parametrize("shapes", [((20, 40), (40, 20)), ((20, 40), (20, 41)), ((1, 800), (800, 1))])
def test_maps_of_different_shape_are_refused_even_with_as_many_pixels(shapes):
    truth, predicted = (np.ones(shape, dtype=np.int32) for shape in shapes)
    with pytest.raises(ImageError) as error:
        overlap(truth, predicted)
    assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.zeros((4, 4), dtype=bool), np.zeros((1, 4, 4), dtype=int)])
def test_what_is_no_label_map_is_refused_by_name(wrong):
    right = np.zeros((4, 4), dtype=int)
    with pytest.raises(ImageError, match=r"^truth: .*integers"):
        overlap(wrong, right)
    with pytest.raises(ImageError, match=r"^predicted: .*integers"):
        overlap(right, wrong)


def test_negative_numbers_are_refused():
    labels = np.array([[0, -1]])
    with pytest.raises(ImageError, match=r"^predicted: .*negative, got -1"):
        overlap(np.abs(labels), labels)


def test_a_map_without_background_keeps_its_first_nucleus():
    labels = np.array([[1, 1, 2, 2]])
    assert overlap(labels, labels).intersection.tolist() == [[2, 0], [0, 2]]


def test_seventy_thousand_nuclei_are_no_trouble():
    labels = np.arange(1, 70_001).reshape(280, 250)
    table = overlap(labels, labels[::-1].astype(np.uint32))
    assert table.truth_areas.size == table.predicted_areas.size == table.shared.size == 70_000
    assert table.count(19, 20) == Counts(70_000, 0, 0)


def test_numbers_of_any_integer_type_and_size_are_taken():
    truth = np.array([[0, 1], [2**64 - 1, 2**64 - 1]], dtype=np.uint64)
    predicted = np.array([[0, 200], [7, 7]], dtype=np.uint8)
    assert overlap(truth, predicted).intersection.tolist() == [[1, 0], [0, 2]]


def test_tensors_transposed_arrays_and_lists_are_taken():
    array = np.array([[0, 1, 1], [2, 2, 0]], dtype=np.int32)
    expected = overlap(array, array).intersection.tolist()
    turned = np.asfortranarray(array)
    for labels in (torch.from_numpy(array), turned, array.tolist()):
        assert overlap(labels, array).intersection.tolist() == expected
        assert overlap(array, labels).intersection.tolist() == expected


def test_the_maps_are_left_as_they_were():
    labels = np.array([[3, 0], [0, 8]])
    labels.flags.writeable = False
    overlap(labels, labels)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 3)])
def test_maps_without_nuclei_give_an_empty_table(shape):
    empty = np.zeros(shape, dtype=np.int32)
    table = overlap(empty, empty)
    assert table.intersection.shape == table.iou.shape == (0, 0)
    assert table.count(1, 2) == Counts(0, 0, 0)


def test_counts_below_one_half_are_refused_since_matches_would_not_be_unique():
    table = overlap(np.array([[1, 1, 1]]), np.array([[1, 2, 3]]))
    assert table.above(3, 10).tolist() == [True, True, True]
    with pytest.raises(OptionError, match="3/10"):
        table.count(3, 10)
