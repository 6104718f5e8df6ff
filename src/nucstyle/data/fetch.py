"""Fetching single files: to a temporary name, going on where a connection broke off, compared with what came the first time.

A part is never taken for the whole, nor one file for another: the size is compared with what the server said, the content with
the SHA-256 that was recorded at the first download. No SHA-256 is known before that, and none is made up here.
"""

from __future__ import annotations

import hashlib
import math
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from importlib import metadata
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from nucstyle.core.errors import DatasetError, RunFolderError
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.run_folder import read_json, write_json
from nucstyle.data.weights import replace_durably

RECORDS = "fetch.json"
"""What came at the first download of each file, in the folder that it was fetched to."""
_BLOCK = 1 << 16
_MOST_BYTES = 8 << 30
"""More than this would only fill the disk."""
_MEGABYTE = 1_000_000
_LONGEST_WAIT_S = 60.0
_PASSING = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""Answers that may be others in a moment."""
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file was when it came for the first time."""

    bytes: int
    sha256: str
    """Hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is waited for."""

    timeout_s: float = 60.0
    """For a connection, and for every block of the answer."""
    attempts: int = 5
    """In a row without one new byte."""
    wait_s: float = 2.0
    """Before the second attempt; twice as long before each further one, at most a minute."""


# What came before


def record_of(path: Path) -> FileRecord:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(file.tell(), digest.hexdigest())


def check_same(path: Path, known: FileRecord | None, *, where: Path) -> None:
    """Refuse a file that is not what came at the first download.

    Args:
        path: The file.
        known: What came; None = this is the first.
        where: The file of records, for the message.

    Raises:
        DatasetError: Another size or content, with both hashes.
    """
    found = record_of(path)
    if known is not None and found != known:
        msg = (
            f"{path}: SHA-256 {found.sha256} ({found.bytes:,} bytes), but {known.sha256} ({known.bytes:,} bytes) at the first "
            f"download ({where}); if it is damaged delete it and fetch it again, if it was renewed fetch it to a new folder"
        )
        raise DatasetError(msg)


def read_records(path: Path) -> dict[str, FileRecord]:
    """The records of a folder by name of the file; none where there is no such file yet.

    Raises:
        DatasetError: It is damaged.
    """
    if not path.exists():
        return {}
    try:
        files = read_json(path)["files"]
        return {name: FileRecord(int(one["bytes"]), str(one["sha256"])) for name, one in files.items()}
    except (RunFolderError, LookupError, TypeError, AttributeError, ValueError):
        msg = f"{path}: damaged; delete it to record the files anew, without a comparison with the first download"
        raise DatasetError(msg) from None


def write_records(path: Path, records: Mapping[str, FileRecord]) -> None:
    """Write the records of a folder."""
    write_json(path, {"format": 1, "files": {name: asdict(record) for name, record in records.items()}})


# Downloading


class _BrokenOffError(Exception):
    """An attempt failed in a way that may not happen again."""


@dataclass(frozen=True, slots=True)
class _Note:
    """Of which file a part is."""

    validator: str | None = None
    """A strong ETag or the time of the last change, as the server gave it."""
    total: int | None = None
    """Bytes of the whole file."""


class _Partial:
    """What has arrived so far, in `NAME.part`, and of which file it is, in `NAME.part.json`.

    It is gone on with only if the server named its file by a validator: without, nobody could tell what the rest belongs to.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.with_name(path.name + ".part")
        self._note = path.with_name(path.name + ".part.json")

    @property
    def size(self) -> int:
        """Bytes."""
        return self.file.stat().st_size if self.file.is_file() else 0

    def note(self) -> _Note:
        """Of which file it is, as far as that is known."""
        try:
            told = read_json(self._note)
        except RunFolderError:  # none, or damaged
            return _Note()
        validator, total = told.get("validator"), told.get("total")
        return _Note(validator if isinstance(validator, str) else None, total if isinstance(total, int) else None)

    def begin(self, note: _Note) -> None:
        """Forget what there is; what comes now is of this file."""
        self.file.unlink(missing_ok=True)
        write_json(self._note, asdict(note))

    def drop(self) -> None:
        """Forget what there is."""
        self.file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def keep_as(self, path: Path) -> None:
        """Give it its name."""
        replace_durably(self.file, path)
        self._note.unlink(missing_ok=True)


def download(
    url: str,
    path: Path,
    *,
    check: Callable[[Path], None],
    patience: Patience | None = None,
    progress: Progress = SILENT,
) -> None:
    """Download a file; what broke off is gone on with, in this call and in later ones.

    Certificates are verified as Python does by default; nothing here changes that.

    Args:
        url: http or https; from https nobody is led to http.
        path: Where to; until all is there and checked, it is `PATH.part`.
        check: Refuses a file that is not what it should be; it is given the whole file before that gets its name.
        patience: With the server; None = the defaults.
        progress: Shown to the person.

    Raises:
        DatasetError: The server does not have the file, cannot be reached, breaks off again and again, or does not say how long
            the file is; or `check` refused what came, in which case nothing of it is kept.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        msg = f"{url}: only http and https addresses are downloaded; for files that are there already give --from-dir"
        raise DatasetError(msg)
    patience, partial = patience or Patience(), _Partial(path)
    failures, furthest = 0, partial.size
    while True:
        try:
            _go_on(url, partial, patience.timeout_s, progress, path.name)
            break
        except _BrokenOffError as error:
            failures = 0 if partial.size > furthest else failures + 1
            furthest = max(furthest, partial.size)
            if failures >= patience.attempts:
                msg = f"{url}: {error}, {failures} times in a row; go on later with --resume, or give the file by --from-dir"
                raise DatasetError(msg) from None
            wait_s = min(_LONGEST_WAIT_S, patience.wait_s * 2 ** max(0, failures - 1))
            progress.say(f"{path.name}: {error}; trying again in {wait_s:.0f} s")
            time.sleep(wait_s)
    try:
        check(partial.file)
    except DatasetError:
        partial.drop()
        raise
    partial.keep_as(path)


def _go_on(url: str, partial: _Partial, timeout_s: float, progress: Progress, name: str) -> None:
    """One attempt: get what is missing.

    Raises:
        _BrokenOffError: It may work another time.
        DatasetError: It will not.
    """
    note, have = partial.note(), partial.size
    if have and have == note.total:
        return
    headers = {"User-Agent": f"nucstyle/{metadata.version('nucstyle')}"}
    if have and note.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": note.validator}
    with _answer(url, headers, timeout_s, partial) as response:
        total = _settle(url, response, partial, note)
        progress.start(f"download {name}", math.ceil((total or 0) / _MEGABYTE), "megabyte")
        have = partial.size
        with partial.file.open("ab") as file:
            for block in _blocks(response):
                file.write(block)
                have += len(block)
                if have > (total or _MOST_BYTES):
                    raise DatasetError(_too_large(url))
                progress.advance(have // _MEGABYTE)
    if total is not None and have < total:
        msg = f"the connection ended after {have:,} of {total:,} bytes"
        raise _BrokenOffError(msg)
    progress.advance(math.ceil(have / _MEGABYTE))


def _too_large(url: str) -> str:
    return (
        f"{url}: the server gives more than {_MOST_BYTES:,} bytes, or than it said; look at the address with a browser"
    )


def _words(reason: object) -> str:
    """What went wrong, in one line."""
    return " ".join(str(reason).split()) or type(reason).__name__


def _answer(url: str, headers: Mapping[str, str], timeout_s: float, partial: _Partial) -> HTTPResponse:
    """Ask the server; exceptions as `_go_on`."""
    try:
        response: HTTPResponse = urlopen(Request(url, headers=dict(headers)), timeout=timeout_s)
    except HTTPError as error:
        with error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # the file is shorter than the part
                partial.drop()
            said = f"HTTP {error.code} {_words(error.reason)}"
        if error.code in _PASSING:
            raise _BrokenOffError(said) from None
        msg = f"{url}: {said}; look at the address with a browser, or give the file by --from-dir"
        raise DatasetError(msg) from None
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            msg = (
                f"{url}: the certificate of the server cannot be verified ({_words(reason.verify_message)}); ask who runs your "
                "network, or give the file by --from-dir"
            )
            raise DatasetError(msg) from None
        msg = f"the server cannot be reached ({_words(reason)})"
        raise _BrokenOffError(msg) from None
    if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
        response.close()
        msg = f"{url}: leads to {response.url}, which is not encrypted; look at the address with a browser"
        raise DatasetError(msg)
    return response


def _settle(url: str, response: HTTPResponse, partial: _Partial, note: _Note) -> int | None:
    """Find out where the answer belongs: behind the part that is there, or at the beginning of a file.

    Returns:
        The size of the whole file; None where it comes in chunks, which have an end of their own.

    Raises:
        _BrokenOffError, DatasetError: As `_go_on`.
    """
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        total = _continued(response, partial, note)
        if total is None:
            partial.drop()
            msg = "the server gave another piece of the file than was asked for, or of a file that was changed since"
            raise _BrokenOffError(msg)
        return total
    # The whole file: nothing was there yet, the server knows no ranges, or the file was changed since.
    total = response.length
    if total is None and not response.chunked:
        msg = f"{url}: the server does not say how long the file is, so that a part could pass for it; give it by --from-dir"
        raise DatasetError(msg)
    if total is not None and total > _MOST_BYTES:
        raise DatasetError(_too_large(url))
    partial.begin(_Note(_validator(response), total))
    return total


def _continued(response: HTTPResponse, partial: _Partial, note: _Note) -> int | None:
    """The size of the whole file, if an answer begins at the end of the part and is of the same file; some ignore If-Range."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != partial.size or _validator(response) not in (None, note.validator):
        return None
    total = note.total if found[2] == "*" else int(found[2])
    return total if note.total in (None, total) else None


def _validator(response: HTTPResponse) -> str | None:
    """What names this state of the file: a strong ETag, else the time of its last change (RFC 9110, section 13.1.5)."""
    etag: str | None = response.headers.get("ETag")
    last_modified: str | None = response.headers.get("Last-Modified")
    return etag if etag and not etag.startswith("W/") else last_modified


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """The answer, as it comes, and no more of it than the server said.

    Raises:
        _BrokenOffError: The connection broke off.
    """
    left = response.length  # http.client of older releases of Python 3.11 does not count what `read1` gives
    while left is None or left > 0:
        try:
            block = response.read1(_BLOCK if left is None else min(left, _BLOCK))
        except (OSError, HTTPException) as error:
            msg = f"the connection broke off ({_words(error)})"
            raise _BrokenOffError(msg) from None
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block
