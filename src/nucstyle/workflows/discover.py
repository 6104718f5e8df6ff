"""`discover`: divide images into imaging modalities without any metadata (paper, section 2.2)."""

from __future__ import annotations

import difflib
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nucstyle.core.clahe import ClaheConfig
from nucstyle.core.config import build, with_overrides
from nucstyle.core.errors import OptionError, RunFolderError, WeightsError
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.core.resize import resize_image
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.image_io import write_jpeg, write_png
from nucstyle.data.ledger import refuse_restyled
from nucstyle.data.manifest import LineWriter, Record, write_manifest
from nucstyle.data.run_folder import FIGURES, RESULT, RunFolder, check_target, read_json, write_json
from nucstyle.data.unread import warn_of_unread_pictures
from nucstyle.modality.clustering import Candidate, choose_k, kmeans, kmeans_around, silhouettes, without_tiny
from nucstyle.modality.features import FEATURES, Array, Features, ImageStatistics
from nucstyle.modality.model import ModalityModel, Recognition
from nucstyle.report.page import write_report
from nucstyle.workflows.division import divide, shares_of
from nucstyle.workflows.provenance import data_fingerprint
from nucstyle.workflows.statistics import measure_all, stacked

MANIFEST = "manifest.csv"
DEFAULT_K = 6
"""The paper's."""
THUMBNAILS, THUMBNAIL_PX = 8, 128
BORDERS = 12
"""So many images nearest to a border, and at most so many new ones, are shown."""
TILES, TILE_PX, TILE_COLUMNS = 1024, 96, 32
"""The scatter of the page shows at most so many images when pointed at, from one picture of square tiles."""
_SIMILAR = 0.9
"""Two names that agree this much are likely to be one, misspelt."""

K = int | Literal["auto"] | None


@dataclass(frozen=True, slots=True)
class DiscoverConfig:
    """What determines the modalities, besides the images."""

    k: K = None
    """How many: a number, `auto`, or None = as many as are named, and 6 where none is."""
    features: Features = "chroma"
    """`hsv` = the paper's."""
    clahe: ClaheConfig | None = None
    """Enhance dark images before they are measured."""
    seed: int = 0
    shares: Mapping[str, float] | None = None
    """Divide images that have no part into parts of these shares; None = leave them as they are."""

    def to_table(self) -> dict[str, Any]:
        """Plain values for `config.toml`."""
        table: dict[str, Any] = {"verb": "discover", "seed": self.seed, "features": self.features}
        if self.k is not None:
            table["k"] = self.k
        if self.clahe:
            table["clahe"] = self.clahe.state()
        if self.shares:
            table["shares"] = dict(self.shares)
        return table


def discover_config(
    *,
    k: str | int | None = None,
    features: str = "chroma",
    clahe: bool = False,
    overrides: Sequence[str] = (),
    seed: int = 0,
    split: str | None = None,
) -> DiscoverConfig:
    """Settle what a person typed.

    Args:
        k: A number of at least 1, `auto`, or None.
        features: `chroma` or `hsv`.
        clahe: Whether dark images are enhanced.
        overrides: `key=value` on top of `ClaheConfig`; only with `clahe`.
        seed: Of K-means and of the division into parts.
        split: Shares of train, validation and, if given, test, with commas between; None = do not divide.

    Raises:
        OptionError: A value that is not allowed.
        ConfigError: An override that is not allowed.
    """
    if k is not None and k != "auto" and not (str(k).isdecimal() and int(k) >= 1):
        msg = f"--k {k}: give a number of at least 1, or auto"
        raise OptionError(msg)
    if features not in FEATURES:
        msg = f"--features {features}: unknown; known: {', '.join(FEATURES)}"
        raise OptionError(msg)
    if overrides and not clahe:
        msg = f"--set {overrides[0]}: settings of --clahe, which is not given; add --clahe"
        raise OptionError(msg)
    return DiscoverConfig(
        k="auto" if k == "auto" else None if k is None else int(k),
        features=FEATURES[FEATURES.index(features)],
        clahe=build(ClaheConfig, with_overrides(ClaheConfig, {}, overrides), where="--set") if clahe else None,
        seed=seed,
        shares=None if split is None else shares_of(split),
    )


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found in a data set."""

    model: ModalityModel
    records: tuple[Record, ...]
    """As given, each with its modality."""
    statistics: tuple[ImageStatistics, ...]
    """Of each image."""
    recognised: tuple[Recognition, ...]
    """What the model says of each image; a name that a person gave counts nevertheless."""
    given: frozenset[str]
    """Names that the manifest gave to images of the training part."""
    k: int
    """What K-means was asked for."""
    candidates: tuple[Candidate, ...] = ()
    """What `--k auto` tried."""


def discover(
    data: Path | str,
    out: Path,
    *,
    progress: Progress = SILENT,
    config: DiscoverConfig | None = None,
    anchors: Path | None = None,
    format: str | None = None,  # noqa: A002
    reading: ReadOptions = DEFAULT,
    cache: bool = True,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Find the imaging modalities of a data set.

    Args:
        data: A folder, file, glob or manifest.
        out: The run folder: `manifest.csv`, `modality.json`, `embedding.csv`, `samples/`, `figures/`, `report.html`.
        progress: Shown to the person.
        config: Settings; None = defaults.
        anchors: A manifest, or the run folder that holds it, whose modalities hold for the images that it names; the others are
            divided around them. Its images that are not in the data are taken along.
        format: Layout of the data; None = find out.
        reading: How files are read where they leave it open.
        cache: Whether to use what was measured of the same files before.
        resume: Go on in `out`.
        overwrite: Replace a run in `out`.

    Returns:
        `out`.

    Raises:
        InputError: The data or the options are at fault.
    """
    config = config or DiscoverConfig()
    refuse_restyled(Path(data), "finding modalities")
    dataset = open_dataset(data, format=format, reading=reading, cache=cache)
    warn_of_unread_pictures(Path(data), dataset.records, progress)
    inputs = [Path(data), *dataset.files, *([anchors] if anchors else [])]
    check_target(out, resume=resume, overwrite=overwrite, inputs=inputs)
    _keep_edits(out)
    if anchors:
        dataset = _anchored(dataset, anchors, progress)
    if config.shares:
        dataset = _divided(dataset, config, config.shares, progress=progress, cache=cache)
    found = find_modalities(dataset, config, progress=progress, cache=cache)
    table = {**config.to_table(), "data": data_fingerprint(dataset)}
    with RunFolder.open(out, table, resume=resume, overwrite=overwrite, inputs=inputs) as run:
        run.write_environment(device="cpu", precision="fp32")
        write_discovery(run, dataset, found, seed=config.seed)
        write_report(run.path)
    return out


def _keep_edits(out: Path) -> None:
    """Refuse to write over a manifest that a person edited.

    Raises:
        RunFolderError: `out` holds one.
    """
    if (out / RESULT).is_file() and was_edited(out):
        msg = f"{out / MANIFEST}: was edited since discover wrote it; obey it with --from and another --out, or move it away"
        raise RunFolderError(msg)


def _anchored(dataset: Dataset, anchors: Path, progress: Progress) -> Dataset:
    """The data set with the modalities that a manifest gives, and with the images of that manifest that are not in the data."""
    manifest = anchors / MANIFEST if anchors.is_dir() else anchors
    given = {record.id: record for record in open_dataset(manifest, format="manifest").records}
    if not any(record.modality for record in given.values()):
        msg = f"{manifest}: names no modality of any image; --from takes a manifest.csv whose column modality is filled"
        raise OptionError(msg)
    records = []
    for record in dataset.records:
        known = given.pop(record.id, None)
        if known and known.image.name != record.image.name:
            msg = f"{manifest}: {record.id!r} is {known.image.name} there and {record.image} in the data; rename one of them"
            raise OptionError(msg)
        records.append(replace(record, modality=known.modality) if known else record)
    if given:
        progress.say(f"{manifest}: {len(given)} of its images are not in the data and are taken along")
    return dataset.like([*records, *given.values()])


def _divided(
    dataset: Dataset, config: DiscoverConfig, shares: Mapping[str, float], *, progress: Progress, cache: bool
) -> Dataset:
    """The images with a part each, whole fields of view, every modality by itself.

    The modalities that this takes are found among all images; those that are written are found again, in train alone.
    """
    statistics = measure_all(dataset, features=config.features, clahe=config.clahe, progress=progress, cache=cache)
    named = _fitted(dataset.records, statistics, config).records
    parts = divide(dataset, [record.modality for record in named], shares, seed=config.seed, progress=progress)
    return dataset.like(parts)


def find_modalities(
    dataset: Dataset, config: DiscoverConfig, *, progress: Progress = SILENT, cache: bool = True
) -> Discovery:
    """Measure every image, fit on the training part (on all where nothing is divided), apply to the rest.

    Where training images already have a modality, it holds: the other images are divided around those. Whether an image is new is
    calibrated on the validation part where there is one.
    """
    statistics = measure_all(dataset, features=config.features, clahe=config.clahe, progress=progress, cache=cache)
    found = _fitted(dataset.records, statistics, config)
    for line in _remarks(found, config):
        progress.say(line)
    return found


def _fitted(records: Sequence[Record], statistics: Sequence[ImageStatistics], config: DiscoverConfig) -> Discovery:
    points = stacked(statistics)
    train = [index for index, record in enumerate(records) if record.split in ("train", None)]
    train = train or list(range(len(records)))
    groups, k, candidates = _divide(points[train], [records[index].modality for index in train], config)
    model = ModalityModel.from_groups(
        [statistics[index] for index in train],
        groups,
        reserved=[record.modality for record in records if record.modality],
        features=config.features,
        clahe=config.clahe,
    )
    fitted = set(train)
    validation = [
        index
        for index, record in enumerate(records)
        if record.split == "validation" and index not in fitted and record.modality in (None, *model.names)
    ]
    model = model.calibrated(points[validation], points[train])
    recognised = tuple(map(model.recognise, points))
    named = tuple(
        replace(record, modality=record.modality or said.name) for record, said in zip(records, recognised, strict=True)
    )
    given = frozenset(group for group in groups if isinstance(group, str))
    return Discovery(model, named, tuple(statistics), recognised, given, k, candidates)


def _divide(
    points: Array, names: Sequence[str | None], config: DiscoverConfig
) -> tuple[list[int | str], int, tuple[Candidate, ...]]:
    """The group of each training image: the name it has, else a number or the name of the group it joins; and K-means' k."""
    known = sorted({name for name in names if name})
    if config.k == "auto" and not known:
        chosen, candidates = choose_k(points, seed=config.seed)
        return without_tiny(points, kmeans(points, chosen, seed=config.seed).labels_).tolist(), chosen, candidates
    k = config.k if isinstance(config.k, int) else len(known) or DEFAULT_K
    if k < len(known):
        msg = (
            f"--k {k}: {len(known)} modalities are named ({', '.join(known)}); give at least as many, or leave --k out"
        )
        raise OptionError(msg)
    groups = kmeans_around(points, [known.index(name) if name else None for name in names], k, seed=config.seed)
    return [known[group] if group < len(known) else int(group) for group in groups], k, ()


def _remarks(found: Discovery, config: DiscoverConfig) -> list[str]:
    """What a person should know at once."""
    counts = Counter(str(record.modality) for record in found.records)
    lines = [_on_parts(found), f"modalities of all images: {_counted(counts)}"]
    lines += [*_on_their_number(found, config), *_on_names(found, counts)]
    if new := sum(one.is_new for one in found.recognised):
        lines.append(f"{new} images look like none of the modalities (column is_new of embedding.csv)")
    return lines


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({_images(counts[name])})" for name in sorted(counts))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _on_parts(found: Discovery) -> str:
    parts = Counter(record.split or "not divided" for record in found.records)
    said = f"parts: {', '.join(f'{count} {part}' for part, count in parts.items())}"
    if not parts.keys() & {"train", "not divided"}:
        return f"{said}; no image is of the part train, so modalities are fitted to all"
    return f"{said}; modalities are fitted to train and applied to the rest" if len(parts) > 1 else said


def _on_their_number(found: Discovery, config: DiscoverConfig) -> Iterator[str]:
    made = len(found.model.names)
    if config.k == "auto" and found.given:
        yield "--k auto looks for no others beside named modalities; give a number to let further ones form"
    if found.given and made < found.k:
        yield f"asked for {found.k} modalities, made {made}: too few images without a name; empty the column modality of some"
    if not found.given and not found.candidates and made < found.k:
        yield f"asked for {found.k} modalities, made {made}: the images that they are fitted to do not differ in more ways"
    if found.candidates and made < found.k:
        yield f"{found.k} groups were found; those of one or two images joined the nearest other"


def _on_names(found: Discovery, counts: Mapping[str, int]) -> Iterator[str]:
    if outside := sorted(set(counts) - set(found.model.names)):
        yield f"named only outside the part train, so nothing was learned of them: {', '.join(outside)}"
    for name in found.model.names:
        if counts[name] == 1 and len(found.records) > 1:
            fewer = "" if name in found.given else ", or a smaller --k,"
            yield f"modality {name!r} has one image; more of its kind{fewer} would serve better"
    for one, other in combinations(sorted(counts), 2):
        if _looks_misspelt(one, other):
            yield f"modalities {one!r} and {other!r} differ by a letter or two; correct the manifest if they are one"


def _looks_misspelt(one: str, other: str) -> bool:
    if re.sub(r"-\d+$", "", one) == re.sub(r"-\d+$", "", other):  # purple-on-white and purple-on-white-2 are both ours
        return False
    return difflib.SequenceMatcher(None, one, other).ratio() >= _SIMILAR


def write_discovery(run: RunFolder, dataset: Dataset, found: Discovery, *, seed: int) -> None:
    """Write everything that `report` and later verbs read; what is finished stays, with what a person changed in it."""
    if run.is_finished():
        return
    for folder in (run.path / "samples", run.path / FIGURES):
        shutil.rmtree(folder, ignore_errors=True)
    points = stacked(found.statistics)
    names = [str(record.modality) for record in found.records]
    distances = found.model.distances(points)
    borders = _borders(distances)
    write_manifest(run.path / MANIFEST, found.records)
    write_json(run.path / "modality.json", found.model.state())
    tiles = _shown(found)
    _write_embedding(run.path / "embedding.csv", found, points, borders, tiles)
    samples = run.path / "samples"
    for modality in _all_names(found):
        members = [index for index, name in enumerate(names) if name == modality]
        _write_thumbnails(samples / modality, dataset, _spread(members, distances, found.model.names, modality))
    # Folders of modalities have no underscore in their names, so these are safe.
    near = [int(index) for index in np.argsort(-borders, kind="stable") if borders[index] > 0][:BORDERS]
    new = sorted(
        (i for i, one in enumerate(found.recognised) if one.is_new), key=lambda i: -found.recognised[i].distance
    )
    _write_thumbnails(samples / "_borders", dataset, near)
    _write_thumbnails(samples / "_new", dataset, new[:BORDERS])
    _write_tiles(samples / "_tiles.jpg", dataset, list(tiles))
    order = np.argsort(distances, axis=1, kind="stable")
    learned = np.isin(names, found.model.names)
    values = np.full(len(points), np.nan)
    if (known := silhouettes(points[learned], [name for name in names if name in found.model.names])) is not None:
        values[learned] = known
    run.write_result(
        {
            "format": 1,
            "verb": "discover",
            "seed": seed,
            "k": len(found.model.names),
            "k_asked": found.k,
            "named": sorted(found.given),
            "manifest_sha256": _digest(run.path / MANIFEST),
            "tiles": {"px": TILE_PX, "columns": TILE_COLUMNS, "most": TILES},
            "silhouette": _mean(values),
            "modalities": {name: names.count(name) for name in _all_names(found)},
            "silhouettes": {name: _mean(values[[other == name for other in names]]) for name in found.model.names},
            "candidates": [asdict(one) for one in found.candidates],
            "borders": [
                {"id": found.records[i].id, "between": [found.model.names[number] for number in order[i, :2]]}
                for i in near
            ],
            "new": {"count": len(new), "ids": [found.records[i].id for i in new]},
        }
    )


def _all_names(found: Discovery) -> list[str]:
    """Names of the model, then those that only images outside the training part have."""
    return [*found.model.names, *sorted({str(record.modality) for record in found.records} - set(found.model.names))]


def _spread(members: Sequence[int], distances: Array, names: Sequence[str], modality: str) -> list[int]:
    """Some images of a modality, from the most typical to the least: the odd ones are what a person should see."""
    if modality in names:
        members = sorted(members, key=lambda index: float(distances[index, names.index(modality)]))
    places = np.linspace(0, len(members) - 1, min(THUMBNAILS, len(members))).round().astype(int)
    return [members[place] for place in places]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def was_edited(run: Path) -> bool:
    """Whether the manifest of a finished run is no longer the one that `discover` wrote."""
    try:
        told = read_json(run / RESULT).get("manifest_sha256")
    except RunFolderError:  # damaged
        return False
    return told is not None and (run / MANIFEST).is_file() and _digest(run / MANIFEST) != told


def describe(run: Path) -> list[str]:
    """A line on each modality of a finished run, for the terminal."""
    counts = read_json(run / "result.json")["modalities"]
    found = read_modality_model(run / "modality.json").modalities
    lines = [f"{one.name}: {one.sentence} to fit it, {counts[one.name]} in all" for one in found]
    return lines + [
        f"{name}: {_images(counts[name])}, none to fit it" for name in counts.keys() - {one.name for one in found}
    ]


def _mean(values: Array) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _borders(distances: Array) -> Array:
    """(N, K) -> (N,): distance to the nearest modality over that to the second; 1 = on a border, 0 = far from any."""
    if distances.shape[1] < 2:
        return np.zeros(len(distances))
    nearest = np.sort(distances, axis=1)[:, :2]
    return np.divide(nearest[:, 0], nearest[:, 1], out=np.zeros(len(distances)), where=nearest[:, 1] > 0)


def _shown(found: Discovery) -> dict[int, int]:
    """The images that the page can show, in turn from each modality: index -> tile."""
    members: dict[str, list[int]] = {}
    for index, record in enumerate(found.records):
        members.setdefault(str(record.modality), []).append(index)
    turns = sorted((place, index) for own in members.values() for place, index in enumerate(own))
    return {index: tile for tile, index in enumerate(sorted(index for _, index in turns[:TILES]))}


def _write_embedding(path: Path, found: Discovery, points: Array, borders: Array, tiles: dict[int, int]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = LineWriter(file)
        writer.writerow(["id", "x", "y", "modality", "distance", "border", "is_new", "tile"])
        places = found.model.embed(points)
        for index, (record, (x, y), said) in enumerate(zip(found.records, places, found.recognised, strict=True)):
            numbers_ = (f"{said.distance:.6f}", f"{borders[index]:.4f}", int(said.is_new), tiles.get(index, ""))
            writer.writerow([record.id, f"{x:.6f}", f"{y:.6f}", record.modality, *numbers_])


def _write_thumbnails(folder: Path, dataset: Dataset, indices: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place, index in enumerate(indices):
        write_png(folder / f"{place:02d}.png", thumbnail(dataset.image(index)))


def _write_tiles(path: Path, dataset: Dataset, indices: Sequence[int]) -> None:
    """All images of the scatter in one picture, `TILE_COLUMNS` square tiles a row, each image in the middle of its tile."""
    rows = -(-len(indices) // TILE_COLUMNS)
    sheet = torch.ones(3, rows * TILE_PX, min(len(indices), TILE_COLUMNS) * TILE_PX)
    for tile, index in enumerate(indices):
        small = thumbnail(dataset.image(index), TILE_PX)
        height, width = small.shape[1:]
        top = tile // TILE_COLUMNS * TILE_PX + (TILE_PX - height) // 2
        left = tile % TILE_COLUMNS * TILE_PX + (TILE_PX - width) // 2
        sheet[:, top : top + height, left : left + width] = small
    write_jpeg(path, sheet)


def thumbnail(image: Tensor, longest: int = THUMBNAIL_PX) -> Tensor:
    """(3, H, W) -> (3, h, w) whose longer side is at most `longest`."""
    height, width = int(image.shape[1]), int(image.shape[2])
    factor = min(1.0, longest / max(height, width))
    return resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))


def read_modality_model(path: Path) -> ModalityModel:
    """Read `modality.json`.

    Raises:
        InputError: It cannot be read or is not whole.
    """
    try:
        return ModalityModel.from_state(read_json(path))
    except WeightsError as error:
        msg = f"{path}: {error}"
        raise WeightsError(msg) from None


def numbers(model: ModalityModel, records: Sequence[Record]) -> list[int]:
    """The number of the modality of each record, which must have one that the model knows."""
    return [model.names.index(str(record.modality)) for record in records]
