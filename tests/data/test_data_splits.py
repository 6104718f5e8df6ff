from collections import Counter
from importlib import resources
from pathlib import Path

from nucstyle.data.dataset import open_dataset
from nucstyle.data.manifest import Record
from nucstyle.data.splits import dsb2018_split, with_known_split


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
