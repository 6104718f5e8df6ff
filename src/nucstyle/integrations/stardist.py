"""Style augmentation as the `augmenter` of StarDist, which takes a function of an image and its labels."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nucstyle.augment import style

Array = npt.NDArray[Any]
Labels = TypeVar("Labels")


class StyleTransfer:
    """`nucstyle.StyleTransfer` as the augmenter of `StarDist2D.train`: the image is restyled, the labels are not.

    ```python
    model.train(images, labels, validation_data=validation, augmenter=StyleTransfer(augment, seed=0))
    ```

    StarDist calls it with patches that were normalised before, usually by percentiles, so that some values lie a little
    below 0 or above 1. A patch is therefore brought to [0, 1] linearly, from its minimum or 0 and its maximum or 1,
    whichever is farther, then restyled and brought back. A patch within [0, 1] is taken as it is: a dim one stays dim.

    Args:
        augment: Decides whether and how a patch is restyled.
        seed: Of the draws, or a NumPy generator to draw from; None = other ones in each run.
    """

    def __init__(
        self, augment: style.StyleTransfer, seed: int | np.random.Generator | np.random.RandomState | None = None
    ) -> None:
        self.augment = style.check_augment(augment)
        self.random = seed if isinstance(seed, np.random.RandomState) else np.random.default_rng(seed)

    def __call__(self, x: Array, y: Labels) -> tuple[Array, Labels]:
        """Restyle one patch.

        Args:
            x: (H, W), (H, W, 1) or (H, W, 3), finite floats of any range, or integers.
            y: Its labels, of any kind.

        Returns:
            A patch of the same shape and dtype, its values between the same minimum or 0 and maximum or 1, and y itself.
            Where nothing was changed, also x itself.

        Raises:
            ImageError: Another shape, or not finite.
        """
        seed = int.from_bytes(self.random.bytes(8), "little")
        planes = x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x
        restyled = self._restyle(planes, seed)
        return (x if restyled is planes else restyled.reshape(x.shape)), y

    def _restyle(self, x: Array, seed: int) -> Array:
        """(H, W) or (H, W, 3), restyled."""
        if not (np.issubdtype(x.dtype, np.floating) and x.size and np.isfinite(x).all()):
            return self.augment(x, seed=seed)  # what is no image is refused there
        low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))
        if (low, high) == (0, 1):
            return self.augment(x, seed=seed)
        unit: Array = np.clip((x - low) / (high - low), 0, 1)
        restyled: Array = self.augment(unit, seed=seed)
        return x if restyled is unit else (restyled * (high - low) + low).astype(x.dtype)
