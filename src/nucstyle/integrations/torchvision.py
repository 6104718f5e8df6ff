"""Style augmentation among the transforms of torchvision (`torchvision.transforms.v2`)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from nucstyle.augment import style
from nucstyle.core.errors import ImageError

_MODES = ("L", "RGB", "I;16")
_LABELS = (torch.int32, torch.int64, torch.bool)
"""No image that is a plain tensor has these types, and many masks have."""


def _is_plain(x: object) -> bool:
    """Whether this is a tensor of which torchvision does not know what it holds."""
    return isinstance(x, Tensor) and not isinstance(x, tv_tensors.TVTensor)


class StyleTransfer(v2.Transform):  # type: ignore[misc]
    """`nucstyle.StyleTransfer` as a transform of torchvision: images are restyled, masks, boxes and key points are not.

    ```python
    transform = v2.Compose([v2.ToImage(), StyleTransfer(augment), v2.RandomCrop(256), v2.ToDtype(torch.float32, scale=True)])
    image, target = transform(image, target)
    ```

    Place it before cropping (colours are measured on what it is given) and before `v2.Normalize`. What it changes is
    `tv_tensors.Image` and PIL images; where a sample has none of them, the first plain tensor is taken for the image, as
    by every transform of torchvision. All images of one call get the same draw. The seed of a call is drawn from torch's
    global stream, so `torch.manual_seed` makes a run repeatable, and the workers of a `DataLoader` differ.

    Args:
        augment: Decides whether and how an image is restyled. In workers its model belongs on the CPU.
    """

    _transformed_types: ClassVar[tuple[Any, ...]] = (tv_tensors.Image, PIL.Image.Image, _is_plain)

    def __init__(self, augment: style.StyleTransfer) -> None:
        super().__init__()
        self.augment = style.check_augment(augment)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """All the randomness: the seed of this call.

        Args:
            flat_inputs: The images of the sample; they do not matter here.
        """
        return {"seed": int(torch.randint(2**63 - 1, ()))}

    def transform(self, inpt: Tensor | PIL.Image.Image, params: dict[str, Any]) -> Tensor | PIL.Image.Image:
        """Restyle one image.

        Args:
            inpt: A tensor (C, H, W) or (B, C, H, W) with C = 1 or 3, integers or floats in [0, 1]; or a PIL image of mode
                `L`, `RGB` or `I;16`.
            params: What `make_params` drew.

        Returns:
            The same type, size and dtype; the very object where nothing was changed.

        Raises:
            ImageError: Another shape or mode, not finite, floats outside [0, 1], or a plain tensor that looks like labels.
        """
        if isinstance(inpt, PIL.Image.Image):
            return self._picture(inpt, params["seed"])
        if _is_plain(inpt) and inpt.dtype in _LABELS:
            msg = f"the first plain tensor holds {inpt.dtype}, as labels do; wrap images and masks (tv_tensors.Image, Mask)"
            raise ImageError(msg)
        plain = inpt.as_subclass(Tensor)
        restyled = self.augment(plain, seed=params["seed"])
        return inpt if restyled is plain else tv_tensors.wrap(restyled, like=inpt)

    def _picture(self, picture: PIL.Image.Image, seed: int) -> PIL.Image.Image:
        if picture.mode not in _MODES:
            msg = f'a PIL image of mode {picture.mode} is not restyled, only {", ".join(_MODES)}; use image.convert("RGB")'
            raise ImageError(msg)
        pixels = np.asarray(picture)
        restyled = self.augment(pixels, seed=seed)
        return picture if restyled is pixels else PIL.Image.fromarray(restyled)
