"""Reading and writing single images and label images: the one door between files and tensors.

The intensity rule: 8-bit numbers are divided by 255. Of any other type, the 0.1 to 99.9 percentile of the whole image
goes to [0, 1], clipped, and `(low, high)` is kept in `Source` so that what is written back means the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nucstyle.core.errors import ImageError, Interrupted
from nucstyle.core.sample import Sample, Source
from nucstyle.data.decoders import DEFAULT, ReadOptions, Wanted, npy, png, raster, tiff
from nucstyle.data.decoders import Array as Array
from nucstyle.data.label_rules import as_labels, as_numbers, check_one_nucleus, check_upright

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy")
"""What is taken for an image by its name; see `is_image_name`."""
_UNREAD_PICTURES = (
    *(
        ".gif",
        ".webp",
        ".jp2",
        ".j2k",
        ".j2c",
        ".jpx",
        ".jpf",
        ".jxl",
        ".jxr",
        ".jpe",
        ".jfif",
        ".avif",
        ".heic",
        ".heif",
    ),
    *(
        ".tga",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pam",
        ".pcx",
        ".dib",
        ".ico",
        ".apng",
        ".psd",
        ".xcf",
        ".svg",
        ".exr",
        ".hdr",
    ),
    *(".dcm", ".czi", ".nd2", ".lif", ".lsm", ".oib", ".oif", ".ims", ".vsi", ".svs", ".ndpi", ".scn", ".mrxs"),
)
"""Names of pictures of kinds that are not read."""
_NO_IMAGES = ("_seg.npy",)
"""What Cellpose saves beside an image, and is no image."""
LABELS_SOFTWARE = "nucstyle labels"
"""The TIFF tag Software of label images whose numbers were known to be nuclei, so that no rule needs to find it out: what a
network finds may look like a mask (one nucleus in pieces) or like smoothed edges (specks). Other programs put their own there."""
_BAND_PX = 1 << 20
"""Numbers are rescaled in bands of rows of about so many pixels: of a large image, only the result is held beside it."""
_PERCENTILES = (0.1, 99.9)


def is_image_name(name: str) -> bool:
    """Whether a file of that name is taken for an image when a folder is listed."""
    small = name.lower()
    return small.endswith(IMAGE_SUFFIXES) and not small.endswith(_NO_IMAGES)


def is_unread_picture(name: str) -> bool:
    """Whether a file of that name is a picture of a kind that is not read."""
    return name.lower().endswith(_UNREAD_PICTURES)


def read_image(path: Path, reading: ReadOptions = DEFAULT) -> tuple[Tensor, Source]:
    """Read an image file.

    Args:
        path: PNG, TIFF, JPEG, BMP or NPY, whatever its name; grey or colour, of any real type. Alpha must be opaque everywhere.
        reading: The largest size, the page, and the values that become 0 and 1 where not the intensity rule says them.

    Returns:
        (3, H, W) float32 in [0, 1] (grey is replicated), the way up that the file asks for, and where it came from.

    Raises:
        ImageError: Not an image, damaged, too large, of a shape that is not a single grey or RGB image, or not finite.
    """
    return image_of(_decode(path, Wanted.COLOURS, reading), path, reading)


def image_of(array: Array, path: Path, reading: ReadOptions = DEFAULT) -> tuple[Tensor, Source]:
    """An image as `read_image` gives it, of pixels that were read before.

    Args:
        array: From `read_pixels`.
        path: Of the file.
        reading: As for `read_image`.

    Raises:
        ImageError: Numbers that are not finite.
    """
    channels = 1 if array.ndim == 2 else array.shape[2]
    unit, low, high = to_unit(array, value_range=reading.value_range, where=str(path))
    source = Source(path=path, dtype=array.dtype.name, channels=channels, low=low, high=high)
    return unit, source


def read_pixels(path: Path, reading: ReadOptions = DEFAULT) -> Array:
    """The pixels of an image file as they are.

    Args:
        path: As for `read_image`.
        reading: The largest size, and the page.

    Returns:
        (H, W) or (H, W, 3), of the file's type; an opaque alpha channel is left out.

    Raises:
        ImageError: As `read_image`, but for numbers that are not finite.
    """
    return _decode(path, Wanted.COLOURS, reading)


def to_unit(
    array: Array, *, value_range: tuple[float, float] | None = None, where: str = "array"
) -> tuple[Tensor, float, float]:
    """Apply the intensity rule to an array.

    Args:
        array: (H, W) or (H, W, 3), any real type.
        value_range: The values that become 0 and 1.
        where: For messages.

    Returns:
        (3, H, W) float32 in [0, 1], and the values that became 0 and 1.

    Raises:
        ImageError: Another shape, or NaN or infinity in it.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        msg = f"{where}: an image is (height, width) or (height, width, 3), got {array.shape}; convert it first"
        raise ImageError(msg)
    _check_numbers(array, where)
    if value_range is not None:
        low, high = value_range
    elif array.dtype == np.uint8:
        low, high = 0.0, 255.0
    elif array.dtype == np.bool_:
        low, high = 0.0, 1.0
    else:
        low, high = (float(value) for value in np.percentile(array, _PERCENTILES))
    span = high - low if high > low else 1.0
    # float32 tells all 16-bit numbers apart; wider ones would lose their contrast on a large offset.
    kind = np.float32 if array.dtype.itemsize <= 2 else np.float64
    image = torch.empty((3, *array.shape[:2]))
    for rows in _bands(*array.shape[:2]):
        part = array[rows] if array.ndim == 2 else np.moveaxis(array[rows], 2, 0)
        if array.dtype == np.uint8 and (low, high) == (0, 255):
            np.divide(part, np.float32(255), out=image[:, rows].numpy())  # the same in one step
        else:
            wide: Array = part.astype(kind)
            image[:, rows] = torch.from_numpy(np.clip((wide - low) / span, 0, 1).astype(np.float32, copy=False))
    return image, low, high


def _bands(height: int, width: int) -> Iterator[slice]:
    """The rows of an image, in order, in slices of about `_BAND_PX` pixels."""
    step = max(1, _BAND_PX // width)
    for start in range(0, height, step):
        yield slice(start, min(height, start + step))


def _check_numbers(array: Array, where: str) -> None:
    if array.dtype.kind not in "buif":
        msg = f"{where}: pixels are real numbers, got {array.dtype}; convert the image first"
        raise ImageError(msg)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        odd = ~np.isfinite(array)
        bad = int(np.count_nonzero(odd.any(axis=2) if odd.ndim == 3 else odd))
        msg = f"{where}: {bad} pixels are NaN or infinite; replace them first"
        raise ImageError(msg)


def sample_of_array(array: npt.NDArray[np.generic]) -> Sample:
    """An array in memory as a sample that remembers its type and range.

    Args:
        array: (H, W) or (H, W, 3): integers by the intensity rule, floats in [0, 1] as they are.

    Raises:
        ImageError: Another shape, not finite, or floats outside [0, 1].
    """
    is_float = np.issubdtype(array.dtype, np.floating)
    if is_float and array.size and np.isfinite(array).all() and (array.min() < 0 or array.max() > 1):
        msg = f"float images must lie in [0, 1], got {array.min():g} to {array.max():g}; scale them to it, and normalise later"
        raise ImageError(msg)
    image, low, high = to_unit(array, value_range=(0.0, 1.0) if is_float else None)
    channels = 1 if array.ndim == 2 else 3
    return Sample(id="array", image=image, source=Source(dtype=array.dtype.name, channels=channels, low=low, high=high))


def from_unit(image: Tensor, source: Source) -> Array:
    """The inverse of `to_unit` and of reading: the array that a file of the source's type would hold.

    Args:
        image: (3, H, W) float32 in [0, 1].
        source: Type, channels and range to return to.

    Returns:
        (H, W) for a grey source (the mean of RGB), else (H, W, 3), of the source's type.
    """
    kind, height, width = np.dtype(source.dtype), *image.shape[1:]
    is_grey = source.channels < 3
    made: Array = np.empty((height, width) if is_grey else (height, width, 3), kind)
    for rows in _bands(height, width):
        band = image[:, rows].mean(0) if is_grey else image[:, rows].permute(1, 2, 0)
        scaled = band.cpu().numpy().astype(np.float64) * (source.high - source.low) + source.low
        if np.issubdtype(kind, np.integer):
            info = np.iinfo(kind)
            scaled = np.clip(np.rint(scaled), info.min, info.max)
        elif kind == np.bool_:
            scaled = np.rint(scaled)
        made[rows] = scaled.astype(kind)
    return made


def written_as(source: Source | None, *, colour: bool) -> Source:
    """The type and range that pictures made of an image are written in: its own, and 8 bits where it has fewer.

    Args:
        source: Of the image; None = made in memory.
        colour: Whether three channels are written, also for a grey image.
    """
    if source is None:
        return Source()
    kept = replace(source, dtype="uint8", low=0.0, high=255.0) if source.dtype == "bool" else source
    return replace(kept, channels=3) if colour else kept


def _decode(path: Path, wanted: Wanted, reading: ReadOptions) -> Array:
    """The pixels of a file as (H, W) or (H, W, 3), unscaled."""
    with refusing(path):
        if is_tiff(path):
            return tiff.decode(path, wanted, reading)
        decode = npy.decode if _head(path).startswith(npy.HEAD) else raster.decode
        return decode(path, wanted, reading)


def is_tiff(path: Path) -> bool:
    """Whether a file is a TIFF by its first bytes, since names lie."""
    return _head(path).startswith(tiff.HEADS)


def tiff_size(path: Path, wanted: Wanted, reading: ReadOptions = DEFAULT) -> tuple[tuple[int, int], bool]:
    """The (height, width) in pixels of a TIFF of any size, and whether it holds no other image; only the header is read.

    Raises:
        ImageError: As for reading it, as far as the header tells.
    """
    with refusing(path):
        return tiff.header(path, wanted, reading)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Whatever a decoder raises becomes the refusal of the file.

    Raises:
        ImageError: With the file, the reason and a remedy.
    """
    if not path.is_file():
        link = os.readlink(path) if path.is_symlink() else None
        msg = f"{path}: is a link to {link}, which is no file; mend it" if link else f"{path}: no such image file"
        raise ImageError(msg)
    try:
        yield
    except (ImageError, Interrupted):
        raise
    except MemoryError:  # also what a damaged header asks for; the other files of a batch must not suffer
        msg = f"{path}: needs more memory than there is; crop or tile the image, or replace the file if it is damaged"
        raise ImageError(msg) from None
    except UnidentifiedImageError:
        msg = f"{path}: not a PNG, JPEG, BMP, TIFF or NPY image ({looks_like(path)}); replace the file"
        raise ImageError(msg) from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            msg = f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
            raise ImageError(msg) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{path}: cannot be decoded ({reason}); the file is damaged, replace it"
        raise ImageError(msg) from None


def looks_like(path: Path) -> str:
    """What a file that is of no known kind seems to be, in words, by its first bytes."""
    head = _head(path)
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the real file"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it looks like an HTML page"
    return f"it begins with {head[:8]!r}"


def read_labels(path: Path, reading: ReadOptions = DEFAULT, *, may_be_mask: bool = False) -> Tensor:
    """Read a label image: 0 is background, every other number one nucleus.

    Args:
        path: PNG, TIFF or NPY, of whole numbers; a palette image's indices are the labels.
        reading: The largest size, and the page of a stack of labels.
        may_be_mask: Whether a mask of 0 and 255 is fine, since its connected pieces will get numbers.

    Returns:
        (H, W) int32, numbers as in the file.

    Raises:
        ImageError: Damaged, or not a label image by `label_rules`, which a file that `says_labels` is not asked about.
    """
    array = _decode(path, Wanted.NUMBERS, reading)
    take = as_numbers if says_labels(path) else as_labels
    return torch.from_numpy(take(array, path, may_be_mask=may_be_mask))


def says_labels(path: Path) -> bool:
    """Whether a file says, by `LABELS_SOFTWARE`, that its numbers are nuclei.

    Raises:
        ImageError: It cannot be read.
    """
    with refusing(path):
        return is_tiff(path) and tiff.software(path) == LABELS_SOFTWARE


def read_mask(path: Path, reading: ReadOptions = DEFAULT) -> npt.NDArray[np.bool_]:
    """Read the binary mask of one nucleus: (H, W) bool, true above half of its greatest number, be that 1 or 255.

    Raises:
        ImageError: As `covered_pixels`.
    """
    size, covered = covered_pixels(path, reading)
    mask = np.zeros(size, bool)
    mask.reshape(-1)[covered] = True
    return mask


def covered_pixels(path: Path, reading: ReadOptions = DEFAULT) -> tuple[tuple[int, int], npt.NDArray[np.intp]]:
    """Read the binary mask of one nucleus, which covers few pixels of a field.

    Returns:
        (height, width), and the numbers of the pixels that `read_mask` gives as true, counted along the rows.

    Raises:
        ImageError: Not an image, damaged, a label image, or an inverted mask.
    """
    array = _flat_grey(path, reading)
    if array is None:
        array = _decode(path, Wanted.MASK, reading)
        _check_numbers(array, str(path))
    grey = array if array.ndim == 2 else array.max(axis=2)
    size = (grey.shape[0], grey.shape[1])
    tops = grey.max(axis=1) if grey.size else np.zeros(1, np.uint8)
    top = tops.max()
    if top <= 0:
        return size, np.empty(0, np.intp)
    # Half of a whole number, rounded down, divides the same numbers and needs no floats.
    half = top / 2 if grey.dtype.kind == "f" else int(top) // 2
    rows = (tops > half).nonzero()[0]
    part = grey[rows[0] : rows[-1] + 1]
    covered = np.flatnonzero(part == top)
    if np.count_nonzero(part) != len(covered) or np.count_nonzero(tops) != len(rows):  # more than 0 and another number
        check_one_nucleus(grey, path)
        covered = np.flatnonzero(part > half)
    if 2 * len(covered) > grey.size:
        check_upright(grey > half, path)
    return size, covered + rows[0] * size[1]


def _flat_grey(path: Path, reading: ReadOptions) -> Array | None:
    """The pixels of most masks, of which there are many to an image; None where `_decode` must look."""
    if path.suffix.lower() != ".png" or not path.is_file():
        return None
    try:
        return png.decode_grey(path.read_bytes(), reading.max_pixels)
    except OSError:  # `_decode` says it in words
        return None


def write_labels(path: Path, labels: Tensor, *, are_nuclei: bool = False) -> None:
    """Write a label image as deflated TIFF: uint16, or uint32 past 65,535 nuclei.

    Args:
        path: Ends in `.tif`.
        labels: (H, W) int, not negative.
        are_nuclei: Whether every number is known to be a nucleus, however it looks: then the file says so, and is believed.
    """
    array = labels.cpu().numpy()
    kind = label_type(int(array.max(initial=0)))
    writer = LABELS_SOFTWARE if are_nuclei else None
    tifffile.imwrite(path, array.astype(kind), compression="deflate", metadata={"axes": "YX"}, software=writer)


def label_type(largest: int) -> type[np.uint16 | np.uint32]:
    """The type that label images are written in: 16 bits as long as the largest number fits."""
    return np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32


def write_pixels(path: Path, array: Array, *, as_tiff: bool = False) -> Path:
    """Write pixels as they are: 8-bit numbers as PNG, any other type as deflated TIFF.

    Args:
        path: Without a suffix; it is added to the name.
        array: (H, W) or (H, W, 3).
        as_tiff: Write TIFF whatever the type.

    Returns:
        The file.
    """
    is_png = array.dtype == np.uint8 and not as_tiff
    file = path.with_name(path.name + (".png" if is_png else ".tif"))
    if is_png:
        Image.fromarray(array).save(file, format="PNG", optimize=False)
    else:
        kind = "minisblack" if array.ndim == 2 else "rgb"
        tifffile.imwrite(file, array, photometric=kind, compression="deflate")
    return file


def write_jpeg(path: Path, image: Tensor) -> None:
    """Write (3, H, W) float32 in [0, 1] as a JPEG, for pictures that are only looked at."""
    Image.fromarray(_to_bytes(image)).save(path, format="JPEG", quality=85)


def write_png(path: Path, image: Tensor) -> None:
    """Write (3, H, W) float32 in [0, 1] as an 8-bit RGB PNG; a reader sees the old file or the whole new one."""
    partial = path.with_name(path.name + ".part")
    try:
        Image.fromarray(_to_bytes(image)).save(partial, format="PNG", optimize=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _to_bytes(image: Tensor) -> npt.NDArray[np.uint8]:
    """(3, H, W) float32 in [0, 1] -> (H, W, 3) uint8."""
    array: npt.NDArray[np.uint8] = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return array
