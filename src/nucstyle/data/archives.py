"""Unpacking archives from elsewhere: nothing lands outside the folder, nothing but files and folders, and no bomb fills the disk.

`extractall` of the standard library does not promise this: tar members reach `../` on Python 3.11, and neither zip nor tar has a
limit on what comes out. Here names are looked at before anything is written, and bytes are counted while they are.
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from nucstyle.core.errors import DatasetError, NucstyleError
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.image_io import looks_like
from nucstyle.data.weights import flush

_BLOCK = 1 << 20
_HARMLESS_BYTES = 1 << 20
"""So much may come out of any archive, however small it is."""
_MOST_AT_ONCE = 64 << 20
"""A header of a tar that asks for more memory than this is no header."""
_MOST_NAME_BYTES = 255
"""What file systems take for one name."""
_DRIVE = re.compile(r"[A-Za-z]:")
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_END, _ZIP64_END = struct.Struct("<10xH10x"), struct.Struct("<4s28xQ16x")
"""The records at the end of a zip, of which the number of all files is read."""
_ZIP64_START, _ZIP64_LOCATOR_BYTES, _ZIP_MANY = b"PK\x06\x06", 20, 0xFFFF
_GZIP_START = b"\x1f\x8b"
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may hold."""

    members: int = 200_000
    """Files and folders; the training images of DSB 2018 with their masks are about 30,000."""
    total_bytes: int = 4 << 30
    """Of all files together, unpacked."""
    ratio: float = 100.0
    """Unpacked bytes for each byte of the archive; images hardly shrink, and deflate reaches 1032 on zeros."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A file or folder in an archive."""

    name: str
    """As the archive has it."""
    is_folder: bool
    open: Callable[[], IO[bytes] | None]
    fault: str | None = None
    """Why it must not be unpacked, whatever its name is."""


@dataclass(slots=True)
class _Budget:
    """Bytes that may still be written."""

    archive: Path
    left: int

    def take(self, count: int) -> None:
        """Use some of them up.

        Raises:
            DatasetError: There are not so many.
        """
        self.left -= count
        if self.left < 0:
            raise DatasetError(_too_much(self.archive))


def unpack(archive: Path, folder: Path, *, limits: Limits | None = None, progress: Progress = SILENT) -> None:
    """Unpack a zip, tar or tar.gz file to a new folder, whole or not at all.

    All names are checked before anything is written. Files go to `FOLDER.part`, which gets its name when all is on the disk.
    Access rights and times of the archive are not taken over; archives in the archive stay files.

    Args:
        archive: The file.
        folder: Must not exist; the folder above it must.
        limits: Of what comes out; None = the defaults.
        progress: Shown to the person.

    Raises:
        DatasetError: Not such an archive, damaged, over a limit, or with a member that is refused: an absolute name, a drive, a
            NUL, a backslash, `..`, a name twice, a file in the place of a folder, a link, a device, or an encrypted file.
        OSError: The disk is full or cannot be written; nothing is left behind.
    """
    limits = limits or Limits()
    if not archive.is_file():
        msg = f"{archive}: no such file, or not a regular one; give a zip, tar or tar.gz file"
        raise DatasetError(msg)
    if os.path.lexists(folder):
        msg = f"{folder}: is there already; move it away before unpacking {archive.name} to it"
        raise DatasetError(msg)
    partial = folder.with_name(folder.name + ".part")
    _remove(partial)
    allowed = min(limits.total_bytes, max(_HARMLESS_BYTES, int(limits.ratio * archive.stat().st_size)))
    try:
        with _opened(archive, limits.members, allowed) as members:
            places = _places(members, partial, archive)
            _write(members, places, partial, _Budget(archive, allowed), progress)
        os.sync()  # once for all files: tens of thousands one by one take minutes on a disk that turns
        partial.rename(folder)
    finally:
        _remove(partial)
    flush(folder.parent)


def _remove(partial: Path) -> None:
    """Take away what an unpacking that was cut off left."""
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)


def _too_much(archive: Path) -> str:
    return f"{archive}: more comes out of it than any data set would hold, a bomb perhaps; get it from its publisher"


def _too_many(archive: Path, most: int) -> str:
    return f"{archive}: holds more than {most:,} files; get it from its publisher"


# What is in it


@contextmanager
def _opened(archive: Path, most: int, allowed: int) -> Iterator[Sequence[_Member]]:
    """The members of an archive of any kind, which can be read within the block."""
    with archive.open("rb") as stream:
        head = stream.read(_TAR_MARK_AT + len(_TAR_MARK))
        stream.seek(0)
        if head.startswith(_ZIP_STARTS):
            with _faults_named(archive):
                file = zipfile.ZipFile(stream)
                check_count(stream, file)
            yield _zip_members(file, archive, most)
        elif head.startswith(_GZIP_START):
            with gzip.open(stream) as unzipped:
                yield _tar_members(_Capped(unzipped, archive, allowed), archive, most)
        elif head.endswith(_TAR_MARK):
            yield _tar_members(_Capped(stream, archive, allowed), archive, most)
        else:
            msg = f"{archive}: not a zip, tar or tar.gz archive ({looks_like(archive)}); get it again"
            raise DatasetError(msg)


@contextmanager
def _faults_named(archive: Path) -> Iterator[None]:
    """Say of whatever reading a damaged archive raises that it is damaged; not for blocks that write."""
    try:
        yield
    except (NucstyleError, MemoryError):
        raise
    except Exception as error:  # the readers of damaged archives raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{archive}: a damaged archive ({reason}); delete it and get it again"
        raise DatasetError(msg) from None


def _zip_members(file: zipfile.ZipFile, archive: Path, most: int) -> list[_Member]:
    infos = file.infolist()
    if len(infos) > most:
        raise DatasetError(_too_many(archive, most))
    return [
        # `filename` ends at a NUL, and a backslash may have been turned; the name in the file says what was meant.
        _Member(
            info.orig_filename, info.orig_filename.endswith("/"), functools.partial(file.open, info), _zip_fault(info)
        )
        for info in infos
    ]


def check_count(stream: BinaryIO, file: zipfile.ZipFile) -> None:
    """Compare the number of files with what the end of a zip says: one wrong length in the list hides those behind it.

    The number lies in the record at the end (section 4.3.16 of the description of zip by PKWARE) or, above 65,534 files, in
    the one before it (4.3.14).

    Raises:
        OSError: They differ.
    """
    place = stream.seek(-_ZIP_END.size - len(file.comment), os.SEEK_END)
    (count,) = _ZIP_END.unpack(stream.read(_ZIP_END.size))
    if count == _ZIP_MANY:
        stream.seek(place - _ZIP64_LOCATOR_BYTES - _ZIP64_END.size)
        start, many = _ZIP64_END.unpack(stream.read(_ZIP64_END.size))
        count = many if start == _ZIP64_START else count  # 65,535 files just fit
    if count != len(file.infolist()):
        msg = f"its list of files has {len(file.infolist())} of {count}"
        raise OSError(msg)


def _zip_fault(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed in a way that is not read (method {info.compress_type})"
    return None


class _Capped(io.RawIOBase):
    """The bytes of a tar, decompressed, up to a limit: what lies beyond it is refused before it is decompressed."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, archive: Path, most: int) -> None:
        super().__init__()
        self._stream, self._archive, self._most = stream, archive, most

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        if not 0 <= size <= _MOST_AT_ONCE:
            raise DatasetError(_too_much(self._archive))
        block = self._stream.read(size)
        if self._stream.tell() > self._most:
            raise DatasetError(_too_much(self._archive))
        return block

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the start."""
        if whence != io.SEEK_SET or offset > self._most:
            raise DatasetError(_too_much(self._archive))
        return self._stream.seek(offset)

    def tell(self) -> int:
        """The place."""
        return self._stream.tell()


def _tar_members(stream: _Capped, archive: Path, most: int) -> list[_Member]:
    members: list[_Member] = []
    with _faults_named(archive):
        file = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  (read by the members, which the caller opens)
        for info in file:
            if len(members) == most:
                raise DatasetError(_too_many(archive, most))
            reader = functools.partial(file.extractfile, info)
            members.append(_Member(info.name, info.isdir(), reader, _tar_fault(info)))
        _check_end(stream, file.offset)
    return members


def _tar_fault(info: tarfile.TarInfo) -> str | None:
    is_plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) and not info.issparse()
    return None if is_plain else "is a link, a device or a file with holes"


def _check_end(stream: _Capped, place: int) -> None:
    """See that the tar ends as a tar ends: tarfile takes a damaged header, or the end of a file that was cut off, for its end.

    Raises:
        OSError: It does not; or what a gzip file says of its content is not so, which is known once all was read.
    """
    stream.seek(place)
    if stream.read(len(_TAR_END)) != _TAR_END:
        msg = "it breaks off, or the header of a file in it is changed"
        raise OSError(msg)
    while stream.read(_BLOCK):
        pass


# Where it goes


def _places(members: Sequence[_Member], partial: Path, archive: Path) -> list[Path]:
    """The path of every member.

    Raises:
        DatasetError: A member is refused.
    """
    root = Path(os.path.realpath(partial))
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    places = []
    for member in members:
        path = PurePosixPath(member.name)
        place = partial / path
        fault = member.fault or _fault_of_name(member) or _clash(path, files, folders, member.is_folder)
        if fault is None and not Path(os.path.realpath(root / path)).is_relative_to(root):
            fault = "leads out of the folder"
        if fault:
            msg = f"{archive}: its member {member.name!r} {fault}; nothing was unpacked, get it from its publisher"
            raise DatasetError(msg)
        (folders if member.is_folder else files).add(path)
        folders.update(path.parents)
        places.append(place)
    return places


def _fault_of_name(member: _Member) -> str | None:
    name = member.name
    parts = name.split("/")
    faults = {
        "holds a NUL": "\0" in name,
        "holds a backslash": "\\" in name,
        "is an absolute name": name.startswith("/"),
        "names a drive": bool(_DRIVE.match(name)),
        "leads upwards": ".." in parts,
        "has no name": not member.is_folder and (parts[-1] in ("", ".")),
        "has a name that is too long": any(len(part.encode(errors="replace")) > _MOST_NAME_BYTES for part in parts),
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


def _clash(path: PurePosixPath, files: set[PurePosixPath], folders: set[PurePosixPath], is_folder: bool) -> str | None:
    """Whether a member comes twice, or is a file where another needs a folder; folders may be named twice."""
    if path in files or (path in folders and not is_folder):
        return "is there twice"
    return "lies in what is a file" if files.intersection(path.parents) else None


def _write(
    members: Sequence[_Member], places: Sequence[Path], partial: Path, budget: _Budget, progress: Progress
) -> None:
    partial.mkdir()
    progress.start(f"unpack {budget.archive.name}", len(members), "file")
    for done, (member, place) in enumerate(zip(members, places, strict=True), start=1):
        if member.is_folder:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                for block in _blocks(member, budget.archive):
                    budget.take(len(block))
                    file.write(block)
        progress.advance(done)


def _blocks(member: _Member, archive: Path) -> Iterator[bytes]:
    with _faults_named(archive):
        source = member.open()
    if source is None:  # of no file that was let through
        return
    with source:
        while True:
            with _faults_named(archive):
                block = source.read(_BLOCK)
            if not block:
                return
            yield block
