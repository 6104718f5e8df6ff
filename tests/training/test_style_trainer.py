"""Training the style model: batches, partners, one step, and stopping and going on."""

import dataclasses
import math
import os
import shutil
import signal
from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucstyle.augment.geometric import CropConfig
from nucstyle.core.errors import ConfigError, DatasetError, Interrupted
from nucstyle.core.precision import autocast, deterministic
from nucstyle.core.sample import Sample
from nucstyle.style.losses import TranslationLosses, deception_loss
from nucstyle.style.networks import StyleNetworkConfig
from nucstyle.style.objective import frozen, translate_batch, translation_losses
from nucstyle.training import style_trainer
from nucstyle.training.loop import NonFiniteLossError, run_loop
from nucstyle.training.style_trainer import (
    StyleBatches,
    StyleRecipe,
    StyleTrainer,
    StyleTrainingConfig,
    measure_attributes,
    partners,
)
from nucstyle.workflows.recipes import style_recipe


def same(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


def snapshot_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.tensors().items()}


def equal_batches(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# partners


@given(st.integers(2, 7), st.integers(2, 12), st.randoms(use_true_random=False))
def test_partners_are_a_permutation_into_other_modalities(count, size, random):
    order = random.sample(range(count), count)
    modality = [order[slot % count] for slot in range(size)]
    if count == 2 and size % 2:
        return  # StyleBatches refuses these: one image is left over
    partner = partners(modality)
    assert sorted(partner) == list(range(size))
    assert all(modality[one] != modality[other] for one, other in enumerate(partner))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=14))
def test_partners_exist_wherever_no_modality_fills_more_than_half_of_the_batch(modality):
    if max(Counter(modality).values()) * 2 > len(modality):
        return
    partner = partners(modality)
    assert sorted(partner) == list(range(len(modality)))
    assert all(modality[one] != modality[other] for one, other in enumerate(partner))


@pytest.mark.parametrize(("count", "size"), [(2, 2), (3, 6), (4, 6), (6, 2), (6, 6), (6, 8), (6, 12)])
def test_every_modality_is_moved_into_every_other(count, size):
    random, pairs = Random(0), Counter()
    for _ in range(6000):
        order = random.sample(range(count), count)
        modality = [order[slot % count] for slot in range(size)]
        pairs.update((modality[one], modality[other]) for one, other in enumerate(partners(modality)))
    expected = 6000 * size / (count * (count - 1))
    assert len(pairs) == count * (count - 1)
    assert min(pairs.values()) > 0.75 * expected
    assert max(pairs.values()) < 1.25 * expected


# batches


@pytest.fixture
def batches_of(style_recipe_of, fields_of_both):
    """`batches_of(seed=0, batch_size=4, ...)`."""

    def make(*, seed=0, samples=None, modalities=None, **options):
        fields, numbers = fields_of_both
        return StyleBatches(samples or fields, modalities or numbers, [1, -1], style_recipe_of(**options), seed)

    return make


def test_a_batch_follows_from_the_seed_and_the_step_alone(batches_of):
    one, other = batches_of(), batches_of()
    for step in (1, 7):
        other.draw(3)
        torch.rand(5)
        assert equal_batches(one.draw(step), other.draw(step))
    assert not torch.equal(one.draw(1).image, one.draw(2).image)
    assert not torch.equal(one.draw(1).image, batches_of(seed=1).draw(1).image)


def test_a_batch_holds_what_a_step_needs(batches_of):
    batch = batches_of(batch_size=6).draw(1)
    shapes = {name: tuple(tensor.shape) for name, tensor in batch._asdict().items()}
    assert shapes == {
        "image": (6, 3, 32, 32),
        "modality": (6,),
        "partner": (6,),
        "colours": (6, 6),
        "nuclei": (6, 1, 32, 32),
        "annotated": (6,),
        "attribute_noise": (6, 6),
        "random_attribute": (6, 6),
        "content_noise": (12, 16, 8, 8),
        "texture": (6, 1, 32, 32),
    }
    assert -1 <= float(batch.image.min()) < -0.5
    assert 0.5 < float(batch.image.max()) <= 1
    assert batch.modality.tolist().count(0) == 3
    assert all(batch.modality[batch.partner] != batch.modality)


def test_images_are_of_the_modality_that_the_batch_says(batches_of):
    for step in range(1, 6):
        batch = batches_of().draw(step)
        assert ((batch.image.mean(dim=(1, 2, 3)) > 0).long() == batch.modality).all()  # stained fields are light


def test_rare_modalities_take_their_turn_as_often_as_common_ones(batches_of, sample_of):
    samples = [sample_of(number, stained=number == 5) for number in range(6)]
    batches = batches_of(samples=samples, modalities=[0] * 5 + [1])
    assert all(batches.draw(step).modality.tolist().count(1) == 2 for step in range(1, 6))


def test_every_image_of_a_modality_is_shown(batches_of, sample_of):
    samples = [Sample(id=str(k), image=torch.full((3, 40, 40), k / 10)) for k in range(6)]
    batches = batches_of(samples=samples, modalities=[0, 0, 0, 1, 1, 1])
    shown = {round(float(image.mean() + 1) * 5) for step in range(1, 30) for image in batches.draw(step).image}
    assert shown == set(range(6))


def test_the_noise_on_the_content_has_the_recipes_deviation(batches_of):
    for deviation in (0.0, 0.1, 1.0):
        noise = batches_of(content_noise=deviation).draw(1).content_noise
        assert float(noise.std()) == pytest.approx(deviation, rel=0.05)


def test_nuclei_follow_the_crop(batches_of, style_recipe_of):
    labels = torch.zeros(32, 32, dtype=torch.int32)
    labels[:, :6] = 1
    bar = Sample(id="bar", image=(labels > 0).float().expand(3, -1, -1).contiguous(), labels=labels)
    recipe = dataclasses.replace(style_recipe_of(), crop=CropConfig(size_px=32, native=1.0))
    batch = StyleBatches([bar, bar], [0, 1], [1, 1], recipe, 0).draw(1)
    for nuclei, image in zip(batch.nuclei, batch.image, strict=True):
        assert sorted(set(nuclei.flatten().tolist())) == [0.0, 1.0]
        assert torch.equal(nuclei, (image[:1] + 1) / 2)


def test_colours_are_those_of_the_whole_image_not_of_the_crop(style_recipe_of):
    half = torch.full((3, 64, 64), 0.1)
    half[:, :, 50:] = 0.9
    bright = Sample(id="bright", image=half)
    dark = Sample(id="dark", image=1 - half)
    recipe = dataclasses.replace(style_recipe_of(), crop=CropConfig(size_px=32, native=1.0))
    batches = StyleBatches([bright, dark], [0, 1], [1, -1], recipe, 0)
    for step in range(1, 5):
        batch = batches.draw(step)
        for colours, number in zip(batch.colours, batch.modality.tolist(), strict=True):
            wanted = torch.tensor([-0.8] * 3 + [0.8] * 3) * (1 if number == 0 else -1)
            torch.testing.assert_close(colours, wanted)


def test_images_without_masks_are_marked_and_teach_nothing_about_nuclei(batches_of, fields_of_both, style_trainer_of):
    fields, _ = fields_of_both
    mixed = [*fields[:2], *(dataclasses.replace(field, labels=None) for field in fields[2:])]
    batch = batches_of(samples=mixed).draw(1)
    assert batch.annotated.tolist() == (batch.modality == 0).float().tolist()
    assert not batch.nuclei[batch.modality == 1].any()
    bare = [dataclasses.replace(field, labels=None) for field in fields]
    parts = style_trainer_of(batches=batches_of(samples=bare)).step(1)
    assert float(parts["nuclei"]) == 0
    assert float(parts["nuclei_kept"]) > 0  # what the head sees must be kept all the same


def test_images_of_one_modality_cannot_be_trained_on(batches_of, fields_of_both):
    fields, _ = fields_of_both
    with pytest.raises(DatasetError, match="all training images are of one modality"):
        batches_of(samples=fields, modalities=[0, 0, 0, 0])


@pytest.mark.parametrize("size", [3, 5, 7])
def test_two_modalities_and_an_odd_batch_are_refused_since_one_image_would_find_no_partner(batches_of, size):
    with pytest.raises(ConfigError, match=f"batch_size must be even, got {size}; use {size + 1}"):
        batches_of(batch_size=size)


def test_a_batch_that_has_no_room_for_all_modalities_takes_them_in_turns(style_recipe_of, sample_of, style_trainer_of):
    recipe = style_recipe_of(batch_size=3)
    samples = [sample_of(number) for number in range(5)]
    batches = StyleBatches(samples, [0, 1, 2, 3, 4], [1] * 5, recipe, 0)
    drawn = [batches.draw(step) for step in range(1, 12)]
    assert {number for batch in drawn for number in batch.modality.tolist()} == set(range(5))
    for batch in drawn:
        assert len(set(batch.modality.tolist())) == 3
        assert all(batch.modality[batch.partner] != batch.modality)
    two = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, batch_size=2))
    assert len(StyleBatches(samples[:2], [0, 1], [1, 1], two, 0).draw(1).image) == 2


def test_fields_smaller_than_the_crop_and_of_one_image_a_modality_train(style_recipe_of, sample_of, style_trainer_of):
    recipe = style_recipe_of(batch_size=2, size_px=64)
    tiny = [sample_of(0, size=(33, 20)), sample_of(1, stained=True, size=(18, 70))]
    trainer = style_trainer_of(recipe, batches=StyleBatches(tiny, [0, 1], [1, -1], recipe, 0))
    assert all(bool(value.isfinite()) for value in trainer.step(1).values())


@pytest.mark.parametrize("size_px", [16, 28, 34, 50])
def test_a_crop_that_does_not_fit_the_networks_is_refused(size_px):
    with pytest.raises(ConfigError, match=f"multiple of 4 and at least 32, got {size_px}"):
        StyleRecipe(name="x", training=StyleTrainingConfig(steps=1), crop=CropConfig(size_px=size_px))


# one step


def test_a_step_changes_translation_critics_and_average_and_tells_every_term(style_trainer_of):
    trainer = style_trainer_of()
    before = snapshot_of(trainer)
    parts = trainer.step(1)
    criticism = {"critic_realness", "critic_modality", "critic_content"}
    assert set(parts) == {*TranslationLosses._fields, *criticism, "gradient", "critic_gradient"}
    assert all(value.ndim == 0 and not value.requires_grad for value in parts.values())
    after = trainer.tensors()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in ("networks/content", "networks/generator", "networks/nucleus_head"):
        assert any(name.startswith(part) for name in moved), part
    for part in ("critics/image", "critics/content", "average/module"):
        assert any(name.startswith(part) for name in moved), part
    assert "networks/polarity" not in moved


def test_critics_are_taught_by_their_own_losses_only(style_trainer_of):
    """What the critics' weights become does not depend on how the translation's terms are weighed."""
    trainers = [style_trainer_of(), style_trainer_of()]
    recipe = trainers[1]._recipe
    loud = dataclasses.replace(recipe.weights, adversarial=500.0, modality=500.0, content=500.0)
    trainers[1]._recipe = dataclasses.replace(recipe, weights=loud)
    for trainer in trainers:
        trainer.step(1)
    critics = [
        {name: one for name, one in trainer.tensors().items() if name.startswith(("critics", "image_critic"))}
        for trainer in trainers
    ]
    same(*critics)
    translation = [trainer.tensors()["networks/generator.last.weight"] for trainer in trainers]
    assert not torch.equal(*translation)


def test_nothing_arrives_at_frozen_critics_and_everything_passes_through(style_trainer_of):
    trainer = style_trainer_of()
    networks, critics = trainer.networks, trainer.critics
    batch = trainer._batches.draw(1)
    made = translate_batch(networks, batch)
    weights = trainer._recipe.weights
    with frozen(critics):
        terms = translation_losses(networks, critics, batch, made, weights)
    torch.stack(list(terms)).sum().backward()
    assert all(parameter.grad is None for parameter in critics.parameters())
    assert all(parameter.requires_grad for parameter in critics.parameters())
    assert networks.generator.last.weight.grad.any()
    adversarial = translation_losses(networks, critics, batch, translate_batch(networks, batch), weights).adversarial
    adversarial.backward()
    assert critics.image[0].heads[0].weight.grad.any()  # unless they are frozen


@pytest.fixture
def published_recipe():
    """The published objective with tiny networks."""
    tiny = ("size_px=64", "width=4", "attribute_size=3", "residual_blocks=1", "steps=4", "precision=fp32")
    return style_recipe("paper", tiny)


def test_the_published_objective_takes_steps_too(published_recipe, style_trainer_of):
    trainer = style_trainer_of(published_recipe)
    before = snapshot_of(trainer)
    parts = trainer.step(1)
    assert all(bool(value.isfinite()) for value in parts.values())
    moved = {name for name, one in trainer.tensors().items() if name in before and not torch.equal(before[name], one)}
    for part in ("networks/content", "networks/attribute", "networks/generator", "critics/image.0", "critics/image.1"):
        assert any(name.startswith(part) for name in moved), part


def test_the_content_critic_has_batches_of_its_own_where_the_recipe_says_so(published_recipe, style_trainer_of):
    """MDMM: two of three batches teach the content critic alone."""
    trainer = style_trainer_of(published_recipe)
    seen = []
    draw = trainer._batches.draw
    trainer._batches.draw = lambda *place, rank: seen.append(place) or draw(*place, rank=rank)
    trainer.step(5)
    assert seen == [(5, 0), (5, 1), (5,)]
    batches = [draw(5), draw(5, 0), draw(5, 1)]
    assert not torch.equal(batches[0].image, batches[1].image)
    assert not torch.equal(batches[1].image, batches[2].image)
    assert int(trainer.tensors()["content_critic/0/step"]) == 3
    assert int(trainer.tensors()["image_critic/0/step"]) == 1


def test_the_published_objective_goes_on_to_the_last_bit(published_recipe, style_trainer_of, tmp_path, progress):
    recipe = dataclasses.replace(published_recipe, training=dataclasses.replace(published_recipe.training, steps=4))
    unbroken = run(style_trainer_of(recipe), recipe, tmp_path / "unbroken", progress)
    with pytest.raises(Interrupted):
        run(stop_at(style_trainer_of(recipe), 2), recipe, tmp_path / "stopped", progress)
    same(run(style_trainer_of(recipe), recipe, tmp_path / "stopped", progress).tensors(), unbroken.tensors())


def test_terms_that_the_published_networks_cannot_compute_are_refused(published_recipe):
    weights, network = published_recipe.weights, published_recipe.network
    with pytest.raises(ConfigError, match="nuclei_height compares measured heights"):
        dataclasses.replace(published_recipe, weights=dataclasses.replace(weights, nuclei_height=1.0))
    for name in ("nuclei", "nuclei_kept"):
        asked = dataclasses.replace(weights, **{name: 1.0})
        with pytest.raises(ConfigError, match=r"need a head; set network\.nucleus_head=true"):
            dataclasses.replace(published_recipe, weights=asked)
        dataclasses.replace(published_recipe, weights=asked, network=dataclasses.replace(network, nucleus_head=True))


def test_every_translation_has_a_critic_whose_judgement_counts_in_full(published_recipe, style_trainer_of):
    """Two kinds of translation count twice (MDMM), not their mean."""
    trainer = style_trainer_of(published_recipe)
    batch = trainer._batches.draw(1)
    made = translate_batch(trainer.networks, batch)
    assert made.random is not None
    terms = translation_losses(trainer.networks, trainer.critics, batch, made, published_recipe.weights)
    onehot = trainer.networks.onehot(batch.target)
    alone = [
        deception_loss(critic(image, onehot)[0], "cross-entropy")
        for critic, image in zip(trainer.critics.image, made.made, strict=True)
    ]
    assert float(terms.adversarial.detach()) == pytest.approx(float((alone[0] + alone[1]).detach()), rel=1e-5)


def test_critics_with_instance_norm_need_more_than_one_cell(published_recipe, style_trainer_of):
    network = dataclasses.replace(published_recipe.network, critic_norm="instance")
    with pytest.raises(ConfigError, match="at least 68, got 64"):
        dataclasses.replace(published_recipe, network=network)
    larger = dataclasses.replace(published_recipe, network=network, crop=CropConfig(size_px=68, native=0.5))
    assert all(bool(value.isfinite()) for value in style_trainer_of(larger).step(1).values())


def test_models_are_measured_where_there_are_checkpoints():
    StyleTrainingConfig(steps=9, checkpoint_every=3, measure_every=6)
    with pytest.raises(
        ConfigError,
        match=r"measure_every must be a multiple of checkpoint_every, .* got 4 and 3; --set checkpoint_every=4 does",
    ):
        StyleTrainingConfig(steps=9, checkpoint_every=3, measure_every=4)


def test_dark_images_are_enhanced_first_where_that_is_asked_for(style_recipe_of, style_trainer_of):
    dim = torch.zeros(3, 64, 64)
    dim[:, 20:40, 20:40] = torch.linspace(0.02, 0.1, 20)
    samples = [Sample(id="dim", image=dim), Sample(id="light", image=torch.rand(3, 64, 64))]
    brightest = {}
    for clahe in (False, True):
        recipe = style_recipe_of(clahe=clahe, batch_size=2)
        batches = StyleBatches(samples, [0, 1], [1, -1], recipe, 0)
        drawn = [batches.draw(step) for step in range(1, 4)]
        brightest[clahe] = max(float(batch.image[batch.modality == 0].max()) for batch in drawn)
        _, values = style_trainer_of(recipe, batches=batches).model(("a", "b"), int, None).state()
        assert (values["clahe"] is not None) == clahe
    assert brightest[True] > brightest[False] + 0.5


@pytest.mark.parametrize("size_px", [32, 60])
def test_a_crop_that_the_published_critics_cannot_halve_six_times_is_refused(size_px, published_recipe):
    with pytest.raises(ConfigError, match=f"at least 64, got {size_px}"):
        dataclasses.replace(published_recipe, crop=CropConfig(size_px=size_px))


def test_the_rates_are_functions_of_the_step_the_content_critics_too(style_trainer_of, style_recipe_of):
    recipe = style_recipe_of(steps=10, learning_rate=0.01, content_critic_learning_rate=0.004)
    trainer = style_trainer_of(recipe)
    for step, share in ((1, 1.0), (6, 1.0), (8, 0.6), (10, 0.2)):
        trainer._set_rates(step)
        rates = [
            one.param_groups[0]["lr"] for one in (trainer._translation, trainer._image_critic, trainer._content_critic)
        ]
        assert rates == pytest.approx([0.01 * share, 0.01 * share, 0.004 * share])


def test_the_average_forgets_the_start_soon_and_then_moves_slowly(style_trainer_of, style_recipe_of):
    trainer = style_trainer_of(style_recipe_of(steps=20, average_decay=0.9))
    name = "generator.last.weight"
    kept = None
    for step in range(1, 21):
        trainer.step(step)
        now = trainer.networks.state_dict()[name]
        # The decay is (1 + n) / (10 + n) after n updates, at most 0.9; the first update copies.
        share = 1.0 if kept is None else 1 - min(0.9, (1 + (step - 1)) / (10 + (step - 1)))
        kept = now.clone() if kept is None else kept.lerp(now, share)
        torch.testing.assert_close(trainer.tensors()[f"average/module.{name}"], kept)


@pytest.mark.parametrize(("module", "name"), [("networks", "gradient"), ("critics", "critic_gradient")])
def test_gradients_are_clipped_and_their_norm_is_told(style_trainer_of, style_recipe_of, module, name):
    norms, told = [], []
    for clip in (1e-3, 1e6):
        trainer = style_trainer_of(style_recipe_of(gradient_clip=clip))
        told.append(float(trainer.step(1)[name]))
        gradients = [one.grad for one in getattr(trainer, module).parameters() if one.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1] == pytest.approx(told[1], rel=1e-3)
    assert told[1] > 0.1


class Poisoned:
    """Batches of which some hold a number that is none."""

    def __init__(self, batches, *, steps, value):
        self._batches, self._steps, self._value = batches, steps, value

    def draw(self, step, *, rank=0):
        batch = self._batches.draw(step, rank=rank)
        if step in self._steps:
            batch.image[0, 0, 3, 3] = self._value
        return batch


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_raises_before_anything_is_learned(style_trainer_of, value, batches_of):
    trainer = style_trainer_of(batches=Poisoned(batches_of(), steps={2}, value=value))
    trainer.step(1)
    before = {name: one.detach().clone() for name, one in trainer.networks.named_parameters()}
    critics = {name: one.detach().clone() for name, one in trainer.critics.named_parameters()}
    average = trainer.tensors()["average/module.generator.last.weight"].clone()
    with pytest.raises(NonFiniteLossError, match="critic_realness"):
        trainer.step(2)
    same(dict(trainer.networks.named_parameters()), before)
    same(dict(trainer.critics.named_parameters()), critics)
    assert torch.equal(trainer.tensors()["average/module.generator.last.weight"], average)
    assert all(bool(tensor.isfinite().all()) for tensor in trainer.tensors().values())


def test_a_translation_loss_that_is_not_finite_leaves_the_translation_as_it_was(style_trainer_of, monkeypatch):
    trainer = style_trainer_of()
    before = {name: one.detach().clone() for name, one in trainer.networks.named_parameters()}
    real = style_trainer.translation_losses
    monkeypatch.setattr(
        style_trainer, "translation_losses", lambda *given: real(*given)._replace(kl=torch.tensor(math.inf))
    )
    with pytest.raises(NonFiniteLossError, match=r"^kl$"):
        trainer.step(1)
    same(dict(trainer.networks.named_parameters()), before)


def test_a_run_survives_a_bad_batch_and_says_so(
    style_trainer_of, batches_of, tmp_path, progress, read_log, style_recipe_of
):
    recipe = style_recipe_of(steps=3)
    trainer = style_trainer_of(recipe, batches=Poisoned(batches_of(), steps={2}, value=math.nan))
    run_loop(trainer, tmp_path, recipe.training, stage="train", progress=progress)
    assert [sorted(line)[:2] for line in read_log(tmp_path)][1] == ["skipped", "step"]
    assert all(
        math.isfinite(value) for line in read_log(tmp_path) for value in line.values() if isinstance(value, float)
    )


# going on


def run(trainer, recipe, folder, progress):
    folder.mkdir(exist_ok=True)
    with deterministic("cpu"):
        run_loop(trainer, folder, recipe.training, stage="train", progress=progress)
    return trainer


def stop_at(trainer, step):
    """Have a SIGTERM arrive while the trainer takes a step."""
    take = trainer.step

    def stopped(number):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(number)

    trainer.step = stopped
    return trainer


def test_ten_steps_are_five_a_stop_and_five_more_to_the_last_bit(
    style_trainer_of, style_recipe_of, tmp_path, progress, read_log
):
    recipe = style_recipe_of(steps=10)
    unbroken = run(style_trainer_of(recipe), recipe, tmp_path / "unbroken", progress)
    with pytest.raises(Interrupted):
        run(stop_at(style_trainer_of(recipe), 5), recipe, tmp_path / "stopped", progress)
    other_start = style_trainer_of(recipe)
    torch.nn.init.zeros_(other_start.networks.generator.last.weight)  # everything must come from the checkpoint
    resumed = run(other_start, recipe, tmp_path / "stopped", progress)
    same(resumed.tensors(), unbroken.tensors())
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "unbroken")
    assert len(read_log(tmp_path / "stopped")) == 10


def test_two_trainings_of_one_seed_are_one_and_of_two_seeds_are_two(style_trainer_of):
    trainers = [style_trainer_of(), style_trainer_of(), style_trainer_of(seed=1)]
    for trainer in trainers:
        torch.rand(3)  # the global stream is none of their business
        for step in (1, 2):
            trainer.step(step)
    same(trainers[0].tensors(), trainers[1].tensors())
    assert not torch.equal(
        trainers[0].tensors()["networks/content_encoder.stem.weight"],
        trainers[2].tensors()["networks/content_encoder.stem.weight"],
    )


def test_training_leaves_the_global_stream_alone(style_trainer_of):
    before = torch.random.get_rng_state()
    style_trainer_of().step(1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reconstruction_falls_on_two_images_in_thirty_steps(style_trainer_of, style_recipe_of, sample_of):
    recipe = dataclasses.replace(
        style_recipe_of(steps=30, batch_size=2, learning_rate=1e-2, content_noise=0.0),
        network=StyleNetworkConfig(width=8, residual_blocks=1, style_size=64, feature_critic=False),
        crop=CropConfig(size_px=32, native=1.0),
    )
    pair = [sample_of(0, size=(32, 32)), sample_of(1, stained=True, size=(32, 32))]
    trainer = style_trainer_of(recipe, batches=StyleBatches(pair, [0, 1], [1, -1], recipe, 0))
    fell = [float(trainer.step(step)["reconstruction"]) for step in range(1, 31)]
    assert sum(fell[-3:]) / 3 < 0.6 * sum(fell[:3]) / 3


@pytest.mark.slow
def test_the_real_networks_in_bfloat16_go_on_to_the_last_bit_too(tmp_path, progress, fields_of_both):
    recipe = StyleRecipe(
        name="lite",
        training=StyleTrainingConfig(steps=4, checkpoint_every=2, log_every=1),
        crop=CropConfig(size_px=128, zoom_low=0.7, zoom_high=1.2, native=0.5),
    )

    def trainer():
        batches = StyleBatches(*fields_of_both, [1, -1], recipe, 0)
        return StyleTrainer(batches, [1, -1], recipe, device="cpu", autocast=autocast("cpu", "bf16"), seed=0)

    unbroken = run(trainer(), recipe, tmp_path, progress).tensors()
    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")
    same(run(trainer(), recipe, tmp_path, progress).tensors(), unbroken)
    assert progress.lines == ["train: going on from step 2 of 4"]


# the model that comes out


def test_the_model_speaks_with_the_averaged_weights(style_trainer_of):
    trainer = style_trainer_of()
    for step in range(1, 4):
        trainer.step(step)
    model = trainer.model(["dark", "light"], lambda _: 0, None)
    tensors, values = model.state()
    stored = trainer.tensors()
    for name in ("generator.last.weight", "content_encoder.stem.weight", "polarity"):
        assert torch.equal(tensors[f"networks.{name}"], stored[f"average/module.{name}"])
    assert not torch.equal(tensors["networks.generator.last.weight"], stored["networks/generator.last.weight"])
    assert values["modalities"] == ["dark", "light"]
    assert tensors["attributes.mean"].tolist() == [[0.0] * 6] * 2
    assert tensors["attributes.deviation"].tolist() == [[1.0] * 6] * 2


def test_asking_for_the_model_does_not_change_the_training(style_trainer_of):
    plain, asked = style_trainer_of(), style_trainer_of()
    for step in (1, 2):
        plain.step(step)
        asked.step(step)
        asked.model(["dark", "light"], lambda _: 0, None).reconstruct(torch.rand(1, 3, 32, 32), torch.tensor([0]))
    same(plain.tensors(), asked.tensors())


def test_attributes_are_measured_modality_by_modality(style_trainer_of, fields_of_both):
    fields, numbers = fields_of_both
    model = style_trainer_of().model(["dark", "light"], lambda _: 0, None)
    spread = measure_attributes(model, [*fields, fields[0]], [*numbers, 0])
    assert spread.mean.shape == spread.deviation.shape == (2, 6)
    assert [len(one) for one in spread.examples] == [3, 2]
    encoded = [
        model.encode_attribute(one.image[None], torch.tensor([k]))[0] for one, k in zip(fields, numbers, strict=True)
    ]
    dark, light = torch.stack([encoded[0], encoded[1], encoded[0]]), torch.stack(encoded[2:])
    torch.testing.assert_close(spread.mean, torch.stack([dark.mean(0), light.mean(0)]))
    naive = [((part - part.mean(0)) ** 2).mean(0).sqrt() for part in (dark, light)]
    torch.testing.assert_close(spread.deviation, torch.stack(naive))


def test_a_modality_of_one_image_has_no_spread(style_trainer_of, fields_of_both):
    fields, _ = fields_of_both
    model = style_trainer_of().model(["dark", "light"], lambda _: 0, None)
    spread = measure_attributes(model, [fields[0], fields[2]], [0, 1])
    assert not spread.deviation.any()


def test_going_on_from_other_weights_keeps_the_signs_of_this_data(style_trainer_of):
    trainer = style_trainer_of()
    other = {name: one.clone() for name, one in trainer.networks.state_dict().items()}
    other["polarity"] = -other["polarity"]
    other["generator.last.bias"] += 1
    trainer.start_from(other, where="test")
    assert trainer.networks.polarity.tolist() == [1, -1]
    assert trainer.networks.generator.last.bias.tolist() == [1, 1, 1]
