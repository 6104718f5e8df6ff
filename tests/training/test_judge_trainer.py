"""Training the judge: what it is shown, that it learns, and going on."""

import shutil
from contextlib import nullcontext

import pytest
import torch

from nucstyle.augment.geometric import CropConfig
from nucstyle.metrics.translation import dice
from nucstyle.segmentation.judge import JudgeConfig
from nucstyle.training.judge_trainer import JudgeRecipe, JudgeTrainer
from nucstyle.training.loop import run_loop


@pytest.fixture
def judge_trainer_of(sample_of):
    """`judge_trainer_of(steps=...)` makes a fresh trainer on three fluorescence fields and a stained one."""

    def make(steps=8, *, seed=0):
        recipe = JudgeRecipe(
            steps=steps,
            batch_size=4,
            log_every=1,
            checkpoint_every=4,
            network=JudgeConfig(width=4),
            crop=CropConfig(size_px=48, native=1.0),
        )
        samples = [sample_of(number, stained=number == 3) for number in range(4)]
        return JudgeTrainer(samples, [0, 0, 0, 5], recipe, device="cpu", autocast=nullcontext, seed=seed), recipe

    return make


def test_modalities_take_turns_however_rare_and_masks_follow_the_crops(judge_trainer_of):
    trainer, _ = judge_trainer_of()
    for step in (1, 2, 3):
        image, nuclei = trainer.draw(step)
        assert image.shape == (4, 3, 48, 48)
        assert nuclei.shape == (4, 1, 48, 48)
        assert set(nuclei.unique().tolist()) <= {0.0, 1.0}
        dark = [float(one.median()) < 0.3 for one in image]
        assert dark == [True, False, True, False]
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert torch.equal(trainer.draw(2)[0], judge_trainer_of()[0].draw(2)[0])
    assert not torch.equal(trainer.draw(2)[0], judge_trainer_of(seed=1)[0].draw(2)[0])


def test_it_learns_to_see_nuclei(judge_trainer_of, sample_of):
    trainer, recipe = judge_trainer_of(160)
    for step in range(1, recipe.steps + 1):
        trainer.step(step)
    for number in (20, 21):
        unseen = sample_of(number)
        seen = trainer.judge().foreground(unseen.image[None])[0, 0].numpy() > 0.5
        assert dice(seen, unseen.labels.numpy() > 0) > 0.8


def test_it_goes_on_to_the_last_bit(judge_trainer_of, tmp_path, progress):
    trainer, recipe = judge_trainer_of(8)
    run_loop(trainer, tmp_path, recipe, stage="train", progress=progress)
    unbroken = trainer.tensors()
    shutil.rmtree(tmp_path / "checkpoints" / "step-000008")
    again, recipe = judge_trainer_of(8)
    run_loop(again, tmp_path, recipe, stage="train", progress=progress)
    assert progress.lines == ["train: going on from step 4 of 8"]
    assert all(torch.equal(unbroken[name], tensor) for name, tensor in again.tensors().items())
