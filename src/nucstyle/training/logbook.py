"""`log.jsonl`: one JSON object a line, what a training reported and when."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from nucstyle.data.run_folder import read_log, write_text


class Logbook:
    """Appends to a run's log.

    Args:
        path: The file.
        step: The step that the run goes on from; lines of later steps are of a life that was cut off, and go.
    """

    def __init__(self, path: Path, *, step: int = 0) -> None:
        self._path = path
        if path.exists():
            kept = [json.dumps(line) for line in read_log(path) if line.get("step", 0) <= step]
            write_text(path, "".join(f"{line}\n" for line in kept))

    def write(self, values: Mapping[str, object]) -> None:
        """Add a line, with the time of day."""
        line = json.dumps({**values, "time": round(time.time(), 3)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
