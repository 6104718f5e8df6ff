"""Dividing a data set into parts, whole fields of view, as the pixels show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from nucstyle.core.errors import ImageError, OptionError
from nucstyle.core.protocols import Progress
from nucstyle.core.threads import for_each
from nucstyle.data.dataset import Dataset
from nucstyle.data.decoders import ReadOptions
from nucstyle.data.doctor import joined_fields
from nucstyle.data.fields import Outline, find_fields, outline
from nucstyle.data.image_io import read_pixels
from nucstyle.data.manifest import SPLITS, Record
from nucstyle.data.splits import split_records


def shares_of(text: str) -> dict[str, float]:
    """`0.7,0.15,0.15` -> the share of each part.

    Raises:
        OptionError: Not two or three numbers that sum to 1, or none for train.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or min(numbers) < 0 or numbers[0] == 0 or not abs(sum(numbers) - 1) < 1e-6:
        msg = (
            f"--split {text}: give the shares of train, validation and test, which sum to 1, for example 0.7,0.15,0.15"
        )
        raise OptionError(msg)
    return dict(zip(SPLITS, numbers, strict=False))


def divide(
    dataset: Dataset,
    modalities: Sequence[str | None],
    shares: Mapping[str, float],
    *,
    seed: int,
    progress: Progress,
) -> list[Record]:
    """Give every image a part, and the name of its field of view where that has several images.

    Args:
        dataset: The images; those that have a part keep it.
        modalities: Of each, to divide each by itself.
        shares: See `splits.split_records`.
        seed: Likewise.
        progress: Shown to the person.

    Returns:
        The records with part and field of view; their modalities are as they were.

    Raises:
        ImageError: The first image that cannot be read.
    """
    records, found = name_fields(dataset, progress)
    undivided = sum(record.split is None for record in records)
    named_records = [replace(record, modality=name) for record, name in zip(records, modalities, strict=True)]
    parts = [record.split for record in split_records(named_records, shares=shares, seed=seed)]
    divided = [replace(record, split=part) for record, part in zip(records, parts, strict=True)]
    for line in _remarks(divided, found, undivided, [part for part, share in shares.items() if share > 0]):
        progress.say(line)
    return divided


def name_fields(
    dataset: Dataset, progress: Progress, *, skip_unreadable: bool = False
) -> tuple[list[Record], list[list[int]]]:
    """Give images of one field of view one name: those that the pixels connect, and those that share a name already.

    Args:
        dataset: The images; only fields within it are found.
        progress: Shown to the person.
        skip_unreadable: Whether an image that cannot be read keeps the name that it has.

    Returns:
        The records, with the smallest name of each field or else its smallest id; a field of one image keeps the name that it
        has, or none. Then the places of the images of each field of several.

    Raises:
        ImageError: The first image that cannot be read, unless those are skipped.
    """
    records = list(dataset.records)
    look = partial(_outline, reading=dataset.reading, skip_unreadable=skip_unreadable)
    outlines = list(for_each(look, records, stage="compare borders", unit="image", progress=progress))
    seen = [index for index, one in enumerate(outlines) if one is not None]
    fields = find_fields([one for one in outlines if one is not None])
    found = [[seen[place] for place in members] for members in joined_fields([records[k] for k in seen], fields)]
    for members in found:
        named = [records[index].field_of_view for index in members]
        # The smallest name, so that it does not depend on the order of the images.
        name = min([known for known in named if known] or [records[index].id for index in members])
        for index in members:
            records[index] = replace(records[index], field_of_view=name)
    return records, found


def _outline(record: Record, reading: ReadOptions, *, skip_unreadable: bool) -> Outline | None:
    try:
        return outline(read_pixels(record.image, reading))
    except ImageError:
        if not skip_unreadable:
            raise
        return None


def _remarks(
    records: Sequence[Record], found: Sequence[Sequence[int]], undivided: int, wanted: Sequence[str]
) -> list[str]:
    """What a person should know at once."""
    lines = [f"fields of view of several images: {len(found)}, {sum(map(len, found))} images in all"]
    if undivided < len(records):
        lines.append(f"{len(records) - undivided} of {len(records)} images had a part and keep it")
    across = sum(len({records[index].split for index in members}) > 1 for members in found)
    if across:
        lines.append(f"warning: {across} fields are in several parts, as they were given; see nucstyle check")
    if missing := [part for part in wanted if part not in Counter(one.split for one in records)]:
        reason = "too few fields to divide"
        if not undivided:
            reason = (
                "all images had one (those of DSB 2018 bring it); write others into the column split of a manifest.csv"
            )
        lines.append(f"warning: no image is of the part {' or '.join(missing)}: {reason}")
    return lines
