"""`fetch`: a published data set in a folder that every verb opens, or a refusal; never half of it."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import ssl
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from nucstyle.cli import app
from nucstyle.core.errors import ConfigMismatchError, DatasetError, OptionError, RunFolderError
from nucstyle.core.protocols import Silent
from nucstyle.data.dataset import open_dataset
from nucstyle.data.fetch import Patience, record_of
from nucstyle.data.image_io import read_labels
from nucstyle.data.splits import dsb2018_split
from nucstyle.report.page import write_report
from nucstyle.workflows import fetch as workflow
from nucstyle.workflows.fetch import PARTS, fetch

HASTY = Patience(timeout_s=5, attempts=2, wait_s=0)
KNOWN, UNKNOWN = next(name for name, part in dsb2018_split().items() if part == "validation"), "f" * 64


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def packed(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def train_zip(field):
    """Two annotated images in the layout of the publisher, one of the shipped division and one that it does not know."""
    return packed(train_files(field))


def train_files(field, below=""):
    files = {}
    for number, name in enumerate((KNOWN, UNKNOWN)):
        image, labels = field(number)
        files[f"{below}{name}/images/{name}.png"] = png(image)
        for label in range(1, labels.max() + 1):
            files[f"{below}{name}/masks/{label:02}.png"] = png(np.where(labels == label, 255, 0).astype(np.uint8))
    return files


@pytest.fixture
def get(site, tmp_path):
    """`get("out", part="test")` fetches from the site to a folder of the test and returns it."""

    def run(name="out", **options):
        return fetch("dsb2018", tmp_path / name, address=site.address, patience=HASTY, **options)

    return run


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.name != ".lock")


def flipped(content, place=1000):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


FETCHED = [
    "config.toml",
    "environment.json",
    "fetch.json",
    "manifest.csv",
    "result.json",
    "stage1_train",
    "stage1_train.zip",
]


# Training images


def test_the_training_images_are_a_data_set_that_opens_by_its_folder(get, site, train_zip, field):
    site.files["stage1_train.zip"] = train_zip
    out = get()
    assert entries(out) == FETCHED
    dataset = open_dataset(out)
    assert [(record.id, record.split) for record in dataset.records] == sorted([(KNOWN, "validation"), (UNKNOWN, None)])
    samples = {sample.id: sample for sample in dataset}
    for number, name in enumerate((KNOWN, UNKNOWN)):
        image, labels = field(number)
        assert np.array_equal(samples[name].labels.numpy(), labels)
        assert np.array_equal((samples[name].image.numpy() * 255).round(), image.transpose(2, 0, 1))
    assert [record.id for record in open_dataset(out / "stage1_train").records] == [r.id for r in dataset.records]
    assert [asked for asked, _ in site.asked] == ["stage1_train.zip"]


def test_what_came_first_is_recorded_and_the_same_everywhere(get, site, train_zip):
    site.files["stage1_train.zip"] = train_zip
    first, second = get("first"), get("second")
    expected = {"stage1_train.zip": {"bytes": len(train_zip), "sha256": sha256(train_zip)}}
    assert json.loads((first / "fetch.json").read_text()) == {"format": 1, "files": expected}
    result = json.loads((first / "result.json").read_text())
    assert (result["verb"], result["dataset"], result["part"], result["images"]) == ("fetch", "dsb2018", "train", 2)
    assert result["files"] == expected
    for name in ("result.json", "fetch.json", "manifest.csv", "config.toml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_an_archive_may_hold_its_images_in_a_folder_and_what_a_mac_adds(get, site, field):
    files = train_files(field, "stage1_train/") | {"__MACOSX/._stage1_train": b"", "stage1_train/.DS_Store": b""}
    site.files["stage1_train.zip"] = packed(files)
    assert len(open_dataset(get())) == 2


# Test images


def solution(rows, header="ImageId,EncodedPixels,Height,Width,Usage"):
    return "\n".join([header, *rows, ""]).encode()


@pytest.fixture
def test_zip(field):
    return packed({f"{name}/images/{name}.png": png(field(n)[0]) for n, name in enumerate(("a", "b", "c", "d"))})


@pytest.mark.parametrize(
    ("part", "archive", "table"),
    [("test", "stage1_test", "stage1_solution"), ("stage2", "stage2_test_final", "stage2_solution_final")],
)
def test_test_images_are_those_that_counted_with_the_table_of_their_masks(get, site, test_zip, part, archive, table):
    rows = ["b,1 3 9 2,96,112,Private", "b,20 1,96,112,Private", "a,,96,112,Public", "c,1 1,96,112,Ignored"]
    site.files |= {f"{archive}.zip": test_zip, f"{table}.csv": solution(rows)}
    out = get(part=part)
    found = [(record.id, record.split, record.labels) for record in open_dataset(out).records]
    assert found == [(name, "test", out / f"{table}.csv") for name in ("a", "b")]
    assert entries(out / archive) == ["a", "b", "c", "d"]
    assert json.loads((out / "fetch.json").read_text())["files"].keys() == {f"{archive}.zip", f"{table}.csv"}


def test_a_table_without_usage_counts_all_its_images(get, site, test_zip):
    table = b"\xef\xbb\xbf" + solution(["a,1 1", "d,1 1"], "ImageId,EncodedPixels").replace(b"\n", b"\r\n")
    site.files |= {"stage1_test.zip": test_zip, "stage1_solution.csv": table}
    assert [record.id for record in open_dataset(get(part="test")).records] == ["a", "d"]


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"<!DOCTYPE html><html>",
        b"ImageId,EncodedPixels\n",
        b"Name,EncodedPixels\na,1 1\n",
        b"ImageId,Pixels\na,1 1\n",
        b"ImageId,EncodedPixels,Usage\na,1 1,Ignored\n",
        b"ImageId,EncodedPixels\n,1 1\n",
        b"\xff\xfe\x00",
        b"PK\x03\x04",
    ],
)
def test_what_is_no_table_of_masks_is_refused_and_not_recorded(refusal, get, site, test_zip, tmp_path, table):
    site.files |= {"stage1_test.zip": test_zip, "stage1_solution.csv": table}
    message = refusal(DatasetError, get, part="test")
    assert message.startswith(f"{site.address}stage1_solution.csv: not a table of ImageId and EncodedPixels (")
    assert entries(tmp_path / "out") == ["config.toml", "environment.json", "fetch.json"]
    assert json.loads((tmp_path / "out" / "fetch.json").read_text())["files"] == {}


def test_a_table_of_other_images_is_refused(refusal, get, site, test_zip):
    site.files |= {"stage1_test.zip": test_zip, "stage1_solution.csv": solution(["a,1 1,,,", "x,1 1,,,", "w,1 1,,,"])}
    message = refusal(DatasetError, get, part="test")
    assert "2 of its images are not in stage1_test.zip, such as w" in message


# Servers


def test_a_fetch_that_was_cut_off_goes_on_with_resume(refusal, get, site, train_zip, tmp_path):
    site.files["stage1_train.zip"] = train_zip
    half = len(train_zip) // 2
    site.answers = [
        lambda page, content: page.give(content, only=half),
        *[lambda page, content: page.give(content, only=0)] * 2,
    ]
    assert "--resume" in refusal(DatasetError, get)
    out = tmp_path / "out"
    assert entries(out) == [
        "config.toml",
        "environment.json",
        "fetch.json",
        "stage1_train.zip.part",
        "stage1_train.zip.part.json",
    ]
    assert "no images" in refusal(DatasetError, open_dataset, out)
    assert "--resume" in refusal(RunFolderError, get)
    get(resume=True)
    assert site.asked[-1] == ("stage1_train.zip", f"bytes={half}-")
    assert entries(out) == FETCHED
    assert (out / "stage1_train.zip").read_bytes() == train_zip


def test_an_html_page_in_the_place_of_the_archive_is_refused_with_its_first_bytes(refusal, get, site, tmp_path):
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    site.files["stage1_train.zip"] = page
    message = refusal(DatasetError, get)
    assert message.startswith(
        f"{site.address}stage1_train.zip: not a zip archive (it looks like an HTML page; first bytes "
    )
    assert "<!DOCTYPE html>" in message
    assert entries(tmp_path / "out") == ["config.toml", "environment.json", "fetch.json"]


def test_a_page_that_is_not_found_is_refused(refusal, get, site, tmp_path):
    assert "HTTP 404" in refusal(DatasetError, get)
    assert entries(tmp_path / "out") == ["config.toml", "environment.json", "fetch.json"]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_length_that_lies_gives_no_data_set_and_the_next_call_gets_it_again(
    refusal, get, site, train_zip, tmp_path, share
):
    site.files["stage1_train.zip"] = train_zip
    site.answers = [lambda page, content: page.give(content, length=int(len(content) * share))]
    assert "a damaged archive" in refusal(DatasetError, get)
    assert entries(tmp_path / "out") == ["config.toml", "environment.json", "fetch.json"]
    assert len(open_dataset(get(resume=True))) == 2


def test_an_archive_that_leaves_its_folder_is_refused_whole(refusal, get, site, tmp_path, field):
    site.files["stage1_train.zip"] = packed(train_files(field) | {"../../evil.png": b"evil"})
    assert "leads upwards; nothing was unpacked" in refusal(DatasetError, get)
    assert entries(tmp_path) == ["out"]
    assert entries(tmp_path / "out") == ["config.toml", "environment.json", "fetch.json"]


def test_an_archive_of_something_else_is_refused_and_not_recorded(refusal, get, site, tmp_path):
    site.files["stage1_train.zip"] = packed({"holiday/beach.png": png(np.zeros((4, 4), np.uint8))})
    assert "no folder ID/images in it" in refusal(DatasetError, get)
    assert json.loads((tmp_path / "out" / "fetch.json").read_text())["files"] == {}


def test_certificates_are_verified_as_before_after_an_import_and_a_fetch(get, site, train_zip):
    site.files["stage1_train.zip"] = train_zip
    get()
    assert ssl._create_default_https_context is ssl.create_default_context
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED
    assert workflow.ADDRESS.startswith("https://")


# The same as the first time


def test_one_byte_that_is_another_at_the_publisher_later_is_refused_with_both_hashes(
    refusal, get, site, train_zip, tmp_path
):
    site.files["stage1_train.zip"] = train_zip
    out = get()
    site.files["stage1_train.zip"] = flipped(train_zip)
    message = refusal(DatasetError, get, overwrite=True)
    assert sha256(train_zip) in message
    assert sha256(flipped(train_zip)) in message
    assert entries(out) == ["config.toml", "environment.json", "fetch.json"]  # neither the file nor a part of it
    site.files["stage1_train.zip"] = train_zip
    assert len(open_dataset(get(resume=True))) == 2


def test_one_byte_that_turned_in_the_folder_is_refused_with_both_hashes(refusal, get, site, train_zip, tmp_path):
    site.files["stage1_train.zip"] = train_zip
    path = get() / "stage1_train.zip"
    path.write_bytes(flipped(train_zip))
    message = refusal(DatasetError, get, resume=True)
    assert message.startswith(f"{path}: SHA-256 {sha256(flipped(train_zip))} ")
    assert sha256(train_zip) in message
    path.unlink()  # as the message says, or because the space was needed
    get(resume=True)
    assert len(site.asked) == 1


def test_a_damaged_archive_that_is_not_unpacked_yet_is_refused(refusal, get, site, train_zip, tmp_path):
    site.files["stage1_train.zip"] = train_zip
    out = get()
    shutil.rmtree(out / "stage1_train")
    (out / "stage1_train.zip").write_bytes(flipped(train_zip))
    assert sha256(train_zip) in refusal(DatasetError, get, resume=True)
    assert not (out / "stage1_train").exists()


def test_a_finished_fetch_asks_nobody_and_changes_nothing(get, site, train_zip):
    site.files["stage1_train.zip"] = train_zip
    out = get()
    (out / "manifest.csv").write_text("id,image\nmine,stage1_train.zip\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    get(resume=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert len(site.asked) == 1


def test_a_folder_that_was_deleted_is_unpacked_again(get, site, train_zip):
    site.files["stage1_train.zip"] = train_zip
    out = get()
    shutil.rmtree(out / "stage1_train")
    assert len(open_dataset(get(resume=True))) == 2
    assert len(site.asked) == 1


@pytest.mark.parametrize("stage", ["download stage1_train.zip", "unpack stage1_train.zip"])
def test_a_fetch_that_was_stopped_at_any_stage_goes_on(get, site, train_zip, tmp_path, stage):
    class Stop(Silent):
        def start(self, name, total, unit):
            if name == stage:
                raise KeyboardInterrupt

    site.files["stage1_train.zip"] = train_zip
    with pytest.raises(KeyboardInterrupt):
        get(progress=Stop())
    assert not (tmp_path / "out" / "stage1_train").exists()
    assert len(open_dataset(get(resume=True))) == 2
    assert entries(tmp_path / "out") == FETCHED


def test_a_fetch_that_was_killed_after_unpacking_records_what_is_there(get, site, train_zip, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    site.files["stage1_train.zip"] = train_zip
    monkeypatch.setattr(workflow, "record_of", die)
    with pytest.raises(KeyboardInterrupt):
        get()
    monkeypatch.setattr(workflow, "record_of", record_of)
    out = get(resume=True)
    assert json.loads((out / "result.json").read_text())["files"]["stage1_train.zip"]["sha256"] == sha256(train_zip)
    assert len(site.asked) == 1


CHILD = """
import sys
from pathlib import Path
from nucstyle.workflows.fetch import fetch
fetch("dsb2018", Path(sys.argv[1]), address=sys.argv[2], resume=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fetch_that_is_killed_again_and_again_ends_whole(get, site, train_zip, tmp_path):
    def drip(page, content):
        page.give(content, only=0)
        start = int((page.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        for place in range(start, len(content), 500):
            page.wfile.write(content[place : place + 500])
            time.sleep(0.05)

    site.files["stage1_train.zip"] = train_zip
    site.answers = [drip] * 4
    part, moments = tmp_path / "out" / "stage1_train.zip.part", random.Random(0)
    for life in range(4):
        before = part.stat().st_size if life else 0
        with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "out"), site.address]) as child:
            while not part.is_file() or part.stat().st_size <= before:
                assert child.poll() is None
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
            child.kill()
        assert not (tmp_path / "out" / "stage1_train.zip").exists()
    assert len(open_dataset(get(resume=True))) == 2
    assert [asked is None for _, asked in site.asked] == [True, False, False, False, False]
    assert entries(tmp_path / "out") == FETCHED


def test_the_report_of_a_fetch_says_where_it_came_from(get, site, train_zip):
    site.files["stage1_train.zip"] = train_zip
    assert "dsb2018" in write_report(get()).read_text()


def test_damaged_records_are_refused_before_anything_is_deleted(refusal, get, site, train_zip):
    site.files["stage1_train.zip"] = train_zip
    out = get()
    (out / "fetch.json").write_text("{")
    assert "damaged; delete it" in refusal(DatasetError, get, overwrite=True)
    assert entries(out) == FETCHED


# Without a network


def test_files_that_are_there_already_are_taken(get, site, train_zip, tmp_path):
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "stage1_train.zip").write_bytes(train_zip)
    out = get(from_dir=tmp_path / "stick")
    assert entries(out) == [name for name in FETCHED if name != "stage1_train.zip"]
    assert len(open_dataset(out)) == 2
    assert json.loads((out / "fetch.json").read_text())["files"]["stage1_train.zip"]["sha256"] == sha256(train_zip)
    assert site.asked == []


def test_a_table_that_is_there_already_is_copied(get, site, test_zip, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "stage1_test.zip").write_bytes(test_zip)
    (stick / "stage1_solution.csv").write_bytes(solution(["a,1 1,96,112,Public"]))
    out = get(part="test", from_dir=stick)
    shutil.rmtree(stick)
    assert [record.labels for record in open_dataset(out).records] == [out / "stage1_solution.csv"]
    assert site.asked == []


def test_a_file_from_elsewhere_is_compared_with_the_first_too(refusal, get, site, train_zip, tmp_path):
    site.files["stage1_train.zip"] = train_zip
    get()
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "stage1_train.zip").write_bytes(flipped(train_zip))
    for options in ({"resume": True}, {"overwrite": True}):
        message = refusal(DatasetError, get, from_dir=tmp_path / "stick", **options)
        assert message.startswith(f"{tmp_path / 'stick' / 'stage1_train.zip'}: SHA-256 ")
        assert sha256(train_zip) in message
    assert (tmp_path / "stick" / "stage1_train.zip").exists()  # it is not ours to delete


@pytest.mark.parametrize(
    "content", [b"<html>", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04 and no more"]
)
def test_a_file_from_elsewhere_that_is_no_archive_is_refused_and_left_there(refusal, get, tmp_path, content):
    path = tmp_path / "stick" / "stage1_train.zip"
    path.parent.mkdir()
    path.write_bytes(content)
    assert refusal(DatasetError, get, from_dir=path.parent).startswith(f"{path}: ")
    assert path.read_bytes() == content
    assert not (tmp_path / "out" / "stage1_train").exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_is_missing_elsewhere_is_named_before_anything_is_written(refusal, get, tmp_path, part):
    (tmp_path / "stick").mkdir()
    message = refusal(DatasetError, get, part=part, from_dir=tmp_path / "stick")
    assert message.startswith(f"{tmp_path / 'stick'}: no {PARTS[part].archive} in it; ")
    assert entries(tmp_path) == ["stick"]


# Options


def test_another_data_set_or_part_is_refused_with_those_there_are(refusal, tmp_path):
    assert refusal(OptionError, fetch, "cats", tmp_path / "out").endswith("known: dsb2018")
    assert refusal(OptionError, fetch, "dsb2018", tmp_path / "out", part="all").endswith("known: train, test, stage2")
    assert entries(tmp_path) == []


def test_a_folder_holds_one_part(refusal, get, site, train_zip):
    site.files["stage1_train.zip"] = train_zip
    get()
    assert "part was 'train' and is now 'test'" in refusal(ConfigMismatchError, get, part="test", resume=True)


def test_a_folder_of_somebody_elses_is_left_alone(refusal, get, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    refusal(RunFolderError, get, overwrite=True)
    assert entries(tmp_path / "out") == ["thesis.txt"]


def test_the_verb_says_where_the_data_set_is(tmp_path, monkeypatch, train_zip):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "stage1_train.zip").write_bytes(train_zip)
    result = CliRunner().invoke(app, ["fetch", "dsb2018", "cells", "--from-dir", "stick"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "data set: cells/manifest.csv\n"
    assert "unpack stage1_train.zip" in result.stderr
    again = CliRunner().invoke(app, ["fetch", "dsb2018", "cells", "--from-dir", "stick"])
    assert again.exit_code == 2
    assert again.stderr.startswith("nucstyle: cells: holds a run of fetch; ")


def test_the_masks_are_as_published_in_the_layout_of_the_publisher(get, site, train_zip, field):
    site.files["stage1_train.zip"] = train_zip
    masks = sorted((get() / "stage1_train" / KNOWN / "masks").iterdir())
    assert len(masks) == field(0)[1].max()
    assert int(read_labels(masks[0]).max()) == 255
