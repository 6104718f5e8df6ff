"""The doctor: everything that is wrong with a data set, not only the first fault, and what to do about each."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nucstyle.core.errors import DatasetError
from nucstyle.data.dataset import in_pieces, list_images, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.examine import Examined
from nucstyle.data.fields import Fields, Floats, find_fields
from nucstyle.data.findings import KINDS, SEVERITIES, Finding
from nucstyle.data.manifest import Misfit, Record, check_file_names, file_name
from nucstyle.data.splits import dsb2018_split, with_known_split
from nucstyle.data.unread import unread

_BETTER = 0.2
"""Labels that fit another image by so much more (a correlation) than their own are taken for that one's."""
_BLOCK = 1024
"""So many images are compared with all labels at a time."""
_HELD_OUT = ("validation", "test")


@dataclass(frozen=True, slots=True)
class Survey:
    """What a data set was taken for, and what can be listed of it."""

    layout: str
    reason: str
    """What speaks for the layout, in words."""
    records: tuple[Record, ...]
    """Images whose files are there, each id once."""
    findings: tuple[Finding, ...]
    """What does not fit, in the listing."""


def survey(
    data: Path | str,
    *,
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
) -> Survey:
    """List a data set as far as that can be done.

    Args:
        data: As for `open_dataset`.
        format: One of `layouts.READABLE`; None = find out.
        reading: How files are read where they leave it open.

    Raises:
        DatasetError: Nothing there, or nothing in it, or an unknown format.
    """
    path = Path(data)
    listing = list_images(path, format)
    misfits = list(listing.misfits)
    records = list(_present(listing.records, misfits))
    if not records and not misfits:
        open_dataset(path, format=format)  # says what is expected
    findings = [Finding(kind=one.kind, says=one.message, files=one.files) for one in misfits]
    findings += unread(path, listing.layout, records, {file for one in misfits for file in one.files})
    return Survey(listing.layout, listing.reason, tuple(with_known_split(in_pieces(records, reading))), tuple(findings))


def _present(records: Iterable[Record], misfits: list[Misfit]) -> Iterator[Record]:
    """The records whose files are there, each id once; the others become misfits."""
    taken: dict[str, Record] = {}
    for record in records:
        missing = [file for file in (record.image, record.labels) if file is not None and not os.path.lexists(file)]
        other = taken.setdefault(record.id, record)
        if other is not record:
            msg = f"{other.image} and {record.image} have the same id {record.id!r}; rename one of them"
            misfits.append(Misfit("duplicated-name", (other.image, record.image), msg))
        elif missing:
            misfits.append(Misfit("missing-file", tuple(missing), f"{missing[0]} does not exist; correct the path"))
        else:
            yield record


def conclude(images: Sequence[Examined]) -> tuple[list[Finding], Fields]:
    """What shows only when images are compared, and all that was found in each.

    Args:
        images: Every image of the survey, examined.

    Returns:
        The findings, worst kinds first and in the order of the images, and the fields of view; the numbers in these are places
        among the images that can be read.
    """
    readable = [one for one in images if one.outline is not None]
    fields = find_fields([one.outline for one in readable if one.outline is not None])
    records = [one.record for one in images]
    swapped = list(_swapped(readable))
    exchanged = {name for one in swapped for name in one.ids}
    # Labels of another image may by chance fit better when moved; that they are another's says it all.
    seen = (finding for one in images for finding in one.findings)
    findings = [one for one in seen if one.kind != "shifted-labels" or exchanged.isdisjoint(one.ids)]
    for rule in (_unannotated, _untrained, _unnameable, _similar, _leaking):
        findings += rule(records)
    findings += swapped
    findings += _duplicates(readable, fields)
    findings += _divided([one.record for one in readable], fields)
    return sort_findings(findings), fields


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then in the order of the kinds; among equals as they are."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), kinds.index(one.kind)))


def _finding(kind: str, says: str, records: Sequence[Record]) -> Finding:
    return Finding(
        kind=kind,
        says=says,
        files=tuple(record.image for record in records),
        ids=tuple(record.id for record in records),
        count=len(records),
    )


def _unannotated(records: Sequence[Record]) -> Iterator[Finding]:
    """Training refuses a set in which some images that it would learn from have labels and others none."""
    if records and all(record.labels is None for record in records):
        yield Finding(kind="not-annotated", says=f"none of the {len(records)} images has labels", files=())
        return
    for record in records:
        if record.labels is None and record.split in ("train", None):
            yield _finding("image-without-labels", "no labels of that name", [record])


def _untrained(records: Sequence[Record]) -> Iterator[Finding]:
    if records and all(record.split in _HELD_OUT for record in records):
        yield Finding(kind="nothing-to-train-on", says=f"all {len(records)} images are held out", files=())


def _unnameable(records: Sequence[Record]) -> Iterator[Finding]:
    names: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        try:
            check_file_names([record])
        except DatasetError:
            yield _finding("file-name", f"the id {record.id!r} cannot name a file", [record])
        else:
            names[file_name(record.id)].append(record)
    for name, same in names.items():
        if len(same) > 1:
            yield _finding("file-name", f"{len(same)} ids give the file name {name!r}", same)


def _similar(records: Sequence[Record]) -> Iterator[Finding]:
    """Names that are two here and one on a file system that folds them, as those of Windows and macOS do."""
    folded: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        name = file_name(record.id)
        folded[unicodedata.normalize("NFC", name).casefold()].setdefault(name, record)
    for same in folded.values():
        if len(same) > 1:
            names = " and ".join(ascii(name) for name in same)
            yield _finding("similar-names", f"{names} are one name to some systems", list(same.values()))


def _leaking(records: Sequence[Record]) -> Iterator[Finding]:
    """Images of DSB 2018 that are on the other side of the line than in the shipped division."""
    shipped = dsb2018_split()
    for record in records:
        part = shipped.get(record.id)
        if part in _HELD_OUT and record.split not in _HELD_OUT:
            yield _finding("held-out-image", f"of the part {part} there, of {record.split or 'no part'} here", [record])
        elif part == "train" and record.split in _HELD_OUT:
            yield _finding("seen-image", f"of the part train there, of {record.split} here", [record])


def _swapped(images: Sequence[Examined]) -> Iterator[Finding]:
    """Images of one size whose labels each fit another of them better: the contrast that labels make, compared among them."""
    sizes: dict[object, list[Examined]] = defaultdict(list)
    for one in images:
        if one.foreground is not None and one.colours is not None:
            sizes[one.size, len(one.colours)].append(one)
    for same in sizes.values():
        best, there, here = _best_labels(same)
        odd = set(np.flatnonzero(there - here > _BETTER).tolist())
        for row in sorted(odd):
            other = int(best[row])
            if other not in odd or (best[other] == row and other < row):
                continue  # the labels of an image in order are its own; and a pair is told once
            pair = [same[row].record, same[other].record]
            gain = f"correlation {there[row]:.2f} instead of {here[row]:.2f}"
            yield _finding("swapped-labels", f"the labels of {pair[1].id} fit {pair[0].id} better: {gain}", pair)


def _best_labels(images: Sequence[Examined]) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Of each image: whose labels show best in it, how well these do, and how well its own do, in the colour that suits each."""
    foregrounds = np.stack([one.foreground for one in images if one.foreground is not None])
    colours = np.stack([one.colours for one in images if one.colours is not None], axis=1)  # (C, N, h * w)
    own = np.abs((colours * foregrounds).sum(axis=2)).max(axis=0)
    blocks = []
    for start in range(0, len(images), _BLOCK):
        fits = np.abs(colours[:, start : start + _BLOCK] @ foregrounds.T).max(axis=0)
        blocks.append((fits.argmax(axis=1), fits.max(axis=1)))
    return np.concatenate([place for place, _ in blocks]), np.concatenate([fit for _, fit in blocks]), own


def _duplicates(images: Sequence[Examined], fields: Fields) -> Iterator[Finding]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for one in images:
        groups[one.digest].append(one.record)
    for same in groups.values():
        if len(same) > 1:
            yield _finding("exact-duplicate", f"{len(same)} images have the same pixels", same)
    for first, second in fields.twins:
        if images[first].digest != images[second].digest:
            yield _finding(
                "near-duplicate", "two images show nearly the same", [images[first].record, images[second].record]
            )


def _divided(records: Sequence[Record], fields: Fields) -> Iterator[Finding]:
    """Fields whose images are in several parts, be they told by the manifest or by the pixels."""
    parts = [record.split or "train" for record in records]  # what is not divided is trained on
    for members in joined_fields(records, fields):
        counts = Counter(parts[index] for index in members)
        if len(counts) < 2:
            continue
        across = [one for one in fields.seams if one.first in members and parts[one.first] != parts[one.second]]
        shown = [across[0].first, across[0].second] if across else []
        ordered = [records[index] for index in dict.fromkeys([*shown, *members])]
        shares = ", ".join(f"{count} {part}" for part, count in sorted(counts.items()))
        found = _finding("divided-field", f"{len(members)} images of one field: {shares}", ordered)
        yield replace(found, is_below=across[0].is_below if across else None)


def joined_fields(records: Sequence[Record], fields: Fields) -> list[list[int]]:
    """The images of each field: those that the pixels connect, and those that share a name of a field.

    Args:
        records: The images that were compared.
        fields: What the pixels say of them.

    Returns:
        Places in `records`, in order; only fields of several images.
    """
    groups: dict[int, set[int]] = {index: {index} for index in range(len(records))}
    named: dict[str, int] = {}
    for index, record in enumerate(records):
        others = [fields.numbers[index]]
        if record.field_of_view is not None:
            others.append(named.setdefault(record.field_of_view, index))
        for other in others:
            together = groups[index] | groups[other]
            groups.update(dict.fromkeys(together, together))
    return sorted({min(group): sorted(group) for group in groups.values() if len(group) > 1}.values())
