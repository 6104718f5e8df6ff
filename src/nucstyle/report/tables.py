"""Tables of scores, as plain cells for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Scores = Mapping[str, Any]
"""S of a `result.json`: the scores of one set of predictions."""


def arms_of(result: Mapping[str, Any]) -> list[tuple[str, str, str, Scores]]:
    """Every (arm, seed, TTA mode, scores) of a result, in a fixed order; one nameless arm for `evaluate`."""
    if "arms" not in result:
        return [("", "", "", result)]
    return [
        (arm, seed, tta, scores)
        for arm, content in result["arms"].items()
        for seed, modes in sorted(content["seeds"].items(), key=lambda pair: int(pair[0]))
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
    """Everything else that was measured over all images: a row a measure, a column an arm."""
    rows = arms_of(result)
    header = ["measure", *(f"{arm}, {seed}, {tta}" if arm else "value" for arm, seed, tta, _ in rows)]
    table = [header]
    for title, path in _MEASURES:
        table.append([title, *(number(_look_up(scores, path)) for *_, scores in rows)])
    sizes = rows[0][3].get("recall70_by_size", {})
    for group, found in sizes.items():
        cells = [number(scores["recall70_by_size"][group]["recall"]) for *_, scores in rows]
        table.append([f"recall at IoU 0.7, {group} nuclei (n = {found['n']})", *cells])
    return table


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
