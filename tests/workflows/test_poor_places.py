"""Places that cannot be written, inputs that are none, no home and no network: told at once, or worked with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from nucstyle.core.errors import InputError
from nucstyle.core.protocols import Silent
from nucstyle.workflows.translate import translate

READERS = {
    "discover": ("discover", "data", "--out", "out", "--k", "2"),
    "train-style": ("train-style", "data", "--out", "out", "--set", "steps=1"),
    "train-segmenter": ("train-segmenter", "data", "--out", "out", "--set", "steps=1"),
    "augment": ("augment", "data", "out"),
    "translate": ("translate", "data", "--out", "out"),
    "predict": ("predict", "data", "--out", "out", "--tta", "none"),
    "evaluate": ("evaluate", "data", "data/labels", "--out", "out"),
    "evaluate-style": ("evaluate-style", "data", "--style", "dsb2018", "--out", "out"),
}
"""Verbs that read `data` and write `out`."""
WRITERS = {
    **READERS,
    "demo": ("demo", "--out", "out"),
    "fetch": ("fetch", "dsb2018", "out"),
    "info": ("info", "--out", "out"),
}


def snapshot(folder):
    """Everything in a folder, with its times."""
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


# Where nothing can be written


@pytest.fixture
def unreadable(write_pairs):
    """Data whose images are damaged: a verb that had looked at them before its target would say so."""
    folder = write_pairs("data")
    for image in (folder / "images").iterdir():
        image.write_bytes(b"damaged")
    return folder


@pytest.mark.parametrize("verb", WRITERS)
def test_a_file_in_the_place_of_the_output_is_refused_before_any_work(
    assert_refused, run_verb, unreadable, tmp_path, verb
):
    (tmp_path / "out").write_text("mine")
    assert_refused(run_verb(*WRITERS[verb]), "out: is a file")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("verb", WRITERS)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    assert_refused, run_verb, unreadable, tmp_path, monkeypatch, verb
):
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and may(path, mode, **more))
    assert_refused(run_verb(*WRITERS[verb]), "out: ", "cannot be written")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["discover", "augment", "translate", "predict", "evaluate"])
def test_nothing_is_written_beside_what_is_read(run_verb, write_pairs, verb):
    folder = write_pairs("data", fluorescence=2, stained=1)
    before = snapshot(folder)
    result = run_verb(*READERS[verb])
    assert result.exit_code == 0, result.output
    assert snapshot(folder) == before


# Inputs that are none


@pytest.mark.timeout(200)
@pytest.mark.parametrize("verb", ["augment", "translate", "predict"])
def test_what_is_no_file_is_listed_at_the_end_and_the_others_are_done(
    assert_refused, run_verb, write_pairs, tmp_path, verb
):
    images = write_pairs("data", fluorescence=2, stained=1) / "images"
    os.mkfifo(images / "pipe.png")
    (images / "loop.png").symlink_to("loop.png")
    (images / "folder.png").mkdir()
    assert_refused(run_verb(*READERS[verb]), "3 of 6", "pipe.png", "loop.png", "folder.png")
    written = {path.name for path in (tmp_path / "out").rglob("*")}
    assert all(any(name.startswith(f"field-{number}") for name in written) for number in range(3))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("verb", ["discover", "train-style", "train-segmenter"])
def test_what_is_no_file_is_refused_where_all_images_are_needed(assert_refused, run_verb, write_pairs, tmp_path, verb):
    os.mkfifo(write_pairs("data") / "images" / "pipe.png")
    labels = tmp_path / "data" / "labels"
    shutil.copy(labels / "field-0.png", labels / "pipe.png")  # or the missing labels would be told first
    assert_refused(run_verb(*READERS[verb]), "pipe.png")
    assert not (tmp_path / "out").exists()


class Vanishing(Silent):
    """Deletes a file as soon as the stage that reads it begins."""

    def __init__(self, path, stage):
        self.path, self.stage = path, stage

    def start(self, stage, total, unit):
        if stage.startswith(self.stage):
            self.path.unlink()


def test_an_image_that_vanishes_during_the_work_is_listed_and_the_others_are_done(write_pairs, tmp_path):
    """Of predict and augment, see `test_changing_input.py`."""
    folder = write_pairs("data", fluorescence=2, stained=1)
    gone = folder / "images" / "field-1.png"
    with pytest.raises(InputError, match=f"1 of 3 .*{gone}"):
        translate(folder, tmp_path / "out", progress=Vanishing(gone, "restyle"))
    written = {path.name for path in (tmp_path / "out").rglob("*")}
    assert all(any(name.startswith(f"field-{number}") for name in written) for number in (0, 2))
    assert not gone.exists()


# Processes without a home, a folder or a network

WITHOUT_HOME = """
import os, pwd
def nobody(*_): raise KeyError("no such user")
pwd.getpwuid = nobody
for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NUCSTYLE_CACHE", "USERPROFILE"): os.environ.pop(name, None)
"""
WITHOUT_NETWORK = """
import socket
def refuse(*_, **__): raise AssertionError("somebody wanted the network")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
"""
RUN = """
import sys
import nucstyle
from nucstyle.cli import app
app(sys.argv[1:], windows_expand_args=False)
"""


def run_apart(code, *arguments, folder):
    """A process of its own that runs code and then a verb."""
    command = [sys.executable, "-c", code + RUN, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800, check=False)


@pytest.mark.slow  # matplotlib looks through all fonts when it has nowhere to keep what it found
@pytest.mark.timeout(900)
def test_somebody_without_a_home_can_work(write_pairs, tmp_path):
    write_pairs("data", fluorescence=2, stained=2)
    finished = run_apart(WITHOUT_HOME, *READERS["discover"], folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["data", "out"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", ["train-style", "train-segmenter"])
def test_training_wants_no_network(write_pairs, tmp_path, verb):
    write_pairs("data", fluorescence=2, stained=2)
    small = {
        "train-style": ("judge_steps=0", "width=4", "size_px=32"),
        "train-segmenter": ("size_px=64", "batch_size=1", "pyramid_channels=16", "box_head_size=32", "mask_layers=1"),
    }
    settings = [word for one in small[verb] for word in ("--set", one)]
    finished = run_apart(WITHOUT_NETWORK, *READERS[verb], *settings, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "out" / "weights.safetensors").is_file()


@pytest.mark.timeout(900)
def test_import_and_prediction_want_no_network(write_pairs, tmp_path):
    write_pairs("data", fluorescence=1, stained=0)
    finished = run_apart(WITHOUT_NETWORK, *READERS["predict"], folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "out" / "predictions" / "field-0_labels.tif").is_file()


def test_a_working_folder_that_was_deleted_is_told_in_one_line(tmp_path):
    """torch's MKL would end the process."""
    leave = "import os\nos.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')\n"
    finished = run_apart(leave, "info", folder=tmp_path)
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr == "nucstyle: the working folder was deleted; change to one that is there\n"
