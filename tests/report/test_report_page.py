"""The page of a run: what it says stands in the files, and nothing is fetched from anywhere."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from nucstyle.core.errors import RunFolderError
from nucstyle.data.image_io import write_png
from nucstyle.metrics.dsb import dsb_score
from nucstyle.metrics.summary import summarise
from nucstyle.report.figures import candidates, curves, modalities
from nucstyle.report.page import write_report
from nucstyle.report.pictures import colour_labels, draw_overlay
from nucstyle.report.tables import measure_table, score_table
from nucstyle.report.tables import number as shown


def square(top):
    labels = np.zeros((20, 20), np.int32)
    labels[top : top + 8, 4:12] = 1
    return labels


@pytest.fixture
def evaluation(tmp_path):
    """A run of `evaluate` over three images, one of them with a name that is HTML."""
    found = {"good": square(4), "<b>half</b>": square(6), "bad": square(12)}
    scores = {name: dsb_score(square(4), labels) for name, labels in found.items()}
    modalities = {"good": "grey-on-black", "<b>half</b>": "grey-on-black", "bad": "purple-on-white"}
    result = {"format": 1, "verb": "evaluate", **summarise(scores, modalities, "grey-on-black")}
    (tmp_path / "config.toml").write_text('verb = "evaluate"\n')
    (tmp_path / "result.json").write_text(json.dumps(result))
    for name, labels in found.items():
        picture = draw_overlay(torch.rand(3, 20, 20), torch.from_numpy(square(4)), torch.from_numpy(labels))
        path = tmp_path / "samples" / f"{name.replace('/', '_')}_overlay.png"
        path.parent.mkdir(exist_ok=True)
        write_png(path, picture)
    return tmp_path


def test_the_numbers_on_the_page_are_those_of_the_result(evaluation):
    result = json.loads((evaluation / "result.json").read_text())
    page = write_report(evaluation).read_text()
    cells = re.findall(r"<td>([^<]*)</td>", page)
    assert f"{result['dsb_score']:.3f}" in cells
    assert f"{result['modalities']['purple-on-white']['dsb_score']:.3f}" in cells
    assert "<th>grey-on-black (2)</th>" in page


def test_a_name_that_is_html_stays_a_name(evaluation):
    page = write_report(evaluation).read_text()
    assert "<b>half" not in page
    assert "&lt;b&gt;half" in page


def test_nothing_on_the_page_is_fetched(evaluation):
    page = write_report(evaluation).read_text()
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert "<script" not in page
    assert "@import" not in page


def test_the_same_run_gives_the_same_page(evaluation):
    first = write_report(evaluation).read_bytes()
    assert write_report(evaluation).read_bytes() == first


def test_the_worst_image_is_the_one_with_the_lowest_score(evaluation):
    page = write_report(evaluation).read_text()
    assert "worst: 0.000 (bad)" in page
    assert "best: 1.000 (good)" in page


def test_a_run_that_is_not_finished_is_refused(evaluation):
    (evaluation / "result.json").unlink()
    with pytest.raises(RunFolderError, match=r"result\.json: missing.*--resume"):
        write_report(evaluation)
    assert not (evaluation / "report.html").exists()


def test_a_missing_picture_is_left_out(evaluation):
    (evaluation / "samples" / "bad_overlay.png").unlink()
    assert "worst: 0.000" not in write_report(evaluation).read_text()


def test_every_measure_has_a_row_and_every_arm_a_column(evaluation):
    result = json.loads((evaluation / "result.json").read_text())
    both = {"arms": {"none": {"seeds": {"0": {"fast": result}}}, "style": {"seeds": {"0": {"fast": result}}}}}
    assert [len(row) for row in measure_table(both)] == [3] * len(measure_table(both))
    assert [row[0] for row in score_table(both)[1:]] == ["none, 0, fast", "style, 0, fast"]


def test_every_measure_of_one_set_of_predictions_has_a_column_for_every_modality(evaluation):
    result = json.loads((evaluation / "result.json").read_text())
    table = measure_table(result)
    groups = [result["minority"], *result["modalities"].values()]
    assert table[0] == ["measure", "all", "minority", *result["modalities"]]
    assert len(table[0]) > 3
    rows = {row[0]: row[1:] for row in table[1:]}
    assert rows["panoptic quality"] == [shown(one["pq"]) for one in (result, *groups)]
    for group in groups:
        del group["f1"]
    assert measure_table(result)[0] == ["measure", "all"]  # as results were


def test_an_overlay_shows_truth_and_prediction_apart_on_black_and_on_white():
    for ground in (torch.zeros(3, 20, 20), torch.ones(3, 20, 20)):
        alone = draw_overlay(ground, None, torch.from_numpy(square(4)))
        both = draw_overlay(ground, torch.from_numpy(square(4)), torch.from_numpy(square(4)))
        colours = {tuple(pixel.tolist()) for pixel in both.flatten(1).T}
        assert both.shape == (3, 40, 40)
        assert not torch.equal(alone, both)
        assert len(colours) >= 3


def test_touching_nuclei_have_different_colours_in_a_preview():
    labels = torch.zeros(10, 30, dtype=torch.int32)
    for number in range(1, 16):
        labels[:, 2 * number - 2 : 2 * number] = number
    shown = colour_labels(labels)
    for number in range(1, 15):
        assert not torch.equal(shown[:, 0, 2 * number - 1], shown[:, 0, 2 * number])
    assert (colour_labels(torch.zeros(4, 4, dtype=torch.int32)) == 0).all()


def test_curves_have_the_same_bytes_for_the_same_data():
    series = {"loss": {"a": [(1, 2.0), (2, 1.0)]}, "kl": {"a": [(1, 0.5), (2, 0.2)]}}
    assert curves(series) == curves(series)
    assert curves(series).startswith("<svg")


def test_figures_for_papers_are_png_and_svg_of_the_same_bytes_for_the_same_data(tmp_path):
    write_png(tmp_path / "0.png", torch.rand(3, 20, 30))
    points = [(number / 3, number / 7, f"m{number % 2}") for number in range(9)]
    tried = [{"k": k, "silhouette": 0.5, "standard_error": 0.1, "stability": 0.9} for k in (2, 3)]
    for draw, values in (
        (modalities, (points, {"m0": [tmp_path / "0.png"], "m1": []})),
        (candidates, (tried, 2)),
    ):
        written = [draw(*values, tmp_path / folder) for folder in ("one", "other")]
        assert [path.suffix for path in written[0]] == [".png", ".svg"]
        assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]
