import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from nucstyle.core.errors import ImageError
from nucstyle.core.rle import (
    Runs,
    decode_counts,
    decode_dsb,
    encode_counts,
    encode_dsb,
    label_map,
    pack_counts,
    runs_of,
    unpack_counts,
)

# pycocotools 2.0.11 wraps its arrays in a way that NumPy 2 announces to drop.
against_peer = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABEL_MAPS = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.sampled_from([0, 1, 2, 9, 70_000])
)
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16))


def runs(*pairs):
    numbers = np.array(pairs, np.int64).reshape(-1, 2)
    return Runs(numbers[:, 0], numbers[:, 1])


def pairs(found):
    return list(zip(found.starts.tolist(), found.lengths.tolist(), strict=True))


def runs_of_mask(array):
    return runs_of(torch.from_numpy(array.astype(np.int32))).get(1, runs())


# 4 rows, 5 columns; down the columns the pixels are numbered 1 to 20.
HAND_MADE = torch.tensor(
    [
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 2],
        [0, 0, 0, 2, 2],
        [3, 0, 0, 2, 2],
    ],
    dtype=torch.int32,
)


def test_runs_go_down_the_columns_and_over_their_ends():
    found = runs_of(HAND_MADE)
    assert list(found) == [1, 2, 3]
    assert [encode_dsb(one) for one in found.values()] == ["1 2 5 1", "15 2 18 3", "4 1"]
    assert encode_dsb(runs_of(torch.ones(4, 5, dtype=torch.int32))[1]) == "1 20"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", ["...", "..."]),
        ("1 1", ["#..", "..."]),
        ("2 1", ["...", "#.."]),
        ("3 2", [".#.", ".#."]),
        ("2 3 6 1", [".#.", "###"]),
        ("1 6", ["###", "###"]),
        ("1 1 2 1", ["#..", "#.."]),
    ],
)
def test_hand_made_run_lengths_decode_to_their_mask(text, rows):
    found = decode_dsb(text, (2, 3), where="here")
    drawn = label_map({1: found.pixels()}, (2, 3)).labels
    assert ["".join(".#"[value] for value in row) for row in drawn.tolist()] == rows


@settings(deadline=None)
@given(LABEL_MAPS)
def test_what_is_written_as_dsb_run_lengths_is_read_back(array):
    labels, size = torch.from_numpy(array), array.shape
    texts = {number: encode_dsb(one) for number, one in runs_of(labels).items()}
    assert list(texts) == [number for number in np.unique(array).tolist() if number]
    drawn = torch.zeros_like(labels)
    for number, text in texts.items():
        drawn += number * label_map({1: decode_dsb(text, size, where="here").pixels()}, size).labels
    assert torch.equal(drawn, labels)


@settings(deadline=None)
@given(MASKS)
def test_what_is_written_as_coco_run_lengths_is_read_back(array):
    found, size = runs_of_mask(array), array.shape
    counts = encode_counts(found, array.size)
    assert pairs(decode_counts(counts, size, where="here")) == pairs(found)
    assert unpack_counts(pack_counts(counts), where="here") == counts


@against_peer
@settings(deadline=None)
@given(MASKS)
def test_coco_run_lengths_are_those_of_pycocotools(array):
    theirs = coco.encode(np.asfortranarray(array.astype(np.uint8)))["counts"].decode()
    counts = encode_counts(runs_of_mask(array), array.size)
    assert pack_counts(counts) == theirs
    assert unpack_counts(theirs, where="here") == counts
    plain = coco.frPyObjects({"size": list(array.shape), "counts": counts}, *array.shape)
    assert np.array_equal(coco.decode(plain).astype(bool), array)


def test_long_runs_are_packed_as_pycocotools_does():
    counts = [170_000_000, 1, 3, 90_000_000, 2, 7, 31, 15, 16, 0, 5]
    size = (sum(counts), 1)
    theirs = coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"].decode()
    assert pack_counts(counts) == theirs
    assert unpack_counts(theirs, where="here") == counts


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**40), max_size=12))
def test_packed_counts_are_unpacked(counts):
    assert unpack_counts(pack_counts(counts), where="here") == counts


def test_of_two_that_claim_a_pixel_the_first_keeps_it():
    nuclei = [np.array([0, 1]), np.array([1, 2]), np.array([0, 1]), np.array([], np.int64)]
    drawn = label_map(dict(enumerate(nuclei, start=1)), (2, 2))
    assert drawn.labels.dtype == torch.int32
    assert drawn.labels.tolist() == [[1, 2], [1, 0]]
    assert drawn.shared.tolist() == [[True, False], [True, False]]
    assert (drawn.covered, drawn.empty) == ((3,), (4,))


def test_where_no_two_claim_a_pixel_nothing_is_told():
    drawn = label_map({2: np.array([0, 1]), 5: np.array([2])}, (2, 2))
    assert (drawn.labels.tolist(), drawn.shared, drawn.lost) == ([[2, 5], [2, 0]], None, ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 3", "run 1, `0 3`, starts before pixel 1"),
        ("1 0", "run 1, `1 0`, has no length"),
        ("1 2 3", "3 numbers, which are not pairs"),
        ("9 2 5 1", "run 2, `5 1`, starts before the run in front of it; runs must ascend"),
        ("2 3 4 1", "run 2, `4 1`, names pixels of the run in front of it again"),
        ("2 3 2 3", "run 2, `2 3`, names pixels"),
        ("18 4", "run 1, `18 4`, ends after pixel 20, the last of 4 x 5"),
        ("21 1", "run 1, `21 1`, ends after pixel 20"),
        ("1 9223372036854775807", "ends after pixel 20"),
        ("1 99999999999999999999", "holds a number that no image has pixels for"),
        ("1 -2", "'1 -2' is not made of digits and spaces"),
        ("1.5 2", "is not made of digits"),
        ("1_0 2", "is not made of digits"),
        ("1,2", "is not made of digits"),
        ("\u0661 2", "is not made of digits"),
        ("x" * 1000, f"'{'x' * 40}...' is not made of digits"),
    ],
)
def test_hostile_run_lengths_are_refused_with_their_place(text, reason):
    with pytest.raises(ImageError) as caught:
        decode_dsb(text, (4, 5), where="labels.csv: line 7")
    assert str(caught.value).startswith("labels.csv: line 7: run lengths: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([], "the counts fill only 0 of the 4 x 5 = 20 pixels of the image"),
        ([19], "fill only 19 of"),
        ([10, 11], "fill more than the 4 x 5 = 20 pixels"),
        ([21, -1], "a count is '-1'"),
        ([20.0], "a count is '20.0'"),
        ([19, True], "a count is 'True'"),
        (["20"], "a count is '20'"),
        ([[20]], "a count is '[20]'"),
        ([10**4299] * 10, "fill more than"),
    ],
)
def test_counts_that_do_not_fill_the_image_are_refused(counts, reason):
    with pytest.raises(ImageError) as caught:
        decode_counts(counts, (4, 5), where="here")
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["P", "\x7f", "é", "/", " ", "o" * 20 + "0", "\ud800"])
def test_hostile_compressed_run_lengths_are_refused(text):
    with pytest.raises(ImageError, match=r"compressed run lengths|cut off or damaged"):
        unpack_counts(text, where="here")


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=30))
def test_no_text_gives_another_error_than_ours(text):
    for read in (
        lambda: decode_dsb(text, (4, 5), where="here"),
        lambda: decode_counts(unpack_counts(text, where="here"), (4, 5), where="here"),
    ):
        try:
            found = read()
        except ImageError:
            continue
        assert label_map({1: found.pixels()}, (4, 5)).labels.sum() == found.lengths.sum()
