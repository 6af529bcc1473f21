"""The random numbers of one run: kept apart from the caller's, and saved with a paused run.

Loaders, data sets and networks of users draw from torch's, NumPy's or Python's global generator; all three are held.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Randomness", "apart", "seeded"]


@contextmanager
def apart(devices: Sequence[torch.device] = (), *, device_type: str = "cpu") -> Iterator[None]:
    """Give the global generators back as they were: the CPU's, and those of devices of one type."""
    with torch.random.fork_rng(devices, device_type=device_type):
        before = _Host.now()
        try:
            yield
        finally:
            before.set()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start the CPU's global generators from a seed, and give them back as they were."""
    with apart():
        _seed(seed)
        yield


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
        self._set_aside: _States | None = None  # Of the global ones, while those of the caller are in their place.
        self._is_in_use = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Take the global generators, and give them back as they were."""
        with apart(self._devices, device_type=self._type):
            if self._set_aside is None:
                _seed(self._seed)
            else:
                self._set_aside.set(self._devices)
            self._is_in_use = True
            try:
                yield
            finally:
                self._set_aside, self._is_in_use = _States.now(self._devices), False

    def state_dict(self) -> dict[str, Tensor]:
        """The states of all generators."""
        states = _States.now(self._devices) if self._is_in_use else self._set_aside
        return {"data": self.generator.get_state(), **({} if states is None else states.to_tensors())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on drawing where `state_dict` was taken."""
        self.generator.set_state(state["data"])
        if "cpu" in state:
            self._set_aside = _States.from_tensors(state, seed=self._seed)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # The global one is what data sets of users draw from.
    random.seed(seed)


@dataclass(frozen=True)
class _Host:
    """The states of NumPy's and Python's global generators."""

    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> _Host:
        return cls(np.random.get_state(), random.getstate())  # noqa: NPY002

    def set(self) -> None:
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)

    def to_tensors(self) -> dict[str, Tensor]:
        """To be saved like torch's; float64 holds the words of both exactly."""
        _, words, place, has_gauss, gauss = self.numpy
        _, numbers, left = self.python
        return {
            "numpy": torch.tensor([*words.tolist(), place, has_gauss, gauss], dtype=torch.float64),
            "python": torch.tensor([*numbers, left is not None, left or 0.0], dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, state: Mapping[str, Tensor], *, seed: int) -> _Host:
        """Earlier versions saved none: the generators then start from the seed."""
        if "numpy" not in state:
            return cls(np.random.RandomState(seed % 2**32).get_state(), random.Random(seed).getstate())
        *words, place, has_gauss, gauss = state["numpy"].tolist()
        *numbers, has_left, left = state["python"].tolist()
        told = ("MT19937", np.array(words, dtype=np.uint32), int(place), int(has_gauss), gauss)
        return cls(told, (3, tuple(map(int, numbers)), left if has_left else None))


@dataclass(frozen=True)
class _States:
    """The states of all global generators."""

    cpu: Tensor
    devices: tuple[Tensor, ...]
    host: _Host

    @classmethod
    def now(cls, devices: Sequence[torch.device]) -> _States:
        told = tuple(torch.get_device_module(device).get_rng_state(device) for device in devices)
        return cls(torch.get_rng_state(), told, _Host.now())

    def set(self, devices: Sequence[torch.device]) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in zip(devices, self.devices, strict=True):
            torch.get_device_module(device).set_rng_state(state, device)
        self.host.set()

    def to_tensors(self) -> dict[str, Tensor]:
        return {"cpu": self.cpu, **({"device": self.devices[0]} if self.devices else {}), **self.host.to_tensors()}

    @classmethod
    def from_tensors(cls, state: Mapping[str, Tensor], *, seed: int) -> _States:
        devices = (state["device"],) if "device" in state else ()
        return cls(state["cpu"], devices, _Host.from_tensors(state, seed=seed))
