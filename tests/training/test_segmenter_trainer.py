"""Training the segmenter: batches, one step, and stopping and going on."""

import dataclasses
import math
import os
import shutil
import signal
from itertools import pairwise

import pytest
import torch

from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.augment.steps import Cut, Enhance, ShiftChannels
from nucstyle.augment.style import StyleTransfer
from nucstyle.core import rng
from nucstyle.core.errors import ConfigError, ImageError, Interrupted
from nucstyle.core.precision import autocast, deterministic
from nucstyle.core.sample import Sample
from nucstyle.segmentation.detector import Segmenter
from nucstyle.training.loop import NonFiniteLossError, one_cycle, run_loop
from nucstyle.training.segmenter_trainer import (
    SegmenterBatches,
    SegmenterRecipe,
    SegmenterTrainer,
    SegmenterTrainingConfig,
    Stage,
)

LOSSES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


def same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def equal_batches(one, other):
    images, targets = zip(one, other, strict=True)
    return all(torch.equal(a, b) for a, b in zip(*images, strict=True)) and all(
        torch.equal(a[name], b[name]) for a, b in zip(*targets, strict=True) for name in a
    )


@pytest.fixture
def batches_of(segmenter_recipe_of, sample_of):
    """`batches_of(samples=None, augmentations=None, seed=0, batch_size=2, ...)`."""

    def make(samples=None, augmentations=None, *, seed=0, **training):
        recipe = segmenter_recipe_of(**training)
        chain = [RandomCrop(recipe.crop)] if augmentations is None else augmentations
        return SegmenterBatches(samples or [sample_of(number) for number in range(5)], [chain], recipe, seed)

    return make


# batches


def test_a_batch_follows_from_the_seed_and_the_step_alone(batches_of):
    one, other = batches_of(), batches_of()
    for step in (1, 7):
        other.draw(3)
        torch.rand(5)
        assert equal_batches(one.draw(step), other.draw(step))
    assert not torch.equal(one.draw(1)[0][0], one.draw(2)[0][0])
    assert not torch.equal(one.draw(1)[0][0], batches_of(seed=1).draw(1)[0][0])


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own(batches_of):
    samples = [Sample(id=str(k), image=torch.full((3, 8, 8), k / 10), labels=torch.zeros(8, 8).int()) for k in range(5)]
    batches = batches_of(samples, [])
    shown = [round(float(image[0, 0, 0]) * 10) for step in range(1, 21) for image in batches.draw(step)[0]]
    epochs = [tuple(shown[start : start + 5]) for start in range(0, 40, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len(set(epochs)) > 4


def test_an_image_is_cut_anew_in_every_epoch(batches_of, sample_of):
    batches = batches_of([sample_of(0)], batch_size=1)
    cuts = [batches.draw(step)[0][0] for step in range(1, 5)]
    assert not any(torch.equal(one, other) for one, other in pairwise(cuts))


def test_the_draws_of_an_image_do_not_depend_on_the_others(batches_of, sample_of):
    """Two arms, or another batch size, see the same crop of the same image in the same epoch."""
    crop = RandomCrop(CropConfig(size_px=64))
    by_two, by_one = batches_of(augmentations=[crop], batch_size=2), batches_of(augmentations=[crop], batch_size=1)
    pairs = [image for step in (1, 2) for image in by_two.draw(step)[0]]
    singles = [by_one.draw(step)[0][0] for step in (1, 2, 3, 4)]
    assert all(torch.equal(one, other) for one, other in zip(pairs, singles, strict=True))


def test_geometry_is_the_same_with_and_without_style_and_masks_do_not_change(batches_of, fake_translator):
    crop = RandomCrop(CropConfig(size_px=64))
    plain = batches_of(augmentations=[crop])
    styled = batches_of(augmentations=[crop, StyleTransfer(fake_translator, p=1.0)])
    for step in (1, 2):
        (images, targets), (restyled, same_targets) = plain.draw(step), styled.draw(step)
        assert not any(torch.equal(one, other) for one, other in zip(images, restyled, strict=True))
        for one, other in zip(targets, same_targets, strict=True):
            same(one, other)


def test_limits_of_the_recipe_reach_the_targets(batches_of):
    none = batches_of(min_side_px=60, augmentations=[])
    assert [len(target["boxes"]) for target in none.draw(1)[1]] == [0, 0]


def test_processes_share_the_images_of_an_epoch(batches_of):
    """Two processes with batches of two see what one process sees with batches of four."""
    together, alone = batches_of(batch_size=2), batches_of(batch_size=4)
    for step in (1, 2, 3):
        images = [image for rank in (0, 1) for image in together.draw(step, rank=rank, processes=2)[0]]
        assert all(torch.equal(one, other) for one, other in zip(images, alone.draw(step)[0], strict=True))


def test_rare_modalities_come_as_often_as_common_ones_where_that_is_asked_for(segmenter_recipe_of):
    samples = [Sample(id=str(k), image=torch.full((3, 8, 8), k / 10), labels=torch.zeros(8, 8).int()) for k in range(9)]
    names = ["common"] * 8 + ["rare"]
    shares = []
    for balance in (0.0, 0.5, 1.0):
        batches = SegmenterBatches(samples, [[]], segmenter_recipe_of(balance=balance, batch_size=9), 0, names)
        shown = [round(float(image[0, 0, 0]) * 10) for step in range(1, 41) for image in batches.draw(step)[0]]
        shares.append(shown.count(8) / len(shown))
        assert set(shown) == set(range(9))
    assert shares[0] == pytest.approx(1 / 9)
    assert shares[1] == pytest.approx(0.26, abs=0.05)  # 1 against the root of 8
    assert shares[2] == pytest.approx(0.5, abs=0.06)


def test_an_image_that_comes_again_is_cut_anew_when_modalities_are_balanced_too(batches_of, sample_of):
    batches = batches_of([sample_of(0)], balance=1.0, batch_size=1)
    cuts = [batches.draw(step)[0][0] for step in range(1, 5)]
    assert not any(torch.equal(one, other) for one, other in pairwise(cuts))


def test_what_is_done_to_whole_fields_comes_before_they_are_cut(segmenter_recipe_of, sample_of):
    """Contrast is enhanced over the field, as in prediction: a crop shows what the enhanced field shows there."""
    dim = dataclasses.replace(sample_of(0), image=sample_of(0).image * 0.1)
    recipe = segmenter_recipe_of()
    cut = Cut(step="cut", side_px=32)
    batches = SegmenterBatches([dim], [[cut]], recipe, 0, fields=[Enhance()])
    enhanced = SegmenterBatches([Enhance().augment(dim, torch.Generator())], [[cut]], recipe, 0)
    later = SegmenterBatches([dim], [[cut, Enhance()]], recipe, 0)
    image = batches.draw(1)[0][0]
    assert image.shape == (3, 32, 32)
    assert torch.equal(image, enhanced.draw(1)[0][0])
    assert not torch.equal(image, later.draw(1)[0][0])


def test_an_image_without_annotation_is_refused_by_its_name(batches_of, sample_of):
    bare = dataclasses.replace(sample_of(3), labels=None)
    with pytest.raises(ImageError, match="field-3: not annotated"):
        batches_of([bare]).draw(1)


# one step


def test_a_step_learns_and_tells_every_loss_and_their_sum(segmenter_trainer_of):
    trainer = segmenter_trainer_of()
    before = {name: one.detach().clone() for name, one in trainer.segmenter.network.named_parameters()}
    parts = trainer.step(1)
    assert set(parts) == {"loss", "gradient", *LOSSES}
    assert not any(value.requires_grad for value in parts.values())
    assert float(parts["loss"]) == pytest.approx(sum(float(parts[name]) for name in LOSSES))
    unmoved = [n for n, one in trainer.segmenter.network.named_parameters() if torch.equal(one, before[n])]
    assert len(unmoved) < len(before) / 10


def test_the_rate_is_the_one_cycle_of_the_step(segmenter_trainer_of, segmenter_recipe_of):
    trainer = segmenter_trainer_of(segmenter_recipe_of(steps=20, learning_rate=0.01))
    for step in (1, 2, 13):
        trainer.step(step)
        assert trainer._optimizer.param_groups[0]["lr"] == one_cycle(step, 20, peak=0.01)


def test_the_gradient_is_clipped_to_the_recipes_norm(segmenter_trainer_of, segmenter_recipe_of):
    trainer = segmenter_trainer_of(segmenter_recipe_of(gradient_clip=1e-3))
    trainer.step(1)
    gradients = [one.grad for one in trainer.segmenter.network.parameters() if one.grad is not None]
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(1e-3, rel=1e-2)


def test_the_averaged_weights_follow_those_that_learn(segmenter_trainer_of, segmenter_recipe_of):
    at_once, slow = (segmenter_trainer_of(segmenter_recipe_of(average_decay=decay)) for decay in (0.0, 0.99))
    start = {name: one.detach().clone() for name, one in slow.segmenter.network.named_parameters()}
    for trainer in (at_once, slow):
        for step in (1, 2, 3):
            trainer.step(step)
    same(dict(at_once.averaged().network.state_dict()), dict(at_once.segmenter.network.state_dict()))
    name = "roi_heads.box_predictor.part.cls_score.weight"
    now, kept = (dict(one.network.named_parameters())[name] for one in (slow.segmenter, slow.averaged()))
    assert 0 < float((kept - start[name]).detach().norm()) < float((now - start[name]).detach().norm())
    assert slow.averaged().inference == slow.segmenter.inference


def test_the_detectors_own_sampling_follows_from_the_seed_and_the_step(segmenter_trainer_of):
    before = torch.random.get_rng_state()
    parts = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        trainer = segmenter_trainer_of()
        torch.rand(noise)
        parts.append(trainer.step(1))
    same(*parts)
    torch.random.set_rng_state(before)
    segmenter_trainer_of().step(1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_crops_without_nuclei_train(segmenter_trainer_of, segmenter_recipe_of, batches_of):
    empty = Sample(id="empty", image=torch.rand(3, 64, 64), labels=torch.zeros(64, 64, dtype=torch.int32))
    trainer = segmenter_trainer_of(batches=batches_of([empty]))
    assert all(bool(value.isfinite()) for value in trainer.step(1).values())


def test_a_nucleus_of_one_pixel_trains(segmenter_trainer_of, batches_of):
    labels = torch.zeros(64, 64, dtype=torch.int32)
    labels[20, 30] = 1
    dot = Sample(id="dot", image=(labels > 0).float().expand(3, -1, -1).contiguous(), labels=labels)
    batches = batches_of([dot], [], min_side_px=1)
    assert [len(target["boxes"]) for target in batches.draw(1)[1]] == [1, 1]
    assert all(bool(value.isfinite()) for value in segmenter_trainer_of(batches=batches).step(1).values())


class Poisoned:
    """Batches of which some hold a number that is none."""

    def __init__(self, batches, *, steps):
        self._batches, self._steps = batches, steps

    def draw(self, step, **place):
        images, targets = self._batches.draw(step, **place)
        if step in self._steps:
            images[0][0, 3, 3] = math.nan
        return images, targets


def test_an_image_that_is_not_finite_raises_before_anything_is_learned(segmenter_trainer_of, batches_of):
    trainer = segmenter_trainer_of(batches=Poisoned(batches_of(), steps={2}))
    trainer.step(1)
    before = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    with pytest.raises(NonFiniteLossError, match="loss_"):
        trainer.step(2)
    same(trainer.tensors(), before)


def test_a_gradient_that_is_not_finite_changes_nothing(segmenter_trainer_of):
    trainer = segmenter_trainer_of()
    trainer.step(1)
    before = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    weight = trainer.segmenter.network.roi_heads.box_predictor.part.cls_score.weight
    handle = weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match="the gradient"):
        trainer.step(2)
    handle.remove()
    same(trainer.tensors(), before)
    trainer.step(3)
    assert all(bool(tensor.isfinite().all()) for tensor in trainer.tensors().values())


# stages, as the published recipes have them


def staged(segmenter_recipe_of, *stages, **training):
    training = {"learning_rate": 8e-4, **training}
    return segmenter_recipe_of(
        stages=tuple(
            Stage(**{"share": 1.0, "learning_rate": 1e-3, "augmentations": (Cut(step="cut", side_px=64),), **one})
            for one in stages
        ),
        **training,
    )


def test_stages_follow_each_other_by_their_shares(segmenter_recipe_of):
    recipe = staged(segmenter_recipe_of, {"share": 30}, {"share": 20}, {"share": 50}, steps=10)
    assert [recipe.stage_number(step) for step in range(1, 11)] == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    short = staged(segmenter_recipe_of, {"share": 30}, {"share": 20}, {"share": 50}, steps=2)
    assert [short.stage_number(step) for step in (1, 2)] == [0, 2]
    assert segmenter_recipe_of(steps=9).stage_number(9) == 0


def test_a_rate_that_has_no_effect_is_refused(segmenter_recipe_of):
    with pytest.raises(ConfigError, match="has no effect in a recipe of stages"):
        staged(segmenter_recipe_of, {}, learning_rate=1e-4)
    with pytest.raises(ConfigError, match="has no effect in a recipe without stages"):
        segmenter_recipe_of(rate_factor=10)


def test_a_factor_multiplies_the_rate_of_every_stage(segmenter_recipe_of, segmenter_trainer_of):
    recipe = staged(segmenter_recipe_of, {"learning_rate": 1e-3}, {"learning_rate": 2e-5}, steps=2, rate_factor=10)
    trainer = segmenter_trainer_of(recipe)
    for step, rate in ((1, 1e-2), (2, 2e-4)):
        trainer.step(step)
        assert trainer._optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_each_stage_has_its_rate_and_its_augmentations(segmenter_recipe_of, segmenter_trainer_of, sample_of):
    shift = (Cut(step="cut", side_px=64), ShiftChannels(step="shift-channels", limit=200))
    recipe = staged(
        segmenter_recipe_of, {"learning_rate": 0.01}, {"learning_rate": 0.002, "augmentations": shift}, steps=4
    )
    trainer = segmenter_trainer_of(recipe)
    for step, rate in ((2, 0.01), (3, 0.002)):
        trainer.step(step)
        assert trainer._optimizer.param_groups[0]["lr"] == rate
    batches = SegmenterBatches([sample_of(0)], recipe.chains(), recipe, 0)
    colours = [
        [torch.unique((one[0] - one[1]).round(decimals=3)).numel() for one in batches.draw(step)[0]] for step in (1, 4)
    ]
    assert max(colours[0]) == 1  # grey
    assert min(colours[1]) > 1


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("adam-amsgrad", torch.optim.Adam)]
)
def test_every_optimizer_goes_on_to_the_last_bit(
    name, kind, segmenter_recipe_of, segmenter_trainer_of, tmp_path, progress
):
    recipe = segmenter_recipe_of(steps=3, optimizer=name, checkpoint_every=2)
    unbroken = run(segmenter_trainer_of(recipe), recipe, tmp_path, progress)
    assert type(unbroken._optimizer) is kind
    shutil.rmtree(tmp_path / "checkpoints" / "step-000003")
    same(run(segmenter_trainer_of(recipe), recipe, tmp_path, progress).tensors(), unbroken.tensors())
    group = unbroken._optimizer.param_groups[0]
    assert group.get("momentum", 0.9) == 0.9
    assert group.get("amsgrad", False) == (name == "adam-amsgrad")


def test_every_size_of_image_comes_equally_often_where_a_stage_says_so(segmenter_recipe_of):
    sizes = [(64, 64)] * 8 + [(64, 80)]
    samples = [
        Sample(id=str(k), image=torch.full((3, *size), k / 10), labels=torch.zeros(size).int())
        for k, size in enumerate(sizes)
    ]
    recipe = staged(segmenter_recipe_of, {}, {"equal_sizes": True}, steps=120, batch_size=4)
    batches = SegmenterBatches(samples, [[], []], recipe, 0)
    shown = [round(float(image[0, 0, 0]) * 10) for step in range(1, 121) for image in batches.draw(step)[0]]
    first, second = shown[:240], shown[240:]
    assert first.count(8) / len(first) == pytest.approx(1 / 9, abs=0.02)
    assert second.count(8) / len(second) == pytest.approx(0.5, abs=0.08)


def flat(number, value, size=(40, 40)):
    """A field of one grey with one nucleus."""
    labels = torch.zeros(size, dtype=torch.int32)
    labels[size[0] // 2 - 4 : size[0] // 2 + 4, size[1] // 2 - 4 : size[1] // 2 + 4] = 1
    return Sample(id=str(number), image=torch.full((3, *size), value), labels=labels, modality=str(value > 0.8))


def test_mosaics_show_four_training_images_with_their_nuclei(segmenter_recipe_of):
    stage = {"mosaic_p": 1.0, "mosaic_side_px": 64, "augmentations": ()}
    recipe = staged(segmenter_recipe_of, stage, batch_size=2, steps=4)
    samples = [flat(number, number / 10) for number in range(6)]
    batches = SegmenterBatches(samples, recipe.chains(), recipe, 0)
    images, targets = batches.draw(1)
    for image, target in zip(images, targets, strict=True):
        assert image.shape == (3, 64, 64)
        quarters = [image[:, y : y + 32, x : x + 32].round(decimals=3).unique() for y in (0, 32) for x in (0, 32)]
        assert all(len(quarter) == 1 and round(float(quarter) * 10) in range(6) for quarter in quarters)
        centres = ((target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2).tolist()
        assert sorted(centres) == [[16, 16], [16, 48], [48, 16], [48, 48]]
    assert equal_batches((images, targets), SegmenterBatches(samples, recipe.chains(), recipe, 0).draw(1))


def test_the_others_of_a_mosaic_are_drawn_as_images_are(segmenter_recipe_of):
    """One image of ten is rare; balanced, it fills half of all quarters."""
    stage = {"mosaic_p": 1.0, "mosaic_side_px": 32, "augmentations": ()}
    samples = [flat(number, 0.9 if number == 9 else number / 20) for number in range(10)]
    names = [sample.modality for sample in samples]
    shares = []
    for balance in (0.0, 1.0):
        recipe = staged(segmenter_recipe_of, stage, batch_size=5, steps=40, balance=balance)
        batches = SegmenterBatches(samples, recipe.chains(), recipe, 0, names)
        images = [image for step in range(1, 41) for image in batches.draw(step)[0]]
        shares.append(float(torch.stack(images).gt(0.85).float().mean()))
    assert shares[0] == pytest.approx(0.1, abs=0.03)
    assert shares[1] == pytest.approx(0.5, abs=0.06)


def test_settings_of_the_crop_that_have_no_effect_are_refused(segmenter_recipe_of):
    with pytest.raises(ConfigError, match="crop have no effect in a recipe of stages"):
        dataclasses.replace(staged(segmenter_recipe_of, {}), crop=CropConfig(size_px=96))


# going on


def run(trainer, recipe, folder, progress):
    folder.mkdir(exist_ok=True)
    with deterministic("cpu"):
        run_loop(trainer, folder, recipe.training, stage="train", progress=progress)
    return trainer


def test_four_steps_are_two_a_stop_and_two_more_to_the_last_bit(
    segmenter_trainer_of, segmenter_recipe_of, tmp_path, progress, read_log
):
    recipe = segmenter_recipe_of(steps=4)
    unbroken = run(segmenter_trainer_of(recipe), recipe, tmp_path / "unbroken", progress)
    stopped = segmenter_trainer_of(recipe)
    take = stopped.step

    def step(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(number)

    stopped.step = step
    with pytest.raises(Interrupted):
        run(stopped, recipe, tmp_path / "stopped", progress)
    other_start = segmenter_trainer_of(recipe)
    for parameter in other_start.segmenter.network.parameters():
        parameter.data.zero_()  # everything must come from the checkpoint
    resumed = run(other_start, recipe, tmp_path / "stopped", progress)
    same(resumed.tensors(), unbroken.tensors())
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "unbroken")
    assert len(read_log(tmp_path / "stopped")) == 4


def test_the_loss_falls_on_two_images_in_a_dozen_steps(
    segmenter_trainer_of, segmenter_recipe_of, batches_of, sample_of
):
    recipe = segmenter_recipe_of(steps=14)
    pair = [sample_of(0, size=(64, 64)), sample_of(1, size=(64, 64))]
    trainer = segmenter_trainer_of(recipe, batches=batches_of(pair, []))
    fell = [float(trainer.step(step)["loss"]) for step in range(1, 15)]
    assert sum(fell[-3:]) < 0.8 * sum(fell[:3])


def test_predictions_of_a_trained_segmenter_are_those_after_a_trip_through_its_checkpoint(
    segmenter_trainer_of, segmenter_recipe_of, tmp_path, progress, sample_of
):
    recipe = segmenter_recipe_of(steps=1)
    trained = run(segmenter_trainer_of(recipe), recipe, tmp_path, progress).segmenter
    restored = run(segmenter_trainer_of(recipe), recipe, tmp_path, progress).segmenter
    image = sample_of(2).image
    found, same = (one.detect_boxes(one.see(image)) for one in (trained, restored))
    assert torch.equal(found.boxes, same.boxes)
    assert torch.equal(found.scores, same.scores)


@pytest.mark.slow
def test_the_real_detector_in_bfloat16_goes_on_to_the_last_bit_too(tmp_path, progress, sample_of):
    recipe = SegmenterRecipe(name="lite", training=SegmenterTrainingConfig(steps=4, checkpoint_every=2, log_every=1))
    samples = [sample_of(number, size=(300, 280)) for number in range(3)]

    def trainer():
        with rng.seeded(0, "segmenter weights"):
            segmenter = Segmenter(recipe.segmenter, recipe.inference, autocast=autocast("cpu", "bf16"))
        return SegmenterTrainer(segmenter, SegmenterBatches(samples, recipe.chains(), recipe, 0), recipe, seed=0)

    unbroken = run(trainer(), recipe, tmp_path, progress).tensors()
    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")
    same(run(trainer(), recipe, tmp_path, progress).tensors(), unbroken)
    assert progress.lines == ["train: going on from step 2 of 4"]
