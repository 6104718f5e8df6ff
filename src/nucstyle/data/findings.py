"""What the doctor may find in a data set: every kind, how bad it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From what stops a training, or makes it worthless, to what is merely worth knowing."""
Box = tuple[int, int, int, int]
"""First row, first column, and the row and column after the last, in pixels."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    severity: Severity
    title: str
    remedy: str


KINDS: Mapping[str, Kind] = {
    "layout": Kind(
        "error", "does not fit the layout", "put the files as the layout asks, or name another with --format"
    ),
    "manifest-line": Kind("error", "a line of the manifest is wrong", "correct the line"),
    "missing-file": Kind("error", "a file that is named is not there", "correct the path"),
    "duplicated-name": Kind("error", "one name for several files", "rename or remove all but one"),
    "labels-without-image": Kind("error", "labels without their image", "add the images, or remove the labels"),
    "image-without-labels": Kind(
        "error",
        "not annotated, though others are",
        "add labels; or leave the images out; or name the modalities whose masks count with --annotated",
    ),
    "nothing-to-train-on": Kind("error", "no image is of the part train", "correct the column split"),
    "unreadable-image": Kind("error", "an image cannot be used", "replace or convert the file"),
    "unreadable-labels": Kind("error", "labels cannot be used", "replace or convert the file"),
    "size-mismatch": Kind("error", "labels and image differ in size", "give each image its own labels, of its size"),
    "binary-labels": Kind(
        "error",
        "labels with one number, or one mask, for several nuclei",
        "give every nucleus a number, or a mask, of its own, or write yes in the column components of a manifest.csv",
    ),
    "anti-aliased-labels": Kind(
        "error",
        "labels with blurred edges: numbers that are no nuclei",
        "save the labels again without smoothing, resizing or lossy compression",
    ),
    "most-nuclei-lost": Kind(
        "error",
        "half of the nuclei or more get no pixel",
        "leave out what is drawn around nuclei or stands there twice, and give places in pixels",
    ),
    "swapped-labels": Kind(
        "warning", "labels fit another image better", "look at the pictures, and exchange the labels"
    ),
    "shifted-labels": Kind("warning", "labels are displaced", "look at the picture, and move the labels"),
    "divided-field": Kind(
        "warning",
        "images of one field of view in several parts",
        "put all images of a field into one part: what was trained on is asked again otherwise",
    ),
    "held-out-image": Kind(
        "warning",
        "images that DSB 2018's shipped division holds out are trained on here",
        "do not compare with results on its validation or test part",
    ),
    "seen-image": Kind(
        "warning",
        "images that the shipped models were trained on are held out here",
        "do not measure shipped weights on them",
    ),
    "exact-duplicate": Kind("warning", "images that are the same, pixel by pixel", "keep one of them"),
    "near-duplicate": Kind("warning", "images that show nearly the same", "keep them in one part, or keep one of them"),
    "overlapping-masks": Kind(
        "warning",
        "masks or outlines overlap",
        "nothing needs doing: the first keeps the pixels; draw the nuclei apart, and leave out what is drawn around them",
    ),
    "lost-nucleus": Kind(
        "warning",
        "nuclei that get no pixel",
        "remove them: others cover them wholly, or they hold no centre of a pixel",
    ),
    "one-corner": Kind(
        "warning",
        "all nuclei in the upper left of the image",
        "give places in pixels, not in micrometres; nothing, if the rest of the image is empty",
    ),
    "empty-mask": Kind("warning", "masks without a pixel", "remove the files"),
    "thin-nucleus": Kind(
        "warning", "nuclei of one pixel, or one pixel wide", "remove them if they are slips of the pen"
    ),
    "nucleus-with-hole": Kind(
        "warning",
        "nuclei with holes",
        "fill the holes if they are slips of the pen; one nucleus within another may be drawn twice",
    ),
    "nucleus-in-pieces": Kind(
        "warning",
        "nuclei in several pieces",
        "remove specks; give pieces that are nuclei a number of their own",
    ),
    "no-background": Kind("warning", "labels without background", "give the background the number 0"),
    "unread-file": Kind(
        "warning", "files that nothing reads", "convert images and labels to PNG or TIFF, and move what is neither"
    ),
    "unread-labels": Kind(
        "warning",
        "labels where no layout has them",
        "put label images into labels/ beside images/, each with the name of its image; or a mask a nucleus into ID/masks/",
    ),
    "no-nuclei": Kind("note", "annotated, and no nucleus in it", "nothing, if there is none in the image"),
    "file-name": Kind("warning", "an id that cannot name a file", "rename the image: predict and augment refuse it"),
    "similar-names": Kind(
        "warning",
        "names that differ only in small and capital letters, or in how an accent is stored",
        "rename one: Windows and macOS take them for one name, and one file would replace the other there",
    ),
    "not-annotated": Kind("note", "no image is annotated", "add labels to train a segmenter; all else works without"),
}
"""In the order in which they are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault of one image, or of images together."""

    kind: str
    """One of `KINDS`."""
    says: str
    """What is wrong, in one line, without the file's name."""
    files: tuple[Path, ...]
    """The files that it is about."""
    ids: tuple[str, ...] = ()
    """The images that it is about; none where files belong to no image."""
    count: int = 1
    """How many of what is named, for example nuclei with holes."""
    box: Box | None = None
    """Where to look in the first image; None = at all of it."""
    is_below: bool | None = None
    """Where the first two images are neighbours in a field: whether the second lies below the first, else at its right."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity
