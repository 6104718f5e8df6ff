"""What all tests share: small synthetic fields, a translator without a network, and no way to the internet."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import socket
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from nucstyle.core.errors import InputError
from nucstyle.core.sample import Sample

os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Everything works with the network off: whoever opens a connection fails its test, but for one to a server of the test."""
    own = set()

    def refuse(self, address):
        if self.family != socket.AF_UNIX and address not in own:
            pytest.fail(f"tried to reach {address}")
        return connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return own


@pytest.fixture
def site(no_network, monkeypatch):
    """A web server on this machine; `site.files[name] = content`, and `site.answers` says how it misbehaves next."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Site()
    no_network.add(server.server_address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Site(http.server.ThreadingHTTPServer):
    """Serves `files` as a good server does, but for the next requests as `answers` say; what was asked for is in `asked`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Page)
        self.files: dict[str, bytes] = {}
        self.answers: list = []
        """Functions of a `Page` and the content that is asked for; each answers one request."""
        self.asked: list[tuple[str, str | None]] = []
        """Name and Range of every request."""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Page(http.server.BaseHTTPRequestHandler):
    """One request; the server ends the connection after it."""

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append((name, self.headers["Range"]))
        content = self.server.files.get(name)
        with contextlib.suppress(ConnectionError):  # whoever asked has left
            if self.server.answers:
                self.server.answers.pop(0)(self, content)
            elif content is None:
                self.send_error(404)
            else:
                self.give(content)

    def give(self, content, *, length=None, etag=True, ranges=True, only=None, headers=()):
        """Answer as a good server does.

        Args:
            content: The file.
            length: What is said of its length, if not the truth; "" = nothing is said.
            etag: Whether the file is named.
            ranges: Whether a piece is given where a piece is asked for.
            only: So many bytes are given, then the connection ends.
            headers: Further ones.
        """
        name = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        wanted = self.headers["Range"]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
        if self.headers["If-Range"] not in (None, name):
            start = 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length != "":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        if etag:
            self.send_header("ETag", name)
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body[:only])

    def log_message(self, *_):
        """Nothing."""


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


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """No test reads or writes the cache of the person who runs it, and none finds what another left."""
    monkeypatch.setenv("NUCSTYLE_CACHE", str(tmp_path_factory.mktemp("cache")))


def draw_field(
    number: int, *, size: tuple[int, int] = (96, 112), stained: bool = False, nuclei: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """A field with discs for nuclei: (H, W, 3) uint8 and (H, W) int32, bright on black or purple on pale pink."""
    rng = np.random.default_rng(number)
    height, width = size
    ys, xs = np.mgrid[:height, :width]
    labels = np.zeros(size, np.int32)
    for label in range(1, nuclei + 1):
        y, x, radius = rng.uniform(8, height - 8), rng.uniform(8, width - 8), rng.uniform(4, 8)
        labels[((ys - y) ** 2 + (xs - x) ** 2 < radius**2) & (labels == 0)] = label
    background, nucleus = ((235, 215, 232), (130, 60, 150)) if stained else ((10, 10, 10), (170, 170, 170))
    image = np.where(labels[..., None] > 0, nucleus, background) + rng.normal(0, 6, (height, width, 1))
    present = np.unique(labels[labels > 0])
    return image.clip(0, 255).astype(np.uint8), np.searchsorted(np.r_[0, present], labels).astype(np.int32)


@pytest.fixture(scope="session")
def field():
    """`field(number, stained=..., size=...)` draws a synthetic field."""
    return draw_field


@pytest.fixture
def nuclei() -> Sample:
    """An annotated fluorescence field, (3, 96, 112)."""
    return make_sample(0)


def make_sample(number: int, *, stained: bool = False, size: tuple[int, int] = (96, 112)) -> Sample:
    """A synthetic field as a sample."""
    image, labels = draw_field(number, stained=stained, size=size)
    pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1).contiguous()
    return Sample(id=f"field-{number}", image=pixels, labels=torch.from_numpy(labels))


@pytest.fixture
def sample_of():
    """`sample_of(number, stained=..., size=...)` makes a synthetic sample."""
    return make_sample


@pytest.fixture
def write_pairs(tmp_path):
    """`write_pairs(name, fluorescence=4, stained=4)` writes a data set of image and label PNGs, returns its folder."""

    def write(name: str = "pairs", *, fluorescence: int = 4, stained: int = 4) -> Path:
        folder = tmp_path / name
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for number in range(fluorescence + stained):
            image, labels = draw_field(number, stained=number >= fluorescence)
            Image.fromarray(image).save(folder / "images" / f"field-{number}.png")
            Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / f"field-{number}.png")
        return folder

    return write


class InvertingTranslator:
    """A `Translator` of two modalities without a network: the other modality is the negative."""

    modalities = ("grey-on-black", "purple-on-white")

    def recognise(self, image: Tensor) -> Tensor:
        return (image.mean(dim=(1, 2, 3)) > 0.5).long()

    def draw_attribute(self, target: Tensor, *, mode: str, generator: Generator) -> Tensor:
        return torch.rand((len(target), 1), generator=generator)

    def encode_attribute(self, image: Tensor, modality: Tensor) -> Tensor:
        return image.mean(dim=(1, 2, 3))[:, None]

    def translate(self, image: Tensor, *, source: Tensor, target: Tensor, attribute: Tensor) -> Tensor:
        flipped = torch.where((source != target)[:, None, None, None], 1 - image, image)
        return (flipped * (0.5 + 0.5 * attribute[:, :, None, None])).clamp(0, 1)

    def reconstruct(self, image: Tensor, modality: Tensor) -> Tensor:
        return image


@pytest.fixture
def fake_translator() -> InvertingTranslator:
    """Two modalities, the second the negative of the first."""
    return InvertingTranslator()


class TinyTrunk(nn.Module):
    """Maps of the sizes and names that the real trunk gives, by one convolution each: a tenth of the time."""

    def __init__(self, channels):
        super().__init__()
        self.out_channels = channels
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1))
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(4))

    def forward(self, image):
        maps = [self.stem(image - 0.5)]
        for layer in self.down:
            maps.append(layer(maps[-1].relu()))
        return OrderedDict(zip(("0", "1", "2", "3", "pool"), maps, strict=True))


@pytest.fixture
def tiny_trunk():
    """`tiny_trunk(channels)` makes a trunk for a detector that is to take no time."""
    return TinyTrunk
