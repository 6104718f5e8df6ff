"""Damaged files of every kind: each ends in the right result or in one of our own errors, soon, and names the file.

A reader is added to `KINDS` in one line; whatever stands there is damaged `FAST` times in the fast tests and `WHOLE` times in the
slow ones. Where a format has a checksum, damage must not go unnoticed.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from roifile import ImagejRoi

from nucstyle.core.config import to_toml
from nucstyle.core.errors import NucstyleError
from nucstyle.data.archives import unpack
from nucstyle.data.dataset import open_dataset
from nucstyle.data.formats.dsb2018 import read_mask_folder
from nucstyle.data.image_io import read_image, read_labels, read_mask, write_labels
from nucstyle.data.layouts import writing_of
from nucstyle.data.ledger import LEDGER_COLUMNS, Ledger
from nucstyle.data.manifest import Record, read_manifest, write_manifest
from nucstyle.data.run_folder import read_config, read_json, read_log
from nucstyle.data.weights import load_weights, save_weights, tensors_sha256
from nucstyle.modality.features import measure
from nucstyle.modality.model import ModalityModel
from nucstyle.workflows.discover import read_modality_model

FAST, WHOLE = 40, 1000
SOON_S = 20
"""No case may take longer, on a machine that has other work too."""


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    name: str
    """Of the file, with its suffix."""
    write: Callable[[Path], None]
    """Writes a good one."""
    read: Callable[[Path], Any]
    """Gives what was read, as something that can be compared."""
    is_summed: bool = False
    """Whether checksums in the format tell any change of what is read."""


# Files


def grey() -> np.ndarray:
    ys, xs = np.mgrid[:40, :50]
    return (np.hypot(ys - 20, xs - 22) * 9 % 256 + np.random.default_rng(0).integers(0, 20, ys.shape)).astype(np.uint8)


def colour() -> np.ndarray:
    return np.stack([grey(), grey().T[:40, :40].repeat(2, 1)[:, :50], 255 - grey()], -1)


def deep_colour() -> np.ndarray:
    return colour().astype(np.uint16) * 200


def labels() -> torch.Tensor:
    numbers = torch.zeros(40, 50, dtype=torch.int32)
    for number in range(1, 9):
        numbers[number * 4 : number * 4 + 3, number * 5 : number * 5 + 6] = number
    return numbers


def saved(array: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path, **options)


def written(array: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, array, **options)


def palette(path: Path) -> None:
    Image.fromarray(grey()).convert("P").save(path)


def manifest(path: Path) -> None:
    records = [
        Record(
            id=f"field {k}",
            image=path.parent / f"a/{k}.png",
            labels=path.parent / f"b/{k}.png",
            modality="grey-on-black",
        )
        for k in range(5)
    ]
    write_manifest(path, [*records, replace(records[0], id="é", split="train", field_of_view="7", components=True)])


def ledger(path: Path) -> None:
    for name in ("a.png", "b.tif"):
        (path.parent / name).write_bytes(b"")
    row = {"id": "a", "image": "a.png", "labels": "b.tif", "copy": "0", "status": "original", "source_id": "a"}
    lines = [",".join(LEDGER_COLUMNS), *(",".join(row.get(name, "") for name in LEDGER_COLUMNS) for _ in range(3))]
    path.write_text("\n".join(lines) + "\n")


def modality(path: Path) -> None:
    images = [torch.from_numpy(array).permute(2, 0, 1) / 255 for array in (colour(), 255 - colour(), colour() // 2)]
    model = ModalityModel.fit([measure(image) for image in images], k=2, seed=0, features="chroma", clahe=None)
    path.write_text(json.dumps(model.state()))


def weights(path: Path) -> None:
    tensors = {"a": torch.arange(60.0).view(3, 20), "b": torch.ones(7, dtype=torch.float16)}
    save_weights(path, tensors, kind="style", metadata={"trained_on": ["a", "b"], "recipe": {"steps": 7}})


def log(path: Path) -> None:
    path.write_text("".join(json.dumps({"step": step, "loss": step / 7}) + "\n" for step in range(9)))


def one_of_three_masks(path: Path) -> None:
    for number, name in enumerate(("a.png", path.name, "c.png"), start=1):
        Image.fromarray(np.where(labels().numpy() == number, 255, 0).astype(np.uint8)).save(path.parent / name)


def described(layout: str) -> Callable[[Path], None]:
    """A data set in a layout whose one file, at the root, describes all nuclei."""

    def write(path: Path) -> None:
        writing = writing_of(layout)
        records = []
        for name in ("a", "b"):
            made = writing.write(path.parent, name, grey(), labels(), None)
            records.append(Record(id=name, image=made.image, labels=made.labels))
        assert writing.finish is not None
        writing.finish(path.parent, records, set())
        assert path.is_file()

    return write


def outlined(layout: str) -> Callable[[Path], None]:
    """An image with the file of its nuclei beside it."""

    def write(path: Path) -> None:
        Image.fromarray(grey()).save(path.parent / "field.png")
        nuclei_writer = writing_of(layout).write_nuclei
        assert nuclei_writer is not None
        file, _ = nuclei_writer(path.parent / "elsewhere", "field", labels())
        file.replace(path)
        shutil.rmtree(path.parent / "elsewhere")

    return write


def roi(path: Path) -> None:
    Image.fromarray(grey()).save(path.parent / "field.png")
    path.write_bytes(ImagejRoi.frompoints(np.array([[5, 5], [20, 5], [20, 18], [5, 18]])).tobytes())


def segmented(path: Path) -> None:
    Image.fromarray(grey()).save(path.parent / "field.png")
    np.save(path, {"masks": labels().numpy().astype(np.uint16), "filename": "field.png", "ismanual": np.zeros(8, bool)})


MEMBERS = {"images/a.png": grey().tobytes(), "masks/a/1.png": bytes(range(256)) * 3, "notes.txt": b"nothing"}


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in MEMBERS.items():
            file.writestr(name, content)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w:gz") as file:
        for name, content in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


# What is read, as something that can be compared


def nuclei(path: Path) -> Any:
    samples = list(open_dataset(path.parent, cache=False))
    return [(one.id, None if one.labels is None else one.labels.tolist()) for one in samples]


def unpacked(path: Path) -> list[bytes]:
    """The contents alone: in a zip file, names have no checksum."""
    with mock.patch("nucstyle.data.archives.os.sync"):  # thousands of times
        unpack(path, path.parent / "unpacked")
    contents = sorted(file.read_bytes() for file in (path.parent / "unpacked").rglob("*") if file.is_file())
    shutil.rmtree(path.parent / "unpacked")
    return contents


def pixels(path: Path) -> Any:
    image, source = read_image(path)
    return image.shape, image.numpy().tobytes(), source.dtype, source.channels


def numbers(path: Path) -> Any:
    return read_labels(path).tolist()


def mask(path: Path) -> Any:
    return read_mask(path).tolist()


def tensors(path: Path) -> Any:
    found = load_weights(path, kind="style")
    return tensors_sha256(found.tensors), found.metadata


KINDS = (
    Kind("grey.png", saved(grey()), pixels, True),
    Kind("colour.png", saved(colour()), pixels, True),
    Kind("deep.png", saved(grey().astype(np.uint16) * 200), pixels, True),
    Kind("palette.png", palette, pixels, True),
    Kind("numbers.png", saved(labels().numpy().astype(np.uint8)), numbers, True),
    Kind("mask.png", saved(np.where(labels().numpy() == 3, 255, 0).astype(np.uint8)), mask, True),
    Kind("b.png", one_of_three_masks, lambda path: read_mask_folder(path.parent).tolist(), True),
    Kind("small.jpg", saved(colour()), pixels),
    Kind("small.bmp", saved(colour()), pixels),
    Kind("plain.tif", written(colour()), pixels),
    Kind("deflated.tif", written(grey().astype(np.uint16) * 99, compression="deflate"), pixels),
    Kind("lzw.tif", written(colour(), compression="lzw", photometric="rgb"), pixels),
    Kind("tiles.tif", written(grey(), tile=(16, 16), compression="zstd"), pixels),
    Kind("float.tif", written(grey().astype(np.float32)), pixels),
    Kind("numbers.tif", lambda path: write_labels(path, labels()), numbers),
    Kind("bits.png", lambda path: Image.fromarray(grey() > 99).save(path), pixels, True),
    Kind("deep-colour.png", lambda path: path.write_bytes(imagecodecs.png_encode(deep_colour())), pixels, True),
    Kind("inks.jpg", lambda path: Image.fromarray(colour()).convert("CMYK").save(path), pixels),
    Kind("jpeg.tif", written(colour(), compression="jpeg", photometric="rgb"), pixels),
    Kind("predicted.tif", written(grey().astype(np.uint16) * 9, compression="deflate", predictor=True), pixels),
    Kind("large.tif", written(grey(), bigtiff=True), pixels),
    Kind("array.npy", lambda path: np.save(path, grey()), pixels),
    Kind("numbers.npy", lambda path: np.save(path, labels().numpy()), numbers),
    Kind("labels.csv", described("rle"), nuclei),
    Kind("instances.json", described("coco"), nuclei),
    Kind("field.geojson", outlined("geojson"), nuclei),
    Kind("field_rois.zip", outlined("imagej"), nuclei),
    Kind("field.roi", roi, nuclei),
    Kind("field_seg.npy", segmented, nuclei),
    Kind("all.zip", zipped, unpacked, True),
    Kind("all.tar.gz", tarred, unpacked, True),
    Kind("manifest.csv", manifest, read_manifest),
    Kind("augment_manifest.csv", ledger, lambda path: Ledger(path.parent).rows),
    Kind("modality.json", modality, lambda path: read_modality_model(path).state()),
    Kind("result.json", lambda path: path.write_text(json.dumps({"format": 1, "a": [1, {"b": None}]})), read_json),
    Kind("log.jsonl", log, read_log),
    Kind(
        "config.toml",
        lambda path: path.write_text(to_toml({"verb": "x", "a": {"b": [1, 2.5]}})),
        lambda path: read_config(path.parent),
    ),
    Kind("a.safetensors", weights, tensors, True),
)


# Damage: what disks, networks and editors bring about, by (what is before a piece, the piece, what is after it, noise)


DAMAGES: tuple[Callable[[bytes, bytes, bytes, bytes], bytes], ...] = (
    lambda before, piece, after, noise: before + bytes([piece[0] ^ (1 << noise[0] % 8)]) + piece[1:] + after,
    lambda before, piece, after, noise: before + noise + after,
    lambda before, piece, after, noise: before + bytes(len(piece)) + after,
    lambda before, piece, after, noise: before + b"\xff" * len(piece) + after,
    lambda before, piece, after, noise: before,
    lambda before, piece, after, noise: before + after,
    lambda before, piece, after, noise: before + piece + piece + after,
    lambda before, piece, after, noise: before + noise + piece + after,
    lambda before, piece, after, noise: before + piece + after + noise,
    lambda before, piece, after, noise: (before + piece + after).replace(b"\n", b"\r\n"),
)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one or two things wrong."""
    for _ in range(int(rng.integers(1, 3))):
        if data:
            start = int(rng.integers(0, len(data)))
            end = start + int(rng.integers(1, 40))
            damage = DAMAGES[int(rng.integers(0, len(DAMAGES)))]
            data = damage(data[:start], data[start:end], data[end:], rng.bytes(len(data[start:end])))
    return data


def outcome(kind: Kind, path: Path) -> tuple[Any, NucstyleError | None]:
    """What was read, or how it was refused; no other exception may come."""
    try:
        return kind.read(path), None
    except NucstyleError as error:
        return None, error


def check(kind: Kind, path: Path, right: Any) -> None:
    """Read a file that may be anything.

    Raises:
        AssertionError: It was read as something else although it has checksums, or refused in no useful way, or too late.
    """
    start = time.monotonic()
    found, refused = outcome(kind, path)
    assert time.monotonic() - start < SOON_S
    if refused is None:
        assert not kind.is_summed or found == right
    else:
        assert str(path.parent) in str(refused)
        assert "\n" not in str(refused)


def fuzz(kind: Kind, folder: Path, cases: range) -> None:
    path = folder / kind.name
    kind.write(path)
    right, data = kind.read(path), path.read_bytes()
    for case in cases:
        path.write_bytes(damaged(data, np.random.default_rng([case, *kind.name.encode()])))
        try:
            check(kind, path, right)
        except Exception as error:
            kept = folder / f"case-{case}-{kind.name}"
            kept.write_bytes(path.read_bytes())
            raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error


def test_the_whole_has_at_least_two_thousand_cases():
    assert len(KINDS) * WHOLE >= 2000


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_is_read_right_or_refused(kind, tmp_path):
    fuzz(kind, tmp_path, range(FAST))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_many_damaged_files_are_read_right_or_refused(kind, tmp_path):
    fuzz(kind, tmp_path, range(FAST, WHOLE))


# Anything at all


ANYTHING = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
READERS = {kind.name: replace(kind, is_summed=False) for kind in KINDS}


@pytest.mark.parametrize("name", READERS)
@ANYTHING
@given(data=st.binary(max_size=300))
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 100_000)
@example(data=b"a = " + b"[" * 100_000)
@example(data=b"\0" * 200_000)
def test_bytes_that_mean_nothing_are_refused_or_read(name, tmp_path, data):
    if not (tmp_path / name).exists():
        READERS[name].write(tmp_path / name)  # with what belongs to it
    (tmp_path / name).write_bytes(data)
    check(READERS[name], tmp_path / name, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


def changed(draw: Callable[[Any], Any], value: Any) -> Any:
    """A JSON value in which one thing, at any depth, is something else, or gone."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        where = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        copy = dict(value) if isinstance(value, dict) else list(value)
        if draw(st.integers(0, 5)):
            copy[where] = changed(draw, value[where])
        else:
            del copy[where]
        return copy
    return draw(JSON)


@settings(ANYTHING, max_examples=150)
@given(data=st.data())
def test_a_model_of_modalities_with_anything_in_it_is_refused_or_read(tmp_path, data):
    path = tmp_path / "modality.json"
    modality(path)
    path.write_text(json.dumps(changed(data.draw, json.loads(path.read_text()))))
    check(READERS["modality.json"], path, None)


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "a.png", "../a.png", '"', "train", "yes"]
)


@settings(ANYTHING, max_examples=150)
@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=9), max_size=5), comma=st.sampled_from(",;\t"))
@example(rows=[["a", "\0"]], comma=",")
def test_a_manifest_with_anything_in_its_cells_is_refused_or_read(tmp_path, rows, comma):
    lines = [["id", "image", "labels", "modality", "split", "field_of_view"], *rows]
    (tmp_path / "manifest.csv").write_text("\n".join(comma.join(line) for line in lines), encoding="utf-8")
    check(READERS["manifest.csv"], tmp_path / "manifest.csv", None)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=9).filter(
    lambda name: name == name.strip() and name not in (".", "..")
)


@settings(ANYTHING, max_examples=100)
@given(
    records=st.lists(
        st.builds(
            Record,
            id=NAMES,
            image=NAMES.map(Path),
            labels=st.none() | NAMES.map(Path),
            modality=st.none() | st.from_regex(r"[a-z0-9-]*[a-z][a-z0-9-]*", fullmatch=True),
            split=st.none() | st.sampled_from(["train", "validation", "test"]),
            field_of_view=st.none() | NAMES,
            components=st.booleans(),
        ),
        max_size=5,
        unique_by=lambda record: record.id,
    )
)
def test_whatever_a_manifest_can_hold_comes_back(tmp_path, records):
    given_ = [replace(one, image=tmp_path / one.image, labels=one.labels and tmp_path / one.labels) for one in records]
    write_manifest(tmp_path / "manifest.csv", given_)
    assert read_manifest(tmp_path / "manifest.csv") == given_


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}, None], object),
        np.zeros(3, [("x", "u1"), ("y", "f4")]),
        np.array(["text"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros((3, 4), complex),
        np.zeros((0, 5)),
        np.array(7),
        np.full((4, 4), np.nan),
        np.zeros((2, 3, 4, 5)),
        np.zeros((4, 4), np.float16),
        np.ones((4, 4), np.int64) << 40,
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_that_are_no_images_are_refused_or_read(tmp_path, array):
    with (tmp_path / "array.npy").open("wb") as file:
        np.save(file, array, allow_pickle=array.dtype.hasobject)
    check(READERS["array.npy"], tmp_path / "array.npy", None)


def test_a_header_that_promises_a_large_array_takes_no_memory(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    (tmp_path / "array.npy").write_bytes(buffer.getvalue())
    check(READERS["array.npy"], tmp_path / "array.npy", None)
