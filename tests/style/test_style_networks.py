"""The networks: polarity, sizes, and what the published code got wrong about them."""

import pytest
import torch
import torch.nn.functional as F

from nucstyle.core.rng import generator, seeded
from nucstyle.style.blocks import ResidualBlock, UpBlock, modulate
from nucstyle.style.networks import Critics, StyleNetworkConfig, TranslationNetworks


def images(batch=2, height=32, width=48):
    return torch.rand(batch, 3, height, width, generator=generator("images", height, width)) * 2 - 1


def test_an_image_of_dark_objects_has_the_content_of_its_negative_of_bright_objects(networks):
    image = images()
    bright, dark = torch.tensor([0, 0]), torch.tensor([1, 2])
    assert torch.equal(networks.encode_content(image, dark), networks.encode_content(-image, bright))
    assert not torch.allclose(networks.encode_content(image, dark), networks.encode_content(image, bright))


def test_content_is_a_quarter_of_the_image_with_four_times_the_width_of_channels(networks):
    content = networks.encode_content(images(), torch.tensor([0, 1]))
    assert content.shape == (2, 16, 8, 12)
    assert networks.nucleus_head(content).shape == (2, 1, 8, 12)


@torch.no_grad()
def test_content_does_not_know_how_bright_or_contrasted_an_image_is(networks):
    image = images()
    content = networks.encode_content(image, torch.tensor([0, 0]))
    # The stem's bias and the border's zeros see a little of it; inside, hardly anything.
    dimmer = networks.encode_content(0.5 * image, torch.tensor([0, 0]))
    inside = (..., slice(2, -2), slice(2, -2))
    assert float((content[inside] - dimmer[inside]).abs().mean()) < 0.2 * float(content[inside].abs().mean())


def test_attributes_have_a_mean_and_a_log_variance_and_depend_on_the_modality(networks):
    mean, log_variance = networks.encode_attribute(images(), torch.tensor([0, 0]))
    assert mean.shape == log_variance.shape == (2, 3)
    other, _ = networks.encode_attribute(images(), torch.tensor([1, 1]))
    assert not torch.allclose(mean, other)


@torch.no_grad()
def test_generated_images_lie_in_minus_one_to_one_and_depend_on_attribute_and_modality(networks):
    content = 50 * networks.encode_content(images(), torch.tensor([0, 1]))
    attribute = torch.zeros(2, 3)
    made = networks.generate(content, attribute, torch.tensor([0, 0]))
    assert made.shape == (2, 3, 32, 48)
    assert float(made.abs().max()) <= 1
    assert not torch.allclose(made, networks.generate(content, attribute + 1, torch.tensor([0, 0])))
    assert not torch.allclose(made, networks.generate(content, attribute, torch.tensor([1, 1])))


def test_images_of_a_batch_do_not_see_each_other(networks, critics):
    image, modality, attribute = images(), torch.tensor([0, 1]), torch.ones(2, 3)
    onehot = networks.onehot(modality)
    critics.eval()

    def everything(part):
        content = networks.encode_content(image[part], modality[part])
        return (
            content,
            *networks.encode_attribute(image[part], modality[part]),
            networks.generate(content, attribute[part], modality[part]),
            *critics.image(image[part], onehot[part]),
            critics.content(content),
        )

    for together, alone in zip(everything(slice(None)), everything(slice(1, 2)), strict=True):
        torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("side", [32, 36, 64, 100, 128, 216, 240])
def test_no_crop_size_is_tied_to_the_heads(critics, networks, side):
    realness, logits = critics.image(images(1, side, side), networks.onehot(torch.tensor([1])))
    assert realness.shape == (1, side // 32, side // 32)
    assert logits.shape == (1, 3)


def test_no_cell_of_the_realness_map_is_constant(critics, networks):
    onehot = networks.onehot(torch.tensor([0, 0]))
    realness, _ = critics.image(images(2, 96, 96), onehot)
    assert (realness[0] != realness[1]).all()


def test_each_modality_is_judged_by_its_own_map(critics, networks):
    image = images(1, 64, 64)
    critics.eval()
    maps = [critics.image(image, networks.onehot(torch.tensor([k])))[0] for k in range(3)]
    assert not torch.allclose(maps[0], maps[1])
    assert not torch.allclose(maps[1], maps[2])


@torch.no_grad()
def test_the_critics_convolutions_are_normalised(critics):
    critics.train()
    for _ in range(30):  # the power iteration takes a step at every call
        critics.image(images(1, 32, 32), torch.eye(3)[:1])
    convolutions = [layer for layer in critics.image.layers if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 5
    for layer in convolutions:
        assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)) == pytest.approx(1, abs=0.05)


def test_modulation_scales_by_one_plus_s_and_shifts_by_t():
    features = torch.ones(1, 2, 1, 1)
    assert modulate(features, torch.tensor([[0.5, -1.0, 3.0, 4.0]])).flatten().tolist() == [4.5, 4.0]


def test_a_residual_block_starts_without_a_style_and_learns_one():
    with seeded("block"):
        block = ResidualBlock(4, style_size=5)
        features, style = torch.randn(1, 4, 8, 8), torch.randn(1, 5)
    hidden = F.instance_norm(block.second(F.relu(F.instance_norm(block.first(features)))))
    torch.testing.assert_close(block(features, style), features + hidden)
    torch.nn.init.normal_(block.modulation.weight)
    assert not torch.allclose(block(features, style), features + hidden)


def test_an_up_block_doubles_the_size_and_leaves_no_grid():
    with seeded("up"):
        block = UpBlock(3, 2, style_size=4)
    made = block(torch.ones(1, 3, 6, 6), torch.zeros(1, 4))
    assert made.shape == (1, 2, 12, 12)
    inside = made[..., 2:-2, 2:-2]
    torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside))


def test_polarity_travels_with_the_weights(networks, network_config):
    other = TranslationNetworks(network_config, [1, 1, 1])
    other.load_state_dict(networks.state_dict())
    assert other.polarity.tolist() == [1, -1, -1]
    assert "polarity" not in dict(networks.named_parameters())


def test_any_number_of_modalities_fits():
    config = StyleNetworkConfig(width=4, attribute_size=2, residual_blocks=1, style_size=4)
    networks, critics = TranslationNetworks(config, [1] * 5), Critics(config, 5)
    image, modality = images(1, 32, 32), torch.tensor([4])
    made = networks.generate(networks.encode_content(image, modality), torch.zeros(1, 2), modality)
    assert critics.image(made, networks.onehot(modality))[1].shape == (1, 5)
