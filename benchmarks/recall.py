"""How many nuclei are found after some minutes of training, ours beside torchvision's Mask R-CNN with ResNet-50.

    python benchmarks/recall.py DATA [--minutes 20] [--only "ours, trunk at random"]

All train on the same batches (four crops of 256 px of the training part, as the recipe `lite` draws them) for the same time on
the clock, by AdamW with a rate (`RATES`) that falls to nothing with the time. The peer has `min_size = max_size = 256`, so it
sees the same pixels; its weights are at random, since none can be had without a network, hence the row of ours whose trunk is
at random as well. Recall: true nuclei of the middle 256 px of every validation image that a detection with a score of at least
0.5 covers with an IoU above 0.5. Drawing batches counts as training time. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn

from nucstyle.core.labels import relabel
from nucstyle.core.precision import autocast, resolve_precision
from nucstyle.core.resize import middle
from nucstyle.core.rng import seeded
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import open_dataset
from nucstyle.metrics.matching import overlap
from nucstyle.segmentation.backbone import PyramidTrunk, load_trunk_weights
from nucstyle.segmentation.detector import Segmenter
from nucstyle.segmentation.tiling import segment
from nucstyle.training.segmenter_trainer import SegmenterBatches
from nucstyle.workflows.recipes import segmenter_recipe

SIDE, SCORE, WARM_STEPS = 256, 0.5, 20
RATES = {"ours": 8e-4, "torchvision": 2e-4}
Losses = Callable[[list[Tensor], list[dict[str, Tensor]]], dict[str, Tensor]]
Look = Callable[[Tensor], Tensor]


def ours(precision: str, *, trained_trunk: bool) -> tuple[torch.nn.Module, Losses, Look]:
    """The recipe `lite`."""
    recipe = segmenter_recipe("lite")
    with seeded("weights"):
        trunk = PyramidTrunk(recipe.segmenter.pyramid_channels)
        if trained_trunk:
            load_trunk_weights(trunk.trunk)
        segmenter = Segmenter(recipe.segmenter, recipe.inference, trunk=trunk, autocast=autocast("cpu", precision))
    # At its own size, as the peer does.
    segmenter.inference = replace(segmenter.inference, enlarge_below_px=0, score=SCORE)

    def look(image: Tensor) -> Tensor:
        return segment(segmenter, image, "none").labels

    return segmenter.network, segmenter.losses, look


def torchvisions(precision: str) -> tuple[torch.nn.Module, Losses, Look]:
    """The peer."""
    with seeded("peer"):
        network = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=2, min_size=SIDE, max_size=SIDE, box_detections_per_img=400
        )

    def losses(images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        full = [
            {
                "boxes": target["boxes"],
                "labels": target["labels"],
                "masks": (target["label_map"] == target["numbers"][:, None, None]).to(torch.uint8),
            }
            for target in targets
        ]
        with autocast("cpu", precision)():
            return network.train()(images, full)

    def look(image: Tensor) -> Tensor:
        with torch.no_grad(), autocast("cpu", precision)():
            found = network.eval()([image])[0]
        labels = torch.zeros(image.shape[1:], dtype=torch.int32)
        for number, (mask, score) in enumerate(zip(found["masks"], found["scores"], strict=True), start=1):
            if score >= SCORE:  # best first: the better one keeps a pixel
                labels[(mask[0] > 0.5) & (labels == 0)] = number
        return labels

    return network, losses, look


def train(parts: tuple[torch.nn.Module, Losses, Look], batches: SegmenterBatches, minutes: float, rate: float) -> int:
    """Take steps until the time is over; returns how many."""
    network, losses, _ = parts
    network.train()
    parameters = [one for one in network.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=1e-4)
    started, step = time.perf_counter(), 0
    while (share := (time.perf_counter() - started) / (60 * minutes)) < 1:
        step += 1
        images, targets = batches.draw(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - share) * min(1.0, step / WARM_STEPS)
        with seeded("detector", step):
            total = sum(losses(images, targets).values())
        if not bool(torch.isfinite(total)):
            continue
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
    return step


def recall(look: Look, samples: Sequence[Sample]) -> tuple[float, int, int]:
    """Share of the nuclei found, how many there are, and how many detections were nuclei of nothing."""
    found = wanted = false = 0
    for sample in samples:
        place = tuple(middle(side, SIDE) for side in sample.size)
        image, labels = sample.image[:, *place], relabel(sample.labels[place])
        if image.shape[1:] != (SIDE, SIDE):
            continue
        counts = overlap(labels.numpy(), look(image).numpy()).count(1, 2)
        found += counts.true_positives
        wanted += counts.true_positives + counts.false_negatives
        false += counts.false_positives
    return found / wanted, wanted, false


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    precision, recipe = resolve_precision("auto", "cpu"), segmenter_recipe("lite")
    dataset = open_dataset(arguments.data)
    train_part, validation = (list(dataset.part(name, keep=True).annotated()) for name in ("train", "validation"))
    contestants = {
        "ours": lambda: ours(precision, trained_trunk=True),
        "ours, trunk at random": lambda: ours(precision, trained_trunk=False),
        "torchvision": lambda: torchvisions(precision),
    }
    print(f"{arguments.minutes:g} minutes each, {precision}, {torch.get_num_threads()} thread(s)\n")
    print(
        "| network | steps | recall at IoU 0.5 | nuclei | false detections |\n| --- | ---: | ---: | ---: | ---: |",
        flush=True,
    )
    for name, make in contestants.items():
        if arguments.only in (None, name):
            parts = make()
            batches = SegmenterBatches(train_part, recipe.chains(), recipe, 0)
            steps = train(parts, batches, arguments.minutes, RATES[name.split(",")[0]])
            share, nuclei, false = recall(parts[2], validation)
            print(f"| {name} | {steps} | {share:.3f} | {nuclei} | {false} |", flush=True)


if __name__ == "__main__":
    main()
