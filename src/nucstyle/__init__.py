"""Style augmentation for nuclei segmentation.

Names are resolved when first used, so that importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nucstyle.augment.gate import Gate, GateConfig
    from nucstyle.augment.style import StyleTransfer
    from nucstyle.core.errors import (
        ConfigError,
        DatasetError,
        ImageError,
        InputError,
        InstallationError,
        Interrupted,
        MemoryShortageError,
        NucstyleError,
        OptionError,
        RunFolderError,
        TrainingError,
        WeightsError,
    )
    from nucstyle.core.sample import Prediction, Sample
    from nucstyle.data.dataset import open_dataset
    from nucstyle.data.decoders import ReadOptions
    from nucstyle.data.image_io import write_labels
    from nucstyle.metrics.dsb import dsb_score
    from nucstyle.modality.model import ModalityModel
    from nucstyle.report.page import write_report
    from nucstyle.segmentation.detector import Segmenter
    from nucstyle.segmentation.tiling import segment
    from nucstyle.segmentation.tta import TestTimeAugmentation
    from nucstyle.style.model import StyleModel
    from nucstyle.workflows.compare import compare
    from nucstyle.workflows.evaluate import evaluate
    from nucstyle.workflows.load import load_judge, load_segmenter, load_style
    from nucstyle.workflows.train_segmenter import train_segmenter
    from nucstyle.workflows.train_style import train_style

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "core.errors",
    "DatasetError": "core.errors",
    "Gate": "augment.gate",
    "GateConfig": "augment.gate",
    "ImageError": "core.errors",
    "InputError": "core.errors",
    "InstallationError": "core.errors",
    "Interrupted": "core.errors",
    "MemoryShortageError": "core.errors",
    "ModalityModel": "modality.model",
    "NucstyleError": "core.errors",
    "OptionError": "core.errors",
    "Prediction": "core.sample",
    "ReadOptions": "data.decoders",
    "RunFolderError": "core.errors",
    "Sample": "core.sample",
    "Segmenter": "segmentation.detector",
    "StyleModel": "style.model",
    "StyleTransfer": "augment.style",
    "TestTimeAugmentation": "segmentation.tta",
    "TrainingError": "core.errors",
    "WeightsError": "core.errors",
    "compare": "workflows.compare",
    "dsb_score": "metrics.dsb",
    "evaluate": "workflows.evaluate",
    "load_judge": "workflows.load",
    "load_segmenter": "workflows.load",
    "load_style": "workflows.load",
    "open_dataset": "data.dataset",
    "segment": "segmentation.tiling",
    "train_segmenter": "workflows.train_segmenter",
    "train_style": "workflows.train_style",
    "write_labels": "data.image_io",
    "write_report": "report.page",
}

__all__ = [
    "ConfigError",
    "DatasetError",
    "Gate",
    "GateConfig",
    "ImageError",
    "InputError",
    "InstallationError",
    "Interrupted",
    "MemoryShortageError",
    "ModalityModel",
    "NucstyleError",
    "OptionError",
    "Prediction",
    "ReadOptions",
    "RunFolderError",
    "Sample",
    "Segmenter",
    "StyleModel",
    "StyleTransfer",
    "TestTimeAugmentation",
    "TrainingError",
    "WeightsError",
    "__version__",
    "compare",
    "dsb_score",
    "evaluate",
    "load_judge",
    "load_segmenter",
    "load_style",
    "open_dataset",
    "segment",
    "train_segmenter",
    "train_style",
    "write_labels",
    "write_report",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever the name stands for)
    if name not in _HOMES:
        msg = f"module 'nucstyle' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"nucstyle.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
