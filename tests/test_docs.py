"""What the documents show is run, and what they name is there."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nucstyle.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
INTEGRATIONS = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_blocks_of_the_readme_run(monkeypatch, tmp_path, field):
    import nucstyle

    code = "\n".join(blocks(README, "python"))
    trained = tmp_path / "demo-run" / "style"
    folder = tmp_path / "data"
    write_two_modalities(folder, field)
    nucstyle.train_style(folder, trained, overrides=["steps=1", "width=4", "size_px=32", "judge_steps=0"], k=2)
    monkeypatch.chdir(tmp_path)
    names = {"image": field(3)[0]}
    exec(code, names)
    assert names["restyled"].shape == names["image"].shape
    assert names["restyled"].dtype == names["image"].dtype
    assert abs(names["restyled"].astype(float) - names["image"]).mean() > 20  # of 255: to be seen
    assert names["found"].labels.shape == names["image"].shape[:2]


def test_the_segmenter_of_the_guide_runs_in_python(monkeypatch, tmp_path, field, write_pairs):
    import nucstyle

    (code,) = (block for block in blocks(GUIDE, "python") if "load_segmenter" in block)
    sizes = ["size_px=64", "batch_size=1", "pyramid_channels=16", "box_head_size=32", "mask_layers=1"]
    nucstyle.train_segmenter(
        write_pairs("data"), tmp_path / "my-segmenter", overrides=["steps=1", "measure_every=0", *sizes]
    )
    monkeypatch.chdir(tmp_path)
    names = {"image": field(3)[0]}
    exec(code, names)
    assert names["found"].labels.shape == names["image"].shape[:2]
    assert len(names["found"].scores) == int(names["found"].labels.max())


def test_a_data_set_of_ones_own_is_restyled_as_the_guide_says(field):
    import torch
    from torch.utils.data import DataLoader

    (code,) = (block for block in blocks(GUIDE, "python") if "class Restyled" in block)
    names = {}
    exec(code, names)
    images = [torch.from_numpy(field(number)[0]).permute(2, 0, 1) for number in range(16)]
    loader = DataLoader(names["Restyled"]([(image, number) for number, image in enumerate(images)]), batch_size=8)
    batches = list(loader)
    assert [number for _, labels in batches for number in labels.tolist()] == list(range(16))
    shown = torch.cat([batch for batch, _ in batches])
    assert shown.dtype == torch.uint8
    changed = sum(not torch.equal(one, image) for one, image in zip(shown, images, strict=True))
    assert 1 <= changed <= 15


class Listening:
    """Stands for `StarDist2D`: its `train` calls the augmenter as StarDist's data generator does, and keeps what came back."""

    def train(self, images, masks, *, validation_data, augmenter, seed):
        self.made = [augmenter(image, mask) for image, mask in zip(images, masks, strict=True)]


def example(library):
    """The block of docs/integrations.md that is about this library."""
    (code,) = (block for block in blocks(INTEGRATIONS, "python") if f"nucstyle.integrations.{library} " in block)
    return code


@pytest.mark.parametrize("library", ["torchvision", "albumentations", "monai"])
def test_the_examples_of_integrations_restyle_some_images_and_no_mask(monkeypatch, field, library):
    import torch

    def run(code):
        drawn, seen = [field(number) for number in range(16)], []
        names = {"images": [image for image, _ in drawn], "masks": [mask for _, mask in drawn]}

        def show(*shapes):
            batch = names["batch"]
            seen.append((batch["image"], batch["label"]) if library == "monai" else (batch, names["labels"]))

        names["print"] = show
        exec(code, names)
        return tuple(torch.cat(parts) for parts in zip(*seen, strict=True))

    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    code = example(library)
    images, labels = run(code)
    plain, same = run(code.replace("p=0.5)\n", "p=0)\n", 1))
    assert (tuple(images.shape), images.dtype) == ((16, 3, 64, 64), torch.float32)
    assert (tuple(labels.shape[-2:]), labels.dtype) == ((64, 64), torch.int32)
    assert torch.equal(labels, same)
    changed = sum(not torch.equal(one, own) for one, own in zip(images, plain, strict=True))
    assert 1 <= changed <= 15


def test_the_example_for_stardist_turns_patch_and_labels_together_and_restyles_some(field):
    import numpy as np

    drawn = [field(number) for number in range(16)]
    names = {"images": [(image / 200 - 0.1).astype(np.float32) for image, _ in drawn], "model": Listening()}
    names["masks"] = [mask for _, mask in drawn]
    exec(example("stardist"), names)
    turns, changed = np.random.default_rng(0), 0
    for image, mask, (made, labels) in zip(names["images"][2:], names["masks"][2:], names["model"].made, strict=True):
        quarters = turns.integers(4)
        assert np.array_equal(labels, np.rot90(mask, quarters))
        assert (made.shape, made.dtype) == (np.rot90(image, quarters).shape, np.float32)
        changed += not np.array_equal(made, np.rot90(image, quarters))
    assert 1 <= changed <= 13


def test_the_lookup_table_of_the_guide_recolours_an_image_and_keeps_its_labels(monkeypatch, tmp_path, write_pairs):
    import torch

    (code,) = (block for block in blocks(GUIDE, "python") if "Recolour(" in block)
    call = (
        "discover",
        str(write_pairs("data", fluorescence=4, stained=4)),
        "--out",
        str(tmp_path / "found"),
        "--k",
        "2",
    )
    assert CliRunner().invoke(app, call).exit_code == 0
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace("p=0.5", "p=1.0"), names)
    first, made = names["samples"][0], names["recoloured"]
    assert torch.equal(made.labels, first.labels)
    assert float((made.image - first.image).abs().mean()) > 0.1


def write_two_modalities(folder, field):
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(field(number, stained=number > 1)[0]).save(folder / "images" / f"{number}.png")


CALLS = [line for block in blocks(GUIDE, "console") for line in block.splitlines()]
CALLS += [" ".join(line.split()) for line in re.findall(r"`(nucstyle [^`]+)`", FAQ)]


@pytest.mark.parametrize("line", CALLS)
def test_every_option_of_the_guide_and_the_answers_exists(line):
    words = line.split("#")[0].split()
    assert words[0] == "nucstyle"
    usage = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200"}).output
    for option in (word for word in words if word.startswith("--")):
        assert option in usage


def test_the_readme_lists_every_verb():
    listed = set(re.findall(r"`nucstyle ([a-z-]+)", README))
    assert {command.name or command.callback.__name__ for command in app.registered_commands} <= listed


@pytest.mark.parametrize("name", ["README.md", "docs/guide.md", "docs/faq.md", "docs/results.md"])
def test_every_heading_and_file_that_is_linked_to_is_there(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    assert links
    for target, heading in links:
        other = page.parent / target if target else page
        assert other.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, heading


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_u_net_of_the_docs_trains_with_and_without_style(write_pairs, tmp_path, monkeypatch, capsys):
    folder = write_pairs("data", fluorescence=4, stained=2)
    lines = ["id,image,labels,modality,split,field_of_view"]
    for number in range(6):
        split, modality = ("train", "dark") if number < 3 else ("validation", "dark" if number < 4 else "light")
        lines.append(f"f{number},images/field-{number}.png,labels/field-{number}.png,{modality},{split},")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "unet.json"
    words = [
        str(folder / "manifest.csv"),
        "dsb2018",
        "--seeds",
        "1",
        "--steps",
        "2",
        "--annotated",
        "dark",
        "--out",
        str(out),
    ]
    monkeypatch.setattr("sys.argv", ["unet.py", *words])
    runpy.run_path(str(ROOT / "docs" / "unet.py"), run_name="__main__")
    table = capsys.readouterr().out
    assert "| all others | 2 |" in table
    result = json.loads(out.read_text())
    assert result.keys() == {"none", "style"}
    assert result["none"]["0"].keys() == {"f3", "f4", "f5"}
    assert result["none"]["0"] != result["style"]["0"]
