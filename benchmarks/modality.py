"""Measures of the discovery of modalities against the known colours of DSB 2018, as Markdown on standard output.

    python benchmarks/modality.py DATA TRUTH.csv [--on validation|all] > table.md

DATA is `stage1_train` (a folder with ID/images/ID.png); TRUTH has the columns image_id, foreground, background. By default only
the parts train and validation are looked at.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from skimage.color import rgb2hsv, rgb2lab
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score

from nucstyle.core.protocols import SILENT
from nucstyle.core.rng import generator
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.modality.clustering import choose_k, kmeans
from nucstyle.modality.features import ImageStatistics, measure
from nucstyle.modality.model import ModalityModel
from nucstyle.workflows.statistics import measure_all, stacked

RUNS, SHARE = 20, 0.9
TIMED, ROUNDS = 60, 5


@dataclass(frozen=True)
class Images:
    """What is measured, all in the order of the data set."""

    data: Dataset
    truth: tuple[str, ...]
    """Foreground/background colour."""
    fitted: np.ndarray
    """Whether an image is of the part train."""
    validation: np.ndarray
    statistics: list[ImageStatistics]

    @property
    def points(self) -> np.ndarray:
        """(N, D)."""
        return stacked(self.statistics)


def read(data: Path, truth: Path, on: str) -> Images:
    """Measure every image."""
    dataset = open_dataset(data)
    dataset = dataset if on == "all" else dataset.part("train", "validation", None)
    with truth.open() as file:
        colours = {row["image_id"]: f"{row['foreground']}/{row['background']}" for row in csv.DictReader(file)}
    statistics = measure_all(dataset, features="chroma", clahe=None, progress=SILENT, cache=False)
    return Images(
        dataset,
        tuple(colours[record.id] for record in dataset.records),
        np.array([record.split in ("train", None) for record in dataset.records]),
        np.array([record.split == "validation" for record in dataset.records]),
        statistics,
    )


def purity(truth: Sequence[str], groups: np.ndarray) -> float:
    """Share of images whose colours are the most common ones of their cluster."""
    pairs = Counter(zip(groups.tolist(), truth, strict=True))
    best: Counter[int] = Counter()
    for (group, _), count in pairs.items():
        best[group] = max(best[group], count)
    return sum(best.values()) / len(truth)


def row(*cells: object) -> None:
    """A line of a table."""
    print(
        "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def header(title: str, *cells: str) -> None:
    """The head of a table."""
    print(f"\n### {title}\n")
    row(*cells)
    row(*["---"] * len(cells))


def clusters(images: Images) -> None:
    """Fitted to train, applied to all."""
    header("Clusters", "k", "purity", "ARI", "sizes")
    for asked in ("auto", 4, 5, 6, 7, 8):
        k = _settled(images.points[images.fitted], asked, 0)
        groups = kmeans(images.points[images.fitted], k, seed=0).predict(images.points)
        sizes = sorted(Counter(groups.tolist()).values(), reverse=True)
        label = f"auto = {k}" if asked == "auto" else asked
        row(label, purity(images.truth, groups), adjusted_rand_score(images.truth, groups), sizes)


def stability(images: Images) -> None:
    """Adjusted Rand index between runs, on the training part."""
    points = images.points[images.fitted]
    count = round(SHARE * len(points))
    parts = [torch.randperm(len(points), generator=generator(0, turn)).numpy()[:count] for turn in range(RUNS)]
    header("Stability", "k", f"{RUNS} seeds", f"{RUNS} subsamples of {SHARE:.0%}", "k on the subsamples")
    for asked in ("auto", 6):
        seeds, samples, chosen = [], [], []
        for turn, part in enumerate(parts):
            seeds.append(kmeans(points, _settled(points, asked, turn), seed=turn).labels_)
            chosen.append(_settled(points[part], asked, 0))
            samples.append(kmeans(points[part], chosen[-1], seed=0).predict(points))
        row(asked, _agreement(seeds), _agreement(samples), dict(sorted(Counter(chosen).items())))


def _settled(points: np.ndarray, asked: int | str, seed: int) -> int:
    return choose_k(points, seed=seed)[0] if asked == "auto" else int(asked)


def _agreement(divisions: Sequence[np.ndarray]) -> float:
    return float(np.mean([adjusted_rand_score(one, other) for one, other in combinations(divisions, 2)]))


def novelty(images: Images) -> None:
    """Each modality left out in turn: fitted to train and calibrated on validation without it."""
    header(
        "What is new",
        "left out",
        "flagged of those left out",
        "flagged of the rest of train",
        "of validation",
        "of test",
    )
    truth = np.array(images.truth)
    test = ~images.fitted & ~images.validation
    for left_out in ("nothing", *sorted(set(images.truth))):
        kept = truth != left_out
        model = ModalityModel.fit(
            [one for one, use in zip(images.statistics, images.fitted & kept, strict=True) if use], k=6
        )
        model = model.calibrated(images.points[images.validation & kept], images.points[images.fitted & kept])
        new = np.array([model.recognise(point).is_new for point in images.points])
        parts = (~kept, images.fitted & kept, images.validation & kept, test & kept)
        row(
            left_out,
            *(f"{new[part].mean():.3f} ({new[part].sum()} of {part.sum()})" if part.any() else "-" for part in parts),
        )


def polarity(images: Images) -> None:
    """Sign of each modality and of each image; again with one modality's contrast inverted."""
    header("Polarity", "inverted", "modalities right", "images right", "least confidence")
    truth = np.array(images.truth)
    expected = np.where(truth == "white/black", 1, -1)
    for inverted in ("nothing", *sorted(set(images.truth))):
        chosen = truth == inverted
        statistics = [
            measure(1 - images.data.image(index)) if chosen[index] else one
            for index, one in enumerate(images.statistics)
        ]
        signs = np.where(chosen, -expected, expected)
        fitted = [index for index in range(len(truth)) if images.fitted[index]]
        model = ModalityModel.fit([statistics[index] for index in fitted], k=6)
        numbers = model.distances(stacked(statistics)).argmin(axis=1)
        right = [
            modality.polarity == np.sign(signs[numbers == number].sum())
            for number, modality in enumerate(model.modalities)
        ]
        votes = np.array([np.sign(one.skew) for one in statistics])
        confidence = min(modality.polarity_confidence for modality in model.modalities)
        row(inverted, f"{sum(right)} of {len(right)}", f"{(votes == signs).sum()} of {len(signs)}", confidence)


def alternatives(images: Images) -> None:
    """Other features and other clustering, all fitted to train + validation."""
    header("Alternatives", "features", "clustering", *(f"k = {k}: purity, ARI, largest" for k in (4, 5, 6)))
    keep = images.fitted | images.validation
    truth = [colour for colour, use in zip(images.truth, keep, strict=True) if use]
    others = np.stack([_other_features(images.data.image(int(index))) for index in np.flatnonzero(keep)])
    hue, saturation, value = others[:, :3].T
    sets = {
        "chroma (ours)": images.points[keep],
        "hsv: means and deviations": others[:, :6],
        "hsv: means": np.stack([hue, saturation, value], axis=1),
        "saturation x (cos, sin) of hue, value: means": np.concatenate([others[:, 6:8], others[:, 2:3]], axis=1),
        "chroma x (cos, sin) of hue: means, value: median": others[:, 8:11],
        "Lab: means": others[:, 11:14],
    }
    ways: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "K-means": lambda points, k: KMeans(k, n_init=20, random_state=0).fit_predict(points),
        "K-means, weighted by 1 / density": _weighted,
        "Ward": lambda points, k: AgglomerativeClustering(k, linkage="ward").fit_predict(points),
    }
    for name, points in sets.items():
        for way, divide in ways.items():
            cells = []
            for k in (4, 5, 6):
                groups = divide(points, k)
                largest = max(Counter(groups.tolist()).values())
                cells.append(f"{purity(truth, groups):.3f}, {adjusted_rand_score(truth, groups):.3f}, {largest}")
            row(name, way, *cells)


def _other_features(image: torch.Tensor) -> np.ndarray:
    pixels = image[:, ::2, ::2].permute(1, 2, 0).double().numpy()
    hsv, lab = rgb2hsv(pixels).reshape(-1, 3), rgb2lab(pixels).reshape(-1, 3) / 100
    angle, chroma = 2 * np.pi * hsv[:, 0], hsv[:, 1] * hsv[:, 2]
    cone = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    median = [np.median(hsv[:, 2])]
    means = [
        hsv.mean(axis=0),
        hsv.std(axis=0),
        (cone * hsv[:, 1:2]).mean(axis=0),
        (cone * chroma[:, None]).mean(axis=0),
    ]
    return np.concatenate([*means, median, lab.mean(axis=0)])


def _weighted(points: np.ndarray, k: int) -> np.ndarray:
    density = np.exp(-((cdist(points, points) / 0.1) ** 2) / 2).sum(axis=1)
    return KMeans(k, n_init=20, random_state=0).fit_predict(points, sample_weight=1 / density)


def speed(images: Images) -> None:
    """Decoded images in memory, one process; the best of several rounds each, in turn."""
    chosen = [images.data.image(index) for index in range(0, len(images.data), max(1, len(images.data) // TIMED))]
    peers = [image.permute(1, 2, 0).contiguous().numpy() for image in chosen]

    def plain() -> np.ndarray:
        values = [rgb2hsv(image).reshape(-1, 3) for image in peers]
        return np.stack([np.concatenate([value.mean(axis=0), value.std(axis=0)]) for value in values])

    def ours() -> list[ImageStatistics]:
        return [measure(image) for image in chosen]

    best = {}
    for _ in range(ROUNDS):
        for name, work in (
            ("rgb2hsv, means and deviations", plain),
            ("nucstyle: features, colours and polarity", ours),
        ):
            started = time.perf_counter()
            work()
            best[name] = min(best.get(name, np.inf), time.perf_counter() - started)
    header("Speed", "what", "images a second", "times")
    first = next(iter(best.values()))
    for name, seconds in best.items():
        row(name, f"{len(chosen) / seconds:.0f}", f"{first / seconds:.1f}")
    every = np.stack([_from_all_pixels(images.data.image(index)) for index in range(len(images.data))])
    slow, fast = (kmeans(points[images.fitted], 6, seed=0).predict(points) for points in (every, images.points))
    same = adjusted_rand_score(slow, fast)
    print(f"\nAdjusted Rand index with the clusters from the same features of all pixels, in numpy: {same:.3f}.")
    megapixels = np.mean([image[0].numel() for image in chosen]) / 1e6
    print(f"\n{len(chosen)} images of {megapixels:.2f} megapixels on average, {torch.get_num_threads()} threads.")


def _from_all_pixels(image: torch.Tensor) -> np.ndarray:
    """The features as they are defined, of every pixel and in float64."""
    red, green, blue = image.double().numpy().reshape(3, -1)
    along, across = red - (green + blue) / 2, (green - blue) * np.sqrt(3) / 2
    value = np.maximum(np.maximum(red, green), blue)
    spread = np.sqrt(np.sqrt(along.var() + across.var()))
    return np.array([4 * along.mean(), 4 * across.mean(), 2 * spread, np.median(value), value.std() / 2])


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--on", choices=("validation", "all"), default="validation")
    parser.add_argument(
        "--only", nargs="*", default=["clusters", "stability", "novelty", "polarity", "alternatives", "speed"]
    )
    options = parser.parse_args()
    images = read(options.data, options.truth, options.on)
    print(f"{len(images.data)} images, on {options.on}")
    for name in options.only:
        {
            "clusters": clusters,
            "stability": stability,
            "novelty": novelty,
            "polarity": polarity,
            "alternatives": alternatives,
            "speed": speed,
        }[name](images)


if __name__ == "__main__":
    main()
