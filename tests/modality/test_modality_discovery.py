import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2hsv

from nucstyle.core.errors import DatasetError, ImageError, WeightsError
from nucstyle.modality.clustering import silhouettes
from nucstyle.modality.features import FEATURES, N_FEATURES, measure
from nucstyle.modality.model import FALSE_ALARMS, STATE_FORMAT, ModalityModel
from nucstyle.modality.naming import colour_word, sentence, short_name

NAME = re.compile(r"[a-z0-9-]+")
STATISTICS = ("features", "background", "darkest", "brightest")


@pytest.fixture
def images(sample_of):
    """Five fluorescence fields and three stained ones."""
    return [sample_of(number, stained=number >= 5).image for number in range(8)]


@pytest.fixture
def statistics(images):
    """What is measured of them."""
    return [measure(image) for image in images]


def features(statistics):
    return np.stack([one.features for one in statistics])


def plain(*colour, size=(6, 7)):
    """An image of one colour."""
    return torch.tensor(colour, dtype=torch.float32)[:, None, None].expand(3, *size).contiguous()


# What is measured


def test_the_features_are_means_and_deviations_of_hue_saturation_and_value():
    red, blue = plain(1, 0, 0, size=(2, 2)), plain(0, 0, 0.5, size=(2, 2))
    measured = measure(torch.cat([red, blue], dim=2), features="hsv").features
    np.testing.assert_allclose(measured, [1 / 3, 1, 0.75, 1 / 3, 0, 0.25], atol=1e-6)


def test_chroma_is_saturation_times_value_at_the_angle_of_the_hue():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(size=(3, 9, 11)).astype(np.float32))
    hue, saturation, value = (rgb2hsv(image.permute(1, 2, 0).double().numpy())[..., part] for part in range(3))
    measured = measure(image).features
    # The hexagon of hue and the circle of the chroma plane agree at the six pure colours, and nearly between them.
    np.testing.assert_allclose(measured[0], 4 * (saturation * value * np.cos(2 * np.pi * hue)).mean(), atol=0.05)
    np.testing.assert_allclose(measured[1], 4 * (saturation * value * np.sin(2 * np.pi * hue)).mean(), atol=0.05)
    np.testing.assert_allclose(measured[3], np.median(value), atol=1e-6)
    red = measure(plain(1, 0, 0)).features
    np.testing.assert_allclose(red, [4, 0, 0, 1, 0], atol=1e-6)
    green = measure(plain(0, 0.5, 0)).features
    np.testing.assert_allclose(green, [-1, np.sqrt(3), 0, 0.5, 0], atol=1e-6)


def test_the_hue_of_a_grey_image_does_not_count_and_red_has_no_seam():
    noise = torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.004
    dark = (plain(0.02, 0.02, 0.02, size=(40, 40)) + noise).clamp(0, 1)
    np.testing.assert_allclose(measure(dark).features[:2], 0, atol=0.01)
    one, other = measure(plain(0.9, 0.1, 0.12)).features, measure(plain(0.9, 0.12, 0.1)).features
    assert np.linalg.norm(one - other) < 0.2
    seam = (
        measure(plain(0.9, 0.1, 0.12), features="hsv").features
        - measure(plain(0.9, 0.12, 0.1), features="hsv").features
    )
    assert np.linalg.norm(seam) > 0.9


@pytest.mark.parametrize("stained", [True, False])
@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (5, 1)], ids=str)
def test_what_is_measured_does_not_depend_on_the_size(sample_of, stained, factors):
    image = sample_of(3, stained=stained, size=(100, 60)).image
    larger = image.repeat_interleave(factors[0], 1).repeat_interleave(factors[1], 2)
    for features in FEATURES:
        small, large = measure(image, features=features), measure(larger, features=features)
        assert small.features.shape == (N_FEATURES[features],)
        for name in STATISTICS:  # large images are thinned, so medians and tails move by about the noise of a pixel
            np.testing.assert_allclose(getattr(large, name), getattr(small, name), atol=0.02, err_msg=name)
        assert np.sign(large.skew) == np.sign(small.skew)


def test_a_large_image_measures_like_a_crop_of_its_kind(sample_of):
    image = sample_of(3, size=(80, 80)).image
    large = image.repeat(1, 20, 20)
    np.testing.assert_allclose(measure(large).features, measure(image).features, atol=0.02)
    assert measure(large).skew == pytest.approx(measure(image).skew, abs=0.1)


@pytest.mark.parametrize("size", [(1, 70000), (70000, 1), (3, 2), (1, 4)], ids=str)
def test_images_of_odd_sizes_are_measured(size):
    measured = measure(torch.rand(3, *size, generator=torch.Generator().manual_seed(1)))
    assert np.isfinite(measured.features).all()
    assert -1 <= measured.skew <= 1


def test_what_is_measured_does_not_depend_on_where_things_are(nuclei):
    turned = measure(nuclei.image.rot90(1, (1, 2)).contiguous())
    for name in STATISTICS:
        np.testing.assert_allclose(getattr(turned, name), getattr(measure(nuclei.image), name), atol=2e-6)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 7)], ids=str)
def test_a_constant_image_has_no_deviation_and_no_skew(value, size):
    measured = measure(plain(value, value, value, size=size))
    np.testing.assert_allclose(measured.features, [0, 0, 0, value, 0], atol=1e-6)
    assert measured.skew == 0
    np.testing.assert_allclose(measured.darkest, measured.brightest)


def test_the_tails_are_the_darkest_and_brightest_twentieth():
    image = torch.linspace(0, 1, 100).expand(3, 1, 100)
    measured = measure(image)
    np.testing.assert_allclose(measured.darkest, [image[0, 0, :5].mean()] * 3, rtol=1e-6)
    np.testing.assert_allclose(measured.brightest, [image[0, 0, 95:].mean()] * 3, rtol=1e-6)
    np.testing.assert_allclose(measured.background, [0.5] * 3, atol=0.006)  # one of the two in the middle


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 5, 5),
        torch.zeros(5, 5),
        torch.zeros(1, 3, 5, 5),
        torch.zeros(3, 5, 5, dtype=torch.uint8),
        np.zeros((3, 5, 5), np.float32),
        torch.full((3, 5, 5), 255.0),
        torch.full((3, 5, 5), -0.1),
        torch.full((3, 5, 5), float("nan")),
    ],
    ids=str,
)
def test_what_is_not_an_image_is_refused(image):
    with pytest.raises(ImageError, match=r"^an image (is a float tensor|has values in)"):
        measure(image)


# Finding modalities


def test_stained_and_fluorescence_images_are_told_apart(images, statistics):
    model = ModalityModel.fit(statistics, k=2)
    fluorescence, stained = model.names
    assert [model.predict(image) for image in images] == [fluorescence] * 5 + [stained] * 3
    assert [model.number(image) for image in images] == [0] * 5 + [1] * 3
    assert [modality.n_images for modality in model.modalities] == [5, 3]
    assert fluorescence == "grey-on-black"
    assert stained.startswith("purple-on-")


def test_the_same_images_and_seed_give_the_same_modalities(statistics):
    assert ModalityModel.fit(statistics, k=3, seed=4) == ModalityModel.fit(statistics, k=3, seed=4)


def test_finding_modalities_leaves_the_global_streams_alone(statistics):
    np.random.seed(3)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    ModalityModel.fit(statistics, k=3, seed=4)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_modalities_come_largest_first_whatever_the_order_of_the_images(statistics):
    for order in (statistics, statistics[::-1]):
        model = ModalityModel.fit(order, k=2)
        assert [modality.n_images for modality in model.modalities] == [5, 3]
        assert model.names[0] == "grey-on-black"


def test_the_centre_of_a_modality_is_the_mean_of_its_images(statistics):
    model = ModalityModel.fit(statistics, k=2)
    np.testing.assert_allclose(model.modalities[1].centres[0], features(statistics[5:]).mean(axis=0))
    distances = model.distances(features(statistics))
    assert distances.shape == (8, 2)
    assert distances[6, 1] == pytest.approx(np.linalg.norm(statistics[6].features - model.modalities[1].centres[0]))


def test_fewer_different_images_than_modalities_give_as_many_modalities_as_there_are_different_images(statistics):
    twice = [statistics[0], statistics[5]] * 4
    model = ModalityModel.fit(twice, k=6)
    assert [modality.n_images for modality in model.modalities] == [4, 4]
    assert len(ModalityModel.fit(statistics[:3], k=6).modalities) == 3


def test_one_image_is_one_modality(images, statistics):
    model = ModalityModel.fit(statistics[:1], k=6)
    assert len(model.names) == 1
    assert model.predict(images[0]) == model.predict(images[7]) == model.names[0]
    assert np.array_equal(model.embed(features(statistics)), np.zeros((8, 2)))


@pytest.mark.parametrize("colours", [[(0, 0, 0)], [(0, 0, 0), (1, 1, 1)], [(0, 0, 0), (1, 1, 1), (0.5, 0, 0.5)]])
def test_constant_images_get_finite_modalities(colours):
    images = [plain(*colour) for colour in colours for _ in range(3)]
    model = ModalityModel.fit([measure(image) for image in images], k=6)
    assert len(model.names) == len(set(model.names)) == len(colours)
    assert len({model.predict(image) for image in images}) == len(colours)
    assert np.isfinite(model.embed(features([measure(image) for image in images]))).all()
    for modality in model.modalities:
        assert np.isfinite(modality.centres).all()
        assert modality.polarity_confidence == 0.5


@pytest.mark.parametrize(("number", "k"), [(0, 6), (8, 0), (8, -1)])
def test_no_image_or_no_modality_is_refused(statistics, number, k):
    with pytest.raises(DatasetError, match=f"^cannot divide {number} images into {k} modalities; ") as caught:
        ModalityModel.fit(statistics[:number], k=k)
    assert caught.value.exit_code == 2


# Polarity


@pytest.mark.parametrize(
    ("stained", "inverted", "polarity"), [(False, False, 1), (True, False, -1), (False, True, -1), (True, True, 1)]
)
def test_objects_are_found_brighter_or_darker_without_masks(sample_of, stained, inverted, polarity):
    images = [sample_of(number, stained=stained).image for number in range(6)]
    images = [1 - image if inverted else image for image in images]
    (modality,) = ModalityModel.fit([measure(image) for image in images], k=1).modalities
    assert modality.polarity == polarity
    assert modality.polarity_confidence > 0.99
    assert ("brighter" if polarity > 0 else "darker") in modality.sentence


def test_images_that_disagree_lower_the_confidence(sample_of):
    bright = measure(sample_of(0).image)
    dark = measure(1 - sample_of(0).image)
    (modality,) = ModalityModel.from_groups([bright, bright, dark], [0, 0, 0]).modalities
    assert modality.polarity == 1
    assert modality.polarity_confidence == pytest.approx(2 / 3, rel=1e-5)
    (modality,) = ModalityModel.from_groups([bright, dark, dark], [0, 0, 0]).modalities
    assert modality.polarity == -1


# Names


@given(st.tuples(*[st.floats(0, 1)] * 3))
@settings(deadline=None)
def test_every_colour_has_a_word_that_fits_a_file_name(rgb):
    assert re.fullmatch("[a-z]+", colour_word(rgb))


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((0, 0, 0), "black"),
        ((0.5, 0.5, 0.5), "grey"),
        ((1, 1, 1), "white"),
        ((1, 0, 0), "red"),
        ((1, 0.5, 0), "orange"),
        ((1, 1, 0), "yellow"),
        ((0, 1, 0), "green"),
        ((0, 1, 1), "cyan"),
        ((0, 0, 1), "blue"),
        ((0.5, 0.2, 0.6), "purple"),
        ((0.92, 0.84, 0.91), "pink"),
        ((1, 0.3, 0.7), "pink"),
    ],
)
def test_colours_are_called_what_people_call_them(rgb, word):
    assert colour_word(rgb) == word


def test_a_name_that_is_taken_gets_a_number():
    taken = []
    for _ in range(3):
        taken.append(short_name("purple", "white", taken))
    assert taken == ["purple-on-white", "purple-on-white-2", "purple-on-white-3"]


def test_names_found_by_the_program_are_unique_and_fit_file_names(sample_of):
    images = [sample_of(number, stained=number % 2 == 0).image * (1 - 0.02 * number) for number in range(24)]
    model = ModalityModel.fit([measure(image) for image in images], k=12)
    assert len(model.names) == len(set(model.names)) == 12
    assert all(NAME.fullmatch(name) for name in model.names)
    assert max(Counter(name.rstrip("0123456789-") for name in model.names).values()) > 1  # some did collide


def test_a_sentence_counts_its_images():
    assert sentence("purple", "white", -1, 1) == "white background, darker purple objects; 1 image"
    assert sentence("grey", "black", 1, 541) == "black background, brighter grey objects; 541 images"


def test_names_given_by_a_person_are_kept(statistics):
    groups = ["dapi", "dapi", "other", "dapi", "other", "h-e-2", "h-e-2", "h-e-2"]
    model = ModalityModel.from_groups(statistics, groups)
    assert model.names == ("dapi", "h-e-2", "other")  # largest first, then by first image
    assert [modality.n_images for modality in model.modalities] == [3, 3, 2]
    np.testing.assert_allclose(model.modalities[2].centres[0], features([statistics[2], statistics[4]]).mean(axis=0))
    assert model.modalities[1].polarity == -1


def test_a_merge_made_by_a_person_is_one_modality(images, statistics):
    model = ModalityModel.from_groups(statistics, ["all"] * 8)
    assert model.names == ("all",)
    assert {model.predict(image) for image in images} == {"all"}


# The plane of the pictures


def test_the_plane_keeps_the_distances_along_its_axes_and_has_the_mean_at_its_middle(statistics):
    model = ModalityModel.fit(statistics, k=2)
    points = model.embed(features(statistics))
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    axes = np.array(model.axes)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-9)
    singular = np.linalg.svd(features(statistics) - features(statistics).mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), singular[:2])


def test_the_signs_of_the_axes_do_not_depend_on_the_order_of_the_images(statistics):
    one, other = ModalityModel.fit(statistics, k=2), ModalityModel.fit(statistics[::-1], k=2)
    np.testing.assert_allclose(one.axes, other.axes, atol=1e-9)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in np.array(one.axes))


def test_the_silhouette_is_high_for_what_is_apart_and_undefined_for_one_group(statistics):
    groups = ["a"] * 5 + ["b"] * 3
    assert silhouettes(features(statistics), groups).mean() > 0.8
    assert silhouettes(features(statistics), groups[::-1]).mean() < 0.5
    assert silhouettes(features(statistics), ["a"] * 8) is None
    assert silhouettes(features(statistics), list("abcdefgh")) is None
    assert silhouettes(features(statistics)[:1], ["a"]) is None


# What is new


def test_an_image_of_another_modality_is_new_and_those_seen_are_not(sample_of):
    seen = [measure(sample_of(number).image) for number in range(40)]
    model = ModalityModel.fit(seen, k=2)
    model = model.calibrated(features([measure(sample_of(number).image) for number in range(40, 80)]), features(seen))
    assert model.novelty.calibrated_on == "validation"
    assert model.novelty.n_images == 40
    assert model.novelty.expected_false_alarms <= FALSE_ALARMS
    later = [model.assess(sample_of(number).image) for number in range(80, 180)]
    assert np.mean([one.is_new for one in later]) <= 0.1
    stained = [model.assess(sample_of(number, stained=True).image) for number in range(20)]
    assert all(one.is_new for one in stained)
    assert all(one.distance > model.novelty.threshold for one in stained)
    assert {one.name for one in stained} <= set(model.names)  # the nearest is still said


def test_few_images_give_the_largest_distance_and_say_how_often_it_will_be_exceeded(statistics):
    model = ModalityModel.fit(statistics, k=2)
    assert model.novelty.calibrated_on == "fitted"
    assert model.novelty.expected_false_alarms == pytest.approx(1 / 9)
    assert model.novelty.threshold == model.distances(features(statistics)).min(axis=1).max()
    assert model.calibrated(np.zeros((0, 5)), features(statistics)) == model


def test_too_few_validation_images_are_taken_together_with_the_fitted_ones(statistics, sample_of):
    model = ModalityModel.fit(statistics, k=2)
    few = features([measure(sample_of(20).image)])
    novelty = model.calibrated(few, features(statistics)).novelty
    assert novelty.calibrated_on == "fitted and validation"
    assert novelty.n_images == 9
    assert novelty.threshold >= model.novelty.threshold


def test_identical_images_are_not_new_and_everything_else_is(nuclei):
    model = ModalityModel.fit([measure(nuclei.image)] * 5, k=6)
    assert len(model.names) == 1
    assert not model.assess(nuclei.image).is_new
    assert model.assess(1 - nuclei.image).is_new


# What a person changes


def test_modalities_merged_by_a_person_are_recognised_as_one(sample_of):
    kinds = [("black", False, False), ("pink", True, False), ("negative", False, True)]
    samples = {kind: [sample_of(number, stained=stained).image for number in range(6)] for kind, stained, _ in kinds}
    samples["negative"] = [1 - image for image in samples["negative"]]
    images = [image for own in samples.values() for image in own]
    groups = ["either"] * 6 + ["pink"] * 6 + ["either"] * 6  # what lies on both sides of pink is one, says a person
    model = ModalityModel.from_groups([measure(image) for image in images], groups)
    assert [model.predict(image) for image in images] == groups
    assert {one.name: one.n_images for one in model.modalities} == {"either": 12, "pink": 6}


# On the disk


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_model_comes_back_from_json_as_it_went(images, statistics, k):
    model = ModalityModel.fit(statistics, k=k)
    again = ModalityModel.from_state(json.loads(json.dumps(model.state())))
    assert again == model
    assert [again.predict(image) for image in images] == [model.predict(image) for image in images]
    assert np.array_equal(again.embed(features(statistics)), model.embed(features(statistics)))


@pytest.mark.parametrize("version", [STATE_FORMAT + 1, 0, None, "1"])
def test_a_model_of_another_format_is_refused(statistics, version):
    state = {**ModalityModel.fit(statistics, k=2).state(), "format": version}
    with pytest.raises(
        WeightsError, match=f"^modality model of format {version}, this version reads {STATE_FORMAT}; run"
    ):
        ModalityModel.from_state(state)


PARTS = (
    "modalities",
    "axes",
    "origin",
    "novelty",
    "features",
    "centres",
    "polarity",
    "extra",
    "number",
    "nan",
    "size",
    "none",
    "sign",
    "twins",
)


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_model_is_refused(statistics, part):
    state = json.loads(json.dumps(ModalityModel.fit(statistics, k=2).state()))
    if part == "extra":
        state["modalities"][0]["extra"] = 1
    elif part == "number":
        state["modalities"] = 3
    elif part == "none":
        state["modalities"] = []
    elif part == "sign":
        state["modalities"][0]["polarity"] = 0
    elif part == "twins":
        state["modalities"][0]["name"] = state["modalities"][1]["name"]
    elif part == "nan":
        state["modalities"][0]["centres"][0][1] = float("nan")
    elif part == "size":
        state["modalities"][0]["centres"] = [[0.0, 1.0]]
    else:
        del (state if part in state else state["modalities"][1])[part]
    with pytest.raises(WeightsError, match=r"^damaged modality model .*; run discover again$"):
        ModalityModel.from_state(state)
