"""Training the segmenter: Mask R-CNN on crops, with whatever augmentations are given (paper, section 2.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nucstyle.augment.base import Augmentation, augment_in_order
from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.augment.steps import Step, mosaic
from nucstyle.augment.style import StyleConfig
from nucstyle.core import rng
from nucstyle.core.config import STRICT
from nucstyle.core.errors import ConfigError
from nucstyle.core.precision import Precision
from nucstyle.core.sample import Sample
from nucstyle.segmentation.detector import InferenceConfig, Segmenter, SegmenterConfig
from nucstyle.segmentation.targets import to_detection_target
from nucstyle.training.average import moving_average
from nucstyle.training.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from nucstyle.training.distributed import SINGLE, Group
from nucstyle.training.loop import LoopConfig, check_finite, check_gradient, one_cycle, set_rate

_PEAK_RATE = 8e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a published training."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = STRICT
    share: Annotated[float, Gt(0)]
    """Of all steps, beside the shares of the other stages."""
    learning_rate: Annotated[float, Gt(0)]
    """Constant within the stage."""
    augmentations: tuple[Step, ...]
    """In order."""
    equal_sizes: bool = False
    """Whether images are drawn so that every image size comes equally often."""
    mosaic_p: Annotated[float, Ge(0), Le(1)] = 0.0
    """Chance that an image is replaced by four training images, two and two."""
    mosaic_side_px: Annotated[int, Ge(16)] = 512
    """Of the four together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterTrainingConfig(LoopConfig):
    """How the segmenter is trained."""

    batch_size: Annotated[int, Ge(1)] = 4
    """Crops a step."""
    optimizer: Literal["adamw", "sgd", "adam-amsgrad"] = "adamw"
    """sgd has a momentum of 0.9."""
    learning_rate: Annotated[float, Gt(0)] = _PEAK_RATE
    """Peak rate; it rises for a tenth of the steps and falls along a cosine. Stages have their own."""
    stages: tuple[Stage, ...] = ()
    """In order, each with its rate and augmentations; none = the recipe's crop throughout."""
    rate_factor: Annotated[float, Gt(0)] = 1.0
    """Times the rate of every stage: for fewer steps than published, or a network without COCO's weights."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    gradient_clip: Annotated[float, Gt(0)] = 5.0
    """Greatest norm of the gradient."""
    average_decay: Annotated[float, Ge(0), Lt(1)] = 0.998
    """Of the moving average of the weights that is stored and used."""
    balance: Annotated[float, Ge(0), Le(1)] = 0.0
    """0 = every image once an epoch; 1 = drawn so that all modalities come equally often; between = between."""
    measure_every: Annotated[int, Ge(0)] = 0
    """Steps between two scores on validation images, of which the best model is kept; 0 = the last model is taken."""
    min_side_px: Annotated[int, Ge(1)] = 3
    """Slivers at the border of a crop that are narrower are neither taught as nuclei nor as background."""
    precision: Precision = "auto"
    """auto, bf16 or fp32."""

    def __post_init__(self) -> None:
        self.check_measures(self.measure_every)
        if self.stages and self.learning_rate != _PEAK_RATE:
            msg = (
                f"learning_rate {self.learning_rate} has no effect in a recipe of stages, each has its own; "
                "rate_factor multiplies them all"
            )
            raise ConfigError(msg)
        if not self.stages and self.rate_factor != 1:
            msg = f"rate_factor {self.rate_factor} has no effect in a recipe without stages; change learning_rate"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterRecipe:
    """Everything that a training of the segmenter follows from, but the data, the augmentations and the seed."""

    name: str
    """Of the recipe file."""
    training: SegmenterTrainingConfig
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    """Of the arms with `style`; without effect on others."""

    def __post_init__(self) -> None:
        if self.training.stages and self.crop != CropConfig():
            msg = "the settings of crop have no effect in a recipe of stages; change the augmentations of its stages"
            raise ConfigError(msg)
        most, places = self.segmenter.max_nuclei, self.segmenter.proposals_after_nms
        if most > places:
            msg = (
                f"max_nuclei {most} cannot be found among proposals_after_nms {places}: "
                "raise the latter, or lower the former to it"
            )
            raise ConfigError(msg)

    def chains(self) -> list[list[Augmentation]]:
        """The augmentations of each stage."""
        if not self.training.stages:
            return [[RandomCrop(self.crop)]]
        return [list(stage.augmentations) for stage in self.training.stages]

    def stage_number(self, step: int) -> int:
        """In which stage a step lies, from 0."""
        shares = [stage.share for stage in self.training.stages]
        ends = [sum(shares[: number + 1]) / sum(shares) for number in range(len(shares))]
        return next(
            (k for k, end in enumerate(ends) if (step - 0.5) / self.training.steps < end), max(0, len(ends) - 1)
        )


class SegmenterBatches:
    """Draws training batches: every image once an epoch, in an order of its own, cut and augmented anew.

    Args:
        samples: Annotated training images.
        chains: The augmentations of each stage, applied in order; geometry first.
        fields: What is done to every whole field before that, and before mosaics are made of several.
        recipe: Sizes and stages.
        seed: Of the run.
        modalities: Name of the modality of each image, for `balance`; None = all are one.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        chains: Sequence[Sequence[Augmentation]],
        recipe: SegmenterRecipe,
        seed: int,
        modalities: Sequence[str | None] | None = None,
        *,
        fields: Sequence[Augmentation] = (),
    ) -> None:
        self._samples, self._chains, self._recipe, self._seed = samples, chains, recipe, seed
        self._fields = fields
        self._by_modality = _rarity(modalities or [None] * len(samples)) ** recipe.training.balance
        stages = recipe.training.stages
        self._by_size = _rarity([one.size for one in samples]) if any(one.equal_sizes for one in stages) else None

    def draw(self, step: int, *, rank: int = 0, processes: int = 1) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """A process's part of the batch of a step: a function of the seed and the numbers alone.

        Returns:
            Crops (3, S, S) in [0, 1], and targets as `to_detection_target` makes them.
        """
        size, stage = self._recipe.training.batch_size, self._recipe.stage_number(step)
        first = ((step - 1) * processes + rank) * size
        drawn = [self._draw_one(position, stage) for position in range(first, first + size)]
        return [image for image, _ in drawn], [target for _, target in drawn]

    def _draw_one(self, position: int, stage: int) -> tuple[Tensor, dict[str, Tensor]]:
        index, turn = self._choose(position, stage)
        sample = self._samples[index]
        generator = rng.generator(self._seed, turn, sample.id)
        stages = self._recipe.training.stages
        mosaic_p = stages[stage].mosaic_p if stages else 0.0
        is_mosaic = mosaic_p > 0 and rng.chance(mosaic_p, generator)
        # What an arm draws must not move the crops: with the same seed all arms of a comparison see the same ones.
        apart = rng.generator(self._seed, turn, sample.id, "field")
        sample = augment_in_order(sample, self._fields, apart)
        if is_mosaic:
            sample = self._mosaic(sample, stage, generator, apart)
        augmented = augment_in_order(sample, self._chains[stage], generator)
        return augmented.image, to_detection_target(augmented, min_side_px=self._recipe.training.min_side_px)

    def _mosaic(self, sample: Sample, stage: int, generator: Generator, apart: Generator) -> Sample:
        """The sample and three others, as likely as in a batch; all are training images, since there are no others here."""
        chances = self._chances(stage)
        chances = torch.ones(len(self._samples)) if chances is None else chances
        chosen = torch.multinomial(chances, 3, replacement=True, generator=generator).tolist()
        one, two, three = (augment_in_order(self._samples[index], self._fields, apart) for index in chosen)
        return mosaic((sample, one, two, three), self._recipe.training.stages[stage].mosaic_side_px)

    def _choose(self, position: int, stage: int) -> tuple[int, int]:
        """Which image comes, and a number that differs whenever the same image comes again."""
        chances = self._chances(stage)
        if chances is not None:
            generator = rng.generator(self._seed, "balanced", position)
            return int(torch.multinomial(chances, 1, generator=generator)), position
        epoch, place = divmod(position, len(self._samples))
        order = torch.randperm(len(self._samples), generator=rng.generator(self._seed, "order", epoch))
        return int(order[place]), epoch

    def _chances(self, stage: int) -> Tensor | None:
        """(N,) how likely each image is, up to a factor; None = every image once an epoch."""
        stages = self._recipe.training.stages
        by_size = self._by_size if stages and stages[stage].equal_sizes else None
        if by_size is not None:
            return self._by_modality * by_size
        return self._by_modality if self._recipe.training.balance else None


def _rarity(groups: Sequence[object]) -> Tensor:
    """(N,) float32: one over the size of the group of each."""
    counts = Counter(groups)
    return torch.tensor([1 / counts[one] for one in groups])


class SegmenterTrainer:
    """Takes the steps of the training and keeps all that must survive it.

    Args:
        segmenter: With its weights at the start.
        batches: What to train on.
        recipe: Rates.
        seed: Of the detector's own sampling.
        group: The processes that train together.
        kept: Further tensors that must survive the training, by name: counts that augmentations add to in place.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        batches: SegmenterBatches,
        recipe: SegmenterRecipe,
        *,
        seed: int,
        group: Group = SINGLE,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.segmenter = segmenter
        self._batches, self._recipe, self._seed, self._group = batches, recipe, seed, group
        self._kept = kept or {}
        self._parameters = [p for p in segmenter.network.parameters() if p.requires_grad]
        self._optimizer = self._make_optimizer()
        self._average = AveragedModel(segmenter.network, avg_fn=moving_average(recipe.training.average_decay))

    def step(self, step: int) -> dict[str, Tensor]:
        """Draw, look, learn, average."""
        config, group = self._recipe.training, self._group
        images, targets = self._batches.draw(step, rank=group.rank, processes=group.size)
        device = self.segmenter.device
        targets = [{name: tensor.to(device) for name, tensor in target.items()} for target in targets]
        set_rate(self._optimizer, self._rate(step))
        # torchvision samples anchors and regions from the global stream.
        place = (step, *([f"rank {group.rank}"] if group.rank else []))
        with rng.seeded(self._seed, "segmenter", *place):
            parts = self.segmenter.losses([image.to(device) for image in images], targets)
        check_finite(parts, group)
        total = torch.stack(list(parts.values())).sum()
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        group.average_gradients(self._parameters)
        norm = nn.utils.clip_grad_norm_(self._parameters, config.gradient_clip)
        check_gradient(norm)
        self._optimizer.step()
        self._average.update_parameters(self.segmenter.network)
        return {name: part.detach() for name, part in {"loss": total, **parts, "gradient": norm}.items()}

    def _make_optimizer(self) -> torch.optim.Optimizer:
        decay = self._recipe.training.weight_decay
        if self._recipe.training.optimizer == "sgd":
            return torch.optim.SGD(self._parameters, lr=1e-3, momentum=0.9, weight_decay=decay)
        if self._recipe.training.optimizer == "adam-amsgrad":
            return torch.optim.Adam(self._parameters, amsgrad=True, weight_decay=decay)
        return torch.optim.AdamW(self._parameters, weight_decay=decay)

    def _rate(self, step: int) -> float:
        config = self._recipe.training
        if config.stages:
            return config.stages[self._recipe.stage_number(step)].learning_rate * config.rate_factor
        return one_cycle(step, config.steps, peak=config.learning_rate)

    def averaged(self) -> Segmenter:
        """The segmenter with the averaged weights."""
        return self.segmenter.using(self._average.module)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, their average, and the optimizer's moments."""
        return {
            **module_tensors("network", self.segmenter.network),
            **module_tensors("average", self._average),
            **optimizer_tensors("optimizer", self._optimizer),
            **{f"kept/{name}": tensor for name, tensor in self._kept.items()},
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to what `tensors` returned."""
        for name, tensor in self._kept.items():
            tensor.copy_(checkpoint.tensors[f"kept/{name}"])
        restore_module("network", self.segmenter.network, checkpoint)
        restore_module("average", self._average, checkpoint)
        restore_optimizer("optimizer", self._optimizer, checkpoint)
