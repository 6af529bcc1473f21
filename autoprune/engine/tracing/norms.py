"""Which normalisation is alone right behind a layer."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from autoprune.engine.asking import Forward, drawn_like, moved
from autoprune.engine.watching import OperatorMode

__all__ = ["norms_behind"]


def norms_behind(model: nn.Module, example: Any, *, forward: Forward) -> dict[str, str]:
    """The BatchNorm that is alone right behind a convolution or linear layer, by the layer's name.

    Args:
        model: Left as it is: a copy runs, in evaluation mode.
        example: A batch of one, of which the structure matters.
        forward: Runs the network on it.
    """
    copied = copy.deepcopy(model).eval()
    watcher = _Watcher(copied)
    for module in copied.modules():
        if isinstance(module, (_BatchNorm, _ConvNd, nn.Linear)):
            module.register_forward_hook(watcher.watch)
    inputs, parameter = drawn_like(example, torch.Generator().manual_seed(0)), next(model.parameters())
    with torch.no_grad(), watcher:
        forward(copied, moved(inputs, parameter.device, dtype=parameter.dtype))
    return {layer: norm for layer, (norm, between) in watcher.behind.items() if watcher.uses[between] == 1}


class _Watcher(OperatorMode):
    """Sees in one pass which normalisations read what a layer wrote, and who else does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.behind: dict[str, tuple[str, int]] = {}  # layer: its normalisation, and the id of what is between
        self.uses: Counter[int] = Counter()
        self._names = {module: name for name, module in model.named_modules()}
        self._written: dict[int, tuple[str, Tensor]] = {}  # holding the tensors keeps their ids from being given away
        self._paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._paused:
            self.uses.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._written)
        return func(*args, **(kwargs or {}))

    def watch(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of every layer that writes or normalises."""
        self._paused = True
        name, x = self._names[module], args[0]
        if not isinstance(module, _BatchNorm):
            self._written[id(output)] = (name, output)
        elif id(x) in self._written:
            self.behind[self._written[id(x)][0]] = (name, id(x))
        self._paused = False
