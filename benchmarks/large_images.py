"""Time and memory of restyling one large image with the shipped weights, as Markdown on standard output.

    python benchmarks/large_images.py [--side 20000]

The image is the bundled ones side by side, 8-bit RGB, and `StyleTransfer`, without a lift, returns 8-bit RGB. Memory is the most
that the process had resident, that of Python and PyTorch themselves included, which is measured before.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import numpy.typing as npt

import nucstyle
import nucstyle.sample
from nucstyle.data.dataset import open_dataset


def drawn(side: int) -> npt.NDArray[np.uint8]:
    """(side, side, 3): crops of 256 px of the bundled images of one modality, over and over."""
    crops = [
        (sample.image[:, :256, :256] * 255).round().byte().permute(1, 2, 0).numpy()
        for sample in open_dataset(nucstyle.sample.__path__[0], cache=False)
        if sample.image[0].equal(sample.image[1]) and min(sample.size) >= 256
    ]
    made = np.empty((side, side, 3), np.uint8)
    for number, top in enumerate(range(0, side, 256)):
        for left in range(0, side, 256):
            part = made[top : top + 256, left : left + 256]
            part[:] = crops[(7 * number + left // 256) % len(crops)][: part.shape[0], : part.shape[1]]
    return made


def peak_bytes() -> int:
    """The most memory that was resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    side = parser.parse_args().side
    restyle = nucstyle.StyleTransfer(nucstyle.load_style("dsb2018", device="cpu"), p=1, lift=1)
    restyle(drawn(512), seed=0)
    alone, image = peak_bytes(), drawn(side)
    start = time.perf_counter()
    restyled = restyle(image, seed=0)
    took = time.perf_counter() - start
    assert restyled.shape == image.shape
    assert restyled.dtype == image.dtype
    assert not np.array_equal(restyled, image)
    more = peak_bytes() - alone
    print("| side, px | s | megapixels a second | peak memory, GB | above that of the program, bytes a pixel |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    print(f"| {side:,} | {took:.0f} | {side**2 / took / 1e6:.2f} | {peak_bytes() / 1e9:.1f} | {more / side**2:.1f} |")


if __name__ == "__main__":
    main()
