"""Our training loop beside a plain hand-written one; ratios within one run.

Both train the same network on the same bytes, shuffled, cropped and flipped, by SGD with momentum under a one-cycle
schedule, in the same precision and layout. The plain loop is what a page of torch gives: a permutation, a crop of the
whole batch by one gather, and a scheduler of torch's. A few steps are taken in turn, so that what else the machine does
meets both; on a CPU seconds are those of the processor. Both have the memory of a worker (`hold_freed`, and
``GLIBC_TUNABLES`` by scripts/bench); with ``--bare`` and an empty ``GLIBC_TUNABLES`` neither has. With ``--at-once 2``
a second process trains beside, as a second trial would.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import machine
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.architectures import build
from autoprune.config import PRECISIONS, Numerics, TrainSpec
from autoprune.engine.images import ImageSet, Preprocess
from autoprune.engine.training import ImageFeed, Runtime, Training, default_device
from autoprune.pipeline.worker import hold_freed

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
A_TURN = 4  # Steps that each loop takes before the other goes on.
_WITHOUT_END = 10**6


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        name: Of the network.
        side: Of the images, pixels.
        batch: Images of a step.
        n_images: That there are, drawn at random.
    """

    name: str
    side: int = 32
    batch: int = 128
    n_images: int = 10_000

    @property
    def pad(self) -> int:
        """Pixels that images are padded by before they are cropped."""
        return self.side // 8

    def network(self) -> nn.Module:
        """It, with fresh weights."""
        return Airbench() if self.name == "airbench" else build(self.name, n_classes=10, in_channels=3)


CASES = {
    case.name: case
    for case in (
        Case("resnet20"),
        Case("mobilenet_v2"),
        Case("torchvision/resnet50", side=224, batch=32, n_images=320),
        Case("airbench", batch=1024),
    )
}
NETWORKS = ("resnet20", "mobilenet_v2")


class Airbench(nn.Module):
    """A network in the form of airbench94: convolutions of 2 x 2 and 3 x 3, GELU, 64, 256 and 256 channels.

    References:
        Jordan (2024), 94% on CIFAR-10 in 3.29 seconds on a single GPU, arXiv 2404.00498. Its first layer is whitened
        from data there, which changes nothing of what a step costs.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 64, 256, 256)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 2), nn.GELU()]
        for before, width in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.MaxPool2d(2)]
            layers += [nn.BatchNorm2d(width), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.MaxPool2d(3))
        self.head = nn.Linear(widths[-1], 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images of 32 x 32."""
        answer: Tensor = self.head(self.body(x).flatten(1)) / 9
        return answer


class Bytes(ImageSet):
    """Images drawn at random, held in memory."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(0)
        self.shape = (3, case.side, case.side)
        self.images = torch.randint(0, 256, (case.n_images, *self.shape), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, 10, (case.n_images,), generator=generator)

    def read(self, index_batches: Iterator[Tensor]) -> Iterator[Tensor]:  # type: ignore[override]
        """The images of each batch of indices."""
        return (self.images[indices] for indices in index_batches)

    def subset(self, indices: Tensor) -> ImageSet:
        """Never asked for."""
        raise NotImplementedError


def ours(case: Case, model: nn.Module, numerics: Numerics) -> Iterator[None]:
    """Turns of our loop."""
    spec = TrainSpec(epochs=1000, batch=case.batch, learning_rate=0.05, augmentation="crop_flip")
    runtime = Runtime(default_device(), "float32", Preprocess(MEAN, STD)).computed_in(numerics)
    training = Training(model, ImageFeed(Bytes(case)), spec, runtime=runtime, seed=0)
    while True:
        training.run(until=training.step + A_TURN)
        yield


def plainly(case: Case, model: nn.Module, numerics: Numerics) -> Iterator[None]:
    """Turns of a plain loop."""
    device, dtype, data = default_device(), getattr(torch, numerics.precision), Bytes(case)
    layout = torch.channels_last if numerics.layout == "channels_last" else torch.contiguous_format
    model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=_WITHOUT_END)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    step = 0
    while True:
        for indices in torch.randperm(case.n_images).split(case.batch):
            if len(indices) < case.batch:
                break
            pixels = cropped(data.images[indices], pad=case.pad).to(device, non_blocking=True)
            targets = data.labels[indices].to(device, non_blocking=True)
            inputs = ((pixels.float() - mean) / std).contiguous(memory_format=layout)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                logits = model(inputs)
            scaler.scale(F.cross_entropy(logits.float(), targets)).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            step += 1
            if step % A_TURN == 0:
                yield


def on_device(case: Case, model: nn.Module, numerics: Numerics) -> Iterator[None]:
    """Turns of a loop as in airbench: all images lie on the device, normalised; whole passes are augmented there."""
    device, dtype, data = default_device(), getattr(torch, numerics.precision), Bytes(case)
    layout = torch.channels_last if numerics.layout == "channels_last" else torch.contiguous_format
    model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    images, labels = (data.images.to(device).float() - mean) / std, data.labels.to(device)
    step = 0
    while True:
        seen = cropped(images, pad=case.pad)
        for indices in torch.randperm(case.n_images, device=device).split(case.batch):
            if len(indices) < case.batch:
                break
            inputs = seen[indices].contiguous(memory_format=layout)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                logits = model(inputs)
            scaler.scale(F.cross_entropy(logits.float(), labels[indices])).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
            if step % A_TURN == 0:
                yield


def cropped(images: Tensor, *, pad: int) -> Tensor:
    """Each image at a place of its own within its padding, half of them flipped."""
    n, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (pad,) * 4)
    rows = torch.randint(0, 2 * pad + 1, (n, 1), device=device) + torch.arange(height, device=device)
    columns = torch.randint(0, 2 * pad + 1, (n, 1), device=device) + torch.arange(width, device=device)
    columns = torch.where(torch.rand(n, 1, device=device) < 0.5, columns.flip(1), columns)
    every = torch.arange(n, device=device)[:, None, None]
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


Loop = Callable[[Case, nn.Module, Numerics], Iterator[None]]


def turn_s(turns: Iterator[None]) -> float:
    """Seconds of one more turn."""
    start = machine.now_s()
    next(turns)
    return machine.now_s() - start


@dataclass(frozen=True)
class Compared:
    """Two loops on one network.

    Args:
        case: What was trained.
        numerics: In what.
        speeds: Images a second of each, by name, ours first.
        ratio: Of the seconds of ours over the other's, the median of all turns; below and above it the quartiles.
    """

    case: Case
    numerics: Numerics
    speeds: dict[str, float]
    ratio: tuple[float, float, float]

    def __str__(self) -> str:
        told = "  ".join(f"{kind} {speed:8,.0f} images/s" for kind, speed in self.speeds.items())
        low, middle, high = self.ratio
        return (
            f"{self.case.name:<20} {self.numerics!s:<24} {told}  "
            f"ratio of seconds {middle:.3f} ({low:.3f} to {high:.3f})"
        )


def compare(case: Case, numerics: Numerics, *, rounds: int, beside: Loop = plainly) -> Compared:
    """Our loop and another one, in turn.

    Args:
        case: What they train.
        numerics: In what.
        rounds: Turns of each that are timed, at least two.
        beside: The other loop.
    """
    loops: dict[str, Loop] = {"ours": ours, beside.__name__: beside}
    turns = {kind: make(case, case.network(), numerics) for kind, make in loops.items()}
    times: dict[str, list[float]] = {kind: [] for kind in turns}
    for i in range(rounds + 1):
        for kind in turns if i % 2 else reversed(turns):
            taken = turn_s(turns[kind])
            if i:  # The first ones are slower.
                times[kind].append(taken)
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    speeds = {kind: A_TURN * case.batch / statistics.median(taken) for kind, taken in times.items()}
    return Compared(case, numerics, speeds, (low, middle, high))


@contextlib.contextmanager
def neighbours(n: int, case: Case, numerics: Numerics) -> Iterator[None]:
    """So many processes that train by our loop while what is within runs."""
    command = [sys.executable, __file__, "training", "--networks", case.name, "--precision", numerics.precision]
    beside = [subprocess.Popen([*command, "--without-end"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()


def main() -> None:
    """Compare the loops."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("training",))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=CASES)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    parser.add_argument("--at-once", type=int, default=1, help="processes that train at the same time")
    parser.add_argument("--bare", action="store_true", help="without a worker's way with memory")
    parser.add_argument("--without-end", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    numerics = Numerics(options.precision)
    if not options.bare:
        hold_freed()
    if options.without_end:
        (name,) = options.networks
        for _ in ours(CASES[name], CASES[name].network(), numerics):
            pass
    threads, at_once = torch.get_num_threads(), options.at_once
    print(f"{machine.described()}, torch {torch.__version__}, {threads} thread(s), {at_once} at once")
    for name in options.networks:
        with neighbours(at_once - 1, CASES[name], numerics):
            print(compare(CASES[name], numerics, rounds=options.rounds), flush=True)


if __name__ == "__main__":
    main()
