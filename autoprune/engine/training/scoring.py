"""BN recalibration, and top-1 accuracy."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.engine.asking import Forward, ask
from autoprune.engine.contracts import Batches
from autoprune.engine.images import ImageSet
from autoprune.engine.training.runtime import Runtime

__all__ = ["accuracy", "recalibrate"]


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Batches, *, runtime: Runtime, forward: Forward = ask) -> None:
    """Re-estimate the running statistics of every BatchNorm by plain averages over fresh batches.

    Args:
        model: Changed in place; left in evaluation mode.
        batches: Of training inputs, seen without augmentation; at least one.
        runtime: Device, precision.
        forward: Runs the whole network.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    runtime.place(model).eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # A cumulative average instead of an exponential one.
        norm.train()
    for inputs, _ in batches:
        with runtime.autocast():
            forward(model, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def accuracy(model: nn.Module, images: ImageSet, *, runtime: Runtime, batch: int = 500) -> float:
    """Top-1 accuracy in [0, 1]; ``model`` is left in evaluation mode."""
    # Outside of inference mode: a tensor that is moved within it can't be trained afterwards.
    runtime.place(model).eval()
    index_batches = torch.arange(len(images)).split(batch)
    correct = torch.zeros((), dtype=torch.int64, device=runtime.device)
    with torch.inference_mode():
        for indices, pixels in zip(index_batches, images.read(index_batches), strict=True):
            with runtime.autocast():
                predicted = model(runtime.inputs(pixels)).argmax(1)
            correct += (predicted == images.labels[indices].to(runtime.device)).sum()
    return int(correct) / len(images)
