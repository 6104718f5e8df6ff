"""The page of a comparison: bold only what is sure, ours beside the published figures, figures with their data."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch

from nucstyle.core.config import to_toml
from nucstyle.data.image_io import write_png
from nucstyle.metrics.dsb import dsb_score
from nucstyle.metrics.summary import summarise
from nucstyle.report.comparison import arm_table, difference_table, shown_tta
from nucstyle.report.page import write_report
from nucstyle.report.pictures import COMMON_COLOUR, GAINED_COLOUR, LOST_COLOUR, TRUE_COLOUR, draw_change
from nucstyle.workflows.cells import Scoring
from nucstyle.workflows.comparison import sum_up

CONFIG = {
    "verb": "compare",
    "protocol": "full",
    "annotated": [],
    "recipe": {
        "name": "mirzaev",
        "training": {"steps": 30, "batch_size": 2},
        "segmenter": {"network": "lite"},
    },
}
NAMES = [f"{number}-image" for number in range(10)]
MODALITIES = {name: "he" if number > 6 else "dapi" for number, name in enumerate(NAMES)}
SHIFTS = {"none": 3, "recolour": 2, "style": 0}
"""How far the nucleus of a prediction is off, in pixels; `none` wins by itself in the last image."""


def square(top):
    labels = np.zeros((24, 24), np.int32)
    labels[top : top + 8, 4:12] = 1
    return labels


def write_cell(folder, arm, seed):
    cell = folder / arm / f"seed-{seed}"
    cell.mkdir(parents=True)
    scores = {name: dsb_score(square(4), square(4 + SHIFTS[arm] + seed)) for name in NAMES[:-1]}
    scores[NAMES[-1]] = dsb_score(square(4), square(4 + (3 if arm == "style" else 0)))
    summary = summarise(scores, MODALITIES, "dapi")
    result = {"format": 1, "verb": "cell", "seed": seed, "recipe": "mirzaev", "arm": arm}
    result["scores"] = {"validation": {"none": summary}}
    if arm == "style":
        result["gate"] = {"outcomes": ["accepted", "gone", "given up"], "modalities": ["a"], "tally": [[[6, 2, 0]]]}
    (cell / "result.json").write_text(json.dumps(result))
    (cell / "config.toml").write_text('verb = "cell"\n')
    lines = [{"step": step, "quality": min(step, 20 if seed else 30) / 100} for step in (10, 20, 30)]
    (cell / "measures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (cell / "log.jsonl").write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (1, 2)))


@pytest.fixture
def protocol(tmp_path):
    """Three arms with two seeds; images in ten fields, of which three are of the minority."""
    folder = tmp_path / "full"
    for arm in SHIFTS:
        for seed in (0, 1):
            write_cell(folder, arm, seed)
    described = {name: {"modality": MODALITIES[name], "field_of_view": None, "nucleus_px": 64} for name in NAMES}
    images = {"format": 1, "largest": "dapi", "median_nucleus_px": 64, "train": 5, "parts": {"validation": described}}
    (folder / "images.json").write_text(json.dumps(images))
    (folder / "config.toml").write_text(to_toml(CONFIG))
    (tmp_path / "config.toml").write_text('verb = "compare"\n')
    sum_up(folder, CONFIG, Scoring({"validation": []}, ("none",), "dapi"), "validation")
    return folder


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_number_is_bold_only_where_its_interval_does_not_hold_zero(protocol):
    page = write_report(protocol).read_text()
    groups = [
        one
        for references in result_of(protocol)["differences"].values()
        for modes in references.values()
        for one in modes["none"].values()
    ]
    sure = [one for one in groups if one["low"] is not None and (one["low"] > 0 or one["high"] < 0)]
    assert 0 < len(sure) < len(groups)
    assert len(re.findall("<strong>", page)) == len(sure)
    for one in sure:
        assert f"<strong>{one['mean']:+.3f}</strong></td><td>{one['low']:+.3f} to {one['high']:+.3f}" in page


def test_the_page_says_where_fields_of_view_are_in_several_parts(protocol):
    assert "nucstyle check names them" not in write_report(protocol).read_text()
    path = protocol / "images.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cut_fields": 3}))
    page = write_report(protocol).read_text()
    assert "3 fields of view of these data have images in more than one of train, validation and test" in page


def test_the_page_begins_with_the_answer_and_claims_nothing_that_an_interval_does_not_bear_out(protocol):
    path, result = protocol / "result.json", result_of(protocol)
    differences = result["differences"]["style"]
    differences["none"]["none"]["all"].update({"mean": 0.25, "low": 0.125, "high": 0.5, "seeds": 2})
    differences["recolour"]["none"]["all"].update({"mean": 0.25, "low": -0.125, "high": 0.5, "seeds": 1})
    path.write_text(json.dumps(result))
    page = write_report(protocol).read_text()
    (said,) = re.findall("In short[^<]*", page)
    assert page.index(said) < page.index("Trained with all training masks")
    assert said.startswith("In short, with TTA none: style - none is ")  # the minority is in three fields
    assert said.count("too few fields for an interval") == 2
    assert (
        "style is better than none: +0.250 on all (10 images of 10 fields, 2 seeds, 95 % interval +0.125 to +0.500);"
        in said
    )
    assert (
        "whether style or recolour is better cannot be told from one seed: +0.250 on all (10 images of 10 fields, one seed, "
        "95 % interval of fields alone -0.125 to +0.500)" in said
    )
    differences["recolour"]["none"]["all"].update({"low": 0.125})
    path.write_text(json.dumps(result))
    page = write_report(protocol).read_text()
    assert (
        "whether style or recolour is better cannot be told from one seed: +0.250 on all" in page
    )  # one training of each
    assert "<td>1</td><td>+0.250</td><td>+0.125 to +0.500</td>" in page
    assert "<td>2</td><td><strong>+0.250</strong></td><td>+0.125 to +0.500</td>" in page
    differences["none"]["none"]["all"].update({"mean": -0.25, "low": -0.5, "high": -0.125})
    path.write_text(json.dumps(result))
    assert "style is worse than none: -0.250 on all" in write_report(protocol).read_text()


def test_where_there_is_no_interval_every_image_is_named(protocol):
    page = write_report(protocol).read_text()
    few = result_of(protocol)["differences"]["style"]["none"]["none"]["he"]
    assert (few["low"], few["fields"]) == (None, 3)
    for name, gain in few["images"].items():
        assert re.search(rf"<td>he</td><td>{name}</td>(<td>.\d\.\d+</td>)*<td>{re.escape(f'{gain:+.3f}')}</td>", page)


def test_arms_are_compared_to_none_and_to_the_best_without_a_gan(protocol):
    result = result_of(protocol)
    assert result["reference"] == "recolour"
    assert result["differences"]["style"].keys() == {"none", "recolour"}
    assert result["differences"]["recolour"].keys() == {"none"}
    assert result["shown"] == "style"
    firsts = [row[0] for row in difference_table(result)[1:]]
    assert list(dict.fromkeys(firsts)) == [
        "recolour - none, TTA none",
        "style - none, TTA none",
        "style - recolour, TTA none",
    ]
    named = [row[0] for row in difference_table(result, reference="none", tta="none")[1:]]
    assert list(dict.fromkeys(named)) == ["recolour - none", "style - none"]
    assert [row[0] for row in arm_table(result)[1:]] == ["none, TTA none", "recolour, TTA none", "style, TTA none"]


def test_a_cell_with_a_further_mode_leaves_the_page_in_the_mode_of_the_others(protocol):
    result = result_of(protocol)
    modes = result["arms"]["style"]["seeds"]["0"]
    modes["full"] = modes["none"]
    assert shown_tta(result) == "none"
    for arm in SHIFTS:
        for modes in result["arms"][arm]["seeds"].values():
            modes["fast"] = modes["full"] = modes["none"]
    assert shown_tta(result) == "full"


def test_the_page_says_where_arms_of_one_seed_were_trained_on_unlike_machines(protocol):
    for arm in SHIFTS:
        for seed, precision in (("0", "bf16"), ("1", "bf16" if arm == "style" else "fp32")):
            text = f'verb = "cell"\ndevice = "cpu"\nprecision = "{precision}"\n'
            (protocol / arm / f"seed-{seed}" / "config.toml").write_text(text)
    sum_up(protocol, CONFIG, Scoring({"validation": []}, ("none",), "dapi"), "validation")
    assert result_of(protocol)["trained_with"]["none"] == {"0": "cpu bf16", "1": "cpu fp32"}
    page = write_report(protocol).read_text()
    assert ": seed 1: cpu bf16 (style), cpu fp32 (none, recolour). Train a seed on machines of one kind." in page
    (protocol / "style" / "seed-1" / "config.toml").write_text('verb = "cell"\ndevice = "cpu"\nprecision = "fp32"\n')
    sum_up(protocol, CONFIG, Scoring({"validation": []}, ("none",), "dapi"), "validation")
    assert "unlike devices" not in write_report(protocol).read_text()


def test_where_all_images_are_of_the_minority_they_are_told_once(protocol):
    assert " on all (" in write_report(protocol).read_text()
    result = result_of(protocol)
    result["groups"]["minority"] = result["groups"]["all"]
    (protocol / "result.json").write_text(json.dumps(result))
    page = write_report(protocol).read_text()
    assert " on minority (" in page
    assert " on all (" not in page


def test_the_page_says_of_how_many_images_no_field_of_view_is_known(protocol):
    assert " 10 of the 10 images are not known to share their field of view" in write_report(protocol).read_text()
    images = json.loads((protocol / "images.json").read_text())
    for name in NAMES:
        images["parts"]["validation"][name]["field_of_view"] = None if name == NAMES[0] else f"field of {name}"
    (protocol / "images.json").write_text(json.dumps(images))
    sum_up(protocol, CONFIG, Scoring({"validation": []}, ("none",), "dapi"), "validation")
    assert " 1 of the 10 images are not known to share their field of view" in write_report(protocol).read_text()
    images["parts"]["validation"][NAMES[0]]["field_of_view"] = "a"
    (protocol / "images.json").write_text(json.dumps(images))
    sum_up(protocol, CONFIG, Scoring({"validation": []}, ("none",), "dapi"), "validation")
    assert "are not known to share" not in write_report(protocol).read_text()


def test_a_result_of_an_older_version_has_a_page_that_says_so(protocol):
    assert "older nucstyle" not in write_report(protocol).read_text()
    result = result_of(protocol)
    for name in ("shown", "trained_with", "without_field"):
        del result[name]
    (protocol / "result.json").write_text(json.dumps({**result, "reference": "none"}))
    page = write_report(protocol).read_text()
    assert "Summed up by an older nucstyle; compare --resume does it anew." in page
    assert "The best augmentation" not in page


def test_the_table_of_all_measures_says_that_it_holds_means_and_keeps_counts_whole(protocol):
    page = write_report(protocol).read_text()
    assert "<th>style, mean, none</th>" in page
    assert re.search(r"nuclei \(n = \d+\)", page)
    assert not re.search(r"\(n = \d+\.", page)


def test_cells_that_say_less_of_each_modality_are_shown_beside_those_of_today(protocol):
    for arm in SHIFTS:
        path = protocol / arm / "seed-1" / "result.json"
        result = json.loads(path.read_text())
        scores = result["scores"]["validation"]["none"]
        for group in (scores["minority"], *scores["modalities"].values()):
            for name in group.keys() - {"dsb_score", "n_images"}:
                del group[name]
        path.write_text(json.dumps(result))
    before = result_of(protocol)["arms"]["none"]["seeds"]["0"]["none"]
    sum_up(protocol, CONFIG, Scoring({"validation": []}, ("none",), "dapi"), "validation")
    assert "<th>style, mean, none</th>" in write_report(protocol).read_text()
    assert result_of(protocol)["arms"]["none"]["seeds"]["0"]["none"] == before


@pytest.mark.parametrize("network", ["lite", "resnet101"])
def test_table_1_has_the_published_figures_and_ours_where_recipe_and_network_are_theirs(protocol, network):
    config = protocol / "config.toml"
    assert config.read_text().count('network = "lite"') == 1
    config.write_text(config.read_text().replace('network = "lite"', f'network = "{network}"'))
    page = write_report(protocol).read_text()
    scores = result_of(protocol)["arms"]["none"]["seeds"]
    mean = sum(scores[seed]["none"]["dsb_score"] for seed in "01") / 2
    rows = {row[0]: row[1:] for row in (re.findall("<td>([^<]*)</td>", line) for line in page.splitlines()) if row}
    assert rows["BIOMAGic"][:2] == ["0.570", "not run"]
    assert rows["Deep Retina w/ style augmentation"][:2] == ["0.609", "not run"]
    assert rows["Inom Mirzaev w/o style augmentation"][0] == "0.599"
    here = rows["Inom Mirzaev w/o style augmentation"][1]
    assert here.startswith(f"{mean:.3f} ± ") if network == "resnet101" else here == "not run"
    assert rows[f"mirzaev ({network}), none"][:1] == ["-"]
    assert rows[f"mirzaev ({network}), none"][1].startswith(f"{mean:.3f} ± ")
    assert rows[f"mirzaev ({network}), style"][0] == "-"
    assert "0.614" in page
    assert "under-trained" in page


def test_table_1_of_other_data_says_when_its_columns_are_of_the_same_images(protocol):
    (protocol / "other").mkdir()
    result = {**result_of(protocol), "on": "other", "split": {"train": 5, "other": 10}}
    (protocol / "other" / "result.json").write_text(json.dumps(result))
    (protocol / "other" / "config.toml").write_text((protocol / "config.toml").read_text())
    page = write_report(protocol).read_text()
    own, other = page.split("On other data: 10 images")
    assert "Ours is of other images" in own
    assert "here, validation, all" in own
    assert "Ours is of the 10 annotated images of other data" in other
    assert "here, other, all" in other
    assert "<td>0.570</td>" in other


def test_the_page_says_whether_the_budget_was_enough(protocol):
    assert "rose by 0.0500 (mean over seeds): not converged" in write_report(protocol).read_text()
    for seed in (0, 1):
        path = protocol / "none" / f"seed-{seed}" / "measures.jsonl"
        path.write_text(path.read_text().replace("0.3}", "0.205}"))
    assert re.search(r"rose by 0.00\d\d \(mean over seeds\): under 0.01", write_report(protocol).read_text())
    for seed in (0, 1):
        path = protocol / "none" / f"seed-{seed}" / "measures.jsonl"
        path.write_text('{"step": 10, "quality": 0.006}\n{"step": 30, "quality": 0.007}\n')
    page = write_report(protocol).read_text()
    assert "The best quality of none is 0.007, so it has hardly begun to learn" in page
    assert "long enough" not in page
    for seed in (0, 1):
        (protocol / "none" / f"seed-{seed}" / "measures.jsonl").write_text('{"step": 30, "quality": 0.3}\n')
    assert "it was not measured in the first two thirds of its steps" in write_report(protocol).read_text()


def test_figures_come_with_their_data_and_the_same_bytes(protocol):
    write_report(protocol)
    folder = protocol / "figures"
    names = {"scores", "differences-to-none", "differences-to-recolour", "loss", "validation-quality", "gate-style"}
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")
    }
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (folder / "differences-to-none.csv").open(newline="") as file:
        rows = {(row["arm"], row["group"]): row for row in csv.DictReader(file)}
    told = result_of(protocol)["differences"]["style"]["none"]["none"]["all"]
    assert float(rows["style", "all"]["mean"]) == told["mean"]
    assert float(rows["style", "all"]["low"]) == told["low"]
    assert rows["style", "he"]["low"] == ""
    assert (folder / "gate-style.csv").read_text() == "source,target,accepted,gone,given up\na,a,12,4,0\n"  # two seeds
    write_report(protocol)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_gates_are_summed_over_seeds(protocol):
    page = write_report(protocol).read_text()
    assert "let through: style" in page
    assert "0.75 of 16" in page


def test_the_gallery_shows_what_was_drawn(protocol):
    (protocol / "samples").mkdir()
    write_png(protocol / "samples" / "gain-00.png", torch.rand(3, 8, 8))
    told = {"file": "gain-00.png", "kind": "gain", "id": "3-image", "difference": 0.25, "seed": 1}
    (protocol / "gallery.json").write_text(json.dumps({"arm": "style", "tta": "none", "pictures": [told]}))
    page = write_report(protocol).read_text()
    assert "+0.250, seed 1 (3-image)" in page
    assert "Largest gain" in page
    assert "Largest loss" not in page
    table = (protocol / "figures" / "gallery.csv").read_text()
    assert table == "file,kind,id,difference,seed\ngain-00.png,gain,3-image,0.25,1\n"


def test_failures_of_restyling_are_shown_with_the_reason_in_words(protocol):
    (protocol / "samples").mkdir()
    write_png(protocol / "samples" / "failure-00.png", torch.rand(3, 8, 24))
    about = {"file": "failure-00.png", "source": "dapi", "target": "he", "id": "3-image"}
    told = {**about, "reason": "nuclei fade or change sign", "is_used": False, "values": {"separation": 0.4}}
    write_png(protocol / "samples" / "style-grid.png", torch.rand(3, 8, 24))
    styles = [{"modality": "he", "id": "7-image"}]
    (protocol / "failures.json").write_text(json.dumps({"format": 1, "styles": styles, "pictures": [told]}))
    page = write_report(protocol).read_text()
    rows = [(protocol / "figures" / f"{name}.csv").read_text() for name in ("style-grid", "failures")]
    assert rows[0] == "modality,id\nhe,7-image\n"
    assert rows[1].splitlines()[0] == "file,source,target,id,reason,is_used,separation"
    assert rows[1].splitlines()[1] == "failure-00.png,dapi,he,3-image,nuclei fade or change sign,False,0.4"
    assert "Where restyling fails" in page
    assert "dapi to he: nuclei fade or change sign; separation 0.40 (3-image)" in page


def test_the_page_of_the_run_has_every_protocol_and_fetches_nothing(protocol):
    page = write_report(protocol.parent).read_text()
    assert "Protocol full" in page
    assert "Protocol transfer" not in page
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)


def test_a_comparison_without_a_finished_cell_has_a_page(tmp_path):
    (tmp_path / "config.toml").write_text('verb = "compare"\n')
    assert "No cell is finished yet" in write_report(tmp_path).read_text()


def test_every_arm_has_the_same_colour_in_every_figure(protocol):
    write_report(protocol)
    used = {}
    for name in ("scores", "differences-to-none", "differences-to-recolour"):
        svg = (protocol / "figures" / f"{name}.svg").read_text()
        used[name] = {colour for colour in ("#0072b2", "#e69f00", "#009e73") if colour in svg}
    assert used["scores"] == {"#0072b2", "#e69f00", "#009e73"}
    assert used["differences-to-none"] == {"#e69f00", "#009e73"}  # recolour and style
    assert used["differences-to-recolour"] == {"#009e73"}


def colour_of(text):
    return torch.tensor([int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def test_a_change_is_drawn_in_blue_yellow_and_red_beside_the_truth():
    both, gained, lost = (slice(4, 10), slice(4, 10)), (slice(14, 20), slice(4, 10)), (slice(4, 10), slice(20, 26))
    before, after, truth = (torch.zeros(32, 32, dtype=torch.int32) for _ in range(3))
    before[lost], before[both] = 3, 7  # numbers need not be those of reading order
    after[gained], after[both] = 1, 2
    truth[gained] = 5
    image = torch.full((3, 32, 32), 0.4)
    image[:, 0] = 1  # the brightest stays as it is
    drawn = draw_change(image, truth, before, after)
    left, right = drawn[:, :, :64], drawn[:, :, -64:]

    def at(picture, place):
        return picture[:, 2 * place[0].start, 2 * place[1].start]

    assert torch.allclose(at(right, both), colour_of(COMMON_COLOUR))
    assert torch.allclose(at(right, gained), colour_of(GAINED_COLOUR))
    assert torch.allclose(at(right, lost), colour_of(LOST_COLOUR))
    assert torch.allclose(at(left, gained), colour_of(TRUE_COLOUR))
    assert not torch.allclose(at(left, lost), colour_of(TRUE_COLOUR))


def test_a_change_between_empty_predictions_can_be_drawn():
    empty = torch.zeros(16, 16, dtype=torch.int32)
    assert draw_change(torch.rand(3, 16, 16), empty, empty, empty).shape == (3, 32, 70)
