"""Looking at many files at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nucstyle.core.installation import usable_cpus
from nucstyle.core.protocols import Progress

_MOST = 8
"""At most so many threads, each with one file in memory."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    work: Callable[[Item], Result], items: Sequence[Item], *, stage: str, unit: str, progress: Progress
) -> Iterator[Result]:
    """What `work` makes of each item, in their order; several are worked on at a time.

    Args:
        work: Called in threads; what it raises is raised here, and nothing further is begun.
        items: Each is given to it once.
        stage: Shown to the person.
        unit: What an item is called.
        progress: Where it is shown.
    """
    progress.start(stage, len(items), unit)
    with ThreadPoolExecutor(min(_MOST, usable_cpus())) as pool:
        try:
            for done, result in enumerate(pool.map(work, items), start=1):
                yield result
                progress.advance(done)
        finally:
            pool.shutdown(cancel_futures=True)
