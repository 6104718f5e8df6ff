from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from nucstyle.core.contours import Outline, rasterise

# pycocotools 2.0.11 wraps its arrays in a way that NumPy 2 announces to drop.
against_peer = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (12, 16)
CORNERS = st.lists(st.tuples(st.integers(-4, 40), st.integers(-4, 32)), min_size=3, max_size=8)


def filled(*corners, size=SIZE):
    """The pixels of a polygon; of one wholly outside, which `rasterise` refuses, none."""
    points = np.array(corners, float)
    if (points.max(axis=0) <= 0).any() or (points.min(axis=0) >= size[::-1]).any():
        return np.zeros(size, bool)
    return rasterise([Outline(1, (points,))], size).labels.numpy() > 0


def rectangle(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def test_a_rectangle_covers_the_pixels_whose_centres_lie_in_it():
    assert np.argwhere(filled(*rectangle(2, 1, 5, 3))).tolist() == [[y, x] for y in (1, 2) for x in (2, 3, 4)]
    assert np.array_equal(filled(*rectangle(2.4, 1.4, 5.4, 3.4)), filled(*rectangle(2, 1, 5, 3)))
    assert not filled(*rectangle(2.6, 1.6, 3.4, 2.4)).any()


@against_peer
@settings(deadline=None)
@given(st.integers(0, 16), st.integers(0, 12), st.integers(0, 16), st.integers(0, 12))
def test_rectangles_on_pixel_edges_are_those_of_pycocotools(x0, y0, x1, y1):
    corners = rectangle(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    encoded = coco.frPyObjects([np.array(corners, float).ravel().tolist()], *SIZE)
    assert np.array_equal(filled(*corners), coco.decode(coco.merge(encoded)).astype(bool))


@against_peer
def test_a_disc_is_that_of_pycocotools_but_for_its_edge():
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    corners = np.column_stack([40 + 22.3 * np.cos(angles), 35 + 18.7 * np.sin(angles)])
    ours = filled(*corners, size=(70, 80))
    theirs = coco.decode(coco.merge(coco.frPyObjects([corners.ravel().tolist()], 70, 80))).astype(bool)
    assert abs(int(ours.sum()) - np.pi * 22.3 * 18.7) < 10
    ys, xs = np.nonzero(ours != theirs)
    from_edge = np.abs(np.hypot((xs + 0.5 - 40) / 22.3, (ys + 0.5 - 35) / 18.7) - 1) * 18.7
    assert len(ys) < 0.06 * ours.sum()
    assert from_edge.max(initial=0) < 1


def inside(x, y, corners):
    """The even-odd rule at one point, by the definition: crossings of a ray to the left."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y0 <= y) != (y1 <= y):
            crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return crossings % 2 == 1


@settings(deadline=None)
@given(CORNERS)
def test_any_polygon_is_filled_as_by_the_definition_pixel_by_pixel(corners):
    halves = [(x / 2 + 0.25, y / 2 + 0.25) for x, y in corners]
    naive = [[inside(x + 0.5, y + 0.5, halves) for x in range(SIZE[1])] for y in range(SIZE[0])]
    assert filled(*halves).tolist() == naive


@settings(deadline=None)
@given(CORNERS, st.integers(0, 7))
def test_polygons_that_share_edges_leave_no_pixel_out_and_share_none(corners, start):
    """A fan of triangles around one corner: by the even-odd rule their sum is the polygon."""
    turned = corners[start % len(corners) :] + corners[: start % len(corners)]
    parts = [filled(turned[0], one, two) for one, two in pairwise(turned[1:])]
    assert np.array_equal(np.logical_xor.reduce(parts), filled(*corners))


def test_two_halves_of_a_square_have_its_diagonal_once():
    upper, lower = filled((1, 1), (9, 1), (9, 9)), filled((1, 1), (9, 9), (1, 9))
    assert not (upper & lower).any()
    assert np.array_equal(upper | lower, filled(*rectangle(1, 1, 9, 9)))


def test_what_lies_outside_the_image_is_cut_off():
    assert filled(*rectangle(-50, -50, 500, 500)).all()
    assert np.argwhere(filled(*rectangle(14, 10, 99, 99))).tolist() == [[10, 14], [10, 15], [11, 14], [11, 15]]


def test_what_has_no_area_has_no_pixels():
    assert not filled((1, 5), (9, 5), (4, 5)).any()
