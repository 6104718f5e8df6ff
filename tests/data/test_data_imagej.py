import stat
import tracemalloc
import warnings
import zipfile
from importlib import resources

import numpy as np
import pytest
import roifile
import torch
from PIL import Image
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data.dataset import open_dataset
from nucstyle.data.formats import imagej
from nucstyle.data.layouts import recognise
from nucstyle.data.manifest import Record
from nucstyle.data.overlaps import LostError

SIZE = (6, 8)


def labels_of(*rows):
    return torch.tensor([[int(letter) if letter.isdigit() else 0 for letter in row] for row in rows], dtype=torch.int32)


def read(path, size=SIZE):
    return imagej.read(path, Record(id="a", image=path), size).labels


@pytest.fixture
def save(tmp_path):
    """`save({"1.roi": roi or bytes, ...})` writes a zip of ROIs."""

    def write(members, compression=zipfile.ZIP_DEFLATED):
        path = tmp_path / "a_rois.zip"
        with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that comes twice
            for name, content in members.items() if isinstance(members, dict) else members:
                archive.writestr(name, content.tobytes() if isinstance(content, ImagejRoi) else content)
        return path

    return write


def polygon(points, kind=ROI_TYPE.POLYGON, **others):
    roi = ImagejRoi.frompoints(points)
    roi.roitype = kind
    for name, value in others.items():
        setattr(roi, name, value)
    return roi


def box(left, top, right, bottom, kind=ROI_TYPE.RECT, **others):
    return ImagejRoi(roitype=kind, left=left, top=top, right=right, bottom=bottom, **others)


SQUARE = [[1, 2], [3, 2], [3, 4], [1, 4]]
FILLED = labels_of("........", "........", ".11.....", ".11.....", "........", "........")


# Writing and reading back


def test_the_sample_images_are_read_back_but_for_their_holes(tmp_path):
    with resources.as_file(resources.files("nucstyle.sample")) as folder:
        samples = list(open_dataset(folder))
    holes = changed = 0
    for sample in samples:
        path, losses = imagej.write_nuclei(tmp_path, sample.id, sample.labels)
        found = read(path, sample.size)
        holes += losses.get("holes_filled", 0)
        if not losses:
            assert torch.equal(found, sample.labels)
        else:
            is_nucleus = sample.labels > 0
            assert len(found.unique()) == len(sample.labels.unique())
            changed += int((found[~is_nucleus] > 0).sum())
            pairs = set(zip(found[is_nucleus].tolist(), sample.labels[is_nucleus].tolist(), strict=True))
            assert len(pairs) == int(sample.labels.max())
    assert holes == 4
    assert changed >= holes


def test_rois_are_traced_polygons_on_corners_of_pixels_named_by_number(tmp_path):
    path, losses = imagej.write_nuclei(tmp_path, "a", labels_of("..1", "..1", "2.."))
    assert path == tmp_path / "rois" / "a_rois.zip"
    assert losses == {}
    first, second = roifile.roiread(path)
    assert (first.roitype, first.name, first.coordinates().tolist()) == (
        ROI_TYPE.TRACED,
        "00001",
        [[2, 0], [3, 0], [3, 2], [2, 2]],
    )
    assert (first.left, first.top, first.right, first.bottom) == (2, 0, 3, 2)
    assert second.coordinates().tolist() == [[0, 2], [1, 2], [1, 3], [0, 3]]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["00001.roi", "00002.roi"]


def test_a_nucleus_in_two_pieces_becomes_two_rois_which_is_counted(tmp_path):
    labels = labels_of("1..1", "1.21")
    path, losses = imagej.write_nuclei(tmp_path, "a", labels)
    assert losses == {"nuclei_in_pieces": 1}
    assert [roi.name for roi in roifile.roiread(path)] == ["00001", "00001-2", "00002"]
    assert torch.equal(read(path, (2, 4)), labels_of("1..2", "1.32"))


def test_a_frame_before_the_nuclei_that_hides_them_is_refused_with_one_of_them(save, refusal):
    nuclei = {f"{place}.roi": box(2 * place, 1, 2 * place + 1, 3) for place in range(4)}
    path = save({"frame.roi": box(0, 0, 8, 6), **nuclei})
    words = "4 of 5 nuclei get no pixel, for example 0.roi is covered by what comes before it; leave out"
    assert refusal(LostError, read, path).startswith(f"{path}: {words}")
    assert len(read(save({**nuclei, "frame.roi": box(0, 0, 8, 6)})).unique()) == 5


def test_pixels_that_touch_at_a_corner_stay_one_nucleus(tmp_path):
    labels = labels_of("1..", ".1.", "..1")
    path, losses = imagej.write_nuclei(tmp_path, "a", labels)
    assert losses == {}
    assert len(roifile.roiread(path)) == 1
    assert torch.equal(read(path, (3, 3)), labels)


def test_holes_are_filled_and_counted_and_a_nucleus_in_one_keeps_its_pixels(tmp_path):
    labels = labels_of("11111", "1...1", "1.2.1", "1...1", "11111")
    path, losses = imagej.write_nuclei(tmp_path, "a", labels)
    assert losses == {"holes_filled": 1}
    found = read(path, (5, 5))
    assert len(found.unique()) == 2
    assert (found == found[2, 2]).sum() == 1


def test_rings_within_rings_all_keep_something(tmp_path):
    rings = np.zeros((11, 11), np.int32)
    for number, start in enumerate((0, 2, 4), start=1):
        rings[start : 11 - start, start : 11 - start] = number
        rings[start + 1 : 10 - start, start + 1 : 10 - start] = 0
    path, losses = imagej.write_nuclei(tmp_path, "a", torch.from_numpy(rings))
    assert losses == {"holes_filled": 3}
    found = read(path, rings.shape).numpy()
    for number in (1, 2, 3):
        assert len(np.unique(found[rings == number])) == 1
    assert len(np.unique(found)) == 3


@pytest.mark.parametrize("rows", [("1",), ("1.2",), ("123", "456"), ("........", "..2.....", "1.......")])
def test_nuclei_of_one_pixel_are_read_back(tmp_path, rows):
    labels = labels_of(*rows)
    path, _ = imagej.write_nuclei(tmp_path, "a", labels)
    assert torch.equal(read(path, tuple(labels.shape)), labels)


def test_an_image_without_nuclei_is_an_empty_set_and_reads_as_annotated(tmp_path):
    path, losses = imagej.write_nuclei(tmp_path, "a", torch.zeros(SIZE, dtype=torch.int32))
    assert losses == {}
    assert zipfile.ZipFile(path).namelist() == []
    assert torch.equal(read(path), torch.zeros(SIZE, dtype=torch.int32))


def test_an_older_set_is_replaced_not_added_to_and_equal_labels_give_equal_bytes(tmp_path):
    path, _ = imagej.write_nuclei(tmp_path, "a", labels_of("12345678"))
    imagej.write_nuclei(tmp_path, "a", labels_of("1......."))
    assert len(roifile.roiread(path)) == 1
    whole = path.read_bytes()
    imagej.write_nuclei(tmp_path, "a", labels_of("1......."))
    assert path.read_bytes() == whole
    assert zipfile.ZipFile(path).infolist()[0].date_time[0] == 1980  # none that tells of today


def test_places_near_the_end_of_16_bits_are_kept_and_those_beyond_are_refused(tmp_path, refusal):
    labels = torch.zeros((2, 60_535), dtype=torch.int32)
    labels[0, 40_000:50_000], labels[1, -3:] = 1, 2
    path, _ = imagej.write_nuclei(tmp_path, "a", labels)
    assert torch.equal(read(path, (2, 60_535)), labels)
    message = refusal(ImageError, imagej.write_nuclei, tmp_path, "a", torch.zeros((2, 60_536), dtype=torch.int32))
    assert message == "a: sides of 2 and 60536 pixels, ROIs reach to 60535; use geojson"


# What others write


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED])
@pytest.mark.parametrize("points", [SQUARE, np.array(SQUARE) + 0.25])
def test_polygons_are_filled_whole_or_with_fractions_of_pixels(save, kind, points):
    assert torch.equal(read(save({"1.roi": polygon(points, kind)})), FILLED)


def test_rectangles_are_filled_whole_or_with_fractions_of_pixels(save):
    options = ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    exact = box(1, 2, 3, 4, options=options, xd=0.75, yd=2.25, widthd=2, heightd=2)
    for roi in (box(1, 2, 3, 4), exact):
        assert torch.equal(read(save({"1.roi": roi})), FILLED)


def test_an_oval_has_the_pixels_whose_centres_are_in_it(save):
    path = save({"1.roi": box(3, 2, 37, 22, ROI_TYPE.OVAL)})
    ys, xs = np.mgrid[:30, :40] + 0.5
    expected = ((xs - 20) / 17) ** 2 + ((ys - 12) / 10) ** 2 < 1
    assert np.array_equal(read(path, (30, 40)).numpy() > 0, expected)


def test_ovals_beyond_the_image_are_cut_off_and_tiny_ones_have_no_pixel(save):
    assert torch.equal(read(save({"1.roi": box(-4, -4, 4, 4, ROI_TYPE.OVAL)}))[:2, :2], torch.ones(2, 2).int())
    tiny = box(1, 1, 2, 2, ROI_TYPE.OVAL, options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION)
    tiny.xd, tiny.yd, tiny.widthd, tiny.heightd = 1.6, 1.6, 0.3, 0.3
    assert read(save({"1.roi": tiny})).sum() == 0


def test_a_composite_is_one_nucleus_with_its_holes_and_parts(save):
    def path(x, y, side):
        return [0, x, y, 1, x + side, y, 1, x + side, y + side, 1, x, y + side, 4]

    steps = [*path(0, 0, 4), *path(1, 1, 2), *path(6, 0, 1), 0, 0, 0]
    roi = box(0, 0, 7, 4, shape_roi_size=len(steps), multi_coordinates=np.array(steps, np.float32))
    expected = labels_of("1111..1.", "1..1....", "1..1....", "1111....", "........", "........")
    assert torch.equal(read(save({"1.roi": roi})), expected)


def test_rois_are_numbered_in_their_order_and_the_first_keeps_what_two_claim(save):
    path = save({"b.roi": box(0, 0, 2, 1), "a.roi": box(1, 0, 3, 1)})
    assert read(path)[0].tolist() == [1, 1, 2, 0, 0, 0, 0, 0]


def test_a_single_roi_is_a_set_of_one(tmp_path):
    path = tmp_path / "a.ROI"
    path.write_bytes(polygon(SQUARE).tobytes())
    assert torch.equal(read(path), FILLED)


def test_folders_in_a_set_and_what_macs_add_are_passed_over(save):
    path = save({"set/": b"", "set/1.roi": polygon(SQUARE), "__MACOSX/set/._1.roi": b"\0\5\x16\7"})
    assert torch.equal(read(path), FILLED)


# Damage and malice


def line(kind, points=((0, 0), (3, 3), (5, 1))):
    return polygon(np.array(points), kind)


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        (line(ROI_TYPE.POINT), "a ROI of the type point encloses nothing; remove it from the set"),
        (line(ROI_TYPE.POLYLINE), "a ROI of the type polyline encloses nothing"),
        (line(ROI_TYPE.FREELINE), "a ROI of the type freeline encloses nothing"),
        (line(ROI_TYPE.ANGLE), "a ROI of the type angle encloses nothing"),
        (ImagejRoi(roitype=ROI_TYPE.LINE), "a ROI of the type line encloses nothing"),
        (box(0, 0, 3, 3, subtype=ROI_SUBTYPE.TEXT), "a ROI of the type text is not read"),
        (box(0, 0, 3, 3, rounded_rect_arc_size=2), "a ROI of the type rounded rectangle is not read"),
        (polygon(SQUARE, options=ROI_OPTIONS.SPLINE_FIT), "a ROI of the type spline is not read"),
        (
            box(0, 0, 3, 3, shape_roi_size=8, multi_coordinates=np.array([0, 0, 0, 2, 1, 1, 2, 2], np.float32)),
            "a shape with curves is not read",
        ),
        (
            box(0, 0, 3, 3, shape_roi_size=3, multi_coordinates=np.array([9, 0, 0], np.float32)),
            "cannot be read (invalid PathIterator command 9)",
        ),
        (
            box(0, 0, 9, 9, ROI_TYPE.OVAL, options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION, widthd=np.nan, heightd=1),
            "there is no nucleus",
        ),
        (box(0, 0, 0, 0, ROI_TYPE.OVAL), "there is no nucleus"),
        (box(2, 2, 2, 3), "there is no nucleus"),
        (b"GIF89a" * 30, "no ROI of ImageJ (it begins with b'GIF8')"),
        (b"", "no ROI of ImageJ (it begins with b'')"),
        (b"Iout\0\xe4\x63" + bytes(80), "a ROI of the type 99 encloses nothing"),
        (b"Iout\0\xe4\0", "cannot be read (ImageJ ROI data too short"),
        (polygon(SQUARE).tobytes()[:70], "cannot be read ("),
    ],
)
def test_what_is_no_outline_is_refused_by_name_in_a_set_and_alone(save, tmp_path, refusal, roi, words):
    path = save({"1.roi": box(0, 0, 2, 2), "odd.roi": roi})
    message = refusal(ImageError, read, path)
    assert message.startswith(f"{path}: odd.roi: ")
    assert words in message
    single = tmp_path / "odd.roi"
    single.write_bytes(roi if isinstance(roi, bytes) else roi.tobytes())
    assert refusal(ImageError, read, single).startswith(f"{single}: ")


def unplaced():
    roi = polygon(np.array(SQUARE, np.float32))
    roi.subpixel_coordinates[1] = np.nan
    return roi


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        (
            unplaced(),
            "no pixels, such as NaN",
        ),
        (polygon([[0, 0], [3, 3]]), "outline 2 has fewer than three corners"),
        (box(20, 0, 22, 2), "outline 2 (x 20 to 22, y 0 to 2) lies outside its image of 8 x 6"),
    ],
)
def test_outlines_that_cannot_be_filled_are_refused_by_their_place(save, refusal, roi, words):
    path = save({"1.roi": box(0, 0, 2, 2), "odd.roi": roi})
    message = refusal(ImageError, read, path)
    assert message.startswith(f"{path}: ")
    assert words in message


@pytest.mark.parametrize("name", ["../evil.roi", "/etc/evil.roi", "a/../../evil.roi", "..\\evil.roi", "\\evil.roi"])
def test_a_set_that_points_out_of_its_archive_is_refused(save, refusal, name):
    assert "points out of the archive" in refusal(ImageError, read, save({name: polygon(SQUARE)}))


def test_a_set_that_unpacks_to_far_more_than_its_size_is_refused_before_it_is_unpacked(save, refusal, monkeypatch):
    path = save({"1.roi": bytes(12_000_000)}, zipfile.ZIP_LZMA)
    assert path.stat().st_size * 5_000 < 12_000_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    assert "unpacks from" in refusal(ImageError, read, path)


def test_a_member_that_is_no_roi_by_its_size_is_refused(save, refusal, monkeypatch):
    monkeypatch.setattr(imagej, "_MOST_ROI_BYTES", 500)
    path = save({"1.roi": bytes(501)})
    assert "has 501 bytes, so it is no ROI" in refusal(ImageError, read, path)
    single = path.with_name("a.roi")
    single.write_bytes(bytes(501))
    assert "501 bytes are no ROI" in refusal(ImageError, read, single)


def test_a_header_that_lies_about_the_size_gives_no_more_than_it_says(save, refusal):
    path = save({"1.roi": polygon(SQUARE).tobytes() + bytes(50_000_000)})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(signature) + offset
        data[place : place + 4] = (500).to_bytes(4, "little")
    path.write_bytes(data)
    tracemalloc.start()
    try:
        assert "cannot be read (Bad CRC-32" in refusal(ImageError, read, path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def encrypted(path):
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def test_other_archives_and_damaged_ones_are_refused(save, refusal):
    whole = save({"1.roi": polygon(SQUARE)}).read_bytes()
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], b"<!DOCTYPE html>" * 9):
        path = save({})
        path.write_bytes(content)
        message = refusal(ImageError, read, path)
        assert message.startswith(f"{path}: cannot be read (")
    path = save({"1.roi": polygon(SQUARE)})
    encrypted(path)
    assert "encrypted" in refusal(ImageError, read, path)
    assert "'notes.txt' is no ROI" in refusal(ImageError, read, save({"1.roi": polygon(SQUARE), "notes.txt": b"hi"}))


def test_a_link_is_no_roi(save, refusal):
    link = zipfile.ZipInfo("1.roi")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "no ROI of ImageJ" in refusal(ImageError, read, save([(link, b"/etc/passwd")]))


def test_a_set_that_was_added_to_is_refused(save, refusal):
    path = save([("1.roi", polygon(SQUARE)), ("1.roi", box(0, 0, 2, 2))])
    assert "holds '1.roi' twice" in refusal(ImageError, read, path)


def test_a_changed_byte_is_noticed_or_changes_nothing(save):
    rois = {f"{k}.roi": polygon(np.add(SQUARE, (k, 0))) for k in range(3)}
    path = save(rois, zipfile.ZIP_STORED)
    whole, before = path.read_bytes(), read(path)
    places = range(whole.index(b"PK\x01\x02"), len(whole))  # the list of members has no checksum of its own
    for place in (*range(0, places.start, 11), *places):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            found = read(path)
        except ImageError:
            continue
        assert torch.equal(found, before)


@pytest.mark.parametrize("axis", ["position", "z_position", "t_position"])
def test_rois_of_several_slices_are_refused_and_those_of_one_are_read(save, refusal, axis):
    first, second = box(1, 2, 3, 4), box(5, 2, 6, 4)
    setattr(first, axis, 3)
    assert len(read(save({"1.roi": first, "2.roi": second})).unique()) == 3  # 0 = not said
    setattr(second, axis, 3)
    assert len(read(save({"1.roi": first, "2.roi": second})).unique()) == 3
    setattr(second, axis, 4)
    assert "several slices of a stack" in refusal(ImageError, read, save({"1.roi": first, "2.roi": second}))


# The layout


@pytest.fixture
def put(tmp_path):
    """`put("images/a.png")` writes an image, a ROI, or a set of one."""

    def write(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".roi":
            path.write_bytes(polygon(SQUARE).tobytes())
        elif path.suffix == ".zip":
            roifile.roiwrite(path, [polygon(SQUARE)])
        else:
            Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
        return path

    return write


@pytest.mark.parametrize(("images", "rois"), [("images/", "rois/"), ("", "")])
def test_rois_belong_to_the_image_of_their_name_and_images_without_are_not_annotated(put, tmp_path, images, rois):
    for name in ("a.b.png", "c.tif", "d.png", "e_rois.png", "f.png"):
        put(images + name)
    for name in ("a.b_rois.zip", "c.zip", "d.roi", "e_rois.zip"):
        put(rois + name)
    assert recognise(tmp_path)[0] == "imagej"
    dataset = open_dataset(tmp_path)
    assert {one.id: one.labels and one.labels.name for one in dataset.records} == {
        "a.b": "a.b_rois.zip",
        "c": "c.zip",
        "d": "d.roi",
        "e_rois": "e_rois.zip",
        "f": None,
    }
    for sample in dataset:
        assert sample.labels is None if sample.id == "f" else torch.equal(sample.labels, FILLED)


def test_two_sets_for_one_image_and_a_set_without_image_are_refused(put, tmp_path, refusal):
    for name in ("images/a.png", "rois/a.zip", "rois/a_rois.zip"):
        put(name)
    message = refusal(DatasetError, open_dataset, tmp_path)
    assert (
        message
        == f"{tmp_path / 'rois/a.zip'} and {tmp_path / 'rois/a_rois.zip'}: outlines of one image twice; keep the file that counts"
    )
    (tmp_path / "rois/a.zip").rename(tmp_path / "rois/b.zip")
    assert refusal(DatasetError, open_dataset, tmp_path).startswith(f"{tmp_path / 'rois/b.zip'}: no image of that name")


def test_an_archive_that_lies_beside_images_makes_them_no_rois(put, tmp_path):
    put("a.png")
    put("everything.zip")
    assert recognise(tmp_path)[0] == "pairs"


def test_label_images_are_preferred_to_rois_and_outlines_with_holes_as_well(put, tmp_path):
    for name in ("images/a.png", "masks/a.png", "rois/a.zip"):
        put(name)
    assert recognise(tmp_path)[0] == "pairs"
    assert open_dataset(tmp_path, format="imagej").records[0].labels == tmp_path / "rois/a.zip"
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "masks").rmdir()
    (tmp_path / "geojson").mkdir()
    assert recognise(tmp_path)[0] == "geojson"
