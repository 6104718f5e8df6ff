"""How well content is kept without a code for it: a CycleGAN for one pair of modalities, measured like the style model.

    python benchmarks/cyclegan.py found/manifest.csv OUT [--pair grey-on-black,purple-on-white] [--steps 2000] [--draws 40]

After arXiv 1703.10593 at a small scale: two generators of residual blocks with instance norm, two critics of patches, least
squares, cycle and identity; no masks, no content code, no style. Unlike there, gradients are clipped and those that are not
finite left out: without, weights were NaN before step 200. Both directions are measured as `evaluate-style` does it, with the
shipped judge, beside the shipped style model. `--steps` says how long; beside other work a step took 2.2 s of one core.
A grid of both directions is written to OUT. What is trained in OUT is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.core import rng
from nucstyle.core.precision import autocast, resolve_precision
from nucstyle.core.protocols import Translator
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.image_io import write_png
from nucstyle.metrics.translation import goal_shares
from nucstyle.style.model import StyleModel
from nucstyle.workflows.load import load_judge, load_style, load_trunk
from nucstyle.workflows.provenance import data_fingerprint
from nucstyle.workflows.style_measures import Measurer

WIDTH, BLOCKS, BATCH, CROP_PX = 32, 6, 6, 128
CYCLE, IDENTITY, RATE, CLIP = 10.0, 5.0, 2e-4, 10.0
BUFFER = 50
MEASURES = (
    "nuclei_kept",
    "dice_share",
    "false_per_nucleus",
    "false_allowed",
    "taken_for_target",
    "kernel_distance",
    "cycle_error",
)
"""Columns of the table."""


def layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution, instance norm, rectifier."""
    pad = kernel // 2 if kernel % 2 else 1
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, pad, padding_mode="reflect")
    return [convolution, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU()]


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*layer(channels, channels, 3), *layer(channels, channels, 3)[:2])

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W), the same."""
        return features + self.body(features)


def generator() -> nn.Sequential:
    """From images of one modality to the other, (B, 3, H, W) in [-1, 1]."""
    double = nn.Upsample(scale_factor=2)
    return nn.Sequential(
        *layer(3, WIDTH, 7),
        *layer(WIDTH, 2 * WIDTH, 3, 2),
        *layer(2 * WIDTH, 4 * WIDTH, 3, 2),
        *(Block(4 * WIDTH) for _ in range(BLOCKS)),
        double,
        *layer(4 * WIDTH, 2 * WIDTH, 3),
        double,
        *layer(2 * WIDTH, WIDTH, 3),
        nn.Conv2d(WIDTH, 3, 7, 1, 3, padding_mode="reflect"),
        nn.Tanh(),
    )


def critic() -> nn.Sequential:
    """Whether patches are real."""
    parts: list[nn.Module] = [nn.Conv2d(3, WIDTH, 4, 2, 1), nn.LeakyReLU(0.2)]
    for inputs, outputs, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
        parts += [
            nn.Conv2d(inputs * WIDTH, outputs * WIDTH, 4, stride, 1),
            nn.InstanceNorm2d(outputs * WIDTH),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*parts, nn.Conv2d(8 * WIDTH, 1, 4, 1, 1))


class Pair(Translator):
    """The two generators as a model of all modalities that can move images between two."""

    def __init__(self, names: Sequence[str], pair: tuple[int, int], likeness: StyleModel) -> None:
        self._names, self._pair, self._likeness = tuple(names), pair, likeness
        self.networks = nn.ModuleList([generator(), generator()])
        self.number = autocast("cpu", resolve_precision("auto", "cpu"))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Of the style model that it is compared with."""
        return self._names

    def recognise(self, image: Tensor) -> Tensor:
        """By the colours, as the style model does."""
        return self._likeness.recognise(image)

    def draw_attribute(self, target: Tensor, *, mode: str, generator: Generator) -> Tensor:
        """There is one style alone."""
        return torch.zeros(len(target), 1)

    def encode_attribute(self, image: Tensor, modality: Tensor) -> Tensor:
        """There is one style alone."""
        return torch.zeros(len(image), 1)

    @torch.no_grad()
    def translate(self, image: Tensor, *, source: Tensor, target: Tensor, attribute: Tensor) -> Tensor:
        """By one of the two generators, padded to a multiple of 4."""
        assert (int(source), int(target)) in (self._pair, self._pair[::-1])
        network = self.networks[int(int(source) == self._pair[1])].eval()
        height, width = image.shape[-2:]
        padded = F.pad(image * 2 - 1, (0, -width % 4, 0, -height % 4), mode="replicate")
        with self.number():
            made = network(padded)
        return (made[..., :height, :width].float() + 1) / 2

    def reconstruct(self, image: Tensor, modality: Tensor) -> Tensor:
        """There and back."""
        other = torch.tensor([self._pair[0] if int(modality) == self._pair[1] else self._pair[1]])
        none = torch.zeros(1, 1)
        made = self.translate(image, source=modality, target=other, attribute=none)
        return self.translate(made, source=other, target=modality, attribute=none)


def train(pair: Pair, images: Sequence[Sequence[Sample]], steps: int) -> None:
    """Train both generators on images of both modalities."""
    critics, crop = nn.ModuleList([critic(), critic()]), RandomCrop(CropConfig(size_px=CROP_PX))
    for module in (*pair.networks, *critics):
        module.to(memory_format=torch.channels_last).train()
    makers = torch.optim.Adam(pair.networks.parameters(), RATE, betas=(0.5, 0.999))
    judges = torch.optim.Adam(critics.parameters(), RATE, betas=(0.5, 0.999))
    buffers: list[list[Tensor]] = [[], []]
    begun, skipped = time.monotonic(), 0
    for step in range(1, steps + 1):
        for group in (*makers.param_groups, *judges.param_groups):
            group["lr"] = RATE * min(1.0, 2 * (1 - (step - 1) / steps))  # constant, then down to nothing, as published
        random = rng.generator(0, "cyclegan", step)
        real = [_batch(own, crop, random) for own in images]
        with pair.number():
            made = [pair.networks[k](real[k]) for k in range(2)]  # 0: of modality 1, made of images of modality 0
            back = [pair.networks[1 - k](made[k]) for k in range(2)]
            same = [pair.networks[1 - k](real[k]) for k in range(2)]
            told = [critics[1 - k](made[k]) for k in range(2)]
        loss = sum((told[k].float() - 1).square().mean() for k in range(2))
        loss = loss + sum(CYCLE * (back[k].float() - real[k]).abs().mean() for k in range(2))
        loss = loss + sum(IDENTITY * (same[k].float() - real[k]).abs().mean() for k in range(2))
        makers.zero_grad()
        loss.backward()
        skipped += _step(makers)
        old = [_remembered(made[k].detach().float(), buffers[k], random) for k in range(2)]
        with pair.number():
            on_real, on_made = ([critics[k](shown) for k, shown in enumerate(both)] for both in (real, old[::-1]))
        judged = sum(
            (a.float() - 1).square().mean() + b.float().square().mean() for a, b in zip(on_real, on_made, strict=True)
        )
        judges.zero_grad()
        (judged / 2).backward()
        skipped += _step(judges)
        if step % 50 == 0 or step == steps:
            took = (time.monotonic() - begun) / step
            losses = f"makers {float(loss.detach()):.3f}, critics {float(judged.detach()):.3f}"
            print(f"step {step}: {losses}, {skipped} skipped, {took:.2f} s a step", flush=True)


def _step(optimiser: torch.optim.Optimizer) -> bool:
    """Take a step, unless the gradient is not finite: through instance norms an empty field magnifies it without bounds.

    Returns:
        Whether it was left out.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    if not nn.utils.clip_grad_norm_(weights, CLIP).isfinite():
        return True
    optimiser.step()
    return False


def _batch(images: Sequence[Sample], crop: RandomCrop, random: Generator) -> Tensor:
    chosen = [images[rng.integer(0, len(images), random)] for _ in range(BATCH // 2)]
    crops = [crop.augment(image, random).image for image in chosen]
    return (torch.stack(crops) * 2 - 1).contiguous(memory_format=torch.channels_last)


def _remembered(made: Tensor, buffer: list[Tensor], random: Generator) -> Tensor:
    """Half of the time an image that was made earlier, so that critics do not forget."""
    given = []
    for image in made:
        buffer.append(image)
        if len(buffer) <= BUFFER or rng.chance(0.5, random):
            given.append(image)
            del buffer[BUFFER:]
        else:
            place = rng.integer(0, BUFFER, random)
            given.append(buffer[place])
            buffer[place] = buffer.pop()
    return torch.stack(given)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pair", default="grey-on-black,purple-on-white")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=40)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    style = load_style("dsb2018", device="cpu")
    names = arguments.pair.split(",")
    numbers = [style.modalities.index(name) for name in names]
    dataset = open_dataset(arguments.data, keep=True)
    learnt, evaluated = dataset.part("train"), dataset.part("validation")
    pair = Pair(style.modalities, (numbers[0], numbers[1]), style)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "generators.safetensors"
    ids = data_fingerprint(learnt)["ids_sha256"]
    trained = {"pair": arguments.pair, "steps": str(arguments.steps), "ids_sha256": ids}
    if file.is_file():
        with safe_open(file, "pt") as made:
            if made.metadata() != trained:
                parser.error(f"{file}: trained as {made.metadata()}, asked for is {trained}; give another OUT")
        pair.networks.load_state_dict(load_file(file))
    else:
        train(pair, [_of(learnt, name) for name in names], arguments.steps)
        save_file({name: one.contiguous() for name, one in pair.networks.state_dict().items()}, file, metadata=trained)
    measurer = Measurer(
        evaluated, learnt, load_judge("dsb2018"), load_trunk(), style.modalities, polarity=style.polarity
    )
    rows = []
    print(f"| model | source | target | {' | '.join(one.replace('_', ' ') for one in MEASURES)} | goals met |")
    print("|---" * (len(MEASURES) + 4) + "|")
    for (title, model), (source, target) in itertools.product(
        (("CycleGAN", pair), ("dsb2018", style)), (names, names[::-1])
    ):
        draws, kept = measurer.draw(model, source, target, draws=arguments.draws, seed=0, keep=6)
        row = measurer.summary(source, target, draws)
        values = " | ".join(f"{row[one]:.2f}" for one in MEASURES)
        print(
            f"| {title} | {source} | {target} | {values} | {''.join(k for k, share in goal_shares(row).items() if share >= 1)} |",
            flush=True,
        )
        rows += [
            torch.cat([_square(one) for one in column], dim=2)
            for column in ([w.image for w, _ in kept], [made for _, made in kept])
        ]
    write_png(arguments.out / "grid.png", torch.cat(rows, dim=1))


def _of(dataset: Dataset, name: str) -> list[Sample]:
    return [dataset[index] for index, record in enumerate(dataset.records) if record.modality == name]


def _square(image: Tensor) -> Tensor:
    square = torch.zeros(3, 160, 160)
    shown = image[:, :160, :160]
    square[:, : shown.shape[1], : shown.shape[2]] = shown
    return square


if __name__ == "__main__":
    main()
