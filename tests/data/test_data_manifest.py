import os
from dataclasses import replace

import pytest

from nucstyle.core.errors import DatasetError
from nucstyle.data.manifest import COLUMNS, Record, check_unique, read_manifest, write_manifest

HEADER = ",".join(COLUMNS)


@pytest.fixture
def manifest(tmp_path):
    """`manifest(*lines)` writes a manifest.csv below the usual header."""

    def write(*lines, header=HEADER, line_end="\n", encoding="utf-8"):
        path = tmp_path / "manifest.csv"
        path.write_bytes(line_end.join((header, *lines, "")).encode(encoding))
        return path

    return write


def test_paths_are_relative_to_the_file_and_what_is_empty_is_not_known(manifest, tmp_path):
    path = manifest("a,images/a.png,labels/a.png,dark-grey,train,7", "b,/elsewhere/b.tif,,,,")
    assert read_manifest(path) == [
        Record(
            id="a",
            image=tmp_path / "images/a.png",
            labels=tmp_path / "labels/a.png",
            modality="dark-grey",
            split="train",
            field_of_view="7",
        ),
        Record(id="b", image=tmp_path.__class__("/elsewhere/b.tif")),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_spreadsheets_byte_order_mark_and_line_ends_do_no_harm(manifest, line_end, encoding):
    records = read_manifest(manifest("核,a.png,,,test,", "", "é,b.png,,,,", line_end=line_end, encoding=encoding))
    assert [(record.id, record.split) for record in records] == [("核", "test"), ("é", None)]


def test_columns_may_come_in_any_order_and_all_but_two_may_be_left_out(manifest, tmp_path):
    records = read_manifest(manifest("a.png,mine,x", header="image,note,id"))
    assert records == [Record(id="x", image=tmp_path / "a.png")]


def test_what_was_written_is_read_back(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    records = [
        Record(
            id="a", image=tmp_path / "images/a.png", labels=tmp_path / "masks/a", modality="x-2", split="validation"
        ),
        Record(id='b, "c"', image=folder / "b, c.png", field_of_view="f 1"),
        Record(id="two\nlines\u2028three", image=folder / "d.png"),
    ]
    write_manifest(folder / "manifest.csv", records)
    found = read_manifest(folder / "manifest.csv")
    resolved = [
        replace(one, image=one.image.resolve(), labels=one.labels.resolve() if one.labels else None) for one in found
    ]
    assert resolved == records
    assert (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()[:2] == [
        HEADER,
        "a,../images/a.png,../masks/a,x-2,validation,",
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (",b.png,,,,", "id and image must not be empty"),
        ("b,,,,,", "id and image must not be empty"),
        ("b", "id and image must not be empty"),
        ("b, ,,,,", "id and image must not be empty"),
        ("a,b.png,,,,", "the id 'a' stands here for the second time; ids are unique"),
        ("b,b.png,,,valid,", "split 'valid'; known: train, validation, test, or empty"),
        ("b,b.png,,,Train,", "split 'Train'; known: train, validation, test, or empty"),
        ("b,b.png,,Purple,,", "modality 'Purple'; use small letters, digits and hyphens"),
        ("b,b.png,,3,,", "modality '3'; use small letters, digits and hyphens"),
        ("b,b.png,,../x,,", "modality '../x'; use small letters, digits and hyphens"),
        (f"b,{'x' * 200_000},,,,", "not a table of comma-separated values (field larger than field limit (131072))"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(manifest, refusal, line, reason):
    path = manifest("a,a.png,,,,", '"two\nlines",c.png,,,,', line, "z,z.png,,,,")
    message = refusal(DatasetError, read_manifest, path)
    assert message.startswith(f"{path}: line 5: ")
    assert message.endswith(reason)


@pytest.mark.parametrize("header", ["", "id;image;labels", "name,image", "ID,IMAGE", "id"])
def test_a_missing_column_is_refused_with_the_header_as_it_should_be(manifest, refusal, header):
    message = refusal(DatasetError, read_manifest, manifest("a,a.png", header=header))
    column = "image" if header == "id" else "id"
    assert f"manifest.csv: line 1: no column '{column}'; the first line must be {HEADER}" in message
    assert message.endswith("; save it with commas between the columns") == (";" in header)


def test_a_manifest_that_is_no_text_or_not_there_is_refused(manifest, refusal, tmp_path):
    path = manifest("a,b.png,,,,", encoding="utf-16")
    assert refusal(DatasetError, read_manifest, path).startswith(f"{path}: cannot be read as UTF-8 text (")
    assert "cannot be read" in refusal(DatasetError, read_manifest, tmp_path / "none.csv")


def test_names_of_files_that_are_no_utf_8_come_back_and_other_text_is_refused(tmp_path, refusal):
    name = os.fsdecode(b"\xe9")
    record = Record(id=name, image=tmp_path / f"{name}.png", split="train")
    write_manifest(tmp_path / "manifest.csv", [record])
    assert "cannot be read as UTF-8 text" in refusal(DatasetError, read_manifest, tmp_path / "manifest.csv")
    record.image.write_bytes(b"")
    assert read_manifest(tmp_path / "manifest.csv") == [record]


def test_one_id_for_two_images_is_refused_with_both_files(refusal, tmp_path):
    records = [Record(id="a", image=tmp_path / "a.png"), Record(id="a", image=tmp_path / "a.tif")]
    message = refusal(DatasetError, check_unique, records, "my folder")
    assert message == (
        f"my folder: {tmp_path / 'a.png'} and {tmp_path / 'a.tif'} have the same id 'a'; rename one of them"
    )
    check_unique(records[:1], "my folder")


def test_that_pieces_are_nuclei_is_written_where_a_line_needs_it_and_read_back(tmp_path):
    records = [
        Record(id="a", image=tmp_path / "a.png", labels=tmp_path / "a_mask.png", components=True),
        Record(id="b", image=tmp_path / "b.png"),
    ]
    write_manifest(tmp_path / "manifest.csv", records)
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == f"{HEADER},components"
    assert read_manifest(tmp_path / "manifest.csv") == records
    write_manifest(tmp_path / "manifest.csv", records[1:])
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == HEADER


def test_another_word_for_components_is_refused(manifest, refusal, tmp_path):
    path = manifest("a,a.png,,,,,maybe", header=f"{HEADER},components")
    assert refusal(DatasetError, read_manifest, path) == (
        f"{path}: line 2: components 'maybe'; known: yes, no, or empty"
    )
