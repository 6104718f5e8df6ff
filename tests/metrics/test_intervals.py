"""Paired differences with intervals: known answers, and a naive loop."""

import numpy as np
import pytest

from nucstyle.core.errors import OptionError
from nucstyle.metrics.intervals import ImageResampling, interval, paired_difference

IMAGES = [f"image-{n}" for n in range(12)]
ALONE = dict.fromkeys(IMAGES)


@pytest.fixture(scope="module")
def naive(reference):
    """The slow interval of tests/reference."""
    return reference("naive_intervals")


def scores(values):
    return dict(zip(IMAGES, map(float, values), strict=True))


def test_a_constant_difference_has_an_interval_of_no_width():
    base = [scores(np.random.default_rng(seed).random(12)) for seed in range(3)]
    better = [{name: value + 0.25 for name, value in one.items()} for one in base]
    found = paired_difference(better, base, ALONE)
    assert found.mean == pytest.approx(0.25)
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)
    assert (found.fields, found.seeds, found.better, found.worse) == (12, 3, 12, 0)


def test_the_interval_is_that_of_a_naive_loop(naive):
    rng = np.random.default_rng(1)
    differences = rng.normal(0.1, 0.2, (3, 14)) + rng.normal(0, 0.1, (3, 1))
    fields = np.array([0, 0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 6, 6])
    expected = naive.interval(differences.tolist(), [f"f{n}" for n in fields], resamples=4000)
    assert interval(differences, fields) == pytest.approx(expected, abs=0.012)


def test_tiles_of_one_field_stay_together():
    """Six fields of two tiles, the gain of a tile undone by the other: no resample of whole fields has any gain."""
    gain = scores([1, -1] * 6)
    pairs = {name: f"field {n // 2}" for n, name in enumerate(IMAGES)}
    found = paired_difference([gain], [scores([0] * 12)], pairs)
    assert (found.fields, found.low, found.high) == (6, 0, 0)
    apart = paired_difference([gain], [scores([0] * 12)], ALONE)
    assert apart.fields == 12
    assert apart.low < -0.3 < 0.3 < apart.high


def test_seeds_are_drawn_as_well():
    """All images gain alike, but differently by seed: the spread comes from the seeds alone."""
    gains = [scores([value] * 12) for value in (0.0, 0.1, 0.5)]
    found = paired_difference(gains, [scores([0] * 12)] * 3, ALONE)
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0)  # thrice the first: one resample in 27
    assert found.high == pytest.approx(0.5)


def test_under_five_fields_there_is_no_interval_but_every_image_has_its_difference():
    fields = {name: f"field {n % 4}" for n, name in enumerate(IMAGES)}
    gain = scores(np.arange(12) - 3)
    found = paired_difference([gain, gain], [scores([0] * 12)] * 2, fields)
    assert (found.low, found.high, found.fields) == (None, None, 4)
    assert (found.better, found.worse) == (8, 3)
    assert found.images == gain


def test_an_image_of_an_unknown_field_is_a_field_of_its_own_and_joins_none_by_its_name():
    fields = {**ALONE, "image-0": "image-1", "image-2": "image-1"}
    assert paired_difference([scores([1] * 12)], [scores([0] * 12)], fields).fields == 11


def test_an_image_whose_differences_cancel_out_is_neither_better_nor_worse():
    ours = [scores(np.full(12, 0.52) + shift) for shift in (0.02619, 0.0, -0.02619)]
    theirs = [scores(np.full(12, 0.52)) for _ in range(3)]
    found = paired_difference(ours, theirs, ALONE)
    assert any(found.images.values())  # they do not sum up to exactly 0
    assert (found.better, found.worse) == (0, 0)


def test_the_same_scores_give_the_same_interval():
    one, other = scores(np.random.default_rng(2).random(12)), scores([0.4] * 12)
    assert paired_difference([one], [other], ALONE) == paired_difference([one], [other], ALONE)


@pytest.mark.parametrize(
    ("one", "other"),
    [([], []), ([{}], [{}]), ([{"a": 1.0}], [{"b": 1.0}]), ([{"a": 1.0}], [{"a": 1.0}] * 2)],
)
def test_what_is_not_paired_is_refused(one, other):
    with pytest.raises(OptionError, match="same images"):
        paired_difference(one, other, {"a": None, "b": None})


def test_images_are_drawn_anew_with_all_that_was_measured_of_them():
    again = ImageResampling(["a"] * 9 + ["b", "c", "d", "e"])
    low, high = again.interval(again.means([1.0] * 9 + [0.0] * 4))
    assert low == 0  # a third of the sets lack the image of the nine
    assert high > 0.9
    assert again.interval(again.means([True] * 13)) == [1.0, 1.0]
    means = again.means(range(13))
    assert 4 <= means.min() < 5  # no set has a part of the nine, whose mean is 4
    assert 11 < means.max() <= 12
