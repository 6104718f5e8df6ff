"""ROIs of ImageJ and Fiji: `images/NAME.*` with `rois/NAME_rois.zip` (also `NAME.zip`, `NAME.roi`), or these beside the image.

The file format is read and written by roifile. ROIs are written as ImageJ's wand and particle analyser trace them: polygons along
pixel edges, whole numbers are corners of pixels, and pixels that touch at a corner belong together. A ROI has no holes, and a
nucleus in pieces becomes several ROIs; both are counted.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from torch import Tensor

from nucstyle.core.contours import Outline, Ring, rasterise
from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import ImageError, Interrupted
from nucstyle.data.archives import check_count
from nucstyle.data.formats import Written, beside, in_order, write_with
from nucstyle.data.image_io import Array
from nucstyle.data.label_bands import BandedNuclei
from nucstyle.data.manifest import Record
from nucstyle.data.overlaps import refuse_lost

FOLDER, ENDING = "rois", "_rois.zip"
ENDINGS = (ENDING, ".zip", ".roi")
HOLES, PIECES = "holes_filled", "nuclei_in_pieces"
"""What ROIs cannot hold: see `Written.losses`."""
_FARTHEST_PX = 60_535
"""ImageJ keeps whole numbers in 16 bits, of which it takes the last 5,000 for places left of or above the image."""
_MOST_ROI_BYTES = 1 << 24
_MOST_RATIO, _SMALL_BYTES = 100, 1 << 20
"""A set of ROIs is a few times smaller when packed; what unpacks to more than this is a bomb, unless it is small anyway."""
_POLYGONS = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
_SUBTYPES = (ROI_SUBTYPE.UNDEFINED, ROI_SUBTYPE.ELLIPSE, ROI_SUBTYPE.ROTATED_RECT)
_TYPE = 6
"""The byte of a ROI that holds its type."""


def evidence(path: Path) -> str | None:
    """The folder holds `images/` and `rois/`, or ROIs lie beside their image."""
    return beside.evidence(path, FOLDER, ENDINGS)


def index(folder: Path) -> list[Record]:
    """List the images, sorted by name, each with the ROIs of the same name.

    Raises:
        DatasetError: Doubled names, or ROIs that belong to no image.
    """
    return beside.index(folder, FOLDER, ENDINGS)


def write(folder: Path, name: str, pixels: Array, labels: Tensor | None, part: str | None) -> Written:
    """Write an image and its ROIs; arguments and result as `formats.Writer`. The layout knows no parts."""
    return write_with(write_nuclei, folder, name, pixels, labels)


def write_nuclei(
    folder: Path, name: str, labels: Tensor, scores: Mapping[int, float] | None = None
) -> tuple[Path, Mapping[str, int]]:
    """Write ROIs without their image; arguments and result as `formats.NucleiWriter`. There is no place for scores.

    A ROI has the number of its nucleus as its name. Those with filled holes come last, the larger the later: so a nucleus within
    the hole of another keeps its pixels when the set is read back.

    Raises:
        ImageError: The labels are larger than ROIs can be.
    """
    return write_banded(folder, name, BandedNuclei.of_map(labels), scores)


def write_banded(
    folder: Path, name: str, nuclei: BandedNuclei, scores: Mapping[int, float] | None = None
) -> tuple[Path, Mapping[str, int]]:
    """As `write_nuclei`, of label maps of any size."""
    if max(nuclei.size) > _FARTHEST_PX:
        msg = (
            f"{name}: sides of {' and '.join(map(str, nuclei.size))} pixels, ROIs reach to {_FARTHEST_PX}; use geojson"
        )
        raise ImageError(msg)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    file = folder / FOLDER / f"{name}{ENDING}"
    losses = Counter[str]()
    with in_order(folder) as rois:
        for number, outlines in nuclei.outlines("joined"):
            losses[HOLES] += sum(len(outline.holes) for outline in outlines)
            losses[PIECES] += len(outlines) > 1
            ordered = sorted((_filled(one).area_px if one.holes else 0, at) for at, one in enumerate(outlines))
            for place, (area_px, at) in enumerate(ordered, start=1):
                roi = _roi(outlines[at], _name(number, place))
                rois.add(area_px, number, place, piece=roi.tobytes())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, data in rois:
                # With a date of its own, equal labels would not give equal bytes.
                member = zipfile.ZipInfo(f"{_name(*map(int, key[1:]))}.roi")
                archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return file, {what: count for what, count in losses.items() if count}


def _name(number: int, place: int) -> str:
    """Of the ROI of a nucleus, or of one of its pieces."""
    return f"{number:05}{f'-{place}' if place > 1 else ''}"


def _filled(outline: Outline) -> Outline:
    return Outline(outline.number, outline.rings[:1])


def _roi(outline: Outline, name: str) -> ImagejRoi:
    exterior = outline.rings[0]
    (left, top), (right, bottom) = exterior.min(axis=0).tolist(), exterior.max(axis=0).tolist()
    return ImagejRoi(
        roitype=ROI_TYPE.TRACED,
        name=name,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        n_coordinates=len(exterior),
        integer_coordinates=(exterior - (left, top)).astype(np.int32),
    )


def read(path: Path, record: Record, size: tuple[int, int]) -> Drawn:
    """Read ROIs; arguments and result as `label_files.LabelReader`. They are numbered in their order in the set.

    Raises:
        ImageError: Damaged, too large, something in it is no ROI within the image, or most of them are without a pixel.
    """
    with _readable(path):
        files = _unpack(path) if path.suffix.lower() == ".zip" else {path.name: _read_whole(path)}
    outlines, slices = [], set[tuple[int, ...]]()
    for number, (name, data) in enumerate(files.items(), start=1):
        with _readable(path, name):
            roi = _parse(data)
            outlines.append(Outline(number, _rings(roi)))
            slices.add((roi.position, roi.c_position, roi.z_position, roi.t_position))
    for places in zip(*slices, strict=True):
        if len(set(places) - {0}) > 1:  # 0 = not said
            msg = f"{path}: holds ROIs of several slices of a stack; save those of each image as a set of its own"
            raise ImageError(msg)
    names = list(files)
    drawn = rasterise(outlines, size, where=str(path))
    return refuse_lost(drawn, len(names), lambda number: names[number - 1], where=str(path))


class _UnusableError(Exception):
    """Why an archive or a ROI is not used, and what to do."""


@contextmanager
def _readable(path: Path, name: str = "") -> Iterator[None]:
    """Within the block, whatever is wrong with a file becomes one line that names it.

    Raises:
        ImageError: Something was.
    """
    where = f"{path}: {name}" if name and name != path.name else str(path)
    try:
        yield
    except (Interrupted, MemoryError):
        raise
    except _UnusableError as error:
        msg = f"{where}: {error}"
        raise ImageError(msg) from None
    except Exception as error:  # damaged archives and ROIs raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{where}: cannot be read ({reason}); the file is damaged, save the ROIs again"
        raise ImageError(msg) from None


def _read_whole(path: Path) -> bytes:
    if (n_bytes := path.stat().st_size) > _MOST_ROI_BYTES:
        msg = f"{n_bytes:,} bytes are no ROI; replace the file"
        raise _UnusableError(msg)
    return path.read_bytes()


def _unpack(path: Path) -> dict[str, bytes]:
    """The ROIs of a set by name, in order; nothing is written anywhere.

    Raises:
        _UnusableError: It holds anything else, or unpacks to far more than its size.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        check_count(file, archive)
        members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
        total, packed = sum(one.file_size for one in members), path.stat().st_size
        if total > max(_SMALL_BYTES, _MOST_RATIO * packed):
            msg = f"unpacks from {packed:,} to {total:,} bytes; that is no set of ROIs, replace the file"
            raise _UnusableError(msg)
        files: dict[str, bytes] = {}
        for member in members:
            _check_member(member)
            if member.filename in files:
                msg = f"holds {member.filename!r} twice; delete the file and save the ROIs again, since some programs add to it"
                raise _UnusableError(msg)
            with archive.open(member) as stream:  # never more than its size, whatever follows
                files[member.filename] = stream.read(member.file_size)
        return files


def _check_member(member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        msg = f"its member {member.filename!r} points out of the archive; do not unpack it, replace the file"
    elif name.suffix.lower() != ".roi":
        msg = f"its member {member.filename!r} is no ROI; give a set saved by the ROI manager of ImageJ"
    elif member.file_size > _MOST_ROI_BYTES:
        msg = f"its member {member.filename!r} has {member.file_size:,} bytes, so it is no ROI; replace the file"
    else:
        return
    raise _UnusableError(msg)


def _parse(data: bytes) -> ImagejRoi:
    """Read a ROI that is an outline.

    Raises:
        _UnusableError: It is none.
    """
    if data[:4] != b"Iout" or len(data) <= _TYPE:
        msg = f"no ROI of ImageJ (it begins with {data[:4]!r}); replace the file"
        raise _UnusableError(msg)
    kind = data[_TYPE]
    if kind not in (*_POLYGONS, ROI_TYPE.RECT, ROI_TYPE.OVAL):
        name = next((known.name for known in ROI_TYPE if known == kind), str(kind))
        msg = f"a ROI of the type {name.lower()} encloses nothing; remove it from the set"
        raise _UnusableError(msg)
    roi = ImagejRoi.frombytes(data)
    is_rounded = roi.roitype == ROI_TYPE.RECT and roi.rounded_rect_arc_size > 0
    if roi.subtype not in _SUBTYPES or roi.options & ROI_OPTIONS.SPLINE_FIT or is_rounded:
        name = "rounded rectangle" if is_rounded else "spline" if roi.subtype in _SUBTYPES else roi.subtype.name.lower()
        msg = f"a ROI of the type {name} is not read; remove it, or make it a polygon in ImageJ"
        raise _UnusableError(msg)
    return roi


def _rings(roi: ImagejRoi) -> tuple[Ring, ...]:
    """The lines of a ROI.

    Raises:
        _UnusableError: Some of them are curves.
    """
    if roi.multi_coordinates is not None:
        try:
            rings = [_open(ring) for ring in ImagejRoi.path2coords(roi.multi_coordinates)]
        except NotImplementedError:
            msg = "a shape with curves is not read; remove it, or make it a polygon in ImageJ"
            raise _UnusableError(msg) from None
        return tuple(ring for ring in rings if len(ring) > 2) or tuple(rings)  # a path may end with a bare move
    if roi.roitype in _POLYGONS:
        return (np.asarray(roi.coordinates()),)
    return (_box(roi),)


def _box(roi: ImagejRoi) -> Ring:
    """The rectangle or oval of a ROI.

    Raises:
        _UnusableError: It is none in an image.
    """
    if roi.subpixelrect:
        left, top, right, bottom = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    else:
        left, top, right, bottom = roi.left, roi.top, roi.right, roi.bottom
    # Of an empty one roifile takes the far side for a place past 65,535.
    if not (0 < right - left <= _FARTHEST_PX and 0 < bottom - top <= _FARTHEST_PX and abs(top) <= _FARTHEST_PX):
        msg = f"from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) there is no nucleus; remove the ROI"
        raise _UnusableError(msg)
    if roi.roitype == ROI_TYPE.OVAL:
        return _oval(left, top, right, bottom)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def _open(ring: Ring) -> Ring:
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def _oval(left: float, top: float, right: float, bottom: float) -> Ring:
    """The pixels whose centres an ellipse encloses, by steps: a curve of many corners would be somewhat too small."""
    rows = np.arange(np.ceil(top - 0.5), np.ceil(bottom - 0.5))
    if not len(rows):  # between the centres of two rows
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    height = (rows + 0.5 - (top + bottom) / 2) / ((bottom - top) / 2)
    half = (right - left) / 2 * np.sqrt(np.maximum(0, 1 - height**2))
    middle = (left + right) / 2
    x = np.concatenate([np.repeat(middle + half, 2), np.repeat(middle - half, 2)[::-1]])
    edges = np.stack([rows, rows + 1], axis=1).ravel()
    return np.stack([x, np.concatenate([edges, edges[::-1]])], axis=1)
