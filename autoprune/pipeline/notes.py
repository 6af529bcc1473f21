"""What of a network is in the way of a study without stopping it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["notes_on"]

_NAMED = 3


def notes_on(network: nn.Module) -> tuple[str, ...]:
    """Sentences on layers that parts of autoprune can do nothing with; pretrained detectors have such.

    Args:
        network: The dense network.
    """
    frozen = [name for name, module in network.named_modules() if _has_fixed_statistics(module)]
    if not frozen:
        return ()
    more = f" and {len(frozen) - _NAMED} more" if len(frozen) > _NAMED else ""
    kind = type(network.get_submodule(frozen[0])).__name__
    note = (
        f"{', '.join(frozen[:_NAMED])}{more} are normalisations with fixed statistics ({kind}): recalibration does "
        "nothing there, and penalties act on norms of filters in place of their scales. Build the network with "
        "BatchNorm2d to have both, as `norm_layer=nn.BatchNorm2d` does in torchvision."
    )
    return (note,)


def _has_fixed_statistics(module: nn.Module) -> bool:
    """Whether it normalises by numbers that training does not estimate."""
    statistics = (getattr(module, "running_mean", None), getattr(module, "running_var", None))
    return not isinstance(module, _BatchNorm) and all(isinstance(each, Tensor) for each in statistics)
