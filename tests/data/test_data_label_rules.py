"""What is a label image, and what only looks like one."""

import tracemalloc
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nucstyle.core.errors import ImageError
from nucstyle.core.labels import count
from nucstyle.data.dataset import Dataset, open_dataset
from nucstyle.data.decoders import ReadOptions, SizeError
from nucstyle.data.image_io import read_labels, write_labels
from nucstyle.data.label_bands import BandedNuclei
from nucstyle.data.label_files import read_nuclei
from nucstyle.data.label_rules import MaskError, SmoothedError
from nucstyle.data.manifest import Record, read_manifest, write_manifest
from nucstyle.metrics.dsb import dsb_score

PIECES = ReadOptions(connected_components=True)


@pytest.fixture
def labels(field):
    """(96, 112) uint8, twelve nuclei or so."""
    return field(3, nuclei=14)[1].astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    """`save(array)` writes a TIFF (`suffix` for another kind) and returns its path."""

    def write(array, suffix=".tif"):
        path = tmp_path / f"a{suffix}"
        np.save(path, array) if suffix == ".npy" else tifffile.imwrite(path, array)
        return path

    return write


# Numbers


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_whole_numbers_may_be_floats(save, labels, kind, suffix):
    path = save(labels.astype(kind), suffix)
    assert read_labels(path).dtype == torch.int32
    np.testing.assert_array_equal(read_labels(path).numpy(), labels)


@pytest.mark.parametrize("odd", [3.5, np.nan, np.inf])
def test_numbers_that_are_not_whole_are_refused_and_counted(save, refusal, labels, odd):
    array = labels.astype(np.float32)
    array[5, 5:8] = odd
    message = refusal(ImageError, read_labels, save(array))
    assert f"3 labels are no whole numbers, {odd:g} for one; save integers" in message


@pytest.mark.parametrize(
    ("array", "span"),
    [
        (np.array([[0, -1]], np.int16), "-1 to 0"),
        (np.array([[0, -1]], np.float32), "-1 to 0"),
        (np.array([[0, 2**31]], np.uint32), "0 to 2147483648"),
        (np.array([[0, 2**40]], np.float64), "0 to 1099511627776"),
    ],
    ids=["negative", "negative float", "too large", "too large float"],
)
def test_labels_that_are_negative_or_too_large_are_refused_with_their_range(save, refusal, array, span):
    message = refusal(ImageError, read_labels, save(array))
    assert f"labels run from {span}; they must be 0 to 2147483647" in message


def test_complex_numbers_are_no_labels(save, refusal):
    assert "whole numbers, got complex64" in refusal(ImageError, read_labels, save(np.ones((4, 5), np.complex64)))


def test_colours_are_no_labels(tmp_path, refusal, field):
    Image.fromarray(field(3, stained=True)[0]).save(tmp_path / "a.png")
    assert "colours are no numbers of nuclei; save the labels with one channel" in refusal(
        ImageError, read_labels, tmp_path / "a.png"
    )


@pytest.mark.parametrize("used", [(0, 1, 2), (0,), (1,), (0, 2)], ids=str)
def test_numbers_that_all_channels_in_use_agree_on_are_labels(tmp_path, labels, used):
    colour = np.zeros((*labels.shape, 3), np.uint8)
    colour[..., list(used)] = labels[..., None]
    Image.fromarray(colour).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png").numpy(), labels)
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png").numpy(), labels)


def test_a_black_colour_image_is_labels_without_nuclei(tmp_path):
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[0] * 5] * 4


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_labels_without_background_are_counted_in_full(save, suffix):
    array = np.kron([[1, 2], [3, 4]], np.ones((5, 5))).astype(np.uint8)
    labels = read_labels(save(array, suffix))
    assert count(labels) == 4
    assert np.array_equal(labels.numpy(), array)


# Masks that are no labels


@pytest.mark.parametrize("top", [255, 65535])
def test_a_mask_of_several_pieces_is_refused_with_the_remedy(save, refusal, labels, top):
    pieces = 9
    array = np.zeros((40, 40), np.uint8 if top == 255 else np.uint16)
    array[::14, ::14] = top
    array[1::14, 1::14] = top  # touches at a corner: the same piece
    message = refusal(MaskError, read_labels, save(array))
    assert f"has no numbers but 0 and {top}, in {pieces} pieces, but every nucleus needs a number of its own" in message
    assert "use --connected-components if each connected piece is a nucleus" in message
    assert torch.equal(read_labels(save(array), may_be_mask=True) > 0, torch.from_numpy(array > 0))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_a_mask_of_bits_is_refused_with_the_remedy(save, tmp_path, refusal, labels, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(labels > 0).save(path) if suffix == ".png" else save(labels > 0, suffix)
    message = refusal(MaskError, read_labels, path)
    assert "says of each pixel only whether it is of a nucleus" in message
    assert "--connected-components" in message
    assert torch.equal(read_labels(path, may_be_mask=True), torch.from_numpy(labels > 0).int())


@pytest.mark.parametrize("number", [1, 2, 128, 255])
def test_a_single_nucleus_may_have_any_number(save, number):
    array = np.zeros((20, 30), np.uint8)
    array[5:9, 5:9] = number
    assert read_labels(save(array)).unique().tolist() == [0, number]


@pytest.mark.parametrize("number", [1, 2])
def test_a_nucleus_in_pieces_is_one(save, number):
    array = np.zeros((20, 30), np.uint8)
    array[5:9, 5:9] = array[15:18, 5:9] = number
    assert count(read_labels(save(array))) == 1


def squares(*sides, number=1):
    """Squares side by side, all of one number: (40, 40 of each) uint8."""
    parts = [np.zeros((40, 40), np.uint8) for _ in sides]
    for part, side in zip(parts, sides, strict=True):
        part[5 : 5 + side, 5 : 5 + side] = number
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("number", [1, 128, 254])
def test_one_number_in_three_pieces_or_more_without_a_large_one_is_a_mask(save, tmp_path, refusal, number, suffix):
    array = squares(6, 6, 5, number=number)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path) if suffix == ".png" else (path := save(array, suffix))
    message = refusal(MaskError, read_labels, path)
    assert f"has no numbers but 0 and {number}, in 3 pieces, but every nucleus needs a number of its own" in message
    assert "use --connected-components" in message
    assert torch.equal(read_labels(path, may_be_mask=True), torch.from_numpy(array.astype(np.int32)))
    with_another = array.copy()
    with_another[30, 30] = number + 1
    Image.fromarray(with_another).save(tmp_path / "b.png")
    assert count(read_labels(tmp_path / "b.png")) == 2  # among others, one in pieces is one


def test_of_255_two_pieces_are_enough_to_be_a_mask(save, refusal):
    assert "0 and 255, in 2 pieces" in refusal(MaskError, read_labels, save(squares(9, 3, number=255)))
    assert count(read_labels(save(squares(9, 3, number=254)))) == 1


@pytest.mark.parametrize("sides", [(9, 6, 6), (9, 3, 3, 2), (8, 8)], ids=str)
def test_one_number_of_which_a_piece_has_half_or_of_two_pieces_is_a_nucleus(save, sides):
    sides_px = [side * side for side in sides]
    assert 2 * max(sides_px) >= sum(sides_px)
    assert count(read_labels(save(squares(*sides)))) == 1


def run_lengths(folder, array):
    runs = np.flatnonzero(np.diff(np.pad(array.T.reshape(-1), 1))) + 1
    words = " ".join(f"{start} {end - start}" for start, end in runs.reshape(-1, 2))
    (folder / "labels.csv").write_text(f"ImageId,EncodedPixels\na,{words}\n")
    return folder / "labels.csv"


def folder_of_masks(folder, array):
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(array * 255).save(folder / "masks" / "1.png")
    Image.fromarray(array * 0).save(folder / "masks" / "2.png")  # empty
    return folder / "masks"


@pytest.mark.parametrize("write", [run_lengths, folder_of_masks])
def test_the_only_nucleus_of_a_file_that_draws_each_by_itself_is_judged_alike(tmp_path, refusal, write):
    mask, nucleus = squares(6, 6, 5), squares(9, 6, 6)
    record = Record(id="a", image=tmp_path / "a.png", labels=write(tmp_path, mask))
    message = refusal(MaskError, read_nuclei, record, mask.shape)
    assert "in 3 pieces, but every nucleus needs a number of its own; use --connected-components" in message
    assert count(read_nuclei(replace(record, components=True), mask.shape)) == 3
    write(tmp_path, nucleus)
    assert count(read_nuclei(record, nucleus.shape)) == 1


def test_one_of_several_masks_may_be_in_pieces(tmp_path):
    folder = folder_of_masks(tmp_path, squares(6, 6, 5))
    Image.fromarray(np.roll(squares(6, 6, 5), 12, axis=0) * 255).save(folder / "3.png")
    record = Record(id="a", image=tmp_path / "a.png", labels=folder)
    assert count(read_nuclei(record, (40, 120))) == 2


def test_an_empty_or_full_mask_is_no_trouble(save):
    for value in (0, 255):
        assert read_labels(save(np.full((20, 30), value, np.uint8))).unique().tolist() == [value]


def write_mask_data(folder, field, *, names=("a", "b")):
    """Pairs whose label images are masks of 0 and 255; returns the true labels."""
    truth = {}
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, name in enumerate(names):
        image, labels = field(number, nuclei=5)
        Image.fromarray(image).save(folder / f"images/{name}.png")
        Image.fromarray((labels > 0).astype(np.uint8) * 255).save(folder / f"masks/{name}.png")
        truth[name] = labels
    return truth


def test_the_pieces_of_masks_are_nuclei_where_that_is_asked_for(tmp_path, field, refusal):
    truth = write_mask_data(tmp_path / "data", field)
    assert "--connected-components" in refusal(MaskError, open_dataset(tmp_path / "data").__getitem__, 0)
    dataset = open_dataset(tmp_path / "data", reading=PIECES)
    for sample in dataset:
        assert torch.equal(sample.labels > 0, torch.from_numpy(truth[sample.id] > 0))
        assert int(sample.labels.max()) > 1
    write_manifest(tmp_path / "manifest.csv", dataset.records)
    assert all(record.components for record in read_manifest(tmp_path / "manifest.csv"))
    for one, other in zip(open_dataset(tmp_path / "manifest.csv"), dataset, strict=True):
        assert torch.equal(one.labels, other.labels)


def test_pieces_of_a_folder_of_masks_are_nuclei_where_that_is_asked_for(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "x" / part).mkdir(parents=True)
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / "x/images/x.png")
    mask = np.array([[255, 0, 255, 0, 0]] * 2 + [[0] * 5], np.uint8)
    Image.fromarray(mask).save(tmp_path / "x/masks/1.png")
    assert open_dataset(tmp_path)[0].labels[0].tolist() == [1, 0, 1, 0, 0]
    assert open_dataset(tmp_path, reading=PIECES)[0].labels[0].tolist() == [1, 0, 2, 0, 0]


def test_images_without_labels_have_no_pieces(tmp_path, field):
    Image.fromarray(field(0)[0]).save(tmp_path / "a.png")
    dataset = open_dataset(tmp_path, reading=PIECES)
    assert not dataset.records[0].components
    assert dataset[0].labels is None


# Smoothed edges


def smoothed(mask, how):
    image = Image.fromarray(mask)
    if how.startswith("jpeg"):
        file = BytesIO()
        image.save(file, "JPEG", quality=int(how.split()[1]))
        return np.array(Image.open(file))
    height, width = mask.shape
    kinds = {"smaller": (2 / 3, Image.Resampling.BILINEAR), "larger": (2, Image.Resampling.BICUBIC)}
    factor, kind = kinds[how]
    return np.array(image.resize((round(width * factor), round(height * factor)), kind))


@pytest.mark.parametrize("how", ["jpeg 40", "jpeg 75", "jpeg 95", "smaller", "larger"])
@pytest.mark.parametrize("nuclei", [1, 4, 14])
def test_masks_that_were_smoothed_or_once_were_jpeg_are_refused(tmp_path, field, refusal, how, nuclei):
    mask = (field(3, nuclei=nuclei)[1] > 0).astype(np.uint8) * 255
    Image.fromarray(smoothed(mask, how)).save(tmp_path / "a.png")
    for may_be_mask in (False, True):
        message = refusal(SmoothedError, read_labels, tmp_path / "a.png", may_be_mask=may_be_mask)
        assert "looks anti-aliased" in message


def test_labels_that_were_resized_with_smoothing_are_refused(tmp_path, refusal, field):
    labels = field(3, nuclei=40, size=(160, 160))[1].astype(np.float32) * 7
    height, width = labels.shape
    small = Image.fromarray(labels).resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    tifffile.imwrite(tmp_path / "a.tif", np.rint(np.array(small)).astype(np.uint16))
    assert "looks anti-aliased" in refusal(SmoothedError, read_labels, tmp_path / "a.tif")


@pytest.fixture
def specks():
    """(40, 40) int32, what a network finds before it has learnt much."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 17, (40, 40), dtype=np.int32))


@pytest.mark.parametrize("read", [read_labels, lambda path: next(BandedNuclei.of_file(path).bands())])
def test_label_images_that_say_so_are_taken_at_their_word(tmp_path, refusal, specks, read):
    pieces = torch.from_numpy(squares(6, 6, 5).astype(np.int32))
    for labels, error in ((specks, SmoothedError), (pieces, MaskError)):
        write_labels(tmp_path / "a.tif", labels, are_nuclei=True)
        assert np.array_equal(read(tmp_path / "a.tif"), labels)
        write_labels(tmp_path / "a_labels.tif", labels)  # a name says nothing
        refusal(error, read, tmp_path / "a_labels.tif")
        tifffile.imwrite(tmp_path / "a.tif", tifffile.imread(tmp_path / "a.tif"))  # by another program
        refusal(error, read, tmp_path / "a.tif")


def test_what_says_to_be_labels_and_cannot_be_is_refused_all_the_same(tmp_path, refusal):
    labels = np.array([[0, 1], [2, -1]], np.int16)
    tifffile.imwrite(tmp_path / "a.tif", labels, software="nucstyle labels")
    assert "must be 0 to 2147483647" in refusal(ImageError, read_labels, tmp_path / "a.tif")


def test_a_mask_is_refused_where_labels_were_to_be_predicted_whatever_its_name(tmp_path, field, refusal):
    write_labels(tmp_path / "a_labels.tif", torch.from_numpy((field(3, nuclei=14)[1] > 0) * 255))
    assert "every nucleus needs a number of its own" in refusal(MaskError, read_labels, tmp_path / "a_labels.tif")


@pytest.mark.parametrize("top", [255, 2**31 - 1])
def test_many_small_nuclei_are_not_taken_for_smoothed_edges(save, top):
    dots = np.zeros((60, 60), np.int64)
    dots[::3, ::3] = np.linspace(1, top, 400).round().reshape(20, 20)
    assert count(read_labels(save(dots.astype(np.int32)))) == len(np.unique(dots)) - 1  # of a pixel, apart
    tissue = np.kron(np.arange(1, 145).reshape(12, 12), np.ones((3, 3)))
    assert count(read_labels(save(tissue.astype(np.int32)))) == 144  # of nine pixels, without any background


def test_a_huge_number_takes_no_huge_memory(save):
    dots = np.zeros((60, 60), np.int32)
    dots[::3, ::3] = np.arange(400).reshape(20, 20) + (2**31 - 400)
    path = save(dots)
    tracemalloc.start()
    read_labels(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_labels_of_many_slices_through_tissue_are_not_taken_for_smoothed_edges(save, field):
    array = np.kron(np.arange(1, 401).reshape(20, 20), np.ones((4, 4)))[1:-1, 1:-1]  # those at the border cut
    assert count(read_labels(save(array.astype(np.uint16)))) == 400


# Pieces and holes


@pytest.mark.parametrize("layout", ["label image", "folder of masks"])
def test_pieces_of_a_nucleus_stay_one_and_its_holes_stay_background(tmp_path, layout):
    nucleus = np.zeros((30, 30), np.uint8)
    nucleus[3:12, 3:12] = 1
    nucleus[6:9, 6:9] = 0
    nucleus[20:24, 3:12] = 1
    labels = nucleus.copy()
    labels[20:24, 20:24] = 2
    if layout == "label image":
        (tmp_path / "images").mkdir()
        (tmp_path / "labels").mkdir()
        Image.fromarray(nucleus * 99).save(tmp_path / "images/x.png")
        Image.fromarray(labels).save(tmp_path / "labels/x.png")
    else:
        for part in ("images", "masks"):
            (tmp_path / "x" / part).mkdir(parents=True)
        Image.fromarray(nucleus * 99).save(tmp_path / "x/images/x.png")
        for number in (1, 2):
            Image.fromarray((labels == number).astype(np.uint8) * 255).save(tmp_path / f"x/masks/{number}.png")
    read = open_dataset(tmp_path)[0].labels.numpy()
    np.testing.assert_array_equal(read, labels)
    assert dsb_score(labels, read).dsb_score == 1


# Options go with the data set


@pytest.fixture
def stacks(tmp_path, field):
    """A data set of TIFFs of two pages, 16 bits, with labels for the second; and the true images."""
    truth = []
    for part in ("images", "labels"):
        (tmp_path / "stacks" / part).mkdir(parents=True)
    for number in range(3):
        image, labels = field(number)
        grey = image[..., 0].astype(np.uint16) * 10
        tifffile.imwrite(tmp_path / f"stacks/images/{number}.tif", np.stack([grey * 0, grey]), photometric="minisblack")
        tifffile.imwrite(tmp_path / f"stacks/labels/{number}.tif", labels.astype(np.uint16))
        truth.append(torch.from_numpy((grey / 2550).clip(0, 1).astype(np.float32)))
    return tmp_path / "stacks", truth


@pytest.mark.parametrize("keep", [True, False])
def test_every_part_of_a_data_set_is_read_alike(stacks, refusal, keep):
    folder, truth = stacks
    reading = ReadOptions(page=2, value_range=(0, 2550))
    assert "holds several images" in refusal(ImageError, open_dataset(folder).__getitem__, 0)
    dataset = open_dataset(folder, keep=keep, reading=reading)
    same = [
        dataset,
        dataset.where(lambda record: True),
        dataset.part(None),
        dataset.annotated(),
        dataset.training_part(),
        dataset.with_records([replace(record, modality="x") for record in dataset.records]),
    ]
    for one in same:
        assert one.reading == reading
        for index, expected in enumerate(truth):
            torch.testing.assert_close(one[index].image[0], expected)
            torch.testing.assert_close(one.image(index)[0], expected)
            assert one[index].labels.max() > 0


def test_bytes_with_a_range_of_their_own_are_kept_as_they_were_read(tmp_path, field):
    Image.fromarray(field(0)[0]).save(tmp_path / "a.png")
    reading = ReadOptions(value_range=(7, 150))
    kept, fresh = (Dataset(open_dataset(tmp_path).records, keep=keep, reading=reading) for keep in (True, False))
    for _ in range(2):
        assert torch.equal(kept[0].image, fresh[0].image)


def test_too_large_an_image_or_label_file_is_refused_wherever_it_lies(tmp_path, refusal, field):
    write_mask_data(tmp_path / "data", field)
    for limit, named in ((96 * 112 - 1, "images/a.png"), (96 * 112, None)):
        reading = ReadOptions(max_pixels=limit, connected_components=True)
        dataset = open_dataset(tmp_path / "data", reading=reading)
        if named:
            assert named in refusal(SizeError, dataset.__getitem__, 0)
        else:
            assert dataset[0].labels is not None
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(tmp_path / "data/images/a.png")
    dataset = open_dataset(tmp_path / "data", reading=ReadOptions(max_pixels=200))
    assert "masks/a.png" in refusal(SizeError, dataset.__getitem__, 0)


def test_too_large_a_mask_in_a_folder_is_refused(tmp_path, refusal):
    for part, size in (("images", (10, 12)), ("masks", (20, 12))):
        (tmp_path / "x" / part).mkdir(parents=True)
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "x" / part / "1.png")
    dataset = open_dataset(tmp_path, reading=ReadOptions(max_pixels=200))
    assert "masks/1.png: 240 pixels" in refusal(SizeError, dataset.__getitem__, 0)


def test_the_specks_that_a_network_finds_at_first_are_labels(tmp_path):
    """Numbered without gaps, each in one place, however small and close; with a gap between all, they are taken for greys."""
    labels = np.zeros((12, 40), np.uint16)
    labels[4:6, 4:36:2] = np.arange(1, 33).reshape(2, 16)
    labels[4:6, 5:37:2] = labels[4:6, 4:36:2]
    tifffile.imwrite(tmp_path / "found.tif", labels)
    assert torch.equal(read_labels(tmp_path / "found.tif"), torch.from_numpy(labels.astype(np.int32)))
    tifffile.imwrite(tmp_path / "greys.tif", labels * 7)
    with pytest.raises(SmoothedError, match="looks anti-aliased"):
        read_labels(tmp_path / "greys.tif")
