"""The arms of a fair comparison: what is added to a recipe's own augmentations, by name (docs/method.md).

An arm is `none`, or parts joined by `+` and applied in that order: `colour`, `recolour`, `histogram`, `reinhard`, `fourier`,
`style`. None of them looks at masks of the modality that it imitates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nucstyle.augment.base import Augmentation
from nucstyle.augment.colour import ColourJitter
from nucstyle.augment.fourier import FourierSwap
from nucstyle.augment.histogram import HistogramMatch
from nucstyle.augment.recolour import Recolour
from nucstyle.augment.references import FromReference, References
from nucstyle.augment.reinhard import Reinhard
from nucstyle.augment.style import StyleTransfer
from nucstyle.core.errors import OptionError
from nucstyle.data.weights import Weights, load_weights
from nucstyle.workflows.load import find_weights, style_from_weights
from nucstyle.workflows.named import NamedImages

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
    """What an arm adds; every part changes half of the images."""

    name: str = NONE
    augmentations: tuple[Augmentation, ...] = ()
    """In order."""
    style: Weights | None = None
    """For an arm with `style`: what its model is, and what it had seen."""


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
        msg = f"--augment {name}: {unknown[0]!r} is unknown; known: {NONE}, or one or more of {', '.join(PARTS)} joined by +"
        raise OptionError(msg)
    if len(set(parts)) < len(parts):
        msg = f"--augment {name}: a part stands twice; name each once"
        raise OptionError(msg)
    if any("colour" in parts[:place] for place, part in enumerate(parts) if part in ("recolour", "style")):
        msg = f"--augment {name}: colour may invert an image, so it comes after recolour and style"
        raise OptionError(msg)
    return parts


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
    references: References | None = None,
    device: str,
    precision: Literal["bf16", "fp32"],
) -> Arm:
    """Make an arm by its name.

    Args:
        name: `none`, or parts joined by `+`.
        style: Style weights for `style`: a name, a file or a run.
        references: What training images lend to others, for arms that take examples.
        device: For the style model.
        precision: For the style model.

    Raises:
        OptionError: See `check_arm`; or there is no other modality to take examples of.
        WeightsError: The style model cannot be loaded.
    """
    check_arm(name, style)
    if references is not None and len(references.modalities) < 2:
        msg = f"--augment {name} takes images of another modality for its example, but all are of {references.modalities[0]}"
        raise OptionError(msg)
    augmentations: list[Augmentation] = []
    weights = None
    for part in parts_of(name):
        if part == "style" and style is not None:
            path = find_weights(style, "style")
            weights = load_weights(path, kind="style")
            model = style_from_weights(weights, str(path), device=device, precision=precision)
            augmentations.append(StyleTransfer(model, p=0.5))
        elif part in _BY_EXAMPLE:
            assert references is not None
            augmentations.append(_BY_EXAMPLE[part](references, exclude_own=True))
        else:
            augmentations.append(ColourJitter())
    return Arm(name=name, augmentations=tuple(augmentations), style=weights)


def measure_references(named: NamedImages) -> References:
    """What the images of the training part lend to others, whether annotated or not."""
    examples = named.bare_training_part()
    modalities = [record.modality or "" for record in examples.records]  # all have one
    return References.measure(examples, modalities, named.polarity)
