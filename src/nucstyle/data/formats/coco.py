"""COCO instances (cocodataset.org/#format-data): one JSON file with `images` and `annotations`, whatever their categories.

Outlines are polygons, several for a nucleus in pieces, or run lengths, plain or compressed. A pixel belongs to a polygon whose
inside holds its centre; see `core.contours`. Annotations of crowds (`iscrowd`) outline no single nucleus and are left out. Where
two nuclei claim a pixel, the first annotation keeps it. An image without annotations shows no nucleus; images in `unannotated/`
beside the file are not annotated.

`file_name` counts from the folder of the file, or from `images/` in it. COCO's own folders are known as well: of
`annotations/instances_train.json`, it counts from `train/`, `images/train/` or `images/` beside `annotations/`, and the images
are of that part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nucstyle.core.contours import FARTHEST_PX, Outline, Ring, rasterise
from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.core.rle import Numbers, decode_counts, encode_counts, label_map, pack_counts, runs_of, unpack_counts
from nucstyle.data.formats import SPLIT_FOLDERS, UNANNOTATED, Written, fragments, ids_of, image_files
from nucstyle.data.image_io import Array, write_pixels
from nucstyle.data.manifest import Misfit, Record, listed
from nucstyle.data.overlaps import refuse_lost
from nucstyle.data.run_folder import write_text

CATALOGUE = "instances.json"
"""What is written."""
_MOST = 1 << 62
"""Whole numbers that are greater are no places, and no floats may hold them."""
_CATEGORIES = [{"id": 1, "name": "nucleus"}]
_ANNOTATIONS = "annotations"
"""Folder of the files in COCO's own layout."""
_SIGNS = (b'"images"', b'"annotations"'), (b'"images"', b'"file_name"')
"""Keys that speak for the layout; a file that is cut off may have lost its last."""


class _Image(NamedTuple):
    """An entry of `images` with its annotations."""

    file_name: str
    size: tuple[int, int] | None
    """(height, width) in pixels, where the file says it."""
    annotations: list[Mapping[str, Any]]


class _Catalogue(NamedTuple):
    images: Sequence[_Image]
    by_name: Mapping[str, Sequence[_Image]]
    """By the last part of the file name."""
    n_crowds: int
    """Annotations that are left out."""
    strays: Sequence[str]
    """What is wrong with annotations that belong to no image."""


def evidence(path: Path) -> str | None:
    """A JSON file has the keys `images` and `annotations`, and no label images lie there, which would count."""
    if path.is_dir() and (path / "images").is_dir() and ((path / "labels").is_dir() or (path / "masks").is_dir()):
        return None
    files = _catalogues(path)
    if not files:
        return None
    try:
        n_crowds = sum(_read(file).n_crowds for file in files)
    except DatasetError:  # said when it is listed
        n_crowds = 0
    left_out = f"; {n_crowds} annotations of crowds (iscrowd) are left out" if n_crowds else ""
    name = files[0].relative_to(path).as_posix() if files[0] != path else path.name
    return f"{name} lists images and annotations{left_out}"


def _catalogues(path: Path) -> list[Path]:
    """The files of a data set; those of COCO's own layout that describe whole bodies or whole images are none."""
    if path.is_file():
        return [path] if _is_catalogue(path) else []
    if found := _in_folder(path):
        return found
    found = _in_folder(path / _ANNOTATIONS) if (path / _ANNOTATIONS).is_dir() else []
    return [file for file in found if file.name.startswith("instances")] or found


def _in_folder(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if _is_catalogue(file)]


def _is_catalogue(file: Path) -> bool:
    return file.suffix.lower() == ".json" and file.is_file() and _has_signs(file)


def _has_signs(file: Path) -> bool:
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return any(all(sign in content for sign in signs) for signs in _SIGNS)


def index(path: Path) -> list[Record]:
    """List the images, sorted by id.

    Args:
        path: The JSON file, or the folder that holds it.

    Raises:
        DatasetError: No such file or several, one that is damaged, an image that is not there, or an annotation of none.
    """
    return listed(survey(path))


def survey(path: Path) -> tuple[list[Record], list[Misfit]]:
    """List the images as `index` does, and those that are not there.

    Raises:
        DatasetError: No such file or several, or one that is damaged.
    """
    files, misfits = _chosen(path), list[Misfit]()
    found: dict[Path, tuple[Path, str | None]] = {}
    for file in files:
        entries, roots = _read(file), _roots(file)
        misfits += [Misfit("layout", (file,), stray) for stray in entries.strays]
        for entry in entries.images:
            image = _place(roots, entry.file_name)
            if image is None:
                msg = f"{file}: {entry.file_name} is in none of {', '.join(map(str, roots))}; put the image there"
                misfits.append(Misfit("missing-file", (file,), msg))
            elif image in found:
                msg = f"{found[image][0]} and {file}: both list {image}; keep one of them"
                misfits.append(Misfit("duplicated-name", (found[image][0], file), msg))
            else:
                found[image] = (file, _part(file))
    top = path if path.is_dir() else _top(path)
    bare = image_files(top / UNANNOTATED)
    images = [*found, *bare]
    records = [
        Record(id=name, image=image, labels=labels, split=part)
        for name, image, (labels, part) in zip(
            ids_of(images, top), images, [*found.values(), *[(None, None)] * len(bare)], strict=True
        )
    ]
    return sorted(records, key=lambda record: record.id), misfits


def _chosen(path: Path) -> list[Path]:
    """The files of a data set: one that is named or lies in the folder, or all of COCO's own folder.

    Raises:
        DatasetError: There is none, or one too many.
    """
    files = [path] if path.is_file() else _catalogues(path)
    if files and (len(files) == 1 or files[0].parent != path):
        return files
    names = f" ({', '.join(file.name for file in files)})" if files else ""
    msg = f"{path}: holds {len(files)} JSON files with images and annotations{names}; keep one, or name it as DATA"
    raise DatasetError(msg)


def _top(file: Path) -> Path:
    """The folder of the data set that a file describes."""
    return file.parent.parent if file.parent.name == _ANNOTATIONS else file.parent


def _word(file: Path) -> str:
    """The last word of a file's name, which in COCO's own layout is that of the folder of its images: train, val2017."""
    return file.stem.rpartition("_")[2]


def _part(file: Path) -> str | None:
    return SPLIT_FOLDERS.get(_word(file).rstrip("0123456789")) if file.parent.name == _ANNOTATIONS else None


def _roots(file: Path) -> list[Path]:
    """The folders that names of images may count from, in order."""
    top = _top(file)
    own = [top / _word(file), top / "images" / _word(file)] if top != file.parent else []
    return [*own, top / "images", top] if own else [top, top / "images"]


def _place(roots: Sequence[Path], file_name: str) -> Path | None:
    names = (file_name, file_name.replace("\\", "/"))
    places = (place / name for name in names for place in roots)
    return next((place for place in places if place.is_file()), None)


def _read(path: Path) -> _Catalogue:
    """Read a file; kept in memory until it changes.

    Raises:
        DatasetError: It cannot be read or is no such file; the entry is named.
    """
    try:
        state = path.stat()
        return _read_once(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; give a COCO file"
        raise DatasetError(msg) from None


@lru_cache(maxsize=4)
def _read_once(path: Path, size: int, changed_ns: int) -> _Catalogue:
    try:
        table = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        msg = f"{path}: not a JSON file ({reason}); the file is damaged, replace it"
        raise DatasetError(msg) from None
    images: dict[Any, _Image] = {}
    for number, entry in enumerate(_entries(table, "images", path)):
        key, image = _image(entry, f"{path}: images[{number}]")
        if key in images:
            msg = f"{path}: images[{number}]: the id {key!r} stands here for the second time; ids are unique"
            raise DatasetError(msg)
        images[key] = image
    n_crowds = 0
    strays: list[str] = []
    for number, entry in enumerate(_entries(table, "annotations", path)):
        owner = entry.get("image_id")
        if not isinstance(owner, int | str) or owner not in images:
            strays.append(f"{path}: annotations[{number}]: image_id {owner!r} is none of the images; correct it")
        elif entry.get("iscrowd"):
            n_crowds += 1
        else:
            images[owner].annotations.append({**entry, "number": number})
    by_name: dict[str, list[_Image]] = {}
    for image in images.values():
        by_name.setdefault(_last_part(image.file_name), []).append(image)
    return _Catalogue(list(images.values()), by_name, n_crowds, strays)


def _entries(table: object, name: str, path: Path) -> Sequence[Mapping[str, Any]]:
    found = table.get(name) if isinstance(table, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        msg = f"{path}: no list of objects `{name}`; give a COCO file of instances"
        raise DatasetError(msg)
    return found


def _image(entry: Mapping[str, Any], where: str) -> tuple[int | str, _Image]:
    key, name = entry.get("id"), entry.get("file_name")
    if not isinstance(key, int | str) or not isinstance(name, str) or not name.strip() or "\0" in name:
        msg = f"{where}: id {key!r}, file_name {name!r}; both are needed"
        raise DatasetError(msg)
    size = entry.get("height"), entry.get("width")
    if size == (None, None):
        return key, _Image(name, None, [])
    height, width = size
    if not isinstance(height, int) or not isinstance(width, int):
        msg = f"{where}: height {height!r}, width {width!r}; give both in pixels, or neither"
        raise DatasetError(msg)
    return key, _Image(name, (height, width), [])


def _last_part(file_name: str) -> str:
    return file_name.replace("\\", "/").rpartition("/")[2]


def read_nuclei(path: Path, record: Record, size: tuple[int, int]) -> Drawn:
    """Draw the nuclei that a file says an image has; as `label_files.LabelReader`."""
    entries = _read(path).by_name.get(record.image.name, ())
    if len(entries) > 1:  # of one name in several folders
        own = os.path.abspath(record.image)
        entries = [one for one in entries if own == os.path.abspath(_place(_roots(path), one.file_name) or "")]
    if len(entries) != 1:
        msg = f"{path}: lists {len(entries)} images like {record.image}, not one; give the file that lists it"
        raise ImageError(msg)
    (entry,) = entries
    if entry.size not in (None, size):
        msg = f"{path}: {entry.file_name} is (height, width) {entry.size}, but {record.image} is {size}; give its own"
        raise ImageError(msg)
    where, annotations = f"{path}: {entry.file_name}", entry.annotations
    runs, outlines = _runs_and_outlines(path, annotations, size)
    drawn = _together(label_map(runs, size), rasterise(outlines, size, where=where))
    return refuse_lost(
        drawn, len(annotations), lambda number: f"annotations[{annotations[number - 1]['number']}]", where=where
    )


def _together(runs: Drawn, filled: Drawn) -> Drawn:
    """Two drawings of different numbers as one: the lower number keeps a pixel that both claim."""
    lower, higher = torch.minimum(runs.labels, filled.labels), torch.maximum(runs.labels, filled.labels)
    is_contested = lower > 0
    labels = torch.where(is_contested, lower, higher)
    beaten = set(higher[is_contested].tolist())
    hidden = beaten.difference(np.unique(labels.numpy()).tolist()) if beaten else beaten
    shared = [one for one in (runs.shared, filled.shared, is_contested if beaten else None) if one is not None]
    return Drawn(
        labels,
        torch.stack(shared).any(dim=0) if shared else None,
        covered=tuple(sorted({*runs.covered, *filled.covered, *hidden})),
        empty=tuple(sorted((*runs.empty, *filled.empty))),
    )


def _runs_and_outlines(
    path: Path, annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]
) -> tuple[dict[int, Numbers], list[Outline]]:
    """The pixels of each annotation that is made of run lengths, and the polygons of the others; annotations count from 1."""
    drawn: dict[int, Numbers] = {}
    outlines: list[Outline] = []
    for number, annotation in enumerate(annotations, start=1):
        where = f"{path}: annotations[{annotation['number']}]"
        outline = annotation.get("segmentation")
        if isinstance(outline, dict):
            drawn[number] = _run_pixels(where, outline, size)
        else:
            outlines += [Outline(number, (ring,)) for ring in _rings(where, outline)]
    return drawn, outlines


def _rings(where: str, outline: object) -> list[Ring]:
    if isinstance(outline, list) and outline and all(_is_polygon(part) for part in outline):
        rings = [np.array(part, float).reshape(-1, 2) for part in outline]
        for ring in rings:
            if not (np.abs(ring) < FARTHEST_PX).all():  # nor is NaN
                x, y = ring[~(np.abs(ring) < FARTHEST_PX).all(axis=1)][0]
                msg = f"{where}: a corner at x {x:g}, y {y:g} is no place in an image; correct it, or remove the annotation"
                raise ImageError(msg)
        return rings
    msg = (
        f"{where}: the segmentation is neither run lengths nor a list of polygons [x, y, x, y, x, y, ...]; "
        "export outlines, not boxes"
    )
    raise ImageError(msg)


def _run_pixels(where: str, outline: Mapping[str, Any], size: tuple[int, int]) -> Numbers:
    counts, own = outline.get("counts"), outline.get("size")
    if own != list(size):
        msg = f"{where}: run lengths of size {own!r}, the image is [height, width] {list(size)}; give its own"
        raise ImageError(msg)
    if isinstance(counts, str):
        counts = unpack_counts(counts, where=where)
    if not isinstance(counts, list):
        msg = f"{where}: run lengths without counts; export them again"
        raise ImageError(msg)
    return decode_counts(counts, size, where=where).pixels()


def _is_polygon(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in part)
        and all(isinstance(value, float) or abs(value) < _MOST for value in part)
    )


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image, and keep its nuclei for `finish`; arguments and result as `formats.Writer`. The layout knows no parts.

    Nuclei are written as compressed run lengths, which say every label map exactly.
    """
    place = folder / (UNANNOTATED if labels is None else "images")
    place.mkdir(parents=True, exist_ok=True)
    image = write_pixels(place / name, pixels)
    if labels is None:
        return Written(image)
    fragments.keep(folder, name, json.dumps(_described(image.name, labels)))
    catalogue = folder / CATALOGUE
    if not catalogue.exists():
        _write_catalogue(catalogue, [])
    return Written(image, catalogue)


def _described(file_name: str, labels: Tensor) -> dict[str, Any]:
    """An entry of `images` with its annotations, ids left out."""
    height, width = labels.shape
    annotations = []
    for runs in runs_of(labels).values():
        pixels = runs.pixels()
        columns, rows = pixels // height, pixels % height
        x, y = int(columns.min()), int(rows.min())
        annotations.append(
            {
                "area": int(pixels.size),
                "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
                "segmentation": {"size": [height, width], "counts": pack_counts(encode_counts(runs, height * width))},
            }
        )
    return {"file_name": file_name, "height": height, "width": width, "annotations": annotations}


def _write_catalogue(path: Path, described: Sequence[Mapping[str, Any]]) -> None:
    images: list[Mapping[str, Any]] = []
    annotations: list[Mapping[str, Any]] = []
    for one in described:
        own = {key: one[key] for key in ("file_name", "height", "width")}
        images.append({"id": len(images) + 1, **own})
        for annotation in one["annotations"]:
            known = {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "iscrowd": 0}
            annotations.append({**known, **annotation})
    table = {"images": images, "annotations": annotations, "categories": _CATEGORIES}
    write_text(path, json.dumps(table) + "\n")


def finish(folder: Path, records: Sequence[Record], copies: Set[str]) -> None:
    """Join what is known of all images, in their order, in `instances.json`.

    Args:
        folder: Of the data set.
        records: Of all images.
        copies: Ids of copies, which are images like others here.
    """
    described = [_kept(folder, record.image) for record in records if record.labels]
    _write_catalogue(folder / CATALOGUE, described)
    fragments.drop(folder)


def _kept(folder: Path, image: Path) -> Mapping[str, Any]:
    """What is known of an image; joined before, it is taken from there: a work that is stopped after that joins again."""
    text = fragments.kept(folder, image.stem)
    if text is not None:
        found: Mapping[str, Any] = json.loads(text)
        return found
    entries = _read(folder / CATALOGUE).by_name.get(image.name, ())
    if not entries or entries[0].size is None:
        msg = f"{folder / CATALOGUE}: the nuclei of {image.name} are lost; write the data set again with --overwrite"
        raise DatasetError(msg)
    (entry,) = entries
    height, width = entry.size or (0, 0)
    keys = ("area", "bbox", "segmentation")
    annotations = [{key: annotation[key] for key in keys} for annotation in entry.annotations]
    return {"file_name": image.name, "height": height, "width": width, "annotations": annotations}
