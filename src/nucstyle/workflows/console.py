"""Showing how far a long piece of work is: bars on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


class ConsoleProgress:
    """A `core.protocols.Progress` on standard error; use it as a context manager."""

    def __init__(self) -> None:
        self._stage, self._total, self._unit = "", 0, ""
        self._started = self._printed = 0.0
        self._first: int | None = None
        self._console = Console(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._bar: TaskID | None = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<28}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=self._console,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage of `total` units begins."""
        self._stage, self._total, self._unit = stage, total, unit
        self._started = self._printed = time.monotonic()
        self._first = None
        if self._bars is not None:
            self._bar = self._bars.add_task(stage, total=total, rate="", values="")
        else:
            self._line(f"{stage}: {total} {_counted(unit, total)}")

    def advance(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """`done` units of the stage are finished."""
        now = time.monotonic()
        if self._first is None:
            self._first = 0
            if self._total > 1:  # it may begin somewhere in the middle, so that time counts from the first unit on
                self._first, self._started = done, now
        rate = (done - self._first) / (now - self._started) if now > self._started else 0.0
        if self._bars is not None and self._bar is not None:
            speed = f"{rate:.1f} {self._unit}/s"
            self._bars.update(self._bar, completed=done, rate=speed)
            if values:
                self._bars.update(self._bar, values=_brief(values))
        elif now - self._printed >= _SECONDS_BETWEEN_LINES or done == self._total:
            self._printed = now
            left = f", {(self._total - done) / rate:.0f} s left" if rate > 0 and done < self._total else ""
            units = _counted(self._unit, self._total)
            self._line(
                f"{self._stage}: {done}/{self._total} {units}, {rate:.2f}/s{left} {_brief(values or {})}".rstrip()
            )

    def say(self, line: str) -> None:
        """One line that stays on the screen."""
        if self._bars is not None:
            self._console.print(line, markup=False, soft_wrap=True)
        else:
            self._line(line)

    def _line(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _counted(unit: str, number: int) -> str:
    """`image`, `images`, `modalities`."""
    if number == 1:
        return unit
    return f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"


def _brief(values: Mapping[str, float]) -> str:
    """The first three values, short."""
    return " ".join(f"{name} {value:.2f}" for name, value in list(values.items())[:3])
