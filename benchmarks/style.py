"""How long a step of the style trainings takes, beside a literal schedule of the published code.

    python benchmarks/style.py [--steps 5]

`literal` runs the networks of the recipe `paper` in fp32 and in the order of MDMM's code (described in arXiv 1905.01270 and
at https://github.com/HsinYingLee/MDMM): the content critic, then the image critics, then encoders and generator, then the
latent regression by itself; each part does its own forward passes, one half of the batch after the other. `paper` and `lite`
are steps of our trainer as `train-style` takes them, batches included; `paper` without its further batches for the content
critic, which the literal step does not have either. Images are random numbers: time does not depend on what is seen. Run it
alone on the machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nucstyle.core.precision import autocast, resolve_precision
from nucstyle.core.rng import generator
from nucstyle.core.sample import Sample
from nucstyle.style import losses
from nucstyle.style.method import make_critics, make_networks
from nucstyle.style.networks import Content
from nucstyle.training.style_trainer import StyleBatches, StyleTrainer
from nucstyle.workflows.load import load_trunk
from nucstyle.workflows.recipes import style_recipe

POLARITY = (1, -1, -1, -1, -1, -1)


class Literal:
    """The published schedule with the published networks in fp32."""

    def __init__(self) -> None:
        recipe = style_recipe("paper")
        torch.manual_seed(0)
        self.networks = make_networks(recipe.network, POLARITY)
        self.critics = make_critics(recipe.network, len(POLARITY), None)
        self.optimizers = {
            name: torch.optim.Adam(module.parameters(), 1e-4, betas=(0.5, 0.999), weight_decay=1e-4)
            for name, module in {
                "content": self.critics.content,
                "first": self.critics.image[0],
                "second": self.critics.image[1],
                "translation": self.networks,
            }.items()
        }
        self.side = recipe.crop.size_px
        self.random = torch.randn(1, recipe.network.attribute_size)

    def step(self) -> None:
        """One update of every network."""
        a, b = torch.rand(2, 1, 3, self.side, self.side) * 2 - 1
        self._update("content", self._content_critic(a, b))
        self._update("first", self._image_critic(0, a, b, random=False))
        self._update("second", self._image_critic(1, a, b, random=True))
        self._update("translation", self._translation(a, b))
        self._update("translation", self._latent(a, b))

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()

    def _content(self, image: Tensor, domain: int) -> Content:
        encoded = self.networks.encode_content(image, torch.tensor([domain]), torch.zeros(1, 6))
        return encoded.plus(torch.randn_like(encoded.code))

    def _attribute(self, image: Tensor, domain: int) -> Tensor:
        encoded = self.networks.encode_attribute(image, torch.tensor([domain]), torch.zeros(1, 6))
        return encoded.draw(torch.randn_like(encoded.mean))

    def _generate(self, content: Content, attribute: Tensor, domain: int) -> Tensor:
        return self.networks.generate(content, attribute, torch.tensor([domain]), torch.zeros(1, 1, 1, 1))

    def _exchange(self, a: Tensor, b: Tensor, *, random: bool) -> tuple[Tensor, Tensor]:
        c_a, c_b = self._content(a, 0), self._content(b, 1)
        s_a = self.random if random else self._attribute(a, 0)
        s_b = self.random if random else self._attribute(b, 1)
        return self._generate(c_b, s_a, 0), self._generate(c_a, s_b, 1)

    def _content_critic(self, a: Tensor, b: Tensor) -> Tensor:
        logits = [self.critics.content(self._content(one, number).code.detach()) for number, one in enumerate((a, b))]
        return sum(losses.modality_loss(one, torch.tensor([number])) for number, one in enumerate(logits))

    def _image_critic(self, which: int, a: Tensor, b: Tensor, *, random: bool) -> Tensor:
        made = [one.detach() for one in self._exchange(a, b, random=random)]
        total = torch.zeros(())
        for number, (real, fake) in enumerate(zip((a, b), made, strict=True)):
            maps, logits = self.critics.image[which](real, torch.zeros(1, len(POLARITY)))
            others, _ = self.critics.image[which](fake, torch.zeros(1, len(POLARITY)))
            total = total + losses.critic_loss(maps, others, "cross-entropy")
            total = total + losses.modality_loss(logits, torch.tensor([number]))
        return total

    def _judged(self, which: int, image: Tensor, domain: int) -> Tensor:
        maps, logits = self.critics.image[which](image, torch.zeros(1, len(POLARITY)))
        return losses.deception_loss(maps, "cross-entropy") + 5 * losses.modality_loss(logits, torch.tensor([domain]))

    def _translation(self, a: Tensor, b: Tensor) -> Tensor:
        c_a, c_b, s_a, s_b = self._content(a, 0), self._content(b, 1), self._attribute(a, 0), self._attribute(b, 1)
        own = (self._generate(c_a, s_a, 0), self._generate(c_b, s_b, 1))
        crossed = (self._generate(c_b, s_a, 0), self._generate(c_a, s_b, 1))
        drawn = (self._generate(c_b, self.random, 0), self._generate(c_a, self.random, 1))
        c_b2, c_a2 = self._content(crossed[0], 0), self._content(crossed[1], 1)
        cycle = (
            self._generate(c_a2, self._attribute(crossed[0], 0), 0),
            self._generate(c_b2, self._attribute(crossed[1], 1), 1),
        )
        total = torch.zeros(())
        for number, real in enumerate((a, b)):
            total = total + self._judged(0, crossed[number], number) + self._judged(1, drawn[number], number)
            total = total + 10 * losses.reconstruction_loss(own[number], real)
            total = total + 10 * losses.reconstruction_loss(cycle[number], real)
            content = (c_a, c_b)[number].code
            total = total + losses.confusion_loss(self.critics.content(content)) + 0.01 * content.square().mean()
        return total

    def _latent(self, a: Tensor, b: Tensor) -> Tensor:
        drawn = self._exchange(a, b, random=True)
        total = torch.zeros(())
        for number, image in enumerate(drawn):
            encoded = self.networks.encode_attribute(image, torch.tensor([number]), torch.zeros(1, 6))
            total = total + 10 * losses.latent_loss(encoded.mean, self.random)
        return total


def ours(name: str) -> Callable[[int], object]:
    """Steps of our trainer on random images."""
    recipe = style_recipe(name, ["content_critic_extra=0"])
    drawn = generator("benchmark")
    samples = [Sample(id=str(number), image=torch.rand(3, 256, 256, generator=drawn)) for number in range(6)]
    batches = StyleBatches(samples, range(6), POLARITY, recipe, 0)
    format_ = autocast("cpu", resolve_precision("auto", "cpu"))
    trainer = StyleTrainer(batches, POLARITY, recipe, device="cpu", autocast=format_, seed=0, trunk=load_trunk())
    return trainer.step


def timed(step: Callable[[int], object], steps: int) -> list[float]:
    """Seconds of each step after two that warm up."""
    taken = []
    for number in range(1, steps + 3):
        started = time.perf_counter()
        step(number)
        taken.append(time.perf_counter() - started)
    return taken[2:]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    steps = parser.parse_args().steps
    literal = Literal()
    medians = {}
    print("| step | seconds, median (least, most) | times | peak memory so far, GiB |\n| --- | --- | --- | --- |")
    for name, step in (("lite", ours("lite")), ("paper", ours("paper")), ("literal", lambda _: literal.step())):
        taken = timed(step, steps)
        medians[name] = statistics.median(taken)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {name} | {medians[name]:.2f} ({min(taken):.2f}, {max(taken):.2f}) | | {peak:.1f} |", flush=True)
    print(f"\nliteral / paper = {medians['literal'] / medians['paper']:.1f}")


if __name__ == "__main__":
    main()
