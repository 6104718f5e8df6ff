"""COCO instances: polygons and both kinds of run lengths."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.core.rle import encode_counts, runs_of
from nucstyle.data.dataset import open_dataset
from nucstyle.data.doctor import survey
from nucstyle.data.formats import coco
from nucstyle.data.label_files import nuclei_as_stored, read_nuclei
from nucstyle.data.layouts import recognise
from nucstyle.data.manifest import Record
from nucstyle.data.overlaps import LostError

SIZE = (4, 5)
SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]
# pycocotools 2.0.11 wraps its arrays in a way that NumPy 2 announces to drop.
against_peer = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def catalogue(tmp_path):
    """`catalogue([outline, ...])` writes an image of 4 rows and 5 columns and a COCO file of these annotations."""

    def write(outlines, *, name="instances.json", files=("a.png",), **more):
        for file in files:
            path = tmp_path / "images" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
        images = [{"id": 7 + number, "file_name": file, "height": 4, "width": 5} for number, file in enumerate(files)]
        annotations = [
            {"id": number, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": outline}
            for number, outline in enumerate(outlines)
        ]
        table = {"images": images, "annotations": annotations, "categories": [], **more}
        (tmp_path / name).write_text(json.dumps(table))
        return tmp_path / name

    return write


def nuclei(path):
    return [read_nuclei(record, SIZE) for record in open_dataset(path).records]


@pytest.mark.parametrize(
    "outline",
    [
        SQUARE,
        {"size": [4, 5], "counts": [5, 2, 2, 2, 9]},
        {"size": [4, 5], "counts": "52207"},
        [[1, 1, 2, 1, 2, 3, 1, 3], [2, 1, 3, 1, 3, 3, 2, 3]],
        [[0.6, 0.6, 3.4, 0.6, 3.4, 3.4, 0.6, 3.4]],
    ],
    ids=["polygon", "counts", "compressed", "two parts", "polygon between pixels"],
)
def test_every_way_to_outline_a_nucleus_gives_the_same_pixels(catalogue, tmp_path, outline):
    file = catalogue([outline])
    assert recognise(tmp_path) == ("coco", "instances.json lists images and annotations")
    for path in (tmp_path, file):
        (labels,) = nuclei(path)
        assert labels.dtype == torch.int32
        assert labels.tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_a_nucleus_in_two_pieces_is_one_and_of_two_that_overlap_the_first_keeps_the_pixels(catalogue, tmp_path):
    catalogue([[[0, 0, 1, 0, 1, 4, 0, 4], [4, 0, 5, 0, 5, 4, 4, 4]], [[0, 0, 5, 0, 5, 1, 0, 1]]])
    assert nuclei(tmp_path)[0].tolist() == [[1, 2, 2, 2, 1]] + [[1, 0, 0, 0, 1]] * 3


def test_crowds_are_left_out_and_counted(catalogue, tmp_path):
    crowd = {"image_id": 7, "iscrowd": 1, "segmentation": {"size": [4, 5], "counts": [0, 20]}}
    single = {"image_id": 7, "segmentation": SQUARE}
    catalogue([], annotations=[crowd, single, crowd])
    assert recognise(tmp_path)[1].endswith("; 2 annotations of crowds (iscrowd) are left out")
    assert nuclei(tmp_path)[0].sum() == 4


def test_an_image_without_annotations_shows_no_nucleus_and_one_set_aside_is_not_annotated(catalogue, tmp_path):
    catalogue([SQUARE], files=["a.png", "b.png"])
    (tmp_path / "unannotated").mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "unannotated" / "c.png")
    a, b, c = nuclei(tmp_path)
    assert (int(a.sum()), int(b.sum()), c) == (4, 0, None)


@pytest.mark.parametrize("prefix", ["", "images/", "images\\", "./images/"])
def test_file_names_count_from_the_file_or_from_images(catalogue, tmp_path, prefix):
    file = catalogue([SQUARE])
    file.write_text(file.read_text().replace('"a.png"', json.dumps(f"{prefix}a.png")))
    assert [record.id for record in open_dataset(tmp_path).records] == ["a"]
    assert nuclei(tmp_path)[0].sum() == 4


def test_images_of_one_name_in_two_folders_are_two(catalogue, tmp_path):
    catalogue([SQUARE], files=["x/a.png", "y/a.png", "b.png"])
    assert [record.id for record in open_dataset(tmp_path).records] == ["b", "images/x/a", "images/y/a"]
    assert [int(labels.sum()) for labels in nuclei(tmp_path)] == [0, 4, 0]


def test_the_folders_of_coco_itself_say_where_images_are_and_their_part(catalogue, tmp_path):
    (tmp_path / "annotations").mkdir()
    for part, outlines in (("train", [SQUARE]), ("val2017", [SQUARE, SQUARE])):
        catalogue(outlines, name=f"annotations/instances_{part}.json", files=["a.png", f"{part}.png"])
        (tmp_path / "images").rename(tmp_path / part)
    catalogue([SQUARE], name="annotations/captions_train.json", files=["elsewhere.png"])
    (tmp_path / "images/elsewhere.png").unlink()
    (tmp_path / "images").rmdir()
    dataset = open_dataset(tmp_path)
    assert [(record.id, record.split) for record in dataset.records] == [
        ("train", "train"),
        ("train/a", "train"),
        ("val2017", "validation"),
        ("val2017/a", "validation"),
    ]
    assert [record.image.relative_to(tmp_path).as_posix() for record in dataset.records][1] == "train/a.png"
    assert [int(one.max()) for one in nuclei(tmp_path)] == [0, 1, 0, 1]
    assert len(open_dataset(tmp_path / "annotations/instances_val2017.json").records) == 2


def test_an_image_of_two_catalogues_is_refused(catalogue, tmp_path, refusal):
    (tmp_path / "annotations").mkdir()
    for part in ("train", "test"):
        catalogue([SQUARE], name=f"annotations/instances_{part}.json")
    assert f"both list {tmp_path / 'images/a.png'}" in refusal(DatasetError, open_dataset, tmp_path)


def test_the_doctor_looks_at_the_other_images_where_one_is_missing_and_an_annotation_belongs_to_none(
    catalogue, tmp_path
):
    file = catalogue([SQUARE], files=["a.png", "b.png", "c.png"])
    table = json.loads(file.read_text())
    table["annotations"].append({"id": 9, "image_id": 99, "segmentation": SQUARE})
    file.write_text(json.dumps(table))
    (tmp_path / "images/b.png").unlink()
    found = survey(tmp_path)
    assert [record.id for record in found.records] == ["a", "c"]
    assert sorted(one.kind for one in found.findings) == ["layout", "missing-file"]


def test_label_images_count_more_than_a_catalogue_beside_them(catalogue, tmp_path):
    catalogue([SQUARE])
    (tmp_path / "labels").mkdir()
    assert recognise(tmp_path)[0] == "pairs"


def test_json_of_something_else_is_no_evidence(tmp_path):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "result.json").write_text('{"images": {"a": {}}}')
    assert recognise(tmp_path)[0] == "pairs"


def test_two_catalogues_are_refused_unless_one_is_named(catalogue, tmp_path, refusal):
    catalogue([SQUARE])
    empty = catalogue([], name="val.json")
    assert "holds 2 JSON files with images and annotations (instances.json, val.json)" in refusal(
        DatasetError, open_dataset, tmp_path
    )
    assert nuclei(empty)[0].sum() == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": {}}, "no list of objects `images`"),
        ({"images": [1]}, "no list of objects `images`"),
        ({"annotations": None}, "no list of objects `annotations`"),
        ({"images": [{"file_name": "a.png"}]}, "images[0]: id None, file_name 'a.png'; both are needed"),
        ({"images": [{"id": 7, "file_name": ""}]}, "images[0]: id 7, file_name ''"),
        ({"images": [{"id": [], "file_name": "a.png"}]}, "images[0]: id []"),
        ({"images": [{"id": 7, "file_name": "a\0.png"}]}, "images[0]: id 7"),
        ({"images": [{"id": 7, "file_name": "a.png"}] * 2}, "images[1]: the id 7 stands here for the second time"),
        ({"images": [{"id": 7, "file_name": "a.png", "height": "4", "width": 5}]}, "images[0]: height '4', width 5"),
        ({"images": [{"id": 7, "file_name": "b.png"}]}, "b.png is in none of"),
        ({"annotations": [{"image_id": 8}]}, "annotations[0]: image_id 8 is none of the images"),
        ({"annotations": [{"image_id": {}}]}, "annotations[0]: image_id {} is none of the images"),
    ],
)
def test_files_whose_parts_do_not_fit_are_refused_with_the_entry(catalogue, tmp_path, refusal, change, reason):
    file = catalogue([SQUARE], **change)
    message = refusal(DatasetError, open_dataset, tmp_path)
    assert message.startswith(f"{file}: ")
    assert reason in message


@pytest.mark.parametrize("end", [-1, -40, 60])
def test_a_file_that_is_cut_off_is_refused_and_not_taken_for_images_without_labels(catalogue, tmp_path, refusal, end):
    file = catalogue([SQUARE])
    file.write_text(file.read_text()[:end])
    assert f"{file}: not a JSON file (" in refusal(DatasetError, open_dataset, tmp_path)


def test_a_file_of_ten_thousand_brackets_is_refused(catalogue, tmp_path, refusal):
    file = catalogue([])
    file.write_text('{"images": [], "annotations": ' + "[" * 100_000)
    assert "not a JSON file" in refusal(DatasetError, open_dataset, tmp_path)


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (None, "neither run lengths nor a list of polygons"),
        ([], "neither run lengths"),
        ([[]], "neither run lengths"),
        ([[1, 1, 3, 1]], "neither run lengths"),
        ([[1, 1, 3, 1, 3, 3, 1]], "neither run lengths"),
        ([1, 1, 3, 1, 3, 3], "neither run lengths"),
        ([[1, 1, 3, "1", 3, 3]], "neither run lengths"),
        ([[1, 1, 3, True, 3, 3]], "neither run lengths"),
        ([[1, 1, 3, math.nan, 3, 3]], "a corner at x 3, y nan is no place in an image"),
        ([[1, 1, 3, 1e300, 3, 3]], "a corner at x 3, y 1e+300 is no place in an image"),
        ([[1, 1, 3, 10**400, 3, 3]], "neither run lengths"),
        ({"counts": [20]}, "run lengths of size None"),
        ({"size": [5, 4], "counts": [20]}, "run lengths of size [5, 4], the image is [height, width] [4, 5]"),
        ({"size": [4, 5]}, "run lengths without counts"),
        ({"size": [4, 5], "counts": [19]}, "fill only 19 of"),
        ({"size": [4, 5], "counts": [10, -1, 11]}, "a count is '-1'"),
        ({"size": [4, 5], "counts": "P"}, "cut off or damaged"),
        ({"size": [4, 5], "counts": "é"}, "is not compressed run lengths"),
        ({"size": [4, 5], "counts": {}}, "run lengths without counts"),
    ],
)
def test_outlines_that_cannot_be_are_refused_with_their_place_and_stop_no_other_image(
    catalogue, tmp_path, refusal, outline, reason
):
    file = catalogue([SQUARE, outline], files=["a.png", "b.png"])
    a, b = open_dataset(tmp_path).records
    message = refusal(ImageError, read_nuclei, a, SIZE)
    assert message.startswith(f"{file}: annotations[1]: ")
    assert reason in message
    assert read_nuclei(b, SIZE).sum() == 0


def runs(*rows):
    """Run lengths of a mask that is drawn in rows."""
    mask = torch.tensor([[int(letter == "#") for letter in row] for row in rows])
    (found,) = runs_of(mask).values()
    return {"size": list(SIZE), "counts": encode_counts(found, mask.numel())}


ALL = [[0, 0, 5, 0, 5, 4, 0, 4]]
CORNER = [[4, 3, 5, 3, 5, 4, 4, 4]]
MIDDLE = runs(".....", ".##..", ".##..", ".....")
EMPTY = {"size": list(SIZE), "counts": [20]}


@pytest.mark.parametrize(
    ("outlines", "words"),
    [
        ([ALL, SQUARE, CORNER], "2 of 3 nuclei get no pixel, for example annotations[1] is covered"),
        ([runs(*["#####"] * 4), SQUARE, CORNER], "2 of 3 nuclei get no pixel, for example annotations[1] is covered"),
        ([ALL, MIDDLE, SQUARE], "2 of 3 nuclei get no pixel, for example annotations[1] is covered"),
        ([SQUARE, CORNER, MIDDLE, CORNER], "2 of 4 nuclei get no pixel, for example annotations[2] is covered"),
        (
            [SQUARE, MIDDLE, EMPTY, [[0, 0, 0.3, 0, 0, 0.3]]],
            "3 of 4 nuclei get no pixel, for example annotations[2] holds no",
        ),
        ([EMPTY, SQUARE, [[0, 0, 0.3, 0, 0, 0.3]]], "2 of 3 nuclei get no pixel, for example annotations[0] holds no"),
    ],
)
def test_annotations_of_which_most_get_no_pixel_are_refused_with_one_of_them(
    catalogue, tmp_path, refusal, outlines, words
):
    file = catalogue(outlines)
    assert refusal(LostError, nuclei, tmp_path).startswith(f"{file}: a.png: {words}")


def test_fewer_than_half_without_a_pixel_are_read_as_they_are(catalogue, tmp_path):
    catalogue([SQUARE, CORNER, CORNER, [[0, 0, 1, 0, 1, 1, 0, 1]], MIDDLE])
    assert nuclei(tmp_path)[0].unique().tolist() == [0, 1, 2, 4]


def test_of_run_lengths_and_polygons_that_claim_a_pixel_the_first_keeps_it_and_what_is_lost_is_told(
    catalogue, tmp_path
):
    catalogue([SQUARE, runs("#....", "##...", "##...", "....."), [[1, 1, 2, 1, 2, 2, 1, 2]], CORNER, EMPTY])
    (record,) = open_dataset(tmp_path).records
    drawn = nuclei_as_stored(record, SIZE)
    assert drawn.labels.tolist() == [[2, 0, 0, 0, 0], [2, 1, 1, 0, 0], [2, 1, 1, 0, 0], [0, 0, 0, 0, 4]]
    assert drawn.shared.nonzero().tolist() == [[1, 1], [2, 1]]
    assert (drawn.covered, drawn.empty) == ((3,), (5,))


def test_a_size_other_than_that_of_the_image_is_refused(catalogue, tmp_path, refusal):
    file = catalogue([SQUARE])
    file.write_text(file.read_text().replace('"height": 4, "width": 5', '"height": 5, "width": 4'))
    assert f"{file}: a.png is (height, width) (5, 4), but" in refusal(ImageError, nuclei, tmp_path)


def test_an_image_that_is_not_listed_is_refused_where_a_manifest_says_it_is(catalogue, tmp_path, refusal):
    record = Record(id="b", image=tmp_path / "images" / "b.png", labels=catalogue([SQUARE]))
    assert "lists 0 images like" in refusal(ImageError, read_nuclei, record, SIZE)


@against_peer
def test_what_is_written_is_read_by_pycocotools(tmp_path, capsys):
    rng = np.random.default_rng(3)
    labels = [torch.from_numpy(rng.integers(0, 4, (9, 7)).astype(np.int32)) for _ in range(3)]
    records = []
    for number, own in enumerate(labels):
        written = coco.write(tmp_path, f"image-{number}", np.zeros((9, 7), np.uint8), own, None)
        records.append(Record(id=str(number), image=written.image, labels=written.labels))
    coco.finish(tmp_path, records, set())
    peer = COCO(str(tmp_path / "instances.json"))
    for number, own in enumerate(labels):
        image = peer.loadImgs([number + 1])[0]
        assert (image["file_name"], image["height"], image["width"]) == (f"image-{number}.png", 9, 7)
        annotations = peer.loadAnns(peer.getAnnIds(imgIds=[number + 1], catIds=[1], iscrowd=False))
        drawn = np.zeros((9, 7), np.int32)
        for label, annotation in enumerate(annotations, start=1):
            mask = peer.annToMask(annotation).astype(bool)
            ys, xs = np.nonzero(mask)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            drawn[mask] = label
        assert np.array_equal(drawn, own.numpy())
