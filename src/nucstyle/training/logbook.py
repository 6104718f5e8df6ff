"""`log.jsonl`: one JSON object a line, what a training reported and when."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path


class Logbook:
    """Appends to a run's log.

    Args:
        path: The file.
        step: The step that the run goes on from; lines of later steps are of a life that was cut off, and go.
    """

    def __init__(self, path: Path, *, step: int = 0) -> None:
        self._path = path
        if path.exists():
            kept = [line for line in _whole_lines(path) if json.loads(line).get("step", 0) <= step]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, values: Mapping[str, object]) -> None:
        """Add a line, with the time of day."""
        line = json.dumps({**values, "time": round(time.time(), 3)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _whole_lines(path: Path) -> list[str]:
    """The lines that are JSON: a write that was cut off leaves a part of one at the end."""
    whole = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            json.loads(line)
        except ValueError:
            continue
        whole.append(line)
    return whole
