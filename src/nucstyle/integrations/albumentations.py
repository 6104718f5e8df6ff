"""Style augmentation among the transforms of albumentations (2.0, the last line under the MIT licence)."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

from nucstyle.augment import style

# Without this its import asks the network for a newer version, in every worker again.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
try:
    from albumentations import ImageOnlyTransform
except ImportError as error:
    msg = "albumentations is not installed; run: pip install 'nucstyle[albumentations]'"
    raise ImportError(msg, name="albumentations") from error

Array = npt.NDArray[Any]


class StyleTransfer(ImageOnlyTransform):  # type: ignore[misc]
    """`nucstyle.StyleTransfer` as a transform of albumentations: images are restyled, masks, boxes and key points are not.

    ```python
    transform = A.Compose([StyleTransfer(augment), A.RandomCrop(256, 256), A.Normalize()], seed=0)
    made = transform(image=image, mask=mask)
    ```

    Place it before cropping (colours are measured on what it is given) and before `A.Normalize`. The seed of a call is
    drawn from the transform's own `py_random`, so `A.Compose(..., seed=0)` or `set_random_seed` makes a run repeatable.
    That stream is copied into the workers of a `DataLoader` as it is, for all transforms of albumentations: seed the
    pipeline in each worker, as docs/integrations.md shows. `A.ReplayCompose` replays a restyling exactly. The model is
    part of the transform, so `A.to_dict` holds the object, and a file (`A.save`) cannot.

    Args:
        augment: Decides whether and how an image is restyled. In workers its model belongs on the CPU.
        p: Probability that `augment` is asked at all; it has a probability of its own.
    """

    def __init__(self, augment: style.StyleTransfer, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.augment = style.check_augment(augment)

    def get_params(self) -> dict[str, Any]:
        """All the randomness: the seed of this call, alike for all its images."""
        return {"style_seed": self.py_random.getrandbits(63)}

    def apply(self, img: Array, style_seed: int, **params: Any) -> Array:  # noqa: ANN401  (what albumentations adds)
        """Restyle one image.

        Args:
            img: (H, W), (H, W, 1) or (H, W, 3), integers or floats in [0, 1].
            style_seed: What `get_params` drew.
            **params: What albumentations hands to every transform; not used.

        Returns:
            The same shape and dtype; the very object where nothing was changed.

        Raises:
            ImageError: Another shape, not finite, or floats outside [0, 1].
        """
        planes = img[..., 0] if img.ndim == 3 and img.shape[2] == 1 else img
        restyled = self.augment(planes, seed=style_seed)
        return img if restyled is planes else restyled.reshape(img.shape)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """What makes an equal transform, beside p."""
        return ("augment",)
