"""Images and label maps that were decoded before, as files that are mapped into memory the next time.

An entry is found by its stamp: where the file lies, its size, its times and its number on the disk, or those of every mask in a
folder. Where no stamp is known, since the data were copied, moved or touched, the SHA-256 of the content decides, and so it does
with `verify`. A file that changes is decoded again, and a data set that lies in two places is kept once.

Each entry is a file of its own below `cache.cache_folder()`, written under another name first; its stamp is a second name of the
same file (a hard link). Nothing is ever changed in place, so processes need not wait for each other, and the folder may be
deleted at any time. All bytes are under a checksum: an entry that is damaged is made again. Where nothing can be written, a run
goes on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nucstyle.core.errors import ImageError
from nucstyle.data.cache import cache_folder
from nucstyle.data.formats.dsb2018 import mask_files

CacheUse = bool | Literal["verify"]
"""Whether to use the cache; `verify` = only for files whose content is the same, whatever their stamp says."""
KIND = "pixels-2"
"""Count up when what is decoded of a file changes."""
_HEADER = struct.Struct("<8s8sQQQQI4xI")
"""Magic, type, height, width, channels that are stored (0 = no such axis), times that one channel is repeated, checksums of the
numbers and of the header before it."""
_MAGIC = b"nucpix1\n"
_SETTLED_NS = 2_000_000_000
"""A file that changed less than two seconds before it was looked at may change again without another time: FAT counts in twos."""
_SPARE_BYTES = 2 << 30
"""What is left free on the disk."""
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells that a file, or a folder of masks, has not changed."""

    files: tuple[tuple[str, int, int, int, int], ...]
    """Of each: name, bytes, time of the content and of the entry in nanoseconds, number on the disk."""
    is_settled: bool
    """Whether any change from now on shows."""


@dataclass(frozen=True, slots=True)
class PixelCache:
    """Decoded images and label maps; use `pixel_cache`. For any number of threads and processes."""

    folder: Path | None
    """Where entries lie; None = nothing is kept."""
    verify: bool = False
    """Whether to go by the content alone."""
    _latest: dict[tuple[str, _Stamp], str] = field(default_factory=dict, compare=False, repr=False)
    """The SHA-256 of the file that was hashed last: a file of labels may be that of many images."""

    def get(self, path: Path, read: Callable[[], Array], *parts: object) -> Array:
        """What was decoded of a file or a folder of masks, or what `read` decodes now.

        Args:
            path: The file or folder.
            read: Decodes it; called if there is no entry.
            parts: Whatever else determines the array; its `repr` counts.

        Returns:
            (H, W) or (H, W, 3), of any type that images have. It may be a view of the entry, and then cannot be written.
        """
        stamp = _stamp(path) if self.folder else None
        if self.folder is None or stamp is None:
            return read()
        by_stamp = self._by_stamp(path, stamp, parts)
        if stamp.is_settled and not self.verify and (known := _open(by_stamp)) is not None:
            return known
        digest = self._digest(path, stamp)
        if digest is None:
            return read()
        by_content = _place(self.folder, "content", digest, parts)
        known = _open(by_content)
        array = read() if known is None else known
        # What changed meanwhile, or may yet change unnoticed, is not kept.
        if stamp.is_settled and _stamp(path) == stamp and (known is not None or _write(by_content, array)):
            _link(by_content, by_stamp)
        return array

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self.folder is not None

    def knows(self, path: Path, *parts: object) -> bool:
        """Whether `get` would find an entry of an unchanged file without a look at its content; arguments as `get`."""
        stamp = _stamp(path) if self.folder else None
        return self.folder is not None and stamp is not None and self._by_stamp(path, stamp, parts).exists()

    def _by_stamp(self, path: Path, stamp: _Stamp, parts: tuple[object, ...]) -> Path:
        assert self.folder is not None
        return _place(self.folder, "stamp", os.path.abspath(path), stamp.files, parts)

    def _digest(self, path: Path, stamp: _Stamp) -> str | None:
        key = (os.fspath(path), stamp)
        digest = self._latest.get(key) or _content(path)
        if digest is not None and stamp.is_settled:
            self._latest.clear()
            self._latest[key] = digest
        return digest


NO_PIXELS = PixelCache(None)
"""Keeps nothing."""


def pixel_cache(use: CacheUse = True) -> PixelCache:
    """The cache of the user."""
    folder = cache_folder() if use else None
    return PixelCache(folder / KIND, verify=use == "verify") if folder else NO_PIXELS


def _place(folder: Path, *key: object) -> Path:
    name = hashlib.sha256(repr(key).encode()).hexdigest()
    return folder / name[:2] / name[2:]


def _stamp(path: Path) -> _Stamp | None:
    """None for what cannot be looked at, and for pipes and devices: whoever reads them to hash them may never end."""
    now = time.time_ns()
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                stats = sorted((entry.name, entry.stat()) for entry in entries)
        else:
            stats = [(path.name, path.stat())]
    except OSError:
        return None
    if not all(stat.S_ISREG(one.st_mode) or stat.S_ISDIR(one.st_mode) for _, one in stats):
        return None
    newest = max((max(one.st_mtime_ns, one.st_ctime_ns) for _, one in stats), default=now)
    files = tuple((name, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) for name, one in stats)
    return _Stamp(files, newest < now - _SETTLED_NS)


def _content(path: Path) -> str | None:
    """SHA-256 of a file, or of the masks in a folder in their order, with the kinds of file; None for what cannot be read."""
    digest = hashlib.sha256()
    try:
        for file in mask_files(path) if path.is_dir() else [path]:
            content = file.read_bytes()
            digest.update(f"{file.suffix.lower()} {len(content)}\n".encode(errors="surrogateescape"))
            digest.update(content)
    except (OSError, ImageError):
        return None
    return digest.hexdigest()


def _open(place: Path) -> Array | None:
    """An entry, mapped into memory; None where there is none, or one that is damaged."""
    try:
        with place.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _unpack(data)
    except (OSError, ValueError, TypeError, struct.error):
        return None


def _unpack(data: mmap.mmap) -> Array:
    header = data[: _HEADER.size]
    magic, kind, height, width, channels, repeated, numbers_sum, header_sum = _HEADER.unpack(header)
    numbers = memoryview(data)[_HEADER.size :]
    if magic != _MAGIC or zlib.crc32(header[:-4]) != header_sum or zlib.crc32(numbers) != numbers_sum:
        msg = "damaged"
        raise ValueError(msg)
    shape = (height, width, channels) if channels else (height, width)
    array = np.frombuffer(numbers, kind.rstrip(b"\0").decode()).reshape(shape)
    return np.broadcast_to(array[..., None], (*shape, repeated)) if repeated else array


def _write(place: Path, array: Array) -> bool:
    """Write an entry; False where that is not possible."""
    repeated = 0
    if array.ndim == 3 and all(np.array_equal(array[..., 0], array[..., one]) for one in range(1, array.shape[2])):
        array, repeated = array[..., 0], array.shape[2]  # grey that was saved as colour: a third of the disk
    if array.dtype.kind not in "buif" or not array.size:
        return False
    numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    channels = array.shape[2] if array.ndim == 3 else 0
    values = (_MAGIC, array.dtype.str.encode(), *array.shape[:2], channels, repeated, zlib.crc32(numbers))
    header = _HEADER.pack(*values, 0)[:-4]
    partial = place.with_name(f"{place.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(place.parent).free < numbers.nbytes + _SPARE_BYTES:
            return False
        with partial.open("wb") as file:
            file.write(header + struct.pack("<I", zlib.crc32(header)))
            file.write(numbers)
        os.replace(partial, place)
    except OSError:  # the folder cannot be written, the disk is full
        return False
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return True


def _link(place: Path, other: Path) -> None:
    """Give an entry another name, where the disk can; without, the content is compared the next time."""
    with contextlib.suppress(OSError):
        other.parent.mkdir(parents=True, exist_ok=True)
        other.unlink(missing_ok=True)
        os.link(place, other)
