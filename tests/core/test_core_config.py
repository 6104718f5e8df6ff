from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt

from nucstyle.augment.style import StyleConfig
from nucstyle.core.config import build, read_toml, to_table, to_toml, with_overrides
from nucstyle.core.errors import ConfigError
from nucstyle.training.segmenter_trainer import SegmenterRecipe
from nucstyle.training.style_trainer import StyleRecipe


@dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...] = (8, 16)
    rate: Annotated[float, Gt(0)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Middle:
    inner: Inner = field(default_factory=Inner)
    depth: int = 2
    name: str = "middle"


@dataclass(frozen=True, kw_only=True)
class Training:
    steps: Annotated[int, Ge(1)]
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    precision: Literal["auto", "bf16", "fp32"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Critic:
    learning_rate: Annotated[float, Gt(0)] = 1e-4


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    training: Training
    critic: Critic = field(default_factory=Critic)
    middle: Middle = field(default_factory=Middle)
    note: str | None = None


TABLE = {"name": "lite", "training": {"steps": 10}, "middle": {"inner": {"rate": 0.25}}}
SHIPPED = [
    pytest.param(kind, entry, id=f"{room}/{entry.name}")
    for kind, room in ((StyleRecipe, "style"), (SegmenterRecipe, "segmenter"))
    for entry in resources.files("nucstyle.recipes").joinpath(room).iterdir()
    if entry.name.endswith(".toml")
]


def refusal(action):
    """The one line that an error says."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def settled(*overrides):
    """The config after `--set`."""
    return build(Recipe, with_overrides(Recipe, TABLE, overrides), where="recipe lite")


@pytest.mark.parametrize(
    ("text", "value"),
    [("4,5", (4, 5)), (" 4 , 5 ", (4, 5)), ("4", (4,)), ("[4, 5]", (4, 5)), ("", ()), ("[]", ()), ("4,", (4,))],
)
def test_several_values_may_be_given_with_commas(text, value):
    assert settled(f"sizes={text}").middle.inner.sizes == value


@pytest.mark.parametrize("text", ["inf", "[1.0, inf]", "1.0,nan"])
def test_every_number_of_several_must_be_finite(text):
    table = with_overrides(SegmenterRecipe, {"name": "lite"}, [f"anchor_ratios={text}"])
    assert "'segmenter.anchor_ratios': a number must be finite" in refusal(
        lambda: build(SegmenterRecipe, table, where="--set")
    )


def test_a_table_is_not_taken_for_several_values():
    table = with_overrides(StyleConfig, {}, ["targets={one = 1, two = 2}"])
    assert table == {"targets": {"one": 1, "two": 2}}
    refusal(lambda: build(StyleConfig, table, where="--set"))


def test_several_words_may_be_given_with_commas_and_with_brackets_that_a_shell_took_the_quotes_from():
    table = with_overrides(StyleConfig, {}, ["targets=grey-on-white,pink-on-purple"])
    assert table == with_overrides(StyleConfig, {}, ["targets=[grey-on-white, pink-on-purple]"])
    assert build(StyleConfig, table, where="--set").targets == ("grey-on-white", "pink-on-purple")


def test_what_is_not_given_has_its_default_and_lists_become_tuples():
    recipe = build(Recipe, {**TABLE, "middle": {"inner": {"sizes": [4]}}}, where="recipe lite")
    assert recipe == Recipe(name="lite", training=Training(steps=10), middle=Middle(inner=Inner(sizes=(4,))))


def test_an_unknown_key_is_refused_with_the_one_that_was_meant():
    message = refusal(lambda: build(Recipe, {**TABLE, "trainign": {}}, where="my.toml"))
    assert message == "my.toml: unknown key 'trainign'; did you mean 'training'?"


def test_an_unknown_key_inside_a_table_is_named_with_its_path():
    table = {**TABLE, "training": {"steps": 3, "learning_rat": 1}}
    message = refusal(lambda: build(Recipe, table, where="my.toml"))
    assert message == "my.toml: unknown key 'training.learning_rat'; did you mean 'learning_rate'?"


def test_an_unknown_key_like_no_other_is_refused_with_those_there_are():
    message = refusal(lambda: build(Inner, {"zzz": 1}, where="my.toml"))
    assert message == "my.toml: unknown key 'zzz'; known: rate, sizes"


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ({"steps": "many"}, "training.steps", "'many'"),
        ({"steps": 3.5}, "training.steps", "3.5"),
        ({"steps": [3]}, "training.steps", "[3]"),
        ({"steps": 0}, "training.steps", "0"),
        ({"steps": 3, "learning_rate": -1e-3}, "training.learning_rate", "-0.001"),
        ({"steps": 3, "learning_rate": 0}, "training.learning_rate", "0"),
        ({"steps": 3, "learning_rate": float("inf")}, "training.learning_rate", "inf"),
        ({"steps": 3, "learning_rate": float("nan")}, "training.learning_rate", "nan"),
        ({"steps": 3, "precision": "fp16"}, "training.precision", "'fp16'"),
        ({}, "training.steps", "{}"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_its_file_its_key_and_itself(table, key, value):
    message = refusal(lambda: build(Recipe, {**TABLE, "training": table}, where="my.toml"))
    assert message.startswith(f"my.toml: '{key}': ")
    assert message.endswith(f", got {value}")


def test_a_plain_value_where_a_table_belongs_is_refused():
    message = refusal(lambda: build(Recipe, {**TABLE, "training": 3}, where="my.toml"))
    assert message == "my.toml: 'training' is a table of settings, got 3"
    message = refusal(lambda: with_overrides(Recipe, {**TABLE, "training": 3}, ["steps=5"]))
    assert message == "--set steps=5: 'training' is a table of settings, but the recipe has 3 there"


@pytest.mark.parametrize("text", ["steps = ", "[training\n", "a = 1\na = 2\n", "<html>", "\0", "a = " + "[" * 5000])
def test_text_that_is_no_toml_is_refused_with_its_file(text):
    assert refusal(lambda: read_toml(text, where="my.toml")).startswith("my.toml: not ")


def test_set_finds_a_key_by_its_last_part_or_its_whole_path():
    assert settled("steps=5").training.steps == 5
    assert settled("training.steps=5").training.steps == 5
    assert settled("critic.learning_rate=0.5").critic.learning_rate == 0.5
    assert settled("inner.rate=0.75", "middle.depth=3").middle == Middle(inner=Inner(rate=0.75), depth=3)


def test_set_of_a_whole_path_comes_before_the_end_of_another():
    recipe = settled("name=mine")
    assert (recipe.name, recipe.middle.name) == ("mine", "middle")
    assert settled("middle.name=mine").middle.name == "mine"


def test_the_last_of_two_set_options_counts():
    assert settled("steps=5", "steps=6").training.steps == 6


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("bf16", "bf16"),
        ('"bf16"', "bf16"),
        ("", ""),
        ("1e-4", 1e-4),
        ("[1, 2]", [1, 2]),
        ("8 # px", 8),
        ("a = b", "a = b"),
    ],
)
def test_set_reads_a_value_as_toml_and_failing_that_as_text(text, value):
    assert with_overrides(Training, {}, [f"precision={text}"]) == {"precision": value}


def test_a_typo_in_set_is_refused_with_the_key_that_was_meant():
    assert refusal(lambda: settled("stesp=5")) == "--set stesp=5: unknown key 'stesp'; did you mean 'steps'?"
    assert "did you mean 'training.steps'?" in refusal(lambda: settled("trainin.steps=5"))


def test_a_key_that_stands_in_two_tables_is_refused_with_both():
    message = refusal(lambda: settled("learning_rate=1"))
    assert message == ("--set learning_rate=1: 'learning_rate' could be training.learning_rate or critic.learning_rate")


@pytest.mark.parametrize("override", ["steps", "", "steps 5"])
def test_set_without_an_equals_sign_is_refused(override):
    assert refusal(lambda: settled(override)) == f"--set {override}: write it as key=value"


@pytest.mark.parametrize("override", ["=5", ".=5", "training.=5", ".steps=5", "training=5", "steps.training=5"])
def test_set_of_something_that_is_no_setting_is_refused(override):
    assert refusal(lambda: settled(override)).startswith(f"--set {override}: unknown key ")


def test_a_value_that_set_gives_is_checked_like_one_of_a_file():
    assert refusal(lambda: settled("steps=-5")) == (
        "recipe lite: 'training.steps': input should be greater than or equal to 1, got -5"
    )


def test_set_leaves_the_table_it_is_given_as_it_was():
    table = {"training": {"steps": 10}, "middle": {"inner": {"rate": 0.25}}}
    changed = with_overrides(Recipe, table, ["steps=5", "rate=0.5"])
    assert changed == {"training": {"steps": 5}, "middle": {"inner": {"rate": 0.5}}}
    assert table == {"training": {"steps": 10}, "middle": {"inner": {"rate": 0.25}}}


HOSTILE = (
    "__import__('pathlib').Path('touched').touch()",
    "$import pathlib; pathlib.Path('touched').touch()",
    "$(touch touched)",
    "`touch touched`",
    "; touch touched",
    "| touch touched",
    "!!python/object/apply:os.system ['touch touched']",
    "!!python/object/new:os.system ['touch touched']",
    "${oc.env:HOME}",
    "{{ self.__init__.__globals__ }}",
    "%(name)s",
    "@touch touched",
    "file:///etc/passwd",
    "eval(\"open('touched', 'w')\")",
    "exec:open('touched', 'w')",
    "lambda: open('touched', 'w')",
    "os.system('touch touched')",
    "cos\nsystem\n(S'touch touched'\ntR.",
    "x\nsteps = 99",
    "1\nsteps = 99",
    '1\n[training]\nsteps = "99"',
    "[" * 5000,
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_value_is_text_and_nothing_else(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = settled(f"note={text}")
    assert recipe.note == text
    assert recipe.training.steps == 10
    assert refusal(lambda: settled(f"steps={text}")).startswith("recipe lite: 'training.steps': ")
    assert build(Recipe, read_toml(to_toml(to_table(recipe)), where="config.toml"), where="config.toml") == recipe
    assert list(tmp_path.iterdir()) == []


def test_what_is_none_is_left_out_of_the_table_and_comes_back_as_none():
    recipe = settled()
    assert recipe.note is None
    assert "note" not in to_table(recipe)
    assert to_table(settled("note=seen"))["note"] == "seen"
    assert build(Recipe, to_table(recipe), where="config.toml") == recipe


@pytest.mark.parametrize(("kind", "entry"), SHIPPED)
def test_a_shipped_recipe_comes_back_from_toml_as_it_went(kind, entry):
    recipe = build(kind, read_toml(entry.read_text(encoding="utf-8"), where=entry.name), where=entry.name)
    changed = build(kind, with_overrides(kind, to_table(recipe), ["steps=7", "gradient_clip=0.125"]), where="--set")
    assert (changed.training.steps, changed.training.gradient_clip) == (7, 0.125)
    assert changed != recipe
    for config in (recipe, changed):
        text = to_toml(to_table(config))
        assert build(kind, read_toml(text, where="config.toml"), where="config.toml") == config
        assert to_toml(read_toml(text, where="config.toml")) == text


@pytest.mark.parametrize(("kind", "entry"), SHIPPED)
def test_a_negative_rate_in_a_shipped_recipe_is_refused(kind, entry):
    table = with_overrides(kind, read_toml(entry.read_text(encoding="utf-8"), where=entry.name), ["learning_rate=-1"])
    message = refusal(lambda: build(kind, table, where=entry.name))
    assert message == f"{entry.name}: 'training.learning_rate': input should be greater than 0, got -1"
