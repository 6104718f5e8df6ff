"""Tables of run lengths, as DSB 2018 gives its test masks."""

import csv
import os

import numpy as np
import pytest
import torch
from PIL import Image

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data.dataset import open_dataset
from nucstyle.data.formats import rle
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.layouts import recognise
from nucstyle.data.manifest import Record, write_manifest
from nucstyle.data.overlaps import LostError

TABLE = "ImageId,EncodedPixels\n"


@pytest.fixture
def save(tmp_path):
    """`save("a/b.png")` writes an image of 4 rows and 5 columns below the temporary folder."""

    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)

    return write


@pytest.fixture
def table(tmp_path):
    """`table("a,1 2")` writes a table of these lines to the temporary folder."""

    def write(*lines, name="labels.csv", heading=TABLE):
        path = tmp_path / name
        path.write_bytes((heading + "".join(line + "\n" for line in lines)).encode())
        return path

    return write


def nuclei(tmp_path, **named):
    return {record.id: read_nuclei(record, (4, 5)) for record in open_dataset(tmp_path, **named).records}


@pytest.mark.parametrize("place", ["{}.png", "images/{}.png", "{0}/images/{0}.png", "{0}/images/other.tif"])
def test_images_lie_beside_the_table_or_in_images_or_as_in_dsb_2018(save, table, tmp_path, place):
    save(*(place.format(name) for name in "abcd"))
    file = table("a,1 2", "c,", "a,15 2 18 3", "b,4 1")
    assert recognise(tmp_path) == ("rle", "labels.csv has a column EncodedPixels")
    if "other" in place or place.startswith("{0}"):
        assert [record.id for record in open_dataset(tmp_path).records] == list("abcd")
    found = nuclei(tmp_path)
    assert found["a"].tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 2], [0, 0, 0, 2, 2], [0, 0, 0, 2, 2]]
    assert found["b"].sum() == 1
    assert found["c"].tolist() == torch.zeros(4, 5).tolist()
    assert found["d"] is None
    assert nuclei(file).keys() == found.keys()
    assert torch.equal(nuclei(file)["a"], found["a"])


def test_a_table_may_name_images_with_their_suffix(save, table, tmp_path):
    save("images/a.png", "images/b.png")
    table("a.png,1 1", "b,2 1")
    assert [int(labels.ravel().argmax()) for labels in nuclei(tmp_path).values()] == [0, 5]


def test_what_is_ignored_is_left_out_and_images_that_have_nothing_else(save, table, tmp_path):
    save(*(f"images/{name}.png" for name in "abc"))
    table(
        "a,1 1,4,5,Public",
        "a,3 1,4,5,Ignored",
        "b,1 1,4,5,Ignored",
        "gone,1 1,9,9, ignored",
        "c,,4,5,Private",
        heading="ImageId,EncodedPixels,Height,Width,Usage\n",
    )
    assert recognise(tmp_path)[1].endswith("; 3 lines are left out, since their Usage is Ignored")
    found = nuclei(tmp_path)
    assert found.keys() == {"a", "c"}
    assert found["a"].sum() == 1
    assert found["c"].sum() == 0


def test_where_two_nuclei_claim_a_pixel_the_first_line_keeps_it(save, table, tmp_path):
    save("a.png")
    table("a,1 4", "a,3 4")
    assert nuclei(tmp_path)["a"][:, :2].T.tolist() == [[1, 1, 1, 1], [2, 2, 0, 0]]


def test_masks_count_more_than_a_table_beside_them(save, table, tmp_path):
    save("a/images/a.png", "a/masks/1.png")
    table("a,1 4")
    assert recognise(tmp_path)[0] == "dsb2018"
    assert nuclei(tmp_path)["a"].sum() == 0
    assert nuclei(tmp_path, format="rle")["a"].sum() == 4


def test_label_images_count_more_than_a_table_beside_them(save, table, tmp_path):
    save("images/a.png", "labels/a.png")
    table("a,1 4")
    assert recognise(tmp_path)[0] == "pairs"


def test_a_table_of_something_else_is_no_evidence(save, table, tmp_path):
    save("images/a.png")
    table("a,malignant", name="notes.csv", heading="ImageId,Diagnosis\n")
    assert recognise(tmp_path)[0] == "pairs"


def test_a_manifest_of_run_lengths_is_read_by_its_name_and_counts_more_than_the_table(save, table, tmp_path):
    save("images/a.png", "images/b.png")
    table("a,1 4", "b,1 4")
    records = open_dataset(tmp_path).records
    write_manifest(tmp_path / "manifest.csv", records[:1])
    assert nuclei(tmp_path).keys() == nuclei(tmp_path / "manifest.csv").keys() == {"a"}
    assert nuclei(tmp_path)["a"].sum() == 4


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffImageId,EncodedPixels\na,2 3\n",
        "ImageId,EncodedPixels\r\na,2 3\r\n",
        "EncodedPixels, ImageId\n2 3,a\n\n",
        '"ImageId","EncodedPixels"\n"a"," 2 3 "',
    ],
)
def test_a_byte_order_mark_windows_line_ends_quotes_and_another_order_of_columns_change_nothing(save, tmp_path, text):
    save("a.png")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert nuclei(tmp_path)["a"].sum() == 3


@pytest.mark.parametrize(
    ("heading", "lines", "reason"),
    [
        ("ImageId;EncodedPixels\n", ["a;1 2"], "line 1: no column 'ImageId'"),
        ("ImageId;EncodedPixels\n", ["a;1 2"], "save it with commas between the columns"),
        (
            "Image,EncodedPixels\n",
            ["a,1 2"],
            "line 1: no column 'ImageId'; the first line must be ImageId,EncodedPixels",
        ),
        (TABLE, ["a,1 2", "a"], "line 3: has 1 fields, the first line has 2"),
        (TABLE, ["a,1 2", '""'], "line 3: has 1 fields"),
        (TABLE, ["a,1 2,3"], "line 2: has 3 fields"),
        (TABLE, ["a,1 2", ",1 2"], "line 3: ImageId is empty"),
        (
            TABLE,
            ["a,1 2", "", "a,"],
            "line 4: an empty EncodedPixels says that a shows no nucleus, but it has 1 lines before",
        ),
        (TABLE, ["a,", "a,1 2"], "line 3: an empty EncodedPixels"),
        (TABLE, ["a,1 2", "b,1 2", "c,"], "line 3: no image of the name 'b'"),
        (TABLE, ["a,1 2", "b,1 2", "c,"], "(2 such names)"),
        ("ImageId,EncodedPixels,Height,Width\n", ["a,1 2,4,"], "line 2: Height '4' and Width ''; give both"),
        ("ImageId,EncodedPixels,Height,Width\n", ["a,1 2,4,5.0"], "line 2: Height '4' and Width '5.0'"),
        (TABLE, ["a,1 2", 'a,"1 2', "a,1 2"], "line 4: not a table of comma-separated values (unexpected end of data)"),
    ],
)
def test_tables_that_cannot_be_read_are_refused_with_the_line(save, table, tmp_path, refusal, heading, lines, reason):
    save("a.png")
    file = table(*lines, heading=heading)
    message = refusal(DatasetError, open_dataset, tmp_path)
    assert message.startswith(f"{file}: ")
    assert reason in message


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_field_that_would_fill_the_memory_is_refused_with_the_line(save, table, tmp_path, refusal, quote):
    save("a.png")
    limit = csv.field_size_limit()
    field = ("1 1\n" if quote else "1 1 ") * (1 << 22)
    file = table("a,1 2", f"a,{quote}{field}9{quote}")
    message = refusal(DatasetError, open_dataset, tmp_path)
    assert message.startswith(f"{file}: line ")
    assert "longer than 16,777,216 characters" in message or "field larger than" in message
    if not quote:
        assert ": line 3: " in message
    assert csv.field_size_limit() == limit


def test_a_nucleus_of_many_runs_is_no_such_field(save, tmp_path):
    labels = torch.zeros(2, 120_000, dtype=torch.int32)
    labels[0] = 1
    text = rle.rows_of("a", labels)
    assert len(text) > csv.field_size_limit()
    Image.fromarray(np.zeros((2, 120_000), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(TABLE + text)
    (record,) = open_dataset(tmp_path).records
    assert torch.equal(read_nuclei(record, (2, 120_000)), labels)


@pytest.mark.parametrize(
    "text", ["0 3", "1 2 3", "9 2 5 1", "2 3 4 1", "18 4", "1 -2", "1 0", "one two", "1 99999999999999999999"]
)
def test_hostile_run_lengths_are_refused_with_their_line_and_do_not_stop_other_images(
    save, table, tmp_path, refusal, text
):
    save("a.png", "b.png")
    file = table("a,1 1", f"a,{text}", "b,1 1")
    a, b = open_dataset(tmp_path).records
    assert refusal(ImageError, read_nuclei, a, (4, 5)).startswith(f"{file}: line 3: run lengths: ")
    assert read_nuclei(b, (4, 5)).sum() == 1


def test_the_same_nucleus_twice_is_refused_with_both_lines_and_does_not_stop_other_images(
    save, table, tmp_path, refusal
):
    save("a.png", "b.png")
    file = table("a,1 2", "a,9 2 13 2", "b,9 2", "a,5 2", "a,9  2 13 2 ")
    a, b = open_dataset(tmp_path).records
    message = f"{file}: line 6: run lengths: the same nucleus stands in line 3; leave one of the lines out"
    assert refusal(ImageError, read_nuclei, a, (4, 5)) == message
    assert read_nuclei(b, (4, 5)).sum() == 2


def test_nuclei_of_which_most_are_covered_by_lines_before_are_refused(save, table, tmp_path, refusal):
    save("a.png", "b.png")
    file = table("a,1 20", "b,1 20", "a,1 2", "b,5 2", "a,9 2")
    a, b = open_dataset(tmp_path).records
    message = refusal(LostError, read_nuclei, a, (4, 5))
    assert message.startswith(f"{file}: 2 of 3 nuclei get no pixel, for example line 4 is covered by what comes before")
    assert read_nuclei(b, (4, 5)).unique().tolist() == [1]  # one of two may be a slip


def test_another_size_than_that_of_the_image_is_refused(save, table, tmp_path, refusal):
    save("a.png")
    file = table("a,1 1,5,4", heading="ImageId,EncodedPixels,Height,Width\n")
    message = refusal(ImageError, nuclei, tmp_path)
    assert message.startswith(f"{file}: line 2: Height and Width are (5, 4), the image {tmp_path / 'a.png'} is (4, 5)")


def test_two_tables_are_refused_unless_one_is_named(save, table, tmp_path, refusal):
    save("a.png")
    table("a,1 1")
    table("a,1 5", name="sample_submission.csv")
    message = refusal(DatasetError, open_dataset, tmp_path)
    held = "holds 2 tables with a column EncodedPixels (labels.csv, sample_submission.csv)"
    assert message == f"{tmp_path}: {held}; keep one, or name it as DATA"
    assert nuclei(tmp_path / "sample_submission.csv")["a"].sum() == 5


def test_text_that_is_not_utf_8_and_files_that_are_gone_are_refused(save, tmp_path, refusal):
    save("a.png")
    file = tmp_path / "labels.csv"
    file.write_bytes(TABLE.encode() + b"a,1 \xff\n")
    assert "cannot be read as UTF-8" in refusal(DatasetError, open_dataset, tmp_path)
    gone = Record(id="a", image=tmp_path / "a.png", labels=tmp_path / "gone.csv")
    assert "gone.csv: cannot be read: No such file" in refusal(DatasetError, read_nuclei, gone, (4, 5))


def test_an_image_that_a_table_does_not_name_is_refused_where_a_manifest_says_it_does(save, table, tmp_path, refusal):
    save("a.png")
    file = table("b,1 1")
    record = Record(id="a", image=tmp_path / "a.png", labels=file)
    assert f"{file}: no line for {tmp_path / 'a.png'}" in refusal(ImageError, read_nuclei, record, (4, 5))


def test_a_table_is_read_once_and_again_when_it_has_changed(save, table, tmp_path, monkeypatch):
    save(*(f"images/{name}.png" for name in "abc"))
    file = table("a,1 1", "b,1 2", "c,1 3")
    opened, rows = [], rle._rows
    monkeypatch.setattr(rle, "_rows", lambda path, text: opened.append(path) or rows(path, text))
    assert [int(labels.sum()) for labels in nuclei(tmp_path).values()] == [1, 2, 3]
    assert opened == [file]
    table("a,1 4", "b,1 5", "c,1 6")
    os.utime(file, ns=(1, 1))
    assert [int(labels.sum()) for labels in nuclei(tmp_path).values()] == [4, 5, 6]
    assert opened == [file, file]


def test_what_is_written_is_a_table_with_sizes(tmp_path):
    pixels = np.zeros((4, 5), np.uint8)
    labels = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 5], [0, 0, 0, 5, 5], [3, 0, 0, 5, 5]], dtype=torch.int32)
    records = []
    for name, own in (("b", labels), ("a", torch.zeros(4, 5, dtype=torch.int32)), ("c", None)):
        written = rle.write(tmp_path, name, pixels, own, None)
        records.append(Record(id=name, image=written.image, labels=written.labels))
    rle.finish(tmp_path, records, set())
    assert (tmp_path / "labels.csv").read_text() == (
        "ImageId,EncodedPixels,Height,Width\nb,1 2 5 1,4,5\nb,4 1,4,5\nb,15 2 18 3,4,5\na,,4,5\n"
    )
    assert records[2].labels is None


def test_a_name_that_is_no_text_is_refused_for_a_table(tmp_path, refusal):
    record = Record(id="a\udcff", image=tmp_path / "a\udcff.png")
    assert "is no text and cannot stand in a table" in refusal(DatasetError, rle.check_name, record)
