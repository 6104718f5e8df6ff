"""The layout of Cellpose, and the pickles that its window saves."""

import collections
import functools
import io
import os
import pathlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.core.labels import components
from nucstyle.data.dataset import load, open_dataset
from nucstyle.data.formats import cellpose
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.label_rules import MaskError
from nucstyle.data.layouts import recognise
from nucstyle.data.manifest import Record
from nucstyle.data.pickled import read_pickled

LABELS = np.array([[0, 1, 1], [2, 0, 1]], np.uint16)


def window_file(masks=LABELS):
    """What Cellpose's window keeps, by the keys of its `io` module."""
    return {
        "outlines": masks.copy(),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(2, bool),
        "filename": "/somewhere/a.tif",
        "flows": [np.zeros((2, 3, 3), np.uint8), np.ones((2, 2, 3), np.float32), [None, {"x": 1}]],
        "est_diam": np.float64(17.5),
        "diameter": np.nan,
        "colors": np.arange(6).reshape(2, 3)[:, ::-1],
        "names": np.array(["a", None], object),
    }


def save_window_file(path, content, protocol=None):
    if protocol is None:
        np.save(path, content, allow_pickle=True)
        return
    holder = np.empty((), object)
    holder[()] = content
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(holder))
        pickle.dump(holder, file, protocol=protocol)


# Folders


def test_images_and_masks_are_told_apart_by_their_names(save, tmp_path):
    outputs = ("_cp_output.png", "_flows.tif", "_flows_0.tif", "_cellprob.tif")
    for name in ("a.tif", "b.png", "c.jpg", "d.png", "e_mask.png", "notes_seg.png", *(f"a{end}" for end in outputs)):
        save(name)
    save("a_masks.tif", LABELS)
    save("a_masks.png", LABELS)
    save("b_cp_masks.png", LABELS)
    save_window_file(tmp_path / "b_seg.npy", window_file())
    save_window_file(tmp_path / "c_seg.npy", window_file())
    assert recognise(tmp_path)[0] == "cellpose"
    assert recognise(tmp_path)[1].endswith(" is named as Cellpose names labels")
    found = {record.id: record.labels and record.labels.name for record in open_dataset(tmp_path).records}
    assert found == {
        "a": "a_masks.tif",
        "b": "b_cp_masks.png",
        "c": "c_seg.npy",
        "d": None,
        "e_mask": None,
        "notes_seg": None,
    }
    assert load(open_dataset(tmp_path).records[2]).labels.tolist() == LABELS.tolist()


def test_folders_say_the_part_and_one_name_in_two_of_them_is_two_images(save, tmp_path):
    for place in ("train", "test", "val", "unannotated", "."):
        save(f"{place}/{'b' if place in ('val', '.') else 'a'}.tif")
    for place in ("train", "test"):
        save(f"{place}/a_masks.tif", LABELS)
    records = open_dataset(tmp_path).records
    assert [(record.id, record.split, record.labels is not None) for record in records] == [
        ("b", None, False),
        ("test/a", "test", True),
        ("train/a", "train", True),
        ("unannotated/a", None, False),
        ("val/b", "validation", False),
    ]


def test_masks_without_their_image_are_refused(save, tmp_path, refusal):
    save("train/a.tif")
    lonely = save("train/b_masks.tif", LABELS)
    message = refusal(DatasetError, open_dataset, tmp_path)
    assert message == f"{lonely}: no image of its name beside it (1 such label files); put it there"


@pytest.mark.parametrize(("name", "kind"), [("a_masks", "labels"), ("a_flows", "its own output")])
def test_names_that_cellpose_keeps_for_itself_are_refused(tmp_path, refusal, name, kind):
    record = Record(id=name, image=tmp_path / f"{name}.tif")
    assert f"Cellpose takes names that end in {name[1:]} for {kind}" in refusal(
        DatasetError, cellpose.check_name, record
    )


# What its window saves


def seg_record(tmp_path):
    return Record(id="a", image=tmp_path / "a.tif", labels=tmp_path / "a_seg.npy")


@pytest.mark.parametrize("protocol", [None, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, ">u2", np.uint32, np.int64])
def test_the_masks_of_its_window_are_read_whatever_their_type(tmp_path, kind, protocol):
    masks = LABELS.astype(kind)
    save_window_file(tmp_path / "a_seg.npy", window_file(masks), protocol)
    labels = read_nuclei(seg_record(tmp_path), (2, 3))
    assert labels.dtype == torch.int32
    assert labels.tolist() == masks.astype(int).tolist()


def test_a_mask_is_no_labels_in_what_its_window_saves_either(tmp_path, refusal):
    for masks, reason in (
        (LABELS > 0, "says of each pixel only whether it is of a nucleus"),
        (np.array([[7, 0, 7], [0, 0, 0], [7, 0, 0]]), "has no numbers but 0 and 7, in 3 pieces"),
    ):
        save_window_file(tmp_path / "a_seg.npy", window_file(masks))
        record = seg_record(tmp_path)
        assert reason in refusal(MaskError, read_nuclei, record, masks.shape)
        pieces = read_nuclei(replace(record, components=True), masks.shape)
        assert torch.equal(pieces, components(torch.from_numpy(masks)))


def test_masks_that_are_kept_column_by_column_are_not_turned(tmp_path):
    save_window_file(tmp_path / "a_seg.npy", window_file(np.asfortranarray(LABELS)))
    assert read_nuclei(seg_record(tmp_path), (2, 3)).tolist() == LABELS.tolist()


def test_files_of_older_numpy_name_its_modules_otherwise(tmp_path):
    path = tmp_path / "a_seg.npy"
    save_window_file(path, window_file(), protocol=3)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_nuclei(seg_record(tmp_path), (2, 3)).tolist() == LABELS.tolist()


class Hostile:
    """Runs something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["value", "masks", "top"])
def test_a_file_that_runs_a_command_is_refused_and_the_command_does_not_run(tmp_path, refusal, place):
    path, marker = tmp_path / "a_seg.npy", tmp_path / "marker"
    hostile = Hostile(os.system, f"touch {marker}")
    np.load(io.BytesIO(pickled(hostile)), allow_pickle=True)
    assert marker.exists()  # NumPy's own reader runs it
    marker.unlink()
    content = {"value": {**window_file(), "x": hostile}, "masks": {"masks": hostile}, "top": hostile}[place]
    path.write_bytes(pickled(content))
    message = refusal(ImageError, read_nuclei, seg_record(tmp_path), (2, 3))
    assert message.startswith(f"{path}: holds {os.system.__module__}.system, which is no array and could be code; ")
    assert not marker.exists()


def pickled(content):
    file = io.BytesIO()
    holder = np.empty((), object)
    holder[()] = content
    np.save(file, holder, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (eval, "builtins.eval"),
        (getattr, "builtins.getattr"),
        (pathlib.PurePosixPath("a"), "pathlib.PurePosixPath"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (functools.partial(print), "functools.partial"),
        (np.load, "numpy.load"),
        (np.ma.masked_array([1]), "numpy.ma"),
        (np.random.default_rng(0), "numpy.random"),
        (1j, "builtins.complex"),
    ],
)
def test_every_other_global_is_refused_by_its_name(tmp_path, refusal, content, name):
    (tmp_path / "a_seg.npy").write_bytes(pickled({"masks": LABELS, "x": content}))
    assert f"holds {name}" in refusal(ImageError, read_nuclei, seg_record(tmp_path), (2, 3))


def test_what_one_file_says_changes_nothing_for_the_next(tmp_path, refusal):
    """A pickle may set attributes of what it names; of what these stand for it cannot."""
    (tmp_path / "a_seg.npy").write_bytes(
        pickled(0)[:128] + b"\x80\x02cnumpy._core.multiarray\n_reconstruct\nN}X\x01\x00\x00\x00xK\x01s\x86b."
    )
    assert "cannot be read ('_NewArray' object has no attribute 'x')" in refusal(
        ImageError, read_nuclei, seg_record(tmp_path), (2, 3)
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"flows": []}, "here are none"),
        ({"masks": [[1, 2]]}, "here are none"),
        ({"masks": LABELS.astype(float)}, "here are none"),
        ({"masks": np.array([["a"]], object)}, "here are none"),
        ({"masks": LABELS[None]}, "here are of shape (1, 2, 3)"),
        ({"masks": LABELS.astype(np.int16) - 1}, "labels run from -1 to 1"),
        ({"masks": LABELS.astype(np.int64) << 31}, "labels run from 0 to 4294967296"),
        ([1], "here are none"),
        ({"masks": LABELS[:, :2]}, "labels are 2 x 2 pixels"),
    ],
)
def test_masks_that_are_no_label_image_are_refused(tmp_path, refusal, content, reason):
    (tmp_path / "a_seg.npy").write_bytes(pickled(content))
    assert reason in refusal(ImageError, read_nuclei, seg_record(tmp_path), (2, 3))


def test_plain_arrays_and_other_files_are_not_what_its_window_saves(tmp_path, refusal):
    path = tmp_path / "a_seg.npy"
    np.save(path, LABELS)
    assert "holds an array (2, 3) of uint16, not one object" in refusal(ImageError, read_pickled, path)
    path.write_bytes(b"no array")
    assert f"{path}: cannot be read (" in refusal(ImageError, read_pickled, path)
    assert "gone.npy: cannot be read (" in refusal(ImageError, read_pickled, tmp_path / "gone.npy")


def test_a_damaged_file_gives_masks_or_a_refusal_and_nothing_else(tmp_path):
    content, path = pickled(window_file()), tmp_path / "a_seg.npy"
    rng = np.random.default_rng(0)
    lines = []
    for number in range(400):
        damaged = bytearray(content)
        if number < 300:
            damaged[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
        else:
            del damaged[int(rng.integers(len(content))) :]
        path.write_bytes(damaged)
        try:
            read_nuclei(seg_record(tmp_path), (2, 3))
        except ImageError as error:
            lines.append(str(error))
    assert 150 < len(lines) < 400
    assert not any("\n" in line for line in lines)
