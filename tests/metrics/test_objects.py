import numpy as np
import pytest

from nucstyle.metrics.matching import overlap
from nucstyle.metrics.objects import SIZE_GROUPS_PX, Found, count_merges, count_splits, recall70_by_size


def test_all_three_equal_the_naive_ones_on_a_thousand_pairs(naive, random_pairs):
    for truth, predicted in random_pairs:
        table = overlap(truth, predicted)
        assert (count_splits(table), count_merges(table)) == (
            naive.splits(truth, predicted),
            naive.merges(truth, predicted),
        )
        found = recall70_by_size(table)["tiny"]
        assert (found.found, found.n) == naive.recall70(truth, predicted, 1, 100)


@pytest.mark.parametrize(
    ("area", "group"),
    [(1, "tiny"), (99, "tiny"), (100, "small"), (299, "small"), (300, "medium"), (999, "medium"), (1000, "large")],
)
def test_a_nucleus_belongs_to_the_group_of_its_own_area(area, group):
    labels = np.zeros((40, 50), dtype=np.int32)
    labels.ravel()[:area] = 3
    blob = np.ones_like(labels)
    assert recall70_by_size(overlap(labels, labels)) == {
        name: Found(name == group, name == group) for name in SIZE_GROUPS_PX
    }
    assert recall70_by_size(overlap(labels, blob))[group] == Found(0, 1)


def test_an_iou_of_exactly_seven_tenths_is_not_found():
    truth = np.ones((1, 10), dtype=int)
    for pixels, found in ((7, 0), (8, 1)):
        predicted = (np.arange(10) < pixels).astype(int)[None]
        assert recall70_by_size(overlap(truth, predicted))["tiny"] == Found(found, 1)


def test_every_group_is_named_even_without_nuclei():
    empty = np.zeros((3, 3), dtype=int)
    assert recall70_by_size(overlap(empty, empty)) == dict.fromkeys(("tiny", "small", "medium", "large"), Found(0, 0))


def test_a_cut_nucleus_is_one_split_and_its_mirror_image_one_merge():
    whole, cut = np.array([[1, 1, 1, 1, 1, 1]]), np.array([[1, 1, 2, 2, 3, 3]])
    assert (count_splits(overlap(whole, cut)), count_merges(overlap(whole, cut))) == (1, 0)
    assert (count_splits(overlap(cut, whole)), count_merges(overlap(cut, whole))) == (0, 1)


def test_a_crumb_of_exactly_a_tenth_is_no_split():
    whole = np.ones((1, 10), dtype=int)
    crumb = np.array([[1] * 9 + [2]])
    assert count_splits(overlap(whole, crumb)) == 0
    assert count_splits(overlap(whole[:, :9], crumb[:, 1:])) == 1  # 1 of 9 pixels is more than a tenth
