"""What it is worth to images of a part that training has other tiles of their fields of view, as Markdown on standard output.

    python benchmarks/leak.py found/manifest.csv RESULT.json [OTHER.json] [--part validation] [--tta fast] [--without FILE.csv]

The annotated images of a part are told apart by whether a training image is of the same field of view, by name or by the
pixels, and the DSB-2018 scores of both kinds are given from a `result.json` of `evaluate` or of a cell of `compare`, the
largest modality by itself. Images of one kind may be easier than those of the other. So `--without` writes a manifest that
lacks these training images, and the scores of a segmenter that was trained on it are subtracted as OTHER: what the images
without tiles in training lose is the price of fewer images, and what the others lose beyond that is what the tiles were worth.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from nucstyle.core.protocols import SILENT
from nucstyle.data.dataset import open_dataset
from nucstyle.data.manifest import Record, write_manifest
from nucstyle.data.run_folder import read_json
from nucstyle.metrics.intervals import paired_difference
from nucstyle.workflows.division import name_fields

Scores = Mapping[str, float]
TRAINING = ("train", None)
"""Images that are not divided are trained on."""


def scores_of(path: Path, part: str, tta: str) -> Scores:
    """The score of every image by id."""
    result = read_json(path, remedy="give the result.json of evaluate or of a cell of compare")
    found: Scores = (result["scores"][part][tta] if "scores" in result else result)["images"]
    return found


def groups_of(records: list[Record], part: str) -> dict[tuple[str, str], list[str]]:
    """(modality, whether training has tiles of the fields) -> the ids of the annotated images of a part."""
    train = [record for record in records if record.split in TRAINING]
    seen = {record.field_of_view for record in train} - {None}
    counts = Counter(record.modality for record in train)
    largest = max(counts, key=counts.__getitem__, default=None)
    groups: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.split == part and record.labels is not None:
            modality = str(record.modality) if record.modality == largest else "all others"
            kind = "in training" if record.field_of_view in seen else "not in training"
            groups.setdefault((modality, kind), []).append(record.id)
    return dict(sorted(groups.items()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--part", default="validation")
    parser.add_argument("--tta", default="fast")
    parser.add_argument("--without", type=Path, metavar="FILE.csv")
    arguments = parser.parse_args()
    records, _ = name_fields(open_dataset(arguments.data), SILENT)
    fields = {record.id: record.field_of_view for record in records}
    one = scores_of(arguments.result, arguments.part, arguments.tta)
    other = scores_of(arguments.other, arguments.part, arguments.tta) if arguments.other else None
    groups = groups_of(records, arguments.part)
    asked = {name for ids in groups.values() for name in ids}
    for path, scores in ((arguments.result, one), (arguments.other, other)):
        if scores is not None and (lacking := sorted(asked - scores.keys())):
            parser.error(
                f"{path}: no score of {lacking[0]} and {len(lacking) - 1} other images of the part {arguments.part}"
            )
    print(
        "| modality | other tiles of the field | images | fields | score | difference |\n| --- | --- | --- | --- | --- | --- |"
    )
    for (modality, kind), ids in groups.items():
        own = {name: one[name] for name in ids}
        changed = ""
        if other is not None:
            found = paired_difference([own], [{name: other[name] for name in ids}], fields)
            held = "" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})"
            changed = f"{found.mean:+.3f}{held}"
        many = len({fields[name] or name for name in ids})
        print(f"| {modality} | {kind} | {len(ids)} | {many} | {fmean(own.values()):.3f} | {changed} |")
    if arguments.without:
        cut = {record.field_of_view for record in records if record.split == arguments.part} - {None}
        kept = [one for one in records if one.split not in TRAINING or one.field_of_view not in cut]
        write_manifest(arguments.without, kept)
        print(f"\n{len(records) - len(kept)} training images are not in {arguments.without}")


if __name__ == "__main__":
    main()
