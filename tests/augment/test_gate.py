"""The gate lets through what keeps its nuclei, and refuses what loses, turns, or invents some."""

import copy
import dataclasses

import pytest
import torch

from nucstyle.augment.gate import ACCEPTED, OUTCOMES, REASONS, Gate, GateConfig, Verdict
from nucstyle.augment.style import StyleTransfer
from nucstyle.core.errors import ConfigError, OptionError
from nucstyle.core.rng import generator

FADED, GONE, NEW, MOVED = REASONS


class BrightJudge:
    """Takes for a nucleus whatever is far from the image's median."""

    def __init__(self):
        self.looked = 0

    def foreground(self, image):
        self.looked += 1
        grey = image.mean(dim=1, keepdim=True)
        return ((grey - grey.median()).abs() > 0.2).float()


def inverted(sample):
    return 1 - sample.image


def without(sample, *numbers):
    """The image with some nuclei painted over with background."""
    image = sample.image.clone()
    for number in numbers:
        image[:, sample.labels == number] = image[:, sample.labels == 0].mean()
    return image


def with_discs(image, count):
    """The image with squares where the sample has no nuclei: along its upper border."""
    image = image.clone()
    for k in range(count):
        image[:, 1:7, 2 + 12 * k : 8 + 12 * k] = 1.0
    return image


@pytest.fixture
def field(sample_of):
    """Twelve bright nuclei in the lower part of a field."""
    sample = sample_of(3, size=(128, 140))
    labels = torch.zeros(128, 140, dtype=torch.int32)
    for k in range(12):
        y, x = 30 + 24 * (k // 4), 14 + 30 * (k % 4)
        labels[y : y + 9, x : x + 9] = k + 1
    noise = torch.randn((1, 128, 140), generator=generator("noise")) * 0.02
    image = (torch.where(labels > 0, 0.7, 0.1)[None] + noise).clamp(0, 1).expand(3, -1, -1).contiguous()
    return dataclasses.replace(sample, image=image, labels=labels)


def test_the_same_image_and_its_inverse_of_the_right_sign_are_accepted(field):
    gate = Gate(BrightJudge())
    assert gate.check(field, field.image, signs=(1, 1)).outcome == ACCEPTED
    verdict = gate.check(field, inverted(field), signs=(1, -1))
    assert verdict.is_accepted
    assert verdict.values == {"separation": pytest.approx(1, abs=1e-3), "lost": 0, "new": 0}


def test_nuclei_of_the_wrong_sign_are_refused(field):
    assert Gate().check(field, inverted(field), signs=(1, 1)).outcome == FADED
    assert Gate().check(field, field.image, signs=(1, -1)).outcome == FADED


def test_where_no_sign_is_known_either_will_do_but_nuclei_must_be_seen(field):
    assert Gate().check(field, inverted(field)).is_accepted
    noise = torch.rand(field.image.shape, generator=generator("faded"))
    assert Gate().check(field, noise).outcome == FADED


def test_a_source_of_weak_contrast_need_not_get_stronger(field):
    noise = torch.randn((1, *field.size), generator=generator("weak")) * 0.35
    weak = dataclasses.replace(field, image=(field.image * 0.4 + 0.3 + noise).clamp(0, 1))
    verdict = Gate(config=GateConfig(max_lost=1)).check(weak, weak.image, signs=(1, 1))
    assert 0.5 < verdict.values["separation"] < 0.8
    assert verdict.is_accepted
    assert Gate(config=GateConfig(max_lost=1)).check(weak, inverted(weak), signs=(1, 1)).outcome == FADED


def test_a_few_nuclei_that_are_gone_are_noticed_though_most_are_there(field):
    assert Gate().check(field, without(field, 5), signs=(1, 1)).is_accepted  # one of twelve: 8 %
    verdict = Gate().check(field, without(field, 5, 9), signs=(1, 1))
    assert verdict.outcome == GONE
    assert verdict.values["lost"] == pytest.approx(2 / 12)
    assert verdict.values["separation"] > 0.8


def test_new_nuclei_are_refused_where_there_is_a_judge(field):
    many = with_discs(field.image, 8)
    assert Gate().check(field, many, signs=(1, 1)).is_accepted
    verdict = Gate(BrightJudge()).check(field, many, signs=(1, 1))
    assert verdict.outcome == NEW
    assert verdict.values["new"] == pytest.approx(8 / 12)
    assert Gate(BrightJudge()).check(field, with_discs(field.image, 5), signs=(1, 1)).is_accepted


def test_what_the_judge_takes_for_nuclei_in_the_source_already_is_not_new(field):
    marked = dataclasses.replace(field, image=with_discs(field.image, 8))
    judge = BrightJudge()
    assert Gate(judge).check(marked, marked.image, signs=(1, 1)).is_accepted
    assert judge.looked == 2  # at the source only because there were many
    Gate(judge).check(field, field.image, signs=(1, 1))
    assert judge.looked == 3


def test_large_nuclei_are_shown_to_the_judge_at_half_the_size(field):
    sizes = []

    class Recording(BrightJudge):
        def foreground(self, image):
            sizes.append(tuple(image.shape[-2:]))
            return super().foreground(image)

    Gate(Recording()).check(field, field.image, signs=(1, 1))
    large = dataclasses.replace(
        field, labels=torch.nn.functional.max_pool2d(field.labels[None].float(), 3, 1, 1)[0].int()
    )
    odd = dataclasses.replace(large, image=large.image[:, :127], labels=large.labels[:127])
    Gate(Recording()).check(odd, odd.image, signs=(1, 1))
    assert sizes == [(128, 140), (64, 70)]
    many = with_discs(odd.image, 8)
    assert Gate(BrightJudge()).check(odd, many, signs=(1, 1)).outcome == NEW


def test_a_field_without_nuclei_may_show_a_speck_but_not_many(field):
    empty = dataclasses.replace(field, image=torch.full_like(field.image, 0.1), labels=torch.zeros_like(field.labels))
    gate = Gate(BrightJudge())
    assert gate.check(empty, with_discs(empty.image, 2), signs=(1, 1)).is_accepted
    assert gate.check(empty, with_discs(empty.image, 3), signs=(1, 1)).outcome == NEW


def test_without_masks_edges_must_stay_where_they_are(field):
    bare = dataclasses.replace(field, labels=None)
    assert Gate().check(bare, inverted(bare)).is_accepted
    assert Gate().check(bare, bare.image.flip(2)).outcome == MOVED
    flat = dataclasses.replace(bare, image=torch.full_like(bare.image, 0.5))
    assert Gate().check(flat, bare.image).is_accepted  # nothing to keep
    assert Gate().check(bare, flat.image).outcome == MOVED


def test_not_annotated_and_annotated_as_empty_are_two_things(field):
    empty = dataclasses.replace(field, labels=torch.zeros_like(field.labels))
    moved = field.image.flip(2)
    assert Gate().check(dataclasses.replace(field, labels=None), moved).outcome == MOVED
    assert Gate().check(empty, moved, signs=(1, 1)).is_accepted


def test_of_a_large_image_the_middle_is_looked_at(field, monkeypatch):
    monkeypatch.setattr("nucstyle.augment.gate.LOOKED_AT_PX", 64)
    changed = field.image.clone()
    changed[:, :20] = 1 - changed[:, :20]
    bare = dataclasses.replace(field, labels=None)
    assert Gate().check(bare, changed).values["edges"] == pytest.approx(1)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (2, 2), (7, 1)])
@pytest.mark.parametrize("filled", [False, True])
def test_tiny_images_are_judged_without_an_error(sample_of, size, filled):
    sample = sample_of(0, size=(16, 16))
    labels = torch.full(size, int(filled), dtype=torch.int32)
    tiny = dataclasses.replace(sample, image=torch.rand((3, *size), generator=generator("tiny")), labels=labels)
    assert Gate(BrightJudge()).check(tiny, tiny.image, signs=(1, 1)).is_accepted


# In StyleTransfer


class Refusing(Gate):
    """Refuses the first `times` images it is shown."""

    def __init__(self, times, redraws=2):
        super().__init__(config=GateConfig(redraws=redraws))
        self.times = times

    def check(self, before, after, *, signs=None):
        self.times -= 1
        return Verdict(GONE if self.times >= 0 else ACCEPTED, {"lost": 0.5})


def test_a_refused_image_is_drawn_again_in_another_style_of_the_same_modality(fake_translator, nuclei):
    free = StyleTransfer(fake_translator, 1.0, gate=None)(nuclei, seed=4)
    transfer = StyleTransfer(fake_translator, 1.0, gate=Refusing(2))
    made = transfer(nuclei, seed=4)
    first, last = free.history[-1].drawn, made.history[-1].drawn
    assert last["target"] == first["target"]
    assert last["attribute"] != first["attribute"]
    assert last["attempt"] == 3
    assert last["gate"] == {"lost": 0.5}
    assert made.labels is nuclei.labels
    pair = tuple(fake_translator.modalities.index(last[name]) for name in ("source", "target"))
    assert transfer.tally[*pair].tolist() == [1, 0, 2, 0, 0, 0]
    assert transfer.tally.sum() == 3


def test_after_too_many_refusals_the_original_is_kept_and_counted(fake_translator, nuclei):
    transfer = StyleTransfer(fake_translator, 1.0, gate=Refusing(3))
    assert transfer(nuclei, seed=4) is nuclei
    assert transfer.tally.sum(dim=(0, 1)).tolist() == [0, 0, 3, 0, 0, 1]
    array = (nuclei.image.permute(1, 2, 0).numpy() * 255).astype("uint8")
    transfer.gate.times = 3
    assert transfer(array, seed=4) is array


def test_a_given_style_is_not_drawn_again(fake_translator, nuclei):
    transfer = StyleTransfer(fake_translator, 1.0, attributes="exemplar", exemplar=1 - nuclei.image, gate=Refusing(1))
    assert transfer(nuclei, seed=0) is nuclei
    assert transfer.tally.sum(dim=(0, 1)).tolist() == [0, 0, 1, 0, 0, 1]


def test_what_the_gate_let_through_at_once_is_what_comes_without_a_gate(fake_translator, nuclei):
    free = StyleTransfer(fake_translator, 1.0, gate=None)(nuclei, seed=9)
    assert torch.equal(StyleTransfer(fake_translator, 1.0, gate=Refusing(0))(nuclei, seed=9).image, free.image)


def test_the_gate_is_on_unless_it_is_turned_off(fake_translator):
    assert isinstance(StyleTransfer(fake_translator).gate, Gate)
    assert StyleTransfer(fake_translator, gate=None).gate is None
    own = Gate()
    assert StyleTransfer(fake_translator, gate=own).gate is own
    for wrong in ("always", False, 3):
        with pytest.raises(OptionError, match="gate"):
            StyleTransfer(fake_translator, gate=wrong)
    with pytest.raises(OptionError, match=r"or a Gate, got Linear$"):  # not what is in it
        StyleTransfer(fake_translator, gate=torch.nn.Linear(1, 1))
    for wrong in ({"redraws": -1}, {"min_separation": 7}, {"max_new": -0.1}, {"min_edges": -2}):
        with pytest.raises(ConfigError, match=f"gate: .*{next(iter(wrong))}"):
            Gate(config=GateConfig(**wrong))


def test_the_tally_is_not_shared_with_other_processes(fake_translator, nuclei):
    transfer = StyleTransfer(fake_translator, 1.0)
    transfer(nuclei, seed=0)
    assert transfer.tally.sum() == 1
    assert copy.copy(transfer).tally.sum() == 0  # by way of what is pickled
    assert transfer.tally.sum() == 1


def test_every_outcome_has_its_column(fake_translator):
    modalities = len(fake_translator.modalities)
    assert StyleTransfer(fake_translator).tally.shape == (modalities, modalities, len(OUTCOMES))
