import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nucstyle.core.labels import boxes, relabel
from nucstyle.core.symmetry import ALL, HALF_TURN, IDENTITY, LEFT_RIGHT, UP_DOWN, Symmetry

SIZES = [
    *((1, 1), (1, 2), (2, 1), (1, 7), (7, 1), (1, 33), (33, 1), (2, 3), (3, 2), (3, 3)),
    *((5, 5), (5, 9), (9, 5), (8, 8), (13, 11), (16, 31), (31, 16), (33, 17), (17, 34), (65, 63)),
]
SQUARE = torch.tensor([[1, 2], [3, 4]])
every_symmetry = pytest.mark.parametrize("symmetry", ALL, ids=str)


@every_symmetry
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_inverting_a_symmetry_gives_the_pixels_back_bit_for_bit(symmetry, size):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    moved = symmetry.apply(image)
    assert moved.shape[-2:] == (size if symmetry.quarter_turns % 2 == 0 else size[::-1])
    assert torch.equal(symmetry.invert(moved), image)
    assert torch.equal(symmetry.apply(symmetry.invert(image)), image)


@every_symmetry
@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), number=st.integers(0, 2**32))
def test_boxes_of_moved_nuclei_are_the_moved_boxes(symmetry, height, width, number):
    labels = torch.randint(0, 4, (height, width), generator=torch.Generator().manual_seed(number))
    labels = relabel(labels)
    before, moved = boxes(labels), boxes(symmetry.apply(labels))
    assert torch.equal(symmetry.apply_boxes(before, (height, width)), moved)
    assert torch.equal(symmetry.invert_boxes(moved, (height, width)), before)


@every_symmetry
def test_no_boxes_stay_no_boxes(symmetry):
    assert symmetry.apply_boxes(torch.zeros(0, 4), (3, 5)).shape == (0, 4)
    assert symmetry.invert_boxes(torch.zeros(0, 4), (3, 5)).shape == (0, 4)


def test_the_eight_symmetries_are_eight():
    assert len({str(symmetry.apply(SQUARE).tolist()) for symmetry in ALL}) == len(ALL) == 8


def test_two_symmetries_in_a_row_are_again_one_of_the_eight():
    known = [symmetry.apply(SQUARE).tolist() for symmetry in ALL]
    assert all(second.apply(first.apply(SQUARE)).tolist() in known for first, second in itertools.product(ALL, ALL))


def test_turns_go_against_the_clock_and_the_mirror_comes_first():
    assert Symmetry(1).apply(SQUARE).tolist() == [[2, 4], [1, 3]]
    assert Symmetry(1, mirrored=True).apply(SQUARE).tolist() == [[1, 3], [2, 4]]


def test_the_named_symmetries_are_what_they_are_called():
    assert torch.equal(IDENTITY.apply(SQUARE), SQUARE)
    assert LEFT_RIGHT.apply(SQUARE).tolist() == [[2, 1], [4, 3]]
    assert UP_DOWN.apply(SQUARE).tolist() == [[3, 4], [1, 2]]
    assert HALF_TURN.apply(SQUARE).tolist() == [[4, 3], [2, 1]]
