"""Measuring a model while it trains, and keeping the best by validation images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from nucstyle.data.run_folder import MEASURES, read_log, write_text

Model = TypeVar("Model")
_BEST = "best-{:06d}.safetensors"


def drop_measured(run: Path) -> None:
    """Delete the best model of a run that will not go on; the run's weights are a copy of it."""
    for path in run.glob(_BEST.replace("{:06d}", "*")):
        path.unlink(missing_ok=True)


class Selection(Generic[Model]):
    """Measures a model every so often and keeps the best.

    Args:
        run: The run folder.
        every: Steps between two measures.
        measure: Gives `quality`, the larger the better, and whatever else is worth a curve; None = nothing can be said.
    """

    def __init__(self, run: Path, every: int, measure: Callable[[Model], Mapping[str, float] | None]) -> None:
        self._run, self._every, self._measure = run, every, measure

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the model of a step is measured, and has not been yet."""
        due = step % self._every == 0 or step == steps
        return due and not any(line["step"] == step for line in self.lines())

    def consider(self, step: int, model: Model, save: Callable[[Path], object]) -> None:
        """Measure the model of a step, and store it if it is the best so far.

        Args:
            step: Lines of later steps are of a life that was cut off, and go.
            model: To measure.
            save: Writes the model to a file.
        """
        measured = self._measure(model)
        if measured is None:
            return
        earlier = [line for line in self.lines() if line["step"] < step]
        line = {"step": step, **{name: round(value, 6) for name, value in measured.items()}}
        best, path = max((one["quality"] for one in earlier), default=-1.0), self._run / _BEST.format(step)
        if line["quality"] > best:
            save(path)
        write_text(self._run / MEASURES, "".join(json.dumps(one) + "\n" for one in [*earlier, line]))
        if line["quality"] > best:  # now that the line says so, the older ones are no longer needed
            for old in self._run.glob(_BEST.replace("{:06d}", "*")):
                if old != path:
                    old.unlink()

    def lines(self) -> list[dict[str, float]]:
        """What was measured so far: step, quality, and the rest."""
        return read_log(self._run / MEASURES)

    def best(self) -> tuple[int, Path] | None:
        """Step and file of the best model whose file is there; None where there is none."""
        stored = [(line, self._run / _BEST.format(int(line["step"]))) for line in self.lines()]
        stored = [(line, path) for line, path in stored if path.is_file()]
        if not stored:
            return None
        line, path = max(stored, key=lambda pair: pair[0]["quality"])
        return int(line["step"]), path
