"""The page of a comparison: the paper's table 1, scores and differences with their intervals, and what lies behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nucstyle.data.run_folder import FIGURES, LOG, MEASURES, RESULT, read_config, read_json, read_log
from nucstyle.report import comparison_figures as figures
from nucstyle.report.sections import Picture, Section, discover, gate_parts, picture
from nucstyle.report.tables import measure_table

Result = Mapping[str, Any]
"""A `result.json` of `compare`."""
NONE, ALL, MINORITY = "none", "all", "minority"
IMAGES, GALLERY, FAILURES, STYLE_GRID = "images.json", "gallery.json", "failures.json", "style-grid.png"
"""What is known of the images that are scored; what they gained and lost; what of their content restyled ones lost; the grid of
styles in `samples/`."""
PROTOCOLS = ("full", "transfer")
HIDDEN, OTHER, VALIDATION = "hidden", "other", "validation"
_NAME = 24
"""So many characters of an id are shown."""
_CONVERGED = 0.01
"""Gain of `none` in the last third of the training up to which it counts as converged (docs/method.md)."""
_BEGUN = 0.1
"""Quality of `none` under which a small gain says that a training has hardly begun, not that it is at its end."""


class Strong(str):
    """A cell that is printed bold."""

    is_strong = True


def compare(run: Path) -> Section:
    """A protocol, or every protocol of a run."""
    if "protocol" in read_config(run):
        return _protocol(run)
    found = [run / name for name in PROTOCOLS if (run / name / RESULT).is_file()]
    parts = [_protocol(path) for path in found]
    parts += [discover(run / "modalities")] if (run / "modalities" / "modality.json").is_file() else []
    said = () if found else ("No cell is finished yet.",)
    return Section("Does style augmentation help?", said, parts=tuple(parts))


def shown_tta(result: Result) -> str:
    """The mode of test-time augmentation that pictures are of: of those that most cells have, the one of most views."""
    cells = Counter(tta for arm in result["arms"].values() for seed in arm["seeds"].values() for tta in seed)
    views = ("full", "fast")
    return min(
        cells, key=lambda tta: (-cells[tta], views.index(tta) if tta in views else len(views), tta), default=NONE
    )


def arms_in_order(result: Result) -> list[str]:
    """`none`, then the arms without a style model, then those with one."""
    return sorted(result["arms"], key=lambda arm: (arm != NONE, _has_style(arm), arm))


def _has_style(arm: str) -> bool:
    return "style" in arm.split("+")


def _protocol(run: Path) -> Section:
    result, config = read_json(run / RESULT), read_config(run)
    if not result["arms"]:
        return Section(f"Protocol {result['protocol']}", ("No cell is finished yet.",))
    parts = [
        _published(result, config),
        _scores(run, result),
        _differences(run, result),
        *_learning(run, result, config),
        *_gates(run, result),
        *_gallery(run),
        *_styles(run),
        *_failures(run),
        Section("All measures", (_MEANS.format(tta=shown_tta(result)),), table=measure_table(_means(result))),
    ]
    if (run / OTHER / RESULT).is_file():
        parts.append(_other(run / OTHER))
    return Section(f"Protocol {result['protocol']}", _said(result, config), parts=tuple(parts))


_MEANS = "Means over the seeds, TTA {tta}. A column is an arm, its seed (mean: over all) and the TTA."


def _in_short(result: Result) -> tuple[str, ...]:
    """The answer in a paragraph: the arm of the pictures beside `none` and the best arm without a style model."""
    arm, tta = result.get("shown"), shown_tta(result)
    if arm is None:
        return ()
    said = [
        _answer(arm, reference, name, groups[name], images=result["groups"][name]["images"])
        for one, reference, mode, groups in _compared(result)
        if (one, mode) == (arm, tta)
        for name in (MINORITY, ALL)
        if name in groups and not (name == ALL and _is_minority(result))
    ]
    return (f"In short, with TTA {tta}: {'; '.join(said)}. {_chosen(result)}",) if said else ()


def _is_minority(result: Result) -> bool:
    """Whether all images are of the minority, as hidden ones mostly are: then the two need not both be told."""
    groups = result["groups"]
    return MINORITY in groups and groups[MINORITY]["images"] == groups[ALL]["images"]


def _chosen(result: Result) -> str:
    """By what the arms of the answer were chosen."""
    said = (
        "Of the arms with a style model, and of those without, the one with most finished seeds is told of; of several the best "
        "on validation images"
    )
    if result["on"] == VALIDATION:
        said += "; these are the images that are told of here, so that what is chosen looks a little too good"
    if result["annotated"]:
        said += "; their hidden masks take part in this choice, and in no training"
    return said + "."


def _answer(arm: str, reference: str, group: str, one: Mapping[str, Any], *, images: int) -> str:
    """Better, worse, or neither, as the interval has it."""
    seeds = "one seed" if one["seeds"] == 1 else f"{one['seeds']} seeds"
    interval = _interval(one)
    kind = "95 % interval of fields alone" if one["seeds"] == 1 else "95 % interval"
    span = f"{kind} {interval}" if interval else "too few fields for an interval"
    told = f"{one['mean']:+.3f} on {group} ({images} images of {one['fields']} fields, {seeds}, {span})"
    if interval is None:
        return f"{arm} - {reference} is {told}"
    if not _is_sure(one):
        by = " from one seed" if one["seeds"] == 1 else ""
        return f"whether {arm} or {reference} is better cannot be told{by}: {told}"
    return f"{arm} is {'better' if one['mean'] > 0 else 'worse'} than {reference}: {told}"


def _said(result: Result, config: Mapping[str, Any]) -> tuple[str, ...]:
    seen = "all training masks"
    if result["annotated"]:
        seen = f"the masks of {', '.join(result['annotated'])} alone, with the images of all modalities"
    training = config["recipe"]["training"]
    scored = f"{result['split'][result['on']]} images of the part {result['on']}"
    if result["on"] == HIDDEN:
        scored = f"{result['split'][HIDDEN]} training images whose masks were hidden, though not their colours"
    counts = {arm: sorted(map(int, content["seeds"])) for arm, content in result["arms"].items()}
    cells = ", ".join(f"{arm} ({', '.join(map(str, counts[arm]))})" for arm in arms_in_order(result))
    return (
        *_in_short(result),
        f"Trained with {seen}: {result['split']['train']} training images, recipe {result['recipe']}, {training['steps']} steps "
        f"of {training['batch_size']} crops for every arm. Scored on the {scored}. Arms of one seed start with the "
        f"same weights and see the same crops. Finished arms (seeds): {cells}.",
        "DSB-2018 score; an image without nuclei and without predictions scores 1.0 by our definition. Minority: every modality "
        "but the largest of the training part.",
        *_unlike(result),
    )


def _unlike(result: Result) -> tuple[str, ...]:
    """Seeds whose arms were trained on unlike machines."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for arm in arms_in_order(result):
        for seed, kind in result.get("trained_with", {}).get(arm, {}).items():
            kinds.setdefault(seed, {}).setdefault(kind, []).append(arm)
    told = [
        f"seed {seed}: " + ", ".join(f"{kind} ({', '.join(arms)})" for kind, arms in sorted(kinds[seed].items()))
        for seed in sorted(kinds, key=int)
        if len(kinds[seed]) > 1
    ]
    if not told:
        return ()
    return (
        "Warning: arms of one seed were trained on unlike devices or in unlike number formats, which makes a difference of "
        f"its own between them: {'; '.join(told)}. Train a seed on machines of one kind.",
    )


_PUBLISHED = (
    ("BIOMAGic", "", False, 0.570),
    ("Deep Retina w/o style augmentation", "deep-retina", False, 0.532),
    ("Deep Retina w/ style augmentation", "deep-retina", True, 0.609),
    ("Inom Mirzaev w/o style augmentation", "mirzaev", False, 0.599),
    ("Inom Mirzaev w/ style augmentation", "mirzaev", True, 0.613),
)
"""Table 1 of arXiv 2111.12138: method, its recipe here, whether with style augmentation, IoU score on stage 2."""
_WARNING = (
    "The published figures are those of table 1 of arXiv 2111.12138, on the 106 scored images of stage 2, without seeds or "
    "intervals; BIOMAGic's 0.570 is quoted there as that team's result. Deep Retina's public leaderboard score "
    "was 0.614 without further data, so the 0.532 that its 0.609 is compared to is under-trained. "
)
_ELSEWHERE = "Ours is of other images: only rows of one column can be compared."
_MAY_BE_STAGE_2 = (
    "Ours is of the {images} annotated images of other data that were given (--test): where these are the scored ones of stage "
    "2, the columns are of the same images, though not of the same masks where these were corrected."
)


def _published(result: Result, config: Mapping[str, Any]) -> Section:
    """Table 1 in the paper's form, ours beside the published figures."""
    network, tta = config["recipe"]["segmenter"]["network"], shown_tta(result)
    table = [["method", "published IoU score (stage 2)", f"here, {result['on']}, all", "here, minority", "seeds"]]
    published = result["recipe"] if network == "resnet101" else None
    for title, recipe, styled, score in _PUBLISHED:
        arm = ("style" if styled else NONE) if recipe == published else None
        table.append([title, f"{score:.3f}", *_here(result, arm, tta)])
    for arm in arms_in_order(result):
        recipe = result["recipe"] if result["recipe"] == network else f"{result['recipe']} ({network})"
        table.append([f"{recipe}, {arm}", "-", *_here(result, arm, tta)])
    said = (
        f"Here: TTA {tta}, mean over seeds ± their standard deviation. The published rows are with ResNet-101; a "
        "published recipe with another network has rows of its own below."
    )
    elsewhere = _MAY_BE_STAGE_2.format(images=result["split"][OTHER]) if result["on"] == OTHER else _ELSEWHERE
    return Section("Table 1", (_WARNING + elsewhere, said), table=table)


def _here(result: Result, arm: str | None, tta: str) -> list[str]:
    found = _of_seeds(result, arm, tta) if arm in result["arms"] else []
    if not found:
        return ["not run", "not run", "-"]
    return [*(_spread(_values(found, group)) for group in (ALL, MINORITY)), str(len(found))]


def _of_seeds(result: Result, arm: str | None, tta: str) -> list[Mapping[str, Any]]:
    """S of each seed of an arm."""
    seeds = result["arms"][arm]["seeds"]
    return [seeds[seed][tta] for seed in sorted(seeds, key=int) if tta in seeds[seed]]


def _values(scores: Sequence[Mapping[str, Any]], group: str) -> list[float]:
    """The score of a group with each seed; none where it has no image."""
    found = [_score(one, group) for one in scores]
    return [value for value in found if value is not None]


def _score(scores: Mapping[str, Any], group: str) -> float | None:
    if group == ALL:
        return float(scores["dsb_score"])
    own = scores["minority"] if group == MINORITY else scores["modalities"].get(group, {"dsb_score": None})
    return None if own["dsb_score"] is None else float(own["dsb_score"])


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _rows(result: Result) -> Iterator[tuple[str, str]]:
    """(arm, mode), arms in order, without test-time augmentation first."""
    for arm in arms_in_order(result):
        modes = {tta for seed in result["arms"][arm]["seeds"].values() for tta in seed}
        yield from ((arm, tta) for tta in sorted(modes, key=_plain_first))


def _plain_first(tta: str) -> tuple[bool, str]:
    return tta != NONE, tta


def _groups(result: Result) -> list[str]:
    """All, the minority, the modalities, and the two halves of the largest."""
    halves = [name for name in result["groups"] if name.endswith(("-small-nuclei", "-large-nuclei"))]
    others = sorted(set(result["groups"]) - {ALL, MINORITY, *halves})
    return [name for name in (ALL, MINORITY, *others, *sorted(halves, reverse=True)) if name in result["groups"]]


def arm_table(result: Result) -> list[list[str]]:
    """DSB scores: a row for each arm and TTA mode, mean over seeds ± standard deviation; images and fields in the header."""
    groups = [name for name in _groups(result) if any(_values(_of_seeds(result, *row), name) for row in _rows(result))]
    counts = [result["groups"][name] for name in groups]
    titles = [f"{name} ({one['images']} in {one['fields']})" for name, one in zip(groups, counts, strict=True)]
    table = [["arm", *titles]]
    for arm, tta in _rows(result):
        found = _of_seeds(result, arm, tta)
        table.append([f"{arm}, TTA {tta}", *(_spread(_values(found, name)) for name in groups)])
    return table


def _scores(run: Path, result: Result) -> Section:
    groups, tta = [name for name in _groups(result) if not name.endswith("-nuclei")], shown_tta(result)
    values = {
        arm: {name: _values(_of_seeds(result, arm, tta), name) for name in groups} for arm in arms_in_order(result)
    }
    drawn = picture(figures.scores(values, run / FIGURES), f"TTA {tta}: a dot is a seed, a line the mean over seeds.")
    said = "Mean over seeds ± their standard deviation. In brackets the number of images and of independent fields of view."
    if lacking := result.get("without_field", 0):
        said += (
            f" {lacking} of the {result['groups'][ALL]['images']} images are not known to share their field of view with others "
            "(column field_of_view of the manifest, or borders that continue each other) and count as one each. Tiles that "
            "overlap, were turned or meet in empty background are not found so; name their fields, else intervals are too narrow."
        )
    if cut := _cut_fields(run):
        said += (
            f" {cut} fields of view of these data have images in more than one of train, validation and test, so that scores may "
            "be too good; nucstyle check names them."
        )
    return Section("Scores by modality", (said,), table=arm_table(result), pictures=_shown(drawn), wide=True)


def _cut_fields(run: Path) -> int:
    """How many fields of view have images in several parts, as was found when they were described; 0 where that is not known."""
    path = run / IMAGES
    return read_json(path).get("cut_fields", 0) if path.is_file() else 0


def _shown(drawn: Picture | None) -> tuple[Picture, ...]:
    return () if drawn is None else (drawn,)


_INTERVALS = (
    "Differences are paired by image and seed. The interval goes from the 2.5 to the 97.5 percentile of 10,000 resamples that "
    "draw fields of view and seeds anew together; three seeds understate the spread between trainings, and with one seed the "
    "interval knows nothing of it. Under five fields there is none, and every image is listed below. Bold: several seeds, and "
    "the interval does not hold 0. Better and worse: images by their mean over the seeds. Of many intervals of 95 % one in "
    "twenty misses by chance."
)


def difference_table(result: Result, *, groups: Sequence[str] | None = None, **only: str) -> list[list[str]]:
    """A row for each arm, reference, TTA mode and group: the mean difference, its interval, images better and worse.

    A number is bold (`Strong`) only where it is of several seeds and its interval does not hold 0.

    Args:
        result: Of a comparison.
        groups: To tell of; None = all.
        only: `reference` and `tta` to tell of; left out = all. A row does not name the mode that all have.
    """
    table = [
        ["arm - reference", "group", "images", "fields", "seeds", "difference", "95 % interval", "better", "worse"]
    ]
    for arm, reference, tta, found in _compared(result):
        if {"reference": reference, "tta": tta, **only} != {"reference": reference, "tta": tta}:
            continue
        for name in _groups(result) if groups is None else groups:
            if name in found:
                count = str(result["groups"][name]["images"])
                mode = "" if "tta" in only else f", TTA {tta}"
                table.append([f"{arm} - {reference}{mode}", name, count, *_difference(found[name])])
    return table


def _difference(one: Mapping[str, Any]) -> list[str]:
    """Fields, seeds, mean, interval, better and worse of an entry of `differences`."""
    mean = f"{one['mean']:+.3f}"
    return [
        str(one["fields"]),
        str(one["seeds"]),
        Strong(mean) if _is_sure(one) else mean,
        _interval(one) or "-",
        str(one["better"]),
        str(one["worse"]),
    ]


def _is_sure(one: Mapping[str, Any]) -> bool:
    """Whether there is an interval of several trainings, and it does not hold 0."""
    return one["seeds"] > 1 and one["low"] is not None and (one["low"] > 0 or one["high"] < 0)


def _interval(one: Mapping[str, Any]) -> str | None:
    return None if one["low"] is None else f"{one['low']:+.3f} to {one['high']:+.3f}"


def _compared(result: Result) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """(arm, reference, mode, groups)."""
    for arm, tta in _rows(result):
        for reference in sorted(result["differences"].get(arm, {}), key=_plain_first):
            modes = result["differences"][arm][reference]
            if tta in modes:
                yield arm, reference, tta, modes[tta]


def _differences(run: Path, result: Result) -> Section:
    tta, references = shown_tta(result), list(dict.fromkeys([NONE, result["reference"]]))
    parts = [_to(run, result, reference, tta) for reference in references]
    few = _few(result, tta)
    if len(few) > 1:
        parts.append(Section("Groups of fewer than five fields: every image", (_EVERY.format(tta=tta),), table=few))
    others = dict.fromkeys(mode for *_, mode, _ in _compared(result) if mode != tta)
    parts += [Section(f"To each, TTA {mode}", table=difference_table(result, tta=mode)) for mode in others]
    quality = ", ".join(f"{arm} {result['validation_quality'][arm]:.3f}" for arm in arms_in_order(result))
    chosen = f"Validation (mean of all and minority, over the seeds of none and the TTA modes of all arms): {quality}."
    if result["reference"] not in (None, NONE):
        chosen += f" The best augmentation without a style model, of those with most seeds: {result['reference']}."
    if "shown" not in result:
        chosen += " Summed up by an older nucstyle; compare --resume does it anew."
    return Section("Differences", (_INTERVALS, chosen), parts=tuple(one for one in parts if one is not None))


_EVERY = "TTA {tta}, mean over seeds; the images of a modality that loses most come first."


def _to(run: Path, result: Result, reference: str, tta: str) -> Section | None:
    """The differences to one arm; None where nothing is compared to it."""
    arms = arms_in_order(result)
    found = {arm: groups for arm, other, mode, groups in _compared(result) if (other, mode) == (reference, tta)}
    if not found:
        return None
    ordered = {arm: {name: groups[name] for name in _groups(result)} for arm, groups in found.items()}
    caption = f"TTA {tta}. Hollow: fewer than five fields, a stroke for each image."
    drawn = picture(figures.differences(ordered, reference, arms, run / FIGURES), caption)
    table = difference_table(result, reference=reference, tta=tta)
    return Section(f"To {reference}, TTA {tta}", table=table, pictures=_shown(drawn), wide=True)


def _few(result: Result, tta: str) -> list[list[str]]:
    """Where there is no interval: a row for each image, a column for each comparison."""
    compared = {f"{arm} - {other}": groups for arm, other, mode, groups in _compared(result) if mode == tta}
    table = [["group", "image", *compared]]
    for name in _groups(result):
        found = [groups[name].get("images", {}) for groups in compared.values()]
        for image in sorted(found[-1] if found else (), key=lambda one: (found[-1][one], one)):
            table.append([name, image[:_NAME], *(f"{one[image]:+.3f}" if image in one else "-" for one in found)])
    return table


def _cells(run: Path, result: Result) -> dict[str, list[Path]]:
    """The run folders of each arm, by seed."""
    return {
        arm: [run / arm / f"seed-{seed}" for seed in sorted(result["arms"][arm]["seeds"], key=int)]
        for arm in arms_in_order(result)
    }


def _learning(run: Path, result: Result, config: Mapping[str, Any]) -> list[Section]:
    cells, drawn = _cells(run, result), []
    for file, term, name, title in (
        (LOG, "loss", "loss", "loss"),
        (MEASURES, "quality", "validation-quality", "quality on validation images"),
    ):
        runs = {arm: [_points(cell / file, term) for cell in paths] for arm, paths in cells.items()}
        runs = {arm: present for arm, seeds in runs.items() if (present := [points for points in seeds if points])}
        if runs:
            drawn.append(picture(figures.learning(runs, name, title, arms_in_order(result), run / FIGURES), ""))
    said = (
        "A line is a seed, as logged, not smoothed. Quality: of the averaged weights on the validation images whose masks the "
        "protocol lets see, the mean of the scores of all and of the minority; the model of the best is taken.",
        _converged(cells.get(NONE, []), config["recipe"]["training"]["steps"]),
    )
    pictures = tuple(one for one in drawn if one is not None)
    return [Section("Learning curves", said, pictures=pictures)] if pictures else []


def _points(file: Path, term: str) -> list[tuple[int, float]]:
    return [(int(line["step"]), float(line[term])) for line in read_log(file) if term in line]


def _converged(cells: Sequence[Path], steps: int) -> str:
    """Whether the trainings without anything added had come to their end, so that the budget was fair."""
    gains, best = [], []
    for cell in cells:
        points = _points(cell / MEASURES, "quality")
        early = [value for step, value in points if step <= steps * 2 / 3]
        if early:
            best.append(max(value for _, value in points))
            gains.append(best[-1] - max(early))
    if not gains:
        return "Whether none had converged is not known: it was not measured in the first two thirds of its steps and at the end."
    gain = fmean(gains)
    if fmean(best) < _BEGUN:
        told = f"The best quality of none is {fmean(best):.3f}, so it has hardly begun to learn"
        return f"{told}; give all arms more steps (--set steps=N)."
    verdict = (
        f"under {_CONVERGED}, so the budget is taken for long enough. Where the learning rate has come down by then, as in lite, "
        "only a comparison of more steps (--set steps=N) can tell what these bring"
        if gain < _CONVERGED
        else "not converged; give all arms more steps (--set steps=N)"
    )
    return f"In the last third of its steps the best quality of none rose by {gain:.4f} (mean over seeds): {verdict}."


def _gates(run: Path, result: Result) -> list[Section]:
    """What the gate let through, summed over the seeds of each arm with a style model."""
    parts = []
    for arm, cells in _cells(run, result).items():
        found = [read_json(cell / RESULT).get("gate") for cell in cells if (cell / RESULT).is_file()]
        gates = [one for one in found if one is not None]
        if gates:
            total = [
                [[sum(counts) for counts in zip(*pairs, strict=True)] for pairs in zip(*rows, strict=True)]
                for rows in zip(*(gate["tally"] for gate in gates), strict=True)
            ]
            told = {**gates[0], "tally": total}
            drawn = picture(
                figures.gate(told, arm, run / FIGURES), "Share that passed; its counts are in the table and in the CSV."
            )
            for part in gate_parts(told, f"Restyled images that the gate let through: {arm}"):
                parts.append(replace(part, pictures=_shown(drawn)))
    return parts


def _gallery(run: Path) -> list[Section]:
    """The images that gained and lost most."""
    told = read_json(run / GALLERY) if (run / GALLERY).is_file() else {"pictures": []}
    figures.listed(told["pictures"], "gallery", run / FIGURES)
    parts = []
    for kind in ("gain", "loss"):
        pictures = [
            picture(
                run / "samples" / one["file"],
                f"{one['difference']:+.3f}, seed {one['seed']} ({one['id'][:_NAME]})",
                one["id"],
            )
            for one in told["pictures"]
            if one["kind"] == kind
        ]
        shown = tuple(one for one in pictures if one is not None)
        if shown:
            parts.append(Section(f"Largest {kind}", pictures=shown))
    arm = told.get("arm")
    said = (
        f"{arm} beside none, TTA {told.get('tta')}, by the mean difference over seeds (paper, figure 4). Left the truth, "
        f"white; right the predictions of one seed: in blue the nuclei that both have, in yellow those of {arm} alone, in "
        "red those of none alone. Of larger fields the part that changed most is shown; dark ones are brightened."
    )
    return [Section("Images with the largest gain and the largest loss", (said,), parts=tuple(parts))] if parts else []


def _styles(run: Path) -> list[Section]:
    drawn = picture(run / "samples" / STYLE_GRID, "")
    told = read_json(run / FAILURES) if (run / FAILURES).is_file() else {}
    figures.listed(told.get("styles", []), "style-grid", run / FIGURES)
    said = (
        "Rows are one training image of each modality. The first column is the original; then the same content in each modality, "
        "in the style of that modality's own picture. The framed ones are self-reconstructions (paper, figure 3)."
    )
    return [Section("Restyled images", (said,), pictures=_shown(drawn), wide=True)] if drawn is not None else []


def _failures(run: Path) -> list[Section]:
    """The restyled images that kept least."""
    told = read_json(run / FAILURES)["pictures"] if (run / FAILURES).is_file() else []
    figures.listed([{**one, **one["values"]} for one in told], "failures", run / FIGURES, without=["values"])
    drawn = [picture(run / "samples" / one["file"], _failure(one), one["id"]) for one in told]
    shown = tuple(one for one in drawn if one is not None)
    said = (
        "The worst of four training images for each of the worst pairs of modalities (paper, figure 5): what the gate refuses, "
        "then where nuclei differ least from what surrounds them (separation, 1 = in every pixel), dim nuclei "
        "left as they are. Source, restyled, true nuclei."
    )
    return [Section("Where restyling fails", (said,), pictures=shown)] if shown else []


def _failure(one: Mapping[str, Any]) -> str:
    """What is said of a restyled image that kept little."""
    verdict = "the gate lets it pass" if one["is_used"] else one["reason"]
    values = ", ".join(f"{name} {value:.2f}" for name, value in one["values"].items())
    return f"{one['source']} to {one['target']}: {verdict}; {values} ({one['id'][:_NAME]})"


def _other(run: Path) -> Section:
    """The same cells on another data set."""
    result, config = read_json(run / RESULT), read_config(run)
    parts = (_published(result, config), _scores(run, result), _differences(run, result)) if result["arms"] else ()
    return Section(f"On other data: {result['split'][OTHER]} images", parts=parts)


def _means(result: Result) -> dict[str, Any]:
    """The result with one seed of each arm that is named mean: the means, for the table of all measures."""
    tta = shown_tta(result)
    arms = {arm: _of_seeds(result, arm, tta) for arm in arms_in_order(result)}
    return {"arms": {arm: {"seeds": {"mean": {tta: _mean(found)}}} for arm, found in arms.items() if found}}


def _mean(values: Sequence[Any]) -> Any:  # noqa: ANN401  (a tree of numbers)
    """Trees of numbers, averaged leaf by leaf; a leaf that is None in one is None, and counts stay whole where they can.

    What one tree lacks is left out: cells from before 2026-11-29 say less of each modality.
    """
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _mean([one[key] for one in values]) for key in first if all(key in one for one in values)}
    if any(one is None for one in values):
        return None
    mean = fmean(values)
    return int(mean) if all(isinstance(one, int) for one in values) and mean.is_integer() else mean
