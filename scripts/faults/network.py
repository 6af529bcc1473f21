"""A small network that misbehaves once when it is told to; its file is copied beside the study that has it.

Whoever puts a file ``trouble`` beside this one has one worker do in its training what the file says: the worker that
renames the file to ``trouble.PID`` is the one.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["Net"]

_TROUBLE = Path(__file__).with_name("trouble")
_IS_WORKER = "default_worker" in sys.argv[0]  # Drivers open the network, too, and must not be hit in a worker's place.


class Net(nn.Module):
    """Three convolutions for grey images of 8×8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (N, 1, H, W) to logits of shape (N, 10)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        x = self.fc(x.mean((2, 3)))
        if self.training and _IS_WORKER and (told := _told()):
            x = _TROUBLES[told](x)
        return x


def _told() -> str | None:
    if not _TROUBLE.exists():
        return None
    mine = _TROUBLE.with_name(f"trouble.{os.getpid()}")
    try:
        os.rename(_TROUBLE, mine)
    except OSError:  # Another worker was quicker.
        return None
    return mine.read_text()


def _hang(x: Tensor) -> Tensor:
    time.sleep(3600)
    return x


def _nan(x: Tensor) -> Tensor:
    return x * float("nan")


def _out_of_memory(x: Tensor) -> Tensor:
    """Ask for more than the process may have: an allocation that really fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**31, before[1]))
    try:
        return x + torch.ones(2**32).sum()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _killed_for_memory(x: Tensor) -> Tensor:
    """Take much memory, then go as the kernel ends a process that took too much."""
    held = torch.ones(2**26)
    os.kill(os.getpid(), signal.SIGKILL)
    return x + held.sum()


def _fork_and_die(x: Tensor) -> Tensor:
    """Leave a child behind that holds every open socket and file of this process."""
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    os._exit(1)


_TROUBLES = {
    "hang": _hang,
    "nan": _nan,
    "out of memory": _out_of_memory,
    "killed for memory": _killed_for_memory,
    "fork and die": _fork_and_die,
}
