import errno
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

import nucstyle
from nucstyle.core.errors import WeightsError
from nucstyle.data import weights
from nucstyle.data.weights import load_state, load_weights, replace_durably, save_weights, tensors_sha256

METADATA = {"name": "lite", "config": {"steps": 1000, "rate": 8e-4, "sizes": [8, 16]}, "ids": ["a", "核"], "none": None}


def make_tensors():
    """Tensors of many types, shapes and orders in memory."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(3, 4, generator=generator)
    return {
        "float": some,
        "turned": some.T,
        "every second": some[:, ::2],
        "last first": some.flip(0),
        "from the middle": some[1:, 1:3],
        "repeated": some[:1].expand(3, 4),
        "half": some.half(),
        "brain": some.bfloat16(),
        "double": some.double(),
        "whole": torch.tensor([-1, 2**40]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "yes": torch.tensor([True, False]),
        "one": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
        "shared": some,
    }


@pytest.fixture
def file(tmp_path):
    """A good weights file."""
    path = tmp_path / "a.safetensors"
    save_weights(path, make_tensors(), kind="style", metadata=METADATA)
    return path


def same(one, other):
    """Whether tensors are equal in name, type, shape and bytes."""
    return one.keys() == other.keys() and tensors_sha256(one) == tensors_sha256(other)


def load(path):
    return load_weights(path, kind="style")


# Whole files


def test_tensors_and_metadata_come_back_bit_for_bit(file):
    loaded = load(file)
    assert loaded.metadata == METADATA
    assert loaded.tensors.keys() == make_tensors().keys()
    for name, tensor in make_tensors().items():
        found = loaded.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found, tensor), name


def test_saving_returns_the_checksum_that_loading_verifies_and_it_depends_on_the_tensors_alone(tmp_path):
    sums = [
        save_weights(tmp_path / name, make_tensors(), kind=kind, metadata={"seed": kind})
        for name, kind in (("a", "style"), ("b", "segmenter"))
    ]
    assert sums == [load_weights(tmp_path / "b", kind="segmenter").sha256] * 2 == [tensors_sha256(make_tensors())] * 2
    save_weights(tmp_path / "c", make_tensors(), kind="style", metadata={"seed": "style"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {**tensors, "float": tensors["float"] + 1e-6},
        lambda tensors: {**tensors, "float": tensors["float"].view(4, 3)},
        lambda tensors: {**tensors, "bytes": tensors["bytes"].view(torch.int8)},
        lambda tensors: {("renamed" if name == "float" else name): tensor for name, tensor in tensors.items()},
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "none"},
    ],
    ids=["number", "shape", "type", "name", "left out"],
)
def test_the_checksum_sees_numbers_shapes_types_and_names(change):
    assert tensors_sha256(change(make_tensors())) != tensors_sha256(make_tensors())


def test_metadata_cannot_pass_for_the_files_own_fields(tmp_path):
    save_weights(tmp_path / "a", make_tensors(), kind="style", metadata={"kind": "trunk", "format": 9, "sha256": "x"})
    assert load(tmp_path / "a").metadata == {}


# Damaged files


def test_one_wrong_byte_is_refused_or_changes_nothing(file):
    data = file.read_bytes()
    rng = np.random.default_rng(3)
    header = 8 + int.from_bytes(data[:8], "little")
    for place in [*rng.integers(0, len(data), 60), *range(0, header, 5)]:
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        loaded = load_or_refuse(file)
        if isinstance(loaded, str):
            assert loaded.startswith(f"{file}: ")
        else:
            assert same(loaded.tensors, make_tensors()), f"other tensors after a change of byte {place}"
            found = {name: loaded.metadata.get(name) for name in METADATA}
            assert found == METADATA, f"other metadata after a change of byte {place}"


def load_or_refuse(path):
    """What was loaded, or the message of the refusal; nothing else may happen."""
    try:
        return load(path)
    except WeightsError as error:
        return str(error)


def test_one_wrong_letter_of_the_metadata_is_refused(file, refusal):
    data = file.read_bytes()
    file.write_bytes(data.replace(b"1000", b"3000"))
    message = refusal(WeightsError, load, file)
    assert message.startswith(f"{file}: damaged, the SHA-256 of its header is not the one it was written with")


def test_one_wrong_bit_of_a_tensor_is_refused(file, refusal):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    message = refusal(WeightsError, load, file)
    assert message.startswith(f"{file}: damaged, the SHA-256 of its tensors is not the one it was written with")


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_file_that_is_cut_off_is_refused(file, refusal, length):
    file.write_bytes(file.read_bytes()[:length])
    assert refusal(WeightsError, load, file).startswith(f"{file}: damaged or not a weights file (")


@pytest.mark.parametrize("tail", [b"\0", b" " * 100, b"more"])
def test_bytes_behind_the_end_are_refused(file, refusal, tail):
    file.write_bytes(file.read_bytes() + tail)
    assert refusal(WeightsError, load, file).startswith(f"{file}: damaged or not a weights file (")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_are_none_are_refused_with_their_tensor(tmp_path, refusal, number, kind):
    path = tmp_path / "a"
    save_weights(
        path, {"good": torch.ones(3), "layer.bias": torch.tensor([1, number], dtype=kind)}, kind="style", metadata={}
    )
    assert refusal(WeightsError, load, path).startswith(f"{path}: tensor 'layer.bias' holds NaN or infinity; ")


def test_weights_of_another_kind_are_refused_with_both_kinds(file, refusal):
    message = refusal(WeightsError, load_weights, file, kind="segmenter")
    assert message == f"{file}: these are style weights, segmenter weights are needed here"


def test_a_newer_format_is_refused(tmp_path, refusal, monkeypatch):
    monkeypatch.setattr(weights, "FORMAT", 2)
    save_weights(tmp_path / "a", make_tensors(), kind="style", metadata=METADATA)
    monkeypatch.undo()
    message = refusal(WeightsError, load, tmp_path / "a")
    assert message == f"{tmp_path / 'a'}: weights format 2, this version reads 1; update nucstyle"


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"other": "{}"},
        {"nucstyle": ""},
        {"nucstyle": "[]"},
        {"nucstyle": "{}"},
        {"nucstyle": "{"},
        {"nucstyle": "[" * 50_000},
    ],
    ids=["none", "another tool", "empty", "a list", "no fields", "no JSON", "nested"],
)
def test_tensors_that_nucstyle_did_not_write_are_refused(tmp_path, refusal, metadata):
    path = tmp_path / "a"
    path.write_bytes(save(make_contiguous(), metadata=metadata))
    assert refusal(WeightsError, load, path).startswith(f"{path}: ")


def make_contiguous():
    return {name: tensor.contiguous().clone() for name, tensor in make_tensors().items()}


def test_a_file_whose_checksum_was_left_out_is_refused(tmp_path, refusal):
    header = json.dumps({"format": 1, "kind": "style"})
    (tmp_path / "a").write_bytes(save(make_contiguous(), metadata={"nucstyle": header}))
    assert "damaged, the SHA-256 of its header" in refusal(WeightsError, load, tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"<!DOCTYPE html><html></html>", "it looks like an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer; fetch the real file"),
        (b"", "the file is empty"),
        (b"\xff" * 99, "it begins with b'\\xff"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_with_what_it_looks_like(tmp_path, refusal, content, seen):
    (tmp_path / "a").write_bytes(content)
    message = refusal(WeightsError, load, tmp_path / "a")
    assert message.startswith(f"{tmp_path / 'a'}: damaged or not a weights file (")
    assert seen in message


def test_weights_that_may_not_be_read_are_refused_with_the_reason(file, refusal, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(weights, "safe_open", forbidden)
    assert (
        refusal(WeightsError, load, file)
        == f"{file}: cannot be read (Permission denied); check the file and its permissions"
    )


def test_a_missing_file_and_a_folder_are_refused(tmp_path, refusal):
    for path in (tmp_path / "a", tmp_path):
        assert refusal(WeightsError, load, path) == f"{path}: no such weights file"


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", [0, 2, "torch"])
def test_a_pickle_is_refused_and_not_run(tmp_path, refusal, protocol):
    path, marker = tmp_path / "a.safetensors", tmp_path / "marker"
    if protocol == "torch":
        torch.save({"tensor": torch.ones(3), "more": Malicious(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(marker), protocol=protocol))
    assert "damaged or not a weights file" in refusal(WeightsError, load, path)
    assert not marker.exists()
    if protocol != "torch":
        pickle.loads(path.read_bytes())
        assert marker.exists()  # it would have worked


def test_nothing_in_the_package_can_unpickle_evaluate_or_unpack_blindly_what_it_reads():
    forbidden = re.compile(
        r"weights_only=False|\bpickle\b|allow_pickle=True|\bjoblib\b|\bdill\b|yaml\.load\(|torch\.load\((?!.*weights_only=True)"
        r"|(?<![.\w])eval\(|(?<![.\w])exec\(|\bextractall\(|\bunpack_archive\("
    )
    files = sorted(Path(nucstyle.__file__).parent.rglob("*.py"))
    assert len(files) > 40
    # The one reader of what other programs pickle: of the module it takes the class whose names it resolves itself.
    reader = next(file for file in files if file.parts[-2:] == ("data", "pickled.py"))
    assert set(re.findall(r"\bpickle\.\w+|from pickle.*", reader.read_text())) == {"pickle.Unpickler"}
    files.remove(reader)
    found = [f"{file}: {line}" for file in files for line in file.read_text().splitlines() if forbidden.search(line)]
    assert found == []


# Saving


def test_tensors_are_saved_by_the_one_function_that_brings_their_memory_in_order():
    files = sorted(Path(nucstyle.__file__).parent.rglob("*.py"))
    saving = [file for file in files if re.search(r"safetensors\S* import .*\bsave", file.read_text())]
    assert [file.name for file in saving] == ["weights.py"]
    assert "safetensors.numpy" not in saving[0].read_text()  # writes whatever lies in memory


@pytest.mark.parametrize("written", [0, 100, None])
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(file, monkeypatch, written):
    old = file.read_bytes()
    write_bytes = Path.write_bytes

    def fill(path, data):
        write_bytes(path, data[:written])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left on device"):
        save_weights(file, {"new": torch.ones(500)}, kind="style", metadata={})
    monkeypatch.undo()
    assert file.read_bytes() == old
    assert os.listdir(file.parent) == [file.name]
    assert same(load(file).tensors, make_tensors())


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    done = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_ino))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("rename"), replace(old, new)))
    save_weights(tmp_path / "a", make_tensors(), kind="style", metadata={})
    assert done == [(tmp_path / "a").stat().st_ino, "rename", tmp_path.stat().st_ino]


def test_a_folder_is_on_the_disk_with_all_its_files_before_it_gets_its_name(tmp_path, monkeypatch):
    (tmp_path / "step.part").mkdir()
    for name in ("a", "b"):
        (tmp_path / "step.part" / name).write_text(name)
    done = []
    monkeypatch.setattr(weights, "flush", lambda path: done.append(path.name))
    replace_durably(tmp_path / "step.part", tmp_path / "step")
    assert done == ["a", "b", tmp_path.name]
    assert sorted(os.listdir(tmp_path / "step")) == ["a", "b"]


# Into a module


@pytest.fixture
def module():
    """A small network."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def test_tensors_reach_the_module(module):
    tensors = {name: torch.rand(tensor.shape).to(tensor.dtype) for name, tensor in module.state_dict().items()}
    load_state(module, tensors, where="a.safetensors")
    assert same(module.state_dict(), tensors)


def test_half_precision_is_widened(module):
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in module.state_dict().items()
    }
    load_state(module, halves, where="a.safetensors")
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(module[0].weight, halves["0.weight"].float())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("0.bias"), "lacks '0.bias' (1 missing, 0 unknown tensors)"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "has the unknown 'extra' (0 missing, 1 unknown tensors)"),
        (
            lambda tensors: tensors.update({"2.bias": tensors.pop("1.bias")}),
            "lacks '1.bias' (1 missing, 1 unknown tensors)",
        ),
        (lambda tensors: tensors.update({"1.bias": torch.ones(5)}), "'1.bias' is (5,), expected (4,)"),
        (lambda tensors: tensors.update({"1.bias": torch.ones(4, 1)}), "'1.bias' is (4, 1), expected (4,)"),
    ],
    ids=["missing", "left over", "renamed", "larger", "other axes"],
)
def test_tensors_that_do_not_fit_leave_the_module_untouched(module, refusal, change, reason):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {name: torch.full_like(tensor, 7) for name, tensor in before.items()}
    change(tensors)
    message = refusal(WeightsError, load_state, module, tensors, where="a.safetensors")
    assert message == f"a.safetensors: does not fit this network: {reason}"
    assert same(module.state_dict(), before)
