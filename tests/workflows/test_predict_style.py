"""Predicting images of a modality that the segmenter has not seen: they are moved into the one that it knows best."""

import pytest
import torch

from nucstyle.augment.gate import Gate
from nucstyle.data.dataset import open_dataset
from nucstyle.data.run_folder import read_config
from nucstyle.data.weights import load_weights
from nucstyle.workflows import predict as workflow
from nucstyle.workflows.load import load_style


@pytest.fixture
def shown(monkeypatch):
    """The images that are segmented."""
    images, segment = [], workflow.segment

    def watch(segmenter, image, *arguments, **named):
        images.append(image)
        return segment(segmenter, image, *arguments, **named)

    monkeypatch.setattr(workflow, "segment", watch)
    return images


@pytest.fixture
def no_gate(monkeypatch):
    """Nobody looks at the masks that images to be predicted may have."""

    def fail(*_, **__):
        pytest.fail("a gate looked at images that are to be predicted")

    monkeypatch.setattr(Gate, "check", fail)


@pytest.mark.usefixtures("no_gate", "no_lift")
def test_images_are_moved_where_the_segmenter_is_at_home(run_verb, tiny_demo, write_pairs, tmp_path, shown):
    folder, cell = write_pairs("data", fluorescence=1, stained=1), tiny_demo / "full" / "none" / "seed-0"
    model = load_style(tiny_demo / "style")
    originals = [sample.image for sample in open_dataset(folder)]
    own = [model.modalities[int(model.recognise(image[None]))] for image in originals]
    counts = load_weights(cell / "weights.safetensors", kind="segmenter").metadata["modalities"]
    best = max(counts, key=counts.get)
    verb = ("predict", folder, "--weights", cell, "--tta", "none", "--style", tiny_demo / "style")
    result = run_verb(*verb, "--out", "moved")
    assert result.exit_code == 0, result.output
    assert read_config(tmp_path / "moved")["move_to"] == best
    assert len(shown) == 2
    for image, original, name in zip(shown, originals, own, strict=True):
        assert torch.equal(image, original) == (name == best)
    other = next(name for name in model.modalities if name not in own)
    again = run_verb(*verb, "--out", "other", "--move-to", other)
    assert again.exit_code == 0, again.output
    assert not any(torch.equal(image, original) for image, original in zip(shown[2:], originals, strict=True))
    assert run_verb(*verb, "--out", "twice", "--move-to", other).exit_code == 0
    assert all(torch.equal(one, same) for one, same in zip(shown[2:4], shown[4:], strict=True))


def test_a_modality_without_a_style_model_or_unknown_to_it_is_refused(run_verb, tiny_demo, write_pairs):
    folder, cell = write_pairs("data", fluorescence=1, stained=0), tiny_demo / "full" / "none" / "seed-0"
    verb = ("predict", folder, "--weights", cell, "--out", "run")
    alone = run_verb(*verb, "--move-to", "neon")
    assert alone.exit_code == 2
    assert "give --style as well" in alone.output
    unknown = run_verb(*verb, "--style", tiny_demo / "style", "--move-to", "neon")
    assert unknown.exit_code == 2
    assert "unknown target modality" in unknown.output
