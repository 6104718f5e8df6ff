"""Measuring a style model while it trains, and keeping the best by validation images.

The choice sees nothing that the run may not see: signs are the ModalityModel's polarities, the judge is the run's own, and
images are judged only where the run may see their masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from nucstyle.core.protocols import Judge, Translator
from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import MEASURES, read_log, write_text
from nucstyle.metrics.translation import goal_shares
from nucstyle.modality.model import ModalityModel
from nucstyle.segmentation.backbone import Lite0Trunk
from nucstyle.workflows.style_measures import Measurer, quality

DRAWS = 8
"""Restyled images of each pair of modalities, each time."""
_REFERENCE_IMAGES = 24
_BEST = "best-{:06d}.safetensors"


class Selection:
    """Measures a model every so often and keeps the best.

    Args:
        run: The run folder.
        every: Steps between two measures; 0 = never.
        validation: Images to restyle, each with its modality.
        train: Training images, each with its modality.
        modality_model: Of the run.
        judge: The run's.
        trunk: For features.
        seed: Of the styles drawn.
    """

    def __init__(
        self,
        run: Path,
        every: int,
        validation: Dataset,
        train: Dataset,
        modality_model: ModalityModel,
        judge: Judge,
        trunk: Lite0Trunk,
        seed: int,
    ) -> None:
        self._run, self._every, self._seed = run, every, seed
        self._validation, self._train, self._model, self._judge = validation, train, modality_model, judge
        self._trunk = trunk
        self._measurer: Measurer | None = None

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the model of a step is measured."""
        return bool(self._every) and (step % self._every == 0 or step == steps)

    def consider(self, step: int, model: Translator, save: Callable[[Path], object]) -> None:
        """Measure the model of a step, and store it if it is the best so far.

        Args:
            step: Lines of later steps are of a life that was cut off, and go.
            model: To measure.
            save: Writes the model to a file.
        """
        pairs = self._measured_pairs(model)
        found = quality(pairs)
        if found is None:  # no source is well enough separated
            return
        earlier = [line for line in self.lines() if line["step"] < step]
        goals = [goal_shares(pair) for pair in pairs if pair["draws"]]
        line = {"step": step, "quality": round(found, 6)}
        line |= {letter: round(float(np.mean([min(1.0, one[letter]) for one in goals])), 6) for letter in goals[0]}
        best, path = max((one["quality"] for one in earlier), default=-1.0), self._run / _BEST.format(step)
        if line["quality"] > best:
            save(path)
        write_text(self._run / MEASURES, "".join(json.dumps(one) + "\n" for one in [*earlier, line]))
        if line["quality"] > best:  # now that the line says so, the older ones are no longer needed
            for old in self._run.glob(_BEST.replace("{:06d}", "*")):
                if old != path:
                    old.unlink()

    def _measured_pairs(self, model: Translator) -> list[dict[str, Any]]:
        """Every pair of different modalities."""
        pairs, measurer = [], self._ready()
        for source, target in permutations(measurer.real, 2):
            draws, _ = measurer.draw(model, source, target, draws=DRAWS, seed=self._seed)
            pairs.append(measurer.summary(source, target, draws))
        return pairs

    def has(self, step: int) -> bool:
        """Whether the model of a step was measured."""
        return any(line["step"] == step for line in self.lines())

    def lines(self) -> list[dict[str, float]]:
        """What was measured so far: step, quality, and the mean share of each goal."""
        return read_log(self._run / MEASURES)

    def best(self) -> tuple[int, Path] | None:
        """Step and file of the best model whose file is there; None where there is none."""
        stored = [(line, self._run / _BEST.format(int(line["step"]))) for line in self.lines()]
        stored = [(line, path) for line, path in stored if path.is_file()]
        if not stored:
            return None
        line, path = max(stored, key=lambda pair: pair[0]["quality"])
        return int(line["step"]), path

    def _ready(self) -> Measurer:
        if self._measurer is None:
            self._measurer = Measurer(
                self._validation,
                self._train,
                self._judge,
                self._trunk,
                self._model.names,
                polarity=[one.polarity for one in self._model.modalities],
                trust_masks=False,
                reference_images=_REFERENCE_IMAGES,
            )
        return self._measurer
