"""A way to run verbs in-process, and one tiny demo that several tests look at."""

from __future__ import annotations

import shutil

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from nucstyle.augment.style import StyleTransfer
from nucstyle.cli import app
from nucstyle.workflows.demo import demo

TINY_DEMO = ("style_steps=3", "segmenter_steps=8", "checkpoint_every=4", 'tta=["none"]')


@pytest.fixture
def run_verb(tmp_path, monkeypatch):
    """`run_verb("info", "--out", "x")` runs a verb in an empty working folder and returns its result."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def assert_refused():
    """`assert_refused(result, *words)`: exit code 2, no traceback, and one line that holds these words."""

    def check(result, *words):
        assert result.exit_code == 2, result.output
        (line,) = (line for line in result.stderr.splitlines() if line.startswith("nucstyle: "))
        for word in words:
            assert str(word) in line
        assert "Traceback" not in result.output

    return check


@pytest.fixture(scope="session")
def tiny_settings():
    """The settings of the tiny demo."""
    return TINY_DEMO


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory, worker_id):
    """The run folder of a demo of a few steps; of several test workers, the first makes it for all."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    out = shared / "tiny-demo" / "demo-run"
    with FileLock(shared / "tiny-demo.lock"):
        if not (out / "report.html").exists():
            demo(out, overrides=TINY_DEMO)
    return out


@pytest.fixture
def demo_copy(tiny_demo, tmp_path):
    """A copy of the tiny demo, for tests that open the run: several workers share the original."""
    out = tmp_path / "copy" / "demo-run"
    shutil.copytree(tiny_demo, out)
    return out


@pytest.fixture
def no_lift(monkeypatch):
    """Dim nuclei must stay as they are."""

    def fail(*_, **__):
        pytest.fail("an image was lifted that is to be restyled as it is")

    monkeypatch.setattr(StyleTransfer, "_lifted", fail)
