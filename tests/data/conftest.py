"""What the tests of files share: PNG files written chunk by chunk."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from nucstyle.core.errors import ImageError
from nucstyle.core.protocols import Silent


@pytest.fixture
def read_or_refuse():
    """`read_or_refuse(read, path)` gives the tensor, or the one line of the refusal; nothing else may happen."""

    def run(read, path):
        try:
            found = read(path)
        except ImageError as error:
            line = str(error)
        else:
            return found[0] if isinstance(found, tuple) else found
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        return line

    return run


@pytest.fixture
def write_png_chunks():
    """`write_png_chunks(path, width, height, depth, colour_type, rows)` writes what Pillow does not.

    With `passes`, the rows are those of the seven passes of an interlaced PNG; `extra` are further chunks, (kind, data).
    """

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def write(path, width, height, depth, colour_type, rows=(b"",), *, passes=False, extra=()):
        header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(passes))
        pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
        between = (chunk(*one) for one in extra)
        parts = (chunk(b"IHDR", header), *between, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
        return path

    return write


class Steps(Silent):
    """A progress that remembers what it is told, in `seen`."""

    def __init__(self):
        self.seen = []

    def start(self, stage, total, unit):
        self.seen.append((stage, total, unit))

    def advance(self, done, values=None):
        self.seen.append(done)


@pytest.fixture
def steps():
    """A progress that remembers what it is told, in `seen`."""
    return Steps()


@pytest.fixture
def save(tmp_path):
    """`save("a.png", array)` writes an image, by itself of 2 rows and 3 columns, below the temporary folder."""

    def write(name, array=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((2, 3), np.uint8) if array is None else array
        tifffile.imwrite(path, pixels) if path.suffix in (".tif", ".tiff") else Image.fromarray(pixels).save(path)
        return path

    return write
