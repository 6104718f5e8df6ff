"""The shipped style model on the bundled images: it is there, small, and keeps nuclei nuclei."""

from importlib import resources

import pytest
import torch

from nucstyle.augment.style import StyleTransfer
from nucstyle.core.rng import generator
from nucstyle.data.dataset import open_dataset
from nucstyle.data.weights import load_weights
from nucstyle.metrics.translation import signed_separation
from nucstyle.workflows.demo import sample_folder
from nucstyle.workflows.load import find_weights, load_judge, load_style
from nucstyle.workflows.style_measures import grey


@pytest.fixture(scope="module")
def shipped():
    """The model."""
    return load_style("dsb2018", device="cpu")


def test_the_files_are_small_and_know_what_they_saw():
    for kind, most in (("style", 6e6), ("judge", 1e6)):
        path = find_weights("dsb2018", kind)
        assert path.stat().st_size <= most
        seen = load_weights(path, kind=kind).metadata
        division = (resources.files("nucstyle.data") / "dsb2018_split.csv").read_text().splitlines()
        train = {line.split(",")[0] for line in division[1:] if ",train" in line}
        assert set(seen["trained_on"]) <= train
        assert set(seen["masks_seen"]) <= set(seen["trained_on"])
        assert len(seen["masks_seen"]) > 400


def test_bundled_images_keep_their_nuclei_in_every_modality(shipped):
    kept = []
    for number, sample in enumerate(open_dataset(sample_folder())):
        if number % 4:
            continue
        source = shipped.recognise(sample.image[None])
        sign = int(shipped._networks.polarity[source])
        own = signed_separation(grey(sample.image), sample.labels.numpy(), polarity=sign)
        if own is None or own <= 0.9:
            continue
        for target in range(len(shipped.modalities)):
            wanted = torch.tensor([target])
            attribute = shipped.draw_attribute(wanted, mode="per-domain", generator=generator(number, target))
            made = shipped.translate(sample.image[None], source=source, target=wanted, attribute=attribute)
            polarity = int(shipped._networks.polarity[target])
            kept.append(signed_separation(grey(made[0]), sample.labels.numpy(), polarity=polarity) > 0.8)
    assert len(kept) >= 40
    assert sum(kept) >= 0.9 * len(kept)


def test_no_seam_shows_where_a_bundled_image_is_restyled_in_tiles(shipped):
    sample = open_dataset(sample_folder())[0]
    source = shipped.recognise(sample.image[None])
    for target in range(0, len(shipped.modalities), 2):
        wanted = torch.tensor([target])
        attribute = shipped.draw_attribute(wanted, mode="per-domain", generator=generator("seams", target))
        given = {"source": source, "target": wanted, "attribute": attribute}
        whole, tiled = (shipped.translate(sample.image[None], **given, tile_px=side) for side in (4096, 100))
        assert float((whole - tiled).abs().max()) <= 2 / 255


def test_the_shipped_judge_sees_the_nuclei_of_bundled_images():
    judge, shares = load_judge("dsb2018", device="cpu"), []
    for sample in list(open_dataset(sample_folder()))[::6]:
        seen, true = judge.foreground(sample.image[None])[0, 0] > 0.5, sample.labels > 0
        shares.append(2 * float((seen & true).sum()) / max(1.0, float(seen.sum() + true.sum())))
    assert sum(shares) / len(shares) > 0.7


def test_three_lines_restyle_an_image(shipped, field):
    image = field(0)[0]
    restyled = StyleTransfer(shipped, p=1.0)(image, seed=0)
    assert restyled.shape == image.shape
    assert restyled.dtype == image.dtype
    assert not (restyled == image).all()


def test_info_describes_every_shipped_file(run_verb):
    folder = resources.files("nucstyle.weights")
    for name, kind in (("style-dsb2018", "style"), ("judge-dsb2018", "judge"), ("lite0-imagenet", "trunk")):
        result = run_verb("info", folder.joinpath(f"{name}.safetensors"))
        assert result.exit_code == 0, result.output
        assert kind in result.output
    assert "dsb2018" in run_verb("info").output


def test_shipped_weights_are_described_by_name_too(run_verb):
    assert "weights: judge" in run_verb("info", "judge-dsb2018").output
    assert "weights: segmenter" in run_verb("info", "lite-dsb2018").output
    several = run_verb("info", "dsb2018")
    assert several.exit_code == 2
    assert "give one of style-dsb2018, judge-dsb2018" in several.output
    unknown = run_verb("info", "dsb2081")
    assert unknown.exit_code == 2
    assert "nor the name of shipped weights (style-dsb2018" in " ".join(unknown.output.split())
