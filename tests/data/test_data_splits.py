from collections import Counter
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from nucstyle.data.dataset import open_dataset
from nucstyle.data.manifest import Record
from nucstyle.data.splits import dsb2018_split, split_records, with_known_split


def test_the_shipped_division_is_that_of_664_images():
    split = dsb2018_split()
    assert len(split) == 664
    assert Counter(split.values()) == {"train": 451, "validation": 65, "test": 148}
    assert all(len(name) == 64 and set(name) <= set("0123456789abcdef") for name in split)


def test_a_known_image_gets_its_part_an_unknown_one_none_and_a_given_part_stays():
    known, part = next(iter(dsb2018_split().items()))
    other = next(name for name in ("train", "test") if name != part)
    records = [
        Record(id=known, image=Path("a.png")),
        Record(id="mine", image=Path("b.png")),
        Record(id=known, image=Path("c.png"), split=other),
    ]
    assert [record.split for record in with_known_split(records)] == [part, None, other]


def test_the_bundled_images_keep_their_part_hold_no_test_image_and_no_field_of_view_in_two_parts():
    records = open_dataset(Path(str(resources.files("nucstyle.sample")))).records
    assert {record.split for record in records} == {"train", "validation"}
    assert all(dsb2018_split()[record.id] == record.split for record in records)
    fields = {(record.field_of_view, record.split) for record in records}
    assert len(fields) == len({field for field, _ in fields})
    assert all(record.labels is not None and record.field_of_view for record in records)


# Divisions of data without one


def images(count, *, prefix="i", modalities=("a",), per_field=1):
    return [
        Record(
            id=f"{prefix}{number}",
            image=Path("x.png"),
            modality=modalities[(number // per_field) % len(modalities)],
            field_of_view=f"{prefix}-field-{number // per_field}" if per_field > 1 else None,
        )
        for number in range(count)
    ]


def parts_of(records, **options):
    return {record.id: record.split for record in split_records(records, **options)}


def test_the_parts_have_their_shares_in_every_modality():
    records = [*images(200, modalities=("a", "b")), *images(60, prefix="rare", modalities=("c",), per_field=2)]
    divided = split_records(records)
    assert [replace(record, split=None) for record in divided] == records
    for modality, total in (("a", 100), ("b", 100), ("c", 60)):
        counts = Counter(record.split for record in divided if record.modality == modality)
        assert abs(counts["train"] - 0.7 * total) <= 2
        assert abs(counts["validation"] - 0.15 * total) <= 2
        assert counts.total() == total


def test_no_field_of_view_is_in_two_parts_not_even_one_of_two_modalities():
    records = images(120, modalities=("a", "b", "c"), per_field=4)
    records[1] = replace(records[1], modality="b")
    divided = split_records(records)
    fields = {(record.field_of_view, record.split) for record in divided}
    assert len(fields) == 30
    assert {part for _, part in fields} == {"train", "validation", "test"}


def test_the_same_ids_give_the_same_parts_in_any_order():
    records = images(90, modalities=("a", "b"), per_field=3)
    assert parts_of(records) == parts_of(records[::-1]) == parts_of(records[40:] + records[:40])


def test_added_images_move_few_others_and_only_at_the_borders_between_parts():
    before = parts_of(images(300))
    after = parts_of([*images(300), *images(30, prefix="new")])
    moved = [name for name, part in before.items() if after[name] != part]
    assert 0 < len(moved) <= 9
    assert parts_of([*images(300), *images(30, prefix="new", modalities=("b",))]).items() >= before.items()


def test_another_seed_gives_another_division_and_other_shares_other_parts():
    records = images(100)
    assert parts_of(records, seed=1) != parts_of(records)
    counts = Counter(parts_of(records, shares={"train": 0.5, "validation": 0.5, "test": 0.0}).values())
    assert counts == {"train": 50, "validation": 50}


@pytest.mark.parametrize(
    ("count", "parts"),
    [(1, "train"), (2, "train validation"), (3, "train validation test"), (4, "train train validation test")],
)
def test_every_part_has_a_field_while_there_are_enough(count, parts):
    assert sorted(parts_of(images(count)).values()) == sorted(parts.split())


def test_a_part_that_is_given_stays_and_takes_the_other_images_of_its_field_along():
    records = images(40, per_field=4)
    records[5] = replace(records[5], split="test")
    records[6] = replace(records[6], split="validation")
    parts = parts_of(records)
    assert [parts[f"i{number}"] for number in (4, 5, 6, 7)] == ["validation", "test", "validation", "validation"]
    assert split_records([]) == []
