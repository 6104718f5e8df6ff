"""The arms of a fair comparison: what is added to a recipe's own augmentations, by name (docs/method.md).

An arm is `none`, or parts joined by `+` and applied in that order: `colour`, `recolour`, `histogram`, `reinhard`, `fourier`,
`style`. None of them looks at masks of the modality that it imitates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from nucstyle.augment.base import Augmentation
from nucstyle.augment.colour import ColourJitter
from nucstyle.augment.fourier import FourierSwap
from nucstyle.augment.gate import OUTCOMES, Gate
from nucstyle.augment.histogram import HistogramMatch
from nucstyle.augment.recolour import Recolour
from nucstyle.augment.references import FromReference, References
from nucstyle.augment.reinhard import Reinhard
from nucstyle.augment.style import StyleConfig, StyleTransfer
from nucstyle.core.config import suggestion, to_table
from nucstyle.core.errors import OptionError
from nucstyle.core.precision import Precision
from nucstyle.core.protocols import SILENT, Progress
from nucstyle.data.manifest import Record
from nucstyle.data.weights import Weights, load_weights
from nucstyle.style.model import StyleModel
from nucstyle.workflows.load import find_weights, load_judge, style_from_weights
from nucstyle.workflows.named import NamedImages, hidden_masks_seen

NONE = "none"
_BY_EXAMPLE: Mapping[str, type[FromReference]] = {
    "recolour": Recolour,
    "histogram": HistogramMatch,
    "reinhard": Reinhard,
    "fourier": FourierSwap,
}
"""Those that take a random training image of another modality for their example."""
PARTS = ("colour", *_BY_EXAMPLE, "style")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What an arm adds; every part changes half of the images, `style` as many as its config says."""

    name: str = NONE
    augmentations: tuple[Augmentation, ...] = ()
    """In order."""
    style: Weights | None = None
    """For an arm with `style`: what its model is, and what it had seen."""
    gate: ArmGate | None = None
    """For an arm with `style`: what refuses restyled images; None = all are used."""

    @property
    def tally(self) -> Tensor | None:
        """For an arm with `style`: (M, M, 6), see `StyleTransfer`."""
        return next((one.tally for one in self.augmentations if isinstance(one, StyleTransfer)), None)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Of the style model, in the order of the tally."""
        return next((one.model.modalities for one in self.augmentations if isinstance(one, StyleTransfer)), ())


@dataclass(frozen=True, slots=True)
class ArmGate:
    """What refuses restyled images, and whose eyes it has."""

    gate: Gate
    judge: Weights | None = None
    """What its judge had seen; None = it has none."""

    def to_table(self) -> dict[str, Any]:
        """For `config.toml`."""
        judge = {"judge_sha256": self.judge.sha256} if self.judge else {}
        return {**to_table(self.gate.config), **judge}


def make_gate(
    judge: Path | str | None,
    *,
    named: NamedImages | None = None,
    annotated: Sequence[str] | None = None,
    device: str = "cpu",
    precision: Precision = "auto",
    progress: Progress = SILENT,
) -> ArmGate:
    """Make the gate of a style model.

    Args:
        judge: Weights of the network that looks for new nuclei: a name, a file or a run; None = none does.
        named: The images of a training, for `annotated`.
        annotated: Modalities whose masks may be seen; a judge that has seen others is left out, and it is said.
        device: For the judge.
        precision: For the judge.
        progress: Shown to the person.

    Raises:
        WeightsError: The judge cannot be loaded.
    """
    if judge is None:
        return ArmGate(Gate())
    weights = load_weights(find_weights(judge, "judge"), kind="judge")
    if hidden_masks_seen(named, annotated, weights):
        progress.say(
            f"the judge {judge} was trained with masks that --annotated hides, so restyled images are not searched for new "
            "nuclei; --judge with one that was trained with the same --annotated does that (train-style trains one)"
        )
        return ArmGate(Gate())
    return ArmGate(Gate(load_judge(judge, device=device, precision=precision)), weights)


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of an arm by its name; none for `none`.

    Raises:
        OptionError: A part is unknown, stands twice, or would mislead the next: `colour` may invert an image, and `recolour` and
            `style` go by which way its nuclei differ from their surroundings.
    """
    if name == NONE:
        return ()
    parts = tuple(name.split("+"))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        msg = f"arm {name}: {unknown[0]!r} is unknown; known: {NONE}, or one or more of {', '.join(PARTS)} joined by +"
        raise OptionError(msg)
    if len(set(parts)) < len(parts):
        msg = f"arm {name}: a part stands twice; name each once"
        raise OptionError(msg)
    if any("colour" in parts[:place] for place, part in enumerate(parts) if part in ("recolour", "style")):
        msg = f"arm {name}: colour may invert an image, so it comes after recolour and style"
        raise OptionError(msg)
    return parts


def is_arm(name: str) -> bool:
    """Whether a name is that of an arm."""
    try:
        parts_of(name)
    except OptionError:
        return False
    return True


def check_arm(name: str, style: Path | str | None) -> None:
    """Refuse an arm that there is not, before anything is read.

    Raises:
        OptionError: See `parts_of`; or a style model is missing or not wanted.
    """
    if ("style" in parts_of(name)) != (style is not None):
        msg = "an arm with style (--augment style) and --style NAME|FILE|RUN belong together; give both or neither"
        raise OptionError(msg)


def takes_examples(name: str) -> bool:
    """Whether an arm takes training images of other modalities for its example."""
    return any(part in _BY_EXAMPLE for part in parts_of(name))


def make_arm(
    name: str,
    *,
    style: Path | str | None = None,
    config: StyleConfig,
    gate: ArmGate | None = None,
    references: References | None = None,
    device: str,
    precision: Literal["bf16", "fp32"],
) -> Arm:
    """Make an arm by its name.

    Args:
        name: `none`, or parts joined by `+`.
        style: Style weights for `style`: a name, a file or a run.
        config: For `style`: how often, into what and how crops are restyled.
        gate: For `style`: what refuses restyled images; None = all are used.
        references: What training images lend to others, for arms that take examples.
        device: For the style model.
        precision: For the style model.

    Raises:
        OptionError: See `check_arm`; or there is no other modality to take examples of, or the style model does not know one of
            `config`.
        WeightsError: The style model cannot be loaded.
    """
    check_arm(name, style)
    if references is not None and len(references.modalities) < 2:
        msg = f"arm {name} takes images of another modality for its example, but all are of {references.modalities[0]}"
        raise OptionError(msg)
    augmentations: list[Augmentation] = []
    weights = None
    for part in parts_of(name):
        if part == "style" and style is not None:
            path = find_weights(style, "style")
            weights = load_weights(path, kind="style")
            check_style_names(config, weights)
            model = style_from_weights(weights, str(path), device=device, precision=precision)
            augmentations.append(_restyling(model, config, gate))
        elif part in _BY_EXAMPLE:
            assert references is not None
            augmentations.append(_BY_EXAMPLE[part](references, exclude_own=True))
        else:
            augmentations.append(ColourJitter())
    return Arm(name=name, augmentations=tuple(augmentations), style=weights, gate=gate if weights is not None else None)


def _restyling(model: StyleModel, config: StyleConfig, gate: ArmGate | None) -> StyleTransfer:
    return StyleTransfer(
        model,
        p=config.p,
        targets=config.targets or None,
        sources=config.sources or None,
        attributes=config.attributes,
        exclude_own=config.exclude_own,
        gate=gate.gate if gate else None,
        lift=config.lift,
    )


def check_style_names(config: StyleConfig, weights: Weights) -> None:
    """Refuse modalities that a style model does not know.

    Raises:
        OptionError: `targets` or `sources` name one.
    """
    known: list[str] = weights.metadata["modalities"]
    for setting, chosen in (("targets", config.targets), ("sources", config.sources)):
        for name in chosen:
            if name not in known:
                msg = f"--set style.{setting}: the style model has no modality {name!r}{suggestion(name, known)}"
                raise OptionError(msg)


def tell_unknown_names(images: Iterable[Record], weights: Weights | None, progress: Progress) -> None:
    """Say which modalities of images that are to be restyled a style model, where there is one, does not know by name."""
    if weights is None:
        return
    known: list[str] = weights.metadata["modalities"]
    foreign = Counter(one.modality for one in images if one.modality is not None and one.modality not in known)
    if foreign:
        told = ", ".join(f"{name} ({count})" for name, count in sorted(foreign.items()))
        progress.say(
            f"warning: the style model does not know some modalities of training images by name, {told}: it takes each of these "
            "images for the modality that is nearest by colour; its names, also for style.targets and style.sources, are "
            f"{', '.join(known)}"
        )


def gate_result(arm: Arm) -> dict[str, Any]:
    """What the gate let through and refused, for `result.json`; of the first process where several train; empty without one."""
    return {} if arm.gate is None or arm.tally is None else {"gate": tally_table(arm.modalities, arm.tally)}


def tally_table(modalities: Sequence[str], tally: Tensor) -> dict[str, Any]:
    """The tally of a `StyleTransfer` for `result.json`; see `report.tables.gate_table`."""
    return {"outcomes": list(OUTCOMES), "modalities": list(modalities), "tally": tally.tolist()}


def measure_references(named: NamedImages) -> References:
    """What the images of the training part lend to others, whether annotated or not."""
    examples = named.bare_training_part()
    modalities = [record.modality or "" for record in examples.records]  # all have one
    return References.measure(examples, modalities, named.polarity)
