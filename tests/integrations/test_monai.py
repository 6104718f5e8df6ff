"""Style augmentation among the transforms of MONAI."""

import pickle

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    Compose,
    NormalizeIntensity,
    RandAxisFlipd,
    RandSpatialCropd,
    ScaleIntensity,
    ScaleIntensityd,
)

from nucstyle.core.errors import ImageError, OptionError
from nucstyle.integrations.monai import StyleTransfer, StyleTransferd


@pytest.fixture
def image(field):
    """(3, 96, 112) float32 in [0, 1]."""
    return np.ascontiguousarray(field(1)[0].transpose(2, 0, 1), np.float32) / 255


@pytest.fixture
def label(field):
    """(1, 96, 112) int32."""
    return field(1)[1][None]


def numbers(x):
    """An array of its own, whatever x is."""
    return (x.as_tensor() if isinstance(x, MetaTensor) else torch.as_tensor(x)).clone().numpy()


def seeded(transform, seed=0):
    return transform.set_random_state(seed)


def test_the_model_alone_is_refused_at_once(fake_translator):
    with pytest.raises(OptionError, match=r"give nucstyle\.StyleTransfer\(model\)"):
        StyleTransfer(fake_translator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("kind", ["array", "tensor", "MetaTensor"])
def test_kind_size_type_and_range_are_kept(augment, image, channels, dtype, kind):
    array = (image[:channels] * (1 if "float" in dtype else 200)).astype(dtype)
    given = {"array": lambda: array, "tensor": lambda: torch.from_numpy(array), "MetaTensor": lambda: MetaTensor(array)}
    x = given[kind]()
    before = numbers(x)
    made = seeded(StyleTransfer(augment))(x)
    assert type(made) is type(x)
    assert made.shape == x.shape
    assert made.dtype == x.dtype
    assert not np.array_equal(numbers(made), before)
    assert np.array_equal(numbers(x), before)
    if "float" in dtype:
        assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_an_array_and_its_tensor_are_restyled_alike_and_as_the_object_inside_does_it(augment, image):
    transform = seeded(StyleTransfer(augment))
    made = transform(image)
    assert np.array_equal(transform(torch.from_numpy(image), randomize=False).numpy(), made)
    assert np.array_equal(augment(torch.from_numpy(image), seed=transform.seed).numpy(), made)


def test_the_meta_data_stay(augment, image):
    given = MetaTensor(image, meta={"filename_or_obj": "field-1.png", "spacing": 0.5}, affine=torch.eye(4) * 2)
    made = seeded(StyleTransfer(augment))(given)
    assert made.meta["filename_or_obj"] == "field-1.png"
    assert made.meta["spacing"] == 0.5
    assert torch.equal(made.affine, given.affine)
    assert made.applied_operations == given.applied_operations


def test_the_random_state_makes_it_repeatable_and_calls_differ(augment, image):
    transform = seeded(StyleTransfer(augment))
    first, second = transform(image), transform(image)
    assert np.array_equal(seeded(transform)(image), first)
    assert np.array_equal(transform(image), second)
    assert not np.array_equal(first, second)
    assert np.array_equal(transform.set_random_state(state=np.random.RandomState(0))(image), first)
    assert not np.array_equal(seeded(transform, 1)(image), first)


def test_a_pipeline_seeds_it(augment, image):
    pipeline = Compose([StyleTransfer(augment)])
    first, again = (seeded(pipeline, 3)(image) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(pipeline(image), first)


def test_with_probability_zero_the_very_input_comes_back(idle, image, label):
    for x in (image, torch.from_numpy(image), MetaTensor(image)):
        assert StyleTransfer(idle)(x) is x
        assert StyleTransferd("image", idle)({"image": x, "label": label})["image"] is x


def test_of_a_dictionary_only_the_keys_change(augment, image, label):
    data = {"image": image, "label": label, "name": "field-1"}
    made = seeded(StyleTransferd(["image"], augment))(data)
    assert not np.array_equal(made["image"], image)
    assert made["label"] is label
    assert made["name"] == "field-1"
    assert data["image"] is image


def test_all_keys_get_the_same_draw(augment, image):
    made = seeded(StyleTransferd(["one", "two"], augment))({"one": image, "two": image.copy()})
    assert np.array_equal(made["one"], made["two"])
    assert not np.array_equal(made["one"], image)


def test_the_dictionary_form_is_repeatable_and_its_calls_differ(augment, image):
    transform = seeded(StyleTransferd("image", augment))
    first, second = (transform({"image": image})["image"] for _ in range(2))
    assert np.array_equal(seeded(transform)({"image": image})["image"], first)
    assert not np.array_equal(first, second)
    pipeline = Compose([transform])
    piped = [seeded(pipeline, 4)({"image": image})["image"] for _ in range(2)]
    assert np.array_equal(*piped)


def test_a_missing_key_is_refused_unless_that_is_allowed(augment, image, label):
    with pytest.raises(KeyError, match="image"):
        StyleTransferd("image", augment)({"label": label})
    assert StyleTransferd("image", augment, allow_missing_keys=True)({"label": label})["label"] is label


@pytest.mark.parametrize("shape", [(8, 8), (1, 3, 8, 8), (3, 8, 8, 5)])
def test_volumes_and_images_without_channels_are_refused(augment, shape):
    with pytest.raises(ImageError, match=r"an image of MONAI is \(channels, height, width\)"):
        StyleTransfer(augment)(np.zeros(shape, np.float32))


def test_images_outside_zero_to_one_are_refused_and_welcome_after_scale_intensity(augment, image):
    wide = image * 4000 - 1000
    with pytest.raises(ImageError, match=r"float images must lie in \[0, 1\], got -1000"):
        StyleTransfer(augment)(wide)
    made = seeded(Compose([ScaleIntensity(), StyleTransfer(augment), NormalizeIntensity()]))(wide)
    assert abs(float(made.mean())) < 1e-3


def test_among_the_librarys_own_transforms_image_and_label_stay_together(augment, image, label):
    keys = ["image", "label"]
    geometry = [RandAxisFlipd(keys, prob=0.5), RandSpatialCropd(keys, roi_size=(60, 60), random_size=False)]
    pipeline = seeded(Compose([ScaleIntensityd("image"), StyleTransferd("image", augment), *geometry]), 2)
    for _ in range(4):
        made = pipeline({"image": image, "label": label})
        assert made["image"].shape == (3, 60, 60)
        nucleus, grey = made["label"][0] > 0, made["image"].mean(0)
        assert set(made["label"].unique().tolist()) <= set(np.unique(label).tolist())
        assert abs(float(grey[nucleus].mean() - grey[~nucleus].mean())) > 0.15


def test_a_pipeline_goes_through_a_pickle(shipped, image):
    pipeline = seeded(Compose([StyleTransferd("image", shipped)]))
    again = pickle.loads(pickle.dumps(pipeline))
    small = {"image": image[:, :32, :32]}
    assert np.array_equal(again(small)["image"], pipeline(small)["image"])


def loading(shipped, image, start):
    fields = Dataset([{"image": image[:, :32, :32]}] * 6, Compose([StyleTransferd("image", shipped)]))
    return DataLoader(fields, batch_size=1, num_workers=2, multiprocessing_context=start)


def test_workers_differ_epochs_differ_and_the_seed_repeats_them(shipped, image, epochs):
    loader = loading(shipped, image, "fork")
    first, second = epochs(loader, 2)
    assert len({*first, *second}) == 12
    assert epochs(loader, 1) == [first]


@pytest.mark.slow
def test_spawned_workers_restyle_as_forked_ones_do(shipped, image, epochs):
    forked, spawned = (epochs(loading(shipped, image, start), 1) for start in ("fork", "spawn"))
    assert forked == spawned


def test_the_shipped_model_restyles_a_real_image(shipped, picture):
    image = np.ascontiguousarray(picture.transpose(2, 0, 1))
    made = seeded(Compose([ScaleIntensityd("image"), StyleTransferd("image", shipped)]))({"image": image})["image"]
    assert (tuple(made.shape), made.dtype) == (image.shape, torch.float32)
    assert not np.allclose(made.numpy(), ScaleIntensity()(image).numpy(), atol=0.02)
    assert float(made.std()) > 0.01


def test_without_the_library_one_line_says_how_to_install_it(without):
    with pytest.raises(ImportError, match=r"^MONAI is not installed; run: pip install 'nucstyle\[monai\]'"):
        without("monai")
