"""Tables of scores, as plain cells for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nucstyle.metrics.translation import goal_shares

Scores = Mapping[str, Any]
"""S of a `result.json`: the scores of one set of predictions."""


def arms_of(result: Mapping[str, Any]) -> list[tuple[str, str, str, Scores]]:
    """Every (arm, seed, TTA mode, scores) of a result, seeds in the order of their numbers; one nameless arm for `evaluate`."""
    if "arms" not in result:
        return [("", "", "", result)]
    return [
        (arm, seed, tta, scores)
        for arm, content in result["arms"].items()
        for seed, modes in sorted(content["seeds"].items(), key=lambda pair: (len(pair[0]), pair[0]))
        for tta, scores in modes.items()
    ]


def score_table(result: Mapping[str, Any]) -> list[list[str]]:
    """DSB scores: a row for each arm, seed and TTA mode; a column for all images, the minority, and each modality.

    Args:
        result: A `result.json` of `demo`, `compare` or `evaluate`.

    Returns:
        Rows of text, the header first; `-` where there is no image. The number of images stands in the header.
    """
    rows = arms_of(result)
    names = sorted({name for *_, scores in rows for name in scores["modalities"]})
    first = rows[0][3]
    counts = [first["n_images"], first["minority"]["n_images"]]
    counts += [first["modalities"].get(name, {"n_images": 0})["n_images"] for name in names]
    titles = [f"{title} ({count})" for title, count in zip(["all", "minority", *names], counts, strict=True)]
    table = [["arm, seed, TTA" if "arms" in result else "DSB score", *titles]]
    for arm, seed, tta, scores in rows:
        values = [scores["dsb_score"], scores["minority"]["dsb_score"]]
        values += [scores["modalities"].get(name, {"dsb_score": None})["dsb_score"] for name in names]
        table.append([f"{arm}, {seed}, {tta}" if arm else "DSB score", *(number(value) for value in values)])
    return table


def measure_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Everything that was measured: a row a measure, a column an arm; of one set of predictions a column a group of images.

    Groups of which a result from before 2026-11-29 holds the DSB score alone are left out.
    """
    if "arms" in result:
        columns = [(f"{arm}, {seed}, {tta}", scores) for arm, seed, tta, scores in arms_of(result)]
    else:
        groups = {"minority": result["minority"], **result["modalities"]}
        columns = [("all", result), *((name, one) for name, one in groups.items() if "f1" in one)]
    table = [["measure", *(title for title, _ in columns)]]
    for title, path in _MEASURES:
        table.append([title, *(number(_look_up(scores, path)) for _, scores in columns)])
    for group, found in columns[0][1].get("recall70_by_size", {}).items():
        cells = [_recall(scores["recall70_by_size"][group], found["n"]) for _, scores in columns]
        table.append([f"recall at IoU 0.7, {group} nuclei (n = {found['n']})", *cells])
    return table


def _recall(found: Mapping[str, Any], total: int) -> str:
    """With the number of nuclei where it is not that of the whole row."""
    return number(found["recall"]) + (f" ({found['n']})" if 0 < found["n"] != total else "")


_MEASURES = (
    ("DSB score", ("dsb_score",)),
    ("DSB AP at IoU 0.50", ("dsb_ap", "0.50")),
    ("DSB AP at IoU 0.75", ("dsb_ap", "0.75")),
    ("F1 at IoU 0.50", ("f1",)),
    ("precision at IoU 0.50", ("precision",)),
    ("recall at IoU 0.50", ("recall",)),
    ("panoptic quality", ("pq",)),
    ("segmentation quality", ("sq",)),
    ("recognition quality", ("rq",)),
    ("aggregated Jaccard index", ("aji",)),
    ("nuclei split in several", ("splits",)),
    ("predictions that merge several", ("merges",)),
)


def _look_up(scores: Scores, path: tuple[str, ...]) -> float | int | None:
    value: Any = scores
    for key in path:
        value = value[key]
    result: float | int | None = value
    return result


def number(value: float | None) -> str:
    """A score with three decimals, a count as it is, `-` for nothing."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def missed(pair: Mapping[str, Any]) -> str:
    """The letters of the goals that a pair misses, see `metrics.translation.goal_shares`."""
    return "".join(letter for letter, share in goal_shares(pair).items() if share < 1)


def pair_table(result: Mapping[str, Any]) -> list[list[str]]:
    """The measures of every (source, target) pair of `evaluate-style`, rows of text, the header first."""
    table = [
        [
            "source",
            "target",
            "misses",
            "images",
            "nuclei kept",
            "interval (few images: each)",
            "Dice share",
            "false per nucleus (allowed)",
            "taken for target",
            "recognised",
            "kernel distance (untranslated, floor)",
            "cycle error",
        ]
    ]
    for pair in result["pairs"]:
        images = f"{pair['images']}{' of train' if pair['from_train'] else ''}"
        if not pair["draws"]:
            table.append([pair["source"], pair["target"], "-", images, *["-"] * 8])
            continue
        distances = [pair[f"kernel_distance{part}"] for part in ("", "_untranslated", "_floor")]
        first, *others = ["-" if one is None else f"{one:.1f}" for one in distances]
        table.append(
            [
                pair["source"],
                pair["target"],
                missed(pair),
                images,
                f"{pair['nuclei_kept']:.2f}",
                _interval(pair),
                f"{pair['dice_share']:.2f}",
                f"{pair['false_per_nucleus']:.2f} ({pair['false_allowed']:.2f})",
                f"{pair['taken_for_target']:.2f}",
                f"{pair['recognised']:.2f}",
                f"{first} ({', '.join(others)})",
                f"{pair['cycle_error']:.3f}",
            ]
        )
    return table


def copies_table(images: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """How many images of each modality there are; rows of text, the header first.

    Args:
        images: As in a `result.json` of `augment`: by status (original, restyled, refused) and modality.
    """
    names = sorted({name for counts in images.values() for name in counts})
    table = [["modality", "originals", "restyled copies", "now", "copies refused"]]
    for name in names:
        original, restyled, refused = (images[status].get(name, 0) for status in ("original", "restyled", "refused"))
        table.append([name or "-", *map(str, (original, restyled, original + restyled, refused))])
    return table


def gate_table(gate: Mapping[str, Any]) -> list[list[str]]:
    """Which share of the restyled images the gate let through, for each pair of modalities; rows of text, the header first.

    Args:
        gate: As in a `result.json`: `modalities`, `outcomes` (the first is that an image was accepted, the last that the original
            was kept after the last attempt), and `tally`, [source][target][outcome].
    """
    names = gate["modalities"]
    table = [["source", *(f"to {name}" for name in names)]]
    for name, row in zip(names, gate["tally"], strict=True):
        table.append([name, *(_accepted(counts) for counts in row)])
    return table


def _accepted(counts: Sequence[int]) -> str:
    share = accepted_share(counts)
    return "-" if share is None else f"{share:.2f} of {sum(counts[:-1])}"


def accepted_share(counts: Sequence[int]) -> float | None:
    """Of the images that the gate looked at those that passed, by the counts of the outcomes of a pair; None = it saw none."""
    tried = sum(counts[:-1])
    return counts[0] / tried if tried else None


def refusal_table(gate: Mapping[str, Any]) -> list[list[str]]:
    """How often each came of a restyled image, over all pairs; rows of text, the header first. `gate` as in `gate_table`."""
    totals = [sum(counts[k] for row in gate["tally"] for counts in row) for k in range(len(gate["outcomes"]))]
    return [["outcome", "images"], *([name, str(count)] for name, count in zip(gate["outcomes"], totals, strict=True))]


def _interval(pair: Mapping[str, Any]) -> str:
    """The interval of the nuclei kept, or the share of each image where there are too few for one."""
    if pair["nuclei_kept_interval"] is None:
        return ", ".join(f"{share:.2f}" for share in pair["nuclei_kept_by_image"].values())
    low, high = pair["nuclei_kept_interval"]
    return f"{low:.2f} to {high:.2f}"


def style_modality_table(result: Mapping[str, Any]) -> list[list[str]]:
    """What `evaluate-style` says of each modality by itself, rows of text, the header first."""
    table = [
        [
            "modality",
            "images",
            "nuclei are",
            "judge's Dice",
            "false per nucleus",
            "real crops",
            "self error",
            "diversity (real)",
        ]
    ]
    for name, one in result["modalities"].items():
        table.append(
            [
                name,
                f"{one['sources']}{' of train' if one['from_train'] else ''}",
                "brighter" if one["sign"] > 0 else "darker",
                number(one["dice"]),
                number(one["false_per_nucleus"]),
                str(one["crops"]),
                number(one["self_error"]),
                f"{one['diversity']:.3f} ({one['diversity_real']:.3f})",
            ]
        )
    return table
