"""Recolouring by a lookup table: the colours of an example, the sign of its modality, every nucleus in its place."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nucstyle.augment.recolour import Recolour, RecolourConfig, recolour
from nucstyle.augment.references import References
from nucstyle.augment.steps import Cut
from nucstyle.core.photometry import measure_stops
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample

DARK, LIGHT = "grey-on-black", "purple-on-white"
EXACT = RecolourConfig(lightness=0.0, tint=0.0, gamma_low=1.0, gamma_high=1.0)


def discs(background, objects, extreme, size=96):
    """A field of nine discs with a bright or dark middle; (3, H, W), where the discs are, and where their middles."""
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    away = (ys % 32 - 16) ** 2 + (xs % 32 - 16) ** 2
    colours = [torch.tensor(colour)[:, None, None] for colour in (background, objects, extreme)]
    image = torch.where(away < 9, colours[2], torch.where(away < 49, colours[1], colours[0])).contiguous()
    return image, away < 49, away < 9


def test_bright_discs_on_black_become_dark_ones_on_light_in_place_and_in_the_colours_of_the_example():
    source, inside, middle = discs([0.02] * 3, [0.55] * 3, [0.9] * 3)
    example, *_ = discs([0.9, 0.85, 0.9], [0.6, 0.3, 0.65], [0.3, 0.1, 0.4])
    references = References.measure([Sample(id="stain", image=example)], [LIGHT], {DARK: 1, LIGHT: -1})
    sample = Sample(id="discs", image=source, modality=DARK)
    made = Recolour(references, EXACT, p=1.0).augment(sample, generator(0)).image
    stops = references.find(LIGHT, "stain").stops
    torch.testing.assert_close(made[:, ~inside].mean(dim=1), stops[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(made[:, middle].mean(dim=1), stops[2], atol=1e-4, rtol=0)
    grey = made.mean(dim=0)
    assert torch.equal(grey < (stops[0].mean() + stops[1].mean()) / 2, inside)
    assert float(grey[middle].max()) < float(grey[inside & ~middle].min())


def test_what_was_recoloured_is_of_its_new_modality_so_that_a_second_time_keeps_the_sign():
    """The second goes by the sign that nuclei have after the first."""
    source, inside, _ = discs([0.02] * 3, [0.55] * 3, [0.9] * 3)
    example, *_ = discs([0.9, 0.85, 0.9], [0.6, 0.3, 0.65], [0.3, 0.1, 0.4])
    references = References.measure([Sample(id="stain", image=example)], [LIGHT], {DARK: 1, LIGHT: -1})
    arm = Recolour(references, EXACT, p=1.0)
    once = arm.augment(Sample(id="discs", image=source, modality=DARK), generator(0))
    twice = arm.augment(once, generator(1))
    assert once.modality == twice.modality == LIGHT
    for made in (once, twice):
        grey = made.image.mean(dim=0)
        assert float(grey[inside].max()) < float(grey[~inside].min())


def test_a_crop_gets_the_colours_that_it_has_in_its_recoloured_field():
    """Also where there is no nucleus in it."""
    source, *_ = discs([0.02] * 3, [0.55] * 3, [0.9] * 3)
    source[:, 40:, 40:] = 0.02
    example, *_ = discs([0.9, 0.85, 0.9], [0.6, 0.3, 0.65], [0.3, 0.1, 0.4])
    references = References.measure([Sample(id="stain", image=example)], [LIGHT], {DARK: 1, LIGHT: -1})
    field = Sample(id="field", image=source, modality=DARK)
    whole = Recolour(references, p=1.0).augment(field, generator(5)).image
    for seed in range(8):
        crop = Cut(step="cut", side_px=40).augment(field, generator("cut", seed))
        top, left = (crop.history[-1].drawn[name] for name in ("top", "left"))
        made = Recolour(references, p=1.0).augment(crop, generator(5)).image
        torch.testing.assert_close(made, whole[:, top : top + 40, left : left + 40])


def test_dark_discs_become_bright_ones():
    source, inside, _ = discs([0.9, 0.85, 0.9], [0.6, 0.3, 0.65], [0.3, 0.1, 0.4])
    target = torch.tensor([[0.02] * 3, [0.5] * 3, [0.9] * 3])
    made = recolour(source, measure_stops(source, -1), target)
    assert torch.equal(made[0] > 0.25, inside)
    torch.testing.assert_close(made[:, ~inside], torch.full((3, int((~inside).sum())), 0.02), atol=1e-4, rtol=0)


def test_the_three_colours_of_the_source_become_those_of_the_target_and_what_is_between_lies_between():
    source = torch.tensor([[0.1, 0.2, 0.1], [0.5, 0.4, 0.3], [0.9, 0.6, 0.5]])
    target = torch.tensor([[0.9, 0.8, 0.9], [0.6, 0.2, 0.5], [0.3, 0.1, 0.2]])
    middle = (source[0] + source[1]) / 2
    image = torch.stack([*source, middle], dim=1)[:, None]
    made = recolour(image, source, target)[:, 0].T
    torch.testing.assert_close(made[:2], target[:2])
    torch.testing.assert_close(made[3], (target[0] + target[1]) / 2)
    torch.testing.assert_close(made[2], target[2])


def test_a_field_recoloured_with_its_own_colours_is_itself():
    for levels, polarity in (((0.1, 0.5, 0.8), 1), ((0.9, 0.5, 0.1), -1)):
        image, *_ = discs(*([level] * 3 for level in levels))
        stops = measure_stops(image, polarity)
        torch.testing.assert_close(recolour(image, stops, stops), image, atol=1e-5, rtol=0)


def test_beyond_the_background_the_tint_stays():
    source = torch.tensor([[0.5] * 3, [0.2] * 3, [0.1] * 3])
    target = torch.tensor([[0.6, 0.5, 0.7], [0.4, 0.2, 0.6], [0.2, 0.1, 0.5]])
    lighter = recolour(torch.full((3, 1, 1), 0.56), source, target)[:, 0, 0] - target[0]
    assert float(lighter.min()) > 0.02
    torch.testing.assert_close(lighter, lighter.mean().expand(3))


@pytest.mark.parametrize("gamma", [0.6, 1.0, 1.5])
def test_gamma_bends_what_is_between_and_leaves_the_colours(gamma):
    source = torch.tensor([[0.0] * 3, [0.5] * 3, [1.0] * 3])
    target = torch.tensor([[1.0] * 3, [0.5] * 3, [0.0] * 3])
    made = recolour(torch.tensor([0.0, 0.1, 0.5, 1.0]).expand(3, 1, -1), source, target, gamma)[0, 0]
    torch.testing.assert_close(made, torch.tensor([1.0, 1 - 0.5 * 0.2**gamma, 0.5, 0.0]))


@given(st.integers(0, 10_000), st.sampled_from([1, -1]))
def test_order_is_kept_along_the_line_of_a_grey_source(seed, polarity):
    drawing = generator("order", seed)
    source = torch.sort(torch.rand(3, generator=drawing), descending=polarity < 0).values[:, None].expand(3, 3)
    if float((source[1] - source[0]).abs().max()) < 0.04:
        return
    grey = torch.linspace(0, 1, 101).expand(3, 1, -1)
    rising = torch.tensor([[0.0] * 3, [0.5] * 3, [1.0] * 3])
    made = recolour(grey, source, rising)[0, 0]
    assert bool((made.diff() * polarity >= -1e-6).all())


def test_two_draws_of_one_example_differ_a_little(references, nuclei):
    arm = Recolour(references, p=1.0, targets=[LIGHT])
    draws = [arm.draw(nuclei, generator(seed)) for seed in range(60)]
    found = {}
    for draw in draws:
        stops = torch.tensor(draw["stops"])
        example = references.find(LIGHT, draw["reference"]).stops
        spread = float((example.amax(dim=1) - example.amin(dim=1)).max())
        assert 0 < float((stops - example).abs().max()) <= 0.04 + 0.1 * spread + 1e-6
        assert float(stops[0].mean()) > float(stops[1].mean()) >= float(stops[2].mean())
        found.setdefault(draw["reference"], []).append(stops)
    assert not torch.equal(*found["field-3"][:2])


def test_without_a_range_the_example_is_given_as_it_is(references, nuclei):
    draw = Recolour(references, EXACT, p=1.0, targets=[LIGHT]).draw(nuclei, generator(0))
    torch.testing.assert_close(torch.tensor(draw["stops"]), references.find(LIGHT, draw["reference"]).stops)
    assert draw["gamma"] == 1


def test_grey_examples_stay_grey_and_so_do_grey_images(references, nuclei):
    for seed in range(10):
        made = Recolour(references, p=1.0, targets=[DARK]).augment(nuclei, generator(seed)).image
        assert float((made - made.mean(dim=0)).abs().max()) < 1e-3


def test_every_synthetic_nucleus_is_darker_than_the_ground_in_a_stain_and_brighter_in_fluorescence(
    references, sample_of
):
    for stained, name in ((False, DARK), (True, LIGHT)):
        sample = dataclasses.replace(sample_of(9, stained=stained), modality=name)
        for target, sign in ((DARK, 1), (LIGHT, -1)):
            for seed in range(5):
                made = Recolour(references, p=1.0, targets=[target]).augment(sample, generator(seed))
                grey = made.image.mean(dim=0)
                middle = float(grey[sample.labels == 0].median() + grey[sample.labels > 0].median()) / 2
                wrong = (grey * sign > middle * sign) != (sample.labels > 0)
                assert float(wrong.float().mean()) < 0.005


def test_the_polarity_is_that_of_the_name_then_of_what_is_recognised_then_of_the_image(references, examples):
    bright, stain = examples[0], examples[5]
    plain, seeing = Recolour(references, p=1.0), Recolour(references, p=1.0, recognise=lambda _: LIGHT)
    lying = dataclasses.replace(bright, modality=LIGHT)
    unnamed = dataclasses.replace(bright, modality=None)
    assert plain.draw(bright, generator(0))["polarity"] == 1
    assert plain.draw(lying, generator(0))["polarity"] == -1
    assert seeing.draw(unnamed, generator(0))["polarity"] == -1
    assert plain.draw(unnamed, generator(0))["polarity"] == 1
    assert plain.draw(unnamed, generator(0))["source"] is None
    assert plain.draw(dataclasses.replace(stain, modality=None), generator(0))["polarity"] == -1


def test_what_is_recognised_may_have_no_polarity(references, nuclei):
    arm = Recolour(references, p=1.0, recognise=lambda _: "brown")
    assert arm.draw(nuclei, generator(0))["polarity"] == 1


def test_an_empty_field_is_one_colour_near_the_ground_of_the_example(references):
    empty = Sample(id="empty", image=torch.full((3, 40, 40), 0.05), modality=DARK)
    made = Recolour(references, EXACT, p=1.0, targets=[LIGHT]).augment(empty, generator(0))
    stops = references.find(LIGHT, made.history[-1].drawn["reference"]).stops
    torch.testing.assert_close(made.image, stops[0][:, None, None].expand(3, 40, 40), atol=1e-3, rtol=0)
