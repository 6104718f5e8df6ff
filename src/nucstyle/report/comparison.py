"""Tables of a comparison: arms with the spread of their seeds, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nucstyle.data.run_folder import RESULT, read_config, read_json
from nucstyle.report.sections import Section

Result = Mapping[str, Any]
"""A `result.json` of `compare`."""


def arm_table(result: Result) -> list[list[str]]:
    """DSB scores: a row for each arm and TTA mode, mean over seeds ± standard deviation; the number of images in the header."""
    names = [name for name in result["groups"] if _is_scored(result, name)]
    header = ["arm, TTA (seeds)", *(f"{name} ({result['groups'][name]['images']})" for name in names)]
    table = [header]
    for arm, tta, scores in _rows(result):
        table.append(
            [f"{arm}, {tta} ({len(scores)})", *(_spread([_score(one, name) for one in scores]) for name in names)]
        )
    return table


def _is_scored(result: Result, group: str) -> bool:
    """Whether S has the score of a group, which it has not for the halves of the largest modality."""
    first = next((scores[0] for *_, scores in _rows(result)), None)
    return first is not None and (group in ("all", "minority") or group in first["modalities"])


def _rows(result: Result) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """(arm, mode, S of each seed)."""
    rows = []
    for arm, content in result["arms"].items():
        modes = list(dict.fromkeys(tta for seed in content["seeds"].values() for tta in seed))
        for tta in sorted(modes, key=lambda name: (name != "none", name)):
            rows.append((arm, tta, [seed[tta] for seed in content["seeds"].values() if tta in seed]))
    return rows


def _score(scores: Mapping[str, Any], group: str) -> float:
    if group == "all":
        return float(scores["dsb_score"])
    return float((scores["minority"] if group == "minority" else scores["modalities"][group])["dsb_score"])


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def difference_table(result: Result) -> list[list[str]]:
    """A row for each arm, reference, TTA mode and group: the mean difference, its interval, images better and worse."""
    table = [["arm - reference, TTA", "group", "images", "difference", "95 % interval", "fields", "better", "worse"]]
    for arm, references in result["differences"].items():
        for reference, modes in references.items():
            for tta, groups in sorted(modes.items(), key=lambda pair: (pair[0] != "none", pair[0])):
                for name in result["groups"]:
                    table.append([f"{arm} - {reference}, {tta}", name, *_cells(result, name, groups[name])])
    return table


def _cells(result: Result, group: str, one: Mapping[str, Any]) -> list[str]:
    span = f"{one['low']:+.3f} to {one['high']:+.3f}" if one["low"] is not None else "-"
    images = str(result["groups"][group]["images"])
    return [images, f"{one['mean']:+.3f}", span, *(str(one[name]) for name in ("fields", "better", "worse"))]


def compare(run: Path) -> Section:
    """A protocol, or every protocol of a run."""
    if "protocol" in read_config(run):
        return _protocol(run)
    found = [run / name for name in ("full", "transfer") if (run / name / RESULT).is_file()]
    return Section("Comparison", parts=tuple(_protocol(path) for path in found))


def _protocol(run: Path) -> Section:
    result = read_json(run / RESULT)
    scores = Section("Scores", table=arm_table(result))
    differences = Section("Differences", table=difference_table(result))
    return Section(f"Protocol {result['protocol']}", parts=(scores, differences))
