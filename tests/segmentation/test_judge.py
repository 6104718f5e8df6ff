"""The judge: any size in, a probability out; learning on real fields; its state."""

import pytest
import torch

from nucstyle.core.errors import WeightsError
from nucstyle.core.rng import generator, seeded
from nucstyle.data.weights import load_state
from nucstyle.segmentation.judge import ForegroundJudge, JudgeConfig, JudgeNetwork, judge_loss


@pytest.fixture
def judge():
    """Untrained."""
    with seeded("judge"):
        return ForegroundJudge(JudgeNetwork(JudgeConfig(width=4)), JudgeConfig(width=4))


def load(module, tensors):
    load_state(module, tensors, where="test")


@pytest.mark.parametrize("size", [(8, 8), (9, 17), (64, 40), (101, 33)])
def test_an_image_of_any_size_gets_a_probability_for_every_pixel(judge, size):
    seen = judge.foreground(torch.rand(2, 3, *size, generator=generator(size)))
    assert seen.shape == (2, 1, *size)
    assert seen.dtype == torch.float32
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    assert not seen.requires_grad


def test_a_field_without_contrast_is_no_accident(judge):
    for level in (0.0, 0.5, 1.0):
        assert bool(judge.foreground(torch.full((1, 3, 16, 16), level)).isfinite().all())


def test_the_loss_is_least_where_foreground_and_masks_agree():
    nuclei = torch.zeros(1, 1, 8, 8)
    nuclei[..., 2:5, 2:5] = 1
    right = judge_loss(20 * (2 * nuclei - 1), nuclei)
    assert float(right) == pytest.approx(0, abs=1e-3)
    assert float(judge_loss(torch.zeros_like(nuclei), nuclei)) > float(right)
    assert float(judge_loss(-20 * (2 * nuclei - 1), nuclei)) > 10


def test_a_judge_made_from_its_state_gives_the_same_answers(judge):
    tensors, values = judge.state()
    again = ForegroundJudge.from_state(tensors, values, load=load)
    image = torch.rand(1, 3, 24, 24, generator=generator("image"))
    assert torch.equal(again.foreground(image), judge.foreground(image))
    with pytest.raises(WeightsError, match="without their sizes"):
        ForegroundJudge.from_state(tensors, {}, load=load)


def test_at_the_default_width_it_has_room_in_a_megabyte():
    stored = sum(tensor.numel() for tensor in JudgeNetwork(JudgeConfig()).state_dict().values())
    assert 4 * stored < 1e6
