"""Style augmentation: the pixels of another modality, the masks of the original (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Annotated, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from nucstyle.augment.base import Augmentation, check_choice
from nucstyle.augment.gate import ACCEPTED, GIVEN_UP, OUTCOMES, Gate, Verdict
from nucstyle.core import rng
from nucstyle.core.errors import ImageError, OptionError
from nucstyle.core.photometry import guess_polarity, lift, measure_stops
from nucstyle.core.protocols import AttributeMode, PartTranslator, SignedTranslator, Translator
from nucstyle.core.rng import chance, integer, uniform
from nucstyle.core.sample import Applied, Sample, Source
from nucstyle.data.image_io import from_unit, sample_of_array

Input = TypeVar("Input", Sample, npt.NDArray[np.generic], Tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleConfig:
    """How a training restyles its crops; see `StyleTransfer`."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the crops that are restyled; 0.5 in the paper."""
    targets: tuple[str, ...] = ()
    """Modalities to choose from, all alike, one that is named twice twice as often; none = all that the model knows."""
    sources: tuple[str, ...] = ()
    """Modalities whose crops are restyled, so that those of the others are all seen as they are; none = all."""
    attributes: Literal["per-domain", "normal"] = "per-domain"
    """From where a style is drawn, as `StyleModel.draw_attribute` says: by default from the target's training images."""
    exclude_own: bool = False
    """Never choose the modality that a crop already has."""
    lift: Annotated[float, Gt(0), Le(1)] = 0.6
    """Dim nuclei grow clearer before a crop is restyled: heights between background and nuclei are raised to a power from this
    to 1; 1 = never."""


class StyleTransfer(Augmentation):
    """Moves an image into a random modality with probability p; labels stay the same object.

    ```python
    augment = StyleTransfer(model, p=0.5)
    restyled = augment(image, seed=0)
    ```

    Args:
        model: A trained `StyleModel`, or anything else that is a `Translator`.
        p: Probability that an image is restyled; 0.5 in the paper.
        targets: Names of the modalities to choose from, all alike, one that stands twice twice as often; None = all that the
            model knows.
        sources: Names of the modalities whose images are restyled; None = all. Where an image is not labelled with its
            modality, it has the one that the model sees.
        attributes: How a style within the modality is drawn: `per-domain`, `normal`, or `exemplar` = as in a picture.
        exemplar: (3, H, W) float32 in [0, 1], the picture for `exemplar`. Its modality is the target.
            With `p=1` and `lift=1` nothing is random then.
        exclude_own: Never choose the modality that the image already has.
        gate: What refuses restyled images in which nuclei are not where they were. Another style of the same modality is drawn
            then, and after a few times the original is kept. `auto` = a `Gate` without a judge; None = everything is used.
        lift: In (0, 1]. Stains show nuclei more alike than fluorescence does, so dim ones grow clearer before an image is
            restyled: heights between background and nuclei are raised to a power that is drawn from this to 1, of which 0.6 was
            chosen on training images whose masks were hidden (docs/results.md). 1 = never.

    Attributes:
        tally: (M, M, 6) int64, how often each of `gate.OUTCOMES` came of each pair (source, target) of the model's M modalities,
            in this process: a worker counts for itself, from nothing where it is spawned.

    Raises:
        OptionError: p or lift outside its range, an unknown target or source, `exemplar` without a picture, or something else for
            a model or gate.
    """

    def __init__(
        self,
        model: Translator,
        p: float = 0.5,
        targets: Sequence[str] | None = None,
        attributes: Literal["per-domain", "normal", "exemplar"] = "per-domain",
        exemplar: Tensor | None = None,
        exclude_own: bool = False,
        gate: Literal["auto"] | Gate | None = "auto",
        sources: Sequence[str] | None = None,
        lift: float = 0.6,
    ) -> None:
        if not isinstance(model, Translator):
            msg = f"model is a style model, got {type(model).__name__}; load one, for example nucstyle.load_style('dsb2018')"
            raise OptionError(msg)
        check_choice(p, targets, model.modalities)
        check_choice(p, sources, model.modalities, what="source")
        if attributes not in ("per-domain", "normal", "exemplar"):
            msg = f"attributes are drawn per-domain, normal or exemplar, got {attributes!r}"
            raise OptionError(msg)
        if (attributes == "exemplar") != (exemplar is not None):
            msg = 'attributes="exemplar" and exemplar=PICTURE belong together; give both or neither'
            raise OptionError(msg)
        if not (gate is None or isinstance(gate, Gate) or gate == "auto"):
            msg = f'gate is "auto", None or a Gate, got {gate if isinstance(gate, str) else type(gate).__name__}'
            raise OptionError(msg)
        if isinstance(lift, bool) or not isinstance(lift, int | float) or not 0 < lift <= 1:
            msg = f"lift is the least power, above 0 and at most 1, got {lift!r}; 1 leaves nuclei as bright as they are"
            raise OptionError(msg)
        self.model = model
        self.p = p
        self.targets = tuple(model.modalities.index(name) for name in targets or model.modalities)
        self.sources = frozenset(model.modalities.index(name) for name in sources or model.modalities)
        self.attributes = attributes
        self.exemplar = exemplar
        self.exclude_own = exclude_own
        self.lift = lift
        self.gate = gate if isinstance(gate, Gate) or gate is None else Gate()
        self.tally = self._no_tally()

    def __getstate__(self) -> dict[str, object]:
        """For other processes, without the tally: torch would share its memory with them."""
        return {name: value for name, value in self.__dict__.items() if name != "tally"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """In another process; it counts from nothing."""
        self.__dict__.update(state)
        self.tally = self._no_tally()

    def _no_tally(self) -> Tensor:
        modalities = len(self.model.modalities)
        return torch.zeros(modalities, modalities, len(OUTCOMES), dtype=torch.int64)

    def __call__(self, x: Input, *, seed: int | None = None, generator: Generator | None = None) -> Input:
        """Restyle one image, or a batch of them.

        Args:
            x: A `Sample`; an array (H, W) or (H, W, 3); a tensor (C, H, W) or (B, C, H, W) with C = 1 or 3, on any device.
                Integers go by the intensity rule, floats lie in [0, 1]. Every image of a batch is drawn for by itself.
            seed: Any whole number; the result depends on it and the input alone.
            generator: A CPU generator of torch to draw from instead.

        Returns:
            The same type, size, dtype and device, without gradient; the very object x where nothing was changed.

        Raises:
            OptionError: Both seed and generator, one of another type, or an input of another type.
            ImageError: Another shape, bits, not finite, or floats outside [0, 1].
        """
        if seed is not None and generator is not None:
            msg = "seed and generator exclude each other; give one of them"
            raise OptionError(msg)
        if generator is None:
            generator = generator_of(seed)
        if not isinstance(generator, Generator):
            msg = f"generator is a torch.Generator, got {type(generator).__name__}; give one, or a seed"
            raise OptionError(msg)
        if isinstance(x, Sample):
            return self.augment(x, generator)
        if isinstance(x, Tensor):
            return self._tensor(x, generator)
        if not isinstance(x, np.ndarray):
            msg = f"StyleTransfer takes a Sample, a NumPy array or a tensor, got {type(x).__name__}; try numpy.asarray(image)"
            raise OptionError(msg)
        _refuse_bits(x.dtype == np.bool_)
        sample = sample_of_array(x)
        restyled = self.augment(sample, generator)
        return x if restyled is sample else from_unit(restyled.image, cast("Source", sample.source))

    def _tensor(self, x: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) or (B, C, H, W), restyled."""
        if x.ndim == 4 and len(x):
            images = list(x)
            made = [self._tensor(one, generator) for one in images]
            same = all(one is own for one, own in zip(made, images, strict=True))
            return x if same else torch.stack(made)
        if x.ndim != 3 or x.shape[0] not in (1, 3):
            msg = f"a tensor of images is (C, H, W) or (B, C, H, W) with C = 1 or 3, got {tuple(x.shape)}"
            raise ImageError(msg)
        _refuse_bits(x.dtype == torch.bool)
        pixels = (x.detach().float() if x.is_floating_point() else x).cpu().numpy()  # NumPy has no bfloat16
        sample = sample_of_array(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        restyled = self.augment(sample, generator)
        if restyled is sample:
            return x
        array = torch.from_numpy(from_unit(restyled.image, cast("Source", sample.source)))
        planes = array[None] if array.ndim == 2 else array.permute(2, 0, 1).contiguous()
        return planes.to(device=x.device, dtype=x.dtype)

    def draw(self, sample: Sample, generator: Generator) -> Mapping[str, object] | None:
        """Whether, into which modality, and with which style."""
        if not chance(self.p, generator):
            return None
        own = self._modality(sample)
        if own not in self.sources:
            return None
        if self.exemplar is not None:
            picture = self.exemplar[None]
            target = self.model.recognise(picture)
            attribute = self.model.encode_attribute(picture, target)
        else:
            choices = [number for number in self.targets if not (self.exclude_own and number == own)]
            if not choices:
                return None
            target = torch.tensor([choices[integer(0, len(choices), generator)]])
            attribute = self._draw_attribute(target, generator)
        drawn = {
            "source": self.model.modalities[own],
            "target": self.model.modalities[int(target)],
            "attribute": [float(value) for value in attribute[0]],
        }
        return drawn if self.lift == 1 else {**drawn, "gamma": uniform(self.lift, 1.0, generator)}

    def _draw_attribute(self, target: Tensor, generator: Generator) -> Tensor:
        mode: AttributeMode = "normal" if self.attributes == "normal" else "per-domain"
        return self.model.draw_attribute(target, mode=mode, generator=generator)

    def augment(self, sample: Sample, generator: Generator) -> Sample:
        """Draw and apply, again where the gate refuses what came of it; the sample itself if it refuses all."""
        made = (one for one, verdict in self.attempts(sample, generator) if verdict.is_accepted)
        return next(made, sample)

    def attempts(self, sample: Sample, generator: Generator) -> Iterator[tuple[Sample, Verdict]]:
        """What is made of a sample, and what the gate says of it, until it accepts one or too many were refused.

        Args:
            sample: What is to be restyled.
            generator: A CPU generator.

        Yields:
            Restyled samples; only the last one can be accepted, and without a gate the first one is. None at all where chance,
            `sources` or `exclude_own` leaves the sample as it is.
        """
        drawn = self.draw(sample, generator)
        if drawn is None:
            return
        if self.gate is None:
            yield self.apply(sample, drawn), Verdict(ACCEPTED)
            return
        pair = self._pair(drawn)
        # A given style cannot be drawn anew.
        most = 1 if self.exemplar is not None else 1 + self.gate.config.redraws
        for attempt in range(1, most + 1):
            made = self.apply(sample, drawn)
            verdict = self.gate.check(sample, made.image, signs=self._signs(*pair))
            self.tally[*pair, OUTCOMES.index(verdict.outcome)] += 1
            if attempt == most and not verdict.is_accepted:
                self.tally[*pair, OUTCOMES.index(GIVEN_UP)] += 1
            record = Applied(type(self).__name__, {**drawn, "gate": dict(verdict.values), "attempt": attempt})
            yield replace(made, history=(*sample.history, record)), verdict
            if verdict.is_accepted:
                return
            attribute = self._draw_attribute(torch.tensor([pair[1]]), generator)
            drawn = {**drawn, "attribute": [float(value) for value in attribute[0]]}

    def _pair(self, drawn: Mapping[str, object]) -> tuple[int, int]:
        """The numbers of source and target."""
        source, target = (self.model.modalities.index(cast("str", drawn[name])) for name in ("source", "target"))
        return source, target

    def _signs(self, source: int, target: int) -> tuple[int, int] | None:
        if not isinstance(self.model, SignedTranslator):
            return None
        return self.model.polarity[source], self.model.polarity[target]

    def apply(self, sample: Sample, drawn: Mapping[str, object]) -> Sample:
        """The content of the sample in the drawn style."""
        source, target = self._pair(drawn)
        how = {
            "source": torch.tensor([source]),
            "target": torch.tensor([target]),
            "attribute": torch.tensor([drawn["attribute"]]),
        }
        image = self._lifted(sample, source, cast("float", drawn["gamma"])) if "gamma" in drawn else sample.image
        if sample.whole is not None and isinstance(self.model, PartTranslator):
            restyled = self.model.translate_part(image[None], whole=sample.whole[None], **how)
        else:
            restyled = self.model.translate(image[None], **how)
        made, applied = restyled[0].to(sample.image.device), Applied(type(self).__name__, drawn)
        return sample.with_pixels(made, applied, modality=cast("str", drawn["target"]))

    def _lifted(self, sample: Sample, source: int, gamma: float) -> Tensor:
        """(3, H, W), the image with clearer dim nuclei."""
        model, field = self.model, sample.field
        polarity = model.polarity[source] if isinstance(model, SignedTranslator) else guess_polarity(field)
        background, objects, _ = measure_stops(field, polarity)
        return lift(sample.image, background, objects, gamma)

    def _modality(self, sample: Sample) -> int:
        """The sample's own modality: the one it is labelled with if the model knows it, else what the model sees."""
        if sample.modality in self.model.modalities:
            return self.model.modalities.index(sample.modality)
        return int(self.model.recognise(sample.field[None]))


def check_augment(augment: StyleTransfer) -> StyleTransfer:
    """What an integration is given, if it restyles images.

    Raises:
        OptionError: It is something else, for example the model alone.
    """
    if not callable(augment):
        msg = f"augment restyles images, got {type(augment).__name__}; give nucstyle.StyleTransfer(model)"
        raise OptionError(msg)
    return augment


def generator_of(seed: int | None) -> Generator:
    """What `StyleTransfer` draws from: a CPU generator of a seed, all of whose bits count; None = another one each time.

    Raises:
        OptionError: The seed is no whole number.
    """
    if seed is None:
        generator = torch.Generator()
        generator.seed()
        return generator
    try:
        number = index(seed)
    except TypeError:
        msg = f"seed is a whole number, got {seed!r}; give an int, for example one for each epoch and image"
        raise OptionError(msg) from None
    return rng.generator("style", number)


def _refuse_bits(is_mask: bool) -> None:
    """Refuse what is a mask, and must not change.

    Raises:
        ImageError: It is one.
    """
    if is_mask:
        msg = (
            "pixels of one bit are a mask, which must not change; give the image alone, one in black and white as uint8"
        )
        raise ImageError(msg)
