"""What each part of the recipe `lite` is worth: trainings without it, measured alike.

    python benchmarks/style_ablation.py found/manifest.csv OUT [--steps 1000] [--draws 16] [--only NAME,...]

Every variant is trained on the same images with the same seed and number of steps, and measured by `evaluate-style` with the
shipped judge; means are over all pairs of different modalities. What is finished in OUT is not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from nucstyle.data.run_folder import read_json
from nucstyle.metrics.translation import goal_shares
from nucstyle.workflows.evaluate_style import evaluate_style
from nucstyle.workflows.style_measures import quality
from nucstyle.workflows.train_style import train_style

VARIANTS: dict[str, tuple[str, ...]] = {
    "lite": (),
    "lookup table alone": ("steps=1", "learning_rate=1e-12"),
    "without the critic's trunk": ("feature_critic=false",),
    "without nuclei_height": ("nuclei_height=0",),
    "without nuclei_kept": ("nuclei_kept=0",),
    "without both": ("nuclei_height=0", "nuclei_kept=0"),
    "without the content critic": ("content=0",),
    "without the colour loss": ("latent=0",),
    "without the cycle": ("cross_cycle=0",),
    "twice the adversarial weight": ("adversarial=2",),
}
MEASURES = ("nuclei_kept", "dice_share", "false_per_nucleus", "taken_for_target", "kernel_distance")


def row(name: str, settings: tuple[str, ...], result: dict[str, object]) -> str:
    """A line of the table."""
    pairs = [pair for pair in result["pairs"] if pair["source"] != pair["target"] and pair["draws"]]
    means = [f"{np.mean([pair[one] for pair in pairs]):.2f}" for one in MEASURES[:-1]]
    distance = f"{np.mean([pair[MEASURES[-1]] for pair in pairs]):.0f}"
    met = "".join(f"{letter}{sum(goal_shares(pair)[letter] >= 1 for pair in pairs)} " for letter in "KDFCM").strip()
    shown = " ".join(f"`{one}`" for one in settings)
    return f"| {name} | {shown} | {quality(pairs):.3f} | {' | '.join(means)} | {distance} | {met} |"


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--only", default=",".join(VARIANTS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    titles = ["training", "`--set`", "quality", *(one.replace("_", " ") for one in MEASURES), "goals met"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in arguments.only.split(","):
        settings = VARIANTS[name]
        run, measured = (arguments.out / f"{part}-{name.replace(' ', '-')}" for part in ("run", "measured"))
        if not (measured / "result.json").is_file():
            overrides = [
                f"steps={arguments.steps}",
                "judge_steps=0",
                "measure_every=0",
                "checkpoint_every=250",
                *settings,
            ]
            train_style(arguments.data, run, overrides=overrides, resume=run.is_dir())
            evaluate_style(arguments.data, run, measured, draws=arguments.draws, overwrite=measured.is_dir())
        lines.append(row(name, settings, read_json(measured / "result.json")))
        print(lines[-1], flush=True)
    (arguments.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps({"table": str(arguments.out / "table.md")}))


if __name__ == "__main__":
    main()
