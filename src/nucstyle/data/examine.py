"""Looking at one image and its labels for faults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nucstyle.core.drawn import Drawn
from nucstyle.core.errors import ImageError
from nucstyle.data.decoders import DEFAULT, ReadOptions
from nucstyle.data.fields import Outline, outline
from nucstyle.data.findings import Box, Finding
from nucstyle.data.formats import dsb2018
from nucstyle.data.image_io import Array, read_mask, read_pixels, to_unit
from nucstyle.data.label_files import nuclei_as_stored
from nucstyle.data.label_rules import MaskError, SmoothedError, are_nuclei
from nucstyle.data.manifest import Record
from nucstyle.data.overlaps import LostError

# H, W = size of the image, h, w = of a sketch, C = channels

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_SKETCH_PX, _FINE_PX = 32, 256
"""Longer side, at most, of the pictures in which labels are compared with all images, and with their own image moved about."""
_FURTHEST_PX, _NEAREST_PX = 32, 5
"""Displacements that are looked for; no training or validation image of DSB 2018 is displaced by more than 2 px."""
_GAIN, _LEAST_FIT = 1.25, 0.3
"""Displaced labels fit so many times better than in place, and so well at least (a correlation)."""
_NUCLEI_FOR_CORNER, _CORNER = 10, 0.55
"""So many nuclei are not all within this share of both sides by chance."""
_REFUSALS: Mapping[type[ImageError], str] = {
    MaskError: "binary-labels",
    SmoothedError: "anti-aliased-labels",
    LostError: "most-nuclei-lost",
}
"""What reading refuses for a reason that has a remedy of its own."""
_EVERYWHERE = np.ones((3, 3), bool)
"""Pixels that touch at a corner are connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was seen of one image."""

    record: Record
    findings: tuple[Finding, ...]
    size: tuple[int, int] | None = None
    """(height, width) in pixels; None = it cannot be read."""
    dtype: str = ""
    """NumPy name of the type in the file."""
    channels: int = 0
    most: float = 0.0
    """The greatest number in it."""
    digest: str = ""
    """SHA-256 of the pixels."""
    outline: Outline | None = None
    n_nuclei: int | None = None
    """None = not annotated, or the labels cannot be read."""
    colours: Floats | None = None
    """(C, h * w) a sketch of each channel, mean 0, length 1; C = 1 where all channels are the same."""
    foreground: Floats | None = None
    """(h * w,) a sketch of the labels, alike; zeros where there is nothing to compare."""


@dataclass(slots=True)
class _Seen:
    """What one pass over the labels of an image counts: how many there are of a kind, and where the largest is."""

    counts: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, tuple[int, Box]] = field(default_factory=dict)

    def note(self, kind: str, size: int, box: Box) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if size > self.boxes.get(kind, (0, box))[0]:
            self.boxes[kind] = (size, box)


def examine(record: Record, reading: ReadOptions = DEFAULT) -> Examined:
    """Read an image and its labels, and say what is wrong with them; what cannot be read is a finding."""
    try:
        pixels = read_pixels(record.image, reading)
        if pixels.dtype.kind not in "bui":
            to_unit(pixels, where=str(record.image))  # refuses what is not finite
    except ImageError as error:
        return Examined(record=record, findings=(_finding(record, "unreadable-image", str(error), record.image),))
    size = pixels.shape[:2]
    image = pixels.reshape(*size, -1)
    labels, findings = _labels(record, size, reading)
    picture = _compressed(_shrunk(_without_copies(image), _FINE_PX))
    foreground = None if labels is None else _shrunk((labels > 0)[..., None], _FINE_PX)
    if foreground is not None:
        findings += _displacement(record, picture, foreground, factor=_factor(size, _FINE_PX))
    return Examined(
        record=record,
        findings=tuple(findings),
        size=size,
        dtype=pixels.dtype.name,
        channels=image.shape[2],
        most=float(pixels.max()),
        digest=_digest(pixels),
        outline=outline(pixels),
        n_nuclei=None if labels is None else len(np.unique(labels[labels > 0])),
        colours=_flat(_shrunk(picture, _SKETCH_PX)),
        foreground=None if foreground is None else _flat(_shrunk(foreground, _SKETCH_PX))[0],
    )


def _digest(pixels: Array) -> str:
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype.str}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _finding(record: Record, kind: str, says: str, *files: Path, count: int = 1, box: Box | None = None) -> Finding:
    return Finding(kind=kind, says=says, files=files, ids=(record.id,), count=count, box=box)


def _labels(record: Record, size: tuple[int, int], reading: ReadOptions) -> tuple[Labels | None, list[Finding]]:
    """The labels as far as they can be read, and what is wrong with them."""
    if record.labels is None:
        return None, []
    try:
        if record.labels.is_dir():
            return _of_folder(record, record.labels, size, reading)
        stored = nuclei_as_stored(record, size, reading)
    except ImageError as error:
        kind = next((kind for refusal, kind in _REFUSALS.items() if isinstance(error, refusal)), "unreadable-labels")
        return None, [_finding(record, kind, str(error), record.labels)]
    if stored is None:
        return None, []
    labels: Labels = stored.labels.numpy()
    if labels.shape != size:
        return None, [_other_size(record, record.labels, labels.shape, size)]
    drawn = _of_drawn(record, record.labels, stored)
    # That there is no nucleus is no news where all were lost.
    if drawn and not labels.any():
        return labels, drawn
    corner = _of_corner(record, record.labels, labels)
    return labels, _of_map(record, record.labels, labels) + drawn + corner


def _other_size(record: Record, file: Path, found: Sequence[int], size: Sequence[int]) -> Finding:
    says = f"labels are {found[0]} x {found[1]} pixels (height x width), the image is {size[0]} x {size[1]}"
    return _finding(record, "size-mismatch", says, file, record.image)


# Masks in a folder


def _of_folder(
    record: Record, folder: Path, size: tuple[int, int], reading: ReadOptions
) -> tuple[Labels | None, list[Finding]]:
    """Read every mask once."""
    labels, overlap = np.zeros(size, np.int32), np.zeros(size, bool)
    seen = _Seen()
    unread: list[Finding] = []
    several: list[Finding] = []
    empty: list[Path] = []
    covered: list[Path] = []
    for number, file in enumerate(dsb2018.mask_files(folder), start=1):
        try:
            mask = read_mask(file, reading)
        except ImageError as error:
            unread.append(_finding(record, "unreadable-labels", str(error), file))
            continue
        if mask.shape != size:
            unread.append(_other_size(record, file, mask.shape, size))
        elif (box := _box(mask)) is None:
            empty.append(file)
        else:
            part = np.s_[box[0] : box[2], box[1] : box[3]]
            crop, taken = mask[part], labels[part] > 0
            overlap[part] |= crop & taken
            if taken[crop].all():
                covered.append(file)
            labels[part][crop & ~taken] = number
            pieces_px = _pieces_px(crop)
            if not record.components and are_nuclei(len(pieces_px), max(pieces_px), sum(pieces_px)):
                says = f"in {len(pieces_px)} pieces, none of which has half of its pixels"
                several.append(_finding(record, "binary-labels", says, file, box=box))
            else:
                _note_shape(seen, crop, box, len(pieces_px))
    findings = unread + several + _of_shapes(record, folder, seen) + _of_overlap(record, folder, overlap, "masks")
    findings += _of_lost(record, covered, n_covered=len(covered))
    # One empty mask alone is how the layout says that an image shows no nucleus.
    if empty and (len(empty) > 1 or labels.any()):
        says = f"{_of(len(empty), 'mask is', 'masks are')} empty"
        findings.append(_finding(record, "empty-mask", says, *empty, count=len(empty)))
    return labels, findings if unread else findings + _of_extent(record, folder, labels)


def _of_overlap(record: Record, file: Path, overlap: Mask, what: str) -> list[Finding]:
    if not overlap.any():
        return []
    pixels = int(overlap.sum())
    says = f"{_of(pixels, 'pixel belongs', 'pixels belong')} to several {what}"
    return [_finding(record, "overlapping-masks", says, file, count=pixels, box=_largest(overlap))]


def _of_lost(record: Record, files: Sequence[Path], *, n_covered: int, n_empty: int = 0) -> list[Finding]:
    """Of nuclei that were given and are not there: others cover them, or there is no centre of a pixel in them."""
    covered = f"{_of(n_covered, 'nucleus is', 'nuclei are')} covered by others"
    empty = f"{_of(n_empty, 'nucleus holds', 'nuclei hold')} no centre of a pixel"
    says = ", ".join(words for words, count in ((covered, n_covered), (empty, n_empty)) if count)
    return [_finding(record, "lost-nucleus", says, *files, count=n_covered + n_empty)] if says else []


def _of(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _box(mask: Mask) -> Box | None:
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _largest(mask: Mask) -> Box:
    """The box of the largest connected part."""
    pieces, _ = ndimage.label(mask, _EVERYWHERE)
    number = int(np.bincount(pieces[mask]).argmax())
    return _corners(ndimage.find_objects(pieces)[number - 1])


def _corners(place: tuple[slice, slice]) -> Box:
    rows, columns = place
    return rows.start, columns.start, rows.stop, columns.stop


# Outlines and run lengths


def _of_drawn(record: Record, file: Path, drawn: Drawn) -> list[Finding]:
    overlap = [] if drawn.shared is None else _of_overlap(record, file, drawn.shared.numpy(), "nuclei")
    return overlap + _of_lost(record, [file], n_covered=len(drawn.covered), n_empty=len(drawn.empty))


def _of_corner(record: Record, file: Path, labels: Labels) -> list[Finding]:
    """Places in micrometres fill a part of an image, its upper left. None of DSB 2018's 589 images of ten nuclei is like this."""
    box = _box(labels > 0)
    if box is None or len(np.unique(labels)) <= _NUCLEI_FOR_CORNER:
        return []
    if any(end > _CORNER * side for end, side in zip(box[2:], labels.shape, strict=True)):
        return []
    says = f"no nucleus lies farther than {box[3]} of {labels.shape[1]} px to the right and {box[2]} of {labels.shape[0]} px down"
    return [_finding(record, "one-corner", says, file, box=box)]


# Label images


def _of_map(record: Record, file: Path, labels: Labels) -> list[Finding]:
    seen = _Seen()
    for number, crop, box in _objects(labels):
        _note_shape(seen, crop == number, box, len(_pieces_px(crop == number)))
    return _of_shapes(record, file, seen) + _of_extent(record, file, labels)


def _objects(labels: Labels) -> Iterator[tuple[int, Labels, Box]]:
    """Each number with the part of the labels that it lies in."""
    numbers, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape) + (0 if len(numbers) and numbers[0] == 0 else 1)
    for number, part in zip(numbers[numbers > 0], ndimage.find_objects(index), strict=True):
        yield int(number), labels[part], _corners(part)


def _pieces_px(crop: Mask) -> list[int]:
    """The pixels of each piece of one nucleus, given in its box."""
    if crop.all():
        return [crop.size]
    pieces, _ = ndimage.label(crop, _EVERYWHERE)
    return [int(area) for area in np.bincount(pieces[crop])[1:]]


def _note_shape(seen: _Seen, crop: Mask, box: Box, n_pieces: int) -> None:
    """Count what is odd about one nucleus, given in its box."""
    height, width = crop.shape
    area = int(crop.sum())
    if min(height, width) == 1:
        seen.note("thin-nucleus", area, box)
    if area == height * width:
        return
    if n_pieces > 1:
        seen.note("nucleus-in-pieces", area, box)
    outside = np.ones((height + 2, width + 2), bool)
    outside[1:-1, 1:-1] = ~crop
    if ndimage.label(outside)[1] > 1:
        seen.note("nucleus-with-hole", area, box)


_SHAPES = {
    "thin-nucleus": ("nucleus is", "nuclei are", "one pixel wide or high"),
    "nucleus-with-hole": ("nucleus has", "nuclei have", "a hole"),
    "nucleus-in-pieces": ("nucleus is", "nuclei are", "in several pieces"),
}


def _of_shapes(record: Record, file: Path, seen: _Seen) -> list[Finding]:
    findings = []
    for kind, (one, many, what) in _SHAPES.items():
        if count := seen.counts.get(kind):
            says = f"{_of(count, one, many)} {what}"
            findings.append(_finding(record, kind, says, file, count=count, box=seen.boxes[kind][1]))
    return findings


def _of_extent(record: Record, file: Path, labels: Labels) -> list[Finding]:
    if not labels.any():
        return [_finding(record, "no-nuclei", "no nucleus is marked", file)]
    return [_finding(record, "no-background", "every pixel is of a nucleus", file)] if labels.all() else []


# Labels beside their image


def _without_copies(image: Array) -> Array:
    """(H, W, C) -> (H, W, 1) where all channels are the same."""
    is_grey = all(np.array_equal(image[..., 0], image[..., channel]) for channel in range(1, image.shape[2]))
    return image[..., :1] if is_grey else image


def _compressed(image: Floats) -> Floats:
    """(h, w, C) -> (h, w, C) without unit: a few very bright nuclei do not outweigh the others."""
    spread = np.maximum(image.std(axis=(0, 1)), 1e-6)
    return np.asarray(np.arcsinh((image - np.median(image, axis=(0, 1))) / spread), np.float32)


def _factor(size: tuple[int, ...], longest: int) -> int:
    """How many pixels of the image make one of a picture whose longer side is at most `longest`."""
    return -(-max(size) // longest)


def _shrunk(image: Array, longest: int) -> Floats:
    """(H, W, C) -> (h, w, C), means of blocks."""
    size = image.shape[:2]
    factor = _factor(size, longest)
    if factor == 1:
        return image.astype(np.float32)
    ys, xs = (np.arange(0, side, factor) for side in size)
    sums = np.add.reduceat(np.add.reduceat(image, ys, axis=0, dtype=np.float32), xs, axis=1)
    counts = np.outer(np.diff([*ys, size[0]]), np.diff([*xs, size[1]]))
    return np.asarray(sums / counts[..., None], np.float32)


def _flat(image: Floats) -> Floats:
    """(h, w, C) -> (C, h * w), mean 0, length 1, or zeros."""
    flat = image.reshape(-1, image.shape[2]).T
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.sqrt((flat**2).sum(axis=1, keepdims=True)), 1e-6), np.float32)


def _displacement(record: Record, picture: Floats, foreground: Floats, *, factor: int) -> list[Finding]:
    """Whether labels fit better elsewhere: their correlation with the image, moved about by up to `_FURTHEST_PX`.

    Args:
        record: The image.
        picture: (h, w, C) what it looks like.
        foreground: (h, w, 1) share of labelled pixels.
        factor: Pixels of the image to one of these.
    """
    size = picture.shape[:2]
    reach = min(_FURTHEST_PX // factor, min(size) - 1)
    padded = [side + reach for side in size]  # what leaves at one side does not come in at the other
    seen, marked = (np.fft.rfft2(_flat(one).reshape(-1, *size), s=padded) for one in (picture, foreground))
    fits = np.abs(np.fft.irfft2(seen * np.conj(marked), s=padded)).max(axis=0)
    window = np.roll(fits, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    down, right = (int(place) - reach for place in np.unravel_index(window.argmax(), window.shape))
    best, here, distance = window.max(), window[reach, reach], max(abs(down), abs(right))
    # At the rim of the window the fit may still rise: what it rises to is not the place of the labels.
    if distance == reach or distance * factor < _NEAREST_PX or best < max(_GAIN * here, _LEAST_FIT):
        return []
    there = f"{_way(down * factor, 'down', 'up')} and {_way(right * factor, 'right', 'left')}"
    says = f"moved {there}, the labels fit better: correlation with the image {best:.2f} instead of {here:.2f}"
    files = () if record.labels is None else (record.labels,)
    return [_finding(record, "shifted-labels", says, *files, record.image)]


def _way(pixels: int, positive: str, negative: str) -> str:
    return f"{abs(pixels)} px {positive if pixels >= 0 else negative}"
