"""Our training loop beside a plain hand-written one; ratios within one run.

Both train the same network on the same bytes of CIFAR-10's size, shuffled, cropped and flipped, by SGD with momentum
under a one-cycle schedule, in the same precision and layout. The plain loop is what a page of torch gives: a
permutation, a crop of the whole batch by one gather, and a scheduler of torch's. A few steps are taken in turn, so that
what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import machine
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.architectures import build
from autoprune.config import PRECISIONS, Numerics, TrainSpec
from autoprune.engine.images import ImageSet, Preprocess
from autoprune.engine.training import ImageFeed, Runtime, Training, default_device

NETWORKS = ("resnet20", "mobilenet_v2")
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
N_IMAGES, BATCH, PAD = 10_000, 128, 4
A_TURN = 4  # Steps that each loop takes before the other goes on.


class Bytes(ImageSet):
    """Images drawn at random, held in memory."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (N_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, 10, (N_IMAGES,), generator=generator)
        self.shape = (3, 32, 32)

    def read(self, index_batches: Iterator[Tensor]) -> Iterator[Tensor]:  # type: ignore[override]
        """The images of each batch of indices."""
        return (self.images[indices] for indices in index_batches)

    def subset(self, indices: Tensor) -> ImageSet:
        """Never asked for."""
        raise NotImplementedError


def ours(model: nn.Module, data: Bytes, numerics: Numerics) -> Iterator[None]:
    """Turns of our loop."""
    spec = TrainSpec(epochs=100, batch=BATCH, learning_rate=0.05, augmentation="crop_flip")
    runtime = Runtime(default_device(), "float32", Preprocess(MEAN, STD)).computed_in(numerics)
    training = Training(model, ImageFeed(data), spec, runtime=runtime, seed=0)
    while True:
        training.run(until=training.step + A_TURN)
        yield


def plainly(model: nn.Module, data: Bytes, numerics: Numerics) -> Iterator[None]:
    """Turns of a plain loop."""
    device, dtype = default_device(), getattr(torch, numerics.precision)
    layout = torch.channels_last if numerics.layout == "channels_last" else torch.contiguous_format
    model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=100 * (N_IMAGES // BATCH))
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    step = 0
    while True:
        for indices in torch.randperm(N_IMAGES).split(BATCH):
            if len(indices) < BATCH:
                break
            pixels = cropped(data.images[indices]).to(device, non_blocking=True)
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


def cropped(images: Tensor) -> Tensor:
    """Each image at a place of its own within its padding, half of them flipped."""
    n, _, height, width = images.shape
    padded = F.pad(images, (PAD,) * 4)
    rows = torch.randint(0, 2 * PAD + 1, (n, 1)) + torch.arange(height)
    columns = torch.randint(0, 2 * PAD + 1, (n, 1)) + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def turn_s(turns: Iterator[None]) -> float:
    """Seconds of one more turn."""
    start = time.perf_counter()
    next(turns)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def compare(name: str, numerics: Numerics, *, rounds: int) -> None:
    """Print the ratio for one network."""
    data = Bytes()
    loops: dict[str, Callable[[nn.Module, Bytes, Numerics], Iterator[None]]] = {"ours": ours, "plainly": plainly}
    turns = {kind: make(build(name, n_classes=10, in_channels=3), data, numerics) for kind, make in loops.items()}
    times: dict[str, list[float]] = {kind: [] for kind in turns}
    for i in range(rounds + 1):
        for kind in turns if i % 2 else reversed(turns):
            taken = turn_s(turns[kind])
            if i:  # The first ones are slower.
                times[kind].append(taken)
    ratios = [a / b for a, b in zip(times["ours"], times["plainly"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    speeds = {kind: A_TURN * BATCH / statistics.median(taken) for kind, taken in times.items()}
    told = "  ".join(f"{kind} {speed:8,.0f} images/s" for kind, speed in speeds.items())
    print(
        f"{name:<12} {numerics!s:<24} {told}  ratio of seconds {middle:.3f} ({low:.3f} to {high:.3f})",
        flush=True,
    )


def main() -> None:
    """Compare the loops."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("training",))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    options = parser.parse_args()
    print(f"{machine.described()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), batch {BATCH}")
    for name in options.networks:
        compare(name, Numerics(options.precision), rounds=options.rounds)


if __name__ == "__main__":
    main()
