"""Laws of outlines: they enclose exactly their pixels, and the way back gives these again."""

from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path
from skimage.measure import label

from nucstyle.core.contours import Outline, rasterise, trace
from nucstyle.core.errors import ImageError
from nucstyle.core.labels import components

label_maps = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.sampled_from([0, 0, 1, 2, 7])
)
"""Small and dense, so that pixels touch at corners, holes touch rims, and nuclei lie in holes of others."""


def outlined(*rows):
    """The outlines of a drawing in which digits are nuclei."""
    return trace(torch.tensor([[int(letter) if letter.isdigit() else 0 for letter in row] for row in rows]))


def signed_area(ring):
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


# Laws


@pytest.mark.parametrize("corners", ["apart", "joined"])
@settings(deadline=None)
@given(labels=label_maps)
def test_filling_outlines_gives_the_label_map_again(labels, corners):
    outlines = trace(torch.from_numpy(labels), corners=corners)
    assert np.array_equal(rasterise(outlines, labels.shape).labels.numpy(), labels)


@pytest.mark.parametrize("corners", ["apart", "joined"])
@settings(deadline=None)
@given(labels=label_maps)
def test_the_area_of_a_nucleus_is_its_number_of_pixels(labels, corners):
    outlines = trace(torch.from_numpy(labels), corners=corners)
    areas = {
        number: sum(outline.area_px for outline in those) for number, those in groupby(outlines, lambda one: one.number)
    }
    numbers, counts = np.unique(labels[labels > 0], return_counts=True)
    assert areas == dict(zip(numbers.tolist(), counts.tolist(), strict=True))


@settings(deadline=None)
@given(labels=label_maps)
def test_rings_pass_no_corner_twice_run_along_edges_and_turn_at_every_corner(labels):
    for outline in trace(torch.from_numpy(labels)):
        for place, ring in enumerate(outline.rings):
            assert len(np.unique(ring, axis=0)) == len(ring)
            steps = np.roll(ring, -1, axis=0) - ring
            across = steps[:, 0] != 0
            assert (across != (steps[:, 1] != 0)).all()
            assert (across != np.roll(across, 1)).all()
            assert (signed_area(ring) > 0) == (place == 0)


@settings(deadline=None)
@given(labels=label_maps)
def test_holes_lie_within_their_exterior(labels):
    for outline in trace(torch.from_numpy(labels)):
        for hole in outline.holes:
            exterior, inner = (
                rasterise([Outline(1, (ring,))], labels.shape).labels for ring in (outline.rings[0], hole)
            )
            assert (exterior[inner > 0] == 1).all()


@pytest.mark.parametrize(("corners", "connectivity"), [("apart", 1), ("joined", 2)])
@settings(deadline=None)
@given(labels=label_maps)
def test_a_piece_has_one_outline_and_pieces_come_in_the_order_of_their_numbers(labels, corners, connectivity):
    outlines = trace(torch.from_numpy(labels), corners=corners)
    assert len(outlines) == int(label(labels, background=0, connectivity=connectivity).max())
    numbers = [outline.number for outline in outlines]
    assert numbers == sorted(numbers)


@settings(deadline=None)
@given(labels=label_maps)
def test_joined_outlines_are_the_pieces_that_components_finds(labels):
    pieces = components(torch.from_numpy(labels))
    outlines = trace(torch.from_numpy(labels), corners="joined")
    filled = rasterise([Outline(place, one.rings) for place, one in enumerate(outlines, 1)], labels.shape).labels
    assert len(set(zip(filled.view(-1).tolist(), pieces.view(-1).tolist(), strict=True))) == len(filled.unique())


# What they look like


def test_one_pixel_has_four_corners():
    (only,) = outlined("...", "..4")
    assert (only.number, only.area_px) == (4, 1)
    assert only.rings[0].tolist() == [[2, 1], [3, 1], [3, 2], [2, 2]]


def test_a_bar_has_four_corners_however_long():
    (only,) = outlined("1" * 50)
    assert len(only.rings[0]) == 4


def test_pixels_that_touch_at_a_corner_are_two_polygons_or_one_that_passes_it_twice():
    apart = outlined("1.", ".1")
    assert [one.area_px for one in apart] == [1, 1]
    (joined,) = trace(torch.tensor([[1, 0], [0, 1]]), corners="joined")
    assert joined.area_px == 2
    assert joined.rings[0].tolist().count([1, 1]) == 2


def test_a_bay_that_is_closed_at_a_corner_is_a_hole_that_touches_the_rim():
    (only,) = outlined("111", "1.1", "11.")
    assert [len(ring) for ring in only.rings] == [6, 4]
    assert [2, 2] in only.rings[0].tolist()
    assert [2, 2] in only.holes[0].tolist()


def test_holes_that_touch_at_a_corner_are_two():
    (only,) = outlined("1111", "1.11", "11.1", "1111")
    assert len(only.holes) == 2
    assert only.area_px == 14


def test_a_nucleus_in_the_hole_of_another_and_one_around_both():
    outlines = outlined("22222", "2...2", "2.1.2", "2...2", "22222")
    assert [(one.number, len(one.holes), one.area_px) for one in outlines] == [(1, 0, 1), (2, 1, 16)]


def test_without_nuclei_there_are_no_outlines_and_without_outlines_no_nuclei():
    assert trace(torch.zeros(4, 6, dtype=torch.int32)) == []
    assert trace(torch.zeros(0, 0, dtype=torch.int32)) == []
    filled = rasterise([], (4, 6)).labels
    assert filled.dtype == torch.int32
    assert filled.tolist() == [[0] * 6] * 4


def test_a_checkerboard_of_one_nucleus_is_as_many_pieces_as_pixels():
    board = torch.from_numpy(np.indices((40, 40)).sum(axis=0) % 2)
    assert len(trace(board)) == 800
    assert len(trace(board, corners="joined")) == 1
    assert torch.equal(rasterise(trace(board), (40, 40)).labels.long(), board)


# Foreign outlines


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), n_corners=st.integers(3, 12))
def test_a_pixel_belongs_to_a_polygon_if_its_centre_is_inside(seed, n_corners):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, n_corners))
    radii = rng.uniform(2, 15, n_corners)
    ring = rng.uniform(0, 20, 2) + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    if (ring.max(axis=0) <= 0).any() or (ring.min(axis=0) >= (20, 24)).any():
        return
    ys, xs = np.mgrid[:24, :20] + 0.5
    expected = Path(ring, closed=False).contains_points(np.stack([xs.ravel(), ys.ravel()], axis=1)).reshape(24, 20)
    assert np.array_equal(rasterise([Outline(1, (ring,))], (24, 20)).labels.numpy() > 0, expected)


def square(x, y, side):
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])


def test_polygons_that_share_a_line_through_centres_share_no_pixel_and_miss_none():
    left, right = square(-0.5, 0, 3), square(2.5, 0, 3)
    filled = rasterise([Outline(1, (left,)), Outline(2, (right,))], (1, 5)).labels
    assert filled.tolist() == [[1, 1, 2, 2, 2]]


def test_where_two_claim_a_pixel_the_first_keeps_it():
    filled = rasterise([Outline(5, (square(0, 0, 2),)), Outline(3, (square(1, 0, 2),))], (2, 4)).labels
    assert filled.tolist() == [[5, 5, 3, 0], [5, 5, 3, 0]]


def test_what_is_outside_the_image_is_cut_off():
    filled = rasterise([Outline(1, (square(-5, -5, 7),)), Outline(2, (square(3, 1, 900),))], (3, 5)).labels
    assert filled.tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 2, 2], [0, 0, 0, 2, 2]]


def test_an_outline_between_centres_gives_no_pixel():
    assert rasterise([Outline(1, (square(0.6, 0.6, 0.8),))], (3, 3)).labels.sum() == 0


def test_what_several_claim_and_who_gets_no_pixel_is_told():
    outlines = [
        Outline(4, (square(0, 0, 3),)),
        Outline(2, (square(1, 1, 1),)),
        Outline(2, (square(5, 0, 1),)),
        Outline(1, (square(2, 2, 2),)),
        Outline(7, (square(0, 1, 2),)),
        Outline(6, (square(3.6, 0.6, 0.8),)),
        Outline(3, (square(4, 3, 1), square(4, 3, 1))),
    ]
    drawn = rasterise(outlines, (4, 6))
    assert drawn.labels.tolist() == [[4, 4, 4, 0, 0, 2], [4, 4, 4, 0, 0, 0], [4, 4, 4, 1, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert drawn.shared.nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1], [2, 2]]
    assert (drawn.covered, drawn.empty, drawn.lost) == ((7,), (3, 6), (3, 6, 7))


def test_pieces_of_one_nucleus_that_overlap_claim_no_pixel_twice():
    drawn = rasterise([Outline(1, (square(0, 0, 2),)), Outline(1, (square(1, 0, 2),))], (2, 4))
    assert (drawn.shared, drawn.lost) == (None, ())


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_told_of_claims_is_what_the_outlines_give_one_by_one(seed):
    rng = np.random.default_rng(seed)
    outlines = [
        Outline(int(rng.integers(1, 9)), (square(*rng.uniform(0, 9, 2), rng.uniform(0.2, 5)),)) for _ in range(12)
    ]
    alone = {
        number: sum(rasterise([one], (10, 10)).labels > 0 for one in outlines if one.number == number) > 0
        for number in {one.number for one in outlines}
    }
    drawn = rasterise(outlines, (10, 10))
    shared = sum(mask.int() for mask in alone.values()) > 1
    assert torch.equal(torch.zeros(10, 10, dtype=torch.bool) if drawn.shared is None else drawn.shared, shared)
    assert drawn.empty == tuple(sorted(number for number, mask in alone.items() if not mask.any()))
    assert drawn.lost == tuple(sorted(alone.keys() - set(drawn.labels.unique().tolist())))


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_size_of_batches_makes_no_difference(monkeypatch, batch):
    rng = np.random.default_rng(batch)
    outlines = [Outline(k + 1, (square(*rng.uniform(-3, 20, 2), rng.uniform(4, 9)),)) for k in range(30)]
    whole = rasterise(outlines, (20, 20))
    monkeypatch.setattr("nucstyle.core.contours._MOST_PAINTED", batch)
    check_equal(rasterise(outlines, (20, 20)), whole)
    monkeypatch.setattr("nucstyle.core.contours._MOST_CROSSINGS", max(20, batch))
    check_equal(rasterise(outlines, (20, 20)), whole)


def check_equal(one, other):
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.shared, other.shared)
    assert (one.covered, one.empty) == (other.covered, other.empty)


@pytest.mark.parametrize(
    ("ring", "words"),
    [
        (square(5, 0, 3), "outline 2 (x 5 to 8, y 0 to 3) lies outside its image of 5 x 4 pixels (width x height)"),
        (square(-3, 0, 3), "outline 2 (x -3 to 0, y 0 to 3) lies outside"),
        (square(0, 4, 1), "outline 2 (x 0 to 1, y 4 to 5) lies outside"),
        (square(0, 0, 3)[:2], "outline 2 has fewer than three corners"),
        (np.zeros((0, 2)), "outline 2 has fewer than three corners"),
        (np.array([[0, 0], [1, np.nan], [1, 1]]), "outline 2 has places that are no pixels, such as NaN"),
        (np.array([[0, 0], [np.inf, 0], [1, 1]]), "outline 2 has places that are no pixels"),
        (np.array([[0, 0], [1e300, 0], [1, 1]]), "outline 2 has places that are no pixels"),
    ],
)
def test_outlines_that_cannot_be_filled_are_refused_by_number(ring, words):
    with pytest.raises(ImageError) as caught:
        rasterise([Outline(1, (square(0, 0, 1),)), Outline(2, (ring,))], (4, 5), where="a.geojson")
    assert str(caught.value).startswith("a.geojson: ")
    assert words in str(caught.value)


def test_an_outline_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("nucstyle.core.contours._MOST_CROSSINGS", 50)
    zigzag = np.array([[k, 20 * (k % 2)] for k in range(12)])
    with pytest.raises(ImageError, match="crosses rows of pixels"):
        rasterise([Outline(1, (zigzag,))], (20, 20))
