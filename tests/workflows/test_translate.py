"""Images in every modality: what is written, in which type, and on what it depends."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.core.rng import seeded
from nucstyle.data.image_io import from_unit, read_image
from nucstyle.data.run_folder import read_config
from nucstyle.workflows import translate as workflow
from nucstyle.workflows.load import load_style

SIZE = (96, 112)


def entries(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".lock")


@pytest.fixture
def images(write_pairs):
    """A bright-on-black and a stained field."""
    return write_pairs("data", fluorescence=1, stained=1) / "images"


def told(run):
    return json.loads((run / "result.json").read_text())


def test_an_image_is_written_in_every_modality_and_the_grid_shows_all(run_verb, images, tmp_path):
    """With the model that comes with the package, which is the default."""
    result = run_verb("translate", images, "--out", "run")
    assert result.exit_code == 0, result.output
    model, run = load_style("dsb2018", device="cpu"), tmp_path / "run"
    pictures = [f"pictures/field-{n}/{name}.png" for n in (0, 1) for name in model.modalities]
    folders = ["pictures", "pictures/field-0", "pictures/field-1"]
    files = ["config.toml", "environment.json", "grid.png", "report.html", "result.json"]
    assert entries(run) == sorted([*pictures, *folders, *files])
    for number in (0, 1):
        image, _ = read_image(images / f"field-{number}.png")
        own = int(model.recognise(image[None]))
        saying = told(run)["images"][f"field-{number}"]
        assert saying["source"] == model.modalities[own]
        assert saying["source_from"] == "recognised"
        for name, picture in saying["pictures"].items():
            assert picture["style"] == ("own" if name == saying["source"] else "drawn")
            assert picture["target"] == name
            made, source = read_image(run / picture["file"])
            assert (source.dtype, source.channels) == ("uint8", 3)
            restyled = model.translate(
                image[None],
                source=torch.tensor([own]),
                target=torch.tensor([model.number(name)]),
                attribute=torch.tensor([picture["attribute"]]),
            )[0]
            assert made.shape == image.shape
            torch.testing.assert_close(made, restyled, rtol=0, atol=0.003)
        mirrored, _ = read_image(run / saying["pictures"][saying["source"]]["file"])
        torch.testing.assert_close(mirrored, model.reconstruct(image[None], torch.tensor([own]))[0], rtol=0, atol=0.003)
    page = (run / "report.html").read_text()
    for name in {one["source"] for one in told(run)["images"].values()}:
        assert f"<td>{name}</td>" in page


def test_a_picture_depends_on_the_seed_and_its_image_alone(run_verb, tiny_demo, images, tmp_path):
    style = ("--style", tiny_demo / "style")
    for out, *what in (("both", images), ("alone", images / "field-1.png"), ("again", images)):
        assert run_verb("translate", *what, "--out", out, *style).exit_code == 0
    assert run_verb("translate", images, "--out", "other", "--seed", 1, *style).exit_code == 0
    bytes_of = {
        out: {path.name: path.read_bytes() for path in (tmp_path / out / "pictures" / "field-1").iterdir()}
        for out in ("both", "alone", "other")
    }
    assert bytes_of["both"] == bytes_of["alone"]
    own = told(tmp_path / "both")["images"]["field-1"]["source"] + ".png"
    same = {name for name, content in bytes_of["other"].items() if content == bytes_of["both"][name]}
    assert same == {own}
    for name in ("result.json", "grid.png"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert read_config(tmp_path / "other")["seed"] == 1


def test_the_style_of_an_exemplar_is_copied_and_shown(run_verb, tiny_demo, images, tmp_path):
    style, exemplar = ("--style", tiny_demo / "style"), images / "field-1.png"
    assert run_verb("translate", images / "field-0.png", "--out", "plain", *style).exit_code == 0
    result = run_verb("translate", images / "field-0.png", "--out", "run", "--exemplar", exemplar, *style)
    assert result.exit_code == 0, result.output
    model, run = load_style(tiny_demo / "style", device="cpu"), tmp_path / "run"
    picture, image = (read_image(images / f"field-{number}.png")[0][None] for number in (1, 0))
    target = model.recognise(picture)
    attribute = model.encode_attribute(picture, target)
    expected = model.translate(image, source=model.recognise(image), target=target, attribute=attribute)[0]
    made, _ = read_image(run / "pictures" / "field-0" / "_exemplar.png")
    torch.testing.assert_close(made, expected, rtol=0, atol=0.003)
    saying = told(run)["exemplar"]
    assert (saying["name"], saying["modality"]) == ("field-1.png", model.modalities[int(target)])
    assert told(tmp_path / "plain")["exemplar"] is None
    with Image.open(run / "grid.png") as grid, Image.open(tmp_path / "plain" / "grid.png") as plain:
        assert grid.width > plain.width + SIZE[1]  # a column more
        assert grid.height > plain.height + SIZE[0]  # the exemplar stands above it
    assert "field-1.png" in (run / "report.html").read_text()


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_what_is_not_of_eight_bits_keeps_its_type_and_its_range_in_colour(run_verb, tiny_demo, field, tmp_path, kind):
    values = field(0)[0][..., 0].astype(kind) * 11 + 300
    tifffile.imwrite(tmp_path / "deep.tif", values)
    assert run_verb("translate", "deep.tif", "--out", "run", "--style", tiny_demo / "style").exit_code == 0
    saying = told(tmp_path / "run")["images"]["deep"]
    image, source = read_image(tmp_path / "deep.tif")
    model = load_style(tiny_demo / "style", device="cpu")
    restyled = model.reconstruct(image[None], torch.tensor([model.number(saying["source"])]))[0]
    made = tifffile.imread(tmp_path / "run" / saying["pictures"][saying["source"]]["file"])
    assert (made.shape, made.dtype) == ((*SIZE, 3), np.dtype(kind))
    assert made.min() >= source.low - 1
    assert made.max() <= source.high + 1
    grey = from_unit(restyled, source)  # a grey image's way back; the mean of the colours
    np.testing.assert_allclose(made.astype(float).mean(axis=2), grey, atol=1.5)


def test_a_modality_that_the_manifest_names_holds_and_an_unknown_one_is_said(run_verb, tiny_demo, images, tmp_path):
    model = load_style(tiny_demo / "style", device="cpu")
    seen = model.modalities[int(model.recognise(read_image(images / "field-0.png")[0][None]))]
    other = next(name for name in model.modalities if name != seen)
    rows = [f"known,data/images/field-0.png,,{other},,", "odd,data/images/field-1.png,,neon,,"]
    (tmp_path / "manifest.csv").write_text("\n".join(["id,image,labels,modality,split,field_of_view", *rows]))
    result = run_verb("translate", "manifest.csv", "--out", "run", "--style", tiny_demo / "style")
    assert result.exit_code == 0, result.output
    found = told(tmp_path / "run")["images"]
    assert (found["known"]["source"], found["known"]["source_from"]) == (other, "manifest")
    assert found["known"]["pictures"][other]["style"] == "own"
    assert found["odd"]["source_from"] == "recognised"
    assert "odd: the style model does not know neon" in result.stderr
    assert "known:" not in result.stderr


def test_a_bad_image_does_not_stop_the_others(assert_refused, run_verb, tiny_demo, images, tmp_path):
    (images / "broken.png").write_bytes(b"<html>not found</html>")
    result = run_verb("translate", images, "--out", "run", "--style", tiny_demo / "style")
    assert_refused(result, "1 of 3", "broken.png", "HTML")
    assert sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir()) == ["field-0", "field-1"]
    assert (tmp_path / "run" / "grid.png").is_file()
    alone = run_verb("translate", images / "broken.png", "--out", "none", "--style", tiny_demo / "style")
    assert_refused(alone, "1 of 1", "broken.png")
    assert not (tmp_path / "none" / "grid.png").exists()


def test_what_cannot_be_used_is_refused_before_anything_is_written(
    assert_refused, run_verb, tiny_demo, images, tmp_path
):
    before = entries(tmp_path)
    style = ("--style", tiny_demo / "style")
    assert_refused(run_verb("translate", "nowhere.png", "--out", "run"), "nowhere.png")
    assert_refused(run_verb("translate", images, "--out", "run", "--style", "nothing"), "nothing", "dsb2018")
    assert_refused(run_verb("translate", images, "--out", "run", *style, "--exemplar", "no.png"), "no.png")
    assert_refused(run_verb("translate", images, "--out", images, *style, "--overwrite"), "images", "another folder")
    assert_refused(run_verb("translate", images, "--out", "run", *style, "--device", "tpu"), "tpu", "cpu")
    assert entries(tmp_path) == before
    assert run_verb("translate", images, "--out", "run", *style).exit_code == 0
    assert_refused(run_verb("translate", images, "--out", "run", *style), "run", "--overwrite")
    assert run_verb("translate", images, "--out", "run", "--overwrite", *style).exit_code == 0
    grid = ("--out", "run/pictures", "--overwrite")
    assert_refused(run_verb("translate", images, *grid, *style), "pictures", "another folder")


def test_an_image_given_twice_is_done_once_and_two_of_one_name_are_refused(
    assert_refused, run_verb, tiny_demo, images, tmp_path
):
    style = ("--style", tiny_demo / "style")
    result = run_verb("translate", images / "field-0.png", f"{images}/*.png", images, "--out", "run", *style)
    assert result.exit_code == 0, result.output
    assert list(told(tmp_path / "run")["images"]) == ["field-0", "field-1"]
    shutil.copytree(images, tmp_path / "more")
    assert_refused(run_verb("translate", images, "more", "--out", "two", *style), "field-0", "rename")


@pytest.mark.parametrize("name", ["..", ".", "n" * 300])
def test_an_id_that_cannot_name_a_file_is_refused(assert_refused, run_verb, tiny_demo, images, tmp_path, name):
    rows = f"id,image,labels,modality,split,field_of_view\n{name},data/images/field-0.png,,,,"
    (tmp_path / "manifest.csv").write_text(rows)
    result = run_verb("translate", "manifest.csv", "--out", "run", "--style", tiny_demo / "style")
    assert_refused(result, "cannot name a file", "rename")
    assert not (tmp_path / "run").exists()


def test_the_grid_shows_the_first_images_and_says_so(run_verb, tiny_demo, images, tmp_path, monkeypatch):
    assert run_verb("translate", images, "--out", "all", "--style", tiny_demo / "style").exit_code == 0
    monkeypatch.setattr(workflow, "GRID_ROWS", 1)
    assert run_verb("translate", images, "--out", "first", "--style", tiny_demo / "style").exit_code == 0
    with Image.open(tmp_path / "all" / "grid.png") as both, Image.open(tmp_path / "first" / "grid.png") as first:
        assert first.height < both.height
    assert "The grid shows the first 1." in (tmp_path / "first" / "report.html").read_text()
    assert "The grid shows" not in (tmp_path / "all" / "report.html").read_text()


def test_of_a_large_field_the_grid_shows_the_middle_made_smaller():
    field = torch.zeros(3, 900, 2000)
    field[:, 194:706, 744:1256] = 1
    assert torch.equal(workflow._cell(field), torch.ones(3, 256, 256))
    with seeded("cell"):
        small = torch.rand(3, 31, 255)
    assert torch.equal(workflow._cell(small), small)
    assert workflow._cell(torch.zeros(3, 1, 5000)).shape == (3, 1, 256)
