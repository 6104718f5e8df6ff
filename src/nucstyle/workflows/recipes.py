"""Finding a recipe: shipped by name, or a file of one's own, with `--set` on top."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

from nucstyle.core.config import build, read_toml, with_overrides
from nucstyle.core.errors import ConfigError
from nucstyle.training.segmenter_trainer import SegmenterRecipe
from nucstyle.training.style_trainer import StyleRecipe

Recipe = TypeVar("Recipe", StyleRecipe, SegmenterRecipe)


def style_recipe(name: str, overrides: Sequence[str] = ()) -> StyleRecipe:
    """A recipe for the style model; see `_load`."""
    return _load(StyleRecipe, "style", name, overrides)


def segmenter_recipe(name: str, overrides: Sequence[str] = ()) -> SegmenterRecipe:
    """A recipe for the segmenter; see `_load`.

    Raises:
        ConfigError: Also where a rate or a crop is set on a recipe of stages, be it the default, which the recipe itself lets
            pass: `--dry-run` writes it.
    """
    recipe = _load(SegmenterRecipe, "segmenter", name, overrides)
    given = with_overrides(SegmenterRecipe, {}, overrides) if recipe.training.stages else {}
    rate = {"learning_rate"} & given.get("training", {}).keys()
    useless = rate or given.get("crop", {}).keys()
    if useless:
        easier = "--set rate_factor multiplies their rates" if rate else "leave it out"
        msg = (
            f"--set {min(useless)}: has no effect in the recipe {recipe.name}, whose stages have their own; {easier}, or "
            "change the stages in a recipe file of your own"
        )
        raise ConfigError(msg)
    return recipe


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        msg = f"--recipe {path}: not a text file; a recipe is TOML"
        raise ConfigError(msg) from None


def _load(kind: type[Recipe], room: str, name: str, overrides: Sequence[str]) -> Recipe:
    """Read a recipe.

    Args:
        kind: What it is a recipe for.
        room: The folder of the shipped ones.
        name: A shipped recipe, or the path of a TOML file.
        overrides: `key=value`.

    Raises:
        ConfigError: No such recipe, or something in it is not allowed.
    """
    shipped = resources.files("nucstyle.recipes").joinpath(room)
    known = sorted(Path(entry.name).stem for entry in shipped.iterdir() if entry.name.endswith(".toml"))
    if name in known:
        where, text = name, shipped.joinpath(f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        where, text = name, _read(Path(name))
    else:
        msg = f"--recipe {name}: neither a shipped recipe ({', '.join(known)}) nor a file"
        raise ConfigError(msg)
    return build(kind, with_overrides(kind, read_toml(text, where=where), overrides), where=f"recipe {where}")
