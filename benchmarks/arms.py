"""Images a second of the augmentations that need no network, beside the same done with scikit-image or NumPy.

    OMP_NUM_THREADS=1 python benchmarks/arms.py [--side 256] [--rounds 15]

One Markdown table on standard output. Both sides get the same fields of the bundled sample, decoded and resized to the side, and
the same references; ours draw as well, the others do not. Each is run on all fields in turn, the best round counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.color import hsv2rgb, lab2rgb, rgb2hsv, rgb2lab
from skimage.exposure import match_histograms

import nucstyle.sample
from nucstyle.augment.base import Augmentation
from nucstyle.augment.colour import ColourJitter
from nucstyle.augment.fourier import FourierConfig, FourierSwap
from nucstyle.augment.histogram import HistogramMatch
from nucstyle.augment.recolour import Recolour
from nucstyle.augment.references import References
from nucstyle.augment.reinhard import Reinhard
from nucstyle.core.photometry import guess_polarity
from nucstyle.core.resize import resize_image
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample
from nucstyle.data.dataset import open_dataset

FIELDS, SHARE = 12, 0.01

Array = np.ndarray
Peer = Callable[[Array, Array], object]
"""Image and reference, (H, W, 3) float32 in [0, 1]."""


@dataclass(frozen=True)
class Arm:
    """What is compared."""

    name: str
    ours: Augmentation
    counterpart: str
    theirs: Peer


def jitter(image: Array, _: Array) -> object:
    """Hue, saturation and value by scikit-image."""
    hsv = rgb2hsv(image)
    hsv[..., 0] = (hsv[..., 0] + 0.05) % 1
    hsv[..., 1:] = (hsv[..., 1:] * 1.2).clip(0, 1)
    return hsv2rgb(hsv)


def lookup(image: Array, _: Array) -> object:
    """Colours of the source as ours are measured, then a curve for each channel, in NumPy."""
    pixels = image[::2, ::2].reshape(-1, 3)
    background, grey = np.median(pixels, axis=0), pixels.mean(axis=1)
    height = np.abs(grey - background.mean())
    top = np.quantile(height, 0.995)
    stops = np.array([0.0, height[height >= top / 2].mean(), height[height >= top].mean()]) + np.arange(3) * 1e-6
    every = np.abs(image.mean(axis=2) - background.mean())
    return np.stack(
        [np.interp(every, stops, colours) for colours in ([0.8, 0.6, 0.3], [0.8, 0.3, 0.1], [0.8, 0.6, 0.4])]
    )


def histogram(image: Array, reference: Array) -> object:
    """scikit-image."""
    return match_histograms(image, reference, channel_axis=2)


def histogram_8_bits(image: Array, reference: Array) -> object:
    """scikit-image, which has a shorter way for integers."""
    one, other = (np.rint(each * 255).astype(np.uint8) for each in (image, reference))
    return match_histograms(one, other, channel_axis=2).astype(np.float32) / 255


def reinhard(image: Array, reference_moments: Array) -> object:
    """Mean and deviation by scikit-image; the reference's are known."""
    lab = rgb2lab(image)
    mean, deviation = lab.mean(axis=(0, 1)), lab.std(axis=(0, 1))
    return lab2rgb((lab - mean) / (deviation + 1e-6) * reference_moments[1] + reference_moments[0])


def fourier(image: Array, reference_amplitude: Array) -> object:
    """The published way in NumPy; the reference's amplitude is known."""
    spectrum = np.fft.fftshift(np.fft.fft2(image, axes=(0, 1)), axes=(0, 1))
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    height, width = image.shape[:2]
    reach, middle, centre = int(SHARE * min(height, width)), height // 2, width // 2
    window = np.s_[middle - reach : middle + reach + 1, centre - reach : centre + reach + 1]
    amplitude[window] = reference_amplitude[window]
    swapped = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * phase), axes=(0, 1)), axes=(0, 1))
    return np.real(swapped).clip(0, 1)


def moments(reference: Array) -> Array:
    """(2, 3)."""
    lab = rgb2lab(reference)
    return np.stack([lab.mean(axis=(0, 1)), lab.std(axis=(0, 1))])


def amplitude_of(reference: Array) -> Array:
    """(H, W, 3)."""
    return np.abs(np.fft.fftshift(np.fft.fft2(reference, axes=(0, 1)), axes=(0, 1)))


def fields(side: int) -> list[Sample]:
    """Fields of the bundled sample, named by their sign."""
    data = open_dataset(nucstyle.sample.__path__[0])
    chosen = [data[index] for index in range(0, len(data), max(1, len(data) // FIELDS))]
    cut = [dataclasses.replace(one, image=resize_image(one.image, (side, side)), labels=None) for one in chosen]
    names = {1: "bright", -1: "dark"}
    return [dataclasses.replace(one, modality=names[guess_polarity(one.image)]) for one in cut]


def best_of(rounds: int, works: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of the best round of each, in turn."""
    best = [np.inf] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            started = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - started)
    return best


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*negative Z values")  # scikit-image clips them, as we do
    samples = fields(options.side)
    references = References.measure(samples, [str(one.modality) for one in samples], {"bright": 1, "dark": -1})
    images = [one.image.permute(1, 2, 0).contiguous().numpy() for one in samples]
    others = images[::-1]
    prepared: dict[Peer, list[Array]] = {reinhard: list(map(moments, others)), fourier: list(map(amplitude_of, others))}
    hsv = ColourJitter(p=1, hsv_p=1, contrast_p=0, gamma_p=0, shuffle_p=0, grey_p=0, invert_p=0)
    share = FourierConfig(share_low=SHARE, share_high=SHARE)
    arms = [
        Arm("colour, hue, saturation and value", hsv, "rgb2hsv, hsv2rgb", jitter),
        Arm("colour, every part", _every_part(), "rgb2hsv, hsv2rgb alone", jitter),
        Arm("recolour", Recolour(references, p=1), "np.median, np.quantile, np.interp", lookup),
        Arm("histogram", HistogramMatch(references, p=1), "match_histograms, float32", histogram),
        Arm("histogram", HistogramMatch(references, p=1), "match_histograms, uint8", histogram_8_bits),
        Arm("reinhard", Reinhard(references, p=1), "rgb2lab, lab2rgb", reinhard),
        Arm("fourier", FourierSwap(references, share, p=1), "np.fft", fourier),
    ]
    print("| arm | images a second | ms an image | counterpart | images a second | times |")
    print("| --- | ---: | ---: | --- | ---: | ---: |")
    for arm in arms:
        ours, theirs = best_of(options.rounds, _works(arm, samples, images, prepared.get(arm.theirs, others)))
        a_second, peer = len(samples) / ours, len(samples) / theirs
        print(
            f"| {arm.name} | {a_second:.0f} | {1e3 / a_second:.2f} | {arm.counterpart} | {peer:.0f} | {a_second / peer:.1f} |",
            flush=True,
        )
    print(f"\n{len(samples)} fields of {options.side} x {options.side}, {torch.get_num_threads()} thread(s) of torch.")


def _every_part() -> ColourJitter:
    return ColourJitter(p=1, hsv_p=1, contrast_p=1, gamma_p=1, shuffle_p=1, grey_p=1, invert_p=1)


def _works(
    arm: Arm, samples: Sequence[Sample], images: Sequence[Array], references: Sequence[Array]
) -> tuple[Callable[[], object], Callable[[], object]]:
    def ours() -> object:
        drawing = generator("arms", arm.name)
        return [arm.ours.augment(sample, drawing) for sample in samples]

    def theirs() -> object:
        return [arm.theirs(image, reference) for image, reference in zip(images, references, strict=True)]

    return ours, theirs


if __name__ == "__main__":
    main()
