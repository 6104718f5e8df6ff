"""Tiles of one field are found by their borders, images that show the same by what they show; strangers stay strangers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nucstyle.data import fields
from nucstyle.data.fields import find_fields, outline

TILE = 64


def draw(number, size, *, nuclei_per_tile=9):
    """A field of blurred discs on a dark ground, which run over every border: (H, W) float, 0 to 255."""
    rng = np.random.default_rng(number)
    ys, xs = np.mgrid[: size[0], : size[1]]
    image = np.full(size, 20.0)
    for _ in range(nuclei_per_tile * size[0] * size[1] // TILE**2):
        y, x, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(4, 9)
        image[(ys - y) ** 2 + (xs - x) ** 2 < radius**2] = rng.uniform(80, 220)
    return (gaussian_filter(image, 1) + rng.normal(0, 2, size)).clip(0, 255)


def tiles(number, rows, columns, dtype=np.uint8):
    """The tiles of a field, row by row."""
    image = draw(number, (rows * TILE, columns * TILE)).astype(dtype)
    return [
        image[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] for y, x in product(range(rows), range(columns))
    ]


def numbers(images):
    return find_fields([outline(image) for image in images]).numbers


def test_tiles_of_two_fields_are_told_apart_and_from_strangers():
    strangers = [draw(number, (TILE, TILE)).astype(np.uint8) for number in range(100, 110)]
    images = [*tiles(1, 2, 2), *strangers[:5], *tiles(2, 3, 2), *strangers[5:]]
    assert numbers(images) == (0, 0, 0, 0, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 15, 16, 17, 18, 19)


def test_seams_say_which_tile_lies_where():
    found = find_fields([outline(image) for image in tiles(1, 2, 3)])
    right = {(seam.first, seam.second) for seam in found.seams if not seam.is_below}
    below = {(seam.first, seam.second) for seam in found.seams if seam.is_below}
    assert right <= {(0, 1), (1, 2), (3, 4), (4, 5)}
    assert below <= {(0, 3), (1, 4), (2, 5)}
    assert len(right) + len(below) >= 5
    assert all(0 <= seam.misfit < 0.75 for seam in found.seams)


def test_the_order_of_images_does_not_matter():
    images = [*tiles(1, 2, 2), *(draw(number, (TILE, TILE)).astype(np.uint8) for number in range(100, 110))]
    order = np.random.default_rng(0).permutation(len(images))
    before, after = numbers(images), numbers([images[index] for index in order])
    for one, other in product(range(len(images)), repeat=2):
        assert (before[order[one]] == before[order[other]]) == (after[one] == after[other])


@pytest.mark.parametrize("change", [lambda x: x.astype(np.uint16) * 100 + 5000, lambda x: x / 7, lambda x: 255 - x])
def test_type_scale_offset_and_sign_of_brightness_do_not_matter(change):
    images = [*tiles(1, 2, 2), *(draw(number, (TILE, TILE)).astype(np.uint8) for number in range(100, 106))]
    assert numbers([change(image) for image in images]) == numbers(images) == (0, 0, 0, 0, 4, 5, 6, 7, 8, 9)


def test_colours_count():
    one, other = (np.stack([image, image // 2, 255 - image], axis=2) for image in tiles(1, 1, 2))
    assert numbers([one, other]) == (0, 0)
    assert numbers([one, other[..., ::-1]]) == (0, 1)


def test_images_of_another_size_or_type_are_not_compared():
    one, other = tiles(1, 1, 2)
    assert numbers([one, other]) == (0, 0)
    assert numbers([one, other[:, :-1]]) == (0, 1)
    assert numbers([one, other.astype(np.uint16)]) == (0, 1)


def test_empty_borders_join_nothing():
    rng = np.random.default_rng(0)
    noisy = [rng.normal(20, 2, (TILE, TILE)).astype(np.uint8) for _ in range(12)]
    black = [np.zeros((TILE, TILE), np.uint8) for _ in range(4)]
    # Images that are black all over are the same, but nothing is to be seen in them.
    assert numbers([*noisy, *black]) == tuple(range(16))


def test_one_bright_nucleus_does_not_outweigh_the_rest_of_a_border():
    haze = gaussian_filter(np.random.default_rng(0).normal(40, 30, (256, 8)), (4, 0))
    nucleus = np.s_[100:114]
    haze[nucleus] = 240
    border = outline(haze.astype(np.uint8)).left
    plain = border.line - border.line.mean()
    assert (plain[nucleus] ** 2).sum() > 0.9 * (plain**2).sum()
    assert (border.shape[nucleus] ** 2).sum() < 0.75


def test_uneven_light_alone_does_not_make_two_images_one():
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:TILE, :TILE]
    light = 60 * np.exp(-((ys - 32) ** 2 + (xs - 32) ** 2) / 900)
    images = [(30 + light + rng.normal(0, 3, light.shape)).astype(np.uint8) for _ in range(6)]
    assert find_fields([outline(image) for image in images]).twins == ()


def test_images_that_show_the_same_are_twins_and_of_one_field_with_the_tiles_beside_them():
    first, second = tiles(1, 1, 2)
    rng = np.random.default_rng(0)
    again = (0.8 * first + 10 + rng.normal(0, 3, first.shape)).clip(0, 255).astype(np.uint8)
    strangers = [draw(number, (TILE, TILE)).astype(np.uint8) for number in range(100, 104)]
    found = find_fields([outline(image) for image in (first, *strangers, again, second, first.copy())])
    assert found.twins == ((0, 5), (0, 7))
    assert found.numbers == (0, 1, 2, 3, 4, 0, 0, 0)


def test_borders_that_mirror_each_other_but_cannot_meet_are_no_seam():
    left, right = tiles(1, 1, 2)
    assert numbers([left[:, ::-1], right]) == (0, 1)
    assert numbers([left, right[::-1]]) == (0, 1)


def test_no_two_tiles_lie_at_one_place():
    """A seam that would put a tile upon another is not believed, however well it fits; the better one is."""
    good, bad = fields.Seam(0, 1, False, 0.1), fields.Seam(0, 2, False, 0.2)
    below, rival = fields.Seam(1, 3, True, 0.1), fields.Seam(2, 3, True, 0.3)
    assert fields._join(4, [good, bad]) == [good]
    assert fields._join(4, [good, below, bad, rival]) == [good, below]
    assert fields._join(4, [bad, rival, fields.Seam(0, 2, True, 0.4)]) == [bad, rival]


def test_blocks_give_what_one_matrix_gives(monkeypatch):
    images = [
        *tiles(1, 2, 2),
        *tiles(2, 1, 2),
        *(draw(number, (TILE, TILE)).astype(np.uint8) for number in range(100, 107)),
    ]
    outlines = [outline(image) for image in [*images, images[3]]]
    whole = find_fields(outlines)
    for size in (1, 3, 5):
        monkeypatch.setattr(fields, "_BLOCK", size)
        assert find_fields(outlines).numbers == whole.numbers
        assert find_fields(outlines).twins == whole.twins


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (17, 2, 3), (33, 31)])
def test_tiny_images_are_compared_without_harm(shape):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, shape, np.uint8) for _ in range(3)]
    assert len(numbers(images)) == 3
    assert numbers([]) == ()
    assert numbers(images[:1]) == (0,)
