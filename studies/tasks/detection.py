"""A small RetinaNet on drawn shapes of images of several sizes: mean average precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

import autoprune
from studies.tasks.shapes import N_CLASSES, draw

WIDTHS = (16, 32, 48, 48)


def network() -> nn.Module:
    """What is pruned: all convolutions of backbone and heads but those that say classes and boxes."""
    layers: list[nn.Module] = []
    for n_in, n_out, stride in zip((3, *WIDTHS), WIDTHS, (2, 2, 2, 1), strict=False):
        layers += [nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    backbone: Any = nn.Sequential(*layers)
    backbone.out_channels = WIDTHS[-1]
    anchors = AnchorGenerator(sizes=((12, 18, 24),), aspect_ratios=((1.0,),))
    return RetinaNet(
        backbone,
        N_CLASSES,
        min_size=64,
        max_size=64,
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
        anchor_generator=anchors,
        topk_candidates=200,
        detections_per_img=20,
    )


def together(examples: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[tuple[Any, ...], ...]:
    """Images of several sizes can't be stacked."""
    return tuple(zip(*examples, strict=True))


def task() -> autoprune.Task:
    """What it is for."""

    def loader(n: int, *, seed: int, shuffle: bool = False) -> DataLoader[Any]:
        examples: list[Any] = []
        for part, size in enumerate((56, 64)):
            images, _, targets = draw(n // 2, size=size, seed=10 * seed + part, most=2)
            examples += list(zip(images, targets, strict=True))
        return DataLoader(examples, batch_size=16, shuffle=shuffle, collate_fn=together)  # type: ignore[arg-type]

    return autoprune.Task(
        kind="detection",
        train=loader(384, seed=0, shuffle=True),
        validation=loader(96, seed=1),
        test=loader(96, seed=2),
        example_inputs=[torch.zeros(3, 64, 64)],
        fingerprint="shapes of 56 and 64 pixels, 1",
    )
