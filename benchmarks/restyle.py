"""How fast images are restyled, beside the architecture of the recipe `paper`, and what the arms cost a training.

    python benchmarks/restyle.py [--side 256] [--rounds 5]

Two Markdown tables on standard output. The first: images a second of `StyleModel.translate` with the shipped weights and with the
networks of the recipe `paper` (random weights: time does not depend on them), in float32 and, where the processor has it, in
bfloat16, each with the share of what the processor reaches in a product of large matrices. The second: how much longer a step of
the segmenter recipe `lite` takes with each arm at p = 0.5, the gate with its judge included; batches of the bundled sample are
drawn with and without the arm, and a step is a whole one of the trainer. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

import nucstyle.sample
from nucstyle.augment.base import Augmentation
from nucstyle.core.precision import autocast, resolve_precision
from nucstyle.core.protocols import SILENT
from nucstyle.core.rng import generator
from nucstyle.data.dataset import open_dataset
from nucstyle.style.method import make_networks
from nucstyle.style.model import AttributeStatistics, StyleModel
from nucstyle.training.segmenter_trainer import SegmenterBatches, SegmenterTrainer
from nucstyle.workflows.arms import PARTS, make_arm, make_gate, measure_references
from nucstyle.workflows.discover import DiscoverConfig, find_modalities
from nucstyle.workflows.load import load_style
from nucstyle.workflows.named import NamedImages
from nucstyle.workflows.recipes import segmenter_recipe, style_recipe
from nucstyle.workflows.train_segmenter import SegmenterRun, make_segmenter

BATCH, STEPS, MATRIX = 4, 8, 2048
SIGNS = (1, -1, -1, -1, -1, -1)


def published(precision: str) -> StyleModel:
    """The architecture of the recipe `paper`."""
    torch.manual_seed(0)
    config = style_recipe("paper").network
    networks = make_networks(config, SIGNS).to(memory_format=torch.channels_last)
    count, size = len(SIGNS), config.attribute_size
    attributes = AttributeStatistics(torch.zeros(count, size), torch.ones(count, size))
    names = [f"modality-{number}" for number in range(count)]
    return StyleModel(networks, names, attributes, lambda _: 0, autocast("cpu", precision))


def seconds(rounds: int, *works: Callable[[], object]) -> list[float]:
    """The median of each, in turn, after one round that does not count."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for times, work in zip(taken, works, strict=True):
            started = time.perf_counter()
            work()
            if turn:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]


def restyling(side: int, rounds: int) -> None:
    """The first table."""
    formats = ["fp32", *(["bf16"] if resolve_precision("auto", "cpu") == "bf16" else [])]
    models = {
        **{("shipped weights", one): load_style("dsb2018", device="cpu", precision=one) for one in formats},
        **{("paper", one): published(one) for one in formats},
    }
    images = torch.rand((BATCH, 3, side, side), generator=generator("restyle"))
    given = {"source": torch.zeros(BATCH, dtype=torch.int64), "target": torch.full((BATCH,), 5)}

    def work(model: StyleModel) -> Callable[[], object]:
        attribute = model.draw_attribute(given["target"], mode="per-domain", generator=generator("attribute"))
        return lambda: model.translate(images, **given, attribute=attribute)

    works = [work(model) for model in models.values()]
    taken = seconds(rounds, *works)
    slowest = taken[list(models).index(("paper", "fp32"))]
    print("| networks | format | images a second | times paper in fp32 | GMAC an image | share of the limit |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    limits = {one: limit(one, rounds) for one in formats}
    for (name, one), took, run in zip(models, taken, works, strict=True):
        with FlopCounterMode(display=False) as counter:
            run()
        macs = counter.get_total_flops() / 2 / BATCH
        print(
            f"| {name} | {one} | {BATCH / took:.2f} | {slowest / took:.1f} | {macs / 1e9:.2f} "
            f"| {macs * BATCH / took / limits[one]:.2f} |",
            flush=True,
        )
    reached = ", ".join(f"{one} {value / 1e9:.0f}" for one, value in limits.items())
    print(f"\n{BATCH} images of {side} x {side} at a time, {torch.get_num_threads()} thread(s).")
    print(f"Large products reach {reached} GMAC/s.\n")


def limit(form: str, rounds: int) -> float:
    """Multiply-accumulates a second in a product of large matrices."""
    kind = torch.bfloat16 if form == "bf16" else torch.float32
    one, other = (torch.rand(MATRIX, MATRIX).to(kind) for _ in range(2))
    (took,) = seconds(rounds, lambda: one @ other)
    return MATRIX**3 / took


def training(rounds: int) -> None:
    """The second table."""
    dataset = open_dataset(nucstyle.sample.__path__[0], keep=True)
    settings = DiscoverConfig(k=None, seed=0)
    found = find_modalities(dataset, settings, progress=SILENT)
    named = NamedImages(dataset.with_records(found.records), found, settings)
    train, recipe = named.images.part("train", keep=True), segmenter_recipe("lite")
    train.read_all(SILENT)
    references, precision = measure_references(named), resolve_precision("auto", "cpu")

    def batches(augmentations: Sequence[Augmentation]) -> SegmenterBatches:
        chains = [[*chain, *augmentations] for chain in recipe.chains()]
        return SegmenterBatches(train, chains, recipe, 0, [record.modality for record in train.records])

    def drawing(source: SegmenterBatches) -> Callable[[], object]:
        return lambda: [source.draw(number) for number in range(1, STEPS + 1)]

    bare = make_arm("none", config=recipe.style, device="cpu", precision=precision)
    trainer = SegmenterTrainer(make_segmenter(SegmenterRun(train, bare, recipe, 0, "cpu")), batches(()), recipe, seed=0)
    numbers = iter(range(1, 10**6))
    (step,) = seconds(rounds * 2, lambda: trainer.step(next(numbers)))
    arms: dict[str, Sequence[Augmentation]] = {"none": ()}
    for name in PARTS:
        with_style = name == "style"
        arms[name] = make_arm(
            name,
            style="dsb2018" if with_style else None,
            config=recipe.style,
            gate=make_gate("dsb2018", precision=precision) if with_style else None,
            references=references,
            device="cpu",
            precision=precision,
        ).augmentations
    works = [drawing(batches(arm)) for arm in arms.values()]
    drawn = [took / STEPS for took in seconds(rounds, *works)]
    print("| arm | ms a batch of four crops | longer than none, ms | share of a step |")
    print("| --- | ---: | ---: | ---: |")
    for name, took in zip(arms, drawn, strict=True):
        longer = took - drawn[0]
        print(f"| {name} | {took * 1e3:.1f} | {longer * 1e3:.1f} | {longer / step:.1%} |", flush=True)
    print(
        f"\nA step without an arm takes {step:.2f} s ({precision}, {torch.get_num_threads()} thread(s)); its own batch included."
    )


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    restyling(options.side, options.rounds)
    training(options.rounds)


if __name__ == "__main__":
    main()
