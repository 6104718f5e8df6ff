import dataclasses

import pytest
import torch

from nucstyle.core.errors import ImageError
from nucstyle.core.sample import Applied, Prediction, Sample


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 4, 5),
        torch.zeros(4, 5),
        torch.zeros(1, 3, 4, 5),
        torch.zeros(4, 5, 3),
        torch.zeros(3, 4, 5, dtype=torch.float64),
        torch.zeros(3, 4, 5, dtype=torch.uint8),
    ],
    ids=str,
)
def test_an_image_that_is_not_three_channels_of_float32_is_refused_by_name(image):
    with pytest.raises(ImageError, match=r"^field-7: an image must be \(3, H, W\) float32, got "):
        Sample(id="field-7", image=image)


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(4, 5, dtype=torch.int64),
        torch.zeros(4, 5, dtype=torch.uint8),
        torch.zeros(5, 4, dtype=torch.int32),  # as many pixels, another shape
        torch.zeros(20, dtype=torch.int32),
        torch.zeros(1, 4, 5, dtype=torch.int32),
    ],
    ids=str,
)
def test_labels_that_are_not_int32_of_the_images_size_are_refused_with_both_sizes(labels):
    with pytest.raises(ImageError, match=r"^field-7: labels must be int32 of the image's size \(4, 5\), got "):
        Sample(id="field-7", image=torch.zeros(3, 4, 5), labels=labels)


def test_a_sample_may_be_unannotated_or_annotated_and_empty():
    image = torch.zeros(3, 4, 5)
    assert Sample(id="a", image=image).labels is None
    assert Sample(id="a", image=image, labels=torch.zeros(4, 5, dtype=torch.int32)).labels is not None


def test_the_size_is_height_then_width():
    assert Sample(id="a", image=torch.zeros(3, 4, 5)).size == (4, 5)


def test_a_sample_cannot_be_changed(nuclei):
    with pytest.raises(dataclasses.FrozenInstanceError):
        nuclei.id = "another"


def test_new_pixels_leave_the_labels_the_same_object_and_the_old_sample_as_it_was(nuclei):
    first, second = Applied("Style", {"target": "purple"}), Applied("Flip")
    before = nuclei.image.clone()
    changed = nuclei.with_pixels(1 - nuclei.image, first).with_pixels(nuclei.image / 2, second)
    assert changed.labels is nuclei.labels
    assert changed.history == (first, second)
    assert torch.equal(changed.image, nuclei.image / 2)
    assert nuclei.history == ()
    assert torch.equal(nuclei.image, before)


def test_new_pixels_of_another_size_are_refused(nuclei):
    with pytest.raises(ImageError, match="labels must be"):
        nuclei.with_pixels(nuclei.image[:, :-1], Applied("Crop"))


def test_the_length_of_a_prediction_is_its_number_of_nuclei():
    some = Prediction(boxes=torch.zeros(2, 4), scores=torch.zeros(2), masks=torch.zeros(2, 28, 28), size=(8, 9))
    assert len(some) == 2
    assert len(dataclasses.replace(some, boxes=torch.zeros(0, 4))) == 0
