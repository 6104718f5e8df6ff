"""How good a style model is while it trains, by validation images.

It sees nothing that the run may not see: signs are the ModalityModel's polarities, the judge is the run's own, and images are
judged only where the run may see their masks.
"""

from __future__ import annotations

from functools import cached_property
from itertools import permutations

import numpy as np

from nucstyle.core.protocols import Judge, Translator
from nucstyle.data.dataset import Dataset
from nucstyle.metrics.translation import goal_shares
from nucstyle.modality.model import ModalityModel
from nucstyle.segmentation.backbone import Lite0Trunk
from nucstyle.workflows.style_measures import Measurer, quality

DRAWS = 8
"""Restyled images of each pair of modalities, each time."""
_REFERENCE_IMAGES = 24


class StyleQuality:
    """Measures every pair of different modalities.

    Args:
        validation: Images to restyle, each with its modality.
        train: Training images, each with its modality.
        modality_model: Of the run.
        judge: The run's.
        trunk: For features.
        seed: Of the styles drawn.
    """

    def __init__(
        self,
        validation: Dataset,
        train: Dataset,
        modality_model: ModalityModel,
        judge: Judge,
        trunk: Lite0Trunk,
        seed: int,
    ) -> None:
        self._validation, self._train, self._model = validation, train, modality_model
        self._judge, self._trunk, self._seed = judge, trunk, seed

    def __call__(self, model: Translator) -> dict[str, float] | None:
        """Quality, and the mean share of each goal, in [0, 1]; None where no source is well enough separated."""
        pairs = []
        for source, target in permutations(self._measurer.real, 2):
            draws, _ = self._measurer.draw(model, source, target, draws=DRAWS, seed=self._seed)
            pairs.append(self._measurer.summary(source, target, draws))
        found = quality(pairs)
        if found is None:
            return None
        goals = [goal_shares(pair) for pair in pairs if pair["draws"]]
        return {"quality": found} | {
            letter: float(np.mean([min(1.0, one[letter]) for one in goals])) for letter in goals[0]
        }

    @cached_property
    def _measurer(self) -> Measurer:
        """Real images are measured when the first model is."""
        return Measurer(
            self._validation,
            self._train,
            self._judge,
            self._trunk,
            self._model.names,
            polarity=[one.polarity for one in self._model.modalities],
            trust_masks=False,
            reference_images=_REFERENCE_IMAGES,
        )
