"""Moving averages of weights: what is stored and used is smoother than what the last step left."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """For `torch.optim.swa_utils.AveragedModel`: an exponential average that is short at the start.

    So it forgets the untrained weights soon.

    Args:
        decay: In [0, 1); how much is kept at each update, once there were many.
    """

    def average(kept: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        count = int(updates)
        return kept.lerp(new, 1 - min(decay, (1 + count) / (10 + count)))

    return average
