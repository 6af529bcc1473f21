"""Layers that compute their weights become layers that have them."""

from __future__ import annotations

import logging

from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["plain_weights"]

_log = logging.getLogger(__name__)


def plain_weights(model: nn.Module) -> nn.Module:
    """Take parametrisations (weight norm, spectral norm, ...) off a network, in place: it answers as before.

    What a parametrisation makes of a weight may depend on all of its channels, so a slice of what it is made of would
    not be a slice of the weight.

    Args:
        model: With its trained weights.

    Returns:
        The network, whose weights are parameters of their own by their plain names.
    """
    found = []
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            found.append(name)
            for tensor in list(module.parametrizations):
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                found.append(name)
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                found.append(name)
                remove_spectral_norm(module, hook.name)
                _forget_names(module)
    if found:
        _log.warning(
            "weights that %s computed are plain parameters from here on, as they are", ", ".join(dict.fromkeys(found))
        )
    return model


def _forget_names(module: nn.Module) -> None:
    """Drop what would ask a state_dict for the names of before, which torch leaves behind: it wraps the hook."""
    hooks = module._load_state_dict_pre_hooks
    for key, hook in list(hooks.items()):
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del hooks[key]
