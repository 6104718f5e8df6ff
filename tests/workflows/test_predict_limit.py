"""What `predict` says: of images that may hold more nuclei than the segmenter may find, of what it left out, and at its end."""

from dataclasses import replace

import numpy as np
from PIL import Image

from nucstyle.core.precision import resolve_precision
from nucstyle.data.run_folder import read_config, read_json
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
    result = run_verb("predict", images, "--out", "run", "--tta", "none")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.output.splitlines() if "warning" in line)
    assert "field-0: a limit of the segmenter was met in a tile (3 nuclei, 2000 places to look at)" in line
    assert "with a smaller --tile" in line
    assert read_json(tmp_path / "run" / "result.json")["capped"] == ["field-0"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "There may be more nuclei than the segmenter may find in a tile: field-0." in page


def test_what_was_found_and_left_out_is_said_and_what_it_was_computed_with_is_kept(
    run_verb, write_pairs, monkeypatch, tmp_path
):
    images = write_pairs("data", fluorescence=2, stained=0) / "images"
    (images / "stack.czi").write_bytes(b"")
    found_in = workflow.segment
    monkeypatch.setattr(workflow, "segment", lambda *given, **more: found_in(*given, **more)._replace(dropped=5))
    result = run_verb("predict", images, "--out", "run", "--tta", "none")
    assert result.exit_code == 0, result.output
    assert f"{images / 'stack.czi'}: left out" in result.output
    rows = (tmp_path / "run" / "objects.csv").read_text().splitlines()[1:]
    assert len(rows) > 2
    assert f"nuclei: {len(rows)}, a line each in run/objects.csv" in result.output
    found = read_json(tmp_path / "run" / "result.json")["images"]
    assert sum(one["n_nuclei"] for one in found.values()) == len(rows)
    assert [one["n_dropped"] for one in found.values()] == [5, 5]
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{len(rows)} nuclei in 2 images. Contours" in page
    assert "10 more were found and are left out" in page
    assert read_json(tmp_path / "run" / "environment.json")["precision"] == resolve_precision("auto", "cpu")
    assert read_config(tmp_path / "run")["inference"]["mask_offset_px"] == 0.5


def test_one_image_is_counted_as_one_on_the_page(run_verb, write_pairs, tmp_path):
    images = write_pairs("data", fluorescence=1, stained=0) / "images"
    assert run_verb("predict", images, "--out", "run", "--tta", "none").exit_code == 0
    assert " in 1 image. Contours" in (tmp_path / "run" / "report.html").read_text()
