"""The loop of both trainings, with a trainer that only counts."""

import json
import math
import os
import signal
import threading
from itertools import pairwise

import pytest
import torch

from nucstyle.core.config import build
from nucstyle.core.errors import ConfigError, Interrupted, RunFolderError, TrainingError
from nucstyle.training import loop
from nucstyle.training.checkpoint import latest_checkpoint, save_checkpoint
from nucstyle.training.logbook import Logbook
from nucstyle.training.loop import (
    LoopConfig,
    NonFiniteLossError,
    check_finite,
    check_gradient,
    constant_then_linear,
    one_cycle,
    run_loop,
    set_rate,
    stop_requests,
)


class Counting:
    """Takes steps by writing them down; its state is their sum."""

    def __init__(self, *, bad=(), signals=None):
        self.sum = torch.tensor(0.0)
        self.steps, self.restored = [], []
        self.bad = set(bad)
        """Steps whose loss is not a number."""
        self.signals = signals or {}
        """Signals that arrive during a step."""

    def step(self, step):
        self.steps.append(step)
        for number in self.signals.get(step, ()):
            os.kill(os.getpid(), number)
        if step in self.bad:
            raise NonFiniteLossError({"good": 1.0, "cycle": math.nan, "kl": math.inf})
        self.sum = self.sum + step
        return {"loss": torch.tensor(1.0 / step), "sum": self.sum}

    def tensors(self):
        return {"sum": self.sum}

    def restore(self, checkpoint):
        self.restored.append(checkpoint.step)
        self.sum = checkpoint.tensors["sum"]


@pytest.fixture
def train(tmp_path, progress):
    """`train(trainer, steps=..., ...)` runs the loop in a folder of the test's own."""

    def run(trainer, *, snapshot=None, **config):
        settled = LoopConfig(**{"steps": 10, "checkpoint_every": 4, "log_every": 2, **config})
        run_loop(trainer, tmp_path, settled, stage="count", progress=progress, snapshot=snapshot)
        return trainer

    return run


def saved_steps(run):
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").iterdir())


def test_every_step_is_taken_once_in_order(train, progress):
    trainer = train(Counting())
    assert trainer.steps == list(range(1, 11))
    assert progress.stages == [("count", 10, "step")]
    assert progress.done == list(range(11))
    assert progress.lines == []


def test_the_log_has_a_line_every_so_many_steps_and_one_for_the_last(train, tmp_path, read_log, progress):
    train(Counting(), steps=9, log_every=4)
    assert read_log(tmp_path) == [
        {"step": 4, "loss": 0.25, "sum": 10.0},
        {"step": 8, "loss": 0.125, "sum": 36.0},
        {"step": 9, "loss": pytest.approx(1 / 9), "sum": 45.0},
    ]
    assert sorted(progress.values) == [4, 8, 9]
    assert progress.values[8] == {"loss": 0.125, "sum": 36.0}


def test_log_lines_carry_the_time(train, tmp_path):
    train(Counting(), steps=2)
    (line,) = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["time"] > 1.6e9


def test_checkpoints_are_written_every_so_many_steps_and_at_the_end(train, tmp_path):
    seen = []
    train(Counting(), snapshot=lambda step: seen.append((step, saved_steps(tmp_path))))
    assert seen == [(4, [4]), (8, [4, 8]), (10, [8, 10])]
    assert latest_checkpoint(tmp_path, []).tensors == {"sum": torch.tensor(55.0)}


def test_a_finished_run_takes_no_further_step(train, tmp_path, read_log):
    train(Counting())
    log = read_log(tmp_path)
    again = train(Counting())
    assert again.steps == []
    assert again.restored == [10]
    assert read_log(tmp_path) == log


def test_a_step_that_is_not_finite_is_skipped_named_and_survived(train, tmp_path, read_log):
    trainer = train(Counting(bad=[3, 4, 7]), log_every=1, max_skipped=3)
    assert trainer.steps == list(range(1, 11))
    skipped = [line for line in read_log(tmp_path) if "skipped" in line]
    assert skipped == [{"step": step, "skipped": "cycle, kl"} for step in (3, 4, 7)]
    assert latest_checkpoint(tmp_path, []).step == 10


def test_the_checkpoint_of_a_skipped_step_is_written_all_the_same(train, tmp_path):
    train(Counting(bad=[8]), steps=9)
    assert saved_steps(tmp_path) == [8, 9]


def test_so_many_bad_steps_in_a_row_stop_the_run_and_the_good_checkpoint_stays(train, tmp_path, read_log):
    trainer = Counting(bad=range(6, 100))
    with pytest.raises(TrainingError, match="cycle, kl not finite in many steps up to 8; the last good checkpoint"):
        train(trainer, max_skipped=3)
    assert trainer.steps == list(range(1, 9))
    assert saved_steps(tmp_path) == [4]
    assert latest_checkpoint(tmp_path, []).tensors == {"sum": torch.tensor(10.0)}
    assert [line["step"] for line in read_log(tmp_path) if "skipped" in line] == [6, 7, 8]


def test_bad_steps_with_good_ones_between_them_do_not_stop_the_run(train):
    assert train(Counting(bad=[2, 3, 5, 6, 8, 9]), max_skipped=3).steps[-1] == 10


def test_an_exception_of_another_kind_is_not_taken_for_a_bad_step(train):
    class Broken(Counting):
        def step(self, step):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(Broken())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_saves_it_and_leaves(train, tmp_path, number, code):
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    trainer = Counting(signals={3: [number]})
    with pytest.raises(Interrupted, match=rf"stopped by {number.name} after step 3; go on with --resume") as caught:
        train(trainer)
    assert caught.value.exit_code == code
    assert trainer.steps == [1, 2, 3]
    assert saved_steps(tmp_path) == [3]
    assert latest_checkpoint(tmp_path, []).tensors == {"sum": torch.tensor(6.0)}
    assert {one: signal.getsignal(one) for one in before} == before


@pytest.mark.parametrize("signals", [{4: [signal.SIGTERM]}, {2: [signal.SIGTERM, signal.SIGTERM]}])
def test_a_stopped_run_goes_on_to_the_result_of_an_unbroken_one(train, tmp_path, read_log, progress, signals):
    with pytest.raises(Interrupted):
        train(Counting(signals=signals))
    (stopped_at,) = signals
    again = train(Counting())
    assert again.restored == [stopped_at]
    assert again.steps == list(range(stopped_at + 1, 11))
    assert float(again.sum) == 55
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6, 8, 10]
    assert progress.lines == [f"count: going on from step {stopped_at} of 10"]


def test_a_signal_during_a_bad_step_saves_and_leaves_too(train, tmp_path):
    with pytest.raises(Interrupted):
        train(Counting(bad=[3], signals={3: [signal.SIGTERM]}))
    assert saved_steps(tmp_path) == [3]


def test_a_signal_during_the_last_step_is_not_lost(train, tmp_path):
    with pytest.raises(Interrupted):
        train(Counting(signals={10: [signal.SIGTERM]}))
    assert saved_steps(tmp_path) == [8, 10]


def test_no_samples_are_drawn_for_somebody_who_wants_to_stop(train):
    drawn = []
    with pytest.raises(Interrupted):
        train(Counting(signals={4: [signal.SIGTERM]}), snapshot=drawn.append)
    assert drawn == []


@pytest.mark.parametrize("moment", ["save_checkpoint", "snapshot"])
def test_a_signal_while_something_is_written_waits_until_it_is(train, tmp_path, monkeypatch, moment):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    def save_slowly(*given):
        stop()
        return save_checkpoint(*given)

    if moment == "save_checkpoint":
        monkeypatch.setattr(loop, "save_checkpoint", save_slowly)
    with pytest.raises(Interrupted, match="after step 4"):
        train(Counting(), snapshot=stop if moment == "snapshot" else None)
    assert saved_steps(tmp_path) == [4]
    assert latest_checkpoint(tmp_path, []).tensors == {"sum": torch.tensor(10.0)}


def test_a_second_ctrl_c_ends_at_once_and_gives_the_handlers_back(train, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Counting(signals={3: [signal.SIGINT, signal.SIGINT]}))
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "checkpoints").exists()


def test_handlers_come_back_after_an_exception():
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    within = {}

    def fail():
        with stop_requests():
            within.update({one: signal.getsignal(one) for one in before})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(within[one] is not before[one] for one in before)
    assert {one: signal.getsignal(one) for one in before} == before


def test_outside_the_main_thread_the_loop_runs_without_catching_signals(train):
    trainer, failed = Counting(), []

    def work():
        try:
            train(trainer)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
    assert trainer.steps[-1] == 10


def test_a_killed_run_goes_on_from_its_checkpoint_and_later_log_lines_go(train, tmp_path, read_log):
    class Killed(Counting):
        def step(self, step):
            if step == 7:
                raise SystemExit  # as good as kill -9: nothing is saved
            return super().step(step)

    with pytest.raises(SystemExit):
        train(Killed(), log_every=1)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "lo')  # and the line that was being written
    again = train(Counting(), log_every=1)
    assert again.steps == [5, 6, 7, 8, 9, 10]
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, 11))
    assert float(again.sum) == 55


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(train, tmp_path, progress):
    train(Counting(), steps=8)
    (tmp_path / "checkpoints/step-000008/state.safetensors").write_bytes(b"rubbish")
    again = train(Counting())
    assert again.steps == [5, 6, 7, 8, 9, 10]
    assert progress.lines[0].startswith("warning: ")
    assert "step-000008" in progress.lines[0]
    assert float(again.sum) == 55


def test_a_full_disk_stops_the_run(train, monkeypatch):
    def full(*_):
        msg = "checkpoints/step-000004: the checkpoint cannot be written"
        raise RunFolderError(msg)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    trainer = Counting()
    with pytest.raises(RunFolderError):
        train(trainer)
    assert trainer.steps == [1, 2, 3, 4]


def test_lines_without_a_step_belong_to_the_whole_run(tmp_path, read_log):
    log = Logbook(tmp_path / "log.jsonl")
    log.write({"event": "began"})
    log.write({"step": 5, "loss": 1.0})
    Logbook(tmp_path / "log.jsonl", step=4).write({"step": 5, "loss": 2.0})
    assert read_log(tmp_path) == [{"event": "began"}, {"step": 5, "loss": 2.0}]


def test_finite_losses_pass_and_others_are_named():
    losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(2.0, dtype=torch.bfloat16)}
    check_finite(losses)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFiniteLossError, match=r"^c$"):
            check_finite({**losses, "c": torch.tensor(value, requires_grad=True)})


def test_a_gradient_that_is_not_finite_is_refused():
    check_gradient(torch.tensor(1e30))
    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteLossError, match="the gradient"):
            check_gradient(torch.tensor(value))


def test_one_cycle_rises_to_its_peak_in_a_tenth_and_falls_to_nearly_nothing():
    rates = [one_cycle(step, 1000, peak=0.5) for step in range(1, 1001)]
    assert rates[99] == pytest.approx(0.5)
    assert max(rates) == rates[99]
    assert rates[0] == pytest.approx(0.5 / 25, rel=0.02)
    assert rates[49] == pytest.approx((0.5 + 0.5 / 25) / 2)  # half-way up half a cosine
    assert rates[549] == pytest.approx((0.5 + 0.5 / 25e4) / 2)  # half-way down
    assert rates[999] == pytest.approx(0.5 / 25e4)
    assert all(one < other for one, other in pairwise(rates[:100]))
    assert all(one > other for one, other in pairwise(rates[99:]))


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_rates_of_the_shortest_trainings_are_positive_and_at_most_the_peak(steps):
    for step in range(1, steps + 1):
        assert 0 < one_cycle(step, steps, peak=0.1) <= 0.1
        assert 0 < constant_then_linear(step, steps, start=0.1) <= 0.1


def test_the_other_schedule_is_constant_for_half_of_the_steps_and_falls_in_a_line():
    rates = [constant_then_linear(step, 100, start=2.0) for step in range(1, 101)]
    assert rates[:51] == [2.0] * 51
    assert rates[75] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.04)
    falls = [one - other for one, other in pairwise(rates[50:])]
    assert falls == pytest.approx([0.04] * 49)


def test_a_rate_reaches_every_parameter_group():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(3)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25] * 3


@pytest.mark.parametrize("key", ["steps", "checkpoint_every", "log_every", "max_skipped"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "many"])
def test_counts_of_a_loop_are_positive_integers(key, value):
    with pytest.raises(ConfigError, match=f"recipe x: '{key}'"):
        build(LoopConfig, {"steps": 5, key: value}, where="recipe x")


def test_a_snapshot_that_a_kill_kept_from_being_taken_is_taken_on_resuming(train, tmp_path):
    taken = []

    def killed(step):
        if step == 8 and not taken[1:]:
            raise KeyboardInterrupt
        taken.append(step)

    with pytest.raises(KeyboardInterrupt):
        train(Counting(), snapshot=killed)
    assert taken == [4]
    taken.append("again")
    train(Counting(), snapshot=killed)
    assert taken == [4, "again", 8, 10]


def test_a_stop_between_two_checkpoints_leaves_no_snapshot_of_its_own(train):
    taken = []
    with pytest.raises(Interrupted):
        train(Counting(signals={6: [signal.SIGTERM]}), snapshot=taken.append)
    train(Counting(), snapshot=taken.append)
    assert taken == [4, 8, 10]


def test_processes_that_find_different_checkpoints_do_not_go_on(tmp_path, progress):
    class Elsewhere:
        size, rank, is_first = 2, 0, True

        def agrees(self, value):
            return value != 0

        def wait(self):
            pass

    with pytest.raises(RunFolderError, match="put the run folder where every node sees it"):
        run_loop(Counting(), tmp_path, LoopConfig(steps=3), stage="count", progress=progress, group=Elsewhere())
