"""One self-contained page for a run folder: it fetches nothing, and reads well without its few lines of script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from nucstyle.data.run_folder import REPORT, read_config, write_text
from nucstyle.report import comparison, sections
from nucstyle.report.sections import Section

_TITLES = {
    "demo": "nucstyle demo",
    "discover": "Imaging modalities",
    "train-style": "Training of a style model",
    "evaluate-style": "Measures of a style model",
    "augment": "A larger data set",
    "convert": "A data set in another layout",
    "translate": "Images in every modality",
    "train-segmenter": "Training of a segmenter",
    "cell": "Training of a segmenter",
    "predict": "Nuclei found",
    "evaluate": "Scores of predictions",
    "compare": "Comparison of augmentations",
    "check": "A data set, looked through",
}
_SECTIONS: dict[str, Callable[[Path], Section]] = {
    "discover": sections.discover,
    "train-style": sections.train_style,
    "evaluate-style": sections.evaluate_style,
    "augment": sections.augment,
    "convert": sections.convert,
    "translate": sections.translate,
    "train-segmenter": sections.train_segmenter,
    "cell": sections.train_segmenter,
    "predict": sections.predict,
    "evaluate": sections.evaluate,
    "compare": comparison.compare,
    "check": sections.check,
}


def write_report(run: Path) -> Path:
    """Write `report.html` of a run folder, from its files alone; no model is loaded.

    Args:
        run: The run folder of any verb.

    Returns:
        The page.

    Raises:
        RunFolderError: Not a run folder, or not finished.
    """
    verb = read_config(run)["verb"]
    if verb == "demo":
        parts = sections.demo(run)
    else:
        parts = (_SECTIONS[verb](run),) if verb in _SECTIONS else ()
        if verb == "train-style" and (run / "modalities" / "modality.json").is_file():
            parts = (*parts, sections.discover(run / "modalities"))
    environment = Environment(
        loader=PackageLoader("nucstyle.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        title=_TITLES.get(verb, verb), sections=(*parts, sections.origin(run))
    )
    # Names of files that are not UTF-8 cannot stand on a page as they are.
    write_text(run / REPORT, page.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    return run / REPORT
