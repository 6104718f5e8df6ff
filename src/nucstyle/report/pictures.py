"""Pictures for people: contours over a field, label maps in colour, the grid of styles. Pixels in, pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nucstyle.core.errors import OptionError
from nucstyle.core.labels import relabel
from nucstyle.metrics.matching import overlap

# H, W = size of the field, h, w = size of the picture, N = nuclei

TRUTH_COLOUR = "#ffd400"
"""Contours of the ground truth: yellow."""
PREDICTED_COLOUR = "#00c2ff"
"""Contours of the prediction: light blue. Yellow and blue stay apart in every common form of colour blindness."""
TRUE_COLOUR, COMMON_COLOUR, GAINED_COLOUR, LOST_COLOUR = "#ffffff", "#2f8fff", "#ffd400", "#ff3030"
"""Where two predictions are compared: the truth, contours of both (blue as in figure 4 of the paper), gained and lost ones."""
FRAME_COLOUR = "#1f6feb"
"""Frame of a self-reconstruction in the style grid."""
VIEW_PX = 512
"""Of larger fields the grids and examples of restyled images show the middle, of this side."""
ENLARGE_BELOW_PX = 400
"""A field whose longer side is shorter than this is drawn at twice its size, so that contours are thin beside nuclei."""
_CASING = 0.3
"""Brightness that is left beside a contour: the line stands out on white, and on black nothing changes."""
_PALETTE = (
    "#4e9fe6",
    "#f28e2b",
    "#59c26b",
    "#e8585c",
    "#b07fd6",
    "#f5d547",
    "#35c4c4",
    "#f291c0",
    "#b3785a",
    "#d9e6f2",
)
"""Colours of nuclei in a preview: far from each other and from the black background."""
_TOUCH_PX = 2
"""Nuclei with at most this many pixels between them get different colours."""
_GAP_PX, _FRAME_PX, _PAD_PX, _TEXT_PX = 6, 4, 10, 15
_MIN_CELL_PX = 112
"""Smaller tiles of the style grid are enlarged: a name has to fit above them."""


def draw_overlay(image: Tensor, truth: Tensor | None, predicted: Tensor) -> Tensor:
    """Draw the contours of true and predicted nuclei over a field.

    A true contour runs just inside its nucleus, a predicted one just outside, so that both are seen where they agree.

    Args:
        image: (3, H, W) float in [0, 1].
        truth: (H, W) integer labels, drawn in `TRUTH_COLOUR`; None = not annotated.
        predicted: (H, W) integer labels, drawn in `PREDICTED_COLOUR`.

    Returns:
        (3, h, w) float32 in [0, 1]; h, w = 2 H, 2 W for fields under `ENLARGE_BELOW_PX`, else H, W.

    Raises:
        OptionError: Image and labels are of different sizes.
    """
    size = tuple(image.shape[-2:])
    for labels in (truth, predicted):
        if labels is not None:
            _check_size(labels, size)
    factor = 2 if max(size) < ENLARGE_BELOW_PX else 1
    picture = _enlarge(_brightened(image.detach().cpu().float()), factor)
    lines = [(_outer_contours(_enlarge(predicted.cpu(), factor)), PREDICTED_COLOUR)]
    if truth is not None:
        lines.append((_inner_contours(_enlarge(truth.cpu(), factor)), TRUTH_COLOUR))
    return _draw_lines(picture, lines)


def _check_size(labels: Tensor, size: tuple[int, ...]) -> None:
    if tuple(labels.shape) != size:
        msg = f"cannot draw labels of size {tuple(labels.shape)} over an image of size {size}; they must be equal"
        raise OptionError(msg)


def _draw_lines(picture: Tensor, lines: Sequence[tuple[Tensor, str]]) -> Tensor:
    """Colour the pixels of lines, (H, W) bool, later ones over earlier ones, each darkened around."""
    drawn = torch.stack([line for line, _ in lines]).any(dim=0)
    casing = F.max_pool2d(drawn[None].float(), kernel_size=3, stride=1, padding=1)[0] > 0
    picture = torch.where(casing, picture * _CASING, picture)
    for line, colour in lines:
        picture = torch.where(line, _rgb(colour)[:, None, None], picture)
    return picture


def draw_change(image: Tensor, truth: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Draw what changed between two predictions of a field, as figure 4 of the paper, beside the truth.

    Left the true contours in white. Right the predicted ones: nuclei of both predictions (an IoU above 0.5) in blue as the second
    has them, those of the second alone in yellow, those of the first alone in red.

    Args:
        image: (3, H, W) float in [0, 1].
        truth: (H, W) integer labels.
        before: (H, W) integer labels of the first prediction.
        after: (H, W) integer labels of the second.

    Returns:
        (3, h, w) float32 in [0, 1]: the two beside each other.

    Raises:
        OptionError: Image and labels are of different sizes.
    """
    kept_before, kept_after = _found_in_both(before, after)
    left = _with_contours(image, [(truth, TRUE_COLOUR)])
    changed = [
        (before * ~torch.isin(before, kept_before), LOST_COLOUR),
        (after * torch.isin(after, kept_after), COMMON_COLOUR),
        (after * ~torch.isin(after, kept_after), GAINED_COLOUR),
    ]
    right = _with_contours(image, changed)
    return torch.cat([left, torch.ones(3, left.shape[1], _GAP_PX), right], dim=2)


def draw_restyled(source: Tensor, made: Tensor, labels: Tensor) -> Tensor:
    """An image, what was made of it, and where its nuclei are, side by side.

    Args:
        source: (3, H, W) float32 in [0, 1].
        made: The same.
        labels: (H, W) int32.

    Returns:
        (3, H, 3 W) float32 in [0, 1].
    """
    return torch.cat([source, made, (labels > 0).to(source.dtype).expand(3, -1, -1)], dim=2)


def _found_in_both(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the nuclei that both predictions have, in the first and in the second."""
    table = overlap(before.numpy(), after.numpy())
    same = table.above(1, 2)
    numbers = [
        _in_reading_order(labels)[index[same]]
        for labels, index in ((before, table.truth_index), (after, table.predicted_index))
    ]
    return torch.from_numpy(numbers[0]), torch.from_numpy(numbers[1])


def _in_reading_order(labels: Tensor) -> npt.NDArray[np.int64]:
    """(N,): the numbers of the nuclei as they are met row by row, as `metrics.matching` counts them."""
    numbers, first = np.unique(labels.numpy(), return_index=True)
    order = np.argsort(first)
    found = numbers[order].astype(np.int64)
    return found[found > 0]


def _with_contours(image: Tensor, drawn: Sequence[tuple[Tensor, str]]) -> Tensor:
    """Inner contours of label maps over a field, later ones over earlier ones."""
    for labels, _ in drawn:
        _check_size(labels, tuple(image.shape[-2:]))
    factor = 2 if max(image.shape[-2:]) < ENLARGE_BELOW_PX else 1
    picture = _enlarge(_brightened(image.detach().cpu().float()), factor)
    return _draw_lines(picture, [(_inner_contours(_enlarge(labels, factor)), colour) for labels, colour in drawn])


def _brightened(image: Tensor) -> Tensor:
    """(3, H, W) in [0, 1], so that the 99.8 percentile is white: many fluorescence fields are nearly black on a screen."""
    top = float(np.quantile(image.numpy(), 0.998))
    return (image / max(top, 0.1)).clamp(0, 1) if top < 1 else image.clamp(0, 1)


def _enlarge(pixels: Tensor, factor: int) -> Tensor:
    """Every pixel becomes `factor` x `factor` equal ones; (..., H, W) of any type."""
    return pixels.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _neighbours(labels: Tensor) -> Tensor:
    """(4, H, W): the labels above, below, left and right; beyond the border, the pixel's own."""
    return torch.stack(
        [
            torch.cat([labels[:1], labels[:-1]]),
            torch.cat([labels[1:], labels[-1:]]),
            torch.cat([labels[:, :1], labels[:, :-1]], dim=1),
            torch.cat([labels[:, 1:], labels[:, -1:]], dim=1),
        ]
    )


def _inner_contours(labels: Tensor) -> Tensor:
    """(H, W) bool: pixels of a nucleus beside background or another nucleus."""
    return (labels > 0) & (_neighbours(labels) != labels).any(dim=0)


def _outer_contours(labels: Tensor) -> Tensor:
    """(H, W) bool: background beside a nucleus, and one pixel between two nuclei that touch."""
    around = _neighbours(labels)
    background = (labels == 0) & (around > 0).any(dim=0)
    return background | ((labels > 0) & (around > labels).any(dim=0))


def colour_labels(labels: Tensor) -> Tensor:
    """Show a label map: every nucleus in a colour, close ones in different colours, the background black.

    Args:
        labels: (H, W) integers, 0 = background; gaps in the numbers are fine.

    Returns:
        (3, H, W) float32 in [0, 1]; the same labels give the same picture.
    """
    numbers = relabel(labels.cpu()).numpy()
    table = np.zeros((int(numbers.max(initial=0)) + 1, 3), np.float32)
    palette = torch.stack([_rgb(colour) for colour in _PALETTE]).numpy()
    table[1:] = palette[_colour_indices(numbers)]
    return torch.from_numpy(table[numbers]).permute(2, 0, 1).contiguous()


def _colour_indices(numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """(N,): for nucleus 1..N a place in the palette, by turns, stepping aside where a close one has it already."""
    count = int(numbers.max(initial=0))
    close: list[list[int]] = [[] for _ in range(count + 1)]
    for first, second in _close_pairs(numbers):
        close[second].append(first)
    chosen = np.zeros(count, np.int64)
    for number in range(1, count + 1):
        taken = {int(chosen[other - 1]) for other in close[number]}
        turns = [(number - 1 + turn) % len(_PALETTE) for turn in range(len(_PALETTE))]
        chosen[number - 1] = next((index for index in turns if index not in taken), turns[0])
    return chosen


def _close_pairs(numbers: npt.NDArray[np.int32]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of nuclei with at most `_TOUCH_PX` pixels between them."""
    height, width = numbers.shape
    reach = _TOUCH_PX + 1
    found = [np.zeros((0, 2), numbers.dtype)]
    for down, right in ((y, x) for y in range(reach + 1) for x in range(-reach, reach + 1) if (y, x) > (0, 0)):
        here = numbers[: max(0, height - down), max(0, -right) : width - max(0, right)]
        there = numbers[down:, max(0, right) : width + min(0, right)]
        differ = (here != there) & (here > 0) & (there > 0)
        found.append(np.unique(np.sort(np.stack([here[differ], there[differ]], axis=1), axis=1), axis=0))
    return [(int(i), int(j)) for i, j in np.unique(np.concatenate(found), axis=0)]


def style_grid(
    rows: Sequence[Sequence[Tensor]],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    framed: Sequence[int | None],
) -> Tensor:
    """Lay out originals and their restyled copies as in figure 3 of the paper.

    Args:
        rows: Of each row the tiles from left to right, the original first; tiles are (3, H, W) float in [0, 1]. A tile
            that is smaller than the largest is centred in its cell.
        row_names: One name a row, written at its left, for example the modality of the original; may have several lines.
        column_names: One name a column, the one of the originals included.
        framed: Of each row the column that gets a blue frame (the self-reconstruction), counted from 0 = the original;
            None = no frame.

    Returns:
        (3, h, w) float32 in [0, 1], on white.

    Raises:
        OptionError: No row, or the numbers of names, frames and tiles do not fit.
    """
    _check_grid(rows, row_names, column_names, framed)
    factor = max(1, -(-_MIN_CELL_PX // max(max(tile.shape[-2:]) for row in rows for tile in row)))
    tiles = [[_enlarge(tile.detach().cpu().float().clamp(0, 1), factor) for tile in row] for row in rows]
    height = max(tile.shape[-2] for row in tiles for tile in row)
    width = max(tile.shape[-1] for row in tiles for tile in row)
    headings = [_wrap(name, width) for name in column_names]
    labels = [_wrap(name, _MIN_CELL_PX) for name in row_names]
    left = 2 * _PAD_PX + max(_text_width(line) for lines in labels for line in lines)
    top = 2 * _PAD_PX + _line_height() * max(len(lines) for lines in headings)
    gap = _GAP_PX + 2 * _FRAME_PX
    # The originals stand a little apart from what was made of them.
    lefts = [left + column * (width + gap) + (2 * _PAD_PX if column else 0) for column in range(len(column_names))]
    tops = [top + row * (height + gap) for row in range(len(rows))]
    canvas = Image.new("RGB", (lefts[-1] + width + gap, tops[-1] + height + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for x, lines in zip(lefts, headings, strict=True):
        _write(draw, lines, x + width // 2, top - _PAD_PX // 2, "bottom")
    for y, row, lines, frame in zip(tops, tiles, labels, framed, strict=True):
        _write(draw, lines, left - _PAD_PX, y + height // 2, "right")
        for column, (x, tile) in enumerate(zip(lefts, row, strict=True)):
            corner = (x + (width - tile.shape[-1]) // 2, y + (height - tile.shape[-2]) // 2)
            if column == frame:  # around the tile, not around its cell: a small tile would lie in a block of colour
                draw.rectangle(_around(corner, tile), fill=FRAME_COLOUR)
            canvas.paste(_to_pillow(tile), corner)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255


def _around(corner: tuple[int, int], tile: Tensor) -> tuple[int, int, int, int]:
    """The outer edge of a frame around a tile whose upper left corner is at (x, y)."""
    (x, y), (height, width) = corner, tile.shape[-2:]
    return x - _FRAME_PX, y - _FRAME_PX, x + width + _FRAME_PX - 1, y + height + _FRAME_PX - 1


def _check_grid(
    rows: Sequence[Sequence[Tensor]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    framed: Sequence[int | None],
) -> None:
    if not rows or not column_names:
        msg = "a style grid needs at least one row and one column"
        raise OptionError(msg)
    if not len(rows) == len(row_names) == len(framed):
        msg = (
            f"a style grid of {len(rows)} rows got {len(row_names)} row names and {len(framed)} frames; give one a row"
        )
        raise OptionError(msg)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(column_names):
            msg = (
                f"row {number} of a style grid has {len(row)} tiles and there are {len(column_names)} column names; "
                "the original counts as a column and needs a name too"
            )
            raise OptionError(msg)


def _rgb(colour: str) -> Tensor:
    """(3,) in [0, 1] of `#rrggbb`."""
    return torch.tensor([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def _to_pillow(tile: Tensor) -> Image.Image:
    return Image.fromarray((tile * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_PX)


def _text_width(text: str) -> int:
    return round(_font().getlength(text))


def _line_height() -> int:
    return _TEXT_PX + 4


def _wrap(name: str, width_px: int) -> list[str]:
    """Break a name after hyphens and spaces so that its lines are no wider than a cell, as far as that goes."""
    lines: list[str] = []
    for line in name.split("\n"):
        lines.append("")
        for part in line.replace("-", "-\n").replace(" ", " \n").split("\n"):
            if lines[-1] and _text_width((lines[-1] + part).rstrip()) > width_px:
                lines.append("")
            lines[-1] += part
    return [line.rstrip() for line in lines]


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, place: str) -> None:
    """Write lines centred above the point (`bottom`), or to its left and centred in height (`right`)."""
    top = y - _line_height() * len(lines) // (1 if place == "bottom" else 2)
    for number, line in enumerate(lines):
        shift = _text_width(line) // 2 if place == "bottom" else _text_width(line)
        draw.text((x - shift, top + number * _line_height()), line, fill="#1f2328", font=_font())
