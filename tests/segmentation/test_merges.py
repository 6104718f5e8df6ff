"""The merges of the published recipes, on label maps drawn by hand."""

import torch

from nucstyle.segmentation import merges
from nucstyle.segmentation.decode import Decoded, paint
from nucstyle.segmentation.detector import InferenceConfig


def painted(masks, size=(20, 30)):
    return paint(masks, size, InferenceConfig())


def votes(found, **options):
    return painted(merges.votes(found, **options), found[0].labels.shape)


def union(found):
    return painted(merges.union(found), found[0].labels.shape)


def view(*corners, scores=None, size=(20, 30)):
    """Nuclei 1, 2, ... as rectangles x0, y0, x1, y1."""
    labels = torch.zeros(size, dtype=torch.int32)
    for number, (x0, y0, x1, y1) in enumerate(corners, start=1):
        labels[y0:y1, x0:x1] = number
    return Decoded(labels, torch.linspace(0.9, 0.6, len(corners)) if scores is None else torch.tensor(scores))


def test_pixels_with_enough_votes_are_kept():
    found = [view((2, 2, 10, 10))] * 3 + [view((2, 2, 10, 9))] * 2
    merged = votes(found, least=5)
    assert torch.equal(merged.labels, view((2, 2, 10, 9)).labels)
    assert torch.equal(votes(found, least=3).labels, view((2, 2, 10, 10)).labels)
    assert len(votes(found, least=6).scores) == 0


def test_nuclei_that_overlap_too_little_are_not_one():
    found = [view((0, 0, 10, 10)), view((3, 0, 13, 10))]  # IoU 7 / 13
    assert len(votes(found, iou=0.6, least=1).scores) == 2
    assert len(votes(found, iou=0.5, least=1).scores) == 1


def test_groups_are_made_from_the_best_score_on_and_each_view_votes_once():
    found = [view((0, 0, 10, 10), scores=[0.7]), view((0, 0, 10, 10), (12, 0, 20, 8), scores=[0.9, 0.8])]
    merged = votes(found, least=1)
    assert merged.scores.tolist() == torch.tensor([0.9, 0.8]).tolist()
    assert (merged.labels[:10, :10] == 1).all()
    assert (merged.labels[:8, 12:20] == 2).all()
    assert len(votes(found, least=2).scores) == 1


def test_a_nucleus_is_united_with_its_best_partner_and_dropped_without_one():
    plain = view((0, 0, 10, 10), (16, 0, 24, 8))
    mirrored = view((5, 0, 14, 10), (25, 15, 30, 20))
    merged = union([plain, mirrored])
    assert len(merged.scores) == 1
    assert torch.equal(merged.labels, view((0, 0, 14, 10)).labels)
    assert len(union([plain, view()]).scores) == 0
    assert len(union([view(), mirrored]).scores) == 0


def test_a_pixel_belongs_to_one_nucleus_after_every_merge():
    found = [view((0, 0, 10, 10), (10, 0, 20, 10)), view((0, 0, 12, 10), (12, 0, 20, 10))]
    for merged in (union(found), votes(found, least=1)):
        assert len(merged.scores) == 2
        assert (merged.labels[:10, :20] > 0).all()
        assert set(torch.unique(merged.labels).tolist()) == {0, 1, 2}


def test_views_without_nuclei_give_an_empty_map():
    for merge in (votes, union):
        merged = merge([view(), view()])
        assert merged.scores.shape == (0,)
        assert not merged.labels.any()
        assert merged.labels.dtype == torch.int32
