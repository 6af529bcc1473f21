"""The random numbers of one run of training: kept apart from the caller's, and saved with a paused run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["Randomness"]


class Randomness:
    """A generator of its own for the data; the global ones, for what a network draws, while it is in use.

    Args:
        device: Whose generator the network draws from, besides the CPU's.
        seed: Of all of them.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._seed, self._type = seed, device.type
        self._devices = [device] if device.type in ("cuda", "xpu") else []
        self._set_aside: dict[str, Tensor] = {}  # The global states, while those of the caller are in their place.
        self._is_in_use = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Take the global generators, and give them back as they were."""
        with torch.random.fork_rng(self._devices, device_type=self._type):
            if self._set_aside:
                torch.set_rng_state(self._set_aside["cpu"])
                for device in self._devices:
                    torch.get_device_module(device).set_rng_state(self._set_aside["device"], device)
            else:
                torch.manual_seed(self._seed)
            self._is_in_use = True
            try:
                yield
            finally:
                self._set_aside, self._is_in_use = self._global_states(), False

    def _global_states(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        for device in self._devices:
            states["device"] = torch.get_device_module(device).get_rng_state(device)
        return states

    def state_dict(self) -> dict[str, Tensor]:
        """The states of all generators."""
        return {"data": self.generator.get_state(), **(self._global_states() if self._is_in_use else self._set_aside)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on drawing where `state_dict` was taken."""
        self.generator.set_state(state["data"])
        self._set_aside = {name: tensor for name, tensor in state.items() if name != "data"}
