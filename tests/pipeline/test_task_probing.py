"""What is wrong with a task is told before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune.config import DistillSpec
from autoprune.engine.tasks import Task, TaskWorkload
from autoprune.engine.training import Runtime
from autoprune.errors import ConfigError, DataError, NetworkError
from autoprune.pipeline.task_probing import TaskProbe

torch.set_num_threads(1)

X, Y = torch.randn(8, 3, 6, 6), torch.randn(8, 1)
RUNTIME = Runtime(torch.device("cpu"), "float32", None)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.conv(x).mean((2, 3)))


def loader(x: Tensor = X, y: Tensor = Y) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), batch_size=4)


def settled(net: nn.Module | None = None, *, learns: bool = False, **more: Any) -> TaskWorkload:
    task = Task(**{"kind": "regression", "train": loader(), "validation": loader(), **more})
    return TaskProbe((net or Net()).eval(), TaskWorkload(task, RUNTIME), learns=learns).settled()


def test_channels_last_where_it_can_be() -> None:
    assert settled().runtime.memory_format is torch.channels_last

    class Viewing(Net):
        def forward(self, x: Tensor) -> Any:
            return self.last(self.conv(x).view(len(x), -1)[:, :4])

    assert settled(Viewing()).runtime.memory_format is torch.contiguous_format


def test_the_network_given_stays_as_it_is() -> None:
    net = Net().eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    settled(net, learns=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


class Twice(Net):
    def forward(self, x: Tensor) -> Any:
        answer = super().forward(x)
        return answer.repeat(1, 2) if self.training else answer


class Random(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + torch.rand(())


class Damaged(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) / 0


class Words(Net):
    def forward(self, x: Tensor) -> Any:
        return "words"


class Detached(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).detach()


def no_number(model: nn.Module, loader: Any) -> Any:
    return None


class NoMetric:
    def update(self, preds: Any, target: Any) -> None:
        raise ValueError("shapes differ\nby far")

    def compute(self) -> Any:
        return None

    def reset(self) -> None:
        pass


@pytest.mark.parametrize(
    ("net", "more", "error", "told"),
    [
        (None, {"validation": loader(torch.randn(8, 3, 5, 5))}, DataError,
         r"`validation` must give inputs of the shapes of .*, \(3, 6, 6\) beyond the batch, but gave \(3, 5, 5\)"),
        (None, {"example_inputs": torch.zeros(1, 3, 9, 9)}, DataError, "`train` must give inputs of the shapes of"),
        (None, {"example_inputs": [torch.zeros(3, 6, 6)]}, DataError, "`train` must give lists of images"),
        (None, {"train": loader(torch.randn(8, 2, 6, 6)), "validation": loader(torch.randn(8, 2, 6, 6))}, DataError,
         r"must accept the inputs of the first validation batch, inputs of 2 x 6 x 6, but failed on them: .*'conv'"),
        (None, {"train": loader(y=torch.randn(8, 3))}, DataError, "as many numbers as the network answers with"),
        (None, {"loss": lambda model, batch: model(batch[0])}, DataError, "must be a scalar tensor"),
        (None, {"loss": lambda model, batch: model(batch[0]).sum() / 0}, DataError, "must be a finite number"),
        (None, {"loss": lambda model, batch: model(batch[0]).sum().detach()}, DataError, "must be differentiable"),
        (None, {"loss": lambda model, batch: model(batch)}, DataError, "the loss must be computed on the first"),
        (None, {"evaluate": no_number}, DataError, "`evaluate` must give a finite number, rmse, but gave None"),
        (None, {"metric": NoMetric}, DataError, "its metric raised ValueError: shapes differ. Give a `metric`"),
        (Random(), {}, NetworkError, "answer the same inputs alike each time"),
        (Damaged(), {}, NetworkError, "must answer with finite numbers"),
        (Words(), {}, NetworkError, "must answer with a tensor of floats"),
        (Detached(), {}, DataError, "the loss must be differentiable"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    net: nn.Module | None, more: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as raised:
        settled(net, **more)
    assert "\n" not in str(raised.value)


def test_a_teacher_of_another_output() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0])[:, :1] - batch[1]).square().mean()

    own = {"loss": loss, "distill": lambda student, teacher: (student - teacher).square().mean(1).mean(0)}
    settled(Twice(), loss=loss)
    settled(Twice(), learns=True, **own)  # It broadcasts, as its author may mean it.

    with pytest.raises(DataError, match=r"`distill` must compare .* of shapes \[\(4, 1\)\] and .*, but failed"):
        settled(learns=True, distill=lambda student, teacher: student @ teacher)
    boxes = [torch.zeros(3, 8, 8)], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    workload = TaskWorkload(Task(kind="detection", train=[boxes], validation=[boxes]), RUNTIME)
    with pytest.raises(ConfigError, match="`distill` can't be used"):
        workload.apart({}, {}, DistillSpec())


def test_it_reaches_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from autoprune.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_once.py").write_text(
        "import torch\nfrom torch import nn\nfrom autoprune import Task\n"
        "def net():\n    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))\n"
        "def once():\n    yield torch.zeros(2, 3), torch.zeros(2, 1)\n"
        "def task():\n    return Task(kind='regression', train=once(), validation=once())\n"
    )
    (tmp_path / "study.toml").write_text(
        '[study]\nname = "s"\nreference_point = { rmse = 1.0, macs_ratio = 1.0 }\n'
        '[network]\nfactory = "mine_once:net"\n[task]\nkind = "regression"\nfactory = "mine_once:task"\n'
    )
    assert main(["inspect", "study.toml"]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith("autoprune: Task: `train` must give its batches again each time that it is gone through")
