"""How much memory a large image takes: measured in a process of its own, as bytes for each pixel that it has more."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_SCRIPT = """
    import sys
    import numpy as np
    import torch
    from nucstyle.augment.style import StyleTransfer
    from nucstyle.style.method import make_networks
    from nucstyle.style.model import AttributeStatistics, StyleModel
    from nucstyle.style.networks import StyleNetworkConfig

    def peak():
        \"\"\"Bytes; unlike getrusage's, it does not begin with the peak of the process that started this one.\"\"\"
        with open("/proc/self/status") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

    networks = make_networks(StyleNetworkConfig(width=4, residual_blocks=1, feature_critic=False), [1, -1])
    spread = AttributeStatistics(torch.tensor([[-0.9] * 3 + [0.5] * 3, [0.8] * 3 + [-0.5] * 3]), torch.zeros(2, 6))
    model = StyleModel(networks, ("bright", "dark"), spread, lambda image: 0)

    def translate(side):
        image, one = torch.full((1, 3, side, side), 0.5), torch.tensor([0])
        attribute = model.encode_attribute(image, one)
        model.translate(image, source=one, target=one + 1, attribute=attribute, tile_px=256)

    def augment(side, lift=1):
        StyleTransfer(model, p=1.0, lift=lift)(np.full((side, side, 3), 100, np.uint8), seed=0)

    def lifted(side):
        augment(side, lift=0.6)

    work, small, large = {"translate": translate, "augment": augment, "lifted": lifted}[sys.argv[1]], 1536, 3584
    work(small)
    before = peak()
    work(large)
    print((peak() - before) / (large**2 - small**2))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from /proc")
@pytest.mark.parametrize(("work", "most"), [("translate", 30), ("augment", 36), ("lifted", 48)])
def test_a_large_image_takes_little_more_memory_than_itself_and_its_result(work, most):
    """Floats in and out are 24 bytes a pixel, bytes in and out 6 more, and the lifted image 12 at most.

    So 20,000 x 20,000 pixels fit in 16 GB without a lift, in 20 GB with one.
    """
    command = [sys.executable, "-c", textwrap.dedent(_SCRIPT), work]
    given_back = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": str(2**20),
    }  # else freed blocks of the small image stay in the peak
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=given_back)
    assert finished.returncode == 0, finished.stderr
    assert float(finished.stdout) < most
