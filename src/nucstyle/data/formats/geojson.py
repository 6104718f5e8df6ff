"""Outlines for QuPath (qupath.github.io): `images/NAME.*` with `geojson/NAME.geojson`, or the latter beside the image.

A file is a FeatureCollection (RFC 7946) in pixels, (0, 0) the outer corner of the first pixel, as QuPath writes and reads it: a
nucleus is a feature of the `objectType` "detection", a Polygon or, in several pieces, a MultiPolygon, along pixel edges and with
its holes. So its area is its number of pixels, and nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from nucstyle.core.contours import Outline, Ring, rasterise
from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import ImageError
from nucstyle.data.formats import Written, beside, in_order, write_with
from nucstyle.data.image_io import Array
from nucstyle.data.label_bands import BandedNuclei
from nucstyle.data.manifest import Record
from nucstyle.data.overlaps import refuse_lost

FOLDER, SUFFIX = "geojson", ".geojson"
CLASS = "Nucleus"
_MOST_BYTES = 1 << 29
"""Files are read whole, and take about ten times their size in memory."""
_NUCLEI = ("detection", "cell")
"""What QuPath calls objects that were found; where there are some, annotations beside them are regions of the tissue."""
_REGIONS = ("tile", "tma_core", "root")
"""What it calls objects that are never nuclei."""
_OLD_KINDS = {
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathAnnotationObject": "annotation",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
    "PathRootObject": "root",
}
"""What QuPath 0.2 called them, in the place of an id (qupath.lib.io.PathObjectTypeAdapters)."""


def evidence(path: Path) -> str | None:
    """The folder holds `images/` and `geojson/`, or a GeoJSON file lies beside its image."""
    return beside.evidence(path, FOLDER, (SUFFIX,))


def index(folder: Path) -> list[Record]:
    """List the images, sorted by name, each with the GeoJSON file of the same name.

    Raises:
        DatasetError: Doubled names, or outlines that belong to no image.
    """
    return beside.index(folder, FOLDER, (SUFFIX,))


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its outlines; arguments and result as `formats.Writer`. The layout knows no parts."""
    return write_with(write_nuclei, folder, name, pixels, labels)


def write_nuclei(
    folder: Path, name: str, labels: Tensor, scores: Mapping[int, float] | None = None
) -> tuple[Path, Mapping[str, int]]:
    """Write outlines without their image; arguments and result as `formats.NucleiWriter`.

    The measurements of a nucleus are `area_px` and, where it is known, `score`.
    """
    return write_banded(folder, name, BandedNuclei.of_map(labels), scores)


def write_banded(
    folder: Path, name: str, nuclei: BandedNuclei, scores: Mapping[int, float] | None = None
) -> tuple[Path, Mapping[str, int]]:
    """As `write_nuclei`, of label maps of any size."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    file = folder / FOLDER / f"{name}{SUFFIX}"
    with in_order(folder) as features:
        for number, pieces in nuclei.outlines():
            feature = _feature(number, pieces, (scores or {}).get(number))
            text = json.dumps(feature, separators=(",", ":"), allow_nan=False)
            features.add(number, piece=text.encode("ascii"))
        with file.open("wb") as stream:
            stream.write(b'{"type":"FeatureCollection","features":[\n')
            for place, (_, piece) in enumerate(features):
                stream.write(b",\n" + piece if place else piece)
            stream.write(b"\n]}\n")
    return file, {}


def _feature(number: int, pieces: Sequence[Outline], score: float | None) -> dict[str, Any]:
    polygons = [[np.concatenate([ring, ring[:1]]).tolist() for ring in piece.rings] for piece in pieces]
    kind, coordinates = ("Polygon", polygons[0]) if len(polygons) == 1 else ("MultiPolygon", polygons)
    measurements = {"area_px": sum(piece.area_px for piece in pieces), **({} if score is None else {"score": score})}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {
            "objectType": "detection",
            "name": str(number),
            "classification": {"name": CLASS},
            "measurements": measurements,
        },
    }


def read(path: Path, record: Record, size: tuple[int, int]) -> Drawn:
    """Read outlines; arguments and result as `label_files.LabelReader`.

    A FeatureCollection, a list of features or a single one. Where it holds detections or cells, these are the nuclei (of cells,
    their nucleus if it is outlined), numbered in order, and annotations are left out as regions; otherwise these are the nuclei.
    Tiles and cores of tissue never are.

    Raises:
        ImageError: Damaged, too large, or something in it is no outline within the image; it holds no nuclei, or most of them get
            no pixel.
    """
    features = _features(_parse(path), path)
    chosen = _nuclei(features)
    if features and not chosen:
        msg = f"{path}: holds {len(features)} tiles or other regions and no nuclei; export detections, cells or annotations"
        raise ImageError(msg)
    outlines = [outline for number, feature in chosen.items() for outline in _outlines(feature, number, path)]
    drawn = rasterise(outlines, size, where=str(path))
    return refuse_lost(drawn, len(chosen), "feature {}".format, where=str(path))


def _parse(path: Path) -> Any:  # noqa: ANN401
    if (n_bytes := path.stat().st_size) > _MOST_BYTES:
        msg = f"{path}: {n_bytes:,} bytes, at most {_MOST_BYTES:,} are read; divide it, or give label images"
        raise ImageError(msg)
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        msg = f"{path}: cannot be read as UTF-8 text ({error}); export it again"
    except (ValueError, RecursionError) as error:
        msg = f"{path}: no JSON ({str(error) or 'nested too deeply'}); the file is damaged, export it again"
    raise ImageError(msg)


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is no place"
    raise ValueError(msg)


def _features(value: Any, path: Path) -> list[Mapping[str, Any]]:  # noqa: ANN401
    is_collection = isinstance(value, Mapping) and value.get("type") == "FeatureCollection"
    listed = value.get("features") if is_collection else value
    features = listed if isinstance(listed, list) else [listed]
    for number, feature in enumerate(features, start=1):
        if not isinstance(feature, Mapping) or feature.get("type") != "Feature":
            msg = f"{path}: entry {number} is no GeoJSON Feature; export the objects of QuPath as GeoJSON"
            raise ImageError(msg)
    return features


def _nuclei(features: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """By number, from 1, the features that are nuclei."""
    kinds = {number: _kind(feature) for number, feature in enumerate(features, start=1)}
    found = [number for number, kind in kinds.items() if kind in _NUCLEI]
    chosen = found or [number for number, kind in kinds.items() if kind not in _REGIONS]
    return {number: features[number - 1] for number in chosen}


def _kind(feature: Mapping[str, Any]) -> object:
    """What QuPath says an object is; its versions wrote it to three places: the id, then `object_type`, now `objectType`."""
    given = feature.get("properties")
    properties = given if isinstance(given, Mapping) else {}
    said = properties.get("objectType") or properties.get("object_type")
    return said or _OLD_KINDS.get(str(feature.get("id")))


def _outlines(feature: Mapping[str, Any], number: int, path: Path) -> list[Outline]:
    """The outline of a nucleus, one for each piece."""
    given = feature.get("nucleusGeometry") or feature.get("geometry")
    geometry = given if isinstance(given, Mapping) else {}
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        why = "may hold points and lines" if kind == "GeometryCollection" else "encloses nothing"
        msg = f"{path}: feature {number} is a {kind or 'feature without geometry'}, which {why}; make it a Polygon or remove it"
        raise ImageError(msg)
    polygons = geometry.get("coordinates")
    polygons = [polygons] if kind == "Polygon" else polygons
    if not isinstance(polygons, list) or not all(isinstance(rings, list) and rings for rings in polygons):
        msg = f"{path}: feature {number} has no rings of coordinates; the file is damaged, export it again"
        raise ImageError(msg)
    return [Outline(number, tuple(_ring(ring, number, path) for ring in rings)) for rings in polygons]


def _ring(value: Any, number: int, path: Path) -> Ring:  # noqa: ANN401
    try:
        ring = np.asarray(value)
    except ValueError:  # places of different lengths
        ring = np.asarray("")
    if ring.ndim != 2 or ring.shape[1] not in (2, 3) or ring.dtype.kind not in "iuf":
        msg = f"{path}: feature {number} has a ring that is no list of [x, y] numbers; the file is damaged, export it again"
        raise ImageError(msg)
    ring = ring[:, :2]  # a height is allowed, and means nothing here
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring
