"""Style augmentation among the transforms of torchvision."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from nucstyle.core.errors import ImageError, OptionError
from nucstyle.integrations.torchvision import StyleTransfer


@pytest.fixture
def image(field):
    """(3, 96, 112) uint8."""
    return tv_tensors.Image(torch.from_numpy(field(1)[0]).permute(2, 0, 1))


@pytest.fixture
def target(field):
    """Everything that torchvision has for an annotation."""
    size = (96, 112)
    return {
        "masks": tv_tensors.Mask(torch.from_numpy(field(1)[1])[None]),
        "boxes": tv_tensors.BoundingBoxes([[3, 4, 20, 30]], format="XYXY", canvas_size=size),
        "points": tv_tensors.KeyPoints([[5, 6]], canvas_size=size),
        "labels": torch.tensor([1]),
        "name": "field-1",
    }


def seeded(transform, *sample, seed=0):
    torch.manual_seed(seed)
    return transform(*sample)


def test_the_model_alone_is_refused_at_once(fake_translator):
    with pytest.raises(OptionError, match=r"give nucstyle\.StyleTransfer\(model\)"):
        StyleTransfer(fake_translator)


def test_the_image_alone_changes_and_the_annotation_stays_the_same_objects(augment, image, target):
    before = {name: value.clone() for name, value in target.items() if isinstance(value, torch.Tensor)}
    pixels = image.clone()
    made, same = StyleTransfer(augment)(image, target)
    assert type(made) is tv_tensors.Image
    assert made.shape == image.shape
    assert made.dtype == torch.uint8
    assert not torch.equal(made, image)
    assert torch.equal(image, pixels)
    assert all(same[name] is target[name] for name in target)
    assert all(torch.equal(same[name], before[name]) for name in before)


def test_the_global_seed_of_torch_makes_it_repeatable_and_calls_differ(augment, image):
    transform = StyleTransfer(augment)
    first, second = seeded(transform, image), transform(image)
    assert torch.equal(seeded(transform, image), first)
    assert torch.equal(transform(image), second)
    assert not torch.equal(first, second)
    assert not torch.equal(seeded(transform, image, seed=1), first)


def test_it_gives_what_the_style_transfer_inside_gives(augment, image):
    transform = StyleTransfer(augment)
    torch.manual_seed(0)
    seed = transform.make_params([])["seed"]
    assert torch.equal(seeded(transform, image), augment(image.as_subclass(torch.Tensor), seed=seed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.float16])
def test_size_type_and_range_are_kept(augment, image, channels, dtype):
    scaled = v2.functional.to_dtype(image[:channels], dtype, scale=True)
    made = StyleTransfer(augment)(tv_tensors.Image(scaled))
    assert (made.shape, made.dtype) == (scaled.shape, dtype)
    assert not torch.equal(made.double(), scaled.double())
    if dtype.is_floating_point:
        assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_with_probability_zero_the_very_input_comes_back(idle, image, target):
    made, same = StyleTransfer(idle)(image, target)
    assert made is image
    assert same["masks"] is target["masks"]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    assert StyleTransfer(idle)(picture) is picture


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_pil_image_comes_back_as_one_of_the_same_mode_and_size(augment, field, mode):
    grey = field(2)[0][..., 0]
    array = {"L": grey, "RGB": field(2)[0], "I;16": grey.astype(np.uint16) * 200}[mode]
    picture = Image.fromarray(array)
    assert picture.mode == mode
    made = seeded(StyleTransfer(augment), picture)
    assert (made.mode, made.size) == (mode, picture.size)
    assert not np.array_equal(np.asarray(made), array)
    assert np.array_equal(np.asarray(picture), array)


@pytest.mark.parametrize("mode", ["P", "RGBA", "1", "CMYK"])
def test_other_pil_images_are_refused_with_the_remedy(augment, mode):
    with pytest.raises(ImageError, match=rf'mode {mode} is not restyled.*use image.convert\("RGB"\)'):
        StyleTransfer(augment)(Image.new(mode, (8, 8)))


def test_of_plain_tensors_the_first_is_the_image_where_there_is_no_other(augment, image, field):
    plain, labels = image.as_subclass(torch.Tensor), torch.from_numpy(field(1)[1])
    made, same = StyleTransfer(augment)(plain, labels)
    assert type(made) is torch.Tensor
    assert not torch.equal(made, plain)
    assert same is labels
    restyled, untouched = StyleTransfer(augment)(image, plain)
    assert not torch.equal(restyled, image)
    assert untouched is plain


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_a_plain_tensor_that_looks_like_labels_is_not_restyled_as_the_image(augment, image, field, dtype):
    labels = torch.from_numpy(field(1)[1])[None].to(dtype)
    with pytest.raises(
        ImageError, match=r"the first plain tensor holds torch\..*, as labels do; wrap images and masks"
    ):
        seeded(StyleTransfer(augment), labels, image.as_subclass(torch.Tensor))
    restyled, same = seeded(StyleTransfer(augment), image, labels)
    assert same is labels
    assert not torch.equal(restyled, image)


def test_every_image_of_a_batch_is_drawn_for_by_itself(augment, image):
    made = StyleTransfer(augment)(tv_tensors.Image(torch.stack([image] * 6)))
    assert type(made) is tv_tensors.Image
    assert len({one.numpy().tobytes() for one in made}) == 6


def test_images_of_one_call_get_the_same_draw(augment, image):
    made, again = StyleTransfer(augment)(image, tv_tensors.Image(image.clone()))
    assert torch.equal(made, again)
    assert not torch.equal(made, image)


def test_videos_are_left_alone(augment, image):
    video = tv_tensors.Video(image[None])
    assert StyleTransfer(augment)({"video": video})["video"] is video


def test_normalised_images_are_refused_with_their_range(augment, image):
    normalised = v2.functional.normalize(image / 255, [0.5] * 3, [0.5] * 3)
    with pytest.raises(ImageError, match=r"float images must lie in \[0, 1\], got -"):
        StyleTransfer(augment)(tv_tensors.Image(normalised))


def test_among_the_librarys_own_transforms_image_and_mask_stay_together(augment, image, target):
    geometry = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomCrop(40)]
    for seed in range(4):
        made, moved = seeded(v2.Compose([*geometry, StyleTransfer(augment)]), image, target, seed=seed)
        plain, same = seeded(v2.Compose(geometry), image, target, seed=seed)
        assert torch.equal(moved["masks"], same["masks"])
        assert not torch.equal(made, plain)
        nucleus = moved["masks"][0] > 0  # restyled pixels still tell nuclei and background apart where the mask does
        if 0 < nucleus.sum() < nucleus.numel():
            grey = made.float().mean(0)
            assert abs(grey[nucleus].mean() - grey[~nucleus].mean()) > 40


def test_a_pipeline_goes_through_a_pickle(shipped, image):
    transform = v2.Compose([StyleTransfer(shipped), v2.RandomCrop(32)])
    again = pickle.loads(pickle.dumps(transform))
    assert torch.equal(seeded(again, image), seeded(transform, image))


class Fields(Dataset):
    """The same image six times."""

    def __init__(self, transform, image):
        self.transform, self.image = transform, image

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform(self.image)


def loading(shipped, image, start):
    fields = Fields(StyleTransfer(shipped), image[:, :32, :32])
    return DataLoader(fields, batch_size=None, num_workers=2, multiprocessing_context=start)


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
    image = tv_tensors.Image(torch.from_numpy(picture).permute(2, 0, 1))
    made = seeded(StyleTransfer(shipped), image)
    assert (type(made), made.shape, made.dtype) == (tv_tensors.Image, image.shape, torch.uint8)
    assert not torch.equal(made, image)
    assert float(made.float().std()) > 2
