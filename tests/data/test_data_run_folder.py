import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from nucstyle.core.errors import ConfigMismatchError, FolderInUseError, RunFolderError
from nucstyle.data import run_folder
from nucstyle.data.run_folder import (
    CONFIG,
    RESULT,
    RunFolder,
    check_target,
    read_config,
    read_json,
    settled,
    write_json,
)

CONFIG_TABLE = {"verb": "train-style", "seed": 0, "recipe": {"name": "lite", "training": {"steps": 10, "rate": 1e-3}}}


@pytest.fixture
def old(tmp_path):
    """A finished run."""
    with RunFolder.open(tmp_path / "run", CONFIG_TABLE) as run:
        run.write_result({"score": 1})
        (run.path / "checkpoints").mkdir()
        (run.path / "checkpoints" / "step-000010").write_text("weights")
    return run.path


def start(path, config=None, **options):
    """Open a run folder and close it again."""
    with RunFolder.open(path, config or CONFIG_TABLE, **options) as run:
        return run


def snapshot(folder):
    """Everything in a folder but the lock."""
    return {
        str(file.relative_to(folder)): file.read_bytes() if file.is_file() else None
        for file in folder.rglob("*")
        if file.name != ".lock"
    }


# Targets


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("exists", [True, False])
def test_an_absent_or_empty_folder_is_always_fine(tmp_path, options, exists):
    path = tmp_path / "deep/run"
    if exists:
        path.mkdir(parents=True)
    run = start(path, **options)
    assert read_config(run.path) == CONFIG_TABLE
    assert not run.is_finished()
    assert snapshot(path).keys() == {CONFIG}


def test_a_folder_that_holds_a_run_is_refused_with_the_two_ways_out(old, refusal):
    before = snapshot(old)
    message = refusal(RunFolderError, start, old)
    assert (
        message
        == f"{old}: holds a run of train-style; add --overwrite to replace it or, where the verb has it, --resume to go on"
    )
    assert snapshot(old) == before


def test_overwriting_replaces_a_run_of_ours_whole(old):
    start(old, {"verb": "predict"}, overwrite=True)
    assert snapshot(old) == {CONFIG: b'verb = "predict"\n'}


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", ["thesis.docx", "settings.toml", "sub/config.toml"])
def test_a_folder_of_somebody_elses_is_never_touched(tmp_path, refusal, options, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('verb = "x"')
    before = snapshot(tmp_path)
    message = refusal(RunFolderError, start, tmp_path, **options)
    assert message == f"{tmp_path}: holds files but no config.toml of a run; choose another folder"
    assert snapshot(tmp_path) == before
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("content", [b"title = 'a Hugo site'\n", b"verb = ", b"\xff\xfe\x00", b""])
def test_a_config_of_another_program_or_a_damaged_one_gives_no_leave_to_delete(tmp_path, refusal, options, content):
    (tmp_path / CONFIG).write_bytes(content)
    (tmp_path / "thesis.docx").write_bytes(b"years of work")
    before = snapshot(tmp_path)
    assert "damaged or was not written by nucstyle" in refusal(RunFolderError, start, tmp_path, **options)
    assert snapshot(tmp_path) == before


def test_both_flags_are_refused(tmp_path, old, refusal):
    for path in (old, tmp_path / "new"):
        message = refusal(RunFolderError, start, path, resume=True, overwrite=True)
        assert message == "--resume and --overwrite exclude each other; give one of them"
    assert (old / RESULT).exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_in_the_way_is_refused(tmp_path, refusal, below):
    (tmp_path / "notes.txt").write_text("mine")
    path = tmp_path / "notes.txt" / below
    message = refusal(RunFolderError, start, path, overwrite=True)
    assert message.startswith(f"{path}: cannot be written: Not a directory" if below else f"{path}: is a file; ")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, refusal, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((Path(path), mode)))
    path = tmp_path / "deep/run"
    for action in (lambda: start(path), lambda: check_target(path, resume=False, overwrite=False)):
        assert refusal(RunFolderError, action) == f"{path}: {tmp_path} cannot be written; choose another folder"
    assert asked == [(tmp_path, os.W_OK)] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path, refusal, monkeypatch):
    def fail(path, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", fail)
    message = refusal(RunFolderError, start, tmp_path / "run")
    assert message == f"{tmp_path / 'run'}: cannot be written: No space left on device; choose another folder"


# Inputs


@pytest.mark.parametrize("given", ["data", "data/images", "data/images/*.png", "data/x/../manifest.csv"])
def test_a_run_on_top_of_what_it_reads_is_refused(tmp_path, refusal, given):
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/manifest.csv").write_text("id,image\n")
    before = snapshot(tmp_path)
    message = refusal(RunFolderError, start, tmp_path / "data", inputs=(tmp_path / "other", tmp_path / given))
    assert message == (
        f"{tmp_path / 'data'}: the output folder would hold the input {tmp_path / given}; choose another folder"
    )
    assert snapshot(tmp_path) == before


def test_a_run_that_reaches_its_input_by_a_link_or_a_detour_is_refused(tmp_path, refusal):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for out in (tmp_path / "link", tmp_path / "x/../data"):
        assert "would hold the input" in refusal(RunFolderError, start, out, inputs=(tmp_path / "data",))


def test_not_even_overwriting_puts_a_run_on_top_of_its_input(old, refusal):
    before = snapshot(old)
    weights = old / "checkpoints/step-000010"
    assert "would hold the input" in refusal(RunFolderError, start, old, overwrite=True, inputs=(weights,))
    assert snapshot(old) == before


def test_a_run_beside_its_input_is_fine(tmp_path):
    (tmp_path / "data").mkdir()
    start(tmp_path / "data-run", inputs=(tmp_path / "data", tmp_path))


# Going on


def test_going_on_in_the_same_config_keeps_everything(old):
    before = snapshot(old)
    assert start(old, resume=True).is_finished()
    assert snapshot(old) == before


@pytest.mark.parametrize(
    ("change", "key", "was", "now"),
    [
        ({"seed": 1}, "seed", "0", "1"),
        ({"verb": "predict"}, "verb", "'train-style'", "'predict'"),
        ({"recipe": {"name": "lite", "training": {"steps": 20, "rate": 1e-3}}}, "recipe.training.steps", "10", "20"),
        ({"recipe": {"name": "lite", "training": {"steps": 10}}}, "recipe.training.rate", "0.001", "None"),
        ({"new": True}, "new", "None", "True"),
    ],
)
def test_going_on_in_another_config_is_refused_with_the_key_and_both_values(old, refusal, change, key, was, now):
    before = snapshot(old)
    message = refusal(ConfigMismatchError, start, old, {**CONFIG_TABLE, **change}, resume=True)
    longer = "; to train longer, go on from this one in a new run with --init" if key.endswith("steps") else ""
    assert message == (
        f"{old}: cannot resume, {key} was {was} and is now {now}. Give all options as they were, or start a new run{longer}"
    )
    assert snapshot(old) == before


@pytest.mark.parametrize(
    ("table", "setting", "was", "now", "told"),
    [
        ({"style": {"p": 0.5}}, "style.sources", [], ["dapi"], "was [] and is now ['dapi']"),
        ({"style": {"p": 0.5}}, "style.lift", 1.0, 0.6, "was 1.0 and is now 0.6"),
        ({"inference": {"rescale_beyond": 2.5}}, "inference.shrink_beyond", 0.0, 1.6, "was 0.0 and is now 1.6"),
        ({"training": {"steps": 600}}, "training.rate_factor", 1.0, 10.0, "was 1.0 and is now 10.0"),
        ({"inference": {"clahe": True}}, "inference.clahe_clip_limit", 0.01, 0.02, "was 0.01 and is now 0.02"),
        ({"inference": {"clahe": True}}, "inference.clahe_tiles", 8, 4, "was 8 and is now 4"),
        ({"inference": {"clahe": True}}, "inference.clahe_darker_than", 0.25, 0.5, "was 0.25 and is now 0.5"),
    ],
)
def test_a_run_from_before_a_setting_goes_on_with_what_it_did(tmp_path, refusal, table, setting, was, now, told):
    [(part, settings)], name = table.items(), setting.partition(".")[2]

    def config(newer):
        return {"verb": "train-segmenter", "style_sha256": "", "recipe": {"name": "lite", part: settings | newer}}

    start(tmp_path / "run", config({}))
    start(tmp_path / "run", config({name: was}), resume=True)
    message = refusal(ConfigMismatchError, start, tmp_path / "run", config({name: now}), resume=True)
    assert f"recipe.{setting} {told} (newer than this run: --set {setting}={was} goes on with it). Give" in message


def test_what_nothing_is_restyled_by_does_not_count(tmp_path, refusal):
    def config(lift, **more):
        return {"verb": "train-segmenter", "recipe": {"name": "lite", "style": {"lift": lift}}, **more}

    start(tmp_path / "plain", config(1.0))
    start(tmp_path / "plain", config(0.6), resume=True)
    start(tmp_path / "styled", config(1.0, style_sha256="0" * 64))
    styled = config(0.6, style_sha256="0" * 64)
    assert "recipe.style.lift" in refusal(ConfigMismatchError, start, tmp_path / "styled", styled, resume=True)


def test_a_larger_data_set_from_before_lifts_goes_on_without(tmp_path, refusal):
    def config(**newer):
        return {"verb": "augment", "copies": 3, **newer}

    start(tmp_path / "old", config())
    message = refusal(ConfigMismatchError, start, tmp_path / "old", config(lift=0.6), resume=True)
    assert "lift was 1.0 and is now 0.6 (newer than this run: --lift 1.0 goes on with it). Give" in message
    start(tmp_path / "old", config(lift=1.0), resume=True)
    assert "lift" not in settled({"verb": "predict"})


def test_a_run_from_before_recipes_said_how_to_predict_goes_on_whatever_they_say_now(tmp_path, refusal):
    def config(**newer):
        return {"verb": "train-segmenter", "recipe": {"name": "deep-retina", "inference": {"score": 0.9, **newer}}}

    start(tmp_path / "old", config())
    start(tmp_path / "old", config(tta="deep-retina"), resume=True)
    start(tmp_path / "new", config(tta="fast"))
    message = refusal(ConfigMismatchError, start, tmp_path / "new", config(tta="deep-retina"), resume=True)
    assert "recipe.inference.tta was 'fast' and is now 'deep-retina'" in message


def test_several_differences_are_told_together_and_a_hash_in_words(tmp_path, refusal):
    config = {"verb": "demo", "a": 1, "b": 1, "c": 1, "data": {"ids_sha256": "aa", "images": 48}}
    start(tmp_path / "run", config)
    other = {**config, "data": {"ids_sha256": "bb", "images": 17}}
    message = refusal(ConfigMismatchError, start, tmp_path / "run", other, resume=True)
    assert "data.images was 48 and is now 17; data.ids has other files or modalities than before. Give" in message
    message = refusal(ConfigMismatchError, start, tmp_path / "run", {**other, "a": 2, "b": 2, "c": 2}, resume=True)
    assert "a was 1 and is now 2; b was 1 and is now 2; c was 1 and is now 2; and 2 more. Give" in message


def test_a_tuple_is_the_list_that_it_becomes_on_the_disk(tmp_path):
    start(tmp_path / "run", {"verb": "demo", "arms": ["none", "style"]})
    start(tmp_path / "run", {"verb": "demo", "arms": ("none", "style")}, resume=True)


def test_a_deletion_that_breaks_off_can_be_taken_up_again(old, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(run_folder.shutil, "rmtree", fail)
    with pytest.raises(OSError, match="Input/output error"):
        start(old, overwrite=True)
    monkeypatch.undo()
    assert (old / CONFIG).exists()
    start(old, {"verb": "predict"}, overwrite=True)
    assert snapshot(old).keys() == {CONFIG}


def test_overwriting_deletes_a_link_and_not_what_it_points_to(old, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("mine")
    (old / "link").symlink_to(tmp_path / "precious")
    start(old, overwrite=True)
    assert not (old / "link").is_symlink()
    assert (tmp_path / "precious/file").read_text() == "mine"


# Two at once

HOLDER = """
import sys, time
from pathlib import Path
from nucstyle.data.run_folder import RunFolder
with RunFolder.open(Path(sys.argv[1]), {"verb": "train-style", "seed": 0}):
    print("open", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_another_process_writes_is_refused_until_that_one_is_gone(tmp_path, refusal):
    path, config = tmp_path / "run", {"verb": "train-style", "seed": 0}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "open\n"
            before = snapshot(path)
            for options in ({"resume": True}, {"overwrite": True}):
                message = refusal(FolderInUseError, start, path, config, **options)
                assert message == f"{path}: in use by another nucstyle process; wait for it or choose another folder"
            assert snapshot(path) == before
        finally:
            holder.send_signal(signal.SIGKILL)
    start(path, config, resume=True)  # a lock whose owner was killed holds nobody up


def test_overwriting_spares_a_run_within_that_another_process_works_at(old, refusal):
    before = snapshot(old)
    with RunFolder.open(old / "full" / "none" / "seed-0", {"verb": "cell"}) as cell:
        cell.write_result({"step": 1})
        message = refusal(FolderInUseError, start, old, overwrite=True)
        assert message.startswith(f"{old}: another nucstyle process works at {cell.path}; stop it before --overwrite")
        assert (cell.path / "result.json").is_file()
        assert before.items() <= snapshot(old).items()
    start(old, overwrite=True)
    assert not (old / "full").exists()


def test_a_run_within_that_cannot_be_written_is_not_overwritten(old, refusal, monkeypatch):
    with RunFolder.open(old / "full" / "none" / "seed-0", {"verb": "cell"}) as cell:
        cell.write_result({"step": 1})

    class Closed(FileLock):
        def acquire(self, *arguments, **options):
            if "seed-0" in str(self.lock_file):
                raise PermissionError(13, "Permission denied")
            return super().acquire(*arguments, **options)

    monkeypatch.setattr(run_folder, "FileLock", Closed)
    message = refusal(RunFolderError, start, old, overwrite=True)
    assert message == f"{cell.path}: cannot be written: Permission denied; choose another folder"
    assert (cell.path / "result.json").is_file()


def test_a_folder_is_free_again_after_the_run_or_its_failure(tmp_path, refusal):
    path = tmp_path / "run"

    def fail():
        with RunFolder.open(path, CONFIG_TABLE):
            assert "in use" in refusal(FolderInUseError, start, path, resume=True)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    for _ in range(2):
        start(path, resume=True)


# Files


def test_equal_results_are_equal_bytes_whatever_the_order_of_their_keys(tmp_path):
    result = {"format": 1, "images": {"a": 0.1, "b": 1 / 3}, "verb": "evaluate"}
    turned = {"verb": "evaluate", "images": {"b": 1 / 3, "a": 0.1}, "format": 1}
    for name, value in (("one", result), ("two", turned)):
        with RunFolder.open(tmp_path / name, CONFIG_TABLE) as run:
            run.write_result(value)
            assert run.is_finished()
    written = (tmp_path / "one" / RESULT).read_bytes()
    assert written == (tmp_path / "two" / RESULT).read_bytes()
    assert read_json(tmp_path / "one" / RESULT) == result
    assert written.endswith(b"}\n")


def test_a_result_with_a_number_that_is_none_is_not_written(tmp_path):
    with RunFolder.open(tmp_path / "run", CONFIG_TABLE) as run:
        with pytest.raises(ValueError, match="not JSON compliant"):
            run.write_result({"score": float("nan")})
        assert not run.is_finished()
    assert snapshot(run.path).keys() == {CONFIG}


def test_a_full_disk_leaves_the_old_result_and_nothing_half_written(old, monkeypatch):
    write_text = Path.write_text

    def fill(path, text, **options):
        write_text(path, text[:3], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    before = snapshot(old)
    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match="No space left"):
        write_json(old / RESULT, {"score": 2})
    monkeypatch.undo()
    assert snapshot(old) == before


def test_the_environment_is_recorded_apart_from_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with RunFolder.open(tmp_path / "run", CONFIG_TABLE) as run:
        run.write_environment(device="cpu", precision="fp32")
    record = read_json(run.path / "environment.json")
    assert record["device"] == "cpu"
    assert {"python", "nucstyle", "torch", "torchvision", "numpy"} <= record["versions"].keys()
    assert record["started"]
    assert (record["threads"], record["instruction_set"]) == (torch.get_num_threads(), "DEFAULT")


def test_a_json_file_that_is_missing_is_refused_with_the_way_on(tmp_path, refusal):
    message = refusal(RunFolderError, read_json, tmp_path / RESULT)
    assert message == f"{tmp_path / RESULT}: missing; the run has not finished, go on with --resume"


@pytest.mark.parametrize("content", [b"", b'{"score": 1', b"\xff\xfe", b"[1, 2]", b"3", b"null", b"<html>"])
def test_a_json_file_that_is_damaged_is_refused_with_the_remedy(tmp_path, refusal, content):
    (tmp_path / RESULT).write_bytes(content)
    message = refusal(RunFolderError, read_json, tmp_path / RESULT)
    assert message.startswith(f"{tmp_path / RESULT}: ")
    assert message.endswith("run the verb again with --overwrite")


def test_a_json_file_that_cannot_be_read_is_refused(tmp_path, refusal):
    (tmp_path / RESULT).mkdir()
    assert "cannot be read" in refusal(RunFolderError, read_json, tmp_path / RESULT)


def test_a_folder_without_config_is_no_run(tmp_path, refusal):
    assert refusal(RunFolderError, read_config, tmp_path) == f"{tmp_path}: not a run folder (no config.toml in it)"


def test_the_config_comes_back_as_it_was_given(old):
    assert read_config(old) == CONFIG_TABLE
    assert json.loads(json.dumps(read_config(old))) == CONFIG_TABLE
