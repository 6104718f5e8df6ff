"""Pictures of microscopes beside images: left out, and never without a word."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nucstyle.core.errors import DatasetError
from nucstyle.data.dataset import open_dataset
from nucstyle.data.doctor import survey
from nucstyle.data.unread import warn_of_unread_pictures


@pytest.fixture
def said():
    """What a person is told of a data set."""

    def tell(data):
        lines = []
        warn_of_unread_pictures(data, open_dataset(data).records, SimpleNamespace(say=lines.append))
        return lines

    return tell


def fill(folder, *others):
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "a.png")
    for name in others:
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize("place", ["plain", "pairs/images"])
def test_pictures_that_are_left_out_of_a_folder_are_told(tmp_path, said, place):
    fill(tmp_path / place, "b.czi", "c.ND2", "._b.czi", "notes.txt", "table.xlsx")
    left = tmp_path / place / "b.czi"
    data = tmp_path / place.split("/")[0]
    assert said(data) == [
        f"warning: {left} and 1 more: left out; files of that kind are not read, export them to TIFF, for example with Fiji"
    ]
    found = [file for one in survey(data).findings if one.kind == "unread-file" for file in one.files]
    assert {file.name for file in found} >= {"b.czi", "c.ND2"}
    assert not {file.name for file in found} & {"a.png", "notes.txt"}


def test_a_picture_beside_the_folder_of_images_is_told(tmp_path, said):
    fill(tmp_path / "cells" / "images")
    (tmp_path / "cells" / "scan.svs").write_bytes(b"")
    (line,) = said(tmp_path / "cells")
    assert str(tmp_path / "cells" / "scan.svs") in line
    (found,) = (one for one in survey(tmp_path / "cells").findings if one.kind == "unread-file")
    assert found.files == (tmp_path / "cells" / "scan.svs",)


def test_nothing_is_told_where_a_person_says_what_counts_or_nothing_is_left_out(tmp_path, said):
    fill(tmp_path / "cells", "b.czi")
    assert not said(tmp_path / "cells" / "a.png")
    (tmp_path / "cells" / "manifest.csv").write_text("id,image\na,a.png\n")
    assert not said(tmp_path / "cells")
    fill(tmp_path / "clean", "notes.txt")
    assert not said(tmp_path / "clean")


@pytest.mark.parametrize("place", ["", "images"])
def test_a_folder_of_nothing_else_is_refused_with_the_remedy(tmp_path, refusal, place):
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "b.lif").write_bytes(b"")
    message = refusal(DatasetError, open_dataset, tmp_path)
    assert message == f"{tmp_path}: no images in it but {tmp_path / place / 'b.lif'}; " + (
        "files of that kind are not read, export them to TIFF, for example with Fiji"
    )
