"""Seconds of training and of scoring an image over widths: what odd widths cost on this device.

One network of 3 x 3 convolutions with BatchNorm, all of one width C, is trained and scored at one width after another,
a step of each in turn, so that what else the machine does meets all. Told are nanoseconds per million MACs, over those
of the widest multiple of 16: 1.5 says that a MAC takes half as long again at that width.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import machine
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.config import LAYOUTS, PRECISIONS, Numerics
from autoprune.engine.images import Preprocess
from autoprune.engine.training import Runtime, default_device

WIDTHS = (8, 9, 12, 15, 16, 17, 20, 23, 24, 25, 28, 31, 32, 33, 40, 47, 48, 49, 56, 63, 64)
SIDE, BATCH, DEPTH = 16, 64, 4


@dataclass(frozen=True)
class AtWidth:
    """What a width costs.

    Args:
        width: Channels.
        macs: Of one image.
        training_s: Seconds of an image, trained.
        scoring_s: Seconds of an image, scored.
    """

    width: int
    macs: int
    training_s: float
    scoring_s: float


def network(width: int) -> nn.Module:
    """Convolutions of one width, with a linear layer behind them."""
    layers: list[nn.Module] = []
    for before in (3, *[width] * (DEPTH - 1)):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def macs_of(width: int) -> int:
    """MACs of the network for one image."""
    return SIDE**2 * 9 * width * (3 + (DEPTH - 1) * width) + 10 * width


class _Timed:
    """A network of a width, of which single steps are timed."""

    def __init__(self, width: int, runtime: Runtime, batch: int) -> None:
        self.model = runtime.place(network(width))
        self._runtime, self._optimizer = runtime, torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9)
        images = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8)
        self._inputs = runtime.inputs(images)
        self._labels = torch.randint(0, 10, (batch,), device=runtime.device)

    def train(self) -> None:
        """One step."""
        self.model.train()
        self._optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self._answer().float(), self._labels).backward()
        self._optimizer.step()

    def score(self) -> None:
        """One pass."""
        self.model.eval()
        with torch.inference_mode():
            self._answer()

    def _answer(self) -> Tensor:
        with self._runtime.autocast():
            answer: Tensor = self.model(self._inputs)
        return answer


def measure(widths: Sequence[int], numerics: Numerics, *, rounds: int, batch: int = BATCH) -> list[AtWidth]:
    """Time all widths in turn; medians of the rounds after a first one.

    Args:
        widths: Channels.
        numerics: What is computed in.
        rounds: That are timed, >= 1.
        batch: Images of a step.
    """
    runtime = Runtime(default_device(), "float32", Preprocess((0.5,) * 3, (0.25,) * 3)).computed_in(numerics)
    networks = {width: _Timed(width, runtime, batch) for width in widths}
    taken: dict[tuple[int, str], list[float]] = {}
    for turn in range(rounds + 1):
        for width, timed in networks.items():
            for kind in ("train", "score"):
                start = machine.now_s()
                getattr(timed, kind)()
                if turn:
                    taken.setdefault((width, kind), []).append((machine.now_s() - start) / batch)
    medians = {key: statistics.median(seconds) for key, seconds in taken.items()}
    return [AtWidth(w, macs_of(w), medians[w, "train"], medians[w, "score"]) for w in widths]


def beside_multiples(found: Sequence[AtWidth]) -> list[tuple[int, float, float]]:
    """Each width with its seconds per MAC of training and of scoring, over those of the widest multiple of 16."""
    best = max((each for each in found if each.width % 16 == 0), key=lambda each: each.width)

    def per_mac(each: AtWidth) -> tuple[float, float]:
        return each.training_s / each.macs, each.scoring_s / each.macs

    training, scoring = per_mac(best)
    return [(each.width, per_mac(each)[0] / training, per_mac(each)[1] / scoring) for each in found]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("widths",))
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS), help="with a multiple of 16 among them")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=BATCH)
    options = parser.parse_args()
    if not any(width % 16 == 0 for width in options.widths):
        parser.error("`--widths` must name a multiple of 16, which the others are held against.")
    numerics = Numerics(options.precision, options.layout)
    print(f"{machine.described()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), {numerics}\n")
    found = measure(options.widths, numerics, rounds=options.rounds, batch=options.batch)
    print("| width | training, µs an image | scoring, µs an image | training per MAC | scoring per MAC |")
    print("|---|---|---|---|---|")
    for each, (_, training, scoring) in zip(found, beside_multiples(found), strict=True):
        print(
            f"| {each.width} | {1e6 * each.training_s:.1f} | {1e6 * each.scoring_s:.1f} "
            f"| {training:.2f} | {scoring:.2f} |"
        )


if __name__ == "__main__":
    main()
