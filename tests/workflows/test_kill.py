"""kill -9, SIGTERM and Ctrl-C at any moment: nothing is half-written, and the resumed run ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from nucstyle.training.checkpoint import latest_checkpoint

pytestmark = pytest.mark.slow

DEMO = ("demo", "--set", "style_steps=6", "--set", "segmenter_steps=4", "--set", "checkpoint_every=2")
STYLE = ("--set", "width=4", "--set", "size_px=32", "--set", "checkpoint_every=1", "--k", "2")


def start(*arguments, cwd):
    command = [sys.executable, "-m", "nucstyle.cli", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def wait_for(path, process, seconds=240):
    """Until the file is there; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(1200)
def test_a_demo_killed_in_each_training_and_resumed_has_the_same_result(tmp_path):
    whole = start(*DEMO, "--out", "whole", cwd=tmp_path)
    assert whole.wait(600) == 0, whole.stderr.read()
    cells = "broken/full/{}/seed-0/checkpoints/step-000002"
    for place in ("broken/style/checkpoints/step-000002", cells.format("none"), cells.format("style")):
        resume = ("--resume",) if (tmp_path / "broken").exists() else ()
        process = start(*DEMO, "--out", "broken", *resume, cwd=tmp_path)
        wait_for(tmp_path / place, process)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert not (tmp_path / "broken" / "result.json").exists()
    last = start(*DEMO, "--out", "broken", "--resume", cwd=tmp_path)
    assert last.wait(600) == 0, last.stderr.read()
    for name in ("result.json", "style/weights.safetensors", "full/style/seed-0/weights.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.timeout(900)
def test_a_training_killed_at_random_moments_always_has_a_whole_checkpoint(write_pairs, tmp_path):
    write_pairs("data")
    moments = random.Random(0)
    arguments = ("train-style", "data", "--out", "run", "--set", "steps=100000", *STYLE)
    for life in range(12):
        process = start(*arguments, *(("--resume",) if life else ()), cwd=tmp_path)
        seen = latest_step(tmp_path / "run")
        deadline = time.monotonic() + 120
        while latest_step(tmp_path / "run") <= seen:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        warnings = []
        checkpoint = latest_checkpoint(tmp_path / "run", warnings)
        assert checkpoint is not None
        assert warnings == []


def latest_step(run):
    names = [path.name for path in (run / "checkpoints").glob("step-*") if path.suffix != ".part"]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_how_to_go_on(write_pairs, tmp_path, number, code):
    write_pairs("data")
    process = start("train-style", "data", "--out", "run", "--set", "steps=100000", *STYLE, cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "step-000001", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "--resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_second_process_is_kept_out_of_a_run(write_pairs, tmp_path):
    write_pairs("data")
    first = start("train-style", "data", "--out", "run", "--set", "steps=100000", *STYLE, cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "step-000001", first)
    second = start("train-style", "data", "--out", "run", "--resume", "--set", "steps=100000", *STYLE, cwd=tmp_path)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 2
    assert "in use" in errors
    first.kill()
    first.wait(60)


def test_a_closed_pipe_ends_quietly(tmp_path):
    command = f"{sys.executable} -m nucstyle.cli info | head -1"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert "Traceback" not in finished.stderr


def test_a_poor_terminal_does_not_matter(tmp_path):
    environment = {**os.environ, "LANG": "C", "LC_ALL": "C", "COLUMNS": "1", "TERM": "dumb", "HOME": "/nonexistent"}
    command = [sys.executable, "-m", "nucstyle.cli", "info"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
