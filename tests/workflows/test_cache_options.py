"""What verbs keep of decoded images, and that they do without where nothing can be kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from nucstyle.data import pixel_cache
from nucstyle.data.cache import FOLDER_VARIABLE, cache_bytes, cache_folder
from nucstyle.data.pixel_cache import KIND


@pytest.fixture
def scored(write_pairs, tmp_path, monkeypatch):
    """Data and their labels as predictions, which `evaluate` scores without a network; files count as old at once."""
    monkeypatch.setattr(pixel_cache, "_SETTLED_NS", -(10**12))
    folder = write_pairs("data")
    shutil.copytree(folder / "labels", tmp_path / "predicted")
    return ("evaluate", folder, tmp_path / "predicted")


def kept():
    return {path.name for path in (cache_folder() / KIND).rglob("*") if path.is_file()}


def test_a_verb_keeps_what_it_decoded_unless_told_otherwise(run_verb, scored):
    assert run_verb(*scored, "--no-cache").exit_code == 0
    assert not kept()
    first = run_verb(*scored)
    assert first.exit_code == 0
    assert len(kept()) == 2 * 16  # two names an entry
    for option in ((), ("--verify",), ("--no-cache",)):
        assert run_verb(*scored, *option).output.splitlines()[-2:] == first.output.splitlines()[-2:]
    assert len(kept()) == 2 * 16


@pytest.mark.parametrize("verb", ["evaluate", "train-style", "train-segmenter", "augment", "evaluate-style", "compare"])
def test_every_verb_that_reads_masks_can_verify_or_do_without(run_verb, verb):
    shown = run_verb(verb, "--help").output
    assert "--no-cache" in shown
    assert "--verify" in shown


def test_verifying_nothing_is_refused(run_verb, scored):
    result = run_verb(*scored, "--verify", "--no-cache")
    assert result.exit_code == 2
    assert "--verify and --no-cache exclude each other; give one of them" in result.output


def test_info_says_where_the_cache_is_and_what_it_takes_but_no_path_gets_into_a_result(run_verb, scored, tmp_path):
    run_verb(*scored)
    (cache_folder() / "more").write_bytes(bytes(3_000_000))
    assert 3_000_000 < cache_bytes() < 5_000_000
    result = run_verb("info", "--out", "told")
    line = next(line for line in result.output.splitlines() if line.startswith("cache: "))
    assert line == f"cache: {cache_folder()} ({cache_bytes() / 1e6:.0f} MB; may be deleted at any time)"
    assert str(cache_folder()) not in (tmp_path / "told/result.json").read_text()
    assert json.loads((tmp_path / "told/result.json").read_text())["verb"] == "info"


def test_prediction_keeps_nothing(run_verb, scored, tiny_demo):
    weights = tiny_demo / "full/none/seed-0"
    result = run_verb("predict", scored[1], "--out", "predicted-again", "--weights", weights, "--tta", "none")
    assert result.exit_code == 0, result.output
    assert not kept()


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/proc/nowhere", "a file"])
def test_a_person_whose_home_cannot_be_written_goes_without(scored, tmp_path, home):
    (tmp_path / "a file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    plain = {name: value for name, value in os.environ.items() if name not in (FOLDER_VARIABLE, "XDG_CACHE_HOME")}
    finished = subprocess.run(
        [sys.executable, "-m", "nucstyle.cli", *map(str, scored)],
        capture_output=True,
        text=True,
        timeout=250,
        env={**plain, "HOME": str(tmp_path / home)},
        cwd=tmp_path,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "DSB score    1.000" in finished.stdout
    assert sorted(tmp_path.rglob("*")) == before
