"""Style augmentation among the transforms of MONAI, for arrays and for dictionaries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nucstyle.augment import style
from nucstyle.core.errors import ImageError

try:
    from monai.transforms import MapTransform, Randomizable, Transform
    from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
except ImportError as error:
    msg = "MONAI is not installed; run: pip install 'nucstyle[monai]'"
    raise ImportError(msg, name="monai") from error

Image = TypeVar("Image", npt.NDArray[Any], Tensor)


class StyleTransfer(Randomizable, Transform):  # type: ignore[misc]
    """`nucstyle.StyleTransfer` as a transform of MONAI, for single images.

    ```python
    transform = Compose([LoadImage(), EnsureChannelFirst(), ScaleIntensity(), StyleTransfer(augment), RandFlip(prob=0.5)])
    ```

    Place it after `ScaleIntensity` (floats must lie in [0, 1]), before cropping (colours are measured on what it is given)
    and before `NormalizeIntensity`. The seed of a call is drawn from `self.R`, so `set_random_state` of the transform or of
    its `Compose`, or `monai.utils.set_determinism` before a `Compose` is made, makes a run repeatable;
    `monai.data.DataLoader` seeds its workers.

    Args:
        augment: Decides whether and how an image is restyled. In workers its model belongs on the CPU.
    """

    backend: ClassVar[list[TransformBackends]] = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, augment: style.StyleTransfer) -> None:
        self.augment = style.check_augment(augment)
        self.seed = 0

    def randomize(self, data: object = None) -> None:
        """All the randomness: the seed of the next call.

        Args:
            data: Not used.
        """
        self.seed = int(self.R.randint(2**63 - 1, dtype=np.int64))

    def __call__(self, img: Image, randomize: bool = True) -> Image:
        """Restyle one image.

        Args:
            img: An array, a tensor or a `MetaTensor` (C, H, W) with C = 1 or 3, integers or floats in [0, 1].
            randomize: Draw anew; False = as in the last call.

        Returns:
            The same type, size and dtype, with the same meta data; the very object where nothing was changed.

        Raises:
            ImageError: Another shape, not finite, or floats outside [0, 1].
        """
        if randomize:
            self.randomize()
        if img.ndim != 3:  # four axes are a volume for MONAI, a batch for `augment`
            msg = f"an image of MONAI is (channels, height, width), got {tuple(img.shape)}; restyle slices, one by one"
            raise ImageError(msg)
        plain = convert_to_tensor(img, track_meta=False)
        restyled = self.augment(plain, seed=self.seed)
        made: Image = img if restyled is plain else convert_to_dst_type(restyled, dst=img)[0]
        return made


class StyleTransferd(Randomizable, MapTransform):  # type: ignore[misc]
    """`nucstyle.StyleTransfer` as a transform of MONAI, for dictionaries: `keys` are restyled, all else is left alone.

    ```python
    transform = Compose([ScaleIntensityd("image"), StyleTransferd("image", augment), RandFlipd(["image", "label"], prob=0.5)])
    ```

    Where to place it and what makes it repeatable: as for `StyleTransfer`.

    Args:
        keys: The images to restyle, all with the same draw; no labels.
        augment: Decides whether and how an image is restyled. In workers its model belongs on the CPU.
        allow_missing_keys: Pass over keys that a dictionary lacks, instead of raising KeyError.
    """

    backend = StyleTransfer.backend

    def __init__(
        self, keys: Hashable | Sequence[Hashable], augment: style.StyleTransfer, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.restyle = StyleTransfer(augment)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> StyleTransferd:
        """Make what follows repeatable.

        Args:
            seed: Of a new stream.
            state: The stream itself, instead.

        Returns:
            The transform itself.
        """
        self.restyle.set_random_state(seed, state)
        return self

    def randomize(self, data: object = None) -> None:
        """All the randomness: the seed of the next call.

        Args:
            data: Not used.
        """
        self.restyle.randomize()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restyle the images of one sample.

        Args:
            data: Holds at each of `keys` an array, a tensor or a `MetaTensor` (C, H, W), as `StyleTransfer` takes it.

        Returns:
            A new dictionary; what is at other keys is the same object.

        Raises:
            KeyError: A key is missing and `allow_missing_keys` is False.
            ImageError: Another shape, not finite, or floats outside [0, 1].
        """
        made = dict(data)
        self.randomize()
        for key in self.key_iterator(made):
            made[key] = self.restyle(made[key], randomize=False)
        return made
