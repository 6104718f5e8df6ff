"""Which images are trained on, tuned on and tested on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

from nucstyle.data.manifest import Record


@cache
def dsb2018_split() -> dict[str, str]:
    """The division of the DSB-2018 stage 1 training images by id: train, validation or test, whole fields of view."""
    text = resources.files("nucstyle.data").joinpath("dsb2018_split.csv").read_text(encoding="utf-8")
    return {row["image_id"]: row["split"] for row in csv.DictReader(text.splitlines())}


def with_known_split(records: Sequence[Record]) -> list[Record]:
    """Give images of DSB 2018 their part of the shipped division, unless their manifest already says one."""
    known = dsb2018_split()
    return [record if record.split else replace(record, split=known.get(record.id)) for record in records]
