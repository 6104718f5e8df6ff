"""A plain U-Net of one's own, trained with the masks of one modality, with and without style augmentation.

    nucstyle train-style found/manifest.csv --annotated grey-on-black --out fluorescence-style
    python docs/unet.py found/manifest.csv fluorescence-style [--seeds 3] [--steps 600] [--annotated grey-on-black]

Of nucstyle it uses the reader, `StyleTransfer` and the interval; the network, the loop and the loss are those of any other
project. It prints the foreground Dice on the validation images of each modality, with the spread over seeds, and the difference
between both arms, paired by image and seed, with its 95 % interval by resampling fields of view and seeds together (none under 5
fields). It writes every number to unet-result.json.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import nucstyle
from nucstyle.data.weights import load_weights
from nucstyle.metrics.intervals import paired_difference
from nucstyle.workflows.load import find_weights

CROP, BATCH, RATE, WIDTHS = 128, 8, 2e-3, (16, 32, 64, 96)


def double(inputs, outputs):
    """Two convolutions."""
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Four sizes, an output for foreground (Ronneberger et al. 2015)."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(double(one, two) for one, two in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.up = nn.ModuleList(
            double(deep + flat, flat) for flat, deep in zip(WIDTHS[-2::-1], WIDTHS[:0:-1], strict=True)
        )
        self.last = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, x):
        """(B, 3, H, W) in [0, 1], sides multiples of 8 -> (B, 1, H, W) logits."""
        levels = []
        for number, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if number else x * 2 - 1)
            levels.append(x)
        for layer, level in zip(self.up, levels[-2::-1], strict=True):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2.0), level], dim=1))
        return self.last(x)


def crop(sample, rng):
    """A random square, turned and mirrored, with the whole field beside it: colours are measured there."""
    height, width = sample.size
    y, x = (int(rng.integers(max(1, side - CROP + 1))) for side in (height, width))
    place = (slice(y, y + CROP), slice(x, x + CROP))
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def moved(pixels):
        cut = torch.rot90(pixels[..., *place], turns, (-2, -1))
        cut = (cut.flip(-1) if mirrored else cut).contiguous()
        right, bottom = CROP - cut.shape[-1], CROP - cut.shape[-2]
        if not right + bottom:
            return cut
        return F.pad(cut[None].float(), (0, right, 0, bottom), mode="replicate")[0].to(cut.dtype)

    labels = moved(sample.labels[None])[0]
    return replace(sample, image=moved(sample.image), labels=labels, whole=sample.image)


def train(samples, augment, seed, steps):
    """A U-Net; `augment` is a `StyleTransfer` or None. Both arms see the same crops of a seed: styles are drawn apart."""
    torch.manual_seed(seed)
    styles = np.random.default_rng((seed, 1))
    network, rng = UNet().to(memory_format=torch.channels_last).train(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for step in range(steps):
        crops = [crop(samples[int(rng.integers(len(samples)))], rng) for _ in range(BATCH)]
        if augment is not None:
            crops = [augment(one, seed=int(styles.integers(2**62))) for one in crops]
        images = torch.stack([one.image for one in crops]).to(memory_format=torch.channels_last)
        truth = torch.stack([(one.labels > 0).float()[None] for one in crops])
        logits = network(images)
        share = logits.sigmoid()
        dice = (2 * (share * truth).sum() + 1) / (share.sum() + truth.sum() + 1)
        loss = F.binary_cross_entropy_with_logits(logits, truth) + 1 - dice
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"  step {step + 1}: loss {loss.item():.3f}", flush=True)
    return network.eval()


@torch.no_grad()
def dice_of(network, sample):
    """Of the foreground of a whole field; 1 where both are empty."""
    height, width = sample.size
    padded = F.pad(sample.image[None], (0, -width % 8, 0, -height % 8), mode="replicate")
    found = network(padded)[0, 0, :height, :width] > 0
    truth = sample.labels > 0
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def main():
    """Parse, train all, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("style")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--annotated", default="grey-on-black")
    parser.add_argument("--out", type=Path, default=Path("unet-result.json"))
    options = parser.parse_args()
    data = nucstyle.open_dataset(options.data)
    learned = list(data.where(lambda r: r.split == "train" and r.modality == options.annotated))
    if not learned:
        parser.error(
            f"{options.data}: no image of the part train and the modality {options.annotated}; run nucstyle discover"
        )
    hidden = {record.id for record in data.records if record.modality != options.annotated}
    seen = load_weights(find_weights(options.style, "style"), kind="style").metadata.get("masks_seen", ())
    if hidden.intersection(seen):
        parser.error(
            f"{options.style} has seen masks of other modalities than {options.annotated}; train one with --annotated"
        )
    shown = data.where(lambda record: record.split == "validation")
    fields = {record.id: record.field_of_view for record in shown.records}
    validation = list(shown)
    scores = defaultdict(list)
    for seed in range(options.seeds):
        for arm in ("none", "style"):
            print(f"{arm}, seed {seed}", flush=True)
            augment = nucstyle.StyleTransfer(nucstyle.load_style(options.style), p=0.5) if arm == "style" else None
            network = train(learned, augment, seed, options.steps)
            scores[arm].append({sample.id: dice_of(network, sample) for sample in validation})
    modalities = {sample.id: sample.modality for sample in validation}
    groups = {name: [k for k in modalities if modalities[k] == name] for name in sorted(set(modalities.values()))}
    groups["all others"] = [k for k in modalities if modalities[k] != options.annotated]
    print(
        "| modality | images | none | style | difference | 95 % interval | better, worse |\n|---|---|---|---|---|---|---|"
    )
    for name, members in groups.items():
        if not members:
            continue
        none, style = ([{k: one[k] for k in members} for one in scores[arm]] for arm in ("none", "style"))
        means = [np.mean([list(one.values()) for one in arm], axis=1) for arm in (none, style)]
        cells = [f"{one.mean():.3f} ± {one.std(ddof=options.seeds > 1):.3f}" for one in means]
        found = paired_difference(style, none, fields)
        span = f"{found.low:+.3f} to {found.high:+.3f}" if found.low is not None else "fewer than 5 fields"
        print(
            f"| {name} | {len(members)} | {cells[0]} | {cells[1]} | {found.mean:+.3f} | {span} "
            f"| {found.better}, {found.worse} |"
        )
    result = {arm: {str(seed): one for seed, one in enumerate(scores[arm])} for arm in scores}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
