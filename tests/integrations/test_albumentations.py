"""Style augmentation among the transforms of albumentations."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nucstyle.core.errors import ImageError, OptionError

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A

from nucstyle.integrations.albumentations import StyleTransfer


@pytest.fixture
def image(field):
    """(96, 112, 3) uint8."""
    return field(1)[0]


@pytest.fixture
def mask(field):
    """(96, 112) int32."""
    return field(1)[1]


def test_the_model_alone_is_refused_at_once(fake_translator):
    with pytest.raises(OptionError, match=r"give nucstyle\.StyleTransfer\(model\)"):
        StyleTransfer(fake_translator)


def test_the_image_alone_changes(augment, image, mask):
    given, labels = image.copy(), mask.copy()
    made = StyleTransfer(augment)(image=image, mask=mask, masks=[mask], bboxes=[[0, 0, 1, 1]], name="field-1")
    assert (made["image"].shape, made["image"].dtype) == (image.shape, np.uint8)
    assert not np.array_equal(made["image"], image)
    assert np.array_equal(image, given)
    assert made["mask"] is mask
    assert np.array_equal(mask, labels)
    assert made["masks"][0] is mask
    assert (made["bboxes"], made["name"]) == ([[0, 0, 1, 1]], "field-1")


def test_masks_boxes_and_key_points_of_a_pipeline_are_as_without_it(augment, image, mask):
    where = {"bboxes": [[3, 4, 20, 30]], "kinds": [1], "keypoints": [(5, 6), (50.5, 60)]}
    boxes, points = A.BboxParams("pascal_voc", label_fields=["kinds"]), A.KeypointParams("xy")
    with_style = A.Compose([StyleTransfer(augment), A.HorizontalFlip(p=1)], bbox_params=boxes, keypoint_params=points)
    without_it = A.Compose([A.NoOp(p=1), A.HorizontalFlip(p=1)], bbox_params=boxes, keypoint_params=points)
    made, plain = (pipeline(image=image, mask=mask, **where) for pipeline in (with_style, without_it))
    assert not np.array_equal(made["image"], plain["image"])
    for name in ("mask", "bboxes", "kinds", "keypoints"):
        assert np.array_equal(made[name], plain[name])


def test_the_seed_of_the_pipeline_makes_it_repeatable_and_calls_differ(augment, image):
    first, again, other = (A.Compose([StyleTransfer(augment)], seed=seed) for seed in (7, 7, 8))
    made = [first(image=image)["image"] for _ in range(2)]
    assert all(np.array_equal(again(image=image)["image"], one) for one in made)
    assert not np.array_equal(*made)
    assert not np.array_equal(other(image=image)["image"], made[0])
    first.set_random_seed(7)
    assert np.array_equal(first(image=image)["image"], made[0])


def test_global_streams_do_not_matter(augment, image):
    made = []
    for number in range(2):
        np.random.seed(number)
        made.append(A.Compose([StyleTransfer(augment)], seed=7)(image=image)["image"])
    assert np.array_equal(*made)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_size_type_and_range_are_kept(augment, shape, dtype):
    numbers = np.random.default_rng(0).random(shape)
    image = (numbers if dtype == "float32" else numbers * 200).astype(dtype)
    made = A.Compose([StyleTransfer(augment)], seed=1)(image=image)["image"]
    assert (made.shape, made.dtype) == (shape, image.dtype)
    assert not np.array_equal(made, image)
    if dtype == "float32":
        assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_with_probability_zero_the_very_input_comes_back(idle, augment, shape):
    image = np.full(shape, 9, np.uint8)
    assert StyleTransfer(idle)(image=image)["image"] is image
    assert StyleTransfer(augment, p=0)(image=image)["image"] is image


def test_images_of_one_call_get_the_same_draw(augment, image):
    pipeline = A.Compose([StyleTransfer(augment)], additional_targets={"other": "image"}, seed=0)
    made = pipeline(image=image, other=image.copy(), images=np.stack([image, image]))
    assert not np.array_equal(made["image"], image)
    for one in (made["other"], *made["images"]):
        assert np.array_equal(one, made["image"])


def test_normalised_images_are_refused_with_their_range(augment, image):
    pipeline = A.Compose([A.Normalize(), StyleTransfer(augment)])
    with pytest.raises(ImageError, match=r"float images must lie in \[0, 1\], got -"):
        pipeline(image=image)


def test_among_the_librarys_own_transforms_image_and_mask_stay_together(augment, image, mask):
    pipeline = A.Compose([A.D4(p=1), StyleTransfer(augment), A.RandomCrop(60, 60)], seed=3)
    for _ in range(4):
        made = pipeline(image=image, mask=mask)
        nucleus, grey = made["mask"] > 0, made["image"].mean(2)
        assert set(np.unique(made["mask"])) <= set(np.unique(mask))
        assert abs(grey[nucleus].mean() - grey[~nucleus].mean()) > 40


def test_a_replay_restyles_exactly_alike(augment, image, field):
    made = A.ReplayCompose([StyleTransfer(augment), A.HorizontalFlip(p=0.5)])(image=image)
    again = A.ReplayCompose.replay(made["replay"], image=image)["image"]
    assert np.array_equal(again, made["image"])
    other = A.ReplayCompose.replay(made["replay"], image=field(2)[0])["image"]
    assert not np.array_equal(other, made["image"])


def test_a_pipeline_as_a_dictionary_holds_the_model_and_makes_an_equal_one(augment, image):
    pipeline = A.Compose([StyleTransfer(augment, p=0.75)], seed=4)
    again = A.from_dict(A.to_dict(pipeline))
    assert again.transforms[0].augment is augment
    assert again.transforms[0].p == 0.75
    again.set_random_seed(4)
    for _ in range(4):
        assert np.array_equal(again(image=image)["image"], pipeline(image=image)["image"])
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps(A.to_dict(pipeline))


def test_a_pipeline_goes_through_a_pickle(shipped, picture):
    pipeline = A.Compose([StyleTransfer(shipped), A.RandomCrop(32, 32)], seed=2)
    again = pickle.loads(pickle.dumps(pipeline))
    assert np.array_equal(again(image=picture)["image"], pipeline(image=picture)["image"])


class Fields(Dataset):
    """The same image six times."""

    def __init__(self, transform, image):
        self.transform, self.image = transform, image

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform(image=self.image)["image"]


def seed_worker(_):
    worker = get_worker_info()
    worker.dataset.transform.set_random_seed(worker.seed % 2**32)


def loading(shipped, picture, start):
    fields = Fields(A.Compose([StyleTransfer(shipped)]), picture[:32, :32])
    how = {"num_workers": 2, "multiprocessing_context": start, "worker_init_fn": seed_worker}
    return DataLoader(fields, batch_size=None, **how)


def test_seeded_workers_differ_epochs_differ_and_the_seed_repeats_them(shipped, picture, epochs):
    loader = loading(shipped, picture, "fork")
    first, second = epochs(loader, 2)
    assert len({*first, *second}) == 12
    assert epochs(loader, 1) == [first]


@pytest.mark.slow
def test_spawned_workers_restyle_as_forked_ones_do(shipped, picture, epochs):
    forked, spawned = (epochs(loading(shipped, picture, start), 1) for start in ("fork", "spawn"))
    assert forked == spawned


def test_the_shipped_model_restyles_a_real_image(shipped, picture):
    made = A.Compose([StyleTransfer(shipped)], seed=0)(image=picture)["image"]
    assert (made.shape, made.dtype) == (picture.shape, np.uint8)
    assert not np.array_equal(made, picture)
    assert made.std() > 2


def test_the_import_asks_the_network_for_nothing():
    code = "import nucstyle.integrations.albumentations"  # a refused connection would be a warning
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    refuse = "import socket; socket.getaddrinfo = socket.socket.connect = None; "
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", refuse + code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_the_library_one_line_says_how_to_install_it(without):
    with pytest.raises(ImportError, match=r"^albumentations is not installed; run: pip install 'nucstyle\[albu"):
        without("albumentations")
