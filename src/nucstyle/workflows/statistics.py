"""Colour statistics of a whole data set: in parallel, in bounded memory, from the cache where a file is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from nucstyle.core.clahe import ClaheConfig
from nucstyle.core.installation import usable_cpus
from nucstyle.core.protocols import Progress
from nucstyle.data.cache import Cache, content_key, open_cache
from nucstyle.data.dataset import Dataset
from nucstyle.modality.features import Features, ImageStatistics
from nucstyle.modality.model import measure_as

_KIND = "colour-statistics-3"
"""Count up when what is measured changes."""
_MOST_THREADS, _AHEAD = 8, 4
"""At most this many threads, each with one image in memory, and at most so many results a thread waiting."""
_ARRAYS = ("features", "background", "darkest", "brightest")


def measure_all(
    dataset: Dataset, *, features: Features, clahe: ClaheConfig | None, progress: Progress, cache: bool = True
) -> list[ImageStatistics]:
    """Measure every image; labels are not read.

    Args:
        dataset: The images; one that keeps what it reads is measured from memory and not cached.
        features: Which features to measure.
        clahe: What dark images go through before, or None.
        progress: Shown to the person.
        cache: Whether to look up, and to remember, what was measured of files before.

    Raises:
        ImageError: The first image that cannot be used.
    """
    progress.start("measure colours", len(dataset), "image")
    measured = []
    with open_cache(_KIND, use=cache and not dataset.keeps) as known:
        for index, (key, statistics) in enumerate(_measured(dataset, features, clahe, known)):
            measured.append(statistics)
            if key is not None:
                known.put(key, _to_values(statistics))
            progress.advance(index + 1)
    return measured


def _measured(
    dataset: Dataset, features: Features, clahe: ClaheConfig | None, known: Cache
) -> Iterator[tuple[str | None, ImageStatistics]]:
    """In order; with the key under which to keep what was not known."""

    def work(index: int) -> ImageStatistics:
        return measure_as(dataset.image(index), features, clahe)

    said = dataset.reading.to_table().items()
    threads = min(_MOST_THREADS, usable_cpus())
    waiting: deque[tuple[str | None, ImageStatistics | Future[ImageStatistics]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index, record in enumerate(dataset.records):
                key = content_key(record.image, features, clahe, *said) if known.is_open else None
                statistics = _from_values(known.get(key)) if key is not None else None
                waiting.append((None, statistics) if statistics else (key, pool.submit(work, index)))
                if len(waiting) > threads * _AHEAD:
                    yield _settled(*waiting.popleft())
            while waiting:
                yield _settled(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _settled(key: str | None, result: ImageStatistics | Future[ImageStatistics]) -> tuple[str | None, ImageStatistics]:
    return key, result if isinstance(result, ImageStatistics) else result.result()


def _to_values(statistics: ImageStatistics) -> dict[str, Any]:
    return {"skew": statistics.skew} | {name: getattr(statistics, name).tolist() for name in _ARRAYS}


def _from_values(values: Any) -> ImageStatistics | None:  # noqa: ANN401
    """None for what is not there or damaged."""
    try:
        return ImageStatistics(skew=float(values["skew"]), **{name: np.array(values[name], float) for name in _ARRAYS})
    except (KeyError, TypeError, ValueError):
        return None


def stacked(statistics: Sequence[ImageStatistics]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(N, D) features."""
    return np.stack([one.features for one in statistics])
