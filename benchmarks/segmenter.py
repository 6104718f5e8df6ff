"""How long a step and a prediction of the segmenter take, beside torchvision's Mask R-CNN, and how much memory a crowd takes.

    python benchmarks/segmenter.py [--steps 5] [--weights NAME|FILE|RUN]

The peer is `maskrcnn_resnet50_fpn` with `min_size = max_size = 256`, so that it sees the same pixels; its default of 800 px is
timed as well, for information. Both train on the same batch of four crops of 256 px with 40 nuclei each, in the same number
format. Predictions are of one such field, ours as it is and enlarged as it does by default. The networks are not trained,
so both are made to find the 40 true boxes: each looks at all of its proposals, then makes, pastes and decodes the masks of the
same boxes. A trained one looks at fewer proposals: ours with its weights (default: the shipped ones) is timed as well, and what
part pasting and decoding have in its prediction of a field of 512 px with 400 discs. The crowd is a field of 1000 x 1000 with
1,800 discs, in a process of its own; with --weights, by these. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import RoIHeads

from nucstyle.core.precision import autocast, resolve_precision
from nucstyle.core.rng import generator, seeded
from nucstyle.core.sample import Sample
from nucstyle.segmentation.backbone import PyramidTrunk, load_trunk_weights
from nucstyle.segmentation.decode import decode
from nucstyle.segmentation.detector import Segmenter
from nucstyle.segmentation.targets import to_detection_target
from nucstyle.segmentation.tiling import predict_tiles, segment
from nucstyle.segmentation.tta import TestTimeAugmentation
from nucstyle.workflows.load import SHIPPED_SEGMENTER, load_segmenter
from nucstyle.workflows.recipes import segmenter_recipe


def discs(side: int, count: int, radius: int, seed: int = 0) -> Sample:
    """A fluorescence field of discs on a jittered grid."""
    columns = int(count**0.5) + 1
    pitch = side / columns
    labels = torch.zeros(side, side, dtype=torch.int32)
    ys, xs = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    jitter = torch.rand(count, 2, generator=generator("discs", seed)) * max(0.0, pitch - 2 * radius - 2)
    for number in range(count):
        row, column = divmod(number, columns)
        y, x = (
            row * pitch + radius + 1 + float(jitter[number, 0]),
            column * pitch + radius + 1 + float(jitter[number, 1]),
        )
        labels[(ys - y) ** 2 + (xs - x) ** 2 < radius**2] = number + 1
    noise = 0.02 * torch.randn(side, side, generator=generator("noise", seed))
    image = ((labels > 0).float() * 0.6 + 0.05 + noise).clamp(0, 1).expand(3, -1, -1).contiguous()
    return Sample(id=f"discs-{seed}", image=image, labels=torch.unique(labels, return_inverse=True)[1].int())


def ours(precision: str) -> Segmenter:
    """The recipe `lite`, as a training begins."""
    recipe = segmenter_recipe("lite")
    with seeded("weights"):
        trunk = PyramidTrunk(recipe.segmenter.pyramid_channels)
        load_trunk_weights(trunk.trunk)
        return Segmenter(recipe.segmenter, recipe.inference, trunk=trunk, autocast=autocast("cpu", precision))


def torchvisions(side: int) -> torch.nn.Module:
    """The peer, at random: time does not depend on the weights."""
    with seeded("peer"):
        return maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=2, min_size=side, max_size=max(side, 1333 * (side > 256))
        )


def find(heads: RoIHeads, boxes: Tensor) -> None:
    """Have heads that are not trained find given boxes, whatever they think of their proposals."""
    found = ([boxes], [torch.full((len(boxes),), 0.99)], [torch.ones(len(boxes), dtype=torch.int64)])
    heads.postprocess_detections = lambda *_: found


def timed(work: Callable[[], object], count: int) -> str:
    """Median (least, most) of seconds, after one round to warm up."""
    work()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}, {max(seconds):.2f})"


def step_of(losses: Callable[[], dict[str, Tensor]], parameters: list[Tensor]) -> Callable[[], None]:
    """One update."""
    optimizer = torch.optim.AdamW([one for one in parameters if one.requires_grad], 1e-5)

    def step() -> None:
        optimizer.zero_grad()
        sum(losses().values()).backward()
        optimizer.step()

    return step


def compare(steps: int, weights: str | None) -> None:
    """Steps and predictions, ours and the peer's."""
    precision = resolve_precision("auto", "cpu")
    fields = [discs(256, 40, 10, seed) for seed in range(4)]
    images = [one.image for one in fields]
    targets = [to_detection_target(one, min_side_px=3) for one in fields]
    full = [
        {
            "boxes": target["boxes"],
            "labels": target["labels"],
            "masks": (target["label_map"] == target["numbers"][:, None, None]).to(torch.uint8),
        }
        for target in targets
    ]
    print(f"number format {precision}; seconds, median (least, most) of {steps}")
    segmenter = ours(precision)
    step = step_of(lambda: segmenter.losses(images, targets), list(segmenter.network.parameters()))
    print("step of 4 x 256 px: ours        ", timed(step, steps))
    same_size = replace(segmenter.inference, enlarge_below_px=0)
    trained = load_segmenter(weights or SHIPPED_SEGMENTER, device="cpu")
    as_trained = trained.inference
    boxes = targets[0]["boxes"]
    for name, inference in (("as it is", same_size), ("enlarged", segmenter.inference)):
        segmenter.inference = inference
        find(segmenter.network.roi_heads, boxes * inference.magnification((256, 256)))
        work = timed(lambda: segment(segmenter, images[0], TestTimeAugmentation("none")), steps)
        print(f"prediction of 256 px, {name}: ours", work)
        trained.inference = replace(trained.inference, enlarge_below_px=inference.enlarge_below_px)
        found = segment(trained, images[0], TestTimeAugmentation("none"))
        work = timed(partial(segment, trained, images[0], TestTimeAugmentation("none")), steps)
        print(f"prediction of 256 px, {name}: ours, trained, {len(found.scores)} nuclei", work)
    for side in (256, 800):
        peer = torchvisions(side)
        peer.train()

        def losses(peer: torch.nn.Module = peer) -> dict[str, Tensor]:
            with autocast("cpu", precision)():
                return peer(images, full)

        print(f"step of 4 x 256 px at {side} px: torchvision", timed(step_of(losses, list(peer.parameters())), steps))
        peer.eval()
        find(peer.roi_heads, boxes * side / 256)

        def look(peer: torch.nn.Module = peer) -> object:
            with torch.no_grad(), autocast("cpu", precision)():
                return peer(images[:1])

        print(f"prediction at {side} px: torchvision", timed(look, steps))
    crowded = discs(512, 400, 9).image
    trained.inference = as_trained
    masks = predict_tiles(trained, crowded, none := TestTimeAugmentation("none"), min_score=trained.inference.score)
    print("prediction of 512 px, 400 discs: ours, trained", timed(lambda: segment(trained, crowded, none), steps))
    work = timed(lambda: decode(masks, trained.inference), steps)
    print(f"of which pasting and decoding {len(masks)} masks:", work)


def crowd(weights: str | None) -> None:
    """Nuclei found in the crowd, seconds, and the peak memory of the process."""
    segmenter = load_segmenter(weights, device="cpu") if weights else ours(resolve_precision("auto", "cpu"))
    sample = discs(1000, 1800, 8)
    start = time.perf_counter()
    found = segment(segmenter, sample.image, TestTimeAugmentation("none"))
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"crowd of 1,800 discs: {len(found.scores)} found, {seconds:.1f} s, peak memory {peak:.0f} MiB")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--weights", help="of what is trained [default: the shipped ones], and of the crowd")
    parser.add_argument("--crowd", action="store_true", help="only the crowd, in this process")
    arguments = parser.parse_args()
    if arguments.crowd:
        crowd(arguments.weights)
        return
    # First: a process begins with the peak memory of the one that started it.
    given = ["--weights", arguments.weights] if arguments.weights else []
    subprocess.run([sys.executable, __file__, "--crowd", *given], check=True)
    compare(arguments.steps, arguments.weights)


if __name__ == "__main__":
    main()
