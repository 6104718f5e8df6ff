"""`submission`: the nuclei of a run of `predict` as run lengths, as the Data Science Bowl 2018 takes them."""

from __future__ import annotations

from pathlib import Path

from nucstyle.core.errors import ImageError, InputError
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.formats import rle
from nucstyle.data.image_io import read_labels
from nucstyle.data.manifest import Record
from nucstyle.data.predictions import PredictedImage, label_file, read_images
from nucstyle.data.run_folder import RESULT, read_json, write_text

SUBMISSION = "submission.csv"
_NAMED = 5
"""So many missing images are named."""


def submission(run: Path, *, progress: Progress = SILENT) -> Path:
    """Write `RUN/submission.csv`: `ImageId,EncodedPixels`, sorted by id, a line a nucleus and one for an image without any.

    Nuclei share no pixel, since they are read from label maps.

    Args:
        run: A run of `predict`.
        progress: Shown to the person.

    Returns:
        The file; an older one is replaced.

    Raises:
        InputError: It is no such run, or label maps cannot be used, which are listed; nothing is written then.
    """
    images = sorted(read_images(run))
    if missing := _refused(run):
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        progress.say(f"warning: {len(missing)} images could not be predicted and are missing: {named}")
    texts, refused = [rle.HEADING], []
    progress.start("write run lengths", len(images), "image")
    for number, image in enumerate(images, start=1):
        try:
            texts.append(_rows(run, image))
        except InputError as error:
            refused.append(str(error))
        progress.advance(number)
    if refused:
        msg = f"{len(refused)} of {len(images)} label maps could not be used, nothing is written: " + "; ".join(refused)
        raise InputError(msg)
    write_text(run / SUBMISSION, "".join(texts))
    return run / SUBMISSION


def _refused(run: Path) -> list[str]:
    """Ids of the images that `predict` was given and could not use, where the run says so."""
    return list(read_json(run / RESULT).get("refused", ())) if (run / RESULT).is_file() else []


def _rows(run: Path, image: PredictedImage) -> str:
    path = label_file(run, image.image_id)
    rle.check_name(Record(id=image.image_id, image=path))
    labels = read_labels(path)
    if tuple(labels.shape) != (image.height, image.width):
        msg = (
            f"{path}: {labels.shape[0]} x {labels.shape[1]} pixels (height x width), the image has {image.height} x "
            f"{image.width}; predict it again"
        )
        raise ImageError(msg)
    return rle.rows_of(image.image_id, labels)
