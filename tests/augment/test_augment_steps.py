"""The steps of the published recipes: labels stay on their nuclei, and every number means what the recipe says."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import find_objects

import nucstyle.augment
from nucstyle.augment.base import Augmentation
from nucstyle.augment.colour import ColourJitter
from nucstyle.augment.fourier import FourierSwap
from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.augment.histogram import HistogramMatch
from nucstyle.augment.recolour import Recolour
from nucstyle.augment.reinhard import Reinhard
from nucstyle.augment.steps import Cut, Enhance, Enlarge, FillHoles, Fit, Flip, ShiftChannels, Turn, mosaic
from nucstyle.augment.style import StyleTransfer
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample

STEPS = {
    "enlarge": Enlarge(step="enlarge", side_px=150),
    "fit": Fit(step="fit", side_px=130),
    "turn": Turn(step="turn", p=1.0, degrees=22.5, zoom_low=0.6, zoom_high=1.8),
    "cut": Cut(step="cut", side_px=50),
    "flip": Flip(step="flip", turn_p=0.7),
    "shift-channels": ShiftChannels(step="shift-channels", limit=15),
    "fill-holes": FillHoles(step="fill-holes"),
}


def discs(height=96, width=112, *, annotated=True):
    """Bright discs on black; what is bright is a nucleus."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    labels = torch.zeros(height, width, dtype=torch.int32)
    for number, (y, x) in enumerate([(20, 20), (60, 30), (40, 80), (80, 90)], start=1):
        labels[(ys - y) ** 2 + (xs - x) ** 2 < 144] = number
    image = (labels > 0).float().expand(3, -1, -1).contiguous()
    return Sample(id="discs", image=image, labels=labels if annotated else None)


def results(step, sample, count=12):
    drawing = generator("steps", step.step)
    return [step.augment(sample, drawing) for _ in range(count)]


@pytest.mark.parametrize("name", STEPS)
def test_labels_stay_on_their_nuclei(name):
    for made in results(STEPS[name], discs()):
        bright = made.image[0] > 0.5
        wrong = (bright != (made.labels > 0)).float().mean()
        assert float(wrong) < 0.01
        assert made.labels.dtype == torch.int32
        assert set(torch.unique(made.labels).tolist()) - {0} == set(range(1, int(made.labels.max()) + 1))
        assert 0 <= float(made.image.min()) <= float(made.image.max()) <= 1
        assert made.image.is_contiguous()


@pytest.mark.parametrize("name", STEPS)
def test_no_number_comes_up_between_two_numbers(name):
    sample = discs()
    numbers = torch.tensor([0, 1, 90, 200, 40_000], dtype=torch.int32)
    far_apart = dataclasses.replace(sample, labels=numbers[sample.labels.long()])
    for made in results(STEPS[name], far_apart):
        assert len(torch.unique(made.labels[made.labels > 0])) <= 4


def every_augmentation(references, translator):
    """One of each kind that there is, which always acts."""
    examples = (Recolour, HistogramMatch, Reinhard, FourierSwap)
    made = [
        *STEPS.values(),
        *(kind(references, p=1.0) for kind in examples),
        ColourJitter(p=1.0),
        Enhance(),
        RandomCrop(CropConfig(size_px=64)),
        StyleTransfer(translator, p=1.0, gate=None),
    ]
    return {type(one): one for one in made}


def test_whatever_is_done_to_an_image_no_nucleus_comes_up_and_numbers_stay_whole(references, fake_translator):
    """Also of an augmentation that somebody adds later."""
    names = (one.name for one in pkgutil.iter_modules(nucstyle.augment.__path__, "nucstyle.augment."))
    kinds = (kind for name in names for kind in vars(importlib.import_module(name)).values() if inspect.isclass(kind))
    found = {kind for kind in kinds if issubclass(kind, Augmentation) and not inspect.isabstract(kind)}
    table = every_augmentation(references, fake_translator)
    assert set(table) == found
    sample = discs()
    numbers = torch.tensor([0, 1, 90, 200, 40_000], dtype=torch.int32)
    far_apart = dataclasses.replace(sample, labels=numbers[sample.labels.long()])
    for kind, one in table.items():
        drawing = generator("labels", kind.__name__)
        for _ in range(12):
            labels = one.augment(far_apart, drawing).labels
            assert labels.dtype == torch.int32
            assert len(torch.unique(labels[labels > 0])) <= 4, kind


@pytest.mark.parametrize("name", STEPS)
def test_images_without_masks_pass_and_the_draws_are_in_the_history(name):
    bare, full = discs(annotated=False), discs()
    step = STEPS[name]
    one, other = (step.augment(sample, generator("same")) for sample in (bare, full))
    assert one.labels is None
    assert torch.equal(one.image, other.image)
    if other.history:
        assert other.history[-1].name == type(step).__name__
        assert torch.equal(step.apply(full, other.history[-1].drawn).image, other.image)


def test_the_shorter_side_is_brought_to_the_crop_at_least_and_one_axis_is_drawn_out():
    step = Enlarge(step="enlarge", side_px=192, zoom_high=1.2, relative_high=1.5, aspect_high=1.3)
    sizes = [made.size for made in results(step, discs(), 60)]
    factors = [(height / 96, width / 112) for height, width in sizes]
    assert all(min(size) >= 192 for size in sizes)
    assert all(2 <= min(pair) <= 3.02 for pair in factors)
    assert all(max(pair) / min(pair) < 1.32 for pair in factors)
    assert {pair[0] > pair[1] for pair in factors} == {True, False}
    large = Sample(id="large", image=torch.zeros(3, 900, 1000))
    assert all(0.21 <= min(h / 900, w / 1000) <= 1.21 for h, w in (made.size for made in results(step, large, 40)))


@pytest.mark.parametrize("size", [(96, 112), (300, 20), (7, 9), (130, 130)])
def test_a_fitted_field_is_square_with_black_beside_it(size):
    made = Fit(step="fit", side_px=130).augment(
        Sample(id="x", image=torch.ones(3, *size), labels=torch.ones(size).int()), generator(0)
    )
    assert made.size == (130, 130)
    inside = made.image[0] > 0
    assert torch.equal(inside, made.labels > 0)
    rows, columns = inside.any(dim=1).sum(), inside.any(dim=0).sum()
    assert max(int(rows), int(columns)) == 130
    assert int(rows) == max(1, round(size[0] * 130 / max(size)))


def test_a_turn_is_about_the_middle_and_by_at_most_so_many_degrees():
    bar = torch.zeros(1, 101, 101)
    bar[:, 49:52, :] = 1
    sample = Sample(id="bar", image=bar.expand(3, -1, -1).contiguous())
    angles = []
    for made in results(Turn(step="turn", p=1.0, degrees=10), sample, 40):
        assert float(made.image[0, 50, 50]) > 0.9
        rows = (made.image[0] * torch.arange(101.0)[:, None]).sum(0) / made.image[0].sum(0)
        angles.append(float(torch.atan((rows[80] - rows[20]) / 60).rad2deg()))
    assert max(abs(angle) for angle in angles) <= 10.2
    assert min(angles) < -6
    assert max(angles) > 6


def test_magnification_about_the_middle_changes_areas_by_its_square():
    sample = discs()
    for zoom in (0.5, 2.0):
        step = Turn(step="turn", p=1.0, degrees=0, zoom_low=zoom, zoom_high=zoom)
        centre = dataclasses.replace(sample, image=sample.image * 0)
        centre.image[:, 38:58, 46:66] = 1.0
        area = float((step.augment(centre, generator(1)).image[0] > 0.5).sum())
        assert area == pytest.approx(400 * zoom**2, rel=0.12)


@given(st.integers(0, 10_000))
def test_flips_are_symmetries_and_exact(seed):
    sample = discs()
    made = STEPS["flip"].augment(sample, generator(seed))
    assert sorted(made.size) == sorted(sample.size)
    assert torch.equal(made.image[0].sort().values.sum(), sample.image[0].sort().values.sum())
    assert torch.equal(made.image[0] > 0, made.labels > 0)


def test_all_eight_symmetries_come_and_without_turns_four():
    corner = torch.zeros(3, 20, 20)
    corner[:, 2, 5] = 1
    for turn_p, count in ((0.5, 8), (0.0, 4)):
        step = Flip(step="flip", turn_p=turn_p)
        places = {
            tuple(torch.nonzero(made.image[0])[0].tolist()) for made in results(step, Sample(id="c", image=corner), 200)
        }
        assert len(places) == count


def test_a_cut_is_anywhere_and_smaller_fields_stay_whole():
    step = Cut(step="cut", side_px=40)
    made = results(step, discs(), 40)
    assert {one.size for one in made} == {(40, 40)}
    assert len({(one.history[-1].drawn["top"], one.history[-1].drawn["left"]) for one in made}) > 30
    small = step.augment(Sample(id="s", image=torch.zeros(3, 30, 60)), generator(0))
    assert small.size == (30, 40)


def test_steps_with_a_chance_leave_the_sample_as_it_is_otherwise():
    sample = discs()
    for step in (Turn(step="turn", p=0.0), Cut(step="cut", p=0.0)):
        assert step.augment(sample, generator(0)) is sample


def test_channels_are_shifted_each_by_its_own():
    grey = Sample(id="grey", image=torch.full((3, 8, 8), 0.5), labels=torch.zeros(8, 8).int())
    for made in results(ShiftChannels(step="shift-channels", limit=15), grey):
        shift = (made.image - 0.5) * 255
        assert float(shift.abs().max()) <= 15.001
        assert len(set(shift[:, 0, 0].tolist())) == 3
        assert made.labels is grey.labels


def test_holes_are_filled_but_not_with_what_is_another_nucleus():
    labels = torch.zeros(20, 20, dtype=torch.int32)
    labels[2:12, 2:12] = 1
    labels[4:10, 4:10] = 0
    labels[6:8, 6:8] = 2
    made = FillHoles(step="fill-holes").augment(
        Sample(id="h", image=torch.zeros(3, 20, 20), labels=labels), generator(0)
    )
    assert int((made.labels == 1).sum()) == 96
    assert int((made.labels == 2).sum()) == 4
    assert int((labels == 1).sum()) == 64  # the original is as it was


def test_a_mosaic_is_four_fields_with_the_nuclei_of_all():
    samples = [
        dataclasses.replace(discs(), id=str(number), image=discs().image * (1 - 0.2 * number)) for number in range(4)
    ]
    made = mosaic(tuple(samples), 128)
    assert made.size == (128, 128)
    assert int(made.labels.max()) == 16
    quarters = [
        made.image[0, rows, columns] for rows in (slice(64), slice(64, 128)) for columns in (slice(64), slice(64, 128))
    ]
    assert [round(float(quarter.max()), 2) for quarter in quarters] == [1.0, 0.8, 0.6, 0.4]
    assert made.history[-1].drawn == {"ids": ["0", "1", "2", "3"]}
    bare = dataclasses.replace(samples[2], labels=None)
    assert mosaic((samples[0], samples[1], bare, samples[3]), 128).labels is None


def test_fields_in_a_mosaic_keep_their_shape_and_their_modality_where_they_share_one():
    """Discs stay discs in a field twice as wide as high."""
    wide = dataclasses.replace(discs(), modality="one")
    image, labels = (torch.cat([one, one], dim=-1) for one in (wide.image, wide.labels))
    wide = dataclasses.replace(wide, image=image, labels=labels)
    made = mosaic((wide,) * 4, 128)
    assert made.modality == "one"
    assert mosaic((wide, wide, wide, dataclasses.replace(wide, modality="two")), 128).modality is None
    whole = [
        (rows.stop - rows.start, columns.stop - columns.start)
        for rows, columns in find_objects(made.labels.numpy())
        if rows.start % 64 and columns.start % 64 and rows.stop % 64 and columns.stop % 64
    ]
    assert len(whole) >= 4
    assert all(abs(height - width) <= 1 for height, width in whole)
