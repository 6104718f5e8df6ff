"""Which images are trained on, tuned on and tested on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

from nucstyle.data.manifest import Record


@cache
def _dsb2018() -> list[dict[str, str]]:
    """A row for each stage 1 training image of DSB 2018: `image_id`, `split`, `field_of_view`."""
    text = resources.files("nucstyle.data").joinpath("dsb2018_split.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def dsb2018_split() -> dict[str, str]:
    """The division of the DSB-2018 stage 1 training images by id: train, validation or test, whole fields of view."""
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
