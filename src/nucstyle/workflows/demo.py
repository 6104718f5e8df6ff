"""`demo`: the whole way of the paper on the bundled images, in a few minutes on two processor cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len

from nucstyle.core.config import build, to_table, with_overrides
from nucstyle.core.installation import choose_device
from nucstyle.core.precision import resolve_precision
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.run_folder import RunFolder, check_target
from nucstyle.report.page import write_report
from nucstyle.workflows.arms import make_arm, make_gate
from nucstyle.workflows.cells import VALIDATION, Scoring, cell_folder, run_cell
from nucstyle.workflows.discover import DiscoverConfig, Discovery, find_modalities, write_discovery
from nucstyle.workflows.evaluate import largest_modality
from nucstyle.workflows.recipes import segmenter_recipe, style_recipe
from nucstyle.workflows.train_segmenter import SegmenterRun
from nucstyle.workflows.train_style import StyleRun, fit_style

PROTOCOL = "full"
"""All training annotations are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """The size of the demo: short trainings, to show the way and not to win."""

    k: Literal["auto"] | Annotated[int, Ge(2)] = "auto"
    """Modalities; 6 in the paper, but the sample is small."""
    style_steps: Annotated[int, Ge(1)] = 200
    """Of the style model; a good one takes thousands."""
    segmenter_steps: Annotated[int, Ge(1)] = 100
    """Of the segmenter, each arm; a good one takes over a thousand."""
    checkpoint_every: Annotated[int, Ge(1)] = 50
    """Steps between checkpoints."""
    arms: Annotated[tuple[Literal["none", "style"], ...], Len(1, 2)] = ("none", "style")
    """What is added to the recipe's own augmentations."""
    tta: Annotated[tuple[Literal["none", "fast", "full"], ...], Len(1, 3)] = ("none", "fast")
    """Test-time augmentation; every arm is scored under each."""


def sample_folder() -> Path:
    """The bundled images."""
    return Path(str(resources.files("nucstyle.sample")))


def demo_config(overrides: Sequence[str]) -> DemoConfig:
    """The size of the demo with `--set` on top."""
    return build(DemoConfig, with_overrides(DemoConfig, to_table(DemoConfig()), overrides), where="demo")


def demo(
    out: Path,
    *,
    progress: Progress = SILENT,
    overrides: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Discover, train a style model, train the segmenter with and without it, predict, score, report.

    Args:
        out: The run folder.
        progress: Shown to the person.
        overrides: `key=value` on top of `DemoConfig`.
        seed: Of everything random; on one machine's CPU the same seed gives the same bytes in `result.json`.
        device: `auto`, `cpu`, `cuda`, ...
        resume: Go on in `out`; stages that are finished are not done again.
        overwrite: Replace a run in `out`.

    Returns:
        What `result.json` holds.

    Raises:
        InputError: The options are at fault.
        Interrupted: A signal; `resume` goes on.
    """
    config, place = demo_config(overrides), choose_device(device)
    check_target(out, resume=resume, overwrite=overwrite)
    dataset = open_dataset(sample_folder(), keep=True, cache=False)
    table = {"verb": "demo", "seed": seed, "demo": to_table(config)}
    settings = DiscoverConfig(k=config.k, seed=seed)
    found = find_modalities(dataset, settings, progress=progress)
    named = dataset.with_records(found.records)
    with RunFolder.open(out, table, resume=resume, overwrite=overwrite) as run:
        run.write_environment(device=place, precision="see the runs in it")
        _discover(run.path / "modalities", named, found, settings)
        _train_style(run.path / "style", named, found, config, seed, place, progress)
        arms: dict[str, Any] = {}
        for arm in config.arms:
            cell = cell_folder(run.path / PROTOCOL, arm, seed)
            scores = _run_cell(cell, named, arm, run.path / "style", config, seed, place, progress)
            arms[arm] = {"seeds": {str(seed): scores}}
        result = {
            "format": 1,
            "verb": "demo",
            "seed": seed,
            "recipe": "lite",
            "protocol": PROTOCOL,
            "split": {"train": len(named.part("train")), "validation": len(named.part("validation"))},
            "arms": arms,
        }
        run.write_result(result)
        write_report(run.path)
    return result


def _discover(path: Path, dataset: Dataset, found: Discovery, settings: DiscoverConfig) -> None:
    with RunFolder.open(path, settings.to_table(), resume=True) as run:
        write_discovery(run, dataset, found, seed=settings.seed)


def _train_style(
    path: Path, dataset: Dataset, found: Discovery, config: DemoConfig, seed: int, device: str, progress: Progress
) -> None:
    recipe = style_recipe(
        "lite",
        [
            f"steps={config.style_steps}",
            f"checkpoint_every={config.checkpoint_every}",
            "judge_steps=0",
            "measure_every=0",
        ],
    )
    style_run = StyleRun(dataset.part("train", keep=True), found.model, recipe, seed, device)
    with RunFolder.open(path, style_run.config(), resume=True) as run:
        fit_style(run, style_run, progress=progress)


def _run_cell(
    path: Path,
    dataset: Dataset,
    arm: str,
    style: Path,
    config: DemoConfig,
    seed: int,
    device: str,
    progress: Progress,
) -> Mapping[str, Any]:
    """Train one arm, predict the validation images, score the written files; returns the scores by TTA mode."""
    overrides = [f"steps={config.segmenter_steps}", f"checkpoint_every={config.checkpoint_every}", "measure_every=0"]
    overrides.append("inference.score=0.5")  # after so few steps no detection is as sure as those of a full training
    recipe = segmenter_recipe("lite", overrides)
    precision = resolve_precision(recipe.training.precision, device)
    with_style = arm == "style"
    made = make_arm(
        arm,
        style=style if with_style else None,
        config=recipe.style,
        gate=make_gate(None) if with_style else None,
        device=device,
        precision=precision,
    )
    train, validation = dataset.part("train", keep=True), dataset.part("validation", keep=True)
    scoring = Scoring({VALIDATION: validation}, config.tta, largest_modality(dataset))
    result = run_cell(path, SegmenterRun(train, made, recipe, seed, device), scoring, progress=progress)
    cell: Mapping[str, Any] = result["scores"][VALIDATION]
    return cell
