"""Where and how networks run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config import Numerics
from autoprune.engine.asking import laid, moved
from autoprune.engine.images import Preprocess
from autoprune.errors import ConfigError

__all__ = ["Runtime", "default_device"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def default_device() -> torch.device:
    """The accelerator at hand, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


@dataclass(frozen=True)
class Runtime:
    """Where and how networks run, the same for a whole study.

    Args:
        device: Of weights and images.
        precision: Of the forward pass: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        preprocess: Normalisation of images; None where inputs come from loaders, which have them ready.
        memory_format: Layout of weights and images; contiguous where a network fails on the faster one.
        compiled_from: Steps of a phase from which on the network is compiled for its training; None: never.
    """

    device: torch.device
    precision: str
    preprocess: Preprocess | None
    memory_format: torch.memory_format = torch.channels_last
    compiled_from: int | None = None

    def computed_in(self, numerics: Numerics, *, compiled_from: int | None = None) -> Runtime:
        """The same device in another precision and layout, and compiled or not."""
        layout = _LAYOUTS[numerics.layout]
        return dataclasses.replace(
            self, precision=numerics.precision, memory_format=layout, compiled_from=compiled_from
        )

    def inputs(self, images: Tensor) -> Tensor:
        """What a network is shown of a uint8 batch, shape (N, C, H, W): normalised, on the device, in the layout."""
        assert self.preprocess is not None
        return self.preprocess(images, self.device).contiguous(memory_format=self.memory_format)

    def bring(self, values: Any) -> Any:
        """A batch of any structure on the device, maps of floats, shape (N, C, H, W), in the layout."""
        return laid(moved(values, self.device), self.memory_format)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network, in place, to the device and the layout; the same network."""
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def autocast(self) -> torch.autocast:
        """Mixed precision for the forward pass; off in float32."""
        dtype = _DTYPES[self.precision]
        if dtype is torch.float16 and self.device.type == "cpu":
            raise ConfigError("`precision` = 'float16' needs an accelerator, but there is none. Use 'bfloat16'.")
        # Cached casts would go stale within no_grad sections between optimizer steps.
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32, cache_enabled=False)
