"""Training the judge: foreground of real images, all modalities alike (see `segmentation.judge`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torchvision.transforms.v2.functional import (
    adjust_contrast,
    adjust_gamma,
    adjust_hue,
    adjust_saturation,
    rgb_to_grayscale,
)

from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.core import rng
from nucstyle.core.precision import Autocast
from nucstyle.core.sample import Sample
from nucstyle.segmentation.judge import ForegroundJudge, JudgeConfig, JudgeNetwork, judge_loss
from nucstyle.training.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from nucstyle.training.loop import LoopConfig, check_finite, check_gradient, one_cycle, set_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRecipe(LoopConfig):
    """How the judge is trained."""

    batch_size: Annotated[int, Ge(1)] = 8
    """Crops a step; the modalities take turns, however rare."""
    learning_rate: Annotated[float, Gt(0)] = 3e-3
    """Peak rate of AdamW; it rises for a tenth of the steps and falls along a cosine."""
    gradient_clip: Annotated[float, Gt(0)] = 5.0
    """Greatest norm of the gradient."""
    network: JudgeConfig = field(default_factory=JudgeConfig)
    crop: CropConfig = field(default_factory=lambda: CropConfig(size_px=160, zoom_low=0.6, zoom_high=1.4, native=0.5))


def _recoloured(image: Tensor, generator: torch.Generator) -> Tensor:
    """Other light, contrast, stain, or none: a modality of four images must not be known by its one shade.

    Args:
        image: (3, S, S) in [0, 1].
        generator: To draw from.
    """
    if rng.chance(0.2, generator):
        image = rgb_to_grayscale(image, num_output_channels=3)
    elif rng.chance(0.5, generator):
        image = adjust_hue(image, rng.uniform(-0.5, 0.5, generator))
    image = adjust_saturation(image, rng.uniform(0.5, 1.5, generator))
    image = adjust_gamma(image, rng.uniform(0.7, 1.4, generator))
    recoloured: Tensor = adjust_contrast(image, rng.uniform(0.6, 1.4, generator)).clamp(0, 1)
    return recoloured


class JudgeTrainer:
    """Takes the steps of the training and keeps all that must survive it.

    Args:
        samples: Annotated training images.
        modalities: The number of the modality of each.
        recipe: Sizes and rates.
        device: Where to train.
        autocast: Number format of the forward pass.
        seed: Of the weights at the start and of the crops.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        modalities: Sequence[int],
        recipe: JudgeRecipe,
        *,
        device: str,
        autocast: Autocast,
        seed: int,
    ) -> None:
        self._samples, self._recipe, self._seed = samples, recipe, seed
        self._members = [
            [index for index, number in enumerate(modalities) if number == modality]
            for modality in sorted(set(modalities))
        ]
        self._crop = RandomCrop(recipe.crop)
        self._device, self._autocast = device, autocast
        with rng.seeded(seed, "judge weights"):
            self._network = JudgeNetwork(recipe.network)
        self._network.to(device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.AdamW(self._network.parameters(), weight_decay=1e-4)

    def step(self, step: int) -> dict[str, Tensor]:
        """Draw, look, learn."""
        image, nuclei = (tensor.to(self._device) for tensor in self.draw(step))
        set_rate(self._optimizer, one_cycle(step, self._recipe.steps, peak=self._recipe.learning_rate))
        self._network.train()
        with self._autocast():
            logits = self._network(image.contiguous(memory_format=torch.channels_last))
        loss = judge_loss(logits, nuclei)
        check_finite({"loss": loss})
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        check_gradient(nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.gradient_clip))
        self._optimizer.step()
        return {"loss": loss.detach()}

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) in [0, 1] and (B, 1, S, S) masks of a step: a function of the seed and the step alone."""
        size = self._recipe.batch_size
        images, nuclei = [], []
        for slot in range((step - 1) * size, step * size):
            members = self._members[slot % len(self._members)]
            generator = rng.generator(self._seed, "judge", slot)
            crop = self._crop.augment(self._samples[members[rng.integer(0, len(members), generator)]], generator)
            assert crop.labels is not None
            images.append(_recoloured(crop.image, generator))
            nuclei.append((crop.labels > 0).float()[None])
        return torch.stack(images), torch.stack(nuclei)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and the optimizer's moments."""
        return {**module_tensors("network", self._network), **optimizer_tensors("optimizer", self._optimizer)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to what `tensors` returned."""
        restore_module("network", self._network, checkpoint)
        restore_optimizer("optimizer", self._optimizer, checkpoint)

    def judge(self) -> ForegroundJudge:
        """The judge as trained so far."""
        return ForegroundJudge(self._network, self._recipe.network, self._autocast)
