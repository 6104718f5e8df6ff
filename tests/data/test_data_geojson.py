import json

import numpy as np
import pytest
import torch
from PIL import Image

from nucstyle.core.errors import DatasetError, ImageError
from nucstyle.data.dataset import open_dataset
from nucstyle.data.formats import geojson
from nucstyle.data.layouts import recognise
from nucstyle.data.manifest import Record
from nucstyle.data.overlaps import LostError

SIZE = (6, 8)


def labels_of(*rows):
    return torch.tensor([[int(letter) if letter.isdigit() else 0 for letter in row] for row in rows], dtype=torch.int32)


def read(path, size=SIZE):
    return geojson.read(path, Record(id="a", image=path), size).labels


def parsed(path):
    return json.loads(path.read_text())


@pytest.fixture
def save(tmp_path):
    """`save(value)` writes JSON, or text as it is, to a GeoJSON file."""

    def write(value):
        path = tmp_path / "a.geojson"
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return write


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(coordinates, *, kind="Polygon", object_type="annotation", **others):
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": object_type}, **others}


# Writing and reading back


def test_the_sample_images_are_read_back_exactly(tmp_path):
    from importlib import resources

    with resources.as_file(resources.files("nucstyle.sample")) as folder:
        samples = list(open_dataset(folder))
    assert len(samples) > 40
    for sample in samples:
        path, losses = geojson.write_nuclei(tmp_path, sample.id, sample.labels)
        assert losses == {}
        assert torch.equal(read(path, sample.size), sample.labels)


def test_a_nucleus_with_a_hole_and_one_in_pieces_are_read_back_exactly(tmp_path):
    labels = labels_of("1111.2.2", "1..1.2..", "1..1...2", "1111....", "........", "3.......")
    path, _ = geojson.write_nuclei(tmp_path, "a", labels)
    features = parsed(path)["features"]
    assert [one["geometry"]["type"] for one in features] == ["Polygon", "MultiPolygon", "Polygon"]
    assert [len(one["geometry"]["coordinates"]) for one in features] == [2, 3, 1]
    assert torch.equal(read(path), labels)


def test_the_file_is_what_qupath_takes_for_detections(tmp_path):
    path, _ = geojson.write_nuclei(tmp_path, "a", labels_of("..1", "..1", "2.."), {2: 0.75})
    collection = parsed(path)
    assert collection["type"] == "FeatureCollection"
    first, second = collection["features"]
    assert first == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[2, 0], [3, 0], [3, 2], [2, 2], [2, 0]]]},
        "properties": {
            "objectType": "detection",
            "name": "1",
            "classification": {"name": "Nucleus"},
            "measurements": {"area_px": 2},
        },
    }
    assert second["properties"]["measurements"] == {"area_px": 1, "score": 0.75}


def test_an_image_without_nuclei_is_a_collection_without_features_and_reads_as_annotated(tmp_path):
    path, _ = geojson.write_nuclei(tmp_path, "a", torch.zeros(SIZE, dtype=torch.int32))
    assert parsed(path) == {"type": "FeatureCollection", "features": []}
    assert torch.equal(read(path), torch.zeros(SIZE, dtype=torch.int32))


def test_equal_labels_give_equal_bytes_and_an_older_file_is_replaced(tmp_path):
    path, _ = geojson.write_nuclei(tmp_path, "a", labels_of("1122"))
    whole = path.read_bytes()
    geojson.write_nuclei(tmp_path, "a", labels_of("1111"))
    geojson.write_nuclei(tmp_path, "a", labels_of("1122"))
    assert path.read_bytes() == whole


# What others write


@pytest.mark.parametrize(
    "wrap", [lambda one: {"type": "FeatureCollection", "features": [one]}, lambda one: [one], dict]
)
def test_collections_lists_and_single_features_are_read(save, wrap):
    found = read(save(wrap(feature([square(1, 2, 2)]))))
    assert found.dtype == torch.int32
    assert torch.equal(found, labels_of("........", "........", ".11.....", ".11.....", "........", "........"))


def test_multipolygons_heights_open_rings_and_a_byte_order_mark_are_read(save):
    pieces = [[square(0, 0, 1)], [[[3, 0, 7.5], [5, 0, 7.5], [5, 1, 7.5], [3, 1, 7.5]]]]
    path = save("\ufeff" + json.dumps([feature(pieces, kind="MultiPolygon"), feature([square(6, 0, 1)])]))
    assert torch.equal(read(path)[0], labels_of("1..11.2.")[0])


def test_annotations_are_nuclei_unless_there_are_detections_beside_which_they_are_regions(save):
    region, nucleus = feature([square(0, 0, 6)]), feature([square(1, 1, 2)], object_type="detection")
    assert read(save([region])).sum() == 36
    assert read(save([region, nucleus])).unique().tolist() == [0, 2]
    assert (read(save([region, nucleus])) > 0).sum() == 4


def test_of_cells_the_nucleus_counts(save):
    nucleus = {"type": "Polygon", "coordinates": [square(2, 2, 1)]}
    cell = feature([square(0, 0, 5)], object_type="cell", nucleusGeometry=nucleus)
    assert (read(save([cell])) > 0).sum() == 1


def test_what_reaches_beyond_the_image_is_cut_off(save):
    assert (read(save([feature([square(6, 4, 30)])])) > 0).sum() == 4


def test_where_two_overlap_the_first_keeps_the_pixels(save):
    found = read(save([feature([square(0, 0, 2)]), feature([square(1, 0, 2)])]))
    assert found[0, :4].tolist() == [1, 1, 2, 0]


def test_the_kinds_of_objects_are_read_from_files_of_every_qupath(save):
    def old(x, kind):
        return feature([square(x, 0, 2)], object_type=None, id=kind)

    def middle(x, kind):
        return {**feature([square(x, 0, 2)]), "properties": {"object_type": kind}}

    names = ("PathAnnotationObject", "PathDetectionObject", "PathTileObject", "PathCellObject")
    kinds = ("annotation", "detection", "tile", "cell")
    for make, known in ((old, names), (middle, kinds)):
        assert torch.equal(
            read(save([make(2 * place, kind) for place, kind in enumerate(known)]))[0], labels_of("..22..44")[0]
        )
    # What the properties say counts, and other ids say nothing.
    said = feature([square(0, 0, 2)], object_type="detection", id="PathAnnotationObject")
    others = [feature([square(2 * place, 0, 2)], id=key) for place, key in enumerate([7, ["a"], "cell"], start=1)]
    assert read(save([said, *others])).unique().tolist() == [0, 1]
    assert read(save(others)).unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "said",
    [
        *({"object_type": kind} for kind in ("tile", "tma_core", "root")),
        *({"object_type": None, "id": kind} for kind in ("PathTileObject", "TMACoreObject", "PathRootObject")),
    ],
)
def test_tiles_and_cores_of_tissue_are_never_nuclei(save, refusal, said):
    region, nucleus = feature([square(0, 0, 6)], **said), feature([square(1, 1, 2)])
    assert (read(save([region, nucleus])) == 2).sum() == 4
    path = save([region] * 3)
    message = f"{path}: holds 3 tiles or other regions and no nuclei; export detections, cells or annotations"
    assert refusal(ImageError, read, path) == message


FIELD = (40, 50)
NUCLEI = [[square(10 * column + 2, 10 * row + 3, 5)] for row in range(4) for column in range(5)]
REGION = feature([square(0, 0, 48)])


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (
            [REGION, *map(feature, NUCLEI)],
            "20 of 21 nuclei get no pixel, for example feature 2 is covered by what comes before it; leave out what is "
            "drawn around nuclei or stands there twice",
        ),
        (
            [feature(one, object_type="detection") for one in NUCLEI * 2],
            "20 of 40 nuclei get no pixel, for example feature 21 is covered by what comes before it",
        ),
        (
            [feature([[[x / 50, y / 40] for x, y in rings[0]]]) for rings in NUCLEI],
            "20 of 20 nuclei get no pixel, for example feature 1 holds no centre of a pixel; give places in pixels",
        ),
    ],
    ids=["a region first", "everything twice", "shares of the image"],
)
def test_outlines_of_which_most_get_no_pixel_are_refused_with_one_of_them(save, refusal, features, words):
    path = save(features)
    message = refusal(LostError, read, path, FIELD)
    assert message.startswith(f"{path}: {words}")


def test_a_few_outlines_within_others_are_left_out_as_they_are(save):
    within = [feature([square(3, 4, 1)]), feature([square(13, 4, 1)]), feature([square(8.6, 0.6, 0.5)])]
    found = read(save([*map(feature, NUCLEI), *within]), FIELD)
    assert torch.equal(found, read(save([*map(feature, NUCLEI)]), FIELD))
    assert len(found.unique()) == 21
    alone = read(save([feature([square(8.6, 0.6, 0.5)])]), FIELD)
    assert alone.sum() == 0


# Damage


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"type": "FeatureCollection", "features": [NaN]}', "NaN is no place"),
        (json.dumps([feature([square(0, 0, 2)])]).replace("2", "1e999", 1), "places that are no pixels"),
        (json.dumps([feature([square(0, 0, 2)])]).replace("2", "NaN", 1), "NaN is no place"),
        (json.dumps([feature([square(0, 0, 2)])]).replace("2", "9" * 5000, 1), "no JSON"),
        ("7", "entry 1 is no GeoJSON Feature"),
        ("{}", "entry 1 is no GeoJSON Feature"),
        ('{"type": "FeatureCollection"}', "entry 1 is no GeoJSON Feature"),
        ('{"type": "FeatureCollection", "features": {"a": 1}}', "entry 1 is no GeoJSON Feature"),
        ('{"type": "Topology", "objects": {}}', "entry 1 is no GeoJSON Feature"),
        ('[{"type": "Feature", "geometry": null}]', "feature 1 is a feature without geometry"),
        ('[{"type": "Feature", "geometry": [1]}]', "feature 1 is a feature without geometry"),
        (
            '[{"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": []}}]',
            "feature 1 is a GeometryCollection, which may hold points and lines",
        ),
        (json.dumps([feature([1, 2], kind="Point")]), "feature 1 is a Point, which encloses nothing"),
        (json.dumps([feature([[1, 2], [3, 4]], kind="LineString")]), "a LineString, which encloses nothing"),
        (json.dumps([feature(None)]), "no rings of coordinates"),
        (json.dumps([feature([])]), "no rings of coordinates"),
        (json.dumps([feature({"a": 1}, kind="MultiPolygon")]), "no rings of coordinates"),
        (json.dumps([feature([[]], kind="MultiPolygon")]), "no rings of coordinates"),
        (json.dumps([feature([7])]), "no list of [x, y] numbers"),
        (json.dumps([feature([[[0, 0], [1, 0], [1]]])]), "no list of [x, y] numbers"),
        (json.dumps([feature([[["0", "0"], ["1", "0"], ["1", "1"]]])]), "no list of [x, y] numbers"),
        (json.dumps([feature([[[0, 0], [1, None], [1, 1]]])]), "no list of [x, y] numbers"),
        (json.dumps([feature([[[0, 0], [4, 4], [0, 0]]])]), "fewer than three corners"),
        (json.dumps([feature([square(20, 0, 2)])]), "outline 1 (x 20 to 22, y 0 to 2) lies outside its image of 8 x 6"),
    ],
)
def test_what_is_no_outline_is_refused_with_file_and_feature(save, refusal, content, words):
    path = save(content)
    message = refusal(ImageError, read, path)
    assert message.startswith(f"{path}: ")
    assert words in message


def test_text_that_is_not_utf8_is_refused(tmp_path, refusal):
    path = tmp_path / "a.geojson"
    path.write_bytes(b'{"type": "\xff"}')
    assert "cannot be read as UTF-8" in refusal(ImageError, read, path)


def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_read(save, refusal, monkeypatch):
    monkeypatch.setattr(geojson, "_MOST_BYTES", 10)
    assert "at most 10 are read" in refusal(ImageError, read, save([feature([square(0, 0, 2)])]))


# The layout


@pytest.fixture
def put(tmp_path):
    """`put("images/a.png")` writes an image or an empty collection."""

    def write(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".geojson":
            path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
        else:
            Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
        return path

    return write


@pytest.mark.parametrize(("images", "outlines"), [("images/", "geojson/"), ("", "")])
def test_outlines_belong_to_the_image_of_their_name_and_images_without_are_not_annotated(
    put, tmp_path, images, outlines
):
    for name in (f"{images}a.b.png", f"{images}c.tif", f"{outlines}a.b.geojson"):
        put(name)
    (tmp_path / "notes.json").write_text("{}")
    name, reason = recognise(tmp_path)
    assert (name, "geojson" in reason) == ("geojson", True)
    dataset = open_dataset(tmp_path)
    assert [(one.id, one.labels and one.labels.name) for one in dataset.records] == [
        ("a.b", "a.b.geojson"),
        ("c", None),
    ]
    annotated, bare = dataset
    assert annotated.labels.sum() == 0
    assert bare.labels is None


def test_label_images_are_preferred_to_outlines_unless_these_are_asked_for(put, tmp_path):
    for name in ("images/a.png", "labels/a.png", "geojson/a.geojson"):
        put(name)
    assert recognise(tmp_path)[0] == "pairs"
    assert open_dataset(tmp_path, format="geojson").records[0].labels == tmp_path / "geojson/a.geojson"


@pytest.mark.parametrize(("images", "outlines"), [("images/", "geojson/"), ("", "")])
def test_outlines_without_an_image_are_refused(put, tmp_path, refusal, images, outlines):
    for name in (f"{images}a.png", f"{outlines}a.geojson", f"{outlines}b.geojson"):
        put(name)
    message = refusal(DatasetError, open_dataset, tmp_path)
    assert message.startswith(f"{tmp_path / outlines / 'b.geojson'}: no image of that name in ")


def test_images_alone_are_no_geojson(put, tmp_path):
    put("images/a.png")
    assert recognise(tmp_path)[0] == "pairs"
    assert open_dataset(tmp_path, format="geojson").records[0].labels is None
