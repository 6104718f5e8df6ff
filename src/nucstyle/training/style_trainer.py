"""Training the style model: one multi-domain GAN over all modalities (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.core import rng
from nucstyle.core.clahe import ClaheConfig, enhance
from nucstyle.core.errors import ConfigError, DatasetError
from nucstyle.core.precision import Autocast, Precision
from nucstyle.core.sample import Sample
from nucstyle.data.weights import load_state
from nucstyle.style.losses import LossWeights, modality_loss
from nucstyle.style.method import make_critics, make_networks
from nucstyle.style.model import AttributeStatistics, StyleModel, image_colours
from nucstyle.style.networks import STRIDE, FeatureTrunk, StyleNetworkConfig, TranslationNetworks
from nucstyle.style.objective import (
    StyleBatch,
    critic_losses,
    frozen,
    translate_batch,
    translation_losses,
    translations,
)
from nucstyle.training.average import moving_average
from nucstyle.training.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from nucstyle.training.distributed import SINGLE, Group
from nucstyle.training.loop import LoopConfig, check_finite, check_gradient, constant_then_linear, set_rate

# B = batch, K = modalities, A = attribute size, C = content channels, S = side of the crops

_MIN_CROP_PX = {"lookup": 32, "mdmm": 64}
"""The image critics halve a crop four and six times; MDMM's reflect its border at every size."""
_MIN_CROP_WITH_NORM_PX = 68
"""An instance norm needs more than one cell after six halvings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleTrainingConfig(LoopConfig):
    """How the style model is trained."""

    batch_size: Annotated[int, Ge(2)] = 6
    """Crops a step and process; the modalities take turns, however rare."""
    learning_rate: Annotated[float, Gt(0)] = 2e-4
    """Of Adam, for the translation and the image critic."""
    content_critic_learning_rate: Annotated[float, Gt(0)] = 8e-5
    """Of Adam, for the content critic."""
    content_critic_extra: Annotated[int, Ge(0)] = 0
    """Further batches a step that teach the content critic alone."""
    first_moment: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Of Adam."""
    second_moment: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Of Adam."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Of Adam."""
    gradient_clip: Annotated[float, Gt(0)] = 100.0
    """Greatest norm of the gradient, of the translation and of the critics; only runaway steps meet it."""
    content_noise: Annotated[float, Ge(0)] = 0.1
    """Deviation of the noise on the content while training: it keeps images from hiding in it."""
    average_decay: Annotated[float, Ge(0)] = 0.999
    """Of the moving average of the weights that is used for everything but training."""
    judge_steps: Annotated[int, Ge(0)] = 0
    """Steps of the judge that is trained first, on the masks that the run may see; 0 = no judge."""
    measure_every: Annotated[int, Ge(0)] = 0
    """Steps between two measures on validation images, of which the best model is kept; 0 = the last model is taken."""
    clahe: bool = False
    """Whether the contrast of dark images is enhanced first (paper, section 2.2). The weights remember it."""
    precision: Precision = "auto"
    """auto, bf16 or fp32."""

    def __post_init__(self) -> None:
        self.check_measures(self.measure_every)

    @property
    def contrast(self) -> ClaheConfig | None:
        """What images go through first."""
        return ClaheConfig() if self.clahe else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleRecipe:
    """Everything that a training of the style model follows from, but the data and the seed."""

    name: str
    """Of the recipe file."""
    training: StyleTrainingConfig
    network: StyleNetworkConfig = field(default_factory=StyleNetworkConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    crop: CropConfig = field(default_factory=CropConfig)

    def __post_init__(self) -> None:
        side, least = self.crop.size_px, _MIN_CROP_PX[self.network.architecture]
        if self.network.architecture == "mdmm" and self.network.critic_norm == "instance":
            least = _MIN_CROP_WITH_NORM_PX
        if side < least or side % STRIDE:
            msg = f"crop.size_px must be a multiple of {STRIDE} and at least {least}, got {side}"
            raise ConfigError(msg)
        if self.network.architecture == "mdmm":
            self._check_nuclei()

    def _check_nuclei(self) -> None:
        """Refuse weights of terms that the published networks cannot compute."""
        weights = self.weights
        if weights.nuclei_height:
            msg = "weights.nuclei_height compares measured heights, which mdmm does not have; set it to 0"
            raise ConfigError(msg)
        if (weights.nuclei or weights.nuclei_kept) and not self.network.nucleus_head:
            msg = "weights.nuclei and weights.nuclei_kept need a head; set network.nucleus_head=true, or both weights to 0"
            raise ConfigError(msg)


class StyleBatches:
    """Draws training batches: modalities in turn, a random image of each, a random crop of it.

    Args:
        samples: The training images.
        modalities: The number of the modality of each image, 0..K-1, each at least once, K at least 2.
        polarity: The sign of each modality, see `TranslationNetworks`.
        recipe: Sizes.
        seed: Of the run.

    Raises:
        DatasetError: Only one modality.
        ConfigError: Two modalities and an odd batch, in which one image would have no partner of the other modality.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        modalities: Sequence[int],
        polarity: Sequence[int],
        recipe: StyleRecipe,
        seed: int,
    ) -> None:
        self._samples = samples
        self._members = [
            [index for index, number in enumerate(modalities) if number == modality]
            for modality in range(max(modalities) + 1)
        ]
        if len(self._members) < 2:
            msg = (
                "all training images are of one modality, and style transfer needs images of at least two; add some of another, "
                "annotated or not, or use a model that knows others, such as --style dsb2018"
            )
            raise DatasetError(msg)
        size = recipe.training.batch_size
        if len(self._members) == 2 and size % 2:
            msg = f"two modalities share a batch evenly, so batch_size must be even, got {size}; use {size + 1}"
            raise ConfigError(msg)
        self._recipe = recipe
        self._seed = seed
        self._crop = RandomCrop(recipe.crop)
        self._polarity = polarity
        self._colours: dict[int, Tensor] = {}
        with torch.device("meta"):
            networks = make_networks(recipe.network, polarity)
        self._attribute_size, self._noises = networks.attribute_size, 1 + translations(networks)

    def draw(self, step: int, extra: int | None = None, *, rank: int = 0) -> StyleBatch:
        """A process's part of the batch of a step, or a further one of it: a function of the seed and the numbers alone."""
        place = (step, *([] if extra is None else [extra]), *([f"rank {rank}"] if rank else []))
        generator = rng.generator(self._seed, "style", *place)
        size, config = self._recipe.training.batch_size, self._recipe.network
        order = torch.randperm(len(self._members), generator=generator).tolist()
        modality = [order[slot % len(order)] for slot in range(size)]
        crops, colours = [], []
        for slot, number in enumerate(modality):
            index = self._members[number][rng.integer(0, len(self._members[number]), generator)]
            sample = self._samples[index]
            if self._recipe.training.contrast is not None:
                sample = replace(sample, image=enhance(sample.image, self._recipe.training.contrast))
            colours.append(self._colours_of(index, sample, number))
            crops.append(
                self._crop.augment(sample, rng.generator(self._seed, *place[1:], step * size + slot, sample.id))
            )
        side = self._recipe.crop.size_px
        channels, cells = 4 * config.width, side // STRIDE
        noise = torch.randn((self._noises * size, channels, cells, cells), generator=generator)
        return StyleBatch(
            image=torch.stack([crop.image for crop in crops]) * 2 - 1,
            modality=torch.tensor(modality),
            partner=torch.tensor(partners(modality)),
            colours=torch.stack(colours),
            nuclei=torch.stack([_nuclei(crop) for crop in crops]),
            annotated=torch.tensor([float(crop.labels is not None) for crop in crops]),
            attribute_noise=torch.randn((size, self._attribute_size), generator=generator),
            random_attribute=torch.randn((size, self._attribute_size), generator=generator),
            content_noise=noise * self._recipe.training.content_noise,
            texture=torch.randn((size, 1, side, side), generator=generator),
        )

    def _colours_of(self, index: int, sample: Sample, modality: int) -> Tensor:
        """(6,) in [-1, 1], measured once for each image."""
        if index not in self._colours:
            self._colours[index] = image_colours(sample.image, self._polarity[modality])
        return self._colours[index]


def partners(modality: Sequence[int]) -> list[int]:
    """A permutation that gives each image of a batch a partner of another modality.

    Args:
        modality: Numbers of which none fills more than half of the batch, in an order drawn at random: it decides who is whose
            partner, so that every pair of modalities occurs.
    """
    size = len(modality)
    # With each modality's images together, a turn by the largest group's size maps every image out of its own group.
    order = sorted(range(size), key=lambda slot: modality.index(modality[slot]))
    turn = max(sum(other == number for other in modality) for number in modality)
    result = [0] * size
    for position, slot in enumerate(order):
        result[slot] = order[(position + turn) % size]
    return result


def _nuclei(crop: Sample) -> Tensor:
    """(1, S, S): 1 where there is a nucleus; 0 where not annotated."""
    return torch.zeros(1, *crop.size) if crop.labels is None else (crop.labels > 0).float()[None]


class StyleTrainer:
    """Takes the steps of the training and keeps all that must survive it.

    Args:
        batches: What to train on.
        polarity: The sign of each modality, see `TranslationNetworks`.
        recipe: Sizes and rates.
        device: Where to train.
        autocast: Number format of the forward passes.
        seed: Of the weights at the start.
        trunk: On that device, for a critic of features.
        group: The processes that train together.
    """

    def __init__(
        self,
        batches: StyleBatches,
        polarity: Sequence[int],
        recipe: StyleRecipe,
        *,
        device: str,
        autocast: Autocast,
        seed: int,
        trunk: FeatureTrunk | None = None,
        group: Group = SINGLE,
    ) -> None:
        self._batches, self._recipe, self._device, self._autocast = batches, recipe, device, autocast
        self._group = group
        with rng.seeded(seed, "style weights"):
            self.networks = make_networks(recipe.network, polarity)
            self.critics = make_critics(recipe.network, len(polarity), trunk)
        for module in (self.networks, self.critics):
            module.to(device).to(memory_format=torch.channels_last)
        config = recipe.training
        rates = {
            "lr": config.learning_rate,
            "betas": (config.first_moment, config.second_moment),
            "weight_decay": config.weight_decay,
        }
        self._translation = torch.optim.Adam(self.networks.parameters(), **rates)  # type: ignore[arg-type]
        self._image_critic = torch.optim.Adam(self.critics.image.parameters(), **rates)  # type: ignore[arg-type]
        self._content_critic = torch.optim.Adam(self.critics.content.parameters(), **rates)  # type: ignore[arg-type]
        self._average = AveragedModel(self.networks, avg_fn=moving_average(config.average_decay))

    def start_from(self, tensors: Mapping[str, Tensor], *, where: str) -> None:
        """Begin with the networks of another training; critics, moments and the signs of the modalities are this one's.

        Args:
            tensors: Of the networks, by name.
            where: For messages.

        Raises:
            WeightsError: They do not fit.
        """
        load_state(self.networks, {**tensors, "polarity": self.networks.polarity}, where=where)

    def step(self, step: int) -> dict[str, Tensor]:
        """Draw, translate, teach the critics, teach the translation, average (algorithm of MDMM, section 3)."""
        self._set_rates(step)
        for extra in range(self._recipe.training.content_critic_extra):
            self._teach_content_critic(step, extra)
        batch = self._batches.draw(step, rank=self._group.rank).to(self._device)
        with self._autocast():
            made = translate_batch(self.networks, batch)
            onehot, adversary = self.networks.onehot(batch.modality), self._recipe.weights.adversary
            criticism = critic_losses(self.critics, batch, made, onehot, adversary)
        parts = {f"critic_{name}": value for name, value in criticism._asdict().items()}
        check_finite(parts, self._group)
        norms = {"critic_gradient": self._update((self._image_critic, self._content_critic), criticism.total())}
        with frozen(self.critics), self._autocast():
            losses = translation_losses(self.networks, self.critics, batch, made, self._recipe.weights)
        parts |= losses._asdict()
        check_finite(parts, self._group)
        norms["gradient"] = self._update((self._translation,), losses.total(self._recipe.weights))
        self._average.update_parameters(self.networks)
        return {name: value.detach() for name, value in (parts | norms).items()}

    def _teach_content_critic(self, step: int, extra: int) -> None:
        """One update of the content critic alone, on a batch of its own."""
        batch = self._batches.draw(step, extra, rank=self._group.rank).to(self._device)
        with self._autocast():
            with torch.no_grad():
                content = self.networks.encode_content(batch.image, batch.modality, batch.colours)
            code = content.plus(batch.content_noise[: len(batch.image)]).code
            loss = modality_loss(self.critics.content(code), batch.modality)
        check_finite({"critic_content": loss}, self._group)
        self._update((self._content_critic,), loss)

    def _update(self, optimizers: Sequence[torch.optim.Optimizer], loss: Tensor) -> Tensor:
        """Back through the loss, average over the processes, clip, step; returns the norm of the gradient before."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        self._group.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self._recipe.training.gradient_clip)
        check_gradient(norm)
        for optimizer in optimizers:
            optimizer.step()
        return norm

    def _set_rates(self, step: int) -> None:
        config = self._recipe.training
        for optimizer, rate in (
            (self._translation, config.learning_rate),
            (self._image_critic, config.learning_rate),
            (self._content_critic, config.content_critic_learning_rate),
        ):
            set_rate(optimizer, constant_then_linear(step, config.steps, start=rate))

    def tensors(self) -> dict[str, Tensor]:
        """Weights, their average, critics and the optimizers' moments."""
        return {
            **module_tensors("networks", self.networks),
            **module_tensors("critics", self.critics),
            **module_tensors("average", self._average),
            **optimizer_tensors("translation", self._translation),
            **optimizer_tensors("image_critic", self._image_critic),
            **optimizer_tensors("content_critic", self._content_critic),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to what `tensors` returned."""
        restore_module("networks", self.networks, checkpoint)
        restore_module("critics", self.critics, checkpoint)
        restore_module("average", self._average, checkpoint)
        restore_optimizer("translation", self._translation, checkpoint)
        restore_optimizer("image_critic", self._image_critic, checkpoint)
        restore_optimizer("content_critic", self._content_critic, checkpoint)

    def model(
        self, modalities: Sequence[str], recogniser: Callable[[Tensor], int], attributes: AttributeStatistics | None
    ) -> StyleModel:
        """The model with the averaged weights.

        Args:
            modalities: Names.
            recogniser: (3, H, W) -> number of the modality.
            attributes: Spread of the attributes; None = N(0, I), as long as it has not been measured.
        """
        networks = cast("TranslationNetworks", self._average.module)
        count, size = len(modalities), networks.attribute_size
        spread = attributes or AttributeStatistics(torch.zeros(count, size), torch.ones(count, size))
        contrast = self._recipe.training.contrast
        return StyleModel(networks, modalities, spread, recogniser, autocast=self._autocast, contrast=contrast)


def measure_attributes(model: StyleModel, samples: Sequence[Sample], modalities: Sequence[int]) -> AttributeStatistics:
    """Mean and deviation of the attributes of each modality's training images.

    Args:
        model: With trained encoders.
        samples: The training images.
        modalities: The number of the modality of each.
    """
    encoded: list[list[Tensor]] = [[] for _ in model.modalities]
    for sample, number in zip(samples, modalities, strict=True):
        encoded[number].append(model.encode_attribute(sample.image[None], torch.tensor([number]))[0].cpu())
    return AttributeStatistics.of([torch.stack(one) for one in encoded])
