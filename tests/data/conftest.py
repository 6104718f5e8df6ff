"""What the tests of files share: PNG files written chunk by chunk, and the one line of an error."""

import struct
import zlib

import pytest

from nucstyle.core.errors import ImageError, InputError


@pytest.fixture
def refusal():
    """`refusal(error, function, *arguments)` runs it and returns the one line of the error that it must raise."""

    def run(error, function, /, *arguments, **options):
        with pytest.raises(InputError) as caught:
            function(*arguments, **options)
        assert type(caught.value) is error
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


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
