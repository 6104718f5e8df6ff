"""The nuclei of a run as run lengths."""

import csv
import json
import os

import pytest
import torch

from nucstyle.core.errors import InputError, RunFolderError
from nucstyle.core.rle import decode_dsb, label_map
from nucstyle.data.image_io import read_labels, write_labels
from nucstyle.data.predictions import PredictedImage, label_file, write_images
from nucstyle.workflows.submission import submission

LABELS = torch.tensor([[2, 2, 0, 1], [2, 0, 0, 1], [0, 3, 3, 0]], dtype=torch.int32)


@pytest.fixture
def run_folder(tmp_path):
    """`run_folder(b=LABELS)` writes what `predict` leaves of images of these ids."""

    def write(**labels):
        (tmp_path / "run" / "predictions").mkdir(parents=True)
        for name, own in labels.items():
            write_labels(label_file(tmp_path / "run", name), own)
        rows = [
            PredictedImage(name, own.shape[1], own.shape[0], int(own.max()), "dark") for name, own in labels.items()
        ]
        write_images(tmp_path / "run", rows)
        return tmp_path / "run"

    return write


def read(path):
    """The label maps that a submission says, by id."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["ImageId", "EncodedPixels"]
    assert [name for name, _ in rows[1:]] == sorted(name for name, _ in rows[1:])
    return {name: [text for other, text in rows[1:] if other == name] for name, _ in rows[1:]}


def test_a_line_a_nucleus_sorted_by_id_and_one_for_an_image_without_any(run_folder):
    empty = torch.zeros(3, 4, dtype=torch.int32)
    file = submission(run_folder(**{"b": LABELS, "a, 'x' é": LABELS[:, :2], "c": empty}))
    assert file.read_text() == (
        "ImageId,EncodedPixels\n\"a, 'x' é\",1 2 4 1\n\"a, 'x' é\",6 1\nb,10 2\nb,1 2 4 1\nb,6 1 9 1\nc,\n"
    )


def test_images_that_could_not_be_predicted_are_told(run_folder, run_verb):
    run = run_folder(b=LABELS)
    assert "warning" not in run_verb("submission", run).output
    (run / "result.json").write_text(json.dumps({"refused": [f"x{number}" for number in range(7)]}))
    words = "warning: 7 images could not be predicted and are missing: x0, x1, x2, x3, x4, ..."
    assert words in " ".join(run_verb("submission", run).output.split())


def test_ids_are_those_of_the_images_not_of_the_files(run_folder):
    run = run_folder(**{"well/3": LABELS})
    assert (run / "predictions" / "well_3_labels.tif").is_file()
    assert read(submission(run)).keys() == {"well/3"}


def test_the_submission_of_a_prediction_says_its_label_maps_and_no_pixel_twice(run_verb, demo_copy):
    folder = demo_copy / "full" / "none" / "seed-0" / "validation" / "tta-none"
    result = run_verb("submission", folder)
    assert result.exit_code == 0, result.output
    assert f"submission: {folder / 'submission.csv'}" in result.output
    found = read(folder / "submission.csv")
    assert len(found) == 12
    assert any(texts != [""] for texts in found.values())
    for name, texts in found.items():
        labels = read_labels(label_file(folder, name))
        nuclei = [decode_dsb(text, tuple(labels.shape), where=name).pixels() for text in texts]
        assert torch.equal(label_map(dict(enumerate(nuclei, start=1)), tuple(labels.shape)).labels, labels)
        assert sum(pixels.size for pixels in nuclei) == int((labels > 0).sum())


def test_a_folder_that_is_no_run_of_predict_is_refused(run_verb, tmp_path):
    result = run_verb("submission", tmp_path)
    assert result.exit_code == 2
    assert f"nucstyle: {tmp_path}: holds no images.csv; give a run of predict" in result.output


def test_label_maps_that_cannot_be_used_are_listed_and_nothing_is_written(run_folder):
    run = run_folder(a=LABELS, b=LABELS, c=LABELS, d=LABELS)
    label_file(run, "a").unlink()
    write_labels(label_file(run, "b"), LABELS.T.contiguous())
    label_file(run, "d").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        submission(run)
    message = str(caught.value)
    assert message.startswith("3 of 4 label maps could not be used, nothing is written: ")
    for words in ("a_labels.tif: no such image file", "b_labels.tif: 4 x 3 pixels", "d_labels.tif: not a"):
        assert words in message
    assert not (run / "submission.csv").exists()


@pytest.mark.parametrize("line", ["b,4", "b,four,3,1,", "b,4,3,,"])
def test_a_damaged_table_of_images_is_refused_with_its_line(run_folder, line):
    run = run_folder(a=LABELS)
    with (run / "images.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunFolderError, match=r"images\.csv: line 3: not a line as predict writes it"):
        submission(run)


def test_an_id_that_is_no_text_is_refused(run_folder):
    name = os.fsdecode(b"a\xff")
    with pytest.raises(InputError, match="is no text and cannot stand in a table"):
        submission(run_folder(**{name: LABELS}))


def test_an_older_submission_is_replaced(run_folder):
    run = run_folder(a=LABELS)
    (run / "submission.csv").write_text("old")
    assert read(submission(run)).keys() == {"a"}
