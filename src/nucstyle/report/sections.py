"""What the page says of each kind of run: values for the template, read from the files of a run folder."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from nucstyle.core.config import to_toml
from nucstyle.data.run_folder import ENVIRONMENT, LOG, read_config, read_json, read_log
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


def discover(run: Path) -> Section:
    """Modalities: the scatter, and each with its sentence and examples."""
    if not (run / "modality.json").is_file():
        return Section("Modalities", ("Not there yet: modality.json is missing.",))
    model, result = read_json(run / "modality.json"), read_json(run / "result.json")
    with (run / "embedding.csv").open(encoding="utf-8", newline="") as file:
        points = [(row["id"], float(row["x"]), float(row["y"]), row["modality"]) for row in csv.DictReader(file)]
    silhouette = result["silhouette"]
    count = f"{len(points)} images, {len(model['modalities'])} modalities."
    said = f"{count} The manifest names them; images without a name got the nearest by colour."
    if result["named_by"] == "k-means":
        said = (
            f"{count} They were found by K-means on the means and deviations of hue, saturation and value. No metadata and no "
            "masks were used; the names come from the colours."
        )
    how_well = "" if silhouette is None else f"Mean silhouette {silhouette:.2f} (1 = far apart, 0 = touching)."
    parts = tuple(_modality(run, one, result["modalities"].get(one["name"], 0)) for one in model["modalities"])
    return Section("Modalities", (said, how_well), figure=figures.scatter(points), parts=parts)


def _modality(run: Path, modality: Mapping[str, Any], count: int) -> Section:
    relation = "brighter" if modality["polarity"] > 0 else "darker"
    said = (
        f"{modality['sentence']} to fit it, {count} in all. Objects are {relation} than the background "
        f"(confidence {modality['polarity_confidence']:.2f})."
    )
    examples = sorted((run / "samples" / modality["name"]).glob("*.png"))
    return Section(modality["name"], (said,), pictures=_present([picture(path, "") for path in examples]))


def train_style(run: Path) -> Section:
    """The style model: its grid and its losses."""
    config = read_config(run)
    steps = config["recipe"]["training"]["steps"]
    grids = sorted((run / "samples").glob("grid-*.png"))
    said = [
        "Rows are one training image of each modality. The first column is the original; then the same content in each modality, "
        "in the style of that modality's own picture. The framed ones are self-reconstructions."
    ]
    if steps < SHORT_TRAINING:
        said.insert(0, f"This is a short training of {steps} steps: colours are there, texture and sharpness are not.")
    if not grids:
        return Section("Style model", (*said, "No sample grid has been drawn yet."))
    shown = _present([picture(grids[-1], f"after step {int(grids[-1].stem[5:])}")])
    series = {term: {"": points} for term, points in _losses(run).items()}
    learning = Section("Losses", ("As logged, not smoothed.",), figure=figures.curves(series)) if series else None
    return Section("Style model", tuple(said), pictures=shown, wide=True, parts=(learning,) if learning else ())


def train_segmenter(run: Path) -> Section:
    """The losses of a segmenter."""
    series = {term: {"": points} for term, points in _losses(run).items()}
    augment = read_config(run).get("augment", "none")
    said = f"Trained with augmentation: {augment}."
    return Section("Segmenter", (said,), figure=figures.curves(series) if series else "")


def _losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Term -> (step, value), from the log."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in read_log(run / LOG):
        for term, value in line.items():
            if term not in ("step", "time", "skipped"):
                series.setdefault(term, []).append((int(line["step"]), float(value)))
    return series


def predict(run: Path) -> Section:
    """How many nuclei were found, and the first pictures."""
    found = read_json(run / "result.json")["images"]
    total = sum(one["n_nuclei"] for one in found.values())
    said = f"{total} nuclei in {len(found)} images. Contours: blue = predicted, yellow = ground truth where the data has it."
    first = list(found)[:_FIRST]
    pictures = [picture(_overlay(run, name), f"{name[:24]}: {found[name]['n_nuclei']} nuclei", name) for name in first]
    if len(found) > _FIRST:
        said += f" The first {_FIRST} are shown; all label maps are in predictions/."
    return Section("Predictions", (said,), pictures=_present(pictures))


def _overlay(run: Path, image_id: str) -> Path:
    name = image_id.replace("/", "_").replace("\\", "_")
    return run / "samples" / f"{name}_overlay.png"


def evaluate(run: Path) -> Section:
    """All scores, and the worst, the median and the best image."""
    result = read_json(run / "result.json")
    extremes = Section("Worst, median and best image", (_CONTOURS,), pictures=_extremes(run, result, best=True))
    measures = Section("All measures", table=tables.measure_table(result))
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
    pictures = _extremes(cell / f"tta-{tta}", scores, best=False)
    return Section(f"Arm {arm!r}: worst and median image {name}", (f"TTA {tta}. {_CONTOURS}",), pictures=pictures)


def origin(run: Path) -> Section:
    """What the run was made with."""
    details = to_toml(read_config(run))
    environment = run / ENVIRONMENT
    if environment.is_file():
        details += "\n" + json.dumps(read_json(environment), indent=1)
    return Section(
        "How this was made", ("The config determines the result; the environment is where it ran.",), details=details
    )
