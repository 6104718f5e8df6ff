"""`train-segmenter`: the best by validation, going on from weights, and what is refused."""

import csv
import inspect
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.io
import tifffile
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from nucstyle.augment.colour import ColourJitter
from nucstyle.augment.geometric import RandomCrop
from nucstyle.augment.steps import Enhance
from nucstyle.augment.style import StyleConfig, StyleTransfer
from nucstyle.core.clahe import ClaheConfig
from nucstyle.core.errors import ConfigError, OptionError
from nucstyle.core.protocols import SILENT
from nucstyle.core.rng import seeded
from nucstyle.data.dataset import Dataset
from nucstyle.data.run_folder import read_config
from nucstyle.data.weights import load_weights
from nucstyle.segmentation.detector import Segmenter, SegmenterConfig
from nucstyle.segmentation.judge import ForegroundJudge, JudgeConfig, JudgeNetwork
from nucstyle.segmentation.resnet import PARTS
from nucstyle.training.distributed import SINGLE
from nucstyle.workflows.arms import Arm, make_arm
from nucstyle.workflows.augment import augment
from nucstyle.workflows.fit import require_agreement
from nucstyle.workflows.load import find_weights, load_segmenter, save_judge
from nucstyle.workflows.recipes import segmenter_recipe
from nucstyle.workflows.selection import Selection
from nucstyle.workflows.train_segmenter import SegmenterRun, check_settings

SETTINGS = ("steps=2", "checkpoint_every=1", "size_px=64", "batch_size=1", "pyramid_channels=16", "box_head_size=32")
TINY = tuple(word for one in (*SETTINGS, "mask_layers=1") for word in ("--set", one))
LAST = (*TINY, "--set", "measure_every=0")
CHOSEN = (*TINY, "--set", "measure_every=1")


@pytest.fixture
def manifest(write_pairs):
    """Two modalities; the last field of each is for validation."""
    folder = write_pairs("data", fluorescence=3, stained=3)
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "labels", "modality", "split", "field_of_view"])
        for number in range(6):
            name, split = f"field-{number}", "validation" if number % 3 == 2 else "train"
            writer.writerow([name, f"images/{name}.png", f"labels/{name}.png", ("dapi", "he")[number // 3], split, ""])
    return path


def take_back_the_last_step(run):
    """As if a training of two steps had been stopped after the first."""
    for name in ("result.json", "weights.safetensors"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints" / "step-000002")


def tensors(run):
    return load_weights(run / "weights.safetensors", kind="segmenter").tensors


def apart(one, other):
    """How far the weights of two runs are apart, where they are most."""
    first, second = tensors(one), tensors(other)
    return max(float((tensor.float() - second[name].float()).abs().max()) for name, tensor in first.items())


def test_the_best_model_by_validation_images_is_taken(run_verb, manifest, tmp_path):
    result = run_verb("train-segmenter", manifest, "--out", "run", *CHOSEN)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "measures.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["quality"] == pytest.approx((line["all"] + line["minority"]) / 2, abs=1e-5)
    best = max(lines, key=lambda line: line["quality"])["step"]
    assert json.loads((run / "result.json").read_text())["taken_step"] == best
    metadata = load_weights(run / "weights.safetensors", kind="segmenter").metadata
    assert metadata["steps"] == best
    assert metadata["trained_on"] == ["field-0", "field-1", "field-3", "field-4"]
    assert read_config(run)["data"]["validation"]["images"] == 2
    assert "Scores on validation images" in (run / "report.html").read_text()
    load_segmenter(run)


def test_a_run_that_was_killed_while_it_measured_ends_with_the_same_bytes(run_verb, manifest, tmp_path, monkeypatch):
    assert run_verb("train-segmenter", manifest, "--out", "whole", *CHOSEN).exit_code == 0

    def killed(self, step, model, save):
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Selection, "consider", killed)
    assert run_verb("train-segmenter", manifest, "--out", "broken", *CHOSEN).exit_code != 0
    result = run_verb("train-segmenter", manifest, "--out", "broken", "--resume", *CHOSEN)
    assert result.exit_code == 0, result.output
    for name in ("measures.jsonl", "weights.safetensors", "result.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_new_run_goes_on_from_weights(run_verb, manifest, tmp_path):
    assert run_verb("train-segmenter", manifest, "--out", "first", *LAST).exit_code == 0
    # Of another seed, which begins elsewhere where --init is left out, and with a rate that moves nothing.
    still = (*LAST, "--seed", "1", "--set", "learning_rate=1e-12")
    result = run_verb("train-segmenter", manifest, "--out", "second", "--init", "first", *still)
    assert result.exit_code == 0, result.output
    assert apart(tmp_path / "first", tmp_path / "second") < 1e-6
    assert run_verb("train-segmenter", manifest, "--out", "fresh", *still).exit_code == 0
    assert apart(tmp_path / "fresh", tmp_path / "second") > 0.1
    assert "init_sha256" in read_config(tmp_path / "second")
    assert "init_sha256" not in read_config(tmp_path / "fresh")
    manifest.write_text(manifest.read_text().replace("field-4.png,he,train", "field-4.png,he,validation"))
    assert run_verb("train-segmenter", manifest, "--out", "fewer", "--init", "first", *still).exit_code == 0
    assert (
        "field-4" in load_weights(tmp_path / "fewer" / "weights.safetensors", kind="segmenter").metadata["trained_on"]
    )
    wider = (*still, "--set", "box_head_size=40")
    result = run_verb("train-segmenter", manifest, "--out", "third", "--init", "first", *wider)
    assert result.exit_code == 2
    assert "--init" in result.output
    assert not (tmp_path / "third").exists()


def test_a_training_that_runs_out_of_memory_ends_with_the_settings_that_help_and_its_checkpoint(
    run_verb, manifest, tmp_path, monkeypatch
):
    taken, losses = [], Segmenter.losses

    def short(self, images, targets):
        taken.append(len(images))
        if len(taken) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return losses(self, images, targets)

    monkeypatch.setattr(Segmenter, "losses", short)
    verb = ("train-segmenter", manifest, "--out", "run", *LAST)
    result = run_verb(*verb)
    assert result.exit_code == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("nucstyle: "))
    assert "not enough memory" in line
    assert "batch_size" in line
    assert taken == [1, 1]
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    monkeypatch.setattr(Segmenter, "losses", losses)
    result = run_verb(*verb, "--resume")
    assert result.exit_code == 0, result.output
    assert "going on from step 1 of 2" in result.output


def test_weights_are_stored_in_half_precision(run_verb, manifest, tmp_path):
    assert run_verb("train-segmenter", manifest, "--out", "run", *LAST).exit_code == 0
    kinds = {str(tensor.dtype) for tensor in tensors(tmp_path / "run").values() if tensor.is_floating_point()}
    assert kinds == {"torch.float16"}


def test_a_trunk_file_is_for_a_resnet_only(run_verb, manifest):
    result = run_verb("train-segmenter", manifest, "--out", "run", "--trunk", "x.pth", *LAST)
    assert result.exit_code == 2
    assert "brings its own weights" in result.output


@pytest.mark.parametrize("arm", ["colour", "recolour", "histogram+colour", "reinhard", "fourier"])
def test_arms_without_a_network_train_and_are_recorded(run_verb, manifest, tmp_path, arm):
    result = run_verb("train-segmenter", manifest, "--out", "run", "--augment", arm, *LAST)
    assert result.exit_code == 0, result.output
    config = read_config(tmp_path / "run")
    assert config["augment"] == arm
    assert ("examples" in config["data"]) == (arm != "colour")
    assert load_weights(tmp_path / "run" / "weights.safetensors", kind="segmenter").metadata["augment"] == arm


def test_images_without_masks_lend_their_colours_and_are_recorded_as_seen(run_verb, manifest, tmp_path):
    """The transfer protocol: masks of one modality, images of both."""
    verb = ("train-segmenter", manifest, "--augment", "recolour", "--annotated", "dapi")
    result = run_verb(*verb, "--out", "run", *CHOSEN)
    assert result.exit_code == 0, result.output
    assert "masks of 2 of the 4 training images are used" in result.output
    metadata = load_weights(tmp_path / "run" / "weights.safetensors", kind="segmenter").metadata
    assert metadata["trained_on"] == ["field-0", "field-1", "field-3", "field-4"]
    assert metadata["masks_seen"] == ["field-0", "field-1"]
    assert read_config(tmp_path / "run")["data"]["validation"]["images"] == 1
    assert (tmp_path / "run" / "modalities" / "modality.json").is_file()
    result = run_verb(*verb[:-1], "he,neon", "--out", "other", *LAST)
    assert result.exit_code == 2
    assert "--annotated neon: no such modality; there are dapi, he" in result.output


def test_images_without_masks_are_refused_where_they_would_have_no_use(run_verb, manifest):
    manifest.write_text(manifest.read_text().replace("labels/field-4.png", ""))
    result = run_verb("train-segmenter", manifest, "--out", "run", "--augment", "colour", *LAST)
    assert result.exit_code == 2
    assert "field-4.png: not annotated" in result.output


@pytest.mark.parametrize(
    ("arm", "line"),
    [
        ("colour+neon", "'neon' is unknown"),
        ("none+colour", "'none' is unknown"),
        ("colour+colour", "a part stands twice"),
        ("colour+recolour", "colour may invert an image, so it comes after"),
        ("style", "belong together"),
    ],
)
def test_arms_that_are_none_are_refused_before_anything_is_read(run_verb, arm, line):
    result = run_verb("train-segmenter", "nowhere", "--out", "run", "--augment", arm, *LAST)
    assert result.exit_code == 2
    assert line in result.output


def test_examples_of_other_modalities_need_another_modality(run_verb, manifest):
    manifest.write_text(manifest.read_text().replace(",he,", ",dapi,"))
    result = run_verb("train-segmenter", manifest, "--out", "run", "--augment", "histogram", *LAST)
    assert result.exit_code == 2
    assert "all are of dapi" in result.output


def test_masks_that_are_hidden_are_not_even_opened_but_weights_that_have_seen_them_are_refused(run_verb, manifest):
    verb = ("train-segmenter", manifest, "--augment", "recolour")
    assert run_verb(*verb, "--out", "all", *LAST).exit_code == 0
    (manifest.parent / "labels" / "field-4.png").write_bytes(b"no picture")
    only = (*verb, "--annotated", "dapi", *LAST)
    result = run_verb(*only, "--out", "some")
    assert result.exit_code == 0, result.output
    leaking = run_verb(*only, "--out", "leaking", "--init", "all")
    assert leaking.exit_code == 2
    assert "--init: these weights were trained with masks of 2 images that --annotated dapi hides" in leaking.output
    assert run_verb(*only, "--out", "more", "--init", "some").exit_code == 0


def test_a_run_by_example_goes_on_to_the_same_bytes(run_verb, manifest, tmp_path):
    verb = ("train-segmenter", manifest, "--out", "run", "--augment", "recolour+colour", *LAST)
    assert run_verb(*verb).exit_code == 0
    whole = (tmp_path / "run" / "weights.safetensors").read_bytes()
    take_back_the_last_step(tmp_path / "run")
    result = run_verb(*verb, "--resume")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == whole


STYLED = ("--augment", "style", "--style", "dsb2018")


def test_the_gate_of_a_style_model_is_recorded_and_its_counts_survive_a_stop(run_verb, manifest, tmp_path):
    verb = ("train-segmenter", manifest, "--out", "run", *STYLED, *LAST, "--set", "batch_size=3")
    result = run_verb(*verb)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    config, whole = read_config(run), (run / "result.json").read_bytes()
    assert config["gate"]["judge_sha256"] == load_weights(find_weights("dsb2018", "judge"), kind="judge").sha256
    assert config["gate"]["redraws"] == 2
    gate = json.loads(whole)["gate"]
    assert np.array(gate["tally"]).sum() > 0
    assert np.array(gate["tally"]).shape == (len(gate["modalities"]), len(gate["modalities"]), len(gate["outcomes"]))
    assert "Restyled images that the gate let through" in (run / "report.html").read_text()
    take_back_the_last_step(run)
    assert run_verb(*verb, "--resume").exit_code == 0
    assert (run / "result.json").read_bytes() == whole


def test_without_a_gate_none_is_recorded(run_verb, manifest, tmp_path):
    result = run_verb("train-segmenter", manifest, "--out", "run", *STYLED, "--no-gate", *LAST)
    assert result.exit_code == 0, result.output
    assert "gate" not in read_config(tmp_path / "run")
    assert "gate" not in json.loads((tmp_path / "run" / "result.json").read_text())


def test_how_crops_are_restyled_is_a_setting(run_verb, manifest, tmp_path):
    two = ["grey-on-black", "purple-on-white"]
    ways = ("style.p=1", f"style.targets={json.dumps(two)}", "style.exclude_own=true", "style.attributes=normal")
    ways += ("style.lift=0.8",)
    sets = tuple(word for one in (*ways, "batch_size=3") for word in ("--set", one))
    result = run_verb("train-segmenter", manifest, "--out", "run", *STYLED, *LAST, *sets)
    assert result.exit_code == 0, result.output
    assert read_config(tmp_path / "run")["recipe"]["style"]["lift"] == 0.8
    gate = json.loads((tmp_path / "run" / "result.json").read_text())["gate"]
    outcomes = np.array(gate["tally"])[..., gate["outcomes"].index("accepted")]
    outcomes += np.array(gate["tally"])[..., gate["outcomes"].index("given up")]
    assert outcomes.sum() == 6  # every crop of two steps
    assert not np.diagonal(outcomes).any()
    assert {gate["modalities"][target] for target in np.nonzero(outcomes.sum(axis=0))[0]} <= set(two)
    config = StyleConfig(
        p=0.25, targets=tuple(two), sources=("grey-on-black",), attributes="normal", exclude_own=True, lift=0.8
    )
    (restyle,) = make_arm("style", style="dsb2018", config=config, device="cpu", precision="fp32").augmentations
    assert (restyle.p, restyle.attributes, restyle.exclude_own, restyle.lift) == (0.25, "normal", True, 0.8)
    assert {restyle.model.modalities[number] for number in restyle.sources} == {"grey-on-black"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            (*STYLED, "--set", 'style.targets=["pink"]'),
            "--set style.targets: the style model has no modality 'pink'; known: grey",
        ),
        ((*STYLED, "--set", "style.p=1.5"), "less than or equal to 1"),
        (("--augment", "colour", "--set", "style.p=0.25"), "no effect without an arm with style"),
    ],
)
def test_settings_of_style_that_cannot_be_meant_are_refused(run_verb, manifest, tmp_path, options, line):
    result = run_verb("train-segmenter", manifest, "--out", "run", *LAST, *options)
    assert result.exit_code == 2
    assert line in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lite", "deep-retina", "mirzaev"])
def test_no_shipped_recipe_asks_for_an_arm_with_style(name):
    check_settings(segmenter_recipe(name), [], Dataset([]), None, ["none", "colour"], SILENT)


def test_dim_nuclei_are_lifted_alike_wherever_nothing_is_said_of_it():
    defaults = [inspect.signature(one).parameters["lift"].default for one in (StyleTransfer, augment)]
    assert {*defaults, StyleConfig().lift, segmenter_recipe("lite").style.lift} == {0.6}
    assert segmenter_recipe("deep-retina").style.lift == segmenter_recipe("mirzaev").style.lift == 1  # as published


def test_a_judge_that_has_seen_hidden_masks_does_not_look(run_verb, manifest, tmp_path):
    judge = ForegroundJudge(JudgeNetwork(JudgeConfig(width=2)), JudgeConfig(width=2))
    save_judge(tmp_path / "judge.safetensors", judge, {"masks_seen": ["field-4", "only-the-judge"]})
    verb = ("train-segmenter", manifest, *STYLED, "--judge", "judge.safetensors", *LAST)
    result = run_verb(*verb, "--out", "some", "--augment", "style+recolour", "--annotated", "dapi")
    assert result.exit_code == 0, result.output
    assert "judge.safetensors was trained with masks that --annotated hides" in result.output
    assert "judge_sha256" not in read_config(tmp_path / "some")["gate"]
    assert run_verb(*verb, "--out", "all").exit_code == 0
    assert "judge_sha256" in read_config(tmp_path / "all")["gate"]
    for name, is_told in (("some", False), ("all", True)):
        seen = load_weights(tmp_path / name / "weights.safetensors", kind="segmenter").metadata["masks_seen"]
        assert ("only-the-judge" in seen) == is_told


def run_of(recipe, arm):
    """A run of which only the order of its augmentations matters."""
    return SegmenterRun(Dataset([]), Arm(name="colour", augmentations=(arm,)), recipe, 0, "cpu")


def test_arms_come_after_the_crop_but_before_published_steps_and_before_contrast():
    arm = ColourJitter()
    fields, (chain,) = run_of(segmenter_recipe("lite"), arm).augmentations()
    assert not fields
    assert [type(one) for one in chain] == [RandomCrop, ColourJitter]
    fields, (chain,) = run_of(segmenter_recipe("lite", ["clahe=true", "clahe_tiles=4"]), arm).augmentations()
    assert [type(one) for one in fields] == [ColourJitter, Enhance]
    assert fields[1].config == ClaheConfig(tiles=4)
    assert [type(one) for one in chain] == [RandomCrop]
    fields, chains = run_of(segmenter_recipe("mirzaev"), arm).augmentations()
    assert [type(one) for one in fields] == [ColourJitter]
    assert all(type(one) is not ColourJitter for chain in chains for one in chain)


class Disagreeing:
    """A group of processes of which another has something else."""

    def agrees(self, value):
        return value == 0


def test_processes_that_were_given_different_things_do_not_train_together():
    require_agreement({"seed": 0}, SINGLE)
    with pytest.raises(OptionError, match="give every node the same files and the same command"):
        require_agreement({"seed": 0}, Disagreeing())
    values = []
    for seed in (0, 0, 1):
        require_agreement({"seed": seed}, SimpleNamespace(agrees=lambda value: values.append(value) or True))
    assert values[0] == values[1] != values[2]


def test_balance_without_names_of_modalities_is_refused(run_verb, manifest):
    folder = manifest.parent
    manifest.unlink()
    result = run_verb("train-segmenter", folder, "--out", "run", "--set", "balance=1", *LAST)
    assert result.exit_code == 2
    assert "balance 1.0 needs to know the modality of each image" in result.output
    assert "nucstyle discover" in result.output


def test_more_nuclei_than_proposals_are_refused_with_both_settings_but_older_weights_load():
    with pytest.raises(ConfigError, match=r"max_nuclei 15 .* proposals_after_nms 14: raise the latter"):
        segmenter_recipe("lite", ["max_nuclei=15", "proposals_after_nms=14"])
    assert segmenter_recipe("lite", ["max_nuclei=14", "proposals_after_nms=14"]).segmenter.max_nuclei == 14
    assert SegmenterConfig(max_nuclei=15, proposals_after_nms=14).max_nuclei == 15


def test_prediction_takes_the_views_of_the_recipe_that_the_weights_were_trained_by(run_verb, manifest):
    assert [segmenter_recipe(name).inference.tta for name in ("lite", "deep-retina", "mirzaev")] == [
        "fast",
        "deep-retina",
        "mirzaev",
    ]
    assert run_verb("train-segmenter", manifest, "--out", "trained", "--set", "tta=none", *LAST).exit_code == 0
    for given, taken in (((), "none"), (("--tta", "mirzaev"), "mirzaev")):
        result = run_verb("predict", manifest, "--weights", "trained", "--out", taken, *given)
        assert result.exit_code == 0, result.output
        assert read_config(manifest.parent.parent / taken)["tta"] == taken


def test_weights_that_were_shown_images_otherwise_are_said(run_verb, manifest):
    assert run_verb("train-segmenter", manifest, "--out", "first", *LAST).exit_code == 0
    result = run_verb("train-segmenter", manifest, "--out", "second", "--init", "first", *LAST, "--set", "clahe=true")
    assert result.exit_code == 0, result.output
    assert "trained with clahe = False" in result.output
    assert "--set clahe=false keeps it" in result.output


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["deep-retina", "mirzaev"])
def test_the_published_recipes_start_step_go_on_and_predict_on_a_cpu(run_verb, manifest, tmp_path, recipe, monkeypatch):
    monkeypatch.setattr("nucstyle.workflows.trunk.imagenet_files", list)
    verb = ("train-segmenter", manifest, "--out", "run", "--recipe", recipe, "--set", "checkpoint_every=1")
    verb += (
        "--set",
        "inference.score=0",
        "--set",
        "box_score=0",
        "--set",
        "max_nuclei=20",
        "--set",
        "inference.side_px=64",
    )
    short = (*verb, "--set", "steps=2", "--set", "batch_size=1", "--set", "precision=fp32")
    result = run_verb(*short)
    assert result.exit_code == 0, result.output
    assert "it starts at random" in result.output
    config = read_config(tmp_path / "run")
    assert config["recipe"]["segmenter"]["resnet_norm"] == "group"
    whole = (tmp_path / "run" / "weights.safetensors").read_bytes()
    take_back_the_last_step(tmp_path / "run")
    result = run_verb(*short, "--resume")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == whole
    image = manifest.parent / "images" / "field-0.png"
    result = run_verb("predict", image, "--out", "found", "--weights", "run")
    assert result.exit_code == 0, result.output
    assert f"predict ({recipe})" in result.output
    labels = tifffile.imread(tmp_path / "found" / "predictions" / "field-0_labels.tif")
    assert labels.shape == skimage.io.imread(image).shape[:2]  # what is found after two steps is chance


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_published_recipe_runs_with_the_light_network(run_verb, manifest, tmp_path):
    verb = (
        "train-segmenter",
        manifest,
        "--out",
        "run",
        "--recipe",
        "mirzaev",
        "--set",
        "network=lite",
        "--set",
        "steps=3",
    )
    result = run_verb(*verb, "--set", "pyramid_channels=32", "--set", "batch_size=1", "--set", "checkpoint_every=3")
    assert result.exit_code == 0, result.output
    assert "trunk_sha256" not in read_config(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_published_recipe_begins_with_all_of_a_detector_that_does_not_depend_on_its_classes(
    run_verb, manifest, tmp_path
):
    with seeded("detector"):
        backbone = resnet_fpn_backbone(backbone_name="resnet101", weights=None, trainable_layers=5)
        given = MaskRCNN(backbone, 91).state_dict()
    for name in given:
        if name.endswith("bn3.weight"):
            given[name] *= 0.1  # else what is random grows from block to block
    torch.save(given, tmp_path / "coco.pth")
    verb = ("train-segmenter", manifest, "--out", "run", "--recipe", "mirzaev", "--trunk", "coco.pth")
    short = ("--set", "steps=2", "--set", "checkpoint_every=1", "--set", "batch_size=1", "--set", "precision=fp32")
    result = run_verb(*verb, *short)
    assert result.exit_code == 0, result.output
    assert "are taken: ResNet-101, backbone.fpn, rpn.head" in result.output
    config = read_config(tmp_path / "run")
    told = load_weights(tmp_path / "run" / "weights.safetensors", kind="segmenter").metadata
    assert config["trunk_parts"] == told["trunk_parts"] == list(PARTS)
    assert config["trunk_sha256"] == told["trunk_sha256"]
    made = tensors(tmp_path / "run")
    for name in ("rpn.head.conv.0.0.weight", "roi_heads.box_head.fc6.weight", "roi_heads.mask_head.3.0.weight"):
        moved = made[name.replace("head.", "head.part.")].float() - given[name]
        assert float(moved.abs().max()) < 1e-3 < float(given[name].std())  # two steps of Adam at 1e-4, half precision
    whole = (tmp_path / "run" / "weights.safetensors").read_bytes()
    take_back_the_last_step(tmp_path / "run")
    (tmp_path / "coco.pth").unlink()
    result = run_verb(*verb[:-2], *short, "--resume")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == whole
