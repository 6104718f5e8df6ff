"""What was computed from a file before: values by the SHA-256 of its bytes, so that a changed file is never mistaken for the old.

One SQLite file for all runs of a user, in `$NUCSTYLE_CACHE`, else `$XDG_CACHE_HOME/nucstyle` or `~/.cache/nucstyle`, where
`pixel_cache` keeps decoded images too. It may be deleted at any time, and a run goes on without it where it cannot be read or
written.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "NUCSTYLE_CACHE"
_COMMIT_EVERY = 500


class Cache:
    """Values (anything JSON holds) by key; use `open_cache`. Not for several threads."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        self._unsaved = 0

    @property
    def is_open(self) -> bool:
        """Whether values are kept at all."""
        return self._connection is not None

    def get(self, key: str) -> Any | None:  # noqa: ANN401
        """The value of a key, or None."""
        rows = self._ask("SELECT value FROM entries WHERE key = ?", key)
        try:
            return json.loads(rows[0][0]) if rows else None
        except ValueError:  # damaged
            return None

    def put(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Keep a value."""
        self._ask("INSERT OR REPLACE INTO entries VALUES (?, ?)", key, json.dumps(value))
        self._unsaved += 1
        if self._unsaved >= _COMMIT_EVERY:
            self.save()

    def save(self) -> None:
        """Write what was put."""
        try:
            if self._connection:
                self._connection.commit()
        except sqlite3.Error:
            self._connection = None
        self._unsaved = 0

    def _ask(self, statement: str, *values: str) -> list[Any]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error:  # damaged, locked or the disk is full: work goes on without a cache
            self._connection = None
            return []


@contextmanager
def open_cache(name: str, *, use: bool = True) -> Iterator[Cache]:
    """Open the cache of one kind of value.

    Args:
        name: The kind and its version; another version is another file.
        use: False = a cache that keeps nothing.
    """
    folder = cache_folder() if use else None
    connection = _connect(folder / f"{name}.sqlite") if folder else None
    cache = Cache(connection)
    try:
        yield cache
    finally:
        cache.save()
        if connection:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=5)
    except (OSError, sqlite3.Error):
        return None
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT)")
    except sqlite3.Error:
        connection.close()
        return None
    return connection


def cache_folder() -> Path | None:
    """Where caches lie; None where the user has no home."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nucstyle"
    except RuntimeError:
        return None


def cache_bytes() -> int:
    """What all caches take on the disk; 0 where there is none."""
    folder = cache_folder()
    sizes: dict[tuple[int, int], int] = {}  # an entry of `pixel_cache` has two names
    for place, _, names in os.walk(folder) if folder else ():
        for name in names:
            with suppress(OSError):  # gone meanwhile
                found = os.stat(os.path.join(place, name))
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def content_key(path: Path, *parts: object) -> str | None:
    """A key of a file's bytes and whatever else determines the value; None for a file that cannot be read."""
    if not path.is_file():  # opening a pipe would wait for whoever writes to it
        return None
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError:
        return None
    digest.update(repr(parts).encode())
    return digest.hexdigest()
