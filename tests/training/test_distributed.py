"""Several processes that train together: averaged gradients, agreement, and a whole run under torchrun."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from nucstyle.data.run_folder import read_config
from nucstyle.data.weights import load_weights
from nucstyle.training.checkpoint import latest_checkpoint
from nucstyle.training.distributed import SINGLE, device_of_process, is_first_process, process_group
from nucstyle.workflows.train_segmenter import train_segmenter

pytestmark = pytest.mark.timeout(600)


def test_one_process_by_itself_joins_nothing_and_agrees_with_itself(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    assert device_of_process("cuda") == "cuda"
    with process_group("cpu") as group:
        assert group is SINGLE
        assert group.is_first
        assert group.any(True)
        assert not group.any(False)
        assert group.agrees(7)
        group.wait()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    SINGLE.average_gradients([parameter])
    assert parameter.grad.tolist() == [1, 2]


def test_each_process_of_a_node_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("RANK", "3")
    assert device_of_process("cuda") == "cuda:3"
    assert device_of_process("cpu") == "cpu"
    assert not is_first_process()


def torchrun_command(tmp_path, script, *arguments):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", path, *arguments]


def torchrun(tmp_path, script, *arguments):
    command = torchrun_command(tmp_path, script, *arguments)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)


STEP = """
    import sys
    from contextlib import nullcontext
    import torch
    from nucstyle.core.rng import generator
    from nucstyle.style.networks import StyleNetworkConfig
    from nucstyle.style.objective import StyleBatch
    from nucstyle.training.distributed import SINGLE, process_group
    from nucstyle.training.style_trainer import StyleRecipe, StyleTrainer, StyleTrainingConfig
    from nucstyle.augment.geometric import CropConfig

    RECIPE = StyleRecipe(
        name="test",
        training=StyleTrainingConfig(steps=4, batch_size=3, learning_rate=1e-3, precision="fp32"),
        network=StyleNetworkConfig(width=4, residual_blocks=1, style_size=8, feature_critic=False),
        crop=CropConfig(size_px=32),
    )

    def half(rank):
        drawn = generator("half", rank)
        modality = torch.arange(3)
        annotated = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]][rank])
        return StyleBatch(
            image=torch.rand(3, 3, 32, 32, generator=drawn) * 2 - 1,
            modality=modality,
            partner=torch.roll(torch.arange(3), 1),
            colours=torch.tensor([[-0.9] * 3 + [0.5] * 3, [0.8] * 3 + [-0.5] * 3, [0.5] * 3 + [-0.2] * 3]),
            nuclei=torch.rand(3, 1, 32, 32, generator=drawn).round(),
            annotated=annotated,
            attribute_noise=torch.randn(3, 6, generator=drawn),
            random_attribute=torch.randn(3, 6, generator=drawn),
            content_noise=torch.randn(6, 16, 8, 8, generator=drawn),
            texture=torch.randn(3, 1, 32, 32, generator=drawn),
        )

    def joint():
        first, second = half(0), half(1)
        both = StyleBatch(*(torch.cat(pair) for pair in zip(first, second)))
        noise = [torch.cat(pair) for pair in zip(first.content_noise.split(3), second.content_noise.split(3))]
        return both._replace(partner=torch.cat([first.partner, second.partner + 3]), content_noise=torch.cat(noise))

    class Fixed:
        def __init__(self, batch):
            self.batch = batch

        def draw(self, step, extra=None, *, rank=0):
            return self.batch

    def trained(batch, group):
        trainer = StyleTrainer(
            Fixed(batch), [1, -1, -1], RECIPE, device="cpu", autocast=nullcontext, seed=0, group=group
        )
        trainer.step(1)
        # After a single step Adam's first moment is the gradient, times a constant.
        gradients = {name: one.clone() for name, one in trainer.tensors().items() if name.endswith("/exp_avg")}
        trainer.step(2)
        return {**trainer.tensors(), **{f"gradient of {name}": one for name, one in gradients.items()}}

    with process_group("cpu") as group:
        assert group.size == 2
        assert group.any(group.rank == 1)
        assert not group.any(False)
        assert group.agrees(3)
        assert not group.agrees(group.rank)
        together = trained(half(group.rank), group)
        if group.is_first:
            alone = trained(joint(), SINGLE)
            worst = max(
                float((together[name].float() - alone[name].float()).abs().max())
                for name in alone
                if name.startswith(("networks", "critics"))
            )
            print("worst", worst)
            for part in ("translation", "image_critic", "content_critic"):
                names = [name for name in alone if name.startswith(f"gradient of {part}")]
                apart, size = (
                    sum(float(one.double().square().sum()) for one in parts) ** 0.5
                    for parts in ([together[n] - alone[n] for n in names], [alone[n] for n in names])
                )
                print("gradient", apart / size)
"""


@pytest.mark.slow
def test_two_processes_take_the_step_of_one_with_the_joint_batch(tmp_path):
    finished = torchrun(tmp_path, STEP)
    assert finished.returncode == 0, finished.stderr
    (line,) = [line for line in finished.stdout.splitlines() if line.startswith("worst")]
    # Adam divides by the root of a square: where a gradient is nothing but rounding, so is its sign. 1e-3 is the rate.
    assert float(line.split()[1]) < 5e-4
    apart = [float(line.split()[1]) for line in finished.stdout.splitlines() if line.startswith("gradient")]
    assert len(apart) == 3
    assert max(apart) < 1e-3


@pytest.mark.slow
def test_two_processes_train_one_run_and_go_on(tmp_path, write_pairs):
    folder = write_pairs("data")
    script = """
        import sys
        from nucstyle.cli import app
        app(sys.argv[1:])
    """
    settings = ("steps=4", "checkpoint_every=2", "width=4", "size_px=32", "judge_steps=0", "feature_critic=false")
    options = [word for setting in (*settings, "learning_rate=0.01") for word in ("--set", setting)]
    verb = ("train-style", str(folder), "--out", str(tmp_path / "run"), "--k", "2", *options, "--device", "cpu")
    finished = torchrun(tmp_path, script, *verb)
    assert finished.returncode == 0, finished.stderr
    first = load_weights(tmp_path / "run" / "weights.safetensors", kind="style")
    assert (tmp_path / "run" / "report.html").is_file()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 1  # one process writes, every tenth and the last step
    for name in ("result.json", "weights.safetensors"):
        (tmp_path / "run" / name).unlink()
    last = tmp_path / "run" / "checkpoints" / "step-000004"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    finished = torchrun(tmp_path, script, *verb, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert "going on from step 2 of 4" in finished.stderr
    again = load_weights(tmp_path / "run" / "weights.safetensors", kind="style")
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(again.tensors[name].float(), tensor.float(), atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others_soon_and_leaves_a_whole_checkpoint(tmp_path, write_pairs, rank):
    folder, run = write_pairs("data"), tmp_path / "run"
    script = """
        import os, sys
        from nucstyle.cli import app
        open(sys.argv[1] + os.environ["RANK"], "w").write(str(os.getpid()))
        app(sys.argv[2:])
    """
    settings = ("steps=100000", "checkpoint_every=1", "width=4", "size_px=32", "judge_steps=0", "feature_critic=false")
    options = [word for setting in settings for word in ("--set", setting)]
    verb = ("train-style", str(folder), "--out", str(run), "--k", "2", *options, "--device", "cpu")
    process = subprocess.Popen(torchrun_command(tmp_path, script, str(tmp_path / "pid"), *verb), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while not (run / "checkpoints" / "step-000002").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed = time.monotonic()
        os.kill(int((tmp_path / f"pid{rank}").read_text()), signal.SIGKILL)
        process.communicate(timeout=60)
        assert time.monotonic() - killed < 30
    finally:
        process.kill()
        process.communicate()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert latest_checkpoint(run, warnings := []).step >= 1
    assert warnings == []
    for number in (0, 1):
        assert not Path(f"/proc/{(tmp_path / f'pid{number}').read_text()}").exists()


SEGMENTER_STEP = """
    import json, sys
    from pathlib import Path
    import torch
    import torch.distributed as dist
    from nucstyle.augment.geometric import CropConfig
    from nucstyle.core import rng
    from nucstyle.core.sample import Sample
    from nucstyle.segmentation.detector import Segmenter, SegmenterConfig
    from nucstyle.training.distributed import SINGLE, process_group
    from nucstyle.training.segmenter_trainer import (
        SegmenterBatches, SegmenterRecipe, SegmenterTrainer, SegmenterTrainingConfig
    )

    RECIPE = SegmenterRecipe(
        name="test",
        training=SegmenterTrainingConfig(steps=4, batch_size=1, precision="fp32", gradient_clip=1e9),
        segmenter=SegmenterConfig(pyramid_channels=16, box_head_size=32, mask_layers=1),
        crop=CropConfig(size_px=64),
    )

    def sample(number):
        labels = torch.zeros(80, 80, dtype=torch.int32)
        labels[10 + number : 30, 12:34] = 1
        labels[45:70, 40 : 60 + number] = 2
        return Sample(id=str(number), image=(labels > 0).float().expand(3, -1, -1).contiguous(), labels=labels)

    def trainer(group):
        with rng.seeded("weights"):
            segmenter = Segmenter(RECIPE.segmenter, RECIPE.inference)
        batches = SegmenterBatches([sample(k) for k in range(4)], RECIPE.chains(), RECIPE, 0)
        return SegmenterTrainer(segmenter, batches, RECIPE, seed=0, group=group), batches

    with process_group("cpu") as group:
        together, batches = trainer(group)
        together.step(1)
        if group.is_first:  # the gradients of both halves, in one process, with the same random states
            alone, _ = trainer(SINGLE)
            for rank in (0, 1):
                images, targets = batches.draw(1, rank=rank, processes=2)
                with rng.seeded(0, "segmenter", 1, *(["rank 1"] if rank else [])):
                    parts = alone.segmenter.losses(images, targets)
                (sum(parts.values()) / 2).backward()
            pairs = zip(together.segmenter.network.parameters(), alone.segmenter.network.parameters(), strict=True)
            found = [(one.grad, other.grad) for one, other in pairs if other.grad is not None]
            worst = max(float((one - other).abs().max() / (other.abs().max() + 1e-12)) for one, other in found)
            Path(sys.argv[1], "gradients.json").write_text(json.dumps([len(found), worst]))
        together.step(2)
        mine = torch.cat([one.detach().double().flatten() for one in together.tensors().values()])
        first = mine.clone()
        dist.broadcast(first, 0)
        Path(sys.argv[1], f"equal{group.rank}").write_text(str(bool(torch.equal(mine, first))))
"""


@pytest.mark.slow
def test_two_processes_that_train_a_segmenter_average_their_gradients_and_stay_equal(tmp_path):
    finished = torchrun(tmp_path, SEGMENTER_STEP, str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    # files of their own, because what two processes print may run into one another
    compared, worst = json.loads((tmp_path / "gradients.json").read_text())
    assert compared > 50
    assert worst < 1e-4
    assert [(tmp_path / f"equal{rank}").read_text() for rank in (0, 1)] == ["True", "True"]


@pytest.mark.slow
def test_two_processes_train_one_run_of_the_segmenter_and_go_on(tmp_path, write_pairs):
    folder, run = write_pairs("data"), tmp_path / "run"
    script = """
        import contextlib, os, sys
        from pathlib import Path
        from nucstyle.cli import app
        # files of their own, because what two processes print may run into one another
        with Path(sys.argv[1] + os.environ["RANK"]).open("w") as said, contextlib.redirect_stderr(said):
            app(sys.argv[2:])
    """
    settings = ("steps=4", "checkpoint_every=2", "measure_every=0", "batch_size=1", "size_px=64", "learning_rate=0.01")
    small = ("pyramid_channels=16", "box_head_size=32", "mask_layers=1")
    options = [word for setting in (*settings, *small) for word in ("--set", setting)]
    verb = ("train-segmenter", str(folder), "--out", str(run), *options, "--device", "cpu")
    finished = torchrun(tmp_path, script, str(tmp_path / "first"), *verb)
    assert finished.returncode == 0, finished.stderr
    assert read_config(run)["processes"] == 2
    assert (run / "report.html").is_file()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4]  # one process writes, every tenth and the last step
    assert [entry.name for entry in tmp_path.iterdir() if (entry / "config.toml").exists()] == ["run"]
    first = load_weights(run / "weights.safetensors", kind="segmenter")
    train_segmenter(folder, tmp_path / "alone", overrides=(*settings, *small), device="cpu")
    alone = load_weights(tmp_path / "alone" / "weights.safetensors", kind="segmenter")
    assert alone.sha256 != first.sha256  # the other process took part
    for name in ("result.json", "weights.safetensors"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints" / "step-000004")
    finished = torchrun(tmp_path, script, str(tmp_path / "again"), *verb, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert "going on from step 2 of 4" in (tmp_path / "again0").read_text()
    assert (tmp_path / "again1").read_text() == ""
    again = load_weights(run / "weights.safetensors", kind="segmenter")
    assert again.sha256 == first.sha256
