"""Geometry: image and labels move together, on fields whose colours say where every pixel came from."""

import dataclasses
import json
from collections import Counter

import pytest
import torch

from nucstyle.augment.base import augment_in_order
from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.core.config import build
from nucstyle.core.errors import ConfigError
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample

BLOCK = 12


def map_of_itself(height=72, width=96, *, labelled=True):
    """Red is the column and green the row; every second block of a chessboard is a nucleus."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([(xs + 0.5) / width, (ys + 0.5) / height, torch.full((height, width), 0.5)])
    rows, columns = ys // BLOCK, xs // BLOCK
    number = rows * 100 + columns
    labels = torch.where((rows + columns) % 2 == 0, number + 1, 0)
    contiguous = torch.unique(labels, return_inverse=True)[1].to(torch.int32)
    return Sample(id="map", image=image, labels=contiguous if labelled else None, modality="grey-on-black")


def crops(config, sample, count, name="crops"):
    random_crop, drawing = RandomCrop(config), generator(name)
    return [random_crop.augment(sample, drawing) for _ in range(count)]


def sources(crop, original):
    """Where each pixel of a crop of `map_of_itself` came from, in pixels of the original: columns, rows."""
    height, width = original.size
    return crop.image[0] * width, crop.image[1] * height


@pytest.mark.parametrize(
    "config", [CropConfig(size_px=32, native=1.0), CropConfig(size_px=48, zoom_low=0.7, zoom_high=3)]
)
def test_every_pixel_keeps_the_nucleus_of_the_place_it_came_from(config):
    original = map_of_itself()
    for crop in crops(config, original, 60):
        x, y = (place[2:-2, 2:-2] for place in sources(crop, original))  # ramps bend at the border of a resized image
        sure = ((x - x.round()).abs() > 1e-3) & ((y - y.round()).abs() > 1e-3)  # not between two pixels
        old = original.labels[y.long(), x.long()][sure].tolist()
        new = crop.labels[2:-2, 2:-2][sure].tolist()
        pairs = set(zip(old, new, strict=True))
        assert len(pairs) == len({one for one, _ in pairs}) == len({one for _, one in pairs})
        assert all((one == 0) == (other == 0) for one, other in pairs)
        assert len(new) > 50


def test_at_native_magnification_pixels_and_labels_are_the_very_same(sample_of):
    original = sample_of(3)
    places = original.image.flatten(1)
    for crop in crops(CropConfig(size_px=40, native=1.0), original, 20):
        drawn = crop.history[-1].drawn
        assert drawn["side"] == 40
        rows, columns = slice(drawn["top"], drawn["top"] + 40), slice(drawn["left"], drawn["left"] + 40)
        window = torch.cat([original.image[:, rows, columns], original.labels[None, rows, columns].float()])
        candidates = [torch.rot90(one, k, (1, 2)) for one in (window, window.flip(2)) for k in range(4)]
        assert any(torch.equal(crop.image, candidate[:3]) for candidate in candidates)
        (moved,) = [candidate[3] for candidate in candidates if torch.equal(crop.image, candidate[:3])]
        pairs = set(zip(moved.flatten().tolist(), crop.labels.flatten().tolist(), strict=True))
        assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})
    assert torch.equal(original.image.flatten(1), places)


def test_the_nuclei_that_are_left_are_numbered_without_gaps():
    original = map_of_itself()
    for crop in crops(CropConfig(size_px=32), original, 200):
        numbers = torch.unique(crop.labels)
        assert numbers.tolist() in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
        assert crop.labels.dtype == torch.int32


def test_all_eight_symmetries_and_all_corners_are_drawn():
    drawn = [crop.history[-1].drawn for crop in crops(CropConfig(size_px=64, native=1.0), map_of_itself(), 400)]
    symmetries = Counter((one["quarter_turns"], one["mirrored"]) for one in drawn)
    assert len(symmetries) == 8
    assert min(symmetries.values()) > 20
    assert {one["top"] for one in drawn} == set(range(9))  # 72 - 64 + 1 places
    assert {one["left"] for one in drawn} == set(range(33))


def test_the_magnification_stays_between_its_bounds_and_uses_their_range():
    config = CropConfig(size_px=60, zoom_low=1.0, zoom_high=3.0)
    sides = [crop.history[-1].drawn["side"] for crop in crops(config, map_of_itself(), 300)]
    assert min(sides) >= 20
    assert max(sides) <= 60
    assert min(sides) < 23
    assert max(sides) > 52


def test_a_share_of_the_crops_is_cut_at_native_magnification():
    config = CropConfig(size_px=40, zoom_low=2.0, zoom_high=3.0, native=0.3)
    sides = [crop.history[-1].drawn["side"] for crop in crops(config, map_of_itself(), 400)]
    assert 0.22 < sides.count(40) / 400 < 0.38


@pytest.mark.parametrize("size", [(20, 96), (96, 20), (1, 1), (1, 50), (3, 2), (63, 64)])
def test_a_field_smaller_than_the_crop_is_magnified_until_it_fills_it(sample_of, size):
    height, width = size
    small = Sample(
        id="small",
        image=torch.rand(3, height, width, generator=generator("small", size)),
        labels=torch.ones(size, dtype=torch.int32),
    )
    for crop in crops(CropConfig(size_px=64), small, 20):
        assert crop.size == (64, 64)
        assert crop.history[-1].drawn["side"] <= min(size)
        assert 0 <= float(crop.image.min()) <= float(crop.image.max()) <= 1
        assert (crop.labels == 1).all()


def test_the_same_generator_state_gives_the_same_crops_and_another_one_others(nuclei):
    config = CropConfig(size_px=32)
    first, same, other = (crops(config, nuclei, 5, name) for name in ("one", "one", "two"))
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) for a, b in zip(first, same, strict=True)
    )
    assert [a.history for a in first] == [b.history for b in same]
    assert not any(torch.equal(a.image, b.image) for a, b in zip(first, other, strict=True))


def test_the_global_stream_is_left_alone(nuclei):
    before = torch.random.get_rng_state()
    crops(CropConfig(size_px=32), nuclei, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_record_applied_again_gives_the_same_crop_also_after_a_trip_through_json(nuclei):
    random_crop = RandomCrop(CropConfig(size_px=48))
    for crop in crops(random_crop.config, nuclei, 5):
        (applied,) = crop.history
        assert applied.name == "RandomCrop"
        again = random_crop.apply(nuclei, json.loads(json.dumps(applied.drawn)))
        assert torch.equal(again.image, crop.image)
        assert torch.equal(again.labels, crop.labels)


def test_the_input_is_not_touched_and_what_is_no_pixel_is_kept(nuclei):
    image, labels = nuclei.image.clone(), nuclei.labels.clone()
    named = dataclasses.replace(nuclei, modality="grey-on-black")
    (crop,) = crops(CropConfig(size_px=32), named, 1)
    assert torch.equal(nuclei.image, image)
    assert torch.equal(nuclei.labels, labels)
    assert (crop.id, crop.modality) == (nuclei.id, "grey-on-black")
    crop.image.zero_()
    crop.labels.zero_()
    assert torch.equal(nuclei.image, image)
    assert torch.equal(nuclei.labels, labels)


def test_an_image_without_annotation_stays_without_and_an_empty_one_stays_empty():
    (bare,) = crops(CropConfig(size_px=32), map_of_itself(labelled=False), 1)
    assert bare.labels is None
    empty = Sample(id="empty", image=torch.zeros(3, 40, 40), labels=torch.zeros(40, 40, dtype=torch.int32))
    (crop,) = crops(CropConfig(size_px=32), empty, 1)
    assert crop.labels.shape == (32, 32)
    assert not crop.labels.any()


def test_augmentations_follow_each_other_from_one_generator(nuclei):
    chain = [RandomCrop(CropConfig(size_px=64)), RandomCrop(CropConfig(size_px=32))]
    result = augment_in_order(nuclei, chain, generator("chain"))
    drawing = generator("chain")
    expected = chain[1].augment(chain[0].augment(nuclei, drawing), drawing)
    assert torch.equal(result.image, expected.image)
    assert [applied.name for applied in result.history] == ["RandomCrop", "RandomCrop"]
    assert augment_in_order(nuclei, [], generator("chain")) is nuclei


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"size_px": 8}, "'size_px': .*greater than or equal to 16"),
        ({"zoom_low": 0.0}, "'zoom_low': .*greater than 0"),
        ({"native": 1.5}, "'native': .*less than or equal to 1"),
        ({"zoom_low": 2.0, "zoom_high": 1.0}, "zoom_low 2.0 is above zoom_high 1.0"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        build(CropConfig, table, where="recipe x")
