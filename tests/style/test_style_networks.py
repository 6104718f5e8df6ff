"""The networks of both architectures: sizes, polarity, and what the published code got wrong about them."""

import pytest
import torch
import torch.nn.functional as F

from nucstyle.core.rng import generator, seeded
from nucstyle.style import lookup, mdmm
from nucstyle.style.blocks import ResidualBlock, UpBlock, modulate, pixel_norm
from nucstyle.style.method import make_critics, make_networks
from nucstyle.style.networks import Attribute, Content, StyleNetworkConfig
from nucstyle.workflows.recipes import style_recipe


def images(batch=2, height=64, width=96):
    return torch.rand(batch, 3, height, width, generator=generator("images", height, width)) * 2 - 1


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def content_of(networks, colours, batch=2, **size):
    image = images(batch, **size)
    modality = torch.arange(batch) % 3
    return networks.encode_content(image, modality, colours[modality])


# both architectures


def test_content_is_a_quarter_of_the_image_with_four_times_the_width_of_channels(networks, colours):
    content = content_of(networks, colours)
    assert content.code.shape == (2, 16, 16, 24)
    assert networks.nucleus_logits(content).shape == (2, 1, 64, 96)


@torch.no_grad()
def test_generated_images_depend_on_attribute_and_modality(networks, colours):
    content, attribute, quiet = content_of(networks, colours), colours[:2], torch.zeros(2, 1, 64, 96)
    first = torch.tensor([0, 0])
    made = networks.generate(content, attribute, first, quiet)
    assert made.shape == (2, 3, 64, 96)
    assert not torch.allclose(made, networks.generate(content, attribute.flip(0), first, quiet))
    assert not torch.allclose(made, networks.generate(content, attribute, torch.tensor([1, 1]), quiet))


def test_images_of_a_batch_do_not_see_each_other(networks, critics, colours):
    image, modality = images(), torch.tensor([0, 1])
    onehot = networks.onehot(modality)
    critics.eval()

    def everything(part):
        content = networks.encode_content(image[part], modality[part], colours[modality][part])
        maps, logits = critics.image[0](image[part], onehot[part])
        return (
            content.code,
            networks.encode_attribute(image[part], modality[part], colours[modality][part]).mean,
            networks.generate(
                content, colours[modality][part], modality[part], torch.ones(len(content.code), 1, 64, 96)
            ),
            *maps,
            logits,
            critics.content(content.code),
        )

    for together, alone in zip(everything(slice(None)), everything(slice(1, 2)), strict=True):
        torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [64, 68, 100, 128, 216, 240])
def test_no_crop_size_is_tied_to_the_heads(critics, networks, side):
    """Defect 10 of the published code: only 209 to 240 px worked."""
    maps, logits = critics.image[0](images(1, side, side), networks.onehot(torch.tensor([1])))
    assert all(min(one.shape[-2:]) >= 1 for one in maps)
    assert logits.shape == (1, 3)
    assert critics.content(torch.zeros(1, 16, side // 4, side // 4)).shape == (1, 3)


def test_no_cell_of_a_realness_map_is_constant(critics, networks):
    """Defect 3 of the published code: the border of the map was padding."""
    onehot = networks.onehot(torch.tensor([0, 0]))
    maps, _ = critics.image[0](images(2, 192, 192), onehot)
    for one in maps:
        assert (one[0] != one[1]).all()


def test_polarity_travels_with_the_weights(networks, network_config):
    other = make_networks(network_config, [1, 1, 1])
    other.load_state_dict(networks.state_dict())
    assert other.polarity.tolist() == [1, -1, -1]
    assert "polarity" not in dict(networks.named_parameters())


def test_any_number_of_modalities_fits(architecture):
    config = StyleNetworkConfig(architecture=architecture, width=4, attribute_size=6, residual_blocks=1, style_size=4)
    networks, critics = make_networks(config, [1] * 5), make_critics(config, 5, None)
    image, modality, colours = images(1, 64, 64), torch.tensor([4]), torch.tensor([[-0.5] * 3 + [0.5] * 3])
    content = networks.encode_content(image, modality, colours)
    made = networks.generate(content, colours, modality, torch.zeros(1, 1, 64, 64))
    assert critics.image[0](made, networks.onehot(modality))[1].shape == (1, 5)


def test_a_style_without_a_variance_is_known_exactly():
    mean, noise = torch.ones(2, 3), torch.randn(2, 3, generator=generator("noise"))
    assert Attribute(mean).draw(noise) is mean
    torch.testing.assert_close(Attribute(mean, torch.full((2, 3), 2.0)).draw(noise), 1 + noise * torch.e)


def test_content_is_repeated_with_its_detail():
    code, detail = torch.arange(2.0).reshape(2, 1, 1, 1), torch.arange(2.0).reshape(2, 1, 1, 1)
    twice = Content(code, detail).repeat(2)
    assert twice.code.flatten().tolist() == twice.detail.flatten().tolist() == [0, 1, 0, 1]
    assert Content(code).repeat(2).detail is None
    assert Content(code, detail).plus(torch.ones(1)).code.flatten().tolist() == [1, 2]


# lookup


@pytest.fixture
def light(colours):
    """Untrained networks of the light architecture."""
    with seeded("light"):
        return make_networks(StyleNetworkConfig(width=4, residual_blocks=1, style_size=8), [1, -1, -1])


@torch.no_grad()
def test_contrast_polarity_and_stain_are_gone_before_any_network_sees_the_image(light, colours):
    height = torch.rand(1, 1, 64, 64, generator=generator("height"))
    seen = []
    for number in range(3):
        one = colours[number : number + 1]
        image = one[:, :3, None, None] + (one[:, 3:] - one[:, :3])[..., None, None] * height
        seen.append(light.encode_content(image, torch.tensor([number]), one).detail)
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0])
    torch.testing.assert_close(seen[0], height)


@torch.no_grad()
def test_the_untrained_generator_is_the_lookup_table(light, colours):
    height = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    content = Content(torch.randn(1, 16, 16, 16, generator=generator("code")), height)
    made = light.generate(content, colours[1:2], torch.tensor([1]), torch.randn(1, 1, 64, 64))
    torch.testing.assert_close(made[0, :, 0, 0], colours[1, :3])
    torch.testing.assert_close(made[0, :, 0, -1], colours[1, 3:])
    torch.testing.assert_close(made[0, 1, 0], colours[1, 1] + (colours[1, 4] - colours[1, 1]) * height[0, 0, 0])


@torch.no_grad()
def test_an_output_pixel_sees_no_farther_than_stated():
    config = StyleNetworkConfig(width=4, residual_blocks=2, style_size=8)
    with seeded("radius"):
        networks = make_networks(config, [1])
        for parameter in networks.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    radius, side = networks.receptive_radius, 256
    quiet, modality = torch.zeros(1, 1, side, side), torch.tensor([0])
    colours = torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]])

    def made(image):
        return networks.generate(networks.encode_content(image, modality, colours), colours, modality, quiet)

    image = images(1, side, side)
    other = image.clone()
    other[..., side // 2, side // 2] = 1 - other[..., side // 2, side // 2]
    changed = (made(image) - made(other)).abs().amax(dim=(0, 1)) > 0
    rows = changed.any(dim=1).nonzero().flatten()
    reach = max(side // 2 - int(rows[0]), int(rows[-1]) - side // 2)
    assert radius - 12 < reach <= radius


def test_a_step_of_encoder_and_generator_stays_below_four_giga_multiplications():
    networks = make_networks(StyleNetworkConfig(), [1, -1])
    done = []

    def note(layer, given, made):
        done.append(made.numel() * layer.weight[0].numel())

    for layer in networks.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(note)
    colours = torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]])
    with torch.no_grad():
        content = networks.encode_content(images(1, 256, 256), torch.tensor([0]), colours)
        networks.generate(content, colours, torch.tensor([1]), torch.zeros(1, 1, 256, 256))
    assert 2e9 < sum(done) < 4e9


def test_each_modality_is_judged_by_its_own_map():
    critic = lookup.PatchCritic(StyleNetworkConfig(width=4), 3).eval()
    image = images(1, 64, 64)
    maps = [critic(image, torch.eye(3)[k : k + 1])[0][0] for k in range(3)]
    assert not torch.allclose(maps[0], maps[1])
    assert not torch.allclose(maps[1], maps[2])


@torch.no_grad()
def test_the_patch_critics_convolutions_are_normalised():
    critic = lookup.PatchCritic(StyleNetworkConfig(width=4), 3)
    for _ in range(60):  # the power iteration takes a step at every call
        critic(images(1, 32, 32), torch.eye(3)[:1])
    layers = [layer for part in (critic.near, critic.far) for layer in part if isinstance(layer, torch.nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:
        assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)) == pytest.approx(1, abs=0.1)


class FakeTrunk:
    """Two feature maps."""

    channels = (3, 5)

    def __call__(self, image):
        return F.avg_pool2d(image, 4), F.avg_pool2d(image[:, :1], 8).expand(-1, 5, -1, -1)


def test_a_critic_of_features_judges_every_map_of_the_trunk_and_keeps_the_trunk_out_of_its_state():
    config = StyleNetworkConfig(width=4, feature_critic=True)
    critics = make_critics(config, 3, FakeTrunk())
    image = images(2, 64, 64).requires_grad_()
    maps, logits = critics.image[0](image, torch.eye(3)[:2])
    assert [tuple(one.shape) for one in maps] == [(2, 8, 8), (2, 4, 4), (2, 16, 16), (2, 8, 8)]
    assert logits.shape == (2, 3)
    maps[2].sum().backward()
    assert image.grad.any()
    assert not any("trunk" in name for name in critics.state_dict())
    plain = make_critics(StyleNetworkConfig(width=4, feature_critic=False), 3, FakeTrunk())
    assert isinstance(plain.image[0], lookup.PatchCritic)


# mdmm


@pytest.fixture
def published():
    """The networks of the recipe `paper`."""
    return style_recipe("paper").network


def test_the_published_sizes(published):
    networks, critics = make_networks(published, [1] * 6), make_critics(published, 6, None)
    found = {
        "Ec": count(networks.content_encoder),
        "Ea": count(networks.attribute_encoder),
        "G": count(networks.generator),
        "D": count(critics.image[0]),
        "Dc": count(critics.content),
    }
    millions = {name: round(number / 1e6, 1) for name, number in found.items()}
    assert millions == {"Ec": 5.1, "Ea": 1.4, "G": 5.6, "D": 15.7, "Dc": 10.7}
    assert not list(networks.nucleus_head.parameters())
    assert len(critics.image) == 2


def test_the_critics_norm_is_there_when_it_is_asked_for():
    """Defect 1 of the published code: a comparison that was never true."""

    def norms(kind):
        config = StyleNetworkConfig(architecture="mdmm", width=4, critic_norm=kind)
        return [
            layer for layer in make_critics(config, 3, None).modules() if isinstance(layer, torch.nn.InstanceNorm2d)
        ]

    assert not norms("none")
    assert len(norms("instance")) == 10


def test_weights_start_as_published(published):
    with seeded("init"):
        networks = make_networks(published, [1] * 6)
    for module in networks.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 1e4:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


@torch.no_grad()
def test_an_image_of_dark_objects_has_the_content_of_its_negative_of_bright_objects_where_that_is_asked_for(colours):
    image, nothing = images(), colours[:2]
    bright, dark = torch.tensor([0, 0]), torch.tensor([1, 2])
    for canonical in (True, False):
        config = StyleNetworkConfig(architecture="mdmm", width=4, canonical_polarity=canonical)
        with seeded("polarity"):
            networks = make_networks(config, [1, -1, -1])
        negative = networks.encode_content(-image, bright, nothing).code
        assert torch.equal(networks.encode_content(image, dark, nothing).code, negative) == canonical


def test_published_attributes_are_distributions_that_depend_on_the_modality():
    with seeded("attributes"):
        encoder = mdmm.AttributeEncoder(StyleNetworkConfig(architecture="mdmm", width=4), 3)
    mean, log_variance = encoder(images(), torch.eye(3)[:2])
    assert mean.shape == log_variance.shape == (2, 8)
    other, _ = encoder(images(), torch.eye(3)[1:])
    assert not torch.allclose(mean, other)


# blocks


def test_modulation_scales_by_one_plus_s_and_shifts_by_t():
    features = torch.ones(1, 2, 1, 1)
    assert modulate(features, torch.tensor([[0.5, -1.0, 3.0, 4.0]])).flatten().tolist() == [4.5, 4.0]


def test_pixel_norm_is_taken_over_the_channels_of_each_pixel_alone():
    features = torch.randn(2, 8, 5, 7, generator=generator("pixels")) * 9 + 3
    normed = pixel_norm(features)
    torch.testing.assert_close(normed.mean(dim=1), torch.zeros(2, 5, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(dim=1, correction=0), torch.ones(2, 5, 7), atol=1e-3, rtol=0)
    torch.testing.assert_close(pixel_norm(features[..., 1:2, 2:3]), normed[..., 1:2, 2:3])


def test_a_residual_block_starts_without_a_style_and_learns_one():
    with seeded("block"):
        block = ResidualBlock(4, style_size=5)
        features, style = torch.randn(1, 4, 8, 8), torch.randn(1, 5)
    hidden = pixel_norm(block.second(F.relu(pixel_norm(block.first(features)))))
    torch.testing.assert_close(block(features, style), features + hidden)
    torch.nn.init.normal_(block.modulation.weight)
    assert not torch.allclose(block(features, style), features + hidden)


def test_an_up_block_doubles_the_size_and_leaves_no_grid():
    with seeded("up"):
        block = UpBlock(3, 2, 2, style_size=4)
    made = block(torch.ones(1, 3, 6, 6), torch.ones(1, 2, 12, 12), torch.zeros(1, 4))
    assert made.shape == (1, 2, 12, 12)
    inside = made[..., 2:-2, 2:-2]
    torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside))
