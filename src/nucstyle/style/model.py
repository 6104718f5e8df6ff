"""The trained style model: moves images between modalities. It is `core.protocols.Translator` made real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor

from nucstyle.core.clahe import ClaheConfig, enhance
from nucstyle.core.config import build, to_table
from nucstyle.core.errors import OptionError, WeightsError
from nucstyle.core.photometry import COLOURS, apart, measure_colours
from nucstyle.core.precision import Autocast
from nucstyle.core.protocols import AttributeMode
from nucstyle.core.rng import generator, integer, uniform
from nucstyle.style.method import make_networks
from nucstyle.style.networks import STRIDE, StyleNetworkConfig, TranslationNetworks

# B = batch, K = modalities, A = attribute size

_MARGIN = 16
"""Pixels that are repeated around an image before it is restyled and cropped away after: the networks pad with zeros."""
_MIN_SIDE = 16
_TOWARDS = 0.5
"""A drawn measured style lies between those of two training images, at most this far from the first."""
_EXAMPLES = 64
"""Styles of training images that are kept for each modality."""
_TEXTURE_SIDE = 256
"""The noise of which texture is made repeats after this many pixels."""


@dataclass(frozen=True, slots=True)
class AttributeStatistics:
    """How the attributes of each modality's training images are spread (HistAuGAN, arXiv 2107.12357)."""

    mean: Tensor
    """(K, A) float32."""
    deviation: Tensor
    """(K, A) float32, not negative."""
    examples: tuple[Tensor, ...] = ()
    """Attributes of training images, (N, A) for each modality; the spread may be far from normal."""

    @classmethod
    def of(cls, attributes: Sequence[Tensor]) -> Self:
        """Measure them.

        Args:
            attributes: (N, A) of the training images of each modality.
        """
        return cls(
            mean=torch.stack([one.mean(dim=0) for one in attributes]),
            deviation=torch.stack([one.std(dim=0, correction=0) for one in attributes]),
            examples=tuple(one[:: -(-len(one) // _EXAMPLES)].clone() for one in attributes),
        )


def image_colours(image: Tensor, polarity: int) -> Tensor:
    """`measure_colours` on the scale of the networks: (3, H, W) in [0, 1] -> (6,) in [-1, 1]."""
    return measure_colours(image, polarity) * 2 - 1


def colours_apart(colours: Tensor, polarity: int) -> Tensor:
    """`apart` on the scale of the networks: (6,) in [-1, 1] -> the same, background and objects in the polarity's order."""
    unit = (colours + 1) / 2
    return torch.cat(apart(unit[: COLOURS // 2], unit[COLOURS // 2 :], polarity)) * 2 - 1


class StyleModel:
    """Moves images between imaging modalities; what sits in an image stays where it is.

    Args:
        networks: Trained encoders and generator.
        modalities: Names, in the order of their numbers.
        attributes: Spread of the attributes of each modality.
        recogniser: (3, H, W) float32 in [0, 1] -> number of the modality.
        autocast: Number format in which the networks compute.
        contrast: What every image that is given goes through first, as the training images did.
    """

    def __init__(
        self,
        networks: TranslationNetworks,
        modalities: Sequence[str],
        attributes: AttributeStatistics,
        recogniser: Callable[[Tensor], int],
        autocast: Autocast = nullcontext,
        contrast: ClaheConfig | None = None,
    ) -> None:
        self._networks = networks.eval()
        self._modalities = tuple(modalities)
        self._attributes = attributes
        self._recogniser = recogniser
        self._autocast = autocast
        self._contrast = contrast

    def __repr__(self) -> str:
        return f"StyleModel(modalities={self._modalities}, architecture={self._networks.config.architecture!r})"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of their numbers."""
        return self._modalities

    @property
    def polarity(self) -> tuple[int, ...]:
        """1 for each modality whose nuclei are brighter than their surroundings, -1 for the others."""
        return tuple(int(sign) for sign in self._networks.polarity.tolist())

    @property
    def device(self) -> torch.device:
        """Where the networks are; results come from there."""
        return self._networks.polarity.device

    def to(self, device: str) -> Self:
        """Move the networks to a device; returns the model itself."""
        self._networks.to(device).to(memory_format=torch.channels_last)
        return self

    def number(self, modality: str) -> int:
        """The number of a modality.

        Raises:
            OptionError: The model does not know it.
        """
        if modality not in self._modalities:
            msg = f"unknown modality {modality!r}; this style model knows {', '.join(self._modalities)}"
            raise OptionError(msg)
        return self._modalities.index(modality)

    def recognise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,) int64: the modality each image looks most like."""
        return torch.tensor([self._recogniser(one) for one in image], dtype=torch.int64)

    def draw_attribute(self, target: Tensor, *, mode: AttributeMode, generator: Generator) -> Tensor:
        """Draw one style for each image.

        Args:
            target: (B,) int64.
            mode: `per-domain` draws between the styles of two random training images of the target where those are stored,
                else from the normal distribution of their mean and deviation. `normal` draws from N(0, I) where styles are
                learnt (the paper's text, off the distribution where the KL term is weak), and from the target's normal
                distribution where they are measured.
            generator: A CPU generator.

        Returns:
            (B, A) float32 on the CPU.
        """
        noise = torch.randn((len(target), self._networks.attribute_size), generator=generator)
        mean, deviation = self._attributes.mean[target], self._attributes.deviation[target]
        if self._networks.learns_attribute:
            return noise if mode == "normal" else mean + deviation * noise
        if mode == "normal" or not self._attributes.examples:
            drawn, signs = (mean + deviation * noise).clamp(-1, 1), self._networks.polarity[target].tolist()
            return torch.stack([colours_apart(one, int(sign)) for one, sign in zip(drawn, signs, strict=True)])
        chosen = []
        for number in target.tolist():
            examples = self._attributes.examples[number]
            one, other = (examples[integer(0, len(examples), generator)] for _ in range(2))
            chosen.append(one.lerp(other, uniform(0, _TOWARDS, generator)))
        return torch.stack(chosen)

    @torch.no_grad()
    def encode_attribute(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], (B,) -> (B, A): the style of given images (its most likely value, no draw)."""
        image = self._enhanced(image)
        colours = self._colours(image, modality)
        if not self._networks.learns_attribute:
            return colours  # measured already: the networks need not be shown the whole image
        rows, columns = (slice(0, side) for side in _padded_size(image.shape[-2], image.shape[-1], 0))
        padded = _to_network(image, rows, columns, margin=0, device=self.device)
        with self._autocast():
            encoded = self._networks.encode_attribute(padded, modality.to(self.device), colours)
        return encoded.mean.float()

    @torch.no_grad()
    def translate(
        self, image: Tensor, *, source: Tensor, target: Tensor, attribute: Tensor, tile_px: int = 1024
    ) -> Tensor:
        """Restyle images.

        Args:
            image: (B, 3, H, W) float32 in [0, 1], any size.
            source: (B,) int64, the modality of each image.
            target: (B,) int64, the wanted modality.
            attribute: (B, A), the wanted style within it.
            tile_px: Larger images are restyled in tiles of this side, so that beside the image and the result, 12 bytes a
                pixel each, memory holds a tile at a time. The tiles overlap by as much as the networks see, and colours are
                measured once on the whole, so they agree with the whole. Networks that take statistics over the image (mdmm)
                are given it whole; contrast (`clahe`) is enhanced on the whole as well.

        Returns:
            (B, 3, H, W) float32 in [0, 1] on the model's device, of the same size.
        """
        image = self._enhanced(image)
        return self._translate(image, self._colours(image, source), source, target, attribute, tile_px)

    @torch.no_grad()
    def translate_part(
        self, image: Tensor, *, whole: Tensor, source: Tensor, target: Tensor, attribute: Tensor, tile_px: int = 1024
    ) -> Tensor:
        """Restyle parts of fields as they would look within the restyled fields.

        Args:
            image: (B, 3, H, W) float32 in [0, 1], cut from the fields, whatever the magnification.
            whole: (B, 3, H', W') float32 in [0, 1], the fields: their colours are measured.
            source: As in `translate`, like all other arguments.
            target: (B,) int64.
            attribute: (B, A).
            tile_px: Side of the tiles.

        Returns:
            As `translate`.
        """
        colours = self._colours(self._enhanced(whole), source)
        return self._translate(self._enhanced(image), colours, source, target, attribute, tile_px)

    def _translate(
        self, image: Tensor, colours: Tensor, source: Tensor, target: Tensor, attribute: Tensor, tile_px: int
    ) -> Tensor:
        device, (height, width) = self.device, (int(image.shape[-2]), int(image.shape[-1]))
        source, target, attribute = (one.to(device) for one in (source, target, attribute))
        made = torch.empty((len(image), 3, height, width), device=device)
        for tile in _tiles(*_padded_size(height, width, _MARGIN), tile_px, self._networks.receptive_radius):
            rows, columns = (_within(part, side) for part, side in zip(tile.kept, (height, width), strict=True))
            if rows.stop <= rows.start or columns.stop <= columns.start:
                continue  # nothing but margin
            shown = _to_network(image, *tile.seen, margin=_MARGIN, device=device)
            texture = _texture(attribute, *tile.seen).to(device)
            with self._autocast():
                content = self._networks.encode_content(shown, source, colours)
                piece = self._networks.generate(content, attribute, target, texture)
            down, across = (
                slice(kept.start + _MARGIN - seen.start, kept.stop + _MARGIN - seen.start)
                for kept, seen in zip((rows, columns), tile.seen, strict=True)
            )
            made[..., rows, columns] = ((piece[..., down, across].float() + 1) / 2).clamp(0, 1)
        return made

    def _enhanced(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same, as the training images were."""
        contrast = self._contrast
        if contrast is None:
            return image
        if len(image) == 1:  # which may be large: no copy of it
            return enhance(image[0], contrast)[None]
        return torch.stack([enhance(one, contrast) for one in image])

    def _colours(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 6) in [-1, 1]."""
        signs = self._networks.polarity[modality.to(self.device)].tolist()
        measured = [image_colours(one, int(sign)) for one, sign in zip(image, signs, strict=True)]
        return torch.stack(measured).to(self.device)

    def reconstruct(self, image: Tensor, modality: Tensor) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, 3, H, W): each image from its own content and style."""
        attribute = self.encode_attribute(image, modality)
        return self.translate(image, source=modality, target=modality, attribute=attribute)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values, enough for `from_state` together with a recogniser."""
        tensors = {f"networks.{name}": tensor for name, tensor in self._networks.state_dict().items()}
        tensors |= {"attributes.mean": self._attributes.mean, "attributes.deviation": self._attributes.deviation}
        tensors |= {f"attributes.examples.{number}": one for number, one in enumerate(self._attributes.examples)}
        clahe = self._contrast.state() if self._contrast else None
        return tensors, {
            "network": to_table(self._networks.config),
            "modalities": list(self._modalities),
            "clahe": clahe,
        }

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        *,
        recogniser: Callable[[Tensor], int],
        load: Callable[[torch.nn.Module, Mapping[str, Tensor]], None],
        autocast: Autocast = nullcontext,
    ) -> Self:
        """Make a model from what `state` returned.

        Args:
            tensors: By name.
            values: The plain values.
            recogniser: (3, H, W) float32 in [0, 1] -> number of the modality.
            load: Puts tensors into a module and refuses those that do not fit.
            autocast: Number format in which the networks compute.

        Raises:
            WeightsError: A part is missing.
        """
        try:
            config = build(StyleNetworkConfig, values["network"], where="style weights")
            modalities, contrast = list(values["modalities"]), ClaheConfig.from_state(values.get("clahe"))
            examples = sorted(name for name in tensors if name.startswith("attributes.examples."))
            attributes = AttributeStatistics(
                tensors["attributes.mean"],
                tensors["attributes.deviation"],
                tuple(tensors[f"attributes.examples.{number}"] for number in range(len(examples))),
            )
        except KeyError as error:
            msg = f"style weights without {error}; train the style model again"
            raise WeightsError(msg) from None
        networks = make_networks(config, [1] * len(modalities))
        prefix = "networks."
        load(networks, {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)})
        return cls(networks, modalities, attributes, recogniser, autocast, contrast)


class _Tile(NamedTuple):
    """A part of an image, as rows and columns."""

    seen: tuple[slice, slice]
    """What the networks are shown."""
    kept: tuple[slice, slice]
    """The part of it whose result is used."""


def _tiles(height: int, width: int, side: int, radius: int | None) -> list[_Tile]:
    """Divide an image, sides multiples of the stride, into tiles that see `radius` pixels farther than they are used.

    Args:
        height: Of the image.
        width: Of the image.
        side: Of the used part of a tile, in pixels; rounded down to the stride.
        radius: How far an output pixel sees; None = everything, so one tile.
    """
    side = max(STRIDE, side // STRIDE * STRIDE)
    if radius is None or max(height, width) <= side:
        whole = (slice(0, height), slice(0, width))
        return [_Tile(whole, whole)]
    margin = -(-radius // STRIDE) * STRIDE

    def cut(length: int) -> list[tuple[slice, slice]]:
        parts = []
        for start in range(0, length, side):
            end = min(length, start + side)
            parts.append((slice(max(0, start - margin), min(length, end + margin)), slice(start, end)))
        return parts

    return [_Tile((down[0], across[0]), (down[1], across[1])) for down in cut(height) for across in cut(width)]


def _within(part: slice, side: int) -> slice:
    """A part of the padded rows or columns, counted from the first of the image and cut at its borders; may be empty."""
    return slice(max(0, part.start - _MARGIN), min(side, part.stop - _MARGIN))


@cache
def _noise_tile() -> Tensor:
    return torch.randn((_TEXTURE_SIDE, _TEXTURE_SIDE), generator=generator("texture"))


def _texture(attribute: Tensor, rows: slice, columns: slice) -> Tensor:
    """(B, 1, h, w) standard normal noise, a function of the place and of the style: tiles agree with the whole.

    Args:
        attribute: (B, A).
        rows: The h rows that are wanted.
        columns: The w columns that are wanted.
    """
    planes = []
    for style in attribute:
        down, right = (integer(0, _TEXTURE_SIDE, generator("texture", axis, *style.tolist())) for axis in (0, 1))
        y, x = (torch.arange(part.start, part.stop) % _TEXTURE_SIDE for part in (rows, columns))
        planes.append(_noise_tile().roll((down, right), (0, 1))[y][:, x])
    return torch.stack(planes)[:, None]


def _padded_size(height: int, width: int, margin: int) -> tuple[int, int]:
    """Sides of an image with a margin at every side, and then as much more as the encoders need."""
    return _fill(height + 2 * margin), _fill(width + 2 * margin)


def _to_network(image: Tensor, rows: slice, columns: slice, *, margin: int, device: torch.device) -> Tensor:
    """A part of the padded image, [0, 1] -> [-1, 1]; the whole is never copied.

    The border pixels are repeated: reflection needs more pixels than a tiny image has.

    Args:
        image: (B, 3, H, W), on any device.
        rows: Of the padded image, in which the image begins at (margin, margin).
        columns: Of the padded image.
        margin: In pixels, a multiple of the stride.
        device: Where the part is wanted.

    Returns:
        (B, 3, h, w).
    """
    y, x = (
        (torch.arange(part.start, part.stop, device=image.device) - margin).clamp(0, side - 1)
        for part, side in zip((rows, columns), image.shape[-2:], strict=True)
    )
    return image[..., y[:, None], x].to(device) * 2 - 1


def _fill(side: int) -> int:
    """The next multiple of the stride that is large enough for the attribute encoder, which halves four times."""
    return max(_MIN_SIDE, -(-side // STRIDE) * STRIDE)
