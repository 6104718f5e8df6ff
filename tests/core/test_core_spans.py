"""Laws of spans: they are the pixels, whatever the image is cut into."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label, regionprops

from nucstyle.core.spans import joined, measure, merged, painted, pieces, spans_of

label_maps = arrays(
    np.int32,
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9),
    elements=st.sampled_from([0, 0, 1, 2, 7, 2**31 - 1]),
)


@settings(deadline=None)
@given(labels=label_maps)
def test_painted_spans_are_the_label_map_again(labels):
    assert np.array_equal(painted(spans_of(labels), labels.shape), labels)


@settings(deadline=None)
@given(labels=label_maps, cut=st.integers(0, 9))
def test_bands_give_the_spans_and_measures_of_the_whole(labels, cut):
    parts = [spans_of(labels[:cut]), spans_of(labels[cut:], min(cut, len(labels)))]
    whole = spans_of(labels)
    for one, other in zip(joined(parts), whole, strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(merged([measure(part) for part in parts]), measure(whole), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(painted(parts[1], labels[cut:].shape, min(cut, len(labels))), labels[cut:])


@settings(deadline=None)
@given(labels=label_maps)
def test_measures_are_those_of_scikit_image(labels):
    small = np.where(labels > 7, 9, labels)
    found, expected = measure(spans_of(small)), regionprops(small) if small.size else []
    assert found.number.tolist() == [one.label for one in expected]
    assert found.area_px.tolist() == [one.area for one in expected]
    boxes = np.stack([found.y0, found.x0, found.y1, found.x1], axis=1)
    assert boxes.tolist() == [list(one.bbox) for one in expected]
    # There the centre of the first pixel is 0.
    centres = np.stack([found.centroid_y, found.centroid_x], axis=1) - 0.5
    np.testing.assert_allclose(centres, np.reshape([one.centroid for one in expected], (-1, 2)), atol=1e-12)


@pytest.mark.parametrize(("corners", "connectivity"), [("apart", 1), ("joined", 2)])
@settings(deadline=None)
@given(labels=label_maps.filter(lambda one: one.size))
def test_pieces_are_connected_and_ordered_by_number_then_first_pixel(labels, corners, connectivity):
    spans = spans_of(labels).by_number()
    expected = label(labels, background=0, connectivity=connectivity)[spans.row, spans.first]
    found = pieces(spans, corners)
    assert len(set(zip(found.tolist(), expected.tolist(), strict=True))) == len(set(found)) == len(set(expected))
    firsts = np.unique(found, return_index=True)[1]
    assert (np.diff(firsts) > 0).all()
