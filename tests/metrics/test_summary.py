import json
import math

import numpy as np
import pytest

from nucstyle.core.errors import OptionError
from nucstyle.metrics.dsb import dsb_score
from nucstyle.metrics.summary import summarise

MEASURES = {"dsb_score", "dsb_ap", "n_images", "f1", "precision", "recall", "pq", "sq", "rq", "aji"}
MEASURES |= {"recall70_by_size", "splits", "merges"}
"""What the score of a group of images holds in result.json."""
FIELDS = MEASURES | {"minority", "modalities", "images"}
"""What that of a data set holds."""
WHOLE = np.ones((1, 10), dtype=int)
PART = (np.arange(10) < 8).astype(int)[None]
HALVES = np.array([[1] * 5 + [2] * 5])
EMPTY = np.zeros((1, 10), dtype=int)
SCORES = {
    "c": dsb_score(WHOLE, PART),  # 0.6
    "a": dsb_score(WHOLE, WHOLE),  # 1.0
    "b": dsb_score(WHOLE, HALVES),  # 0.0, one split
    "d": dsb_score(HALVES, WHOLE),  # 0.0, one merge
}
MODALITIES = {"a": "dark", "b": "dark", "c": "purple", "d": None, "another": "brown"}


def test_summary_has_exactly_the_fields_of_the_contract():
    assert set(summarise(SCORES, MODALITIES, "dark")) == FIELDS


def test_scores_are_means_over_images_and_faults_are_sums():
    summary = summarise(SCORES, MODALITIES, "dark")
    assert summary["n_images"] == 4
    assert summary["dsb_score"] == pytest.approx((0.6 + 1.0) / 4)
    assert list(summary["dsb_ap"]) == [f"{t / 100:.2f}" for t in range(50, 100, 5)]
    assert (summary["dsb_ap"]["0.75"], summary["dsb_ap"]["0.80"]) == (2 / 4, 1 / 4)
    assert summary["aji"] == pytest.approx(np.mean([0.8, 1.0, 5 / 15, 10 / 20]))
    assert (summary["f1"], summary["sq"]) == (2 / 4, pytest.approx(1.8 / 4))
    assert (summary["splits"], summary["merges"]) == (1, 1)
    assert summary["images"] == {"a": 1.0, "b": 0.0, "c": 0.6, "d": 0.0}


def test_recall_by_size_is_pooled_over_nuclei():
    summary = summarise(SCORES, MODALITIES, "dark")
    assert summary["recall70_by_size"]["tiny"] == {"recall": 2 / 5, "n": 5}
    assert summary["recall70_by_size"]["large"] == {"recall": None, "n": 0}


def test_groups_hold_every_measure_of_their_images_and_unknown_modalities_count_in_the_whole_only():
    summary = summarise(SCORES, MODALITIES, "dark")
    for group, images in {"dark": "ab", "purple": "c"}.items():
        alone = summarise({image: SCORES[image] for image in images}, dict.fromkeys(images), None)
        assert summary["modalities"][group] == {name: alone[name] for name in MEASURES}
    assert list(summary["modalities"]) == ["dark", "purple"]
    assert summary["minority"] == summary["modalities"]["purple"]
    assert (summary["modalities"]["dark"]["dsb_score"], summary["modalities"]["dark"]["splits"]) == (0.5, 1)
    assert (summary["modalities"]["purple"]["dsb_score"], summary["modalities"]["purple"]["merges"]) == (0.6, 0)


@pytest.mark.parametrize(("largest", "images"), [("dark", ["c"]), ("purple", ["a", "b"]), ("brown", ["a", "b", "c"])])
def test_the_minority_is_every_modality_but_the_largest(largest, images):
    minority = summarise(SCORES, MODALITIES, largest)["minority"]
    assert minority["n_images"] == len(images)
    assert minority["dsb_score"] == pytest.approx(np.mean([SCORES[image].dsb_score for image in images]))


@pytest.mark.parametrize("modalities", [dict.fromkeys(SCORES, "dark"), dict.fromkeys(SCORES)])
def test_without_other_modalities_the_minority_is_empty(modalities):
    minority = summarise(SCORES, modalities, "dark")["minority"]
    assert (minority["dsb_score"], minority["n_images"], minority["f1"]) == (None, 0, None)


def test_without_a_largest_modality_the_minority_is_empty():
    minority = summarise(SCORES, MODALITIES, None)["minority"]
    assert (minority["dsb_score"], minority["n_images"], minority["f1"]) == (None, 0, None)


def test_the_order_of_the_images_does_not_change_a_byte():
    rng = np.random.default_rng(0)
    scores = {str(i): dsb_score(rng.integers(0, 3, (4, 4)), rng.integers(0, 3, (4, 4))) for i in range(40)}
    modalities = {image: "even" if int(image) % 2 == 0 else "odd" for image in scores}
    expected = json.dumps(summarise(scores, modalities, "odd"), allow_nan=False)
    for _ in range(5):
        order = rng.permutation(list(scores)).tolist()
        shuffled = summarise({image: scores[image] for image in order}, {i: modalities[i] for i in order[::-1]}, "odd")
        assert json.dumps(shuffled, allow_nan=False) == expected


def test_a_summary_is_plain_json():
    summary = summarise({**SCORES, "e": dsb_score(EMPTY, EMPTY)}, {**MODALITIES, "e": "dark"}, "dark")
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_no_images_give_no_scores_and_no_nan():
    summary = summarise({}, {}, None)
    assert set(summary) == FIELDS
    assert (summary["n_images"], summary["dsb_score"], summary["aji"]) == (0, None, None)
    assert not any(isinstance(value, float) and math.isnan(value) for value in summary.values())


def test_an_image_without_an_entry_for_its_modality_is_refused():
    with pytest.raises(OptionError, match="'c'"):
        summarise(SCORES, {"a": "dark", "b": "dark", "d": None}, "dark")
