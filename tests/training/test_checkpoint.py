"""Checkpoints: complete, verified, never half-written; the newest two are kept, and a damaged one is passed over."""

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nucstyle.core.errors import RunFolderError, WeightsError
from nucstyle.core.rng import generator, seeded
from nucstyle.data import weights
from nucstyle.training import checkpoint
from nucstyle.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    save_checkpoint,
)


def tensors_of(step):
    return {"a": torch.full((3, 2), float(step)), "b/c": torch.tensor(step), "d": torch.zeros(0, 4)}


def save(run, *steps):
    for step in steps:
        save_checkpoint(run, step, tensors_of(step))


def names(run):
    return sorted(folder.name for folder in (run / "checkpoints").iterdir())


def state_file(run, step):
    return run / "checkpoints" / f"step-{step:06d}" / "state.safetensors"


def latest_step(run, warnings=None):
    found = latest_checkpoint(run, [] if warnings is None else warnings)
    return found.step if found else None


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


DAMAGES = [cut_short, flip_a_bit, empty, remove]


def test_what_was_saved_is_loaded_with_its_step_and_place(tmp_path):
    folder = save_checkpoint(tmp_path, 200, tensors_of(200))
    assert folder == tmp_path / "checkpoints" / "step-000200"
    found = latest_checkpoint(tmp_path, [])
    assert found.step == 200
    assert found.where == str(folder / "state.safetensors")
    assert found.tensors.keys() == tensors_of(200).keys()
    for name, tensor in tensors_of(200).items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_a_run_without_checkpoints_has_none_and_nothing_to_say(tmp_path):
    warnings = []
    assert latest_checkpoint(tmp_path, warnings) is None
    (tmp_path / "checkpoints").mkdir()
    assert latest_checkpoint(tmp_path, warnings) is None
    assert warnings == []


def test_the_newest_two_are_kept(tmp_path):
    save(tmp_path, 100, 200, 300, 400)
    assert names(tmp_path) == ["step-000300", "step-000400"]
    assert latest_step(tmp_path) == 400


@pytest.mark.parametrize("steps", [(200, 1000), (999, 10_000), (999_900, 1_000_000, 1_000_100)])
def test_newest_means_by_number(tmp_path, steps):
    save(tmp_path, *steps)
    assert latest_step(tmp_path) == steps[-1]
    assert len(names(tmp_path)) == 2


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 100)
    save_checkpoint(tmp_path, 100, {"a": torch.tensor(7.0)})
    assert latest_checkpoint(tmp_path, []).tensors == {"a": torch.tensor(7.0)}
    assert names(tmp_path) == ["step-000100"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_passed_over_with_a_line_that_names_it(tmp_path, damage):
    save(tmp_path, 100, 200)
    damage(state_file(tmp_path, 200))
    warnings = []
    assert latest_step(tmp_path, warnings) == 100
    (line,) = warnings
    assert str(state_file(tmp_path, 200)) in line
    assert line.endswith("trying the checkpoint before it")
    assert "\n" not in line


def test_a_checkpoint_with_numbers_that_are_not_finite_is_passed_over(tmp_path):
    save(tmp_path, 100)
    save_checkpoint(tmp_path, 200, {"a": torch.tensor([1.0, torch.nan])})
    assert latest_step(tmp_path, warnings := []) == 100
    assert "NaN" in warnings[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_of_which_all_checkpoints_are_damaged_is_refused(tmp_path, damage):
    save(tmp_path, 100, 200)
    for step in (100, 200):
        damage(state_file(tmp_path, step))
    with pytest.raises(RunFolderError, match=r"no checkpoint in it can be read; start again with --overwrite"):
        latest_checkpoint(tmp_path, [])


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    save(tmp_path, 100, 200)
    cut_short(state_file(tmp_path, 200))
    assert latest_step(tmp_path) == 100
    save(tmp_path, 200)
    assert latest_step(tmp_path, warnings := []) == 200
    assert warnings == []


def test_what_a_killed_write_left_is_removed_and_never_taken_for_a_checkpoint(tmp_path):
    save(tmp_path, 100)
    partial = tmp_path / "checkpoints" / "step-000200.part"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(state_file(tmp_path, 100).read_bytes())
    assert latest_step(tmp_path) == 100
    assert names(tmp_path) == ["step-000100"]


def test_a_new_write_is_not_disturbed_by_what_a_killed_one_left(tmp_path):
    partial = tmp_path / "checkpoints" / "step-000200.part"
    partial.mkdir(parents=True)
    (partial / "rubbish").write_text("x")
    save(tmp_path, 200)
    assert [path.name for path in (tmp_path / "checkpoints/step-000200").iterdir()] == ["state.safetensors"]


def no_space(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(path, content):
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    no_space()


@pytest.mark.parametrize("moment", ["mkdir", "write", "flush", "rename"])
def test_a_full_disk_keeps_the_checkpoints_before_and_says_what_to_do(tmp_path, monkeypatch, moment):
    save(tmp_path, 100, 200)
    with monkeypatch.context() as patch:
        if moment == "mkdir":
            patch.setattr(Path, "mkdir", no_space)
        elif moment == "write":
            patch.setattr(weights.Path, "write_bytes", half_written)
        elif moment == "flush":
            patch.setattr(weights.os, "fsync", no_space)
        else:
            patch.setattr(checkpoint, "replace_durably", no_space)
        with pytest.raises(
            RunFolderError, match=r"step-000300: the checkpoint cannot be written .*No space left"
        ) as caught:
            save(tmp_path, 300)
    assert "--resume" in str(caught.value)
    assert names(tmp_path) == ["step-000100", "step-000200"]
    assert latest_step(tmp_path) == 200


def test_a_checkpoint_is_on_the_disk_before_the_older_one_goes(tmp_path, monkeypatch):
    save(tmp_path, 100, 200)
    happened = []
    flush, rmtree = weights.flush, checkpoint.shutil.rmtree
    monkeypatch.setattr(weights, "flush", lambda path: (happened.append(f"flush {path.name}"), flush(path)))

    def gone(path, **options):
        if path.exists():
            happened.append(f"remove {path.name}")
        rmtree(path, **options)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", gone)
    save(tmp_path, 300)
    assert happened[-2:] == ["flush checkpoints", "remove step-000100"]
    assert "flush state.safetensors" in happened[:-2]


def network(seed=0):
    with seeded("network", seed):
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 1))


def steps(module, optimizer, count, name):
    drawing = generator(name)
    for _ in range(count):
        optimizer.zero_grad()
        module(torch.randn(2, 3, 8, 8, generator=drawing)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_module_and_optimizer_go_on_from_a_file_to_the_same_bits(tmp_path, kind):
    module = network()
    optimizer = kind(module.parameters(), lr=0.01)
    steps(module, optimizer, 3, "first")
    save_checkpoint(tmp_path, 3, {**module_tensors("net", module), **optimizer_tensors("optimizer", optimizer)})
    steps(module, optimizer, 3, "second")

    again = network(seed=1)
    other = kind(again.parameters(), lr=0.01)
    found = latest_checkpoint(tmp_path, [])
    restore_module("net", again, found)
    restore_optimizer("optimizer", other, found)
    steps(again, other, 3, "second")
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for name, tensor in optimizer_tensors("o", optimizer).items():
        assert torch.equal(optimizer_tensors("o", other)[name], tensor), name


def test_an_optimizer_that_never_stepped_is_restored_as_such(tmp_path):
    optimizer = torch.optim.Adam(network().parameters(), lr=0.5)
    assert optimizer_tensors("o", optimizer) == {}
    restore_optimizer("o", optimizer, Checkpoint(0, {}, "nowhere"))
    assert optimizer.state_dict()["state"] == {}
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_one_name_being_the_beginning_of_another_mixes_nothing_up():
    module, other = network(0), network(1)
    tensors = {**module_tensors("net", module), **module_tensors("network", other)}
    fresh = network(2)
    restore_module("net", fresh, Checkpoint(1, tensors, "nowhere"))
    assert torch.equal(fresh[0].weight, module[0].weight)


def test_a_checkpoint_of_another_recipe_is_refused_and_changes_nothing():
    fresh = network()
    before = fresh[0].weight.detach().clone()
    wide = torch.nn.Sequential(torch.nn.Conv2d(3, 9, 3), torch.nn.BatchNorm2d(9), torch.nn.Conv2d(9, 1, 1))
    with pytest.raises(WeightsError, match=r"run/x: does not fit this network"):
        restore_module("net", fresh, Checkpoint(1, module_tensors("net", wide), "run/x"))
    assert torch.equal(fresh[0].weight, before)


SAVES_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
import torch
from nucstyle.training.checkpoint import save_checkpoint
for step in count(int(sys.argv[2]) + 1):
    save_checkpoint(Path(sys.argv[1]), step, {"a": torch.full((300, 1000), float(step))})
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_killed_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path):
    drawing, last = generator("kill"), 0
    for _ in range(30):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVES_FOR_EVER, str(tmp_path), str(last)], stdout=subprocess.PIPE, text=True
        )
        with child:
            said = int(child.stdout.readline())
            time.sleep(0.1 * float(torch.rand((), generator=drawing)))
            child.kill()
        partial = [path for path in (tmp_path / "checkpoints").iterdir() if path.suffix == ".part"]
        assert len(partial) <= 1
        found = latest_checkpoint(tmp_path, warnings := [])
        assert found.step >= said > last
        assert warnings == []
        assert torch.equal(found.tensors["a"], torch.full((300, 1000), float(found.step)))
        assert not any(path.suffix == ".part" for path in (tmp_path / "checkpoints").iterdir())
        last = found.step
