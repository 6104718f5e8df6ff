"""Which images are trained on, tuned on and tested on."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import accumulate

from nucstyle.core.rng import derive_seed
from nucstyle.data.manifest import SPLITS, Record


@cache
def _dsb2018() -> list[dict[str, str]]:
    """A row for each stage 1 training image of DSB 2018: `image_id`, `split`, `field_of_view`."""
    text = resources.files("nucstyle.data").joinpath("dsb2018_split.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def dsb2018_split() -> dict[str, str]:
    """The division of the DSB-2018 stage 1 training images by id: train, validation or test.

    It keeps the known groups of four tiles together, but divides 51 larger fields of view that only the pixels show.
    """
    return {row["image_id"]: row["split"] for row in _dsb2018()}


@cache
def dsb2018_fields() -> dict[str, str]:
    """The field of view of the DSB-2018 stage 1 training images by id: images of one number are tiles of one field."""
    return {row["image_id"]: row["field_of_view"] for row in _dsb2018()}


def with_known_split(records: Sequence[Record]) -> list[Record]:
    """Give images of DSB 2018 their part of the shipped division and their field, where their manifest does not say them."""
    parts, fields = dsb2018_split(), dsb2018_fields()
    return [
        replace(
            record,
            split=record.split or parts.get(record.id),
            field_of_view=record.field_of_view or fields.get(record.id),
        )
        for record in records
    ]


SHARES: Mapping[str, float] = {"train": 0.7, "validation": 0.15, "test": 0.15}
"""The parts that data without a division are divided into, as shares of the images."""


def split_records(records: Sequence[Record], *, shares: Mapping[str, float] = SHARES, seed: int = 0) -> list[Record]:
    """Divide images into parts.

    Every modality is divided by itself. Its fields of view stand in an order that hashes of their names give, and the first of
    them become the first part, and so on, as nearly to the shares as whole fields permit; each part has a field of every
    modality that has so many. So the order of the images does not matter, and where images are added, none moves but at the
    borders between parts. Images that have a part keep it, and take the others of their field along.

    Args:
        records: The images; those without a field of view are fields of their own.
        shares: Of the images, by part; they sum to 1.
        seed: Another number gives another order.

    Returns:
        The records, each with a part.
    """
    fields: dict[tuple[bool, str], list[Record]] = defaultdict(list)
    for record in records:
        fields[record.field_of_view is not None, record.field_of_view or record.id].append(record)
    parts = {}
    strata: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for field, members in fields.items():
        given = {record.split for record in members}
        if part := next((name for name in SPLITS if name in given), None):
            parts[field] = part
        else:
            strata[_modality(members)].append(field)
    for stratum in strata.values():
        ordered = sorted(stratum, key=lambda field: (derive_seed(seed, "split", field[1]), field))
        parts.update(zip(ordered, _runs([len(fields[field]) for field in ordered], shares), strict=True))
    part_of = {record.id: parts[field] for field, members in fields.items() for record in members}
    return [record if record.split else replace(record, split=part_of[record.id]) for record in records]


def _modality(members: Sequence[Record]) -> str:
    """The modality of a field: that of most of its images."""
    counts = Counter(record.modality or "" for record in members)
    return min(counts, key=lambda name: (-counts[name], name))


def _runs(sizes: Sequence[int], shares: Mapping[str, float]) -> list[str]:
    """The part of each field of a modality, given how many images it has: the parts are runs of fields."""
    names = [name for name, share in shares.items() if share > 0]
    ends = list(accumulate(sizes, initial=0))
    parts: list[str] = []
    wanted = 0.0
    for place, name in enumerate(names):
        wanted += shares[name] * ends[-1]
        nearest = min(range(len(ends)), key=lambda end: abs(ends[end] - wanted))
        latest = max(len(sizes) - (len(names) - place - 1), len(parts) + 1)  # the parts after it want a field as well
        end = len(sizes) if name == names[-1] else min(max(nearest, len(parts) + 1), latest)
        parts += [name] * (min(end, len(sizes)) - len(parts))
    return parts
