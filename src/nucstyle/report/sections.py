"""What the page says of each kind of run: values for the template, read from the files of a run folder."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from nucstyle.core.config import to_toml
from nucstyle.data.formats import in_words
from nucstyle.data.manifest import file_name
from nucstyle.data.run_folder import ENVIRONMENT, FIGURES, LOG, MEASURES, read_config, read_json, read_log
from nucstyle.report import figures, tables

SHORT_TRAINING = 1000
"""A style model of fewer steps is called what it is: a short training."""
_MAX_PICTURE_PX, _FIRST = 1100, 12


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page."""

    source: str
    """A `data:` address; nothing is fetched."""
    caption: str
    title: str = ""
    """Shown when the pointer rests on it."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page."""

    title: str
    paragraphs: tuple[str, ...] = ()
    figure: str = ""
    """SVG."""
    scatter: Scatter | None = None
    table: Sequence[Sequence[str]] = ()
    """Rows, the header first."""
    pictures: tuple[Picture, ...] = ()
    wide: bool = False
    """Pictures take the whole width."""
    details: str = ""
    """Preformatted text, folded."""
    parts: tuple[Section, ...] = field(default=())
    """Sections within."""


def picture(path: Path, caption: str, title: str = "") -> Picture | None:
    """Embed a PNG, made smaller where it is large; None where the file is missing."""
    if not path.is_file():
        return None
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((_MAX_PICTURE_PX, _MAX_PICTURE_PX * 4))
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(content.getvalue()).decode(), caption, title)


def _present(pictures: Sequence[Picture | None]) -> tuple[Picture, ...]:
    return tuple(one for one in pictures if one is not None)


@dataclass(frozen=True, slots=True)
class Point:
    """One image in the scatter."""

    x: float
    """Place in the picture, px."""
    y: float
    colour: str
    title: str
    tile: str
    """Its tile in the sheet of thumbnails, or empty."""
    is_new: bool


@dataclass(frozen=True, slots=True)
class Scatter:
    """The images in the plane of their principal axes; pointing at one shows it."""

    points: tuple[Point, ...]
    legend: tuple[tuple[str, str], ...]
    """(colour, text) of each modality."""
    sheet: str
    """A `data:` address of the sheet of thumbnails, or empty."""
    columns: int
    """Tiles a row in it."""
    tile_px: int
    width: int
    height: int


_WIDTH, _HEIGHT, _MARGIN = 680, 440, 18
_FEW = 20
"""Fewer images than this calibrate nothing."""


def discover(run: Path) -> Section:
    """Modalities: the scatter, each with its sentence and examples, the images at borders and the new ones."""
    if not (run / "modality.json").is_file():
        return Section("Modalities", ("Not there yet: modality.json is missing.",))
    model, result = read_json(run / "modality.json"), read_json(run / "result.json")
    with (run / "embedding.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted(result["modalities"], key=_order(model))
    examples = {name: sorted((run / "samples" / name).glob("*.png")) for name in names}
    places = [(float(row["x"]), float(row["y"]), row["modality"]) for row in rows]
    figures.modalities(places, examples, run / FIGURES)
    parts = (
        *_number_of_modalities(run, result),
        *(_modality(run, one, result) for one in model["modalities"]),
        *_borders(run, result),
        *_new(run, model, result, len(rows)),
    )
    said = (*_how_found(model, result, rows), _edited(run, result))
    return Section("Modalities", said, scatter=_scatter(run, rows, names, result["tiles"]), parts=parts)


def _order(model: Mapping[str, Any]) -> Callable[[str], tuple[int, str]]:
    """A key that sorts names as the model has them, others after them."""
    places = {one["name"]: place for place, one in enumerate(model["modalities"])}
    return lambda name: (places.get(name, len(places)), name)


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _edited(run: Path, result: Mapping[str, Any]) -> str:
    manifest = run / "manifest.csv"
    if not manifest.is_file() or hashlib.sha256(manifest.read_bytes()).hexdigest() == result["manifest_sha256"]:
        return ""
    return "manifest.csv was edited after this was found: discover --from manifest.csv describes the modalities as they are now."


def _how_found(
    model: Mapping[str, Any], result: Mapping[str, Any], rows: Sequence[Mapping[str, str]]
) -> tuple[str, ...]:
    measured = {
        "chroma": "mean colour, spread of colour and median brightness",
        "hsv": "means and deviations of hue, saturation and value",
    }[model["features"]]
    learned = {one["name"] for one in model["modalities"]}
    said = f"{_count(len(rows), 'image')}, {_count(len(learned), 'modality', 'modalities')}. "
    if others := [name for name in result["modalities"] if name not in learned]:
        said += f"Nothing was learned of {', '.join(others)}: named only outside the part train. "
    if not result["named"]:
        said += (
            f"They were found by K-means on the {measured} of each image. No metadata and no masks were used; the names come "
            "from the colours. Rename, merge or move in manifest.csv: every other verb obeys it, and discover --from divides "
            "the rest around it."
        )
    else:
        said += f"The manifest names {len(result['named'])} of them; images without a name were divided around these by colour."
    if model["clahe"]:
        said += " Dark images were enhanced (CLAHE) before they were measured."
    if len(rows) > result["tiles"]["most"]:
        said += f" The scatter shows {result['tiles']['most']} of the images, in turn from each modality."
    if result["silhouette"] is None:
        return (said,)
    return said, f"Mean silhouette {result['silhouette']:.2f} (1 = far apart, 0 = touching)."


def _scatter(run: Path, rows: Sequence[Mapping[str, str]], names: Sequence[str], tiles: Mapping[str, int]) -> Scatter:
    """Only the images that have a thumbnail are drawn where there are very many."""
    shown = [row for row in rows if row["tile"]] or list(rows)
    xs, ys = [float(row["x"]) for row in shown], [float(row["y"]) for row in shown]
    colours = figures.colours_of(names)

    def place(value: float, values: Sequence[float], size: int) -> float:
        spread = max(values) - min(values)
        share = (value - min(values)) / spread if spread > 0 else 0.5
        return round(_MARGIN + share * (size - 2 * _MARGIN), 1)

    points = tuple(
        Point(
            place(x, xs, _WIDTH),
            _HEIGHT - place(y, ys, _HEIGHT),
            colours.get(row["modality"], "#000000"),
            f"{row['id']} ({row['modality']})",
            row["tile"],
            row["is_new"] == "1",
        )
        for row, x, y in zip(shown, xs, ys, strict=True)
    )
    counts = Counter(row["modality"] for row in rows)
    legend = tuple((colours[name], f"{name} ({counts[name]})") for name in names)
    sheet = run / "samples" / "_tiles.jpg"
    source = "data:image/jpeg;base64," + base64.b64encode(sheet.read_bytes()).decode() if sheet.is_file() else ""
    columns = min(tiles["columns"], len(points))
    return Scatter(points, legend, source, columns, tiles["px"], _WIDTH, _HEIGHT)


def _number_of_modalities(run: Path, result: Mapping[str, Any]) -> tuple[Section, ...]:
    tried = result["candidates"]
    if not tried:
        return ()
    said = (
        f"{result['k_asked']} groups were taken: the largest number whose every group of three images or more is stable "
        "(Jaccard index of at least 0.95 when a tenth of the images is left out), and whose mean silhouette is within two "
        "standard errors of the best. Images of groups of one or two join the nearest other (a twentieth of all at most), so "
        f"{_count(result['k'], 'modality is', 'modalities are')} left."
    )
    if result["k_asked"] == 1:
        said = "One modality: no number of groups was stable and well apart (mean silhouette of at least 0.25)."
    files = figures.candidates(tried, result["k_asked"], run / FIGURES)
    header = ("groups", "of three or more", "silhouette", "standard error", "least stable")
    table = [
        (
            str(one["k"]),
            str(one["modalities"]),
            *(f"{one[name]:.3f}" for name in ("silhouette", "standard_error", "stability")),
        )
        for one in tried
    ]
    return (Section("How many", (said,), table=[header, *table], pictures=_present([picture(files[0], "")])),)


def _modality(run: Path, modality: Mapping[str, Any], result: Mapping[str, Any]) -> Section:
    relation = "brighter" if modality["polarity"] > 0 else "darker"
    name, silhouette = modality["name"], result["silhouettes"][modality["name"]]
    said = (
        f"{modality['sentence']} to fit it, {result['modalities'].get(name, 0)} in all. Objects are {relation} than the "
        f"background (confidence {modality['polarity_confidence']:.2f})."
    )
    if silhouette is not None:
        said += f" Silhouette {silhouette:.2f}."
    examples = sorted((run / "samples" / name).glob("*.png"))
    shown = "Examples from the most typical to the least." if len(examples) > 1 else ""
    return Section(name, (said, shown), pictures=_present([picture(path, "") for path in examples]))


def _borders(run: Path, result: Mapping[str, Any]) -> tuple[Section, ...]:
    pictures = _present(
        [
            picture(run / "samples" / "_borders" / f"{place:02d}.png", " or ".join(one["between"]), one["id"])
            for place, one in enumerate(result["borders"])
        ]
    )
    said = (
        "The images that are nearest to a second modality, nearest first; look at these before you trust the division."
    )
    return (Section("At the borders", (said,), pictures=pictures),) if pictures else ()


def _new(run: Path, model: Mapping[str, Any], result: Mapping[str, Any], count: int) -> tuple[Section, ...]:
    novelty, new = model["novelty"], result["new"]
    said = (
        f"{new['count']} of {count} images lie farther from every modality than {novelty['threshold']:.3f}. That "
        "threshold comes from "
        f"{novelty['n_images']} images of {novelty['calibrated_on']}; of further images like these, about "
        f"{novelty['expected_false_alarms']:.0%} are expected beyond it. A modality that was never seen shows here first."
    )
    if novelty["calibrated_on"] != "validation":
        said += " That rate is optimistic: the modalities were fitted to images that the threshold was taken from."
    if novelty["n_images"] < _FEW:
        said += " So few images cannot tell what is new: take it as a hint."
    folder = sorted((run / "samples" / "_new").glob("*.png"))
    pictures = [picture(path, name[:24], name) for path, name in zip(folder, new["ids"], strict=False)]
    return (Section("Like nothing seen", (said,), pictures=_present(pictures)),)


def train_style(run: Path) -> Section:
    """The style model: its grid and its losses."""
    recipe = read_config(run)["recipe"]
    steps, architecture = recipe["training"]["steps"], recipe["network"]["architecture"]
    grids = sorted((run / "samples").glob("grid-*.png"))
    said = [
        "Rows are one training image of each modality. The first column is the original; then the same content in each modality, "
        "in the style of that modality's own picture. The framed ones are self-reconstructions."
    ]
    if steps < SHORT_TRAINING:
        colours = ": colours are there, texture is not" if architecture == "lookup" else ""
        said.insert(0, f"This is a short training of {steps} steps{colours}.")
    if not grids:
        return Section("Style model", (*said, "No sample grid has been drawn yet."))
    shown = _present([picture(grids[-1], f"after step {int(grids[-1].stem[5:])}")])
    series = {term: {"": points} for term, points in _losses(run).items()}
    parts = [Section("Losses", ("As logged, not smoothed.",), figure=figures.curves(series))] if series else []
    parts += _measures(run, "Measures on validation images", _QUALITY)
    return Section("Style model", tuple(said), pictures=shown, wide=True, parts=tuple(parts))


def _measures(run: Path, title: str, said: str) -> list[Section]:
    """What was measured on validation images while training, as curves; nothing where nothing was."""
    measured = read_log(run / MEASURES)
    if not measured:
        return []
    curves = {
        term: {"": [(int(line["step"]), line[term]) for line in measured]} for term in measured[0] if term != "step"
    }
    return [Section(title, (said,), figure=figures.curves(curves))]


_QUALITY = (
    "Quality: how near all pairs of modalities are to the goals, 1 = all met; the model of the best is kept. It is the mean of K "
    "nuclei kept, D the judge's Dice, F false objects, C taken for the target, M kernel distance; see evaluate-style."
)


def evaluate_style(run: Path) -> Section:
    """The measures of every pair of modalities, the grids, and the gallery of failures."""
    result = read_json(run / "result.json")
    table = Section("Every pair of modalities", (_PAIRS,), table=tables.pair_table(result))
    real = Section("Real images, and the spread of the styles", (_REAL,), table=tables.style_modality_table(result))
    grids = [picture(path, path.stem[8:]) for path in sorted((run / "samples").glob("grid-*.png"))]
    failures = [
        picture(
            run / "samples" / one["file"],
            f"{one['source']} to {one['target']}: {one['reason']} ({one['id'][:8]})",
            one["id"],
        )
        for one in result["gallery"]
    ]
    return Section(
        "Does the style model keep nuclei, and does it reach its modalities?",
        (
            f"Images of the part {result['on']}, {result['draws']} restyled images a pair. Tiles differ from the whole by at "
            f"most {max(one or 0 for one in result['seam_error'].values()):.3f} of the range.",
        ),
        parts=(
            table,
            real,
            Section("Restyled images", (_GRIDS,), pictures=_present(grids), wide=True),
            Section("Failures", (_FAILURES,), pictures=_present(failures)),
        ),
    )


_PAIRS = (
    "Of train: training images, which the model has seen, for want of three annotated images of the part. Nuclei kept: share of "
    "the restyled images whose nuclei are brighter (or darker, as the target has them) than what surrounds them, with an area "
    "under the ROC curve above 0.8; its interval by resampling images. Dice share: Dice of the judge, a network trained on real "
    "images, beside the smaller of its Dice on the source and on real images of the target. Taken for target: share of the "
    "images that a classifier of the trunk's features takes for it, taught with real crops; recognised: by the colours that "
    "modalities are told apart by. Kernel distance: of the trunk's features to real crops of the target; untranslated = that of "
    "the source itself, floor = that between two halves of the real crops. Misses: K nuclei kept < 0.9 (0.95 from bright nuclei "
    "to dark ones), D Dice share < 0.85, F false objects above what is allowed, C taken for target < 0.85, M kernel distance "
    "above the larger of a third of untranslated and 1.5 times the floor."
)
_REAL = "Diversity: the spread of the mean colour over 20 drawn styles, beside that of the real images."
_GRIDS = "The first column is the source, then the same image in each modality; framed is its own. Other styles in every row."
_FAILURES = (
    "The worst draw of each of the worst pairs, by the goal of which it reaches least: nuclei kept, the judge's Dice, or false "
    "objects. Draws that meet all three are not shown. Source, restyled, true nuclei."
)


def augment(run: Path) -> Section:
    """How many images of each modality there are now, what the gate let through, and examples of what it did and did not."""
    images, config = read_json(run / "result.json")["images"], read_config(run)
    examples = read_log(run / "examples.jsonl")
    named = {
        outcome: [one for one in examples if (one["outcome"] == "accepted") == (outcome == "accepted")]
        for outcome in ("accepted", "refused")
    }
    parts = [
        Section("Images of each modality", table=tables.copies_table(images)),
        *_gate(run),
        *(
            Section(
                f"The first of each pair that was {outcome}",
                (_EXAMPLES,),
                pictures=_present([_example(run, one) for one in shown]),
            )
            for outcome, shown in named.items()
            if shown
        ),
    ]
    copies, refused = (sum(images[status].values()) for status in ("restyled", "refused"))
    said = (
        f"{_count(sum(images['original'].values()), 'image')} and {_count(copies, 'restyled copy', 'restyled copies')} of those "
        f"that are trained on, in the layout {config['to']}. Masks are those of the originals."
    )
    left = (
        f" {_count(refused, 'copy was', 'copies were')} left out, since the gate refused every style."
        if refused
        else ""
    )
    return Section("A larger data set", (said + left,), parts=tuple(parts))


_EXAMPLES = (
    "Left the source, right what was made of it, with the outlines of the masks. Dark fields are shown brighter."
)


def _example(run: Path, one: Mapping[str, Any]) -> Picture | None:
    why = "" if one["outcome"] == "accepted" else f": {one['outcome']}"
    return picture(
        run / "samples" / one["file"], f"{one['source']} to {one['target']}{why} ({one['id'][:8]})", one["id"]
    )


def convert(run: Path) -> Section:
    """How many images and nuclei were written, and what the layout could not hold."""
    result = read_json(run / "result.json")
    said = [
        f"{_count(result['images'], 'image')}, {result['annotated']} of them annotated, with "
        f"{_count(result['nuclei'], 'nucleus', 'nuclei')}, in the layout {result['to']}."
    ]
    if result["without_image"]:
        said.append(
            f"{_count(result['without_image'], 'image was', 'images were')} not found: their nuclei were written alone."
        )
    if result["losses"]:
        said.append(f"What the layout cannot hold: {in_words(result['losses'])}.")
    if result["refused"]:
        said.append(f"Could not be used: {', '.join(result['refused'])}.")
    return Section("Written", tuple(said))


def translate(run: Path) -> Section:
    """The grid of images in every modality, and which modality each of them was taken for."""
    result = read_json(run / "result.json")
    images, exemplar, grid = result["images"], result["exemplar"], result["grid"]
    said = [
        "A row is an image: the original, then the same image in each modality. Framed is its own modality, in the image's own "
        "style: what differs from the original there is the model's error. The other styles are drawn from those of the "
        f"images that the model learned from. Of fields larger than {grid['view_px']} px the middle is shown.",
        f"The pictures in full size are in pictures/, {_count(len(images), 'folder')}, one an image.",
    ]
    if exemplar:
        said[0] += (
            f" The last column has the style of {exemplar['name']}, which stands above it and was taken for "
            f"{exemplar['modality']}."
        )
    if len(images) > grid["rows"]:
        said[1] += f" The grid shows the first {grid['rows']}."
    rows = [("image", "modality", "where from", "like what the model has seen")]
    rows += [
        (name, one["source"], one["source_from"], "no" if one["is_new"] else "yes") for name, one in images.items()
    ]
    shown = _present([picture(run / "grid.png", "")])
    table = Section("Which modality an image was taken for", table=rows)
    return Section("Restyled images", tuple(said), pictures=shown, wide=True, parts=(table,) if images else ())


def train_segmenter(run: Path) -> Section:
    """The losses of a segmenter."""
    series = {term: {"": points} for term, points in _losses(run).items()}
    augment = read_config(run).get("augment", "none")
    said = f"Trained with augmentation: {augment}."
    scores = _measures(run, "Scores on validation images", _SCORES)
    parts = (*scores, *_gate(run))
    return Section("Segmenter", (said,), figure=figures.curves(series) if series else "", parts=parts)


def _gate(run: Path) -> list[Section]:
    """What the gate let through; nothing where there was none, or the run is not finished."""
    gate = read_json(run / "result.json").get("gate") if (run / "result.json").is_file() else None
    return [] if gate is None else gate_parts(gate, "Restyled images that the gate let through")


def gate_parts(gate: Mapping[str, Any], title: str) -> list[Section]:
    """The matrix of what the gate let through, and why not; `gate` as in a `result.json`."""
    why = Section("Why not", table=tables.refusal_table(gate))
    return [Section(title, (_GATE,), table=tables.gate_table(gate), parts=(why,))]


_GATE = (
    "Of the restyled images of each pair of modalities, the share whose nuclei are where they were, and how many were looked at. "
    "For one that is refused another style of the same modality is drawn. Given up: all were refused; the original was kept, "
    "or there is no such copy."
)


_SCORES = (
    "DSB-2018 score of the averaged weights without test-time augmentation: of all images, and of the minority (every modality "
    "but the largest). Quality is their mean; the model of the best is kept."
)


def _losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Term -> (step, value), from the log."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in read_log(run / LOG):
        for term, value in line.items():
            if term not in ("step", "time", "skipped"):
                series.setdefault(term, []).append((int(line["step"]), float(value)))
    return series


def predict(run: Path) -> Section:
    """How many nuclei were found, what may be missing, and the first pictures."""
    result = read_json(run / "result.json")
    found = result["images"]
    total = sum(one["n_nuclei"] for one in found.values())
    counted = f"{_count(total, 'nucleus', 'nuclei')} in {_count(len(found), 'image')}"
    said = f"{counted}. Contours: blue = predicted, yellow = ground truth where the data has it."
    dropped = sum(one.get("n_dropped", 0) for one in found.values())  # runs from before 2026-11-29 do not say
    if dropped:
        said += f" {dropped} more were found and are left out: covered by better ones, too small, or in fragments."
    first = list(found)[:_FIRST]
    pictures = [picture(_overlay(run, name), f"{name[:24]}: {found[name]['n_nuclei']} nuclei", name) for name in first]
    if len(found) > _FIRST:
        said += f" The first {_FIRST} are shown; all label maps are in predictions/."
    lacking = [
        f"{why}: {', '.join(result[key])}."
        for key, why in (
            ("refused", "Could not be used"),
            ("capped", "There may be more nuclei than the segmenter may find in a tile"),
        )
        if result.get(key)
    ]
    return Section("Predictions", (said, *lacking), pictures=_present(pictures))


def _overlay(run: Path, image_id: str) -> Path:
    return run / "samples" / f"{file_name(image_id)}_overlay.png"


def evaluate(run: Path) -> Section:
    """All scores, and the worst, the median and the best image."""
    result = read_json(run / "result.json")
    extremes = Section("Worst, median and best image", (_CONTOURS,), pictures=_extremes(run, result, best=True))
    measures = Section("All measures", table=tables.measure_table(result), wide=True)
    return Section("Scores", (_SCORE,), table=tables.score_table(result), parts=(extremes, measures))


_SCORE = (
    "DSB-2018 score: the mean over IoU thresholds 0.50 to 0.95 of TP / (TP + FP + FN), then over images; the number of "
    "images stands in brackets. An image without nuclei and without predictions scores 1.0 by our definition. "
    "Minority: every modality but the largest of the training part."
)
_CONTOURS = "Contours: yellow = ground truth, blue = prediction. Dark fields are shown brighter than they are."


def _extremes(run: Path, scores: Mapping[str, Any], *, best: bool, prefix: str = "") -> tuple[Picture, ...]:
    order = sorted(scores["images"], key=lambda name: (scores["images"][name], name))
    chosen = {"worst": order[0], "median": order[len(order) // 2]} | ({"best": order[-1]} if best else {})
    captions = {place: f"{prefix}{place}: {scores['images'][name]:.3f} ({name[:8]})" for place, name in chosen.items()}
    return _present([picture(_overlay(run, name), captions[place], name) for place, name in chosen.items()])


_LISTED, _NAMED = 12, 3
"""So many findings of a kind are listed on the page, with so many of their images; `findings.json` has all."""


def check(run: Path) -> Section:
    """What the doctor found: what is there, the kinds of faults, and each with its files and pictures."""
    result, found = read_json(run / "result.json"), read_json(run / "findings.json")["findings"]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        kinds.setdefault(one["kind"], []).append(one)
    said = (
        f"Taken for the layout {result['layout']}: {result['reason']}.",
        f"{_count(result['errors'], 'error')}: a training would fail, or learn what is wrong."
        if result["errors"]
        else "No errors: a training would work.",
    )
    faults = [
        ("fault", "how bad", "found"),
        *((same[0]["title"], same[0]["severity"], str(len(same))) for same in kinds.values()),
    ]
    parts = (
        Section("What is there", table=_what_is_there(result)),
        Section("What was found", () if kinds else ("Nothing.",), table=faults if kinds else ()),
        *(_fault(run, same) for same in kinds.values()),
    )
    return Section("The data set", said, parts=parts)


def _what_is_there(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    nuclei, fields = result["nuclei"], result["fields"]
    rows = [("", "number"), ("images", str(result["images"])), ("annotated images", str(result["annotated"]))]
    for one, title in (("size", "sizes"), ("type", "types"), ("part", "parts"), ("modality", "modalities")):
        counts = sorted(result[title].items(), key=lambda item: -item[1])
        rows += [(f"images of {one} {name}", str(count)) for name, count in counts]
    rows.append((f"images in {_count(fields['several'], 'field')} of view of several", str(fields["images"])))
    spread = f"{nuclei['least']} to {nuclei['most']} an image, median {nuclei['median']:g}"
    return [*rows, (f"nuclei, {spread}", str(nuclei["all"]))]


def _fault(run: Path, same: Sequence[Mapping[str, Any]]) -> Section:
    first = same[0]
    rows = [
        ("what", "images", "file"),
        *((one["says"], _images(one["ids"]), _file(one["files"])) for one in same),
    ]
    more = f" {len(same) - _LISTED} more are in findings.json." if len(same) > _LISTED else ""
    pictures = [
        picture(
            run / "samples" / one["picture"],
            " and ".join(name[:8] for name in one["ids"][:2]),
            one["says"],
        )
        for one in same
        if "picture" in one
    ]
    said = f"{first['severity'].capitalize()}. What to do: {first['remedy']}.{more}"
    return Section(first["title"].capitalize(), (said,), table=rows[: _LISTED + 1], pictures=_present(pictures))


def _images(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(_short(name) for name in ids[:_NAMED]) + more


def _file(files: Sequence[str]) -> str:
    return "/".join(_short(part, 20) for part in Path(files[0]).parts[-2:]) if files else ""


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else name[: most - 3] + "..."


def demo(run: Path) -> tuple[Section, ...]:
    """The whole demo: scores first, then the way there."""
    result, config = read_json(run / "result.json"), read_config(run)["demo"]
    cells = {arm: run / result["protocol"] / arm / f"seed-{result['seed']}" for arm in result["arms"]}
    counts = result["split"]
    said = (
        f"On {counts['train']} training images, a style model was trained for {config['style_steps']} steps and each segmenter "
        f"for {config['segmenter_steps']} steps; the {counts['validation']} validation images were predicted and scored.",
        "These trainings are far too short, the images too few and the seed is only one: the numbers show that every part works, "
        "and nothing about which arm is better.",
        _SCORE,
    )
    scores = Section("Scores", said, table=tables.score_table(result))
    losses = {arm: _losses(cell) for arm, cell in cells.items()}
    terms = next(iter(losses.values()))
    series = {term: {arm: losses[arm].get(term, []) for arm in cells} for term in terms}
    learning = Section("Losses of the arms", ("As logged, not smoothed.",), figure=figures.curves(series))
    parts = (learning, *(_arm(arm, cell, result, config["tta"][-1]) for arm, cell in cells.items()))
    measures = Section("All measures", table=tables.measure_table(result))
    return (
        scores,
        discover(run / "modalities"),
        train_style(run / "style"),
        Section("Segmentation", parts=(*parts, measures)),
    )


def _arm(arm: str, cell: Path, result: Mapping[str, Any], tta: str) -> Section:
    scores = result["arms"][arm]["seeds"][str(result["seed"])][tta]
    name = "without style augmentation" if arm == "none" else f"with {arm} augmentation"
    pictures = _extremes(cell / "validation" / f"tta-{tta}", scores, best=False)
    return Section(f"Arm {arm!r}: worst and median image {name}", (f"TTA {tta}. {_CONTOURS}",), pictures=pictures)


def origin(run: Path) -> Section:
    """What the run was made with."""
    config = read_config(run)
    details = to_toml(config)
    environment = run / ENVIRONMENT
    if environment.is_file():
        details += "\n" + json.dumps(read_json(environment), indent=1)
    said = "The config determines the result; the environment is where it ran."
    if config["verb"] == "compare" and "protocol" not in config:
        said = "The settings of a protocol are in PROTOCOL/config.toml, and on the page in that folder; here is what all share."
    return Section("How this was made", (said,), details=details)
