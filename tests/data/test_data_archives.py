"""Archives from elsewhere: whole or not at all, and nothing outside the folder."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from nucstyle.core.errors import DatasetError, NucstyleError
from nucstyle.core.protocols import Silent
from nucstyle.data import archives
from nucstyle.data.archives import Limits, unpack

FILES = {"a/images/a.png": b"pixels" * 50, "a/masks/1.png": bytes(300), "b/images/b.png": b"", "notes.txt": b"CC0"}
KINDS = ("zip", "tar", "tar.gz")
MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """The whole machine is not made to write to its disks; how often that was asked for."""
    calls = []
    monkeypatch.setattr(os, "sync", lambda: calls.append("sync"))
    return calls


@pytest.fixture
def pack(tmp_path):
    """`pack("zip", {name: content})` writes an archive; None is a folder, and a `TarInfo` or `ZipInfo` is taken as a name."""

    def write(kind, files):
        path = tmp_path / f"archive.{kind}"
        pairs = files.items() if isinstance(files, dict) else files
        if kind == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for name, content in pairs:
                    file.writestr(named(zipfile.ZipInfo, name), content or b"", zipfile.ZIP_DEFLATED)
            return path
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as file:
            for name, content in pairs:
                info = named(tarfile.TarInfo, name)
                info.size = len(content or b"")
                if info.type == tarfile.REGTYPE and content is None:
                    info.type = tarfile.DIRTYPE
                file.addfile(info, io.BytesIO(content or b""))
        return path

    return write


def named(kind, name):
    """An entry with this very name, which the constructors would tidy up."""
    if isinstance(name, kind):
        return name
    info = kind("placeholder")
    if kind is zipfile.ZipInfo:
        info.filename = name
    else:
        info.name = name
    return info


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def of_mode(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def refused(tmp_path, refusal):
    """`refused(archive, ...)` is the message with which it is; nothing is there afterwards that was not before."""

    def run(archive, **options):
        inside = tmp_path / "place"
        inside.mkdir()
        (inside / "out2").mkdir()
        before, everything = entries(tmp_path), sorted(tmp_path.rglob("*"))
        message = refusal(DatasetError, unpack, archive, inside / "out", **options)
        assert entries(tmp_path) == before
        assert sorted(tmp_path.rglob("*")) == everything
        assert message.startswith(f"{archive}: ")
        return message

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_packed_comes_out(pack, tmp_path, kind):
    unpack(pack(kind, FILES), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert entries(tmp_path) == [f"archive.{kind}", "out"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
def test_folders_may_be_named_and_named_twice_and_names_may_be_roundabout(pack, tmp_path, kind):
    folder = "a/" if kind == "zip" else "a"
    files = [("./", None), (folder, None), (folder, None), ("./a//x.png", b"x"), ("empty" + folder[1:], None)]
    unpack(pack(kind, files), tmp_path / "out")
    assert contents(tmp_path / "out") == {"a/x.png": b"x"}
    assert (tmp_path / "out" / "empty").is_dir()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_empty_archive_is_an_empty_folder(pack, tmp_path, kind):
    unpack(pack(kind, {}), tmp_path / "out")
    assert entries(tmp_path / "out") == []


def test_names_in_any_script_come_out(pack, tmp_path):
    files = {"核/é.png": b"1", "with space/-x": b"2", "..png": b"3", "a..b/...": b"4"}
    unpack(pack("zip", files), tmp_path / "out")
    assert contents(tmp_path / "out") == files


def test_an_archive_in_the_archive_stays_a_file(pack, tmp_path):
    inner = pack("zip", FILES).read_bytes()
    unpack(pack("zip", {"inner.zip": inner}), tmp_path / "out")
    assert contents(tmp_path / "out") == {"inner.zip": inner}


HOSTILE = {
    "../evil.png": "leads upwards",
    "a/../../evil.png": "leads upwards",
    "a/../b.png": "leads upwards",
    "../out2/evil.png": "leads upwards",
    "/tmp/evil.png": "is an absolute name",
    "C:/evil.png": "names a drive",
    "C:evil.png": "names a drive",
    "a\\evil.png": "holds a backslash",
    "..\\evil.png": "holds a backslash",
    "evil.png\0.txt": "holds a NUL",
    "x" * 300 + ".png": "has a name that is too long",
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name) for kind in KINDS for name in HOSTILE if kind == "zip" or "\0" not in name
    ],  # a tar header ends a name there
)
def test_a_hostile_name_is_refused_before_anything_is_written(pack, refused, monkeypatch, kind, name):
    monkeypatch.setattr(archives, "_write", lambda *_: pytest.fail("something was written"))
    message = refused(pack(kind, {"a/good.png": b"good", name: b"evil"}))
    assert f"its member {name!r} {HOSTILE[name]}; nothing was unpacked" in message


def test_a_nul_in_the_long_name_of_a_tar_is_refused(pack, refused, tmp_path):
    info = tarfile.TarInfo("short.png")
    info.pax_headers = {"path": "evil.png\0.txt"}
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info)
    assert "holds a NUL" in refused(path)


def test_a_name_that_would_leave_the_folder_by_a_way_nobody_thought_of_is_refused(pack, refused, monkeypatch):
    monkeypatch.setattr(archives, "_fault_of_name", lambda _: None)
    assert "leads out of the folder" in refused(pack("tar", {"../out2/evil.png": b"evil"}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a.png", "a.png"), "is there twice"),
        (("a.png", "./a.png"), "is there twice"),
        (("a", "a/b.png"), "lies in what is a file"),
        (("a/b.png", "a"), "is there twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_that_claim_one_place_are_refused(pack, refused, kind, names, reason):
    assert reason in refused(pack(kind, [(name, b"1") for name in names]))


@pytest.mark.parametrize(
    "member",
    [
        link("a", "/etc"),
        link("a", "../.."),
        link("a", "notes.txt"),
        link("a", "notes.txt", tarfile.LNKTYPE),
        link("a", "/etc/passwd", tarfile.LNKTYPE),
        link("a", "", tarfile.CHRTYPE),
        link("a", "", tarfile.BLKTYPE),
        link("a", "", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.type!r} {info.linkname}",
)
def test_links_and_devices_of_a_tar_are_refused_and_what_lies_behind_them_too(pack, refused, member):
    files = [("notes.txt", b"CC0"), (member, None), ("a/b.png", b"through the link")]
    assert "its member 'a' is a link, a device" in refused(pack("tar.gz", files))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o600, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_of_a_zip_are_refused(pack, refused, mode):
    assert "its member 'a' is a link or a device" in refused(pack("zip", [(of_mode("a", mode), b"/etc")]))


def test_a_tar_file_with_holes_is_refused(pack, refused, tmp_path):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"%011o\0" % (1 << 40)  # a terabyte of nothing
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    path = tmp_path / "archive.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    assert "a file with holes" in refused(path)


def test_an_encrypted_zip_is_refused(pack, refused):
    path = pack("zip", {"a.png": b"secret"})
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    path.write_bytes(data)
    assert "is encrypted" in refused(path)


def test_an_odd_compression_is_refused(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.png", b"1")
    assert "method 14" in refused(tmp_path / "archive.zip")


# Bombs


class Disk(Silent):
    """Notes how much lies in a folder."""

    def __init__(self, monkeypatch, folder):
        self.most = 0
        remove = archives._remove

        def measure_and_remove(partial):
            self.most = max([self.most, *(sum(map(len, contents(partial).values())) for _ in range(partial.is_dir()))])
            remove(partial)

        monkeypatch.setattr(archives, "_remove", measure_and_remove)


@pytest.mark.parametrize("members", [1, 40])
def test_a_zip_bomb_is_stopped_in_mid_stream(pack, refused, monkeypatch, tmp_path, members):
    path = pack("zip", {f"{number}.png": bytes(60 * MEGABYTE // members) for number in range(members)})
    assert path.stat().st_size < MEGABYTE
    disk = Disk(monkeypatch, tmp_path)
    assert "a bomb perhaps" in refused(path)
    assert 0 < disk.most <= 100 * path.stat().st_size + MEGABYTE


def test_a_bomb_whose_members_all_are_the_same_bytes_is_refused(pack, refused):
    path = pack("zip", {"a.png": bytes(MEGABYTE)})
    with zipfile.ZipFile(path, "a") as file:
        one = file.getinfo("a.png")
        for number in range(200):
            other = zipfile.ZipInfo(f"{number:05}")  # as long as the name of the first, whose header it shares
            for field in ("compress_type", "compress_size", "file_size", "CRC", "header_offset", "flag_bits"):
                setattr(other, field, getattr(one, field))
            file.filelist.append(other)
        file._didModify = True
    assert "damaged" in refused(path)


def test_what_a_zip_says_of_its_size_is_not_believed(pack, refused):
    path = pack("zip", {"a.png": bytes(10 * MEGABYTE)})
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    assert struct.unpack_from("<I", data, place) == (10 * MEGABYTE,)
    struct.pack_into("<I", data, place, 10)
    path.write_bytes(data)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("members", [1, 40])
def test_a_tar_bomb_is_refused_before_it_is_decompressed(pack, refused, monkeypatch, tmp_path, members):
    path = pack("tar.gz", {f"{number}.png": bytes(60 * MEGABYTE // members) for number in range(members)})
    asked = []
    seek = gzip.GzipFile.seek
    monkeypatch.setattr(gzip.GzipFile, "seek", lambda file, *place: (asked.append(place[0]), seek(file, *place))[1])
    disk = Disk(monkeypatch, tmp_path)
    assert "a bomb perhaps" in refused(path)
    assert max(asked, default=0) <= 100 * path.stat().st_size
    assert disk.most == 0


def test_a_header_that_asks_for_all_memory_is_refused(refused, tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2 << 30
    path = tmp_path / "archive.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    assert "a bomb perhaps" in refused(path)


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_files_are_refused_before_anything_is_written(pack, refused, monkeypatch, kind):
    monkeypatch.setattr(archives, "_write", lambda *_: pytest.fail("something was written"))
    files = {f"{number}.png": b"" for number in range(21)}
    assert "holds more than 20 files" in refused(pack(kind, files), limits=Limits(members=20))


@pytest.mark.parametrize("kind", KINDS)
def test_the_limits_are_met_exactly(pack, tmp_path, refused, kind):
    noise = np.random.default_rng(0).bytes(3 * MEGABYTE)
    path = pack(kind, {"a.png": noise, "b.png": b"1"})
    most = len(noise) + 1 if kind == "zip" else len(noise) + 20480  # headers and the end of a tar count as well
    unpack(path, tmp_path / "out", limits=Limits(members=2, total_bytes=most))
    assert len(contents(tmp_path / "out")["a.png"]) == 3 * MEGABYTE
    assert "a bomb perhaps" in refused(path, limits=Limits(total_bytes=len(noise)))


# Damage


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_an_archive_that_was_cut_off_is_refused(pack, refused, kind, share):
    path = pack(kind, {f"{number}.png": np.random.default_rng(number).bytes(3000) for number in range(10)})
    data = path.read_bytes()
    if kind == "tar":
        data = data[
            : len(data) // 10240 * 10240 - 10240 + 512
        ]  # without most of the zeros at the end, which mean nothing
    path.write_bytes(data[: int(len(data) * share)])
    assert refused(path)


def test_a_tar_that_was_cut_off_between_two_files_is_refused(pack, refused):
    path = pack("tar", {"a.png": bytes(512), "b.png": bytes(512)})
    path.write_bytes(path.read_bytes()[:1024])
    assert "breaks off" in refused(path)


def test_a_zip_whose_list_hides_a_file_is_refused(pack, refused):
    path = pack("zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 32] = 46 + len(
        "a/masks/1.png"
    )  # the length of a comment, which swallows the next entry
    path.write_bytes(data)
    assert "its list of files has" in refused(path)


def test_a_zip_of_very_many_files_is_counted_as_well(pack, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # beyond it, zipfile writes the larger records
    path = pack("zip", FILES)
    data = bytearray(path.read_bytes())
    assert b"PK\x06\x06" in data
    data[data.index(b"PK\x05\x06") + 8 : data.index(b"PK\x05\x06") + 12] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    data[data.index(b"PK\x01\x02") + 32] = 46 + len("a/masks/1.png")
    path.write_bytes(data)
    assert "its list of files has" in refused(path)


@pytest.mark.parametrize("kind", KINDS)
def test_one_wrong_byte_is_refused_or_changes_nothing(pack, tmp_path, kind):
    check_damages(pack, tmp_path, kind, range(0, 10000, 31))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_wrong_byte_is_refused_or_changes_nothing(pack, tmp_path, kind):
    check_damages(pack, tmp_path, kind, range(10000), values=4)


def check_damages(pack, tmp_path, kind, places, values=1):
    """Of a plain tar only the headers have a checksum, so there the files are empty."""
    files = dict.fromkeys(FILES, b"") if kind == "tar" else FILES
    path = pack(kind, files)
    data, random, outcomes = path.read_bytes(), np.random.default_rng(0), set()
    for place in (place for place in places if place < len(data)):
        for bit in random.permutation(8)[:values]:
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(bit)
            path.write_bytes(damaged)
            out = tmp_path / f"out-{place}-{bit}"
            try:
                unpack(path, out)
            except NucstyleError:
                assert not out.exists()
                outcomes.add("refused")
            else:
                assert contents(out) == files, f"byte {place} bit {bit}"
                outcomes.add("same")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "it looks like an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"Rar!\x1a\x07\x00", "it begins with b'Rar!"),
    ],
)
def test_what_is_no_archive_is_refused_with_what_it_looks_like(tmp_path, refused, content, reason):
    (tmp_path / "archive.zip").write_bytes(content)
    assert reason in refused(tmp_path / "archive.zip")


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, refused, kind):
    path = tmp_path / "archive.zip"
    {"nothing": lambda: None, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    assert "no such file, or not a regular one" in refused(path)


# Around it


def test_a_folder_that_is_there_is_left_as_it_is(pack, tmp_path, refusal):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    message = refusal(DatasetError, unpack, pack("zip", FILES), tmp_path / "out")
    assert message == f"{tmp_path / 'out'}: is there already; move it away before unpacking archive.zip to it"
    assert entries(tmp_path / "out") == ["thesis.txt"]


def test_what_an_earlier_attempt_left_is_no_part_of_the_next(pack, tmp_path):
    (tmp_path / "out.part" / "a").mkdir(parents=True)
    (tmp_path / "out.part" / "old.png").write_text("half")
    unpack(pack("zip", FILES), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_a_link_in_the_place_of_the_temporary_folder_is_not_followed(pack, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "out.part").symlink_to(tmp_path / "precious")
    unpack(pack("zip", FILES), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert contents(tmp_path / "precious") == {"file": b"mine"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_nothing_and_is_told_as_it_is(pack, tmp_path, error):
    class Full(Silent):
        def advance(self, done, values=None):
            if done == 3:
                raise error

    with pytest.raises(type(error)) as caught:
        unpack(pack("zip", FILES), tmp_path / "out", progress=Full())
    assert caught.value is error
    assert entries(tmp_path) == ["archive.zip"]


def test_the_folder_gets_its_name_when_all_is_on_the_disk(pack, tmp_path, synced, monkeypatch):
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *names: (synced.append("rename"), rename(*names)))
    unpack(pack("zip", FILES), tmp_path / "out")
    assert synced == ["sync", "rename"]


def test_progress_counts_the_members(pack, tmp_path, steps):
    unpack(pack("tar.gz", FILES), tmp_path / "out", progress=steps)
    assert steps.seen == [("unpack archive.tar.gz", 4, "file"), 1, 2, 3, 4]
