"""Where and how networks run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autoprune.engine.images import Preprocess
from autoprune.errors import ConfigError

__all__ = ["Runtime", "default_device"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def default_device() -> torch.device:
    """The accelerator at hand, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


@dataclass(frozen=True)
class Runtime:
    """Where and how networks run: device, precision and normalisation, the same for a whole study."""

    device: torch.device
    precision: str
    preprocess: Preprocess

    def autocast(self) -> torch.autocast:
        """Mixed precision for the forward pass; off in float32."""
        dtype = _DTYPES[self.precision]
        if dtype is torch.float16 and self.device.type == "cpu":
            raise ConfigError("`precision` = 'float16' needs an accelerator, but there is none. Use 'bfloat16'.")
        # Cached casts would go stale within no_grad sections between optimizer steps.
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32, cache_enabled=False)
