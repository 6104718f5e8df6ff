"""Training the segmenter: Mask R-CNN on crops, with whatever augmentations are given (paper, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from nucstyle.augment.base import Augmentation, augment_in_order
from nucstyle.augment.geometric import CropConfig
from nucstyle.core import rng
from nucstyle.core.precision import Precision
from nucstyle.core.sample import Sample
from nucstyle.segmentation.detector import InferenceConfig, Segmenter, SegmenterConfig
from nucstyle.segmentation.targets import to_detection_target
from nucstyle.training.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from nucstyle.training.loop import LoopConfig, check_finite, check_gradient, one_cycle, set_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterTrainingConfig(LoopConfig):
    """How the segmenter is trained."""

    batch_size: Annotated[int, Ge(1)] = 4
    """Crops a step."""
    learning_rate: Annotated[float, Gt(0)] = 8e-4
    """Peak rate of AdamW; it rises for a tenth of the steps and falls along a cosine."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    gradient_clip: Annotated[float, Gt(0)] = 5.0
    """Greatest norm of the gradient."""
    max_nuclei_per_crop: Annotated[int, Ge(1)] = 150
    """More are chosen from at random: every mask is as large as the crop."""
    min_side_px: Annotated[int, Ge(1)] = 3
    """Slivers at the border of a crop that are narrower are not taught."""
    precision: Precision = "auto"
    """auto, bf16 or fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterRecipe:
    """Everything that a training of the segmenter follows from, but the data, the augmentations and the seed."""

    name: str
    """Of the recipe file."""
    training: SegmenterTrainingConfig
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    crop: CropConfig = field(default_factory=CropConfig)


class SegmenterBatches:
    """Draws training batches: every image once an epoch, in an order of its own, cut and augmented anew.

    Args:
        samples: Annotated training images.
        augmentations: Applied in order; geometry first.
        recipe: Sizes.
        seed: Of the run.
    """

    def __init__(
        self, samples: Sequence[Sample], augmentations: Sequence[Augmentation], recipe: SegmenterRecipe, seed: int
    ) -> None:
        self._samples, self._augmentations, self._recipe, self._seed = samples, augmentations, recipe, seed

    def draw(self, step: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Crops (3, S, S) in [0, 1] and torchvision targets of a step: a function of the seed and the step alone."""
        size = self._recipe.training.batch_size
        drawn = [self._draw_one(position) for position in range((step - 1) * size, step * size)]
        return [image for image, _ in drawn], [target for _, target in drawn]

    def _draw_one(self, position: int) -> tuple[Tensor, dict[str, Tensor]]:
        epoch, place = divmod(position, len(self._samples))
        order = torch.randperm(len(self._samples), generator=rng.generator(self._seed, "order", epoch))
        sample = self._samples[int(order[place])]
        generator = rng.generator(self._seed, epoch, sample.id)
        augmented = augment_in_order(sample, self._augmentations, generator)
        config = self._recipe.training
        target = to_detection_target(
            augmented, max_nuclei=config.max_nuclei_per_crop, min_side_px=config.min_side_px, generator=generator
        )
        return augmented.image, target


class SegmenterTrainer:
    """Takes the steps of the training and keeps all that must survive it.

    Args:
        segmenter: With its weights at the start.
        batches: What to train on.
        recipe: Rates.
        seed: Of the detector's own sampling.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        batches: SegmenterBatches,
        recipe: SegmenterRecipe,
        *,
        seed: int,
    ) -> None:
        self.segmenter = segmenter
        self._batches, self._recipe, self._seed = batches, recipe, seed
        self._parameters = [p for p in segmenter.network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=recipe.training.weight_decay)

    def step(self, step: int) -> dict[str, Tensor]:
        """Draw, look, learn."""
        config = self._recipe.training
        images, targets = self._batches.draw(step)
        device = self.segmenter.device
        targets = [{name: tensor.to(device) for name, tensor in target.items()} for target in targets]
        set_rate(self._optimizer, one_cycle(step, config.steps, peak=config.learning_rate))
        # torchvision samples anchors and regions from the global stream.
        with rng.seeded(self._seed, "segmenter", step):
            parts = self.segmenter.losses([image.to(device) for image in images], targets)
        check_finite(parts)
        total = torch.stack(list(parts.values())).sum()
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        check_gradient(nn.utils.clip_grad_norm_(self._parameters, config.gradient_clip))
        self._optimizer.step()
        return {"loss": total.detach(), **{name: part.detach() for name, part in parts.items()}}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and the optimizer's moments."""
        return {
            **module_tensors("network", self.segmenter.network),
            **optimizer_tensors("optimizer", self._optimizer),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to what `tensors` returned."""
        restore_module("network", self.segmenter.network, checkpoint)
        restore_optimizer("optimizer", self._optimizer, checkpoint)
