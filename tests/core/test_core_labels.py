import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nucstyle.core.labels import boxes, components, count, relabel

LABEL_MAPS = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.sampled_from([0, 1, 2, 5, 9, 70_000, 2**31 - 1]),
)


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.int32)


@settings(deadline=None)
@given(LABEL_MAPS)
def test_relabelling_numbers_from_one_in_order_and_keeps_who_belongs_together(array):
    old = torch.from_numpy(array)
    new = relabel(old)
    present = sorted(set(array[array > 0].tolist()))
    assert new.dtype == torch.int32
    assert new.tolist() == [[0 if value == 0 else 1 + present.index(value) for value in row] for row in array.tolist()]
    assert count(old) == count(new) == len(present)
    assert torch.equal(relabel(new), new)


def test_relabelling_without_a_background_pixel_gives_nobody_away_to_the_background():
    assert relabel(tensor([5, 5], [9, 7])).tolist() == [[1, 1], [3, 2]]


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64])
def test_relabelling_takes_any_integer_type(kind):
    new = relabel(tensor([0, 100]).to(kind))
    assert new.dtype == torch.int32
    assert new.tolist() == [[0, 1]]


def test_counting_needs_no_background_and_minds_no_gaps():
    assert count(tensor([4, 4], [9, 9])) == 2
    assert count(tensor([0, 4], [9, 0])) == 2


@pytest.mark.parametrize("size", [(3, 4), (0, 4), (0, 0)])
def test_an_empty_map_has_no_nuclei_and_no_boxes(size):
    empty = torch.zeros(size, dtype=torch.int32)
    assert count(empty) == 0
    assert torch.equal(relabel(empty), empty)
    assert boxes(empty).shape == (0, 4)
    assert boxes(empty).dtype == torch.float32


def test_more_nuclei_than_sixteen_bits_hold_stay_apart():
    old = 3 * torch.arange(70_001, dtype=torch.int32)[None]
    assert count(old) == 70_000
    assert torch.equal(relabel(old)[0], torch.arange(70_001, dtype=torch.int32))


def test_a_nucleus_of_one_pixel_has_a_box_of_area_one():
    labels = torch.zeros(5, 7, dtype=torch.int32)
    labels[3, 6] = 1
    assert boxes(labels).tolist() == [[6, 3, 7, 4]]


def test_a_nucleus_in_two_pieces_has_one_box_around_both():
    assert boxes(tensor([1, 0, 0, 0], [0, 2, 0, 1])).tolist() == [[0, 0, 4, 2], [1, 1, 2, 2]]


@settings(deadline=None)
@given(LABEL_MAPS)
def test_boxes_are_tight(array):
    labels = relabel(torch.from_numpy(array))
    found = boxes(labels)
    assert found.dtype == torch.float32
    assert len(found) == count(labels)
    for number, (x0, y0, x1, y1) in enumerate(found.int().tolist(), start=1):
        inside = labels[y0:y1, x0:x1] == number
        assert inside.sum() == (labels == number).sum()
        assert all(bool(edge.any()) for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_connected_pieces_of_one_number_become_nuclei_of_their_own():
    labels = torch.tensor([[255, 0, 255, 255], [255, 0, 0, 255], [0, 9, 0, 9]], dtype=torch.int32)
    pieces = components(labels)
    assert pieces.dtype == torch.int32
    assert pieces.tolist() == [[1, 0, 2, 2], [1, 0, 0, 2], [0, 3, 0, 4]]
