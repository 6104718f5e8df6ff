import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from nucstyle.core import forks
from nucstyle.core.forks import can_fork, share_out
from nucstyle.core.protocols import SILENT, Silent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
AS_EVER = {"stage": "work", "unit": "piece", "progress": SILENT}


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    """Whatever the machine has."""
    monkeypatch.setattr(forks, "usable_cpus", lambda: 2)


@pytest.fixture
def note(tmp_path):
    """Notes a number and who worked on it, in a file that all processes add to."""
    place = tmp_path / "done"
    place.touch()

    def write(number):
        with place.open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        time.sleep(0.001)

    def read():
        return [tuple(int(word) for word in line.split()) for line in place.read_text().splitlines()]

    return write, read


@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000, 1001, 2345])
def test_every_number_is_worked_on_once(note, count, monkeypatch):
    write, read = note
    monkeypatch.setattr(time, "sleep", lambda _: None)
    share_out(write, count, **AS_EVER)
    assert sorted(number for number, _ in read()) == list(range(count))


def test_several_processes_work_and_none_is_left(note):
    write, read = note
    share_out(write, 100, **AS_EVER)
    workers = {worker for _, worker in read()}
    assert os.getpid() in workers
    assert len(workers) == 2
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: 1 / 0, lambda: sys.exit(3)])
def test_another_process_that_ends_takes_nothing_with_it(note, capfd, end):
    write, read = note
    here = os.getpid()

    def work(number):
        if os.getpid() != here:
            end()
        write(number)

    share_out(work, 50, **AS_EVER)
    assert {worker for _, worker in read()} == {here}
    assert len(read()) >= 49, "all but what the other had begun"
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_raised_here_is_raised_and_the_others_are_ended(note):
    write, _ = note
    here = os.getpid()

    def work(number):
        if os.getpid() == here:
            raise ValueError("mine")
        write(number)
        time.sleep(60)

    began = time.monotonic()
    with pytest.raises(ValueError, match="mine"):
        share_out(work, 50, **AS_EVER)
    assert time.monotonic() - began < 30
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_torch_has_one_thread_meanwhile_and_its_own_number_afterwards():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def work(_):
        seen.append(torch.get_num_threads())
        time.sleep(0.01)

    try:
        share_out(work, 20, **AS_EVER)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_torch_works_in_another_process_after_it_had_threads_here(tmp_path):
    many = torch.ones(1 << 20)
    torch.set_num_threads(2)
    assert (many + many).sum() == 2 << 20
    here = os.getpid()

    def work(number):
        if os.getpid() != here:
            (tmp_path / f"{number}").write_text(str(float((many + many).sum())))
        time.sleep(0.02)

    share_out(work, 20, **AS_EVER)
    assert {file.read_text() for file in tmp_path.iterdir()} == {str(float(2 << 20))}


def test_the_person_sees_how_far_it_is(note):
    class Shown(Silent):
        def __init__(self):
            self.began, self.steps = [], []

        def start(self, stage, total, unit):
            self.began.append((stage, total, unit))

        def advance(self, done, values=None):
            self.steps.append(done)

    shown = Shown()
    share_out(note[0], 50, stage="work", unit="piece", progress=shown)
    assert shown.began == [("work", 50, "piece")]
    assert shown.steps == sorted(set(shown.steps))
    assert 40 < shown.steps[-1] <= 50


_WAITS = """
import os, time
from nucstyle.core import forks
from nucstyle.core.protocols import SILENT
forks.usable_cpus = lambda: 2
here = os.getpid()
def work(number):
    os.write(1, f"{os.getpid() == here} {os.getpid()}\\n".encode())
    time.sleep(60)
forks.share_out(work, 1000, stage="", unit="", progress=SILENT)
"""


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a container may have nobody who buries them
    except OSError:
        return False


def test_the_others_end_when_this_process_is_killed_whatever_they_do():
    with subprocess.Popen([sys.executable, "-c", _WAITS], stdout=subprocess.PIPE, text=True) as process:
        other = next(int(line.split()[1]) for line in process.stdout if line.startswith("False"))
        assert is_running(other)
        process.kill()
        deadline = time.monotonic() + 10
        while is_running(other) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(other)


_SIGNALLED = """
import os, signal, sys
from nucstyle.core import forks
from nucstyle.core.protocols import SILENT
forks.usable_cpus = lambda: 2
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
here, fork = os.getpid(), os.fork
def fork_and_signal():
    child = fork()
    if child == 0:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return child
os.fork = fork_and_signal
try:
    forks.share_out(lambda number: None, 10, stage="", unit="", progress=SILENT)
finally:
    print("here" if os.getpid() == here else "a twin", flush=True)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_right_after_the_fork_ends_the_other_and_nothing_else(name):
    said = subprocess.run([sys.executable, "-c", _SIGNALLED, name], capture_output=True, text=True, timeout=60)
    assert (said.stdout, said.stderr, said.returncode) == ("here\n", "", 0)


def test_signals_are_heard_here_afterwards(note):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    share_out(note[0], 5, **AS_EVER)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_all_is_done_here_where_there_can_be_no_other_process(note, monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    write, read = note
    share_out(write, 20, **AS_EVER)
    assert read() == [(number, os.getpid()) for number in range(20)]


def test_it_does_not_matter_that_nobody_wants_to_hear_of_children(note):
    write, read = note
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        share_out(write, 20, **AS_EVER)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert sorted(number for number, _ in read()) == list(range(20))


def test_processes_of_one_training_share_the_processors(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not can_fork()


def test_a_thread_does_not_fork():
    told = []
    thread = threading.Thread(target=lambda: told.append(can_fork()))
    thread.start()
    thread.join()
    assert told == [False]
    assert can_fork()


def test_one_processor_does_not_fork(monkeypatch):
    monkeypatch.setattr(forks, "usable_cpus", lambda: 1)
    assert not can_fork()
