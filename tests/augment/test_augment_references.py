"""Augmentations by example: what is measured of an example, how one is drawn, and what all of these arms have in common."""

import dataclasses
import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucstyle.augment.colour import ColourJitter
from nucstyle.augment.fourier import FourierConfig, FourierSwap
from nucstyle.augment.histogram import HistogramMatch
from nucstyle.augment.recolour import Recolour
from nucstyle.augment.references import LEVELS, Reference, References, cumulative, level_index, low_amplitude
from nucstyle.augment.reinhard import Reinhard
from nucstyle.core.errors import OptionError
from nucstyle.core.photometry import measure_stops
from nucstyle.core.rng import generator
from nucstyle.core.sample import Applied, Sample

DARK, LIGHT = "grey-on-black", "purple-on-white"
BY_EXAMPLE = [Recolour, HistogramMatch, Reinhard, FourierSwap]
ARMS = [ColourJitter, *BY_EXAMPLE]


def make(kind, references, **options):
    """An arm that always acts, unless told otherwise."""
    options = {"p": 1.0, **options}
    return kind(**options) if kind is ColourJitter else kind(references, **options)


def drawn(sample):
    return sample.history[-1].drawn


# What all arms have in common.


@pytest.mark.parametrize("kind", ARMS)
def test_labels_stay_the_same_object_and_pixels_change(kind, references, sample_of):
    nuclei = sample_of(9)  # none of the references
    before = nuclei.image.clone()
    changed = 0
    for seed in range(12):
        made = make(kind, references).augment(nuclei, generator(seed))
        assert made.labels is nuclei.labels
        assert made.id == nuclei.id
        assert made.size == nuclei.size
        changed += not torch.equal(made.image, before)
    assert changed >= 10  # a jitter may draw nothing but hue, which grey has none of
    assert torch.equal(nuclei.image, before)


@pytest.mark.parametrize("kind", ARMS)
def test_the_generator_alone_decides(kind, references, nuclei):
    arm = make(kind, references)
    state = torch.random.get_rng_state()
    one, same, other = (arm.augment(nuclei, generator("seed", seed)).image for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", ARMS)
def test_never_always_and_by_default_every_second_time(kind, references, nuclei):
    drawing = generator("p")
    assert all(make(kind, references, p=0.0).augment(nuclei, drawing) is nuclei for _ in range(30))
    assert all(make(kind, references, p=1.0).augment(nuclei, drawing).history for _ in range(30))
    default = ColourJitter() if kind is ColourJitter else kind(references)
    assert 70 < sum(default.augment(nuclei, drawing) is not nuclei for _ in range(200)) < 130


@pytest.mark.parametrize("kind", ARMS)
def test_the_record_is_plain_and_gives_the_same_pixels_again(kind, references, nuclei):
    arm = make(kind, references)
    earlier = dataclasses.replace(nuclei, history=(Applied("Earlier", {}),))
    for seed in range(8):
        made = arm.augment(earlier, generator("record", seed))
        assert [applied.name for applied in made.history] == ["Earlier", kind.__name__]
        plain = json.loads(json.dumps(drawn(made)))
        assert torch.equal(arm.apply(nuclei, plain).image, made.image)


@pytest.mark.parametrize("kind", ARMS)
def test_images_of_any_kind_stay_images(kind, references, edge):
    for seed in range(12):
        made = make(kind, references).augment(edge, generator("edge", seed))
        assert made.image.shape == edge.image.shape
        assert made.image.dtype == torch.float32
        assert made.image.is_contiguous()
        assert bool(made.image.isfinite().all())
        assert 0 <= float(made.image.min()) <= float(made.image.max()) <= 1


@pytest.mark.parametrize("kind", ARMS)
def test_labels_are_not_looked_at(kind, references, nuclei):
    bare = dataclasses.replace(nuclei, labels=None)
    wrong = dataclasses.replace(nuclei, labels=torch.ones_like(nuclei.labels))
    for seed in range(4):
        one, other, third = (
            make(kind, references).augment(sample, generator(seed)).image for sample in (bare, wrong, nuclei)
        )
        assert torch.equal(one, other)
        assert torch.equal(one, third)


@pytest.mark.parametrize("kind", ARMS)
def test_arms_can_be_sent_to_other_processes(kind, references, nuclei):
    arm = make(kind, references)
    sent = pickle.loads(pickle.dumps(arm))
    assert torch.equal(sent.augment(nuclei, generator(4)).image, arm.augment(nuclei, generator(4)).image)


# How an example is drawn.


@pytest.mark.parametrize("kind", BY_EXAMPLE)
def test_modalities_are_drawn_alike_however_many_examples_they_have_and_then_examples(kind, examples, nuclei):
    few = References.measure(examples[:4], [sample.modality for sample in examples[:4]], {DARK: 1, LIGHT: -1})
    draws = [make(kind, few).draw(nuclei, generator("drawn", number)) for number in range(300)]
    targets = Counter(draw["target"] for draw in draws)
    assert set(targets) == {DARK, LIGHT}
    assert min(targets.values()) > 120
    chosen = Counter(draw["reference"] for draw in draws if draw["target"] == DARK)
    assert set(chosen) == {"field-0", "field-1", "field-2"}
    assert min(chosen.values()) > 25
    assert {draw["reference"] for draw in draws if draw["target"] == LIGHT} == {"field-3"}


@pytest.mark.parametrize("kind", BY_EXAMPLE)
def test_targets_restrict_the_choice(kind, references, nuclei):
    for name in (DARK, LIGHT):
        arm = make(kind, references, targets=[name])
        assert {arm.draw(nuclei, generator(seed))["target"] for seed in range(20)} == {name}


@pytest.mark.parametrize("kind", BY_EXAMPLE)
def test_the_own_modality_is_never_chosen_where_it_is_excluded_and_known(kind, references, examples):
    for sample, other in ((examples[0], LIGHT), (examples[5], DARK)):
        unnamed = dataclasses.replace(sample, modality=None)
        told = make(kind, references, exclude_own=True)
        seen = make(kind, references, exclude_own=True, recognise=lambda _, own=sample.modality: own)
        for arm, which in ((told, sample), (seen, unnamed)):
            draws = [arm.draw(which, generator(seed)) for seed in range(30)]
            assert {draw["target"] for draw in draws} == {other}
            assert {draw["source"] for draw in draws} == {sample.modality}
        assert {told.draw(unnamed, generator(seed))["target"] for seed in range(30)} == {DARK, LIGHT}


@pytest.mark.parametrize("kind", BY_EXAMPLE)
def test_where_only_the_own_modality_is_left_the_image_stays_as_it_is(kind, references, examples):
    arm = make(kind, references, targets=[DARK], exclude_own=True)
    assert arm.augment(examples[0], generator(0)) is examples[0]


@pytest.mark.parametrize("kind", BY_EXAMPLE)
def test_the_name_of_a_sample_counts_before_what_is_seen_in_it(kind, references, examples):
    asked = []

    def recognise(image):
        asked.append(image)
        return LIGHT

    arm = make(kind, references, exclude_own=True, recognise=recognise)
    assert arm.draw(examples[0], generator(0))["source"] == DARK
    assert not asked
    unknown = dataclasses.replace(examples[0], modality="brown")
    assert arm.draw(unknown, generator(0))["source"] == LIGHT
    assert len(asked) == 1
    assert asked[0] is unknown.image


@pytest.mark.parametrize("kind", [HistogramMatch, Reinhard, FourierSwap])
def test_nobody_is_asked_for_a_modality_that_does_not_matter(kind, references, nuclei):
    arm = make(kind, references, recognise=lambda _: pytest.fail("asked"))
    assert arm.draw(nuclei, generator(0))["source"] is None


@pytest.mark.parametrize("kind", BY_EXAMPLE)
@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_zero_to_one_is_refused(kind, references, p):
    with pytest.raises(OptionError, match=r"p is a probability in \[0, 1\]"):
        make(kind, references, p=p)


@pytest.mark.parametrize("kind", BY_EXAMPLE)
@pytest.mark.parametrize("targets", [["brown"], [LIGHT, "brown"], []])
def test_unknown_targets_are_refused_with_those_known(kind, references, targets):
    with pytest.raises(OptionError, match=r"unknown target modality .*; known: grey-on-black, purple"):
        make(kind, references, targets=targets)


# What is measured.


def test_references_are_grouped_by_modality_and_found_by_id(references, examples):
    assert references.modalities == (DARK, LIGHT)
    assert [list(group) for group in references.images.values()] == [
        ["field-0", "field-1", "field-2"],
        ["field-3", "field-4", "field-5"],
    ]
    found = references.find(LIGHT, "field-4")
    assert torch.equal(found.stops, measure_stops(examples[4].image, -1))
    for modality, identity in ((DARK, "field-4"), ("brown", "field-0")):
        with pytest.raises(OptionError, match=f"no reference image '{identity}' of '{modality}'"):
            references.find(modality, identity)


def test_measuring_does_not_look_at_labels(examples):
    bare, full = (
        Reference.measure(sample, 1) for sample in (dataclasses.replace(examples[0], labels=None), examples[0])
    )
    for field in dataclasses.fields(Reference):
        one, other = getattr(bare, field.name), getattr(full, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("size", [(64, 80), (700, 900)])
def test_a_reference_is_small_however_large_its_image(size):
    large = Sample(id="large", image=torch.rand((3, *size), generator=generator(0)))
    kept = [
        value
        for field in dataclasses.fields(Reference)
        if isinstance(value := getattr(Reference.measure(large, 1), field.name), torch.Tensor)
    ]
    assert sum(one.untyped_storage().nbytes() for one in kept) <= 63_000


def test_modalities_without_images_are_no_targets(examples):
    measured = References.measure(examples[:3], [DARK] * 3, {DARK: 1, LIGHT: -1})
    assert measured.modalities == (DARK,)


@pytest.mark.parametrize(
    ("count", "names", "polarity", "message"),
    [
        (0, [], {DARK: 1}, "0 images and 0 names"),
        (2, [DARK], {DARK: 1}, "2 images and 1 names"),
        (1, ["brown"], {DARK: 1}, "field-0: no polarity is given for its modality 'brown'; known: grey-on-black"),
        (1, [DARK], {DARK: 0}, r"1 \(objects brighter\) or -1 \(darker\), got {'grey-on-black': 0}"),
        (2, [DARK, DARK], {DARK: 1}, "two reference images of grey-on-black have this id"),
    ],
)
def test_what_does_not_fit_together_is_refused(sample_of, count, names, polarity, message):
    with pytest.raises(OptionError, match=message):
        References.measure([sample_of(0) for _ in range(count)], names, polarity)


@given(st.integers(0, 10_000), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_cumulative_histogram_counts_pixels_at_a_level_or_below(seed, size):
    drawing = generator("cumulative", seed)
    levels = torch.randint(0, LEVELS, (3, *size), generator=drawing)
    beside = 0.8 * torch.rand((3, *size), generator=drawing) - 0.4
    counts = cumulative(level_index(((levels + beside) / (LEVELS - 1)).clamp(0, 1)))
    expected = (levels.view(3, 1, -1) <= torch.arange(LEVELS)[None, :, None]).sum(dim=2)
    assert torch.equal(counts, expected.int())


def test_the_levels_of_8_bits_are_levels():
    index = level_index((torch.arange(256) / 255).expand(3, 1, 256))
    assert torch.equal(index[2].flatten(), 2 * LEVELS + 4 * torch.arange(256, dtype=torch.int32))


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (37, 51), (200, 150)])
def test_amplitudes_are_those_of_the_whole_spectrum_from_numpy(size):
    image = torch.rand((3, *size), generator=generator("amplitude"))
    kept = low_amplitude(image).float().numpy()
    full = np.abs(np.fft.fftshift(np.fft.fft2(image.double().numpy()), axes=(1, 2))) / (size[0] * size[1])
    up, across = (min(64, (side - 1) // 2) for side in size)
    middle, centre = size[0] // 2, size[1] // 2
    expected = full[:, middle - up : middle + up + 1, centre : centre + across + 1]
    np.testing.assert_allclose(kept, expected, atol=2e-6, rtol=1e-3)


def test_amplitudes_hardly_depend_on_the_size_of_the_image(sample_of):
    image = sample_of(3, stained=True).image
    larger = image.repeat_interleave(3, dim=1).repeat_interleave(2, dim=2)
    one, other = (low_amplitude(each).float() for each in (image, larger))
    middle, beside = one.shape[1] // 2, other.shape[1] // 2
    torch.testing.assert_close(
        one[:, middle - 4 : middle + 5, :5], other[:, beside - 4 : beside + 5, :5], atol=1e-3, rtol=0.02
    )


def test_a_share_of_nothing_is_the_identity_for_a_whole_arm(references, nuclei):
    arm = FourierSwap(references, FourierConfig(share_low=0.0, share_high=0.0), p=1.0)
    assert torch.equal(arm.augment(nuclei, generator(0)).image, nuclei.image)
