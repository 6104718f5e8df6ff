import pytest
import torch

from nucstyle.core.resize import resize_image, resize_labels


@pytest.mark.parametrize("size", [(96, 112), (1, 1), (31, 200), (192, 224), (97, 113)])
def test_resizing_gives_the_size_asked_for_and_stays_in_range(nuclei, size):
    image = resize_image(nuclei.image, size)
    assert image.shape == (3, *size)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert resize_labels(nuclei.labels, size).shape == size


@pytest.mark.parametrize("size", [(1, 1), (31, 200), (192, 224), (97, 113)])
def test_resizing_labels_invents_no_nucleus(nuclei, size):
    resized = resize_labels(nuclei.labels, size)
    assert resized.dtype == torch.int32
    assert set(resized.unique().tolist()) <= set(nuclei.labels.unique().tolist())


def test_resizing_labels_to_a_multiple_repeats_pixels_and_the_way_back_is_exact(nuclei):
    larger = resize_labels(nuclei.labels, (192, 336))
    assert torch.equal(larger, nuclei.labels.repeat_interleave(2, 0).repeat_interleave(3, 1))
    assert torch.equal(resize_labels(larger, (96, 112)), nuclei.labels)


def test_resizing_to_the_same_size_changes_no_bit(nuclei):
    assert torch.equal(resize_image(nuclei.image, (96, 112)), nuclei.image)
    assert torch.equal(resize_labels(nuclei.labels, (96, 112)), nuclei.labels)


def test_shrinking_an_image_keeps_its_mean(nuclei):
    assert float(resize_image(nuclei.image, (12, 14)).mean()) == pytest.approx(float(nuclei.image.mean()), abs=2e-3)
