"""How good a segmenter is while it trains, by validation images."""

from __future__ import annotations

from nucstyle.data.dataset import Dataset
from nucstyle.metrics.dsb import dsb_score
from nucstyle.metrics.summary import summarise
from nucstyle.segmentation.detector import Segmenter
from nucstyle.segmentation.tiling import segment
from nucstyle.segmentation.tta import TestTimeAugmentation


class SegmenterQuality:
    """Scores a segmenter without test-time augmentation.

    Args:
        validation: Annotated images.
        largest: The modality with the most training images; None if unknown.
    """

    def __init__(self, validation: Dataset, largest: str | None) -> None:
        self._validation, self._largest = validation, largest

    def __call__(self, segmenter: Segmenter) -> dict[str, float]:
        """DSB-2018 scores of all images and of the minority.

        `quality` is the mean of both: the minority is few images, but what a user wants to see in them is no less.
        """
        scores, view = {}, TestTimeAugmentation("none")
        for sample in self._validation:
            assert sample.labels is not None
            found = segment(segmenter, sample.image, view).labels
            scores[sample.id] = dsb_score(sample.labels.numpy(), found.numpy())
        summary = summarise(scores, {one.id: one.modality for one in self._validation.records}, self._largest)
        parts = {"all": summary["dsb_score"], "minority": summary["minority"]["dsb_score"]}
        known = {name: float(value) for name, value in parts.items() if value is not None}
        return {"quality": sum(known.values()) / len(known), **known}
