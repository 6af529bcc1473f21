"""Follows every channel through one forward pass, by carrying labels beside the activations.

Each position of each prunable axis (the inputs and outputs of a convolution or linear layer, the vectors of a batch
normalisation) is an *atom*. Beside every activation runs a tensor of the same shape that holds, at each place, the
atom that wrote it. Data movement (view, concatenate, shuffle, flatten) is applied to the labels as it is to the
activations, so index maps come out exact for any of it. Where two atoms meet at one place they belong to the same
channel: an *edge*. Where channels meet something that can't shrink with them, they are *pinned*, with the reason.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from autoprune.engine.asking import Forward, tensors_of
from autoprune.engine.attention import narrow_attention, unfused
from autoprune.engine.tracing.follower import Follower
from autoprune.engine.tracing.record import LabelRecord
from autoprune.errors import AutopruneError, NetworkError, first_line

__all__ = ["follow_labels"]


def follow_labels(model: nn.Module, example: Any, *, forward: Forward) -> LabelRecord:
    """Run ``model`` once on ``example`` and record which channels belong together.

    Args:
        model: Left as it is: a copy runs, in eval mode.
        example: A batch of one.
        forward: Runs the network on it.

    Raises:
        NetworkError: The network fails on the example, decides by values that it computed, or returns nothing
            that depends on its input.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise NetworkError(
                f"the network must be made of plain modules, but {name!r} is compiled (TorchScript), so that "
                "its operators can't be seen. Give the modules that it was compiled from."
            )
    try:
        model = narrow_attention(copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format))
    except Exception as error:
        raise NetworkError(
            f"the network must be copyable, but copying it failed: {first_line(error)}. Keep no computed tensors in it."
        ) from error
    follower = Follower(model)
    # Which channels belong together does not depend on the layout, but the operators that run do.
    inputs = tree_map(_plain, example)
    try:
        with torch.no_grad(), unfused(), follower.hooked(), follower:
            follower.begin(inputs)
            output = forward(model, inputs)
    except AutopruneError:
        raise
    except Exception as error:
        raise NetworkError(
            f"the network must run on one input of shape {_shapes(inputs)}, but it failed: {first_line(error)}. "
            "Check the input shape of the data and the number of input channels."
        ) from error
    return follower.end(output)


def _plain(leaf: Any) -> Any:
    return leaf.detach().clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf


def _shapes(inputs: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
