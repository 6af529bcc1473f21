"""Processes that train one network together: this one, which does all else as if alone, and members that help it.

In each step the members get the weights and a share of the batch, and give their gradients: optimizer, method,
schedule, reports and files are the business of this process alone, so that a step costs a broadcast and a reduction,
as much traffic as the one sum over all processes of other schemes. Members are plain child processes.
Ray Train's TorchTrainer would make a controller and a group of actors for every phase, take them from resources beside
those of the trial, of which Tune then knows nothing, and hand networks back as checkpoint files.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from autoprune.config import DistillSpec
from autoprune.engine.training.feeds import Shown, image_loss
from autoprune.engine.training.runtime import Runtime
from autoprune.engine.training.synchronised import synchronised
from autoprune.errors import NetworkError, TrialError, first_line

__all__ = ["Team", "Work", "shares_of", "team_of"]

_HOST = "127.0.0.1"
_SILENT = datetime.timedelta(minutes=10)  # A process that says nothing for so long within a step is taken for dead.
_CLOSES_S = 5.0
_START = "from autoprune.engine.training.teams import be_member; be_member()"


@dataclass(frozen=True, eq=False)
class Work:
    """What a team trains.

    Args:
        model: The network; members copy its form, and get its weights with every step.
        runtime: Where and how it runs here; on its own device in each member.
        distill: Of the teacher, or None.
        label_smoothing: In [0, 1).
        is_synchronised: Whether BatchNorm goes over the images of all.
    """

    model: nn.Module
    runtime: Runtime
    distill: DistillSpec | None
    label_smoothing: float
    is_synchronised: bool

    def loss(self, shown: Shown, *, weight: float) -> Tensor:
        """The loss on a share, times its weight in the batch."""
        with synchronised(self.model) if self.is_synchronised else contextlib.nullcontext():
            loss = image_loss(
                self.model, shown, runtime=self.runtime, distill=self.distill, label_smoothing=self.label_smoothing
            )
        return loss * weight


def shares_of(n: int, processes: int) -> list[int]:
    """Images of each process: n in all, as even as can be, the larger shares first."""
    return [n // processes + (rank < n % processes) for rank in range(processes)]


def _shares(shown: Shown, sizes: list[int]) -> list[Shown]:
    """A batch in shares of so many images."""
    softs = [None] * len(sizes) if shown.soft is None else shown.soft.split(sizes)
    return [Shown(*each) for each in zip(shown.images.split(sizes), shown.targets.split(sizes), softs, strict=True)]


@dataclass(frozen=True)
class _Share:
    """What a member is to expect in a step."""

    images: tuple[int, ...]
    soft: tuple[int, ...] | None
    weight: float


class Team:
    """See the module.

    Args:
        processes: How many, this one among them; >= 2.
        device: That this process computes on; members take the next ones of an accelerator, or the same CPU.
    """

    def __init__(self, processes: int, device: torch.device) -> None:
        self.processes, self.device = processes, device
        self._work: Work | None = None
        self._is_amid = False  # Whether members are within a step, and can't be told of another one.
        store = _store(0, processes, is_master=True)
        self._members = [self._start(rank, store.port) for rank in range(1, processes)]
        _join(store, 0, processes, device)

    def _start(self, rank: int, port: int) -> tuple[subprocess.Popen[bytes], Connection]:
        ours, theirs = Pipe()
        device = torch.device("cpu") if self.device.type == "cpu" else torch.device(self.device.type, rank)
        told = [str(each) for each in (theirs.fileno(), rank, self.processes, port, device, torch.get_num_threads())]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = subprocess.Popen([sys.executable, "-c", _START, *told], pass_fds=[theirs.fileno()], env=env)
        theirs.close()
        return process, ours

    @property
    def is_well(self) -> bool:
        """Whether it can be given a step."""
        return not self._is_amid and all(process.poll() is None for process, _ in self._members)

    def _begin(self, work: Work) -> None:
        try:
            sent = pickle.dumps(dataclasses.replace(work, model=copy.deepcopy(work.model).to("cpu")))
        except Exception as error:  # Whatever a network of a user holds raises what it likes.
            raise NetworkError(
                "a network that several processes train must be of a class that can be imported and hold nothing that "
                f"can't be pickled, but it can't be sent to them: {first_line(error)}. Use `gpu` = 1 in [resources]."
            ) from error
        for _, connection in self._members:
            connection.send_bytes(sent)
        self._work = work

    def loss(self, work: Work, shown: Shown) -> Tensor:
        """Send all members the weights and their share of a batch; the loss of this process's own share.

        The loss is multiplied by its weight in the batch: the sum over all processes is the mean over all images.

        Args:
            work: What is trained; another one than before is sent to the members first.
            shown: The whole batch.

        Raises:
            NetworkError: The network can't be sent to another process.
            TrialError: A member failed.
        """
        if self._work is not work:
            self._begin(work)
        n, sizes = len(shown.targets), shares_of(len(shown.targets), self.processes)
        self._is_amid = True
        with self._talking():
            own, *others = _shares(shown, sizes)
            for (_, connection), share, size in zip(self._members, others, sizes[1:], strict=True):
                soft = None if share.soft is None else tuple(share.soft.shape)
                connection.send(_Share(tuple(share.images.shape), soft, size / n))
            dist.broadcast(_flat(_weights(work.model)), 0)
            for rank, share in enumerate(others, 1):
                for tensor in (share.images, share.targets, share.soft):
                    if tensor is not None:
                        dist.send(tensor.contiguous(), rank)
            return work.loss(own, weight=sizes[0] / n)

    def backward(self, loss: Tensor, scaler: torch.amp.GradScaler) -> None:
        """Sum the gradients of all processes in this one's parameters."""
        assert self._work is not None
        with self._talking():
            for _, connection in self._members:
                connection.send(scaler.get_scale())
            scaler.scale(loss).backward()
            trained = [p for p in self._work.model.parameters() if p.requires_grad]
            total = _flat([_gradient(p) for p in trained])
            dist.reduce(total, 0)
            for parameter, gradient in zip(trained, _split(total, trained), strict=True):
                if parameter.grad is not None:
                    parameter.grad.copy_(gradient)
        self._is_amid = False

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """What goes wrong within is told by what a member said of it, where one did."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            said = self._last_words()
            if said is None:
                raise
            raise TrialError(f"one of the {self.processes} processes that train the network failed: {said}") from error

    def _last_words(self) -> str | None:
        for process, connection in self._members:
            with contextlib.suppress(EOFError, OSError):
                if connection.poll(1.0):
                    return str(connection.recv())
            if process.poll() is not None:
                return f"it has ended with {process.returncode}"
        return None

    def close(self) -> None:
        """End all members."""
        for _, connection in self._members:
            connection.close()
        dist.destroy_process_group()
        for process, _ in self._members:
            try:
                process.wait(_CLOSES_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_TEAMS: dict[tuple[int, torch.device], Team] = {}


def team_of(processes: int, device: torch.device) -> Team:
    """The team of this process, which it keeps for one trial after another; there is one at a time."""
    key = processes, device
    for other, team in list(_TEAMS.items()):
        if other != key or not team.is_well:
            _TEAMS.pop(other).close()
    if key not in _TEAMS:
        _TEAMS[key] = Team(processes, device)
    return _TEAMS[key]


def _store(port: int, processes: int, *, is_master: bool) -> Any:
    """Where the processes find each other."""
    kind = dist.TCPStore  # type: ignore[attr-defined]  # It is there, but torch does not list it.
    return kind(_HOST, port, processes, is_master=is_master, wait_for_workers=False)


def _join(store: Any, rank: int, processes: int, device: torch.device) -> None:
    backend = {"cpu": "gloo", "cuda": "nccl"}.get(device.type) or dist.get_default_backend_for_device(device)
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=_SILENT)


def be_member() -> None:
    """What a member does until its parent is gone; its arguments are those of the process."""
    fd, rank, processes, port, device, threads = sys.argv[1:]
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(int(threads))
    connection, place = Connection(int(fd)), torch.device(device)
    store = _store(int(port), int(processes), is_master=False)
    _join(store, int(rank), int(processes), place)
    try:
        _help(connection, place)
    except (EOFError, ConnectionError):
        pass  # The parent has closed the team.
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.send(f"{type(error).__name__}: {first_line(error)}")
    os._exit(0)  # At once: what another process still waits for would keep the end of this one.


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _help(connection: Connection, device: torch.device) -> None:
    work: Work | None = None
    while True:
        told: Any = connection.recv()
        if isinstance(told, Work):
            work = dataclasses.replace(told, runtime=dataclasses.replace(told.runtime, device=device))
            work.runtime.place(work.model).train()
            continue
        assert work is not None
        weights = _weights(work.model)
        sent = _flat(weights)
        dist.broadcast(sent, 0)
        with torch.no_grad():
            for weight, values in zip(weights, _split(sent, weights), strict=True):
                weight.copy_(values)
        loss = work.loss(_received(told, device), weight=told.weight)
        work.model.zero_grad(set_to_none=True)
        (loss * connection.recv()).backward()
        dist.reduce(_flat([_gradient(p) for p in work.model.parameters() if p.requires_grad]), 0)


def _received(share: _Share, device: torch.device) -> Shown:
    """A share of a batch, in the order in which it is sent."""
    images = torch.empty(share.images, dtype=torch.uint8, device=device)
    targets = torch.empty(share.images[:1], dtype=torch.int64, device=device)
    soft = None if share.soft is None else torch.empty(share.soft, device=device)
    for tensor in (images, targets, soft):
        if tensor is not None:
            dist.recv(tensor, 0)
    return Shown(images, targets, soft)


def _weights(model: nn.Module) -> list[Tensor]:
    """All that a step may change but running statistics, which no forward pass in training mode reads."""
    return [parameter.detach() for parameter in model.parameters()]


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _flat(tensors: list[Tensor]) -> Tensor:
    """All of them in one row, in the widest of their types."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _split(flat: Tensor, like: list[Any]) -> list[Tensor]:
    """What `_flat` put in a row, in the shapes of other tensors."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
