"""A hundred restyled crops to look at one by one, and what the gate says of each.

    python benchmarks/gate.py found/manifest.csv OUT [--style dsb2018] [--judge dsb2018] [--crops 100]

Validation images of every modality in turn, crops of 256 px at their own size with nuclei in them, each moved into another
modality that chance chooses, first draws only. OUT gets sheets of ten crops (original, restyled, masks); the lines printed say
what the gate makes of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nucstyle.augment.gate import Gate, GateConfig
from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.augment.style import StyleTransfer
from nucstyle.core import rng
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.image_io import write_png
from nucstyle.report.pictures import draw_restyled, style_grid
from nucstyle.workflows.load import load_judge, load_style

CROP = CropConfig(size_px=256, zoom_low=1.0, zoom_high=1.0, native=1.0)
LEAST_NUCLEUS_PIXELS = 400
A_SHEET = 10


def in_turn(dataset: Dataset) -> list[int]:
    """Numbers of the images, one of each modality after the other; a modality with fewer images begins anew."""
    numbers: dict[str, list[int]] = {}
    for number, record in enumerate(dataset.records):
        numbers.setdefault(str(record.modality), []).append(number)
    longest = max(len(own) for own in numbers.values())
    return [own[turn % len(own)] for turn in range(longest) for _, own in sorted(numbers.items())]


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--style", default="dsb2018")
    parser.add_argument("--judge", default="dsb2018")
    parser.add_argument("--crops", type=int, default=100)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(Path(arguments.data)).part("validation").annotated()
    gate = Gate(load_judge(arguments.judge), GateConfig(redraws=0))
    transfer = StyleTransfer(load_style(arguments.style), p=1.0, exclude_own=True, gate=gate, lift=1)
    order, rows, names, shown, place = in_turn(dataset), [], [], 0, 0
    while shown < arguments.crops:
        generator = rng.generator("hundred", place)
        crop = RandomCrop(CROP).augment(dataset[order[place % len(order)]], generator)
        place += 1
        if crop.labels is None or int((crop.labels > 0).sum()) < LEAST_NUCLEUS_PIXELS:
            continue
        made, verdict = next(iter(transfer.attempts(crop, generator)))
        said = f"{shown:02d} {crop.modality} to {made.history[-1].drawn['target']}: {verdict.outcome}"
        print(said, " ".join(f"{name} {value:.2f}" for name, value in verdict.values.items()))
        rows.append([draw_restyled(crop.image, made.image, crop.labels)])
        names.append(said)
        shown += 1
        if len(rows) == A_SHEET or shown == arguments.crops:
            sheet = style_grid(
                rows, row_names=names, column_names=["original, restyled, masks"], framed=[None] * len(rows)
            )
            write_png(arguments.out / f"sheet-{(shown - 1) // A_SHEET}.png", sheet)
            rows, names = [], []


if __name__ == "__main__":
    main()
