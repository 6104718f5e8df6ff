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
STYLE = ("--set", "judge_steps=0", "--set", "width=4", "--set", "size_px=32", "--set", "checkpoint_every=1", "--k", "2")


class Verb:
    """A verb in a process of its own; what it says goes to a file."""

    def __init__(self, folder, number, arguments):
        self.said = folder / f"said-{number}.txt"
        command = [sys.executable, "-m", "nucstyle.cli", *map(str, arguments)]
        with self.said.open("w") as file:
            self.process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)

    @property
    def output(self):
        return self.said.read_text()

    def end(self, seconds=900):
        """Its exit code."""
        return self.process.wait(seconds)

    def wait_for(self, path, seconds=300):
        """Until the file is there; fails if the process ends before."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def send(self, number):
        self.process.send_signal(number)
        return self.process.wait(120)


@pytest.fixture
def start(tmp_path):
    """`start("demo", "--out", "run")` starts a verb in an empty folder; nothing outlives the test."""
    verbs = []

    def begin(*arguments):
        verbs.append(Verb(tmp_path, len(verbs), arguments))
        return verbs[-1]

    yield begin
    for verb in verbs:
        verb.process.kill()
        verb.process.wait(60)


@pytest.mark.timeout(1500)
def test_a_demo_killed_in_each_training_and_resumed_has_the_same_result(start, tmp_path):
    whole = start(*DEMO, "--out", "whole")
    assert whole.end() == 0, whole.output
    cells = "broken/full/{}/seed-0/checkpoints/step-000002"
    for place in ("broken/style/checkpoints/step-000002", cells.format("none"), cells.format("style")):
        verb = start(*DEMO, "--out", "broken", *(("--resume",) if (tmp_path / "broken").exists() else ()))
        verb.wait_for(tmp_path / place)
        verb.send(signal.SIGKILL)
        assert not (tmp_path / "broken" / "result.json").exists()
    last = start(*DEMO, "--out", "broken", "--resume")
    assert last.end() == 0, last.output
    for name in ("result.json", "style/weights.safetensors", "full/style/seed-0/weights.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.timeout(900)
def test_a_training_killed_at_random_moments_always_has_a_whole_checkpoint(start, write_pairs, tmp_path):
    write_pairs("data")
    moments = random.Random(0)
    arguments = ("train-style", "data", "--out", "run", "--set", "steps=100000", *STYLE)
    for life in range(12):
        verb = start(*arguments, *(("--resume",) if life else ()))
        verb.wait_for(tmp_path / "run" / "checkpoints" / f"step-{latest_step(tmp_path / 'run') + 1:06d}")
        time.sleep(moments.uniform(0, 0.3))
        verb.send(signal.SIGKILL)
        warnings = []
        checkpoint = latest_checkpoint(tmp_path / "run", warnings)
        assert checkpoint is not None
        assert warnings == []


def latest_step(run):
    names = [path.name for path in (run / "checkpoints").glob("step-*") if path.suffix != ".part"]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_how_to_go_on(start, write_pairs, tmp_path, number, code):
    write_pairs("data")
    verb = start("train-style", "data", "--out", "run", "--set", "steps=100000", *STYLE)
    verb.wait_for(tmp_path / "run" / "checkpoints" / "step-000001")
    assert verb.send(number) == code
    assert "--resume" in verb.output.splitlines()[-1]
    assert "Traceback" not in verb.output


def test_a_second_process_is_kept_out_of_a_run(start, write_pairs, tmp_path):
    write_pairs("data")
    arguments = ("train-style", "data", "--out", "run", "--set", "steps=100000", *STYLE)
    start(*arguments).wait_for(tmp_path / "run" / "checkpoints" / "step-000001")
    second = start(*arguments, "--resume")
    assert second.end() == 2
    assert "in use" in second.output


def test_a_closed_pipe_ends_quietly(tmp_path):
    command = f"{sys.executable} -m nucstyle.cli info | true; echo ${{PIPESTATUS[0]}}"  # nobody reads when it speaks
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (finished.stdout, finished.stderr) == ("0\n", "")


def test_a_poor_terminal_does_not_matter(tmp_path):
    environment = {**os.environ, "LANG": "C", "LC_ALL": "C", "COLUMNS": "1", "TERM": "dumb", "HOME": "/nonexistent"}
    command = [sys.executable, "-m", "nucstyle.cli", "info"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
