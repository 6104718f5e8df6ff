"""How a segmenter bears images that are unlike those it learnt from in size, colour, light and sharpness.

    python benchmarks/changed_images.py found/manifest.csv [--weights lite-dsb2018] [--tta none] [--shrink-beyond 1.6]

Validation images are changed, one way a row, and their nuclei sought; mean DSB-2018 score of fluorescence and of all others. Two
thirds of the fluorescence images are left out to save time. Colour casts are given to fluorescence alone: a stain seen through
one channel is no image that anybody has. Labels are resized with their images, by the nearest pixel.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

import nucstyle
from nucstyle.data.dataset import open_dataset
from nucstyle.metrics.dsb import dsb_score

FLUORESCENCE, EVERY = "grey-on-black", 3
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def resized(factor: float) -> Change:
    """So many times as large."""

    def change(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        size = [round(length * factor) for length in labels.shape]
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        return image, F.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].to(labels.dtype)

    return change


def pixels(function: Callable[[Tensor], Tensor]) -> Change:
    """Other pixels, the same labels."""
    return lambda image, labels: (function(image).clamp(0, 1), labels)


def cast(*colour: float) -> Change:
    """Seen in one colour, as stores of microscopes save a channel."""
    return pixels(lambda image: image * torch.tensor(colour)[:, None, None])


def noisy(image: Tensor) -> Tensor:
    """Gaussian noise of five hundredths of the range."""
    return image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))


def compressed(image: Tensor) -> Tensor:
    """JPEG at a quality of 30."""
    file = io.BytesIO()
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=30)
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255


CHANGES: dict[str, Change] = {
    "none": pixels(lambda image: image),
    "half as large": resized(0.5),
    "twice as large": resized(2),
    "three times as large": resized(3),
    "four times as large": resized(4),
    "blue": cast(0, 0, 1),
    "green": cast(0, 1, 0),
    "cyan, dim": cast(0, 0.3, 0.5),
    "inverted": pixels(lambda image: 1 - image),
    "darker, times 0.3": pixels(lambda image: 0.3 * image),
    "paler, 0.3 to 0.9": pixels(lambda image: 0.3 + 0.6 * image),
    "square root": pixels(torch.sqrt),
    "blurred, sigma 1.5 px": pixels(lambda image: gaussian_blur(image, [11, 11], [1.5, 1.5])),
    "noise, sigma 0.05": pixels(noisy),
    "JPEG, quality 30": pixels(compressed),
}
CASTS = ("blue", "green", "cyan, dim")


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--weights", default="lite-dsb2018")
    parser.add_argument("--tta", default="none")
    parser.add_argument("--shrink-beyond", type=float, help="instead of what the weights say")
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES))
    args = parser.parse_args()
    samples = list(open_dataset(args.data, keep=True).part("validation", keep=True))
    parts = [
        [s for s in samples if s.modality == FLUORESCENCE][::EVERY],
        [s for s in samples if s.modality != FLUORESCENCE],
    ]
    segmenter = nucstyle.load_segmenter(args.weights, device="cpu")
    if args.shrink_beyond is not None:
        segmenter.inference = replace(segmenter.inference, shrink_beyond=args.shrink_beyond)
    print(
        f"| change | {FLUORESCENCE} ({len(parts[0])}) | all others ({len(parts[1])}) | seconds an image |\n|---|---|---|---|"
    )
    for name in args.only:
        cells, begin, count = [], time.perf_counter(), 0
        for part in parts[:1] if name in CASTS else parts:
            scores = []
            for sample in part:
                if sample.labels is None:
                    continue
                image, labels = CHANGES[name](sample.image, sample.labels)
                found = nucstyle.segment(segmenter, image, args.tta)
                scores.append(dsb_score(labels.numpy(), found.labels.numpy()).dsb_score)
            count += len(scores)
            cells.append(f"{np.mean(scores):.3f}")
        cells += [""] * (2 - len(cells))
        print(f"| {name} | {' | '.join(cells)} | {(time.perf_counter() - begin) / count:.2f} |", flush=True)


if __name__ == "__main__":
    main()
