import re
import time

from nucstyle.workflows.console import ConsoleProgress


def rate_of(capsys):
    return float(re.search(r"([\d.]+)/s", capsys.readouterr().err.splitlines()[-1]).group(1))


def test_a_stage_of_one_unit_has_a_rate_too(capsys):
    progress = ConsoleProgress()
    progress.start("predict", 1, "image")
    time.sleep(0.05)
    progress.advance(1)
    assert 1 < rate_of(capsys) < 40


def test_what_came_before_the_first_unit_does_not_count(capsys):
    progress = ConsoleProgress()
    progress.start("train segmenter", 102, "step")
    progress.advance(100)  # gone on with
    time.sleep(0.1)
    progress.advance(102)
    assert 2 < rate_of(capsys) < 40
