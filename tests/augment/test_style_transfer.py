"""Style augmentation: other pixels, the same labels; the same seed, the same result."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from nucstyle.augment import style
from nucstyle.augment.geometric import CropConfig, RandomCrop
from nucstyle.augment.steps import Cut
from nucstyle.augment.style import StyleTransfer
from nucstyle.core.errors import ImageError, OptionError
from nucstyle.core.photometry import lift, measure_stops
from nucstyle.core.protocols import Translator
from nucstyle.core.rng import generator
from nucstyle.core.sample import Applied, Sample

DARK, LIGHT = "grey-on-black", "purple-on-white"


@pytest.fixture
def transfer(fake_translator):
    """`transfer(p=1.0, ...)` makes a StyleTransfer of the fake translator."""

    def make(p=1.0, **options):
        return StyleTransfer(fake_translator, p, **options)

    return make


def drawn(styled):
    return styled.history[-1].drawn


def test_the_fake_of_these_tests_is_a_translator(fake_translator):
    assert isinstance(fake_translator, Translator)


def test_labels_stay_the_same_object_and_pixels_change(transfer, nuclei):
    for seed in range(20):
        styled = transfer()(nuclei, seed=seed)
        assert styled.labels is nuclei.labels
        assert styled.size == nuclei.size
        assert styled.id == nuclei.id
        assert not torch.equal(styled.image, nuclei.image)


def test_the_input_itself_is_not_changed(transfer, nuclei):
    before = nuclei.image.clone()
    transfer()(nuclei, seed=0)
    assert torch.equal(nuclei.image, before)
    array = np.full((4, 5), 7, np.uint8)
    transfer()(array, seed=0)
    assert (array == 7).all()


@pytest.mark.parametrize("seed", range(20))
def test_with_probability_zero_the_very_input_comes_back(transfer, nuclei, seed):
    array = np.zeros((4, 4), np.uint8)
    assert transfer(p=0)(nuclei, seed=seed) is nuclei
    assert transfer(p=0)(array, seed=seed) is array


def test_by_default_half_of_the_images_are_restyled(fake_translator, nuclei):
    half, drawing = StyleTransfer(fake_translator), generator("half")
    restyled = sum(half(nuclei, generator=drawing) is not nuclei for _ in range(400))
    assert 160 < restyled < 240


def test_a_restyled_image_is_what_the_translator_makes_of_it(transfer, nuclei, fake_translator):
    styled = transfer(targets=[LIGHT], lift=1)(nuclei, seed=3)
    expected = fake_translator.translate(
        nuclei.image[None],
        source=torch.tensor([0]),
        target=torch.tensor([1]),
        attribute=torch.tensor([drawn(styled)["attribute"]]),
    )
    assert torch.equal(styled.image, expected[0])
    assert drawn(styled)["source"] == DARK
    assert drawn(styled)["target"] == LIGHT


def test_the_same_seed_gives_the_same_result_and_other_seeds_give_others(transfer, nuclei):
    styled = [transfer()(nuclei, seed=seed).image for seed in (0, 0, 1, 2**63)]
    assert torch.equal(styled[0], styled[1])
    assert not torch.equal(styled[0], styled[2])
    assert not torch.equal(styled[2], styled[3])


def test_a_generator_is_drawn_from_in_turn(transfer, nuclei):
    drawing, same = generator("turn"), generator("turn")
    first, second = (transfer()(nuclei, generator=drawing) for _ in range(2))
    assert torch.equal(transfer()(nuclei, generator=same).image, first.image)
    assert torch.equal(transfer()(nuclei, generator=same).image, second.image)
    assert not torch.equal(first.image, second.image)


def test_without_a_seed_calls_differ(transfer, nuclei):
    assert not torch.equal(transfer()(nuclei).image, transfer()(nuclei).image)


@pytest.mark.parametrize("seed", [None, 5])
def test_global_streams_are_left_alone(transfer, nuclei, seed):
    np_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    for p in (0.5, 1.0):
        transfer(p)(nuclei, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == np_state).all()


@pytest.mark.parametrize("shape", [(24, 31), (24, 31, 3), (1, 1), (3, 3, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float16", "float32", "float64"])
def test_an_array_keeps_its_shape_and_type(transfer, shape, dtype):
    numbers = np.random.default_rng(0).random(shape)
    array = (numbers if dtype.startswith("float") else numbers * 200).astype(dtype)
    styled = transfer()(array, seed=0)
    assert type(styled) is np.ndarray
    assert styled.shape == shape
    assert styled.dtype == array.dtype


def inverted(array, transfer):
    """The array in the other modality with attribute 1, which for the fake is exactly the negative."""

    class Full(StyleTransfer):
        def draw(self, sample, generator):
            return {"source": DARK, "target": LIGHT, "attribute": [1.0]}

    return Full(transfer().model)(array, seed=0)


def test_integers_go_by_the_intensity_rule_there_and_back(transfer):
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (inverted(eight, transfer) == 255 - eight).all()
    colours = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert (inverted(colours, transfer) == 255 - colours).all()
    sixteen = np.linspace(33_000, 41_000, 10_000).astype(np.uint16).reshape(100, 100)  # a ramp on an offset
    low, high = np.percentile(sixteen, [0.1, 99.9])
    expected = low + high - sixteen.clip(low, high)
    assert np.abs(inverted(sixteen, transfer) - expected).max() <= 1


def test_floats_are_taken_as_they_are_however_narrow_their_range(transfer):
    grey = np.linspace(0.2, 0.3, 64).reshape(8, 8)
    np.testing.assert_allclose(inverted(grey, transfer), 1 - grey, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused_and_counted(transfer, value):
    array = np.full((4, 4), 0.5)
    array[1, 1:3] = value
    with pytest.raises(ImageError, match="2 pixels are NaN or infinite"):
        transfer()(array, seed=0)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0])
def test_floats_outside_zero_to_one_are_refused_with_their_range(transfer, value):
    array = np.full((4, 4, 3), 0.5)
    array[0, 0, 0] = value
    with pytest.raises(
        ImageError, match=r"float images must lie in \[0, 1\], got .*; scale them to it, and normalise later"
    ):
        transfer(p=0)(array, seed=0)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (3, 8, 8), (2, 4, 4, 3), (0, 4)])
def test_arrays_of_another_shape_are_refused(transfer, shape):
    with pytest.raises(ImageError, match=r"an image is \(height, width\) or \(height, width, 3\)"):
        transfer()(np.zeros(shape, np.uint8), seed=0)


@pytest.mark.parametrize("thing", ["image.png", [[0.0]], None])
def test_other_types_are_refused_by_name(transfer, thing):
    with pytest.raises(OptionError, match=f"takes a Sample, a NumPy array or a tensor, got {type(thing).__name__}"):
        transfer()(thing, seed=0)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_zero_to_one_is_refused(transfer, p):
    with pytest.raises(OptionError, match=r"p is a probability in \[0, 1\]"):
        transfer(p)


@pytest.mark.parametrize("targets", [["brown"], [LIGHT, "brown"], []])
def test_unknown_targets_are_refused_with_those_known(transfer, targets):
    with pytest.raises(OptionError, match=r"unknown target modality .*; known: grey-on-black, purple"):
        transfer(targets=targets)


def test_seed_and_generator_exclude_each_other(transfer, nuclei):
    with pytest.raises(OptionError, match="seed and generator exclude each other"):
        transfer()(nuclei, seed=0, generator=generator(0))


@pytest.mark.parametrize(
    "options",
    [{"attributes": "exemplar"}, {"exemplar": torch.zeros(3, 4, 4)}, {"attributes": "exemplar", "exemplar": None}],
)
def test_exemplar_and_its_picture_belong_together(transfer, options):
    with pytest.raises(OptionError, match="belong together"):
        transfer(**options)


def test_all_modalities_are_targets_alike_the_own_one_included(transfer, nuclei):
    targets = Counter(drawn(transfer()(nuclei, seed=seed))["target"] for seed in range(300))
    assert set(targets) == {DARK, LIGHT}
    assert min(targets.values()) > 120


def test_targets_restrict_the_choice(transfer, nuclei):
    for name in (DARK, LIGHT):
        assert {drawn(transfer(targets=[name])(nuclei, seed=seed))["target"] for seed in range(20)} == {name}


def test_the_own_modality_is_never_chosen_where_it_is_excluded(transfer, sample_of):
    for stained, other in ((False, LIGHT), (True, DARK)):
        sample = sample_of(1, stained=stained)
        styled = [transfer(exclude_own=True)(sample, seed=seed) for seed in range(30)]
        assert {drawn(one)["target"] for one in styled} == {other}


def test_only_images_of_the_sources_are_restyled(transfer, sample_of):
    light, dark = (sample_of(1, stained=stained) for stained in (True, False))
    only_dark = transfer(sources=[DARK])
    assert all(only_dark(light, seed=seed) is light for seed in range(10))
    assert {drawn(only_dark(dark, seed=seed))["source"] for seed in range(10)} == {DARK}
    named = dataclasses.replace(light, modality=DARK)  # what it is labelled with counts
    assert only_dark(named, seed=0) is not named
    with pytest.raises(OptionError, match=r"unknown source modality \['brown'\]; known"):
        transfer(sources=["brown"])
    with pytest.raises(OptionError, match="sources are the names of modalities, one or more in a list, got 'brown'"):
        transfer(sources="brown")


def test_dim_nuclei_are_lifted_before_an_image_is_restyled(transfer, nuclei, fake_translator):
    assert "gamma" not in drawn(transfer(lift=1)(nuclei, seed=0))
    gammas = [drawn(transfer()(nuclei, seed=seed))["gamma"] for seed in range(60)]
    assert 0.6 <= min(gammas) < 0.65
    assert 0.95 < max(gammas) <= 1
    seed = min(range(60), key=gammas.__getitem__)
    styled = transfer(targets=[DARK])(nuclei, seed=seed)
    background, objects, _ = measure_stops(nuclei.image, 1)
    lifted = lift(nuclei.image, background, objects, drawn(styled)["gamma"])
    assert float((lifted - nuclei.image).max()) > 0.02
    how = {"source": torch.tensor([0]), "target": torch.tensor([0])}
    expected = fake_translator.translate(lifted[None], **how, attribute=torch.tensor([drawn(styled)["attribute"]]))
    assert torch.equal(styled.image, expected[0])
    plain = transfer(targets=[DARK], lift=1)(nuclei, seed=seed)
    assert drawn(plain)["attribute"] == drawn(styled)["attribute"]  # what was drawn before there was a lift stays


@pytest.mark.parametrize("wrong", [0, -0.5, 1.5, math.nan, True, "much"])
def test_a_lift_outside_its_range_is_refused(transfer, wrong):
    with pytest.raises(OptionError, match="lift is the least power, above 0 and at most 1, got"):
        transfer(lift=wrong)


def test_where_only_the_own_modality_is_left_the_image_stays_as_it_is(transfer, nuclei):
    assert transfer(targets=[DARK], exclude_own=True)(nuclei, seed=0) is nuclei


def test_the_modality_a_sample_is_labelled_with_counts_before_what_the_model_sees(transfer, nuclei):
    named = dataclasses.replace(nuclei, modality=LIGHT)
    assert drawn(transfer()(named, seed=0))["source"] == LIGHT
    assert drawn(transfer()(nuclei, seed=0))["source"] == DARK
    unknown = dataclasses.replace(nuclei, modality="brown")
    assert drawn(transfer()(unknown, seed=0))["source"] == DARK


def test_an_exemplar_gives_its_modality_and_its_style(transfer, nuclei, sample_of, fake_translator):
    picture = sample_of(4, stained=True).image
    for seed in range(5):
        styled = transfer(attributes="exemplar", exemplar=picture)(nuclei, seed=seed)
        assert drawn(styled)["target"] == LIGHT
        style = fake_translator.encode_attribute(picture[None], torch.tensor([1]))
        assert drawn(styled)["attribute"] == style[0].tolist()


@pytest.mark.parametrize("mode", ["per-domain", "normal"])
def test_the_way_of_drawing_styles_reaches_the_translator(transfer, nuclei, mode, monkeypatch):
    asked = []
    augment = transfer(attributes=mode)
    original = augment.model.draw_attribute

    def listen(target, *, mode, generator):
        asked.append(mode)
        return original(target, mode=mode, generator=generator)

    monkeypatch.setattr(augment.model, "draw_attribute", listen)
    augment(nuclei, seed=0)
    assert asked == [mode]


def test_the_record_is_plain_and_gives_the_same_pixels_again(transfer, nuclei):
    augment = transfer()
    earlier = dataclasses.replace(nuclei, history=(Applied("Earlier", {}),))
    for seed in range(5):
        styled = augment(earlier, seed=seed)
        assert [applied.name for applied in styled.history] == ["Earlier", "StyleTransfer"]
        plain = json.loads(json.dumps(drawn(styled)))
        assert torch.equal(augment.apply(nuclei, plain).image, styled.image)


def test_nothing_is_recorded_where_nothing_was_done(transfer, nuclei):
    assert transfer(p=0)(nuclei, seed=0).history == ()


def test_a_sample_and_its_array_are_restyled_alike(transfer, field):
    array, _ = field(2)
    from_array = transfer()(array, seed=9)
    unit = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1).contiguous()
    styled = transfer()(Sample(id="x", image=unit), seed=9)
    assert (np.rint(styled.image.permute(1, 2, 0).numpy() * 255).astype(np.uint8) == from_array).all()


@pytest.mark.parametrize("shape", [(1, 24, 31), (3, 24, 31), (2, 1, 9, 8), (4, 3, 9, 8), (1, 3, 1, 1)])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_a_tensor_keeps_its_shape_and_type(transfer, shape, dtype):
    unit = torch.rand(shape, generator=generator("tensor"))
    images = unit.to(dtype) if dtype.is_floating_point else (unit * 200).to(torch.int32).to(dtype)
    before = images.clone()
    made = transfer(targets=[LIGHT])(images, seed=1)
    assert made.shape == images.shape
    assert made.dtype == dtype
    assert not torch.equal(made.double(), images.double())
    assert torch.equal(images.double(), before.double())
    assert transfer(p=0)(images, seed=1) is images


def test_a_tensor_and_its_array_are_restyled_alike(transfer, field):
    array, _ = field(4)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    made = transfer()(tensor, seed=3)
    assert np.array_equal(made.permute(1, 2, 0).numpy(), transfer()(array, seed=3))


def test_every_image_of_a_batch_is_drawn_for_by_itself(transfer):
    batch = torch.full((64, 3, 4, 4), 0.25)
    made = transfer(p=0.5, targets=[LIGHT])(batch, seed=0)
    restyled = [not torch.equal(one, own) for one, own in zip(made, batch, strict=True)]
    assert 16 < sum(restyled) < 48
    drawing = generator("one by one")
    again = transfer(p=0.5, targets=[LIGHT])(batch, generator=generator("one by one"))
    singles = [transfer(p=0.5, targets=[LIGHT])(one, generator=drawing) for one in batch]
    assert torch.equal(again, torch.stack(singles))


def test_no_gradient_comes_back(transfer):
    image = torch.rand(3, 8, 8, requires_grad=True)
    assert not transfer()(image, seed=0).requires_grad


@pytest.mark.parametrize("shape", [(4, 4), (2, 8, 8), (4, 8, 8), (8, 8, 3), (0, 3, 4, 4), (1, 2, 3, 8, 8), (3, 0, 4)])
def test_tensors_of_another_shape_are_refused(transfer, shape):
    with pytest.raises(ImageError, match="image"):
        transfer()(torch.zeros(shape), seed=0)


class Watching:
    """A fake that knows parts, and says what it was asked."""

    def __init__(self, translator):
        self.modalities, self.asked, self.shown = translator.modalities, [], []
        for name in ("recognise", "draw_attribute", "encode_attribute", "translate", "reconstruct"):
            setattr(self, name, getattr(translator, name))

    def translate_part(self, image, *, whole, **how):
        self.asked.append(whole)
        self.shown.append(image)
        return self.translate(image, **how)


def test_a_crop_is_restyled_as_a_part_of_its_field_once(fake_translator, nuclei):
    watching = Watching(fake_translator)
    transfer = StyleTransfer(watching, p=1.0, exclude_own=True)
    crop = Cut(step="cut", side_px=32).augment(nuclei, generator("cut"))
    crop = RandomCrop(CropConfig(size_px=24)).augment(crop, generator("crop"))
    restyled = transfer(crop, seed=0)
    assert len(watching.asked) == 1
    assert torch.equal(watching.asked[0][0], nuclei.image)
    assert restyled.whole is None  # its field is not restyled
    transfer(restyled, seed=1)
    transfer(nuclei, seed=2)
    assert len(watching.asked) == 1
    assert torch.equal(StyleTransfer(fake_translator, p=1.0, exclude_own=True)(crop, seed=0).image, restyled.image)


def test_crops_of_a_field_are_lifted_by_the_colours_of_the_field(fake_translator, nuclei):
    watching = Watching(fake_translator)
    crop = RandomCrop(CropConfig(size_px=24)).augment(nuclei, generator("crop"))
    styled = StyleTransfer(watching, p=1.0, lift=0.5)(crop, seed=0)
    assert torch.equal(watching.asked[0][0], nuclei.image)
    background, objects, _ = measure_stops(nuclei.image, 1)
    gamma = drawn(styled)["gamma"]
    assert torch.equal(watching.shown[0][0], lift(crop.image, background, objects, gamma))
    assert not torch.equal(watching.shown[0][0], crop.image)


# What is no style transfer, no seed and no image


@pytest.mark.parametrize("seed", [np.int64(7), np.int32(7), np.uint8(7)])
def test_a_seed_of_numpy_is_a_seed(fake_translator, nuclei, seed):
    augment = StyleTransfer(fake_translator, 1.0)
    assert torch.equal(augment(nuclei.image, seed=seed), augment(nuclei.image, seed=7))


def test_all_bits_of_a_seed_count_and_so_does_its_sign():
    seeds = (5, -5, 5 + 2**32, 5 + 2**63, 5 + 2**70, 2**32 - 5)
    firsts = {float(torch.rand((), generator=style.generator_of(seed), dtype=torch.float64)) for seed in seeds}
    assert len(firsts) == len(seeds)


@pytest.mark.parametrize("seed", [1.5, "a", torch.tensor(1.5), [1]])
def test_what_is_no_whole_number_is_no_seed(fake_translator, nuclei, seed):
    with pytest.raises(OptionError, match="seed is a whole number, got "):
        StyleTransfer(fake_translator)(nuclei, seed=seed)


def test_a_generator_of_numpy_is_refused(fake_translator, nuclei):
    with pytest.raises(OptionError, match=r"generator is a torch\.Generator, got Generator; give one, or a seed"):
        StyleTransfer(fake_translator)(nuclei, generator=np.random.default_rng(0))


def test_masks_of_bits_are_never_restyled(fake_translator):
    augment = StyleTransfer(fake_translator, 1.0)
    for mask in (np.zeros((8, 8), bool), torch.zeros((1, 8, 8), dtype=torch.bool)):
        with pytest.raises(ImageError, match="pixels of one bit are a mask, which must not change"):
            augment(mask, seed=0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "dsb2018"}, "model is a style model, got str; load one"),
        ({"p": "half"}, "p is a probability in"),
        ({"p": None}, "p is a probability in"),
        ({"p": math.nan}, "p is a probability in"),
        ({"targets": "stained"}, "targets are the names of modalities, one or more in a list, got 'stained'"),
        ({"targets": 3}, "one or more in a list, got 3"),
    ],
)
def test_arguments_of_another_type_are_named(fake_translator, wrong, says):
    with pytest.raises(OptionError, match=says):
        StyleTransfer(**{"model": fake_translator, **wrong})


def test_an_integration_wants_the_augmentation_and_not_its_model(fake_translator):
    with pytest.raises(OptionError, match=r"give nucstyle\.StyleTransfer\(model\)"):
        style.check_augment(fake_translator)
