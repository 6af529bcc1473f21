"""Weights of the layers that read removed channels, refitted so that they say what they said before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.engine.channels import Traced, padded, readers_of
from autoprune.widths import Kept

__all__ = ["compensate", "refitted"]

_PLACES = 16_384  # Of a layer's output that are looked at.
_RIDGE = 1e-3  # Of the mean variance of what is read.


def refitted(seen: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map that says best, in the mean square, what was said, from what is seen now.

    ``W = C_zx (C_xx + lambda I)^-1`` and ``b = E z - W E x``, with lambda a thousandth of the mean diagonal of C_xx.

    Args:
        seen: x, shape (P, I).
        said: z, shape (P, O).

    Returns:
        W, shape (O, I), and b, shape (O,), in float64.

    References:
        He, Zhang and Sun (2017), arXiv 1707.06168; Luo, Wu and Lin (2017), arXiv 1707.06342.
    """
    x, z = seen.double(), said.double()
    mean_x, mean_z = x.mean(0), z.mean(0)
    x, z = x - mean_x, z - mean_z
    moments = x.T @ x / len(x)
    ridge = _RIDGE * moments.diagonal().mean().clamp_min(1e-30)
    eye = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    weights = torch.linalg.solve(moments + ridge * eye, x.T @ z / len(x)).T
    return weights, mean_z - weights @ mean_x


@torch.no_grad()
def compensate(small: nn.Module, whole: nn.Module, traced: Traced, *, kept: Kept, inputs: Any) -> nn.Module:
    """Refit every layer that reads channels some of which were removed, one after the other in the order they run.

    Each is refitted just before it runs, so it sees what the layers before it say after their own refit; it is to say
    what it said in the network that was cut. Normalisations use the statistics of the batch. Depthwise layers hand
    channels on, and grouped ones are left as they are.

    Args:
        small: What surgery made; changed in place, to be recalibrated afterwards.
        whole: What it was cut from; left as it is.
        traced: Of ``whole``.
        kept: What stayed of it.
        inputs: A batch of inputs, such as normalised images (N, C, H, W), on the networks' device.
    """
    lost = {group.name for group in traced.groups if len(kept.get(group.name, range(group.width))) < group.width}
    names = {
        member.module
        for group in traced.groups
        if group.name in lost
        for member in readers_of(whole, group)
        if _is_plain(whole.get_submodule(member.module))
    }
    said = _answers(whole, sorted(names), lambda: traced.forward(whole.eval(), inputs))
    names &= said.keys()  # A layer is not called where others multiply with its weight.
    gone = {name: _gone(traced, kept, name) for name in names}

    def refit(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        whole_answer = said.pop(name)
        stays = torch.ones(whole_answer.shape[1], dtype=torch.bool, device=whole_answer.device)
        stays[gone[name]] = False
        weights, bias = refitted(_patches(module, args[0]), whole_answer[:, stays])
        weight = module.weight
        assert isinstance(weight, Tensor)
        weight.copy_(weights.reshape(weight.shape).to(weight))
        if isinstance(module.bias, Tensor):
            module.bias.copy_(bias.to(module.bias))

    handles = [
        small.get_submodule(name).register_forward_pre_hook(functools.partial(refit, name)) for name in sorted(names)
    ]
    modes = {module: module.training for module in small.modules()}
    try:
        _use_batch_statistics(small)
        traced.forward(small, inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return small


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _use_batch_statistics(model: nn.Module) -> None:
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()


def _answers(model: nn.Module, names: Iterable[str], run: Callable[[], object]) -> dict[str, Tensor]:
    """What layers say at the places that are looked at, by name, shape (P, O)."""
    said: dict[str, Tensor] = {}

    def hear(module: nn.Module, _: tuple[Tensor, ...], output: Tensor, *, name: str) -> None:
        flat = output.flatten(2).transpose(1, 2) if isinstance(module, nn.Conv2d) else output
        flat = flat.reshape(-1, flat.shape[-1])
        said[name] = flat[_places(len(flat), flat.device)]

    handles = [model.get_submodule(name).register_forward_hook(functools.partial(hear, name=name)) for name in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return said


def _patches(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer reads for the places that are looked at, shape (P, I * K)."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])[_places(x.numel() // x.shape[-1], x.device)]
    assert isinstance(module, nn.Conv2d)
    columns = F.unfold(padded(module, x), module.kernel_size, module.dilation, 0, module.stride).transpose(1, 2)
    return columns.reshape(-1, columns.shape[-1])[_places(columns.shape[0] * columns.shape[1], x.device)]


def _places(n: int, device: torch.device) -> Tensor:
    """Which of ``n`` places are looked at: at most so many, drawn alike for every network."""
    if n <= _PLACES:
        return torch.arange(n, device=device)
    return torch.randperm(n, generator=torch.Generator().manual_seed(n))[:_PLACES].to(device)


def _gone(traced: Traced, kept: Kept, name: str) -> list[int]:
    """The outputs of a layer that were removed."""
    gone: list[int] = []
    for group in traced.groups:
        leaving = np.ones(group.width, dtype=np.bool_)
        leaving[kept.get(group.name, np.arange(group.width))] = False
        for member in group.members:
            if (member.module, member.axis) == (name, "out"):
                gone += member.index[leaving].ravel().tolist()
    return gone
