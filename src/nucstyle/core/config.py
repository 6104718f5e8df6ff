"""Configs: frozen dataclasses that live beside their owner, checked here, read from TOML and written to TOML."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import tomli_w
from pydantic import Discriminator, TypeAdapter, ValidationError

from nucstyle.core.errors import ConfigError

Config = TypeVar("Config")
STRICT: Mapping[str, str] = {"extra": "forbid"}
"""For `__pydantic_config__` of a dataclass that is listed in a config: an unknown key in it is an error."""


def told_apart_by(field: str) -> Discriminator:
    """For `typing.Annotated` on a union of dataclasses: which of them a table is, is said by this field."""
    return Discriminator(field)


@cache
def _field_types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _section_type(kind: type, name: str) -> type | None:
    """The dataclass behind a field, or None for a plain value."""
    annotation = _field_types(kind)[name]
    return annotation if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else None


def _leaves(kind: type, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every plain value in a tree of dataclasses."""
    found: list[tuple[str, ...]] = []
    for field in dataclasses.fields(kind):
        path = (*prefix, field.name)
        section = _section_type(kind, field.name)
        found.extend(_leaves(section, path) if section else [path])
    return found


def suggestion(name: str, known: Sequence[str]) -> str:
    """What to say after a name that is not known: the one that was probably meant, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _reject_unknown(kind: type, table: Mapping[str, Any], where: str, prefix: str = "") -> None:
    known = [field.name for field in dataclasses.fields(kind)]
    for name, value in table.items():
        if name not in known:
            msg = f"{where}: unknown key {prefix + name!r}{suggestion(name, known)}"
            raise ConfigError(msg)
        section = _section_type(kind, name)
        if section and not isinstance(value, Mapping):
            msg = f"{where}: {prefix + name!r} is a table of settings, got {value!r}"
            raise ConfigError(msg)
        if section:
            _reject_unknown(section, value, where, f"{prefix}{name}.")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                msg = f"{where}: {prefix + name!r}: a number must be finite, got {number!r}"
                raise ConfigError(msg)


def build(kind: type[Config], table: Mapping[str, Any], *, where: str) -> Config:
    """Make a config from plain values.

    Args:
        kind: A dataclass, possibly of dataclasses, with constraints given by `typing.Annotated`.
        table: What `tomllib` returns.
        where: The file or option that the values come from, for messages.

    Raises:
        ConfigError: An unknown key, a missing key, or a value of the wrong type or range.
    """
    _reject_unknown(kind, table, where)
    try:
        return TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        msg = f"{where}: {key!r}: {first['msg'].lower()}, got {first['input']!r}"
        raise ConfigError(msg) from None


def read_toml(text: str, *, where: str) -> dict[str, Any]:
    """Parse TOML, with the file named in the error.

    Raises:
        ConfigError: The text is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{where}: not valid TOML: {error}"
        raise ConfigError(msg) from None
    except RecursionError:
        msg = f"{where}: not a config: its values are nested too deeply"
        raise ConfigError(msg) from None


def with_overrides(kind: type, table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `--set key=value` options.

    Args:
        kind: The config that the table is for.
        table: Plain values.
        overrides: `key=value`; the key is a path such as `training.steps`, or its last part where that is unique.
            Read as TOML and, failing that, as text. Where several are wanted, commas part them: `a,b` is `["a", "b"]`.

    Returns:
        A new table.

    Raises:
        ConfigError: No `=`, or an unknown or ambiguous key.
    """
    result = copy.deepcopy(dict(table))
    leaves = _leaves(kind)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            msg = f"--set {override}: write it as key=value"
            raise ConfigError(msg)
        path = tuple(key.strip().split("."))
        matches = [leaf for leaf in leaves if leaf == path] or [leaf for leaf in leaves if leaf[-len(path) :] == path]
        if not matches:
            names = [".".join(leaf) for leaf in leaves] + [leaf[-1] for leaf in leaves]
            msg = f"--set {override}: unknown key {key!r}{suggestion(key, names)}"
            raise ConfigError(msg)
        if len(matches) > 1:
            msg = f"--set {override}: {key!r} could be {' or '.join('.'.join(leaf) for leaf in matches)}"
            raise ConfigError(msg)
        target = result
        for part in matches[0][:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                msg = f"--set {override}: {part!r} is a table of settings, but the recipe has {target!r} there"
                raise ConfigError(msg)
        value = _value(text)
        if _holds_several(kind, matches[0]) and not isinstance(value, (list, dict)):
            parts = text.strip().removeprefix("[").removesuffix("]").split(",")
            value = [_value(part.strip()) for part in parts if part.strip()]
        target[matches[0][-1]] = value
    return result


def _holds_several(kind: type, path: Sequence[str]) -> bool:
    """Whether the field at a path is a tuple."""
    for name in path[:-1]:
        kind = _field_types(kind)[name]
    return typing.get_origin(_field_types(kind)[path[-1]]) is tuple


def _value(text: str) -> Any:  # noqa: ANN401  (whatever TOML holds)
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text  # more than one: a line break in the text began another key


def to_table(config: object) -> dict[str, Any]:
    """A config as plain values; fields that are None are left out, since TOML has no word for them."""
    table: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            table[field.name] = to_table(value)
        elif isinstance(value, tuple):
            table[field.name] = [to_table(one) if dataclasses.is_dataclass(one) else one for one in value]
        elif value is not None:
            table[field.name] = value
    return table


def to_toml(table: Mapping[str, Any]) -> str:
    """Plain values as TOML text."""
    return tomli_w.dumps(dict(table))
