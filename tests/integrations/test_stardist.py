"""Style augmentation as the augmenter of StarDist, called as its data generator calls it."""

import pickle
import warnings

import numpy as np
import pytest

from nucstyle.augment.style import StyleTransfer as Inside
from nucstyle.core.errors import ImageError, OptionError
from nucstyle.integrations.stardist import StyleTransfer


@pytest.fixture
def labels(field):
    """(96, 112) int32."""
    return field(1)[1]


@pytest.fixture
def image(field):
    """(96, 112, 3) float32, normalised by percentiles as csbdeep does it: some values lie outside [0, 1]."""
    array = field(1, stained=True)[0].astype(np.float32)
    low, high = np.percentile(array, [1, 99.8])
    normalised = ((array - low) / (high - low)).astype(np.float32)
    assert normalised.min() < 0 < 1 < normalised.max()
    return normalised


def test_the_model_alone_is_refused_at_once(fake_translator):
    with pytest.raises(OptionError, match=r"give nucstyle\.StyleTransfer\(model\)"):
        StyleTransfer(fake_translator)


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "uint16"])
def test_size_type_and_range_are_kept_and_labels_are_the_same_object(augment, image, labels, channels, dtype):
    patch = image[..., 0] if channels is None else image[..., :channels]
    x = patch.astype(dtype) if "float" in dtype else (patch.clip(0, 1) * 200).astype(dtype)
    before, numbers = x.copy(), labels.copy()
    made, same = StyleTransfer(augment, seed=0)(x, labels)
    assert same is labels
    assert np.array_equal(labels, numbers)
    assert (made.shape, made.dtype) == (x.shape, x.dtype)
    assert not np.array_equal(made, x)
    assert np.array_equal(x, before)
    if "float" in dtype:
        assert min(0, x.min()) - 1e-6 <= made.min() <= made.max() <= max(1, x.max()) + 1e-6


class Negative(Inside):
    """Always the other modality, with the attribute that makes the fake's result exactly the negative."""

    def draw(self, sample, generator):
        return {"source": "grey-on-black", "target": "purple-on-white", "attribute": [1.0]}


@pytest.mark.parametrize("span", [(-0.25, 1.5), (-0.5, 0.5), (0.25, 2.0), (-3.0, -1.0), (0.0, 255.0), (0.2, 0.3)])
def test_values_outside_zero_to_one_come_back_in_their_range_and_dim_patches_stay_dim(fake_translator, span):
    x = np.linspace(*span, 64, dtype=np.float32).reshape(8, 8)
    made, _ = StyleTransfer(Negative(fake_translator))(x, None)
    low, high = min(0, span[0]), max(1, span[1])
    np.testing.assert_allclose(made, high + low - x, rtol=1e-4, atol=1e-5)


def test_the_seed_makes_it_repeatable_and_calls_differ(augment, image, labels):
    first, again, other, unseeded = (StyleTransfer(augment, seed=seed) for seed in (1, 1, 2, None))
    made = [first(image, labels)[0] for _ in range(2)]
    assert all(np.array_equal(again(image, labels)[0], one) for one in made)
    assert not np.array_equal(*made)
    assert not np.array_equal(other(image, labels)[0], made[0])
    assert not np.array_equal(unseeded(image, labels)[0], made[0])


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_a_generator_of_numpy_is_drawn_from(augment, image, labels, make):
    drawing = make(3)
    made = [StyleTransfer(augment, seed=drawing)(image, labels)[0] for _ in range(2)]
    again = StyleTransfer(augment, seed=make(3))
    assert all(np.array_equal(again(image, labels)[0], one) for one in made)
    assert not np.array_equal(*made)


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3)])
@pytest.mark.parametrize("top", [1, 3])
def test_with_probability_zero_the_very_input_comes_back(idle, labels, shape, top):
    x = np.linspace(0, top, np.prod(shape), dtype=np.float32).reshape(shape)
    made, same = StyleTransfer(idle)(x, labels)
    assert made is x
    assert same is labels


@pytest.mark.parametrize("shape", [(8, 8, 2), (8, 8, 8, 1), (8,), (0, 8)])
def test_patches_of_another_shape_are_refused(augment, shape):
    with pytest.raises(ImageError, match="an image is"):
        StyleTransfer(augment)(np.zeros(shape, np.float32), None)


def test_pixels_that_are_no_numbers_are_refused(augment):
    with pytest.raises(ImageError, match="1 pixels are NaN or infinite"):
        StyleTransfer(augment)(np.array([[0.5, np.nan], [2.0, 0.0]]), None)


def test_after_the_flips_that_stardist_shows_image_and_labels_stay_together(augment, image, labels):
    restyle = StyleTransfer(augment, seed=0)

    def augmenter(x, y):
        x, y = restyle(x, y)
        return np.flip(x, 0), np.flip(y, 0)

    for _ in range(4):
        made, moved = augmenter(image, labels)
        assert np.array_equal(moved, labels[::-1])
        grey = made.mean(2)
        assert abs(grey[moved > 0].mean() - grey[moved == 0].mean()) > 0.15


def test_it_goes_through_a_pickle(shipped, image, labels):
    restyle = StyleTransfer(shipped, seed=0)
    again = pickle.loads(pickle.dumps(restyle))
    assert np.array_equal(again(image, labels)[0], restyle(image, labels)[0])


def test_the_shipped_model_restyles_a_real_image(shipped, picture):
    x = picture.astype(np.float32) / 200 - 0.05
    made, _ = StyleTransfer(shipped, seed=0)(x, None)
    assert (made.shape, made.dtype) == (x.shape, np.float32)
    assert not np.allclose(made, x, atol=0.02)
    assert made.std() > 0.01


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and csbdeep's own
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_the_data_generator_of_stardist_takes_it(augment, image, labels, channels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model2d = pytest.importorskip(
            "stardist.models.model2d", reason="StarDist and TensorFlow are not installed", exc_type=ImportError
        )
    fields = [image[..., 0] if channels is None else image[..., :channels]] * 2
    called = []

    def augmenter(x, y):
        made = StyleTransfer(augment, seed=0)(x, y)
        called.append((x, y, *made))
        return made

    def batch(augmenter):
        np.random.seed(0)
        shape = {"batch_size": 2, "n_rays": 8, "length": 1, "patch_size": (64, 64), "b": 0}
        data = model2d.StarDistData2D(fields, [labels] * 2, augmenter=augmenter, **shape)
        return data[0]

    (images, *_), truth = batch(augmenter)
    (plain, *_), same = batch(None)
    assert len(called) == 2
    assert all(y is made_y for _, y, _, made_y in called)
    assert images.shape == plain.shape == (2, 64, 64, channels or 1)
    assert not np.array_equal(images, plain)
    assert all(np.array_equal(one, other) for one, other in zip(truth, same, strict=True))
