"""What `predict` says where an image may hold more nuclei than the segmenter may find."""

import json
from dataclasses import replace

import numpy as np
from PIL import Image

from nucstyle.data.run_folder import read_json
from nucstyle.workflows import predict as workflow


def test_images_in_which_more_may_be_are_told_and_listed(run_verb, write_pairs, monkeypatch, tmp_path):
    images = write_pairs("data", fluorescence=1, stained=0) / "images"
    Image.fromarray(np.zeros((96, 112, 3), np.uint8)).save(images / "nothing.png")
    load = workflow.load_segmenter

    def limited(*arguments, **options):
        segmenter = load(*arguments, **options)
        segmenter.config = replace(segmenter.config, max_nuclei=3)
        return segmenter

    monkeypatch.setattr(workflow, "load_segmenter", limited)
    (images / "stack.czi").write_bytes(b"")
    result = run_verb("predict", images, "--out", "run", "--tta", "none")
    assert result.exit_code == 0, result.output
    left, line = (line for line in result.output.splitlines() if "warning" in line)
    assert "stack.czi: left out" in left
    assert "field-0: a limit of the segmenter was met in a tile (3 nuclei, 2000 places to look at)" in line
    assert "with a smaller --tile" in line
    assert read_json(tmp_path / "run" / "result.json")["capped"] == ["field-0"]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] in ("bf16", "fp32")
    rows = (tmp_path / "run" / "objects.csv").read_text().splitlines()[1:]
    assert f"nuclei: {len(rows)}, a line each in run/objects.csv" in result.output
    found = read_json(tmp_path / "run" / "result.json")["images"]["field-0"]
    assert (found["n_nuclei"], found["n_dropped"]) == (len(rows), 3 - len(rows))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "There may be more nuclei than the segmenter may find in a tile: field-0." in page
